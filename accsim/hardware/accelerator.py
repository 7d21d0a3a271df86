"""The whole machine: compute units, buffers, DMA and one DDR channel, checked against its board."""

from dataclasses import dataclass

from accsim.hardware.buffer import BufferSpec
from accsim.hardware.dma import DmaSpec
from accsim.hardware.dram import AddressMapping, DramSpec, RowColumnBank
from accsim.hardware.dram_controller import Frfcfs
from accsim.hardware.pe_array import PEArraySpec
from accsim.hardware.vector_unit import VectorUnitSpec
from accsim.units import period_ps


@dataclass(frozen=True)
class BoardSpec:
    """What the board offers: device resources (data sheet) and power that is always drawn."""

    name: str
    source: str  # the data sheets of the numbers below
    dsp_slices: int
    memory_bytes: int  # block RAM and UltraRAM together
    static_watts: float  # device leakage, processor system and regulators, without the DDR
    static_watts_range: tuple[float, float]

    def __post_init__(self):
        for name in ("dsp_slices", "memory_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of board {self.name} must be at least 1, not {getattr(self, name)}"
                )
        low, high = self.static_watts_range
        if not 0 <= low <= self.static_watts <= high:
            raise ValueError(
                f"static_watts of board {self.name} must be in its range {low} to {high}, "
                f"not {self.static_watts}"
            )


@dataclass(frozen=True)
class BuffersSpec:
    """The on-chip memories by what they hold."""

    input: BufferSpec  # maps that stream through a unit
    weight: BufferSpec  # weights in operand_bits; the second operand of backward_weight
    output: BufferSpec  # results on their way to DDR
    gradient: BufferSpec  # weight gradients, accumulated over the batch
    resident_bytes: int  # whole maps that need not travel; 0: none

    def __post_init__(self):
        if self.resident_bytes < 0:
            raise ValueError(f"resident_bytes must be 0 or more, not {self.resident_bytes}")

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all buffers."""
        streamed = (self.input, self.weight, self.output, self.gradient)
        return sum(buffer.capacity_bytes for buffer in streamed) + self.resident_bytes


@dataclass(frozen=True)
class AcceleratorSpec:
    """One accelerator on one board.

    `sample_granule`: the samples of a backward pass are rounded up to a multiple of it; rejected
    samples inside a granule are padded work. Raises ValueError for a clock below 1 MHz and for
    units or buffers that the board has no room for.
    """

    name: str
    clock_mhz: int
    pe_array: PEArraySpec
    vector_unit: VectorUnitSpec
    buffers: BuffersSpec
    dma: DmaSpec
    dram: DramSpec
    board: BoardSpec
    sample_granule: int = 8
    address_mapping: AddressMapping = RowColumnBank()  # neighbouring bursts: other bank groups
    memory_controller: Frfcfs = Frfcfs()

    def __post_init__(self):
        self.memory_controller.longest_wait_cycles(self.dram)  # there must be one
        for name in ("clock_mhz", "sample_granule"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value}")
        needed = self.pe_array.macs_per_cycle + self.vector_unit.lanes
        if needed > self.board.dsp_slices:
            raise ValueError(
                f"units of the PE array and lanes of the vector unit must be at most the "
                f"{self.board.dsp_slices} DSP slices of {self.board.name}, not {needed}; "
                f"use fewer rows, columns or lanes"
            )
        if self.buffers.capacity_bytes > self.board.memory_bytes:
            raise ValueError(
                f"buffers must be at most the {self.board.memory_bytes} bytes of on-chip memory "
                f"of {self.board.name}, not {self.buffers.capacity_bytes}; use smaller buffers"
            )

    @property
    def period_ps(self) -> int:
        """Picoseconds of one clock cycle."""
        return period_ps(self.clock_mhz)
