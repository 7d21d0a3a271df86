"""The whole machine: compute units, buffers, DMA and one DDR channel, checked against its board."""

from dataclasses import dataclass, replace

from accsim.hardware.buffer import BufferSpec
from accsim.hardware.dma import DmaSpec
from accsim.hardware.dram import AddressMapping, DramSpec, RowColumnBank
from accsim.hardware.dram_controller import Frfcfs
from accsim.hardware.pe_array import PEArraySpec
from accsim.hardware.resources import check
from accsim.hardware.vector_unit import VectorUnitSpec
from accsim.units import KIB, period_ps


@dataclass(frozen=True)
class BoardSpec:
    """What the board offers: device resources (data sheet) and power that is always drawn."""

    name: str
    source: str  # the data sheets of the numbers below
    dsp_slices: int
    luts: int
    flip_flops: int
    bram36: int  # blocks of 36 Kib
    uram: int  # blocks of 288 Kib
    static_watts: float  # device leakage, processor system and regulators, without the DDR
    static_watts_range: tuple[float, float]

    def __post_init__(self):
        for name, least in (
            ("dsp_slices", 1),
            ("luts", 1),
            ("flip_flops", 1),
            ("bram36", 1),
            ("uram", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} of board {self.name} must be at least {least}, "
                    f"not {getattr(self, name)}"
                )
        low, high = self.static_watts_range
        if not 0 <= low <= self.static_watts <= high:
            raise ValueError(
                f"static_watts of board {self.name} must be in its range {low} to {high}, "
                f"not {self.static_watts}"
            )

    @property
    def memory_bytes(self) -> int:
        """Bytes of data in block RAM and UltraRAM: 32 of 36 Kib and 256 of 288, no parity."""
        return self.bram36 * 4 * KIB + self.uram * 32 * KIB


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
    def by_name(self) -> dict[str, BufferSpec]:
        """All buffers; the resident maps lie in banks like those of the input buffer."""
        named = {name: getattr(self, name) for name in ("input", "weight", "output", "gradient")}
        if self.resident_bytes:
            named["resident"] = replace(
                self.input, capacity_bytes=self.resident_bytes, slots=1, memory=None
            )
        return named

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.capacity_bytes for buffer in self.by_name.values())


@dataclass(frozen=True)
class AcceleratorSpec:
    """One accelerator on one board.

    `sample_granule`: the samples of a backward pass are rounded up to a multiple of it; rejected
    samples inside a granule are padded work. Raises ValueError for a clock below 1 MHz, and with
    `check_board` for more of a resource than the board has.
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
    check_board: bool = True  # refuse what the board has no room for

    def __post_init__(self):
        self.memory_controller.longest_wait_cycles(self.dram)  # there must be one
        for name in ("clock_mhz", "sample_granule"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value}")
        if self.check_board:
            check(self)

    @property
    def period_ps(self) -> int:
        """Picoseconds of one clock cycle."""
        return period_ps(self.clock_mhz)
