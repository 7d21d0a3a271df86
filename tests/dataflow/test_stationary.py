"""Cycles of the systolic dataflows against closed forms, an RTL run and SCALE-Sim."""

import csv
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accsim.dataflow.base import Gemm
from accsim.dataflow.channel_broadcast import ChannelBroadcast
from accsim.dataflow.input_stationary import InputStationary
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.hardware.pe_array import NO_REGISTERS, PEArraySpec
from accsim.units import ceil_div

GOLDEN = Path(__file__).parents[1] / "golden" / "scalesim.csv"


def scalesim_rows():
    with GOLDEN.open() as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.mark.parametrize(
    ("dataflow", "size", "cycles"),
    [
        (OutputStationary(), 4, 451_599),
        (OutputStationary(), 8, 115_227),
        (OutputStationary(), 16, 30_003),
        (WeightStationary(), 8, 112_925),
        (WeightStationary(), 16, 28_277),
    ],
)
def test_cycles_of_a_196_64_576_product_are_those_of_the_verilator_run(dataflow, size, cycles):
    assert dataflow.cycles(PEArraySpec(size, size), Gemm(196, 64, 576)) == cycles


def test_cycles_of_a_small_product_are_those_of_the_verilator_run():
    array = PEArraySpec(4, 4)
    assert OutputStationary().cycles(array, Gemm(16, 16, 16)) == 271
    assert OutputStationary().cycles(replace(array, overlap=False), Gemm(16, 16, 16)) == 496


def scalesim_id(row):
    return "-".join(list(row.values())[:7])


extents = st.integers(1, 40)
arrays = st.builds(
    PEArraySpec,
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    overlap=st.booleans(),
    multiplier_latency=st.integers(1, 5),
    adder_latency=st.integers(1, 5),
)


@given(arrays, extents, extents, extents, st.integers(1, 3))
@example(PEArraySpec(4, 4), 16, 16, 16, 1)
def test_events_of_output_stationary_add_up_to_its_closed_form(array, m, n, k, groups):
    """One sum a PE: products enter it every `adder_latency` cycles. Drained in `rows` cycles."""
    rows, columns, latency = array.rows, array.columns, array.adder_latency
    folds = groups * ceil_div(m, rows) * ceil_div(n, columns)
    one_fold = k * latency + array.multiplier_latency + 2 * rows + columns + 2
    again = max(k * latency, rows) if array.overlap else one_fold
    gemm = Gemm(m, n, k, groups)
    assert OutputStationary().folds(array, gemm) == folds
    assert OutputStationary().cycles(array, gemm) == one_fold + (folds - 1) * again


@given(arrays, extents, extents, extents, st.integers(1, 3))
@example(PEArraySpec(1, 4, adder_latency=3), 2, 20, 54, 1)
def test_events_of_weight_stationary_add_up_to_its_closed_form(array, m, n, k, groups):
    """A sum takes `adder_latency` a row; weights load once the bottom row has swapped."""
    rows, columns, latency = array.rows, array.columns, array.adder_latency
    folds = groups * ceil_div(k, rows) * ceil_div(n, columns)
    stream = m + (rows + 1) * latency + columns + array.multiplier_latency + 3
    swapped = (rows - 1) * latency + 1
    again = max(m, swapped, latency) if array.overlap else rows + stream
    gemm = Gemm(m, n, k, groups)
    assert WeightStationary().folds(array, gemm) == folds
    assert WeightStationary().cycles(array, gemm) == rows + stream + (folds - 1) * again
    transposed = Gemm(n, m, k, groups)
    assert InputStationary().folds(array, transposed) == folds
    assert InputStationary().cycles(array, transposed) == rows + stream + (folds - 1) * again


EVERY = [OutputStationary(), WeightStationary(), InputStationary(), ChannelBroadcast()]
SCALESIM = {"os": OutputStationary(), "ws": WeightStationary(), "is": InputStationary()}


