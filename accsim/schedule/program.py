"""A step as a list of operations: passes lowered layer by layer, then placed on chip and in DDR."""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import gcd, prod

from accsim.dataflow.base import Dataflow
from accsim.dataflow.product import SUM_BYTES, GradientProduct, Product
from accsim.dataflow.sweep import Sweep, WordSweep
from accsim.dataflow.tile import Operand, Plan, Tensor, Tile, Weights
from accsim.dataflow.tiling import Tiling, Window
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.buffer import BufferSpec
from accsim.hardware.part import of_part
from accsim.hardware.vector_unit import operands
from accsim.network import (
    IDENTITY,
    INPUT,
    Activate,
    Add,
    BatchNorm,
    Conv2d,
    MaxPool,
    Network,
    Node,
    Shape,
)
from accsim.numerics import (
    EXPONENT_BYTES,
    PREDICTION_BYTES,
    RESIDUAL_BYTES,
    SCORE_BYTES,
    Numerics,
    Scaling,
    WeightScaling,
)
from accsim.passes import Kept, Passes
from accsim.schedule.allocation import (
    PAGE_BYTES,
    Allocation,
    Arena,
    Life,
    Uses,
    follows,
    largest_first,
)
from accsim.units import ceil_div


@dataclass(frozen=True)
class Operation:
    """One pass of one layer on one unit: what it moves and how it is cut.

    `reads` and `writes` are bytes of each tensor that travel; `on_chip` those that need not. Before
    its first tile it `takes` memory and waits until the operations that it `follows` (by number)
    are over; after its last it `gives` back.
    """

    network: str  # "student", "teacher" or "probe": the student on frames that were moved
    layer: str
    pass_name: str  # teacher_forward, student_forward, loss, backward_data, ...
    unit: str  # "pe_array" or "vector_unit"
    samples: int
    gemm: tuple[int, int, int] | None  # m, n, k of the whole operation; of groups, n of all
    words: int  # of the vector unit; 0 for a matrix product
    reads: tuple[tuple[Tensor, int], ...]
    writes: tuple[tuple[Tensor, int], ...]
    on_chip: tuple[tuple[Tensor, int], ...]
    tiles: tuple[Tile, ...] = field(repr=False)
    tiling: Tiling | None = None  # of a matrix product
    slot_bytes: Mapping[str, int] = field(default_factory=dict)  # of each buffer, a tile at most
    takes: tuple[Allocation, ...] = ()
    gives: tuple[Allocation, ...] = ()
    follows: tuple[int, ...] = ()
    part: str = ""  # of a machine that is cut in two: student or teacher

    @property
    def label(self) -> str:
        return f"{self.layer}/{self.pass_name}"

    def holds_slot_of(self, buffer: str) -> bool:
        """Whether any tile takes a slot of `buffer`."""
        return any(buffer in (*tile.fills, *tile.opens) for tile in self.tiles)


def macs_by_label(network: Network, passes: Passes) -> dict[str, int]:
    """Multiply-accumulates that `passes` take by ``layer/pass``, from the network's shapes alone.

    backward_data counts every product that the array makes, those with inserted zeros too.
    """
    macs: dict[str, int] = {}
    asked = network.asked_errors(passes.frozen)
    probed = [sum(samples) for samples in zip(*passes.probes, strict=True)] or [0, 0]
    for node in network.nodes:
        if not node.macs:
            continue
        data = node.input.height * node.input.width * node.weights
        if not isinstance(node.layer, Conv2d):
            data = node.macs
        by_pass = {
            "teacher_forward": node.macs * passes.teacher_forward,
            "probe_forward": node.macs * probed[0],
            "probe_backward_data": data * probed[1],  # of every layer: down to the images
            "student_forward": node.macs * passes.student_forward,
            "backward_weight": node.macs * passes.backward if node.trains(passes.frozen) else 0,
            "backward_data": data * passes.backward if asked.intersection(node.inputs) else 0,
        }
        macs.update({f"{node.name}/{name}": count for name, count in by_pass.items() if count})
    return macs


@dataclass
class _Draft:
    """An operation before it is known what stays on chip."""

    network: str
    node: Node
    pass_name: str
    part: str
    unit: str
    samples: int
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    job: Callable  # of a function Tensor, samples -> Operand
    gemm: tuple[int, int, int] | None = None
    words: int = 0
    keeps: tuple[Tensor, ...] = ()  # reads that the next operation wants again


@dataclass(frozen=True)
class _Way:
    """How far down the errors of a backward pass go, and which layers make no gradient of them."""

    network: str  # that names its tensors
    pass_name: str  # of the errors
    asked: Collection[int]  # places of the layers whose output's error is wanted
    frozen: Collection[str]


