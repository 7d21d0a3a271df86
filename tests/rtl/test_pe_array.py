"""The event model of the PE array against RTL: every bit and every cycle, no tolerance."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pe_array import RtlArray

from accsim.dataflow.base import RESULTS, Gemm
from accsim.dataflow.channel_broadcast import ChannelBroadcast
from accsim.dataflow.input_stationary import InputStationary
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.hardware.pe_array import PEArraySpec, RegistersSpec, Reservations
from accsim.kernels import conv2d
from accsim.kernels.fixed_point import HALF_UP, limit

DATAFLOWS = {
    "output_stationary": OutputStationary(),
    "weight_stationary": WeightStationary(),
    "input_stationary": InputStationary(),
    "channel_broadcast": ChannelBroadcast(),
}
EVERY_DATAFLOW = pytest.mark.parametrize("dataflow", DATAFLOWS)
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
    """``floor(sums / 2**shift + 1/2)``, saturated to the codes of `bits` bits."""
    return np.clip((sums + 2**shift // 2) // 2**shift, -limit(bits), limit(bits))


def check(build, dataflow, spec, model, part=None, taps=1):
    """The RTL with the parameters of `spec` against exact integers and the cycles of `model`.

    `part` is the part of the array that is in use; all of it by default. Of each of `taps` the
    products have as many channels as they have terms without.
    """
    bits = spec.operand_bits
    array, rng = RtlArray(build, dataflow, spec, bits, taps), np.random.default_rng(0)
    lowest = -(2 ** (bits - 1))
    for number, (m, n, channels) in enumerate(shapes(part or spec, rng)):
        k = taps * channels
        inputs, weights = (rng.integers(lowest, -lowest, size) for size in ((m, k), (k, n)))
        if number == 0:
            inputs[:], weights[:] = lowest, lowest  # the largest product
        shift = number % (2 * bits)
        outcome = array(inputs, weights, shift, part)
        label = f"{dataflow} {m}x{n}x{k}"
        exact = inputs @ weights
        np.testing.assert_array_equal(outcome.sums, exact, label)
        np.testing.assert_array_equal(outcome.results, rounded_half_up(exact, shift, bits), label)
        assert outcome.cycles == DATAFLOWS[dataflow].cycles(model, Gemm(m, n, k, taps=taps)), label


@EVERY_DATAFLOW
@OVERLAP
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 4), (8, 8)])
def test_bits_and_cycles_are_those_of_the_rtl(build, dataflow, overlap, rows, columns):
    spec = PEArraySpec(rows, columns, overlap=overlap, parts=False)
    check(build, dataflow, spec, spec)


@EVERY_DATAFLOW
@OVERLAP
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 8), (8, 2), (5, 7)])
def test_a_part_of_an_array_has_the_bits_and_cycles_of_a_smaller_one(
    build, dataflow, overlap, rows, columns
):
    spec = PEArraySpec(8, 8, overlap=overlap)
    part = replace(spec, rows=rows, columns=columns)
    check(build, dataflow, spec, part, part)


@OVERLAP
def test_taps_of_a_channel_broadcast_are_those_of_the_rtl(build, overlap):
    spec = PEArraySpec(8, 4, overlap=overlap, adder_latency=2)
    check(build, "channel_broadcast", spec, spec, taps=9)


@EVERY_DATAFLOW
@OVERLAP
def test_wide_operands_are_those_of_the_rtl(build, dataflow, overlap):
    spec = PEArraySpec(8, 4, operand_bits=16, accumulator_bits=48, overlap=overlap)
    check(build, dataflow, spec, spec)


@EVERY_DATAFLOW
@OVERLAP
@pytest.mark.parametrize(
    ("rows", "columns", "bits", "multiplier_latency", "adder_latency"),
    [(4, 4, 8, 3, 2), (3, 5, 2, 1, 3), (1, 3, 6, 2, 4)],
)
def test_latencies_are_those_of_the_rtl(
    build, dataflow, overlap, rows, columns, bits, multiplier_latency, adder_latency
):
    spec = PEArraySpec(
        rows,
        columns,
        operand_bits=bits,
        overlap=overlap,
        multiplier_latency=multiplier_latency,
        adder_latency=adder_latency,
    )
    check(build, dataflow, spec, spec)


@EVERY_DATAFLOW
@pytest.mark.parametrize(("bits", "accumulator_bits"), [(8, 32), (16, 48), (8, 18)])
def test_a_pointwise_convolution_of_the_kernels_has_the_bits_of_the_rtl(
    build, dataflow, bits, accumulator_bits
):
    """18 bits hold 8 of the largest products; the sums of 100 wrap."""
    spec = PEArraySpec(8, 4, operand_bits=bits, accumulator_bits=accumulator_bits)
    array, rng = RtlArray(build, dataflow, spec, bits), np.random.default_rng(0)
    pixels, inputs, outputs = 30, 100, 10
    code, most = (np.int8 if bits == 8 else np.int16), limit(bits)
    x = rng.integers(-most, most + 1, (1, pixels, 1, inputs)).astype(code)
    weights = rng.integers(-most, most + 1, (1, 1, inputs, outputs)).astype(code)
    wrapped = 0
    for shift in range(0, 2 * bits, 3):
        product = conv2d.forward(x, weights, 1, 0, shift, HALF_UP, most, accumulator_bits)
        outcome = array(x[0, :, 0].astype(int), weights[0, 0].astype(int), shift)
        np.testing.assert_array_equal(outcome.results, product.values[0, :, 0])
        wrapped += product.overflowed
    assert bool(wrapped) == (accumulator_bits == 18)


@EVERY_DATAFLOW
@OVERLAP
def test_a_part_of_an_array_with_latencies_is_that_of_the_rtl(build, dataflow, overlap):
    spec = PEArraySpec(4, 4, overlap=overlap, multiplier_latency=3, adder_latency=2)
    part = replace(spec, rows=2, columns=3)
    check(build, dataflow, spec, part, part)


@pytest.mark.scheduled
@EVERY_DATAFLOW
@OVERLAP
@pytest.mark.parametrize("latency", [1, 2])
def test_a_16x16_array_is_that_of_the_rtl(build, dataflow, overlap, latency):
    spec = PEArraySpec(16, 16, overlap=overlap, adder_latency=latency)
    check(build, dataflow, spec, spec)


@EVERY_DATAFLOW
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
def test_an_error_of_one_cycle_in_the_model_is_caught(build, dataflow, wrong):
    spec = PEArraySpec(4, 4)
    with pytest.raises(AssertionError, match=f"{dataflow} 1x1x1"):
        check(build, dataflow, spec, replace(spec, **wrong))


class Forgetful(Reservations):
    """Events that take nothing whose name has one of `forgotten` in it."""

    def __init__(self, forgotten):
        super().__init__()
        self.forgotten = forgotten

    def take(self, holds):
        super().take({name: span for name, span in holds.items() if not self._forgets(name)})

    def _forgets(self, name):
        return any(part in name for part in self.forgotten)


@pytest.mark.parametrize(
    ("dataflow", "forgotten", "spec"),
    [
        ("output_stationary", ["shadow", "row port"], PEArraySpec(4, 4)),
        ("output_stationary", ["sum"], PEArraySpec(4, 4, multiplier_latency=3, adder_latency=2)),
        (
            "channel_broadcast",
            ["first sum"],
            PEArraySpec(4, 4, multiplier_latency=3, adder_latency=2),
        ),
        ("weight_stationary", ["next weights"], PEArraySpec(4, 4)),
        (
            "weight_stationary",
            ["bottom row"],
            PEArraySpec(4, 4, multiplier_latency=3, adder_latency=2),
        ),
        (
            "weight_stationary",
            ["first sum"],
            PEArraySpec(1, 3, operand_bits=6, multiplier_latency=2, adder_latency=4),
        ),
    ],
)
def test_a_model_that_forgets_a_conflict_is_caught(build, monkeypatch, dataflow, forgotten, spec):
    events = DATAFLOWS[dataflow]

    def cycles(array, gemm):
        time = Forgetful(forgotten)
        events.play(time, array, gemm)
        return time.free_at[RESULTS]

    monkeypatch.setitem(DATAFLOWS, dataflow, SimpleNamespace(cycles=cycles))
    with pytest.raises(AssertionError, match=dataflow):
        check(build, dataflow, spec, spec)


def test_an_error_of_one_bit_is_caught(build, monkeypatch):
    spec = PEArraySpec(4, 4)
    monkeypatch.setitem(globals(), "rounded_half_up", lambda sums, shift, bits: sums >> shift)
    with pytest.raises(AssertionError, match="output_stationary"):
        check(build, "output_stationary", spec, spec)