@pytest.mark.parametrize("row", scalesim_rows(), ids=scalesim_id)
def test_without_overlap_and_registers_the_cycles_are_those_of_scalesim(row):
    m, n, k, rows, columns = (
        int(row[name]) for name in ("M", "N", "K", "array_rows", "array_cols")
    )
    array = PEArraySpec(rows, columns, overlap=False, registers=NO_REGISTERS)
    cycles = SCALESIM[row["dataflow"]].cycles(array, Gemm(m, n, k))
    assert cycles == int(row["compute_cycles"])


@pytest.mark.parametrize("row", scalesim_rows(), ids=scalesim_id)
def test_operand_reads_are_those_of_scalesim(row):
    m, n, k = int(row["M"]), int(row["N"]), int(row["K"])
    array = PEArraySpec(int(row["array_rows"]), int(row["array_cols"]))
    accesses = SCALESIM[row["dataflow"]].accesses(array, Gemm(m, n, k))
    assert accesses.input_read_bytes == int(row["ifmap_sram_reads_words"])
    assert accesses.weight_read_bytes == int(row["filter_sram_reads_words"])
    # partial sums come back from the output buffer; SCALE-Sim does not count them
    again = 0 if row["dataflow"] == "os" else ceil_div(k, array.rows) - 1
    assert accesses.output_read_bytes == m * n * again * 4
    assert accesses.read_bytes == (
        accesses.input_read_bytes + accesses.weight_read_bytes + accesses.output_read_bytes
    )


@pytest.mark.parametrize("dataflow", EVERY)
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (5, 7, 3), (64, 64, 64), (1000, 10, 27)])
def test_never_fewer_cycles_than_macs_per_unit(dataflow, overlap, m, n, k):
    array = PEArraySpec(8, 4, overlap=overlap)
    assert dataflow.cycles(array, Gemm(m, n, k)) * array.macs_per_cycle >= m * n * k


@pytest.mark.parametrize("dataflow", EVERY)
def test_overlap_never_costs_cycles(dataflow):
    array = PEArraySpec(8, 4)
    serial = replace(array, overlap=False)
    for m, n, k in [(1, 1, 1), (9, 9, 9), (3, 100, 2), (100, 3, 100)]:
        assert dataflow.cycles(array, Gemm(m, n, k)) <= dataflow.cycles(serial, Gemm(m, n, k))


def test_only_partial_sums_take_accumulator_words():
    array = PEArraySpec(8, 4)
    assert WeightStationary().output_word_bytes(array, 8) == 1
    assert WeightStationary().output_word_bytes(array, 9) == 4
    assert OutputStationary().output_word_bytes(array, 900) == 1


@pytest.mark.parametrize("dataflow", [OutputStationary(), WeightStationary()])
@pytest.mark.parametrize("overlap", [True, False])
def test_groups_are_folds_of_their_own(dataflow, overlap):
    """A depthwise layer of 16 channels takes the folds of one that fills 16 arrays' columns."""
    array = PEArraySpec(8, 8, overlap=overlap)
    wide = dataflow.cycles(array, Gemm(100, 16 * 8, 9))
    assert dataflow.cycles(array, Gemm(100, 8, 9, groups=16)) == wide
    assert dataflow.cycles(array, Gemm(100, 1, 9, groups=16)) == wide  # 7 columns of 8 stand idle
    one = astuple(dataflow.accesses(array, Gemm(100, 1, 9)))
    all_groups = astuple(dataflow.accesses(array, Gemm(100, 1, 9, groups=16)))
    assert all_groups == tuple(16 * size_bytes for size_bytes in one)


@pytest.mark.parametrize("overlap", [True, False])
def test_groups_of_kept_inputs_are_folds_of_their_own(overlap):
    """16 groups of 104 pixels take the folds of one of 16 * 104, a fold being 8 pixels wide."""
    array = PEArraySpec(8, 8, overlap=overlap)
    wide = InputStationary().cycles(array, Gemm(16 * 104, 8, 9))
    assert InputStationary().cycles(array, Gemm(104, 8, 9, groups=16)) == wide
