"""How many bits a moving average needs: the teacher's error by store, rounding and shift.

A student's weights jump by 5 % of full scale and jitter by a tenth of that around their new mean. A
teacher follows by `moving_average` for 8 time constants. Its rms distance from the mean, in jumps,
says whether it could: 1 is frozen. A step is the distance divided by a power of two, so alpha is
127/128 (shift 7), the nearest to 0.99, or 1023/1024 (shift 10), the nearest to 0.999.
"""

import functools

import numpy as np
import pytest

from accsim.kernels import update
from accsim.numerics import Rounding

STORES = (8, 10, 12, 16, 18, 20, 24)
WORDS = 400
STUDENT_BITS, SCALE_BITS = 16, 24  # the scale that all stores share
FULL = 1 << (STUDENT_BITS - 1)
JUMP, JITTER = FULL // 20, FULL // 200


def last_bit(bits):
    """Last bit of a store, in jumps."""
    return 2 ** (1 - bits) * FULL / JUMP


def exact_error(shift):
    """What an exact average passes of white jitter: sqrt((1 - alpha) / (1 + alpha)) of it."""
    return JITTER / JUMP * np.sqrt(2**-shift / (2 - 2**-shift))


@functools.cache
def teacher_errors(shift):
    """Rms and mean error by (store bits, name of the rounding), in jumps.

    "residual" is rounding to nearest with the dropped part kept.
    """
    rng = np.random.default_rng(shift)
    start = rng.integers(-FULL // 2, FULL // 2, WORDS)
    goal = start + np.rint(rng.normal(0, JUMP, WORDS)).astype(np.int64)
    lift = SCALE_BITS - STUDENT_BITS
    kinds = {
        (bits, name): (
            ((start << lift) >> SCALE_BITS - bits << SCALE_BITS - bits).astype(np.int32),
            np.zeros(WORDS, np.int16) if name == "residual" else None,
        )
        for bits in STORES
        for name in ("nearest", "truncate", "stochastic", "residual")
    }
    for step in range(8 << shift):
        student = goal + np.rint(rng.normal(0, JITTER, WORDS)).astype(np.int64)
        student = student.astype(np.int16)
        for (bits, name), (teacher, residual) in kinds.items():
            coarse = SCALE_BITS - bits
            rounding = {"truncate": Rounding.TRUNCATE, "stochastic": step}.get(
                name, Rounding.NEAREST_EVEN
            )
            update.moving_average(
                teacher, student, 1, shift, coarse, lift, (1 << SCALE_BITS - 1) - (1 << coarse),
                rounding,
                teacher, None, residual,
            )  # fmt: skip
    errors = {}
    for kind, (teacher, _) in kinds.items():
        error = (teacher / 2**lift - goal) / JUMP
        errors[kind] = (np.sqrt((error**2).mean()), error.mean())
    return errors


@pytest.mark.parametrize(("shift", "frozen", "enough"), [(7, 8, 16), (10, 12, 18)])
def test_nearest_needs_the_shift_in_bits(shift, frozen, enough):
    """Distances below 2**(shift - 1) last bits round to no step at all.

    That is 64 last bits for 127/128, half of full scale in 8 bits; jitter helps the last of them.
    """
    errors = teacher_errors(shift)
    for bits in STORES:
        rms, _ = errors[bits, "nearest"]
        if bits <= frozen:
            assert 0.9 < rms < 1.1
        elif bits >= enough:
            assert rms == pytest.approx(exact_error(shift), rel=0.15)
        else:
            assert 0.05 < rms < 0.98


@pytest.mark.parametrize("shift", [7, 10])
def test_truncation_drifts_down_by_half_a_last_bit_a_step(shift):
    """Every step loses half a last bit: 2**(shift - 1) last bits below the mean when it balances.

    A store so coarse that this exceeds the jump only ever falls, to the jitter's lowest point.
    """
    errors = teacher_errors(shift)
    for bits in STORES:
        rms, mean = errors[bits, "truncate"]
        drift = 2 ** (shift - 1) * last_bit(bits)
        if drift < 0.1:
            assert mean == pytest.approx(-drift, rel=0.1, abs=3 * exact_error(shift) / WORDS**0.5)
        else:
            assert mean < -0.25
            assert rms > 0.25


@pytest.mark.parametrize("shift", [7, 10])
def test_stochastic_rounding_follows_in_any_store(shift):
    errors = teacher_errors(shift)
    assert errors[8, "stochastic"][0] < 0.15
    assert errors[10, "stochastic"][0] < 0.06
    assert errors[12, "stochastic"][0] < 0.03
    for bits in (18, 20, 24):
        assert errors[bits, "stochastic"][0] == pytest.approx(exact_error(shift), rel=0.2)


@pytest.mark.parametrize("shift", [7, 10])
@pytest.mark.parametrize("bits", STORES)
def test_a_residual_frees_nearest_to_the_last_bit(shift, bits):
    """The store alternates between the two codes around the mean, in proportion to their nearness.

    A share p of the upper code has variance p (1 - p), 1/6 on average: an rms of 0.41 last bits, or
    0.06 jumps in 8 bits and 0.016 in 10, where nearest alone is frozen at 0.9 to 1.0.
    """
    rms, mean = teacher_errors(shift)[bits, "residual"]
    assert rms == pytest.approx(np.hypot(last_bit(bits) / 6**0.5, exact_error(shift)), rel=0.15)
    assert abs(mean) < 4 * rms / WORDS**0.5
