"""What lies in DDR from step to step: parameters, momenta, the teacher, and what frames leave."""

from collections.abc import Collection, Iterator

from accsim.dataflow.tile import Tensor
from accsim.network import Network, Node
from accsim.numerics import (
    EXPONENT_BYTES,
    PREDICTION_BYTES,
    RESIDUAL_BYTES,
    SCORE_BYTES,
    Numerics,
    WeightScaling,
)
from accsim.passes import Kept
from accsim.schedule.drafts import flat

STORED = frozenset(
    {
        *("weights", "momentum", "teacher", "residual", "exponents", "predictions"),
        *("kept_frames", "kept_labels", "kept_scores"),
    }
)  # kinds of tensors that are read and written in place, step by step


class Stores:
    """The stored tensors of every layer, by their kind.

    With `own_labels` the student's weights make the labels: there is no teacher. Layers that are
    `frozen` have no momentum. `predictions` are of so many frames, and `kept` frames wait.
    """

    def __init__(
        self,
        network: Network,
        numerics: Numerics,
        own_labels: bool,
        frozen: Collection[str],
        predictions: int,
        kept: Kept | None,
    ):
        self.network, self.own_labels, self.frozen = network, own_labels, frozen
        self._copies: dict[Tensor, Tensor] = {}  # where the average of a teacher kept twice goes
        stores = (
            ("weights", "student", numerics.master_bits),
            ("momentum", "student", numerics.momentum_bits),
            ("teacher", "teacher", numerics.teacher_bits),
        )
        self._words = {
            (kind, node.index): Tensor(
                f"{owner}/{node.name}/{kind}",
                kind,
                (node.weights + node.vector_words) * numerics.word_bytes(bits),
                1,
            )
            for kind, owner, bits in stores
            for node in network.nodes
            if node.trains(() if kind != "momentum" else frozen)
        }
        self.predictions: Tensor | None = None
        if predictions:  # of each frame its logits and a count
            self.predictions = self._words["predictions", network.nodes[-1].index] = Tensor(
                "student/predictions",
                "predictions",
                (network.classes + 1) * PREDICTION_BYTES,
                predictions,
            )
        self._residuals = {
            (kind, node.index): Tensor(
                f"{owner}/{node.name}/{kind}_residual",
                "residual",
                (node.weights + node.vector_words) * RESIDUAL_BYTES,
                1,
            )
            for kind, owner, _ in stores
            for node in network.nodes
            if numerics.error_feedback and node.trains(frozen)
        }
        self._exponents = {
            (kind, node.index): Tensor(
                f"{owner}/{node.name}/{name}_exponents", "exponents", outputs * EXPONENT_BYTES, 1
            )
            for node in network.nodes
            if numerics.weight_scaling is WeightScaling.CHANNEL and node.weights
            for kind, owner, name, outputs in (
                ("weights", "student", "output", node.output.channels),
                ("backward", "student", "input", flat(node).channels),
                ("teacher", "teacher", "output", node.output.channels),
            )
        }
        self.of_frames: dict[str, Tensor] = {}  # that are kept
        if kept:
            room = kept.per_class * network.classes
            word = numerics.word_bytes(numerics.activation_bits)
            self.of_frames = {
                "scores": Tensor("kept/scores", "kept_scores", SCORE_BYTES, room),
                "frames": Tensor("kept/frames", "kept_frames", network.image.size * word, room),
            }
            if kept.soft:
                self.of_frames["labels"] = Tensor(
                    "kept/labels", "kept_labels", network.classes * word, room
                )

    def words(self, kind: str, node: Node) -> Tensor:
        """Stored words of a layer."""
        return self._words[kind, node.index]

    def whole(self, kind: str, node: Node) -> tuple[Tensor, ...]:
        """Stored words and, with error feedback, their residuals."""
        residual = self._residuals.get((kind, node.index))
        return (self._words[kind, node.index], *filter(None, [residual]))

    def exponents(self, kind: str, node: Node) -> tuple[Tensor, ...]:
        """Those of every output's weights, where they have their own."""
        return tuple(filter(None, [self._exponents.get((kind, node.index))]))

    def parameters(self, network: str, node: Node, blend: bool) -> tuple[Tensor, ...]:
        """What a forward pass of `network` reads; to `blend`, that is of teacher and student."""
        if not node.trains(()):
            return ()
        student = (self.words("weights", node), *self.exponents("weights", node))
        if network != "teacher" or self.own_labels:
            return student
        exponents = self.exponents("teacher", node)
        if not blend:
            return (self.words("teacher", node), *exponents)
        return (*self.whole("teacher", node), *exponents, *student)

    def keep_teacher_twice(self) -> None:
        """Write the teacher's average beside the teacher; the next step finds them changed over.

        Of a frozen layer there is one, which no step writes.
        """
        for stores in (self._words, self._exponents):
            for (kind, index), tensor in tuple(stores.items()):
                if kind == "teacher" and self.network.nodes[index].trains(self.frozen):
                    copy = Tensor(f"{tensor.name}_next", tensor.kind, tensor.size_bytes, 1)
                    stores[f"{kind}_next", index] = self._copies[tensor] = copy

    def where_written(self, tensor: Tensor) -> Tensor:
        """The tensor that takes what is written to `tensor`."""
        return self._copies.get(tensor, tensor)

    def in_ddr(self) -> Iterator[Tensor]:
        """All that has a place of its own in every step."""
        for stores in (self._words, self._residuals, self._exponents):
            for (kind, _), tensor in stores.items():
                if not (self.own_labels and kind == "teacher"):
                    yield tensor
        yield from self.of_frames.values()
