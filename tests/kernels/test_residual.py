"""Residual sums against exact integers; alignment of exponents."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from accsim.kernels import residual


@pytest.mark.parametrize("eighths", [0, 1, 8])
def test_add_is_exact(eighths, rng):
    a, b = (rng.integers(-127, 128, (3, 4, 5, 6)).astype(np.int8) for _ in range(2))
    total = (a.astype(np.int64) << 3) + b
    wide = np.where(total > 0, 8 * total, eighths * total)
    z, largest, saturated = residual.add(a, b, 3, 0, eighths, 6, -1, 127)
    assert np.array_equal(z, reference.rounded_map(wide, 6, -1, 127))
    assert largest == np.abs(wide).max()
    assert saturated == (np.abs(reference.half_up(wide, 6)) > 127).sum()


def test_slope_error_is_exact(rng):
    dz, z = (rng.integers(-127, 128, (3, 2, 2, 6)).astype(np.int8) for _ in range(2))
    wide = dz.astype(np.int64) * np.where(z > 0, 8, 1)
    dx, _, _ = residual.slope_error(dz, z, 1, 3, 5, 127)
    assert np.array_equal(dx, reference.rounded_map(wide, 3, 5, 127))


@given(st.integers(-40, 10), st.integers(-40, 10))
def test_alignment_brings_both_to_one_exponent(exponent_a, exponent_b):
    left_a, left_b, common = residual.alignment(exponent_a, exponent_b)
    assert min(left_a, left_b) >= 0
    assert max(left_a, left_b) <= residual.LARGEST_ALIGNMENT
    if abs(exponent_a - exponent_b) <= residual.LARGEST_ALIGNMENT:
        assert exponent_a - left_a == exponent_b - left_b == common
