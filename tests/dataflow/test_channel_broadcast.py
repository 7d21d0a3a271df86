"""Cycles against EF-Train's model and by hand; accesses counted by walking the loops."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accsim.dataflow.base import Gemm
from accsim.dataflow.channel_broadcast import ChannelBroadcast
from accsim.hardware.pe_array import NO_REGISTERS, PEArraySpec
from accsim.units import ceil_div

extents = st.integers(1, 40)


@given(extents, extents, extents, extents, extents, st.sampled_from([1, 9, 25]), st.integers(1, 3))
def test_without_registers_the_cycles_are_those_of_ef_trains_model(
    rows, columns, pixels, outputs, inputs, taps, groups
):
    """Trow * Tcol * K * K a tile of Tm x Tn channels, forward and in the update of weights."""
    array = PEArraySpec(rows, columns, registers=NO_REGISTERS)
    tiles = groups * ceil_div(outputs, rows) * ceil_div(inputs, columns)
    forward = Gemm(pixels, outputs, inputs * taps, groups, taps)
    of_weights = Gemm(inputs * taps, outputs, pixels, groups, taps, of_weights=True)
    for gemm in (forward, of_weights):
        assert ChannelBroadcast().folds(array, gemm) == tiles
        assert ChannelBroadcast().cycles(array, gemm) == tiles * taps * pixels


FORWARD, OF_WEIGHTS = Gemm(100, 32, 9 * 32, taps=9), Gemm(9 * 32, 32, 100, taps=9, of_weights=True)


def test_the_pipeline_is_paid_once_with_overlap_and_by_fold_without():
    """Memory, operand, 3 of the multiplier, 4 adders of 2, sum register, adder of 2, output."""
    depth = 1 + 1 + 3 + 4 * 2 + 1 + 2 + 1
    choices = {"multiplier_latency": 3, "adder_latency": 2}
    array = PEArraySpec(16, 16, **choices)
    assert ChannelBroadcast().cycles(array, FORWARD) == 2 * 2 * 900 + depth
    assert ChannelBroadcast().cycles(array, OF_WEIGHTS) == 2 * 2 * 900 + depth - 4 * 2  # no tree
    serial = PEArraySpec(16, 16, overlap=False, **choices)
    assert ChannelBroadcast().cycles(serial, FORWARD) == 2 * 2 * (900 + depth)


def test_a_sum_that_is_due_before_it_left_the_adder_waits():
    """6 pixels, or 1 tap, and an adder of 8 cycles: a visit takes 8."""
    array = PEArraySpec(16, 16, adder_latency=8, registers=NO_REGISTERS)
    assert ChannelBroadcast().cycles(array, Gemm(6, 16, 16 * 9, taps=9)) == 8 * 8 + 6
    pointwise = Gemm(16, 16, 50, of_weights=True)
    assert ChannelBroadcast().cycles(array, pointwise) == 49 * 8 + 1


def test_a_depthwise_layer_uses_one_unit():
    array = PEArraySpec(16, 16, registers=NO_REGISTERS)
    depthwise = Gemm(100, 1, 9, groups=32, taps=9)
    assert ChannelBroadcast().cycles(array, depthwise) == depthwise.macs


@pytest.mark.parametrize("gemm", [Gemm(5, 6, 4 * 7, 2, 4), Gemm(4 * 7, 6, 5, 2, 4, True)])
def test_accesses_are_those_of_the_loops(gemm):
    """Each cycle reads what it does not hold already; sums outlive a fold only where k goes on."""
    array = PEArraySpec(4, 3, operand_bits=16)
    pixels, channels = (gemm.k, gemm.m // 4) if gemm.of_weights else (gemm.m, gemm.k // 4)
    inputs = weights = sums_read = sums_written = 0
    for _, out, low in product(range(2), range(0, 6, 4), range(0, channels, 3)):
        wide, deep = min(4, 6 - out), min(3, channels - low)
        inputs += pixels * 4 * deep  # every pixel under every tap
        if gemm.of_weights:
            weights += pixels * wide  # the error of a pixel, for all taps
            sums_written += 4 * deep * wide
        else:
            weights += 4 * deep * wide
            sums_written += 4 * pixels * wide
            sums_read += (4 if low else 3) * pixels * wide  # the first tap has nothing to add to
    accesses = ChannelBroadcast().accesses(array, gemm)
    assert accesses.input_read_bytes == 2 * inputs
    assert accesses.weight_read_bytes == 2 * weights
    assert accesses.output_read_bytes == 4 * sums_read
    assert accesses.output_write_bytes == 4 * sums_written
    assert ChannelBroadcast().output_word_bytes(array, gemm.k) == 4
