"""A machine cut in two: the shares by hand, what the parts have together, and what a cut costs."""

from dataclasses import replace

import pytest

from accsim.hardware import boards
from accsim.hardware.buffer import BufferSpec
from accsim.hardware.part import cut
from accsim.hardware.resources import CONTROL, Resources, resources
from accsim.hardware.vector_unit import VectorUnitSpec
from accsim.units import KIB


def test_the_teacher_gets_its_share_of_everything_but_the_gradient_buffer():
    """Of a ZCU104's 32 rows 12: of 32 lanes, of 16 banks of 48 KiB of weights, of 64 bytes."""
    student, teacher = cut(boards.ZCU104, 12)
    assert (teacher.pe_array.rows, student.pe_array.rows) == (12, 20)
    assert teacher.pe_array.columns == student.pe_array.columns == 32
    assert (teacher.vector_unit.lanes, student.vector_unit.lanes) == (12, 20)
    weight = boards.ZCU104.buffers.weight
    assert teacher.buffers.weight == replace(weight, banks=6, capacity_bytes=288 * KIB)
    assert student.buffers.weight == replace(weight, banks=10, capacity_bytes=480 * KIB)
    assert teacher.buffers.gradient is None
    assert student.buffers.gradient == boards.ZCU104.buffers.gradient
    assert teacher.buffers.resident_bytes == 384 * KIB
    assert (teacher.dma.read_bytes_per_cycle, student.dma.read_bytes_per_cycle) == (24, 40)


def test_each_column_of_the_teacher_gets_an_operand_a_cycle():
    """32 columns take 4 banks of 8 bytes, though 2 rows of 32 would be one bank of 16."""
    student, teacher = cut(boards.ZCU104, 2)
    assert (teacher.buffers.weight.banks, student.buffers.weight.banks) == (4, 12)
    assert teacher.buffers.weight.bytes_per_cycle == 32
    assert teacher.buffers.input.banks == 1


@pytest.mark.parametrize("whole", [boards.ZCU102, boards.PYNQ_Z2], ids=lambda board: board.name)
@pytest.mark.parametrize("teacher_rows", [1, 3, 7])
def test_the_parts_have_together_what_the_whole_has(whole, teacher_rows):
    parts = cut(whole, teacher_rows)
    assert sum(part.pe_array.rows for part in parts) == whole.pe_array.rows
    assert sum(part.vector_unit.lanes for part in parts) == whole.vector_unit.lanes
    assert sum(part.buffers.capacity_bytes for part in parts) == whole.buffers.capacity_bytes
    for name in ("input", "weight", "output"):
        assert (
            sum(getattr(part.buffers, name).bytes_per_cycle for part in parts)
            == getattr(whole.buffers, name).bytes_per_cycle
        )
    for side in ("read", "write"):
        name = f"{side}_bytes_per_cycle"
        assert sum(getattr(part.dma, name) for part in parts) == getattr(whole.dma, name)


def test_a_cut_doubles_the_feet_of_the_columns_and_the_control():
    """A slice a column for the sums on arrival; a vector unit's control; not a block of memory."""
    whole, halves = (
        sum(resources(machine).values(), start=Resources())
        for machine in (boards.ZCU104, boards.ZCU104.split(16))
    )
    assert halves.dsp_slices - whole.dsp_slices == 32
    assert (halves.bram36, halves.uram) == (whole.bram36, whole.uram)
    assert halves.luts - whole.luts > CONTROL.luts + 32 * 32
    parts = resources(boards.ZCU104.split(8))
    assert parts["teacher's PE array"].dsp_slices == 8 * 32
    assert "student's gradient buffer" in parts
    assert "teacher's gradient buffer" not in parts


def test_a_machine_is_its_parts():
    whole, split = boards.ZCU104, boards.ZCU104.split(8)
    assert whole.parts == {"": whole}
    assert {name: part.pe_array.rows for name, part in split.parts.items()} == {
        "student": 24,
        "teacher": 8,
    }
    assert all(part.parts == {"": part} for part in split.parts.values())
    assert split.macs_per_cycle == whole.macs_per_cycle == 1024


@pytest.mark.parametrize(
    ("change", "rows", "message"),
    [
        ({}, 0, "teacher_rows must be 1 to 31, for the PE array has 32 rows .* not 0"),
        ({}, 32, "teacher_rows must be 1 to 31, .* not 32"),
        ({}, 2.5, "teacher_rows must be 1 to 31, .* not 2.5"),
        ({"vector_unit": VectorUnitSpec(1)}, 8, "lanes of a machine that is cut in two must be 2"),
        ({"input": BufferSpec(4096, banks=1)}, 8, "banks of the input buffer of a machine that"),
    ],
)
def test_impossible_cuts_are_refused(change, rows, message):
    buffers = {name: spec for name, spec in change.items() if isinstance(spec, BufferSpec)}
    units = {name: spec for name, spec in change.items() if name not in buffers}
    whole = replace(boards.ZCU104, **units, buffers=replace(boards.ZCU104.buffers, **buffers))
    with pytest.raises(ValueError, match=message):
        whole.split(rows)


def test_a_machine_is_cut_once():
    with pytest.raises(ValueError, match="machine ZCU104 is cut in two already"):
        boards.ZCU104.split(8).split(8)


def test_what_a_cut_doubles_must_fit_the_board():
    """The banks of one row fill their blocks badly; ZCU104 has 8 BRAM36 left, and no UltraRAM."""
    with pytest.raises(ValueError, match="BRAM36 blocks of the machine must be at most the 312"):
        boards.ZCU104.split(1)
    assert replace(boards.ZCU104, check_board=False).split(1).teacher_part is not None
