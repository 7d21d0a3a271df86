"""Residual sums against exact integers; alignment of exponents."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from accsim.kernels import residual
from accsim.kernels.fixed_point import limit

KEYS = [-1, -2, -3, -4, 5]
SHAPE = (9, 4, 6, 10)  # more than one chunk, and a rest


def maps(rng, bits):
    largest = limit(bits)
    shape = (2, *SHAPE)
    return rng.integers(-largest, largest + 1, shape).astype(np.int8 if bits == 8 else np.int16)


def check(result, wide, shift, key, bits):
    """Values, largest and saturated of a kernel are those of exact integers, rounded."""
    values, largest, saturated = result
    codes = reference.rounded_map(wide, shift, key, limit(bits))
    assert np.array_equal(values, codes)
    assert values.dtype == (np.int8 if bits == 8 else np.int16)
    assert largest == np.abs(wide).max()
    unlimited = reference.rounded_map(wide, shift, key, 2**62)
    assert saturated == (unlimited != codes).sum()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("eighths", [0, 1, 8])
def test_add_is_exact(eighths, key, bits, rng):
    a, b = maps(rng, bits)
    for left_a, left_b, shift in ((3, 0, 6), (0, 16, 19), (0, 0, 0)):
        total = (a.astype(np.int64) << left_a) + (b.astype(np.int64) << left_b)
        wide = np.where(total > 0, 8 * total, eighths * total)
        result = residual.add(a, b, left_a, left_b, eighths, shift, key, limit(bits))
        check(result, wide, shift, key, bits)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("key", KEYS)
def test_slope_error_is_exact(key, bits, rng):
    dz, z = maps(rng, bits)
    wide = dz.astype(np.int64) * np.where(z > 0, 8, 1)
    check(residual.slope_error(dz, z, 1, 3, key, limit(bits)), wide, 3, key, bits)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("eighths", [0, 1])
def test_activate_is_exact(eighths, key, bits, rng):
    x, _ = maps(rng, bits)
    wide = x.astype(np.int64) * np.where(x > 0, 8, eighths)
    check(residual.activate(x, eighths, 3, key, limit(bits)), wide, 3, key, bits)


def test_a_16_bit_error_takes_the_slope_of_an_8_bit_map(rng):
    dz, _ = maps(rng, 16)
    z, _ = maps(rng, 8)
    wide = dz.astype(np.int64) * np.where(z > 0, 8, 0)
    check(residual.slope_error(dz, z, 0, 3, -1, limit(16)), wide, 3, -1, 16)


@given(st.integers(-40, 10), st.integers(-40, 10))
def test_alignment_brings_both_to_one_exponent(exponent_a, exponent_b):
    left_a, left_b, common = residual.alignment(exponent_a, exponent_b)
    assert min(left_a, left_b) >= 0
    assert max(left_a, left_b) <= residual.LARGEST_ALIGNMENT
    if abs(exponent_a - exponent_b) <= residual.LARGEST_ALIGNMENT:
        assert exponent_a - left_a == exponent_b - left_b == common
