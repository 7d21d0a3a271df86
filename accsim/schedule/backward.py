"""A backward pass as operations: errors down the student, and gradients of what trains."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from accsim.dataflow.product import GradientProduct, Product
from accsim.dataflow.tile import Tensor, Weights
from accsim.network import IDENTITY, INPUT, Add, BatchNorm, Network, Node, Shape
from accsim.schedule.drafts import Drafts, flat, window_of
from accsim.schedule.forward import Trace, forward_steps
from accsim.schedule.gradient_slots import GradientSlots
from accsim.schedule.stores import Stores

_BACK = {"pool": "route", "activate": "slope", "average": "spread"}  # forward: backward


@dataclass
class Backward:
    """One backward pass of so many samples over the maps that a forward pass left.

    Errors go as far down as a layer needs them that is not `frozen`, or to the images.
    """

    drafts: Drafts
    stores: Stores
    slots: GradientSlots
    layers: Network
    trace: Trace
    samples: int
    frozen: Collection[str]
    to_images: bool = False
    network: str = "student"  # that names its tensors
    pass_name: str = "backward_data"  # of the errors
    _errors: dict[int, list[Tensor]] = field(init=False)  # of the outputs, by the layer's place
    _asked: Collection[int] = field(init=False)  # places of the layers whose error is wanted

    def __post_init__(self):
        self._errors = {index: [] for index in (INPUT, *range(len(self.layers.nodes)))}
        self._asked = self.layers.asked_errors(self.frozen, self.to_images)

    def run(self, logit_error: Tensor) -> Iterator[tuple[Node, Tensor | None]]:
        """Each layer, from the last on, when its operations are written, and its weights' gradient.

        There is none of a layer that is frozen or not on the array.
        """
        nodes = self.layers.nodes
        self._errors[nodes[-1].index].append(logit_error)
        for node in reversed(nodes):
            arriving = self._errors[node.index]
            if not arriving:
                continue  # nothing reads this layer's output
            error = arriving[0]
            if len(arriving) > 1:
                error = self._error(node, "sum", node.output)
                self.drafts.sweep(
                    self.network, node, self.pass_name, ("add",), self.samples,
                    {"input": tuple(arriving), "output": (error,)},
                    words=len(arriving) * node.output.size,
                )  # fmt: skip
            yield node, self._layer(node, error)

    @property
    def image_error(self) -> Tensor:
        """What `run` has brought down to the images."""
        (error,) = self._errors[INPUT]  # the first layer alone reads them
        return error

    def _error(self, node: Node, name: str, shape: Shape) -> Tensor:
        return self.drafts.map(
            f"{self.network}/{node.name}/{name}_error", "error", shape, self.samples
        )

    def _below(self, node: Node, index: int) -> Tensor:
        """The error of what a layer reads of the layer at `index`."""
        below = self._error(node, "input", node.input)
        self._errors[index].append(below)
        return below

    def _layer(self, node: Node, error: Tensor) -> Tensor | None:
        """The passes of one layer; the gradient of its weights on the array, if it has any."""
        wanted = [index for index in node.inputs if index in self._asked]
        if node.weights:
            if wanted:
                self._data(node, error, self._below(node, wanted[0]))
            return self._gradient(node, error) if node.trains(self.frozen) else None
        if isinstance(node.layer, BatchNorm):
            self._norm(node, error, bool(wanted))
        elif isinstance(node.layer, Add):
            if node.layer.activation != IDENTITY:
                below = self._error(node, "input", node.input)
                self._back(node, "activate", error, below, self.trace.outputs[node.index])
                error = below
            for index in wanted:
                self._errors[index].append(error)
        elif wanted:
            (step,) = forward_steps(node)
            self._back(node, step, error, self._below(node, wanted[0]))
        return None

    def _back(self, node: Node, step: str, error, below, saved=None) -> None:
        """Undo `step` in a pass of its own: `error` of its output to `below`, of its input."""
        inputs = (saved,) if saved else self.trace.step_inputs[node.index, step]
        tensors = {"error": (error,), "input": inputs, "below": (below,)}
        self.drafts.sweep(self.network, node, self.pass_name, (_BACK[step],), self.samples, tensors)

    def _data(self, node: Node, error: Tensor, below: Tensor) -> None:
        samples, target_shape, numerics = self.samples, flat(node), self.drafts.numerics
        master, exponents = (
            self.stores.words("weights", node),
            self.stores.exponents("backward", node),
        )
        weight_bytes = node.weights * numerics.word_bytes(numerics.master_bits)

        def job(use):
            weights = (
                (use(master, 1, size_bytes=weight_bytes), weight_bytes),
                *((use(tensor, 1), tensor.size_bytes) for tensor in exponents),
            )
            return Product(
                label=f"{node.name}/{self.pass_name}",
                samples=samples,
                source=use(error, samples),
                source_shape=node.output,
                target=use(below, samples),
                target_shape=target_shape,
                window=window_of(node, transposed=True),
                weights=Weights(weights, weights),
                groups=node.groups,
            )

        m = samples * target_shape.height * target_shape.width
        self.drafts.add(
            self.network, node, self.pass_name, samples, (error, master, *exponents), (below,), job,
            gemm=(m, target_shape.channels, node.weights // target_shape.channels), rounds=True,
        )  # fmt: skip

    def _gradient(self, node: Node, error: Tensor) -> Tensor:
        source, samples = self.trace.outputs[node.inputs[0]], self.samples
        m, n = node.weights // node.output.channels, node.output.channels
        size_bytes = m * n * self.slots.word_bytes
        gradient = Tensor(f"student/{node.name}/gradient", "gradient", size_bytes, 1)

        def job(use):
            return GradientProduct(
                label=f"{node.name}/backward_weight",
                samples=samples,
                source=use(source, samples),
                source_shape=flat(node),
                error=use(error, samples),
                error_shape=node.output,
                window=window_of(node),
                gradient=use(gradient, 1),
                groups=node.groups,
            )

        self.drafts.add(
            "student", node, "backward_weight", samples, (source, error), (gradient,), job,
            gemm=(m, n, samples * node.output.height * node.output.width),
        )  # fmt: skip
        return gradient

    def _norm(self, node: Node, error: Tensor, wanted: bool) -> None:
        """Sums over the batch, which the error below needs even where scale and shift rest."""
        saved = self.trace.outputs[node.inputs[0]]
        master = self.stores.words("weights", node)

        def parameters(use):
            return Weights(((use(master, 1), master.size_bytes),), ())

        layer = node.layer
        assert isinstance(layer, BatchNorm)
        back = tuple(step for step in ("pool", "activate") if step in forward_steps(node))
        if not self.drafts.accelerator.vector_unit.fused:
            for step in back:
                below = self._error(node, _BACK[step], node.input)
                self._back(node, step, error, below)
                error = below
            back = ()
        before = tuple(_BACK[step] for step in back)  # in both passes, from the saved input
        summing = "backward_weight" if node.trains(self.frozen) else self.pass_name
        tensors = {
            "error": (error,),
            "input": () if layer.mean_only and not before else (saved,),
            "parameters": (master,),
        }
        self.drafts.sweep(
            self.network, node, summing, (*before, "reduce"), self.samples, tensors,
            parameters=parameters,
            keeps=(error, *tensors["input"]) if wanted else (),
        )  # fmt: skip
        if wanted:
            below = self._below(node, node.inputs[0])
            self.drafts.sweep(
                self.network, node, self.pass_name, (*before, "apply"), self.samples,
                tensors | {"below": (below,)},
            )  # fmt: skip
