"""The event model of the PE array against RTL: every bit and every cycle, no tolerance."""

from dataclasses import replace

import numpy as np
import pytest
from systolic_array import SystolicArray

from accsim.dataflow.base import Gemm
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.hardware.pe_array import PEArraySpec, RegistersSpec

DATAFLOWS = {"output_stationary": OutputStationary(), "weight_stationary": WeightStationary()}
TOPS = pytest.mark.parametrize("top", DATAFLOWS)
OVERLAP = pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "serial"])
SHAPES = 40


def shapes(spec, rng):
    """SHAPES products (m, n, k): what folds have to get right, then ragged ones."""
    rows, columns = spec.rows, spec.columns
    yield from ((1, 1, 1), (rows, columns, rows), (2 * rows, columns + 1, 1), (1, 1, 5 * rows + 1))
    yield from ((2, 3 * columns, rows - 1 or 1), (3 * rows + 1, 1, 2), (rows + 1, 7, 100))
    yield from ((100, 30, 27), (64, 48, 9), (rows - 1 or 1, 2 * columns, 3 * rows))
    for size in np.geomspace(3, 70, SHAPES - 10):
        yield tuple(int(extent) for extent in rng.integers(1, size + 1, 3))


def rounded_half_up(sums, shift, bits):
    """``floor(sums / 2**shift + 1/2)``, saturated to `bits` bits."""
    half, limit = 2**shift // 2, 2 ** (bits - 1) - 1
    return np.clip((sums + half) // 2**shift, -limit, limit)


def check(build, top, spec, model):
    """The RTL with the parameters of `spec` against exact integers and the cycles of `model`."""
    bits = spec.operand_bits
    array, rng = SystolicArray(build, top, spec, result_bits=bits), np.random.default_rng(0)
    limit = 2 ** (bits - 1)
    for number, (m, n, k) in enumerate(shapes(spec, rng)):
        inputs, weights = (rng.integers(-limit, limit, size) for size in ((m, k), (k, n)))
        if number == 0:
            inputs[:], weights[:] = -limit, -limit  # the largest product
        shift = number % (2 * bits)
        outcome = array(inputs, weights, shift)
        label = f"{top} {m}x{n}x{k}"
        exact = inputs @ weights
        np.testing.assert_array_equal(outcome.sums, exact, label)
        np.testing.assert_array_equal(outcome.results, rounded_half_up(exact, shift, bits), label)
        assert outcome.cycles == DATAFLOWS[top].cycles(model, Gemm(m, n, k)), label


@TOPS
@OVERLAP
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 4), (8, 8)])
def test_bits_and_cycles_are_those_of_the_rtl(build, top, overlap, rows, columns):
    spec = PEArraySpec(rows, columns, overlap=overlap)
    check(build, top, spec, spec)


@TOPS
@OVERLAP
def test_wide_operands_are_those_of_the_rtl(build, top, overlap):
    spec = PEArraySpec(8, 4, operand_bits=16, accumulator_bits=48, overlap=overlap)
    check(build, top, spec, spec)


@TOPS
@OVERLAP
@pytest.mark.parametrize(
    ("rows", "columns", "bits", "multiplier_latency", "adder_latency"),
    [(4, 4, 8, 3, 2), (3, 5, 2, 1, 3), (1, 3, 6, 2, 4)],
)
def test_latencies_are_those_of_the_rtl(
    build, top, overlap, rows, columns, bits, multiplier_latency, adder_latency
):
    spec = PEArraySpec(
        rows,
        columns,
        operand_bits=bits,
        overlap=overlap,
        multiplier_latency=multiplier_latency,
        adder_latency=adder_latency,
    )
    check(build, top, spec, spec)


@pytest.mark.scheduled
@TOPS
@OVERLAP
@pytest.mark.parametrize("latency", [1, 2])
def test_a_16x16_array_is_that_of_the_rtl(build, top, overlap, latency):
    spec = PEArraySpec(16, 16, overlap=overlap, adder_latency=latency)
    check(build, top, spec, spec)


@TOPS
@pytest.mark.parametrize(
    "wrong",
    [
        {"registers": RegistersSpec(memory_cycles=2)},
        {"registers": RegistersSpec(operand_cycles=0)},
        {"registers": RegistersSpec(sum_cycles=2)},
        {"registers": RegistersSpec(output_cycles=0)},
        {"multiplier_latency": 2},
        {"adder_latency": 2},
    ],
    ids=lambda wrong: str(next(iter(wrong.values()))),
)
def test_an_error_of_one_cycle_in_the_model_is_caught(build, top, wrong):
    spec = PEArraySpec(4, 4)
    with pytest.raises(AssertionError, match=f"{top} 1x1x1"):
        check(build, top, spec, replace(spec, **wrong))


def test_an_error_of_one_bit_is_caught(build, monkeypatch):
    spec = PEArraySpec(4, 4)
    monkeypatch.setitem(globals(), "rounded_half_up", lambda sums, shift, bits: sums >> shift)
    with pytest.raises(AssertionError, match="output_stationary"):
        check(build, "output_stationary", spec, spec)
