"""Rounding, random bits and roots against exact Python integers."""

from math import isqrt

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from accsim.kernels.fixed_point import (
    bit_length,
    integer_sqrt,
    limit,
    narrowing_shift,
    noise32,
    random_key,
    random_words,
    round64,
    round_shift,
    round_shift_random,
)
from accsim.numerics import Rounding


@njit
def noise(value, key, index, shift):
    """`noise32`, callable from Python."""
    return noise32(np.int32(value), key, index, shift)


@given(st.integers(0, 2**32 - 1))
def test_hash_is_lowbias32(counter):
    assert random_words(1, counter)[0] == reference.hash32(counter)


def test_keys_differ_by_every_label():
    keys = {random_key(seed, step) for seed in range(30) for step in range(30)}
    assert len(keys) == 900
    assert random_key(1, 2) != random_key(2, 1)


@given(st.integers(-(2**40), 2**40), st.integers(0, 30))
def test_round_shift_is_half_up(value, shift):
    assert round_shift.py_func(value, shift) == reference.half_up(value, shift)


@pytest.mark.parametrize("shift", [1, 3, 8, 31])
def test_noise_rounds_up_as_often_as_the_fraction_says(shift):
    draws = 4000
    fraction = 0.3
    value = int(fraction * 2**shift)
    ups = sum((value + noise(value, 77, i, shift)) >> shift for i in range(draws))
    exact = value / 2**shift
    assert abs(ups / draws - exact) < 4 * (exact * (1 - exact) / draws) ** 0.5 + 1e-9


@given(st.integers(-(2**50), 2**50), st.integers(0, 45), st.integers(0, 2**32 - 1))
def test_stochastic_rounding_goes_to_a_neighbour(value, shift, random):
    rounded = round_shift_random.py_func(value, shift, random)
    assert value >> shift <= rounded <= -(-value >> shift)


def test_no_shift_changes_nothing():
    assert round_shift_random.py_func(-5, 0, 2**32 - 1) == -5
    assert noise(-5, 3, 1, 0) == 0
    assert noise(-5, -1, 1, 0) == 0


@given(st.integers(0, 2**62 - 1))
def test_integer_sqrt_is_exact(value):
    assert integer_sqrt(np.int64(value)) == isqrt(value)
    assert bit_length(np.int64(value)) == value.bit_length()


@given(st.integers(0, 2**31 - 1), st.integers(2, 16))
def test_narrowing_shift_is_the_least_that_fits(largest, bits):
    shift = narrowing_shift(largest, bits)
    assert reference.half_up(largest, shift) <= limit(bits)
    assert shift == 0 or reference.half_up(largest, shift - 1) > limit(bits)


@njit
def wide(value, shift, key, random):
    """`round64`, callable from Python."""
    return round64(value, shift, key, random)


@given(st.integers(-(2**30), 2**30), st.integers(0, 30), st.sampled_from(list(Rounding)))
def test_every_rounding_is_the_twin_in_32_and_64_bits(value, shift, rounding):
    if rounding in (Rounding.STOCHASTIC, Rounding.STOCHASTIC_LFSR):
        return
    expected = reference.rounded(value, shift, rounding, 0)
    assert wide(value, shift, int(rounding), 0) == expected
    assert (value + int(noise(value, int(rounding), 0, shift))) >> shift == expected
