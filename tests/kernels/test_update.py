"""Stored weights against exact Python integers: SGD, the teacher's average, narrowing."""

import numpy as np
import pytest
import reference

from accsim.kernels import update


def random_shift(value, shift, random):
    if shift > 32:
        value, shift = value >> (shift - 32), 32
    return (value + (random >> (32 - shift))) >> shift


@pytest.mark.parametrize("exponent", [-16, -3, 4, 9])
def test_sgd_is_bit_exact(exponent, rng):
    count, rate, factor, decay, key = 400, 1_677_721, 230, 214_748, 12345
    master = rng.integers(-32767, 32768, count).astype(np.int16)
    momentum = rng.integers(-32767, 32768, count).astype(np.int16)
    gradient = rng.integers(-(2**20), 2**20, count).astype(np.int32)
    expected_master, expected_momentum = [], []
    for i in range(count):
        left = exponent - 24 + 4 + 16
        push = int(gradient[i]) * rate
        wide = push << left if left >= 0 else reference.half_up(push, -left)
        wide += factor * int(momentum[i]) << 8
        wide += reference.half_up(int(master[i]) * decay, 32 - 16 - 4)
        random = reference.hash32(i ^ key)
        step = max(-32767, min(32767, random_shift(wide, 16, random)))
        moved = int(master[i]) - random_shift(step, 4, reference.hash32(random))
        expected_momentum.append(step)
        expected_master.append(max(-32767, min(32767, moved)))
    before = master.copy()
    largest, unmoved, saturated = update.sgd(
        master, momentum, gradient, exponent, rate, factor, decay, key, 32767, 32767
    )
    assert master.tolist() == expected_master
    assert momentum.tolist() == expected_momentum
    assert largest == np.abs(master.astype(int)).max()
    assert unmoved == ((master == before) & (gradient != 0)).sum()
    if exponent >= 4:
        assert saturated > 0


def test_sgd_follows_the_real_formula():
    """0.1 * 0.5 with no momentum moves a weight by 0.05 on average."""
    master = np.zeros(2000, np.int16)
    momentum = np.zeros(2000, np.int16)
    gradient = np.full(2000, 1 << 20, np.int32)  # 0.5 at exponent -21
    rate = round(0.1 * 2**24)
    update.sgd(master, momentum, gradient, -21 + 14, rate, 0, 0, 7, 32767, 32767)
    assert abs(master.mean() / 2**14 + 0.05) < 1e-5


@pytest.mark.parametrize(("numerator", "shift", "coarse"), [(1, 7, 0), (5, 7, 0), (1, 7, 8)])
def test_blend_is_bit_exact(numerator, shift, coarse, rng):
    teacher = rng.integers(-127, 128, 300).astype(np.int16) << 8
    student = rng.integers(-32767, 32768, 300).astype(np.int16)
    out = np.empty_like(teacher)
    moved = update.blend(teacher, student, numerator, shift, coarse, 99, out)
    for i in range(300):
        distance = (int(student[i]) - int(teacher[i])) * numerator
        step = random_shift(distance, shift + coarse, reference.hash32(i ^ 99)) << coarse
        limit = 2**15 - 2**coarse
        assert out[i] == max(-limit, min(limit, int(teacher[i]) + step))
        assert out[i] % 2**coarse == 0
    assert moved == (out != teacher).sum()


def test_teacher_is_the_moving_average():
    """A 16-bit teacher follows 127/128 of itself and 1/128 of a constant student."""
    teacher = np.zeros(1000, np.int16)
    student = np.full(1000, 16000, np.int16)
    for step in range(200):
        update.blend(teacher, student, 1, 7, 0, step, teacher)
    assert abs(teacher.mean() - 16000 * (1 - (127 / 128) ** 200)) < 8


def test_narrow_rounds_half_up_and_saturates():
    out = np.empty(4, np.int8)
    update.narrow(np.array([127, 128, -129, 32767], np.int16), 8, 127, out)
    assert out.tolist() == [0, 1, -1, 127]
