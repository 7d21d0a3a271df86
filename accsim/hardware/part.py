"""Parts of an accelerator that work side by side on one DDR channel, and the cut that makes two."""

from dataclasses import dataclass, replace
from typing import Protocol

from accsim.hardware.buffer import BufferSpec, BuffersSpec
from accsim.hardware.dma import DmaSpec
from accsim.hardware.pe_array import PEArraySpec
from accsim.hardware.vector_unit import VectorUnitSpec
from accsim.units import ceil_div


def of_part(part: str, name: str) -> str:
    """What block or memory `name` of `part` is called; the only part has no name."""
    return f"{part}_{name}" if part else name


class Whole(Protocol):
    """What can be cut: units, buffers and DMA engines."""

    @property
    def pe_array(self) -> PEArraySpec: ...

    @property
    def vector_unit(self) -> VectorUnitSpec: ...

    @property
    def buffers(self) -> BuffersSpec: ...

    @property
    def dma(self) -> DmaSpec: ...


@dataclass(frozen=True)
class PartSpec:
    """Units with buffers and DMA engines of their own."""

    pe_array: PEArraySpec
    vector_unit: VectorUnitSpec
    buffers: BuffersSpec
    dma: DmaSpec


def cut(whole: Whole, teacher_rows: int) -> tuple[PartSpec, PartSpec]:
    """The student's and the teacher's part of `whole`.

    The teacher gets `teacher_rows` of the PE array, and of all else the same share, rounded down
    but at least one: lanes, banks of the input, weight and output buffers and the capacity in them,
    resident bytes, bytes a cycle of the DMA's ports. Of the weight buffer it gets no fewer banks
    than give each column an operand a cycle, for it has all of the columns. The student gets the
    rest, and the gradient buffer whole: the teacher makes no gradients. So the parts have together
    what the whole has. A cut doubles only what no row has a share of: the foot of each column, the
    control, the FIFOs' last block.

    Raises ValueError where a part would be left without a row, a lane, a bank or a byte.
    """
    rows = whole.pe_array.rows
    if not isinstance(teacher_rows, int) or not 1 <= teacher_rows < rows:
        raise ValueError(
            f"teacher_rows must be 1 to {rows - 1}, for the PE array has {rows} rows of which each "
            f"part needs one, not {teacher_rows}"
        )

    def share(name: str, count: int) -> int:
        if count < 2:
            raise ValueError(f"{name} of a machine that is cut in two must be 2 or more, not 1")
        return max(count * teacher_rows // rows, 1)

    def buffer(name: str) -> BufferSpec:
        of_all: BufferSpec = getattr(whole.buffers, name)
        banks = share(f"banks of the {name} buffer", of_all.banks)
        if name == "weight":
            array = whole.pe_array
            feed = ceil_div(array.columns * array.operand_bytes * 8, of_all.width_bits)
            banks = min(max(banks, feed), of_all.banks - 1)
        return replace(
            of_all, banks=banks, capacity_bytes=of_all.capacity_bytes * banks // of_all.banks
        )

    def rest(of_all, of_teacher, names):
        left = {name: getattr(of_all, name) - getattr(of_teacher, name) for name in names}
        return replace(of_all, **left)

    given = {name: buffer(name) for name in ("input", "weight", "output")}
    left = {
        name: rest(getattr(whole.buffers, name), taken, ("banks", "capacity_bytes"))
        for name, taken in given.items()
    }
    resident_bytes = whole.buffers.resident_bytes * teacher_rows // rows
    teacher = PartSpec(
        replace(whole.pe_array, rows=teacher_rows),
        replace(whole.vector_unit, lanes=share("lanes", whole.vector_unit.lanes)),
        BuffersSpec(**given, gradient=None, resident_bytes=resident_bytes),
        replace(
            whole.dma,
            read_bytes_per_cycle=share("read_bytes_per_cycle", whole.dma.read_bytes_per_cycle),
            write_bytes_per_cycle=share("write_bytes_per_cycle", whole.dma.write_bytes_per_cycle),
        ),
    )
    student = PartSpec(
        rest(whole.pe_array, teacher.pe_array, ("rows",)),
        rest(whole.vector_unit, teacher.vector_unit, ("lanes",)),
        replace(rest(whole.buffers, teacher.buffers, ("resident_bytes",)), **left),
        rest(whole.dma, teacher.dma, ("read_bytes_per_cycle", "write_bytes_per_cycle")),
    )
    return student, teacher
