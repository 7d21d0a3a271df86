"""Blocks, slices, LUTs and flip-flops: against hand counts, and what yosys makes of the RTL."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accsim.hardware import boards
from accsim.hardware.buffer import BufferSpec, Memory
from accsim.hardware.dma import DmaSpec
from accsim.hardware.pe_array import PEArraySpec
from accsim.hardware.resources import (
    CONTROL,
    LANE,
    OUTPUT_STATIONARY,
    WEIGHT_STATIONARY,
    Resources,
    dot,
    flip_flop_terms,
    lut_terms,
    placement,
    resources,
)
from accsim.hardware.vector_unit import VectorUnitSpec

GOLDEN = Path(__file__).parents[1] / "golden" / "yosys.csv"
FITS = {"output_stationary": OUTPUT_STATIONARY, "weight_stationary": WEIGHT_STATIONARY}
TERMS = {"luts": lut_terms, "flip_flops": flip_flop_terms}


def synthesised(design):
    """Numbers by column, of every run of `design`."""
    with GOLDEN.open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["design"] == design]
    return [{k: float(v) for k, v in row.items() if k != "design" and v} for row in rows]


def array_of(row):
    names = ("rows", "columns", "operand_bits", "accumulator_bits")
    return PEArraySpec(**{name: int(row[name]) for name in names})


def fitted(terms, amounts):
    """Weights of `terms` that make the squares of the relative errors least."""
    scaled = np.array(terms, float) / np.array(amounts)[:, None]
    return np.linalg.lstsq(scaled, np.ones(len(amounts)), rcond=None)[0]


def largest_error(weights, terms, amounts):
    return max(abs(dot(weights, t) / a - 1) for t, a in zip(terms, amounts, strict=True))


@pytest.mark.parametrize("design", FITS)
@pytest.mark.parametrize("primitive", TERMS)
def test_weights_of_an_array_err_by_3_percent_at_most_and_no_fit_is_better(design, primitive):
    rows, weights = synthesised(design), getattr(FITS[design], primitive)
    terms = [TERMS[primitive](array_of(row)) for row in rows]
    amounts = [row[primitive] for row in rows]
    error = largest_error(weights, terms, amounts)
    assert error < 0.03
    assert error < largest_error(fitted(terms, amounts), terms, amounts) + 0.01


@pytest.mark.parametrize("primitive", TERMS)
def test_the_largest_array_is_foreseen_from_the_smaller_ones(primitive):
    for design in FITS:
        rows = synthesised(design)
        terms = [TERMS[primitive](array_of(row)) for row in rows]
        amounts = [row[primitive] for row in rows]
        small = [number for number, row in enumerate(rows) if row["rows"] < 16]
        assert len(small) < len(rows)
        weights = fitted([terms[number] for number in small], [amounts[number] for number in small])
        assert largest_error(weights, terms, amounts) < 0.07


@pytest.mark.parametrize("design", FITS)
def test_a_pe_is_one_slice_and_the_sequencer_a_few(design):
    for row in synthesised(design):
        sequencer = row["dsp_slices"] - row["rows"] * row["columns"]
        assert sequencer == {"output_stationary": 3, "weight_stationary": 2}[design]


def test_a_vector_unit_is_its_control_and_its_lanes():
    for row in synthesised("vector_unit"):
        assert row["dsp_slices"] == row["lanes"] * LANE.dsp_slices
        for primitive in TERMS:
            estimate = getattr(CONTROL, primitive) + row["lanes"] * getattr(LANE, primitive)
            assert estimate == pytest.approx(row[primitive], rel=0.02)


def machine(**choices):
    return replace(boards.ZCU104, check_board=False, **choices)


def test_packing_halves_the_slices_and_moves_the_sums_to_the_fabric():
    plain = resources(machine(pe_array=PEArraySpec(5, 5)))["PE array"]
    packed = resources(machine(pe_array=PEArraySpec(5, 5, dsp_packing=True)))["PE array"]
    assert (plain.dsp_slices, packed.dsp_slices) == (25, 13)
    assert packed.luts - plain.luts == 25 * 40
    assert packed.flip_flops - plain.flip_flops == 25 * 32


def test_packing_needs_operands_of_8_bits():
    with pytest.raises(ValueError, match="with dsp_packing must be at most 8, not 16"):
        PEArraySpec(4, 4, operand_bits=16, dsp_packing=True)


def test_sums_on_arrival_take_a_slice_a_column():
    array = PEArraySpec(4, 12)
    with_sums = resources(machine(pe_array=array, vector_unit=VectorUnitSpec(8)))
    without = resources(
        machine(pe_array=array, vector_unit=VectorUnitSpec(8, sums_on_arrival=False))
    )
    assert without["vector unit"] == sum([LANE] * 8, start=CONTROL)
    assert with_sums["vector unit"].dsp_slices - without["vector unit"].dsp_slices == 12


def test_the_parts_of_a_machine_add_up_by_hand():
    # 8 banks of 16 KiB: 2K words of 64 bits, 4 BRAM36 of 1K x 36; FIFOs of 512 words of 128 bits
    buffer = BufferSpec(128 * 1024, banks=8, memory=Memory.BRAM)
    parts = resources(
        machine(
            buffers=replace(
                boards.ZCU104.buffers,
                input=buffer,
                weight=replace(buffer, memory=Memory.URAM),
                output=replace(buffer, slots=1),
                gradient=BufferSpec(64, banks=1),
                resident_bytes=0,
            ),
            dma=DmaSpec(16, 16),
        )
    )
    assert parts["input buffer"] == Resources(bram36=32)
    assert parts["weight buffer"] == Resources(uram=8)
    assert parts["output buffer"] == Resources(bram36=32)
    assert parts["gradient buffer"] == Resources(luts=128)
    assert parts["DMA"] == Resources(bram36=4)
    assert list(parts)[:2] == ["PE array", "vector unit"]


def test_buffers_go_where_the_board_has_room():
    assert placement(boards.ZCU104) == {
        ("", "input"): Memory.URAM,
        ("", "weight"): Memory.BRAM,
        ("", "output"): Memory.URAM,
        ("", "gradient"): Memory.BRAM,
        ("", "resident"): Memory.URAM,
    }
    assert set(placement(boards.ZCU102).values()) == {Memory.BRAM}  # it has no URAM


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"pe_array": PEArraySpec(64, 32)}, "DSP slices .* at most the 1728 .* or dsp_packing"),
        (
            {"vector_unit": VectorUnitSpec(96, sums_on_arrival=False)},
            "LUTs of the machine .* the 230400 .* fewer rows",
        ),
        ({"pe_array": PEArraySpec(500, 2)}, "flip-flops of the machine .* the 460800 of"),
        ({"dma": DmaSpec(128, 128)}, "BRAM36 blocks of the machine .* the 312 of ZCU104.* smaller"),
    ],
)
def test_what_a_board_lacks_is_named(choices, message):
    with pytest.raises(ValueError, match=message):
        replace(boards.ZCU104, **choices)


def test_a_memory_that_was_asked_for_is_not_exchanged():
    buffers = replace(
        boards.ZCU104.buffers, weight=replace(boards.ZCU104.buffers.weight, memory=Memory.URAM)
    )
    with pytest.raises(ValueError, match="URAM blocks of the machine must be at most the 96"):
        replace(
            boards.ZCU104,
            buffers=replace(buffers, input=replace(buffers.input, memory=Memory.URAM),
                            output=replace(buffers.output, memory=Memory.URAM)),
        )  # fmt: skip