class Program:
    """Collects the passes of one step in order; `operations` places and cuts them."""

    def __init__(
        self,
        network: Network,
        numerics: Numerics,
        accelerator: AcceleratorSpec,
        dataflow: Dataflow,
        own_labels: bool = False,
        frozen: Collection[str] = (),
        predictions: int = 0,
        kept: Kept | None = None,
    ):
        self.network = network
        self.numerics = numerics
        self.accelerator = accelerator  # of one that is cut in two, the student's part
        self.parts = accelerator.parts
        self.dataflow = dataflow
        self.own_labels = own_labels  # the labelling pass reads the student's weights
        self.frozen = frozen  # names of layers that do not train
        self._drafts: list[_Draft] = []
        self._outputs: dict[int, Tensor] = {}  # of the student's last forward pass
        self._step_inputs: dict[tuple[int, str], tuple[Tensor, ...]] = {}  # of its vector steps
        self._logits: dict[str, Tensor] = {}
        self._unrounded: list[tuple[Tensor, _Draft]] = []  # a map whose sums wait, what makes them
        self._images: dict[str, Tensor] = {}
        self._copies: dict[Tensor, Tensor] = {}  # where the average of a teacher kept twice goes
        self._outlasting: set[Tensor] = set()  # what later steps read too
        self._logit_error: Tensor | None = None
        self._image_error: Tensor | None = None  # of the last probe
        self._sums: dict[int, Tensor] = {}  # gradients of the micro-batches so far
        self._place_of: dict[Tensor, Tensor] = {}  # a sum: that whose bytes it is written over
        stores = (
            ("weights", "student", numerics.master_bits),
            ("momentum", "student", numerics.momentum_bits),
            ("teacher", "teacher", numerics.teacher_bits),
        )
        self._stores = {
            (kind, node.index): self._tensor(
                f"{owner}/{node.name}/{kind}",
                kind,
                (node.weights + node.vector_words) * numerics.word_bytes(bits),
                1,
            )
            for kind, owner, bits in stores
            for node in network.nodes
            if node.trains(() if kind != "momentum" else frozen)
        }
        self._places: Iterator[int] = iter(())  # of this step's frames among the predictions
        if predictions:  # of each frame its logits and a count
            self._stores["predictions", network.nodes[-1].index] = self._tensor(
                "student/predictions",
                "predictions",
                (network.classes + 1) * PREDICTION_BYTES,
                predictions,
            )
        self._residuals = {
            (kind, node.index): self._tensor(
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
            (kind, node.index): self._tensor(
                f"{owner}/{node.name}/{name}_exponents", "exponents", outputs * EXPONENT_BYTES, 1
            )
            for node in network.nodes
            if numerics.weight_scaling is WeightScaling.CHANNEL and node.weights
            for kind, owner, name, outputs in (
                ("weights", "student", "output", node.output.channels),
                ("backward", "student", "input", _flat(node).channels),
                ("teacher", "teacher", "output", node.output.channels),
            )
        }
        self.kept = kept
        self._kept_stores = self._stores_of_frames(kept) if kept else {}

    def _stores_of_frames(self, kept: Kept) -> dict[str, Tensor]:
        """The heaps, where the frames that are kept lie, and their labels where these are soft."""
        room, bits = kept.per_class * self.network.classes, self.numerics.activation_bits
        stores = {
            "scores": self._tensor("kept/scores", "kept_scores", SCORE_BYTES, room),
            "frames": self._map("kept/frames", "kept_frames", self.network.image, room, bits),
        }
        if kept.soft:
            classes = self.network.nodes[-1].output
            stores["labels"] = self._map("kept/labels", "kept_labels", classes, room, bits)
        return stores

    def _narrowed(self, kind: str, node: Node) -> tuple[Tensor, ...]:
        """The exponents of every output's weights, where they have their own."""
        return tuple(filter(None, [self._exponents.get((kind, node.index))]))

    def _kept(self, kind: str, node: Node) -> tuple[Tensor, ...]:
        """A stored tensor and, with error feedback, its residual words."""
        store = self._stores[kind, node.index]
        return (store, *filter(None, [self._residuals.get((kind, node.index))]))

    def _tensor(self, name: str, kind: str, sample_bytes: int, samples: int) -> Tensor:
        return Tensor(name, kind, sample_bytes, samples)

    def _map(self, name: str, kind: str, shape: Shape, samples: int, bits: int) -> Tensor:
        return self._tensor(name, kind, shape.size * self.numerics.word_bytes(bits), samples)

    # The teacher beside the student

    def interleave(self) -> None:
        """Spread what comes up to the teacher's forward pass over what comes after, by their work.

        It stays before the first pass that writes what it reads.
        """
        names = [draft.pass_name for draft in self._drafts]
        ends = (
            index for index in range(len(names), 0, -1) if names[index - 1] == "teacher_forward"
        )
        end = next(ends, 0)
        teacher, student = self._drafts[:end], self._drafts[end:]
        read = {tensor for draft in teacher for tensor in draft.reads}
        clash = (index for index, draft in enumerate(student) if read.intersection(draft.writes))
        span = next(clash, len(student))
        places = [
            place
            for drafts in (teacher, student[:span])
            for place in zip(self._positions(drafts), drafts, strict=True)
        ]
        places.sort(key=lambda place: place[0])
        self._drafts = [draft for _, draft in places] + student[span:]

    def _positions(self, drafts: Sequence[_Draft]) -> list[Fraction]:
        """The middle of each draft's work as a share of the work of all, in cycles at peak rates.

        One that finds on chip what the draft before it kept stays behind that one.
        """
        array, lanes = self.accelerator.pe_array.macs_per_cycle, self.accelerator.vector_unit.lanes
        work = [
            ceil_div(prod(draft.gemm), array) if draft.gemm else ceil_div(draft.words, lanes)
            for draft in drafts
        ]
        done = 0
        positions: list[Fraction] = []
        for index, cycles in enumerate(work):
            middle = Fraction(2 * done + cycles, 2 * sum(work))
            positions.append(positions[-1] if index and drafts[index - 1].keeps else middle)
            done += cycles
        return positions

    def keep_teacher_twice(self) -> None:
        """Write the teacher's average beside the teacher; the next step finds them changed over.

        Of a frozen layer there is one, which no step writes.
        """
        for stores in (self._stores, self._exponents):
            for (kind, index), tensor in tuple(stores.items()):
                if kind == "teacher" and self.network.nodes[index].trains(self.frozen):
                    copy = self._tensor(f"{tensor.name}_next", tensor.kind, tensor.size_bytes, 1)
                    stores[f"{kind}_next", index] = self._copies[tensor] = copy

    # The student's part of a step

    def student(self, passes: Passes, average: bool = False) -> None:
        """Its passes, micro-batch by micro-batch, and one update of the sum of their gradients.

        With `average` the teacher follows in the same pass over the words as the update. Labels
        that are for more steps than this one wait in DDR. Probes come first.
        """
        if passes.predictions:
            self._places = scattered(passes.frames, passes.predictions)
        elif passes.queued > 0 and not passes.ahead:
            self._outlasting.add(self._logits["teacher"])
        elif passes.frames and (passes.ahead or passes.queued < 0):
            self._logits["teacher"] = self._map(
                f"teacher/{self.network.nodes[-1].name}/output", "activations",
                self.network.nodes[-1].output, passes.frames, self.numerics.activation_bits,
            )  # fmt: skip
        parts = passes.parts
        last = max((index for index, (_, samples) in enumerate(parts) if samples), default=None)
        labels = passes.labels_read
        for samples in passes.probes:
            self._probe(*samples)
        moved = self._moved("student", passes.frames) if passes.probes else None
        for index, ((forward, backward), labelled) in enumerate(zip(parts, labels, strict=True)):
            self.student_forward(forward, moved if labelled else None)
            if passes.class_balance and labelled:
                self.balance(forward)
            self.loss(forward, labelled, backward)
            self.backward(backward, update=index == last, average=average)

    def _probe(self, samples: int, backward: int) -> None:
        """The student on `samples` frames that were moved, and the error of the images of some."""
        self._forward("probe", samples, images=self._moved("probe", samples))
        self.loss(samples, samples, backward, "probe")
        every = self.network.trainable()
        asked = self.network.asked_errors(every, images=True)
        errors: dict[int, list[Tensor]] = {}
        for _ in self._errors(_Way("probe", "probe_backward_data", asked, every), backward, errors):
            pass
        (self._image_error,) = errors[INPUT]

    def _moved(self, network: str, samples: int) -> Tensor:
        """The frames of the labels, each a given length further: along the error that a probe left.

        Where there is none, along random signs that the lanes draw. The squares of an image's error
        are summed in a pass before; the lanes then do one multiply-add a value, as in the backward
        pass of a batch norm.
        """
        node, bits = self.network.nodes[0], self.numerics.activation_bits
        frames, error = self._images["teacher"], self._image_error
        moved = self._map(f"{network}/images", "images", self.network.image, samples, bits)
        errors = (error,) if error else ()
        steps = [("statistics", {"input": errors}, errors)] if error else []
        steps += [("apply", {"error": errors, "input": (frames,), "below": (moved,)}, ())]
        for step, tensors, keeps in steps:
            reads, writes = _by_role((step,), tensors)
            most = max(tensor.samples for tensor in reads)

            def job(use, step=step, reads=reads, writes=writes, most=most):
                return WordSweep(
                    label=f"{node.name}/perturb",
                    chain=(step,),
                    words=most * node.input.size,
                    reads=tuple(use(tensor, tensor.samples) for tensor in reads),
                    writes=tuple(use(tensor, tensor.samples) for tensor in writes),
                )

            self._draft(
                network, node, "perturb", most, reads, writes, job,
                words=most * node.input.size, keeps=keeps,
            )  # fmt: skip
        return moved

    # Forward

    def teacher_forward(
        self, samples: int, blend: bool = False, store: bool = False, ema_ahead: bool = False
    ) -> None:
        """The teacher's labels; with `blend` its weights are averaged as they stream in.

        With `ema_ahead` a layer is averaged in a pass of its own, behind the product before it.
        """
        if samples:
            self._forward("teacher", samples, blend, store, ema_ahead)

    def student_forward(self, samples: int, images: Tensor | None = None) -> None:
        """The student's forward pass; what the backward pass will need stays.

        Of `images`, or of those that are there as the step begins.
        """
        if samples:
            self._forward("student", samples, images=images)

    def _forward(
        self,
        network: str,
        samples: int,
        blend: bool = False,
        store: bool = False,
        ema_ahead: bool = False,
        images: Tensor | None = None,
    ) -> None:
        bits = self.numerics.activation_bits
        if images is None:
            images = self._map(f"{network}/images", "images", self.network.image, samples, bits)
        self._images[network] = images
        outputs = {INPUT: images}
        to_average = deque(self.network.nodes if ema_ahead else ())
        self._average_next(to_average)
        for node in self.network.nodes:
            outputs[node.index] = self._map(
                f"{network}/{node.name}/output", "activations", node.output, samples, bits
            )
            sources = tuple(outputs[index] for index in node.inputs)
            target = outputs[node.index]
            words = node.weights + node.vector_words
            moves = blend and node.trains(self.frozen)

            def weights(use, node=node, words=words, moves=moves):
                return self._forward_weights(use, network, node, words, moves, store)

            kept = self._parameters(network, node, words, moves)
            pass_name = f"{network}_forward"
            if node.weights:
                product = self._product_window(node)

                def job(use, node=node, sources=sources, target=target, product=product, w=weights):
                    return Product(
                        label=f"{node.name}/{network}_forward",
                        samples=samples,
                        source=use(sources[0], samples),
                        source_shape=_flat(node),
                        target=use(target, samples),
                        target_shape=node.output,
                        window=product,
                        weights=w(use),
                        groups=node.groups,
                    )

                self._draft(
                    network, node, pass_name, samples, (*sources, *kept), (target,), job,
                    gemm=(
                        samples * node.output.height * node.output.width,
                        node.output.channels,
                        node.weights // node.output.channels,
                    ),
                    rounds=node is not self.network.nodes[-1],
                )  # fmt: skip
                self._average_next(to_average)  # on the vector unit, under the product
            else:
                self._forward_on_lanes(network, node, samples, sources, target, kept, weights)
        self._logits[network] = outputs[self.network.nodes[-1].index]
        if network != "teacher":
            self._outputs = outputs

    def _forward_on_lanes(self, network, node, samples, sources, target, kept, parameters) -> None:
        """The passes of the vector unit that make `target` of `sources`."""
        steps = _forward_steps(node)
        for chain in self.accelerator.vector_unit.passes(steps, made=node.inputs != (INPUT,)):
            tensors = {"input": sources, "parameters": kept}
            made = operands(chain).writes
            if chain[-1] == steps[-1]:
                tensors["output"] = (target,)
            elif made:
                name, bits = f"{network}/{node.name}/{chain[-1]}", self.numerics.activation_bits
                between = self._map(name, "activations", node.input, samples, bits)
                tensors["output"] = (between,)
            self._sweep(
                network, node, f"{network}_forward", chain, samples, tensors,
                parameters=parameters, whole="normalise" in chain, keeps=() if made else sources,
            )  # fmt: skip
            if network != "teacher":
                self._step_inputs.update({(node.index, step): sources for step in chain})
            sources = tensors.get("output", sources)

    def _parameters(self, network: str, node: Node, words: int, blend: bool) -> tuple[Tensor, ...]:
        if not words:
            return ()
        if network == "student" or self.own_labels:
            return (self._stores["weights", node.index], *self._narrowed("weights", node))
        exponents = self._narrowed("teacher", node)
        if not blend:
            return (self._stores["teacher", node.index], *exponents)
        student = (self._stores["weights", node.index], *self._narrowed("weights", node))
        return (*self._kept("teacher", node), *exponents, *student)

    def _forward_weights(self, use, network, node, words, blend, store) -> Weights:
        stores = self._parameters(network, node, words, blend)
        first = tuple((use(tensor, 1), tensor.size_bytes) for tensor in stores)
        if not (blend and words):
            return Weights(first, first)
        if not store:  # every load blends anew
            return Weights(first, first, (), words, words)
        teacher, *residual = self._kept("teacher", node)
        exponents = self._narrowed("teacher", node)
        again = tuple(
            (replace(use(tensor, 1), pending=True, whole=True), tensor.size_bytes)
            for tensor in (teacher, *exponents)
        )
        back = tuple(
            (use(tensor, 1).tensor, tensor.size_bytes)
            for tensor in (teacher, *residual, *exponents)
        )
        return Weights(first, again, back, words)

    # Loss

    def balance(self, samples: int) -> None:
        """A sum for each class over the student's logits, which the loss then needs."""
        node, logits = self.network.nodes[-1], self._logits["student"]
        words = samples * node.output.size

        def job(use):
            return WordSweep(
                label="balance",
                chain=("balance",),
                words=words,
                reads=(use(logits, samples),),
                writes=(),
            )

        self._draft("student", node, "balance", samples, (logits,), (), job, words=words)

    def loss(
        self,
        student_samples: int,
        teacher_samples: int,
        backward_samples: int,
        network: str = "student",
    ) -> None:
        """Logits and labels in, the error of the logits of the samples that count out.

        Without student samples the teacher's logits alone, whose confidence rejected the batch.
        Stored predictions, each at its own place, take those logits' part and are moved on. A probe
        has no other labels than the teacher's.
        """
        node = self.network.nodes[-1]
        store = self._stores.get(("predictions", node.index))
        places = tuple(itertools.islice(self._places, teacher_samples)) if store else ()
        labels: tuple[Tensor, ...] = ()
        logits: dict[Tensor, int] = {}
        if student_samples:
            label_bytes = 1 if self.network.classes < 256 else 2  # one code means: no label
            if network == "student":
                labels = (self._tensor("student/labels", "labels", label_bytes, student_samples),)
            logits[self._logits[network]] = student_samples
        if teacher_samples and not store:
            logits[self._logits["teacher"]] = teacher_samples
        writes: tuple[Tensor, ...] = ()
        if backward_samples:
            self._logit_error = self._map(
                f"{network}/loss/error", "error", node.output, backward_samples,
                self.numerics.error_bits,
            )  # fmt: skip
            writes = (self._logit_error,)
        if not logits:
            return
        words = (sum(logits.values()) + len(places)) * node.output.size
        tensors = {"logits": tuple(logits), "labels": labels, "error": writes}
        chain = ("loss",)
        if store and places:
            tensors["predictions"], chain = (store,), ("ensemble_loss",)
        reads, writes = _by_role(chain, tensors)

        def operand(use, tensor):
            if tensor is store:
                return replace(use(tensor, len(places)), pending=False, places=places)
            return use(tensor, logits.get(tensor, tensor.samples))

        def job(use):
            return WordSweep(
                label="loss",
                chain=chain,
                words=words,
                reads=tuple(operand(use, tensor) for tensor in reads),
                writes=tuple(operand(use, tensor) for tensor in writes),
            )

        name = "loss" if network == "student" else f"{network}_loss"
        self._draft(network, node, name, student_samples, reads, writes, job, words=words)

    # Backward

    def backward(self, samples: int, update: bool = True, average: bool = False) -> None:
        """Errors down the student, gradients and the update of every layer that trains.

        They go as far down as a layer trains. Without `update` the gradients wait for those of the
        next micro-batch; with `average` the update and the teacher's average are one pass.
        """
        if not samples:
            return
        asked = self.network.asked_errors(self.frozen)
        way = _Way("student", "backward_data", asked, self.frozen)
        for node, gradient in self._errors(way, samples, {}):
            if update and node.trains(self.frozen):
                self._update(node, gradient, average)
            elif gradient:
                self._accumulate(node, gradient)

    def _errors(
        self, way: _Way, samples: int, errors: dict[int, list[Tensor]]
    ) -> Iterator[tuple[Node, Tensor | None]]:
        """Each layer whose passes are done, from the last on, and the gradient of its weights.

        `errors` are of the outputs, by the layer's place, and of the images.
        """
        nodes = self.network.nodes
        if self._logit_error is None:
            raise ValueError("loss of the same samples must come before backward, not after it")
        errors.update({index: [] for index in (INPUT, *range(len(nodes)))})
        errors[nodes[-1].index].append(self._logit_error)
        for node in reversed(nodes):
            arriving = errors[node.index]
            if not arriving:
                continue  # nothing reads this layer's output
            error = arriving[0]
            if len(arriving) > 1:
                error = self._error(way, node, "sum", node.output, samples)
                self._sweep(
                    way.network, node, way.pass_name, ("add",), samples,
                    {"input": tuple(arriving), "output": (error,)},
                    words=len(arriving) * node.output.size,
                )  # fmt: skip
            yield node, self._backward_node(way, node, error, errors, samples)

    def _error(self, way: _Way, node: Node, name: str, shape: Shape, samples: int) -> Tensor:
        name, bits = f"{way.network}/{node.name}/{name}_error", self.numerics.error_bits
        return self._map(name, "error", shape, samples, bits)

    def _backward_node(self, way: _Way, node, error, errors: dict, samples: int) -> Tensor | None:
        """The passes of one layer; the gradient of its weights on the array, if it has any."""
        wanted = [index for index in node.inputs if index in way.asked]
        if node.weights:
            if wanted:
                below = self._error(way, node, "input", node.input, samples)
                errors[wanted[0]].append(below)
                self._backward_data(way, node, error, below, samples)
            return self._backward_weight(node, error, samples) if node.trains(way.frozen) else None
        if isinstance(node.layer, BatchNorm):
            self._backward_norm(way, node, error, errors, samples, wanted)
        elif isinstance(node.layer, Add):
            if node.layer.activation != IDENTITY:
                below = self._error(way, node, "input", node.input, samples)
                self._back(way, node, "activate", error, below, samples, self._outputs[node.index])
                error = below
            for index in wanted:
                errors[index].append(error)
        elif wanted:
            below = self._error(way, node, "input", node.input, samples)
            (step,) = _forward_steps(node)
            self._back(way, node, step, error, below, samples)
            errors[wanted[0]].append(below)
        return None

    def _back(self, way: _Way, node: Node, step: str, error, below, samples, saved=None) -> None:
        """Undo `step` in a pass of its own: `error` of its output to `below`, of its input."""
        inputs = (saved,) if saved else self._step_inputs[node.index, step]
        tensors = {"error": (error,), "input": inputs, "below": (below,)}
        self._sweep(way.network, node, way.pass_name, (_BACK[step],), samples, tensors)

    def _backward_data(
        self, way: _Way, node: Node, error: Tensor, below: Tensor, samples: int
    ) -> None:
        master = self._stores["weights", node.index]
        window = self._product_window(node, transposed=True)
        source_shape, target_shape = node.output, _flat(node)
        weight_bytes = node.weights * self.numerics.word_bytes(self.numerics.master_bits)
        exponents = self._narrowed("backward", node)

        def job(use):
            weights = (
                (use(master, 1, size_bytes=weight_bytes), weight_bytes),
                *((use(tensor, 1), tensor.size_bytes) for tensor in exponents),
            )
            return Product(
                label=f"{node.name}/{way.pass_name}",
                samples=samples,
                source=use(error, samples),
                source_shape=source_shape,
                target=use(below, samples),
                target_shape=target_shape,
                window=window,
                weights=Weights(weights, weights),
                groups=node.groups,
            )

        m = samples * target_shape.height * target_shape.width
        self._draft(
            way.network, node, way.pass_name, samples, (error, master, *exponents), (below,), job,
            gemm=(m, target_shape.channels, node.weights // target_shape.channels), rounds=True,
        )  # fmt: skip

    def _backward_weight(self, node: Node, error: Tensor, samples: int) -> Tensor:
        source = self._outputs[node.inputs[0]]
        m, n = node.weights // node.output.channels, node.output.channels
        size_bytes = m * n * self._gradient_word_bytes
        gradient = self._tensor(f"student/{node.name}/gradient", "gradient", size_bytes, 1)
        window = self._product_window(node)

        def job(use):
            return GradientProduct(
                label=f"{node.name}/backward_weight",
                samples=samples,
                source=use(source, samples),
                source_shape=_flat(node),
                error=use(error, samples),
                error_shape=node.output,
                window=window,
                gradient=use(gradient, 1),
                groups=node.groups,
            )

        self._draft(
            "student", node, "backward_weight", samples, (source, error), (gradient,), job,
            gemm=(m, n, samples * node.output.height * node.output.width),
        )  # fmt: skip
        return gradient

    def _backward_norm(
        self, way: _Way, node: Node, error: Tensor, errors: dict, samples: int, wanted: list[int]
    ) -> None:
        """Sums over the batch, which the error below needs even where scale and shift rest."""
        saved = self._outputs[node.inputs[0]]
        master = self._stores["weights", node.index]

        def parameters(use):
            return Weights(((use(master, 1), master.size_bytes),), ())

        layer = node.layer
        assert isinstance(layer, BatchNorm)
        back = tuple(step for step in ("pool", "activate") if step in _forward_steps(node))
        if not self.accelerator.vector_unit.fused:
            for step in back:
                below = self._error(way, node, _BACK[step], node.input, samples)
                self._back(way, node, step, error, below, samples)
                error = below
            back = ()
        before = tuple(_BACK[step] for step in back)  # in both passes, from the saved input
        summing = "backward_weight" if node.trains(way.frozen) else way.pass_name
        tensors = {
            "error": (error,),
            "input": () if layer.mean_only and not before else (saved,),
            "parameters": (master,),
        }
        self._sweep(
            way.network, node, summing, (*before, "reduce"), samples, tensors,
            parameters=parameters,
            keeps=(error, *tensors["input"]) if wanted else (),
        )  # fmt: skip
        if wanted:
            below = self._error(way, node, "input", node.input, samples)
            self._sweep(
                way.network, node, way.pass_name, (*before, "apply"), samples,
                tensors | {"below": (below,)},
            )  # fmt: skip
            errors[node.inputs[0]].append(below)

    # Update and average

    def _accumulate(self, node: Node, gradient: Tensor) -> Tensor:
        """Add a gradient to those of the micro-batches before; the sum so far.

        Words of the sum are `SUM_BYTES`. Gradients of scale, shift and bias wait in registers.
        """
        before = self._sums.get(node.index)
        if before is None and not self._fits_a_slot(gradient):
            self._sums[node.index] = gradient  # the product itself writes it to DDR
            return gradient
        if before is not None and before.kind == "gradient_sum":
            total = replace(before)  # the same place, other contents
            self._place_of[total] = self._place_of.get(before, before)
        else:
            name = f"student/{node.name}/gradient_sum"
            total = self._tensor(name, "gradient_sum", node.weights * SUM_BYTES, 1)
        self._words(node, ("accumulate",), gradient, total)
        self._sums[node.index] = total
        return total

    def _update(self, node: Node, gradient: Tensor | None, average: bool) -> None:
        """SGD with momentum; gradients of scale, shift and bias wait in registers."""
        steps = ("update", "ema") if average else ("update",)
        if gradient and node.index in self._sums:
            steps = ("accumulate", *steps)
        for chain in self.accelerator.vector_unit.passes(steps):
            if gradient and chain == ("accumulate",):
                gradient = self._accumulate(node, gradient)
            else:
                self._words(node, chain, gradient)

    def ema(self) -> None:
        """The teacher's average as a pass of its own: student and teacher in, teacher out."""
        for node in self.network.nodes:
            self._average(node)

    def _average_next(self, layers: deque[Node]) -> None:
        """Average the first of `layers` up to their next product, and take them off."""
        while layers:
            node = layers.popleft()
            self._average(node)
            if node.weights:
                return

    def _average(self, node: Node) -> None:
        if node.trains(self.frozen):
            self._words(node, ("ema",))

    def _words(self, node: Node, chain, gradient=None, total=None) -> None:
        """One pass of the vector unit over the words of a layer: `chain` of accumulate to ema."""
        updates, averages = "update" in chain, "ema" in chain
        master = self._stores["weights", node.index]
        summed = self._sums.get(node.index)
        tensors = {
            "sum": (summed,) if summed else (),
            "gradient": (gradient,) if gradient else (),
            "total": (total,),
            "weights": self._kept("weights", node) if updates else (master,),
            "momentum": self._kept("momentum", node),
            "teacher": self._kept("teacher", node),
        }
        reads, writes = _by_role(chain, tensors)
        narrowed = ("weights", "backward") * updates + ("teacher",) * averages
        writes += tuple(tensor for kind in narrowed for tensor in self._narrowed(kind, node))
        writes = tuple(self._copies.get(tensor, tensor) for tensor in writes)
        network = "student" if gradient or updates else "teacher"
        pass_name = "update" if updates else chain[0]
        words = node.weights + (node.vector_words if updates or averages else 0)

        def job(use):
            streamed = tuple(use(tensor, 1) for tensor in reads)
            slot = next((o for o in streamed if o.on_chip and o.tensor.kind == "gradient"), None)
            return WordSweep(
                label=f"{node.name}/{pass_name}",
                chain=chain,
                words=words,
                reads=tuple(operand for operand in streamed if operand is not slot),
                writes=tuple(use(tensor, 1) for tensor in writes),
                gradient=slot,
            )

        self._draft(network, node, pass_name, 0, reads, writes, job, words=words)

    # Frames that wait

    def keep(self) -> None:
        """Copy the frames that some class keeps, of those just labelled, and sink their scores.

        A score that takes the place of the lowest sinks through its heap: of each level two are
        read and one is written, the lowest is in a register. Where the heaps have fewer scores than
        that touches, they are read and written once.
        """
        kept = self.kept
        if not (kept and kept.frames):
            return
        node, room = self.network.nodes[-1], kept.per_class * self.network.classes
        read, written = (
            min(kept.scores * count, room) for count in (2 * (kept.levels - 1), kept.levels)
        )
        scores, *stores = self._kept_stores.values()
        sources = (self._images["teacher"], self._logits["teacher"])[: len(stores)]
        tensors = {"frames": sources, "scores": (scores,), "kept": tuple(stores)}
        reads, writes = _by_role(("keep",), tensors)
        words = kept.frames * (self.network.image.size + kept.soft * self.network.classes) + read

        def job(use):
            frames = kept.frames
            return WordSweep(
                label="keep",
                chain=("keep",),
                words=words,
                reads=tuple(use(one, read if one is scores else frames) for one in reads),
                writes=tuple(use(one, written if one is scores else frames) for one in writes),
            )

        self._draft("teacher", node, "keep", kept.frames, reads, writes, job, words=words)

    # Drafts, and what becomes of them

    def _product_window(self, node: Node, transposed: bool = False) -> Window:
        layer = node.layer
        if isinstance(layer, Conv2d):
            return Window(layer.kernel, layer.stride, layer.padding, transposed)
        return Window(1, transposed=transposed)

    def _draft(
        self, network, node, pass_name, samples, reads, writes, job, gemm=None, words=0, keeps=(),
        rounds=False,
    ) -> None:  # fmt: skip
        """The next operation; where it `rounds`, the exponent of what it writes is a new one."""
        while self._unrounded and pass_name != "ema":  # averages may go on under a product
            self._narrow(*self._unrounded.pop())
        unit = "pe_array" if gemm else "vector_unit"
        part = self._part(pass_name)
        draft = _Draft(
            network, node, pass_name, part, unit, samples, reads, writes, job, gemm, words, keeps
        )
        if rounds and self.numerics.scaling is Scaling.CURRENT:
            for target in writes:
                draft = self._widened(draft, target)
                self._unrounded.append((target, draft))
        self._drafts.append(draft)

    def _widened(self, draft: _Draft, target: Tensor) -> _Draft:
        """`draft` with its results as wide as they were summed, in place of those of `target`."""
        size_bytes = self._words_of(target) * self.accelerator.pe_array.accumulator_bytes
        sums = self._tensor(f"{target.name}_sums", "sums", size_bytes, target.samples)

        def job(use):
            def instead(tensor, *how, **more):
                return use(sums if tensor is target else tensor, *how, **more)

            return draft.job(instead)

        return replace(draft, writes=(sums,), job=job)

    def _narrow(self, target: Tensor, made: _Draft) -> None:
        """Round the sums of `target`, all of which are there: the largest of them tells how far."""
        self._sweep(
            made.network, made.node, made.pass_name, ("narrow",), made.samples,
            {"input": made.writes, "output": (target,)}, words=self._words_of(target), whole=True,
        )  # fmt: skip

    def _words_of(self, target: Tensor) -> int:
        """Words of a sample of a map."""
        numerics = self.numerics
        bits = numerics.error_bits if target.kind == "error" else numerics.activation_bits
        return target.sample_bytes // numerics.word_bytes(bits)

    def _part(self, pass_name: str) -> str:
        """The part of the machine that a pass runs on."""
        if len(self.parts) == 1:
            return ""
        return "teacher" if pass_name == "teacher_forward" else "student"

    def _sweep(
        self, network, node, pass_name, chain, samples, tensors,
        words=None, parameters=None, keeps=(), whole=False,
    ) -> None:  # fmt: skip
        """One pass of the vector unit over maps: `tensors` by role."""
        words = words or node.input.size
        streamed, writes = _by_role(chain, tensors | {"parameters": ()})
        held = "parameters" in operands(chain).reads

        def job(use):
            return Sweep(
                label=f"{node.name}/{pass_name}",
                chain=chain,
                samples=samples,
                rows=node.output.height,
                words=words,
                reads=tuple(use(tensor, samples, whole) for tensor in streamed),
                writes=tuple(use(tensor, samples) for tensor in writes),
                parameters=parameters(use) if held else Weights((), ()),
            )

        reads = (*streamed, *tensors["parameters"]) if held else streamed
        self._draft(
            network, node, pass_name, samples, reads, writes, job,
            words=words * samples, keeps=keeps, rounds=chain not in (("pool",), ("narrow",)),
        )  # fmt: skip

    def operations(self) -> tuple[Operation, ...]:
        """The operations in order, every tensor with its place and every one cut into tiles.

        Raises ValueError for tensors beyond the DDR.
        """
        stay = self._stay()
        held = {  # what an operation finds on chip, but for gradients in their slots
            (index, tensor): one
            for one in stay
            for index in range(one.first + one.copy, one.last + 1)
            for tensor in self._in_place(one.tensor)
        }
        resident = {tensor for (_, tensor), one in held.items() if not one.copy}
        resident |= {tensor for tensor in self._gradients() if self._fits_a_slot(tensor)}
        homes = {tensor: tensor for draft in self._drafts for tensor in draft.reads + draft.writes}
        in_ddr: dict[Tensor, Allocation] = {}
        for one in self._travel(resident):
            tensors = self._in_place(one.tensor)
            homes |= {tensor: replace(tensor, address=one.address) for tensor in tensors}
            placed = replace(one, tensor=homes[one.tensor])
            in_ddr |= {homes[tensor]: placed for tensor in tensors}
        memory = [*dict.fromkeys(in_ddr.values()), *stay]
        written: set[Tensor] = set()
        out_of_order: set[Tensor] = set()
        operations: list[Operation] = []
        uses: list[Uses] = []
        for index, draft in enumerate(self._drafts):
            on_chip: dict[Tensor, int] = {}

            def use(tensor, samples, whole=False, size_bytes=None, index=index, on_chip=on_chip):
                here = tensor in resident or (index, tensor) in held
                home = homes[tensor]
                if here:
                    on_chip[home] = size_bytes or tensor.sample_bytes * samples
                return Operand(
                    home,
                    samples,
                    on_chip=here,
                    pending=home in written,
                    whole=whole or home in out_of_order or tensor.kind in _STORES,
                )

            plan: Plan = draft.job(use).plan(self.parts[draft.part], self.dataflow)
            made = {homes[tensor] for tensor in draft.writes} | {home for home, _ in plan.writes}
            if not plan.in_order:
                out_of_order.update(homes[tensor] for tensor in draft.writes)
            written.update(made)
            operations.append(
                Operation(
                    draft.network,
                    draft.node.name,
                    draft.pass_name,
                    draft.unit,
                    draft.samples,
                    draft.gemm,
                    draft.words,
                    plan.reads,
                    plan.writes,
                    tuple(on_chip.items()),
                    plan.tiles,
                    plan.tiling,
                    plan.slot_bytes,
                    takes=tuple(one for one in memory if one.first == index),
                    gives=tuple(one for one in memory if one.last == index),
                    part=draft.part,
                )
            )
            reads, writes = (
                {in_ddr[home] for home, _ in moved}
                | {held[index, tensor] for tensor in side if (index, tensor) in held}
                for moved, side in ((plan.reads, draft.reads), (plan.writes, draft.writes))
            )
            writes |= {one for one in stay if one.copy and one.first == index}
            unit = of_part(draft.part, draft.unit)
            uses.append(Uses(unit, frozenset(reads), frozenset(writes)))
        waits = follows(uses, memory)
        return tuple(
            replace(operation, follows=wait)
            for operation, wait in zip(operations, waits, strict=True)
        )

    def _in_place(self, tensor: Tensor) -> list[Tensor]:
        """`tensor` and all that is written over it."""
        return [tensor, *(over for over, place in self._place_of.items() if place is tensor)]

    def _outlast(self) -> set[Tensor]:
        """What this step makes for later ones: what it is known to, and what it does not read."""
        made = {tensor for draft in self._drafts for tensor in draft.writes}
        return self._outlasting | made.difference(*(draft.reads for draft in self._drafts))

    def _gradients(self) -> set[Tensor]:
        made = (tensor for draft in self._drafts for tensor in draft.writes)
        return {tensor for tensor in made if tensor.kind == "gradient"}

    def _summed_bytes(self, gradient: Tensor) -> int:
        """What a gradient takes while it is summed."""
        word = self._gradient_word_bytes
        return gradient.size_bytes // word * max(word, SUM_BYTES)

    @property
    def _gradient_word_bytes(self) -> int:
        """As the product leaves it: with exact scaling its sums, which the update rounds."""
        exact = self.numerics.scaling is Scaling.CURRENT
        return SUM_BYTES if exact else self.numerics.word_bytes(self.numerics.gradient_bits)

    def _fits_a_slot(self, gradient: Tensor) -> bool:
        """Whether a gradient stays in the gradient buffer until its update."""
        return self._summed_bytes(gradient) <= self._gradient_buffer.tile_bytes

    @property
    def _gradient_buffer(self) -> BufferSpec:
        buffer = self.accelerator.buffers.gradient
        assert buffer is not None, "the student's part has no gradient buffer"
        return buffer

    def _room_for_sums(self) -> int:
        """Bytes of the gradient buffer beyond its slots, each as large as the largest gradient."""
        buffer = self._gradient_buffer
        gradients = map(self._summed_bytes, self._gradients())
        return max(buffer.capacity_bytes - buffer.slots * max(gradients, default=0), 0)

    def _lingering(self, first: int, last: int) -> tuple[int, int]:
        """The operations for which a tensor has its bytes in DDR, if `last` is the last to use it.

        The operation behind that works at the same time if it has a unit of its own. It takes no
        bytes for which it would have to wait; on chip, where bytes are few, it does and waits.
        """
        behind = last + 1
        if behind < len(self._drafts) and self._drafts[behind].unit != self._drafts[last].unit:
            return first, behind
        return first, last

    def _travel(self, resident: set[Tensor]) -> list[Allocation]:
        """A place in DDR for every tensor that is not `resident`.

        What is stored from step to step comes first, at the same place in every step. What no
        operation writes is there when the step begins, images and labels; what none reads stays to
        the end. A part of a machine that works beside the student's does not keep its order: what
        it makes stays to the end too. Raises ValueError for tensors beyond the DDR.
        """
        end = len(self._drafts) - 1
        written = {tensor for draft in self._drafts for tensor in draft.writes}
        outlast = self._outlast()
        spans: dict[Tensor, tuple[int, int]] = {}
        for index, draft in enumerate(self._drafts):
            for tensor in (*draft.reads, *draft.writes):
                if tensor not in resident and tensor.kind not in _STORES:
                    place = self._place_of.get(tensor, tensor)
                    first, _ = spans.get(place, (index if tensor in written else 0, 0))
                    stays = tensor in outlast or draft.part != self._part("update")
                    spans[place] = first, end if stays else index
        arena = Arena(grain_bytes=PAGE_BYTES)
        placed: list[Allocation] = []
        for stores in (self._stores, self._residuals, self._exponents):
            for (kind, _), tensor in stores.items():
                if not (self.own_labels and kind == "teacher"):  # there is no teacher
                    life = Life(tensor, tensor.size_bytes, 0, end)
                    placed += largest_first("ddr", [life], arena)
        for tensor in self._kept_stores.values():
            placed += largest_first("ddr", [Life(tensor, tensor.size_bytes, 0, end)], arena)
        lives = [
            Life(tensor, tensor.size_bytes, *self._lingering(*span))
            for tensor, span in spans.items()
        ]
        placed += largest_first("ddr", lives, arena)
        dram, peak_bytes = self.accelerator.dram, max((one.end for one in placed), default=0)
        if peak_bytes > dram.capacity_bytes:
            raise ValueError(
                f"tensors of a step must fit {dram.name}, {dram.capacity_bytes} bytes, "
                f"not {peak_bytes}; use fewer samples or a larger memory"
            )
        return placed

    def _stay(self) -> list[Allocation]:
        """What stays on chip, and where: tensors that never leave it, and copies of others.

        Room in the resident buffer goes to maps in program order, from the operation that makes
        them to the last that reads them, if there are bytes enough for all that time; and to what
        an operation reads that the next one wants again. What is left goes to weights that both a
        forward pass and backward_data read. Then these take their places, the largest first; one
        that finds only pieces travels after all. Sums of micro-batches lie in the gradient buffer
        while there is room beside its slots.
        """
        uses: dict[Tensor, list[int]] = {}
        ends: dict[Tensor, int] = {}  # of every place, the last operation that uses it
        for index, draft in enumerate(self._drafts):
            for tensor in draft.reads:
                uses.setdefault(tensor, []).append(index)
                ends[self._place_of.get(tensor, tensor)] = index
        free = {
            part: [spec.buffers.resident_bytes] * len(self._drafts)
            for part, spec in self.parts.items()
        }
        chosen: dict[Tensor, Life] = {}
        copies: list[Life] = []
        sums: list[Allocation] = []

        def hold(size_bytes: int, first: int, last: int) -> bool:
            """Take bytes from operation `first` to `last`, if there are so many where they run."""
            span, left = range(first, last + 1), free[self._drafts[first].part]
            fits = all(left[index] >= size_bytes for index in span)
            for index in span if fits else ():
                left[index] -= size_bytes
            return fits

        outlast = self._outlast()
        room = self._room_for_sums()
        for index, draft in enumerate(self._drafts):
            for tensor in draft.writes:
                size = tensor.size_bytes
                if tensor.kind == "gradient_sum":
                    if tensor not in self._place_of and size <= room:
                        address = self._gradient_buffer.capacity_bytes - room
                        life = Life(tensor, size, index, ends[tensor])
                        memory = of_part(draft.part, "gradient")
                        sums.append(Allocation(memory, address, *life))
                        room -= size
                elif tensor.kind not in ("gradient", *_STORES) and tensor not in outlast:
                    last = uses[tensor][-1]
                    if hold(size, index, last):
                        chosen[tensor] = Life(tensor, size, index, last)
            again = {
                tensor: tensor.sample_bytes * draft.samples
                for tensor in draft.keeps
                if tensor not in chosen
            }
            if again and hold(sum(again.values()), index, index + 1):
                copies += [
                    Life(tensor, size, index, index + 1, copy=True)
                    for tensor, size in again.items()
                ]
        for tensor, readers in uses.items():
            products = [
                index
                for index in readers
                if self._drafts[index].gemm and self._drafts[index].part == self._part("update")
            ]
            if tensor.kind == "weights" and len(products) > 1:
                life = Life(tensor, tensor.size_bytes, products[0], products[-1], copy=True)
                if hold(life.size_bytes, life.first, life.last):
                    copies.append(life)
        lives: dict[str, list[Life]] = {part: [] for part in self.parts}
        for life in (*chosen.values(), *copies):
            lives[self._drafts[life.first].part].append(life)
        return sums + [
            one
            for part, spec in self.parts.items()
            for one in largest_first(
                of_part(part, "resident"), lives[part], Arena(spec.buffers.resident_bytes)
            )
        ]


_BACK = {"pool": "route", "activate": "slope", "average": "spread"}  # forward: backward


def _forward_steps(node: Node) -> tuple[str, ...]:
    """What the vector unit does to the input of a layer without weights."""
    match node.layer:
        case BatchNorm(activation=activation, max_pool=pool):
            more = ("activate", "pool")
            asked = (activation != IDENTITY, pool > 1)
            return ("statistics", "normalise", *itertools.compress(more, asked))
        case MaxPool():
            return ("pool",)
        case Add(activation=activation):
            return ("add",) if activation == IDENTITY else ("add", "activate")
        case Activate():
            return ("activate",)
        case _:  # AveragePool, GlobalAveragePool
            return ("average",)


def _by_role(chain: tuple[str, ...], tensors: dict) -> tuple[tuple[Tensor, ...], ...]:
    """What a pass of `chain` reads and writes, of the tensors by their role."""
    roles = operands(chain)
    return tuple(
        tuple(tensor for role in side for tensor in tensors[role])
        for side in (roles.reads, roles.writes)
    )


_STORES = frozenset(
    {
        *("weights", "momentum", "teacher", "residual", "exponents", "predictions"),
        *("kept_frames", "kept_labels", "kept_scores"),
    }
)  # read and written in place, step by step


def scattered(count: int, places: int) -> Iterator[int]:
    """Some of so many `places`, far apart and in no order, as frames that return have them.

    A step is simulated once for all: which frames come is not known. Multiples of the golden ratio
    spread evenly (Knuth, "The Art of Computer Programming" 3, section 6.4, on hashing by them).
    """
    step = next(
        step for step in range(count * 618 // 1000 + 1, 2 * count + 2) if gcd(step, count) == 1
    )
    return (places * (index * step % count) // count for index in range(count))


def _flat(node: Node) -> Shape:
    """The input of an array layer; a linear layer sees it as one pixel."""
    return node.input if isinstance(node.layer, Conv2d) else Shape(1, 1, node.input.size)
