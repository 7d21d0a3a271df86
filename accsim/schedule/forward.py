"""A forward pass as operations: products on the array, chains of steps on the lanes."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from accsim.dataflow.product import Product
from accsim.dataflow.tile import Tensor, Weights
from accsim.hardware.vector_unit import operands
from accsim.network import IDENTITY, INPUT, Activate, Add, BatchNorm, MaxPool, Network, Node
from accsim.schedule.drafts import Drafts, flat, window_of
from accsim.schedule.stores import Stores


@dataclass
class Trace:
    """The maps of one forward pass, which its backward pass reads again."""

    outputs: dict[int, Tensor]  # of every layer by its place; the images are the output of INPUT
    step_inputs: dict[tuple[int, str], tuple[Tensor, ...]] = field(default_factory=dict)
    # by layer and step of the vector unit

    @property
    def logits(self) -> Tensor:
        """Of the last layer."""
        return self.outputs[max(self.outputs)]


@dataclass
class Forward:
    """One forward pass of the weights of `network`: teacher, student or probe.

    With `blend` they are averaged as they stream in, and with `store` written back.
    """

    drafts: Drafts
    stores: Stores
    layers: Network
    network: str
    samples: int
    blend: bool = False
    store: bool = False

    @property
    def pass_name(self) -> str:
        """What its operations are called."""
        return f"{self.network}_forward"

    def run(self, images: Tensor | None, behind_product: Callable[[], None]) -> Trace:
        """Write it down; of `images`, or of those that are there as the step begins.

        `behind_product` writes what comes after each product.
        """
        network, samples, drafts = self.network, self.samples, self.drafts
        if images is None:
            images = drafts.map(f"{network}/images", "images", self.layers.image, samples)
        trace = Trace({INPUT: images})
        for node in self.layers.nodes:
            target = drafts.map(
                f"{network}/{node.name}/output", "activations", node.output, samples
            )
            trace.outputs[node.index] = target
            sources = tuple(trace.outputs[index] for index in node.inputs)
            if node.weights:
                self._on_array(node, sources[0], target)
                behind_product()
            else:
                self._on_lanes(node, sources, target, trace)
        return trace

    def _moves(self, node: Node) -> bool:
        return self.blend and node.trains(self.stores.frozen)

    def _kept(self, node: Node) -> tuple[Tensor, ...]:
        return self.stores.parameters(self.network, node, self._moves(node))

    def _on_array(self, node: Node, source: Tensor, target: Tensor) -> None:
        samples = self.samples

        def job(use):
            return Product(
                label=f"{node.name}/{self.pass_name}",
                samples=samples,
                source=use(source, samples),
                source_shape=flat(node),
                target=use(target, samples),
                target_shape=node.output,
                window=window_of(node),
                weights=self._weights(use, node),
                groups=node.groups,
            )

        self.drafts.add(
            self.network, node, self.pass_name, samples, (source, *self._kept(node)), (target,),
            job,
            gemm=(
                samples * node.output.height * node.output.width,
                node.output.channels,
                node.weights // node.output.channels,
            ),
            rounds=node is not self.layers.nodes[-1],
        )  # fmt: skip

    def _on_lanes(self, node: Node, sources: tuple[Tensor, ...], target: Tensor, trace) -> None:
        """The passes of the vector unit that make `target` of `sources`."""
        steps = forward_steps(node)
        unit = self.drafts.accelerator.vector_unit
        for chain in unit.passes(steps, made=node.inputs != (INPUT,)):
            tensors = {"input": sources, "parameters": self._kept(node)}
            made = operands(chain).writes
            if chain[-1] == steps[-1]:
                tensors["output"] = (target,)
            elif made:
                name = f"{self.network}/{node.name}/{chain[-1]}"
                between = self.drafts.map(name, "activations", node.input, self.samples)
                tensors["output"] = (between,)
            self.drafts.sweep(
                self.network, node, self.pass_name, chain, self.samples, tensors,
                parameters=lambda use: self._weights(use, node), whole="normalise" in chain,
                keeps=() if made else sources,
            )  # fmt: skip
            trace.step_inputs.update({(node.index, step): sources for step in chain})
            sources = tensors.get("output", sources)

    def _weights(self, use, node: Node) -> Weights:
        stores, words = self.stores, node.weights + node.vector_words
        first = tuple((use(tensor, 1), tensor.size_bytes) for tensor in self._kept(node))
        if not (self._moves(node) and words):
            return Weights(first, first)
        if not self.store:  # every load blends anew
            return Weights(first, first, (), words, words)
        teacher, *residual = stores.whole("teacher", node)
        exponents = stores.exponents("teacher", node)
        again = tuple(
            (replace(use(tensor, 1), pending=True, whole=True), tensor.size_bytes)
            for tensor in (teacher, *exponents)
        )
        back = tuple(
            (use(tensor, 1).tensor, tensor.size_bytes)
            for tensor in (teacher, *residual, *exponents)
        )
        return Weights(first, again, back, words)


def forward_steps(node: Node) -> tuple[str, ...]:
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
