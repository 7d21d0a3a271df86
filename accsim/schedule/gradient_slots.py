"""Where weight gradients wait for their update: in slots of a buffer, if they fit; else in DDR."""

from collections.abc import Collection
from dataclasses import dataclass

from accsim.dataflow.product import SUM_BYTES
from accsim.dataflow.tile import Tensor
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.buffer import BufferSpec
from accsim.numerics import Numerics, Scaling


@dataclass(frozen=True)
class GradientSlots:
    """The gradient buffer of the student's part."""

    numerics: Numerics
    accelerator: AcceleratorSpec

    @property
    def buffer(self) -> BufferSpec:
        """What it is."""
        buffer = self.accelerator.buffers.gradient
        assert buffer is not None, "the student's part has no gradient buffer"
        return buffer

    @property
    def word_bytes(self) -> int:
        """As the product leaves it: with exact scaling its sums, which the update rounds."""
        exact = self.numerics.scaling is Scaling.CURRENT
        return SUM_BYTES if exact else self.numerics.word_bytes(self.numerics.gradient_bits)

    def fits(self, gradient: Tensor) -> bool:
        """Whether a gradient stays in a slot until its update."""
        return self._summed_bytes(gradient) <= self.buffer.tile_bytes

    def room_for_sums(self, gradients: Collection[Tensor]) -> int:
        """Bytes beyond the slots, each as large as the largest of the `gradients`."""
        largest = max(map(self._summed_bytes, gradients), default=0)
        return max(self.buffer.capacity_bytes - self.buffer.slots * largest, 0)

    def _summed_bytes(self, gradient: Tensor) -> int:
        """What a gradient takes while it is summed."""
        return gradient.size_bytes // self.word_bytes * max(self.word_bytes, SUM_BYTES)
