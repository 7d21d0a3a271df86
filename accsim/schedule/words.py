"""Passes of the vector unit over the words of a layer: gradients summed, update, average."""

from collections import deque
from dataclasses import replace

from accsim.dataflow.product import SUM_BYTES
from accsim.dataflow.sweep import WordSweep
from accsim.dataflow.tile import Tensor
from accsim.network import Network, Node
from accsim.schedule.drafts import Drafts, by_role
from accsim.schedule.gradient_slots import GradientSlots
from accsim.schedule.stores import Stores


class Words:
    """Writes them down; keeps the gradients of the micro-batches so far."""

    def __init__(self, drafts: Drafts, stores: Stores, slots: GradientSlots, layers: Network):
        self.drafts, self.stores, self.slots, self.layers = drafts, stores, slots, layers
        self.place_of: dict[Tensor, Tensor] = {}  # a sum: that whose bytes it is written over
        self._sums: dict[int, Tensor] = {}

    def accumulate(self, node: Node, gradient: Tensor) -> Tensor:
        """Add a gradient to those of the micro-batches before; the sum so far.

        Words of the sum are `SUM_BYTES`. Gradients of scale, shift and bias wait in registers.
        """
        before = self._sums.get(node.index)
        if before is None and not self.slots.fits(gradient):
            self._sums[node.index] = gradient  # the product itself writes it to DDR
            return gradient
        if before is not None and before.kind == "gradient_sum":
            total = replace(before)  # the same place, other contents
            self.place_of[total] = self.place_of.get(before, before)
        else:
            name = f"student/{node.name}/gradient_sum"
            total = Tensor(name, "gradient_sum", node.weights * SUM_BYTES, 1)
        self._sweep(node, ("accumulate",), gradient, total)
        self._sums[node.index] = total
        return total

    def update(self, node: Node, gradient: Tensor | None, average: bool) -> None:
        """SGD with momentum; gradients of scale, shift and bias wait in registers."""
        steps = ("update", "ema") if average else ("update",)
        if gradient and node.index in self._sums:
            steps = ("accumulate", *steps)
        for chain in self.drafts.accelerator.vector_unit.passes(steps):
            if gradient and chain == ("accumulate",):
                gradient = self.accumulate(node, gradient)
            else:
                self._sweep(node, chain, gradient)

    def average(self, node: Node) -> None:
        """The teacher's: student and teacher in, teacher out."""
        if node.trains(self.stores.frozen):
            self._sweep(node, ("ema",))

    def average_next(self, layers: deque[Node]) -> None:
        """Average the first of `layers` up to their next product, and take them off."""
        while layers:
            node = layers.popleft()
            self.average(node)
            if node.weights:
                return

    def _sweep(self, node: Node, chain, gradient=None, total=None) -> None:
        """One pass: `chain` of accumulate to ema."""
        stores, updates, averages = self.stores, "update" in chain, "ema" in chain
        master = stores.words("weights", node)
        summed = self._sums.get(node.index)
        tensors = {
            "sum": (summed,) if summed else (),
            "gradient": (gradient,) if gradient else (),
            "total": (total,),
            "weights": stores.whole("weights", node) if updates else (master,),
            "momentum": stores.whole("momentum", node),
            "teacher": stores.whole("teacher", node),
        }
        reads, writes = by_role(chain, tensors)
        narrowed = ("weights", "backward") * updates + ("teacher",) * averages
        writes += tuple(tensor for kind in narrowed for tensor in stores.exponents(kind, node))
        writes = tuple(map(stores.where_written, writes))
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

        self.drafts.add(network, node, pass_name, 0, reads, writes, job, words=words)
