"""The whole machine: compute units, buffers, DMA and one DDR channel, checked against its board."""

from dataclasses import dataclass, replace

from accsim.hardware.board import BoardSpec
from accsim.hardware.buffer import BuffersSpec
from accsim.hardware.dma import DmaSpec
from accsim.hardware.dram import AddressMapping, DramSpec, RowColumnBank
from accsim.hardware.dram_controller import Frfcfs
from accsim.hardware.part import PartSpec, cut
from accsim.hardware.pe_array import PEArraySpec
from accsim.hardware.resources import check
from accsim.hardware.vector_unit import VectorUnitSpec
from accsim.units import period_ps


@dataclass(frozen=True)
class AcceleratorSpec:
    """One accelerator on one board.

    Where there is a `teacher_part`, it works for the teacher beside the rest, which works for the
    student; the two meet in the DDR.

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
    teacher_part: PartSpec | None = None

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

    @property
    def parts(self) -> dict[str, "AcceleratorSpec"]:
        """What works side by side, each as a machine by itself; the only part has no name."""
        if self.teacher_part is None:
            return {"": self}
        student = replace(self, teacher_part=None, check_board=False)
        return {"student": student, "teacher": replace(student, **vars(self.teacher_part))}

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates of one cycle, of all parts."""
        return sum(part.pe_array.macs_per_cycle for part in self.parts.values())

    def split(self, teacher_rows: int) -> "AcceleratorSpec":
        """This machine cut in two, the teacher's part with `teacher_rows` of the PE array.

        Raises ValueError for a machine that is cut already, where a part would be left without
        something, and where the board has no room for what a cut doubles.
        """
        if self.teacher_part is not None:
            raise ValueError(f"machine {self.name} is cut in two already and cannot be once more")
        student, teacher = cut(self, teacher_rows)
        return replace(self, **vars(student), teacher_part=teacher)
