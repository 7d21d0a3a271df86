"""Convolutions against exact sums, bit for bit, on ragged shapes and extreme values."""

import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accsim.kernels import conv2d
from accsim.numerics import Rounding

SHAPES = [  # images, height, width, inputs, outputs, kernel, stride, padding, groups
    (1, 1, 1, 1, 1, 1, 1, 0, 1),
    (5, 7, 6, 3, 5, 3, 1, 1, 1),
    (4, 8, 8, 16, 32, 3, 1, 0, 1),
    (9, 9, 10, 5, 17, 3, 2, 1, 1),
    (6, 8, 8, 7, 9, 1, 2, 0, 1),
    (3, 12, 9, 2, 6, 5, 1, 2, 1),
    (2, 11, 11, 4, 4, 3, 2, 0, 1),
    (1, 1, 1, 70, 10, 1, 1, 0, 1),
    (8, 20, 18, 33, 48, 3, 1, 1, 1),  # wide rows, whole and partial blocks of channels
    (4, 6, 6, 40, 40, 3, 1, 1, 40),  # depthwise
    (5, 7, 6, 6, 12, 3, 2, 1, 3),
    (2, 5, 5, 38, 57, 1, 1, 0, 19),  # groups across the tiles' borders
]


WIDTHS = {  # (left, right) largest codes: bytes, words, and what mixes them
    "8x8": (127, 127),
    "4x8": (7, 127),
    "8x16": (127, 32767),
    "12x12": (2047, 2047),
    "16x16": (32767, 32767),
}


def draw(rng, size, largest, extreme=None):
    """Codes of a format: random, or all the largest or the smallest."""
    kind = np.int8 if largest <= 127 else np.int16
    if extreme is not None:
        return np.full(size, extreme * largest, kind)
    return rng.integers(-largest, largest + 1, size).astype(kind)


def operands(rng, shape, widths=(127, 127), extreme=None):
    images, height, width, inputs, outputs, kernel, stride, padding, groups = shape
    rows = (height + 2 * padding - kernel) // stride + 1
    columns = (width + 2 * padding - kernel) // stride + 1
    return (
        draw(rng, (images, height, width, inputs), widths[0], extreme),
        draw(rng, (kernel, kernel, inputs // groups, outputs), widths[1], extreme),
        draw(rng, (images, rows, columns, outputs), widths[1], extreme),
    )


def check(shape, widths, extreme, rng, shift, key, limit=127, bits=64, finest=0):
    """All three convolutions of random maps against their twins, bit for bit."""
    _, height, width, inputs, outputs, kernel, stride, padding, groups = shape
    x, weights, dy = operands(rng, shape, widths, extreme)
    rest = key, limit, bits, groups

    def expect(product, sums, finer):
        shifts = shift + finer
        assert np.array_equal(product.values, reference.rounded_map(sums, shifts, key, limit))
        assert product.largest == (np.abs(sums) >> finer).max()
        whole = reference.rounded_map(sums, shifts, key, 2**62)
        assert product.saturated == (np.abs(whole) > limit).sum()
        assert product.overflowed == 0

    finer = rng.integers(0, finest + 1, outputs, np.int32)
    sums = reference.convolution(x, weights, stride, padding, groups)
    expect(conv2d.forward(x, weights, stride, padding, shift, *rest, finer), sums, finer)

    finer = rng.integers(0, finest + 1, inputs, np.int32)
    place = stride, padding, height, width
    sums = reference.convolution_data(dy, weights, *place, groups)
    expect(conv2d.backward_data(dy, weights, *place, shift, *rest, finer), sums, finer)

    found = conv2d.backward_weight(x, dy, kernel, stride, padding, bits, groups)
    gradient, exponent, overflowed = found
    sums = reference.convolution_weight(x, dy, kernel, stride, padding, groups)
    assert np.array_equal(gradient, reference.half_up(sums, exponent))
    assert overflowed == 0
    assert exponent == 0 or np.abs(sums).max() >= 2**31 - 1


@pytest.mark.parametrize("extreme", [None, 1, -1])
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_three_convolutions_are_bit_exact(shape, widths, extreme, rng):
    shift = 9 if max(WIDTHS[widths]) <= 127 else 20
    check(shape, WIDTHS[widths], extreme, rng, shift, key=77)


@pytest.mark.parametrize("rounding", [r for r in Rounding if r < 0 and r > -5])
@pytest.mark.parametrize("limit", [7, 127, 32767])
def test_every_rounding_and_result_width(rounding, limit, rng):
    check(SHAPES[1], (127, 127), None, rng, 6, int(rounding), limit)
    check(SHAPES[1], (2047, 2047), None, rng, 14, int(rounding), limit)
    check(SHAPES[8], (127, 127), None, rng, 6, int(rounding), limit, finest=4)
    check(SHAPES[8], (32767, 32767), None, rng, 16, int(rounding), limit, finest=4)


@pytest.mark.parametrize("key", [-1, 0, 2**32 - 1])
@pytest.mark.parametrize("shift", [0, 1, 12, 24])
@pytest.mark.parametrize("channels", [32, 40, 144])
def test_tiles_of_whole_vectors_round_to_bytes(channels, shift, key, rng):
    """Sums and indices of more than 16 bits; rows that begin within a vector, or a wide tile."""
    check((8, 18, 18, channels, channels, 1, 1, 0, 1), (127, 127), None, rng, shift, key)


@settings(max_examples=3000)
@given(st.data())
def test_any_shape_is_bit_exact(data):
    kernel = data.draw(st.integers(1, 7))
    groups = data.draw(st.sampled_from([1, 1, 1, 2, 5, 17]))
    shape = (
        data.draw(st.integers(1, 9)),
        data.draw(st.integers(kernel, 14)),
        data.draw(st.integers(kernel, 14)),
        groups * data.draw(st.integers(1, 20 // groups + 1)),
        groups * data.draw(st.integers(1, 40 // groups + 1)),
        kernel,
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(0, kernel - 1)),
        groups,
    )
    widths = data.draw(st.sampled_from(list(WIDTHS.values())))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shift = data.draw(st.integers(0, 24))
    key = data.draw(st.integers(-4, 2**32 - 1))
    finest = data.draw(st.sampled_from([0, 6]))
    extreme = data.draw(st.sampled_from([None, None, 1, -1]))
    check(shape, widths, extreme, rng, shift, key, finest=finest)


@settings(max_examples=60)
@given(st.data())
def test_twins_agree_with_torch(data):
    """The integer twins are themselves held against float64 autograd, exact at these sizes."""
    kernel = data.draw(st.integers(1, 4))
    padding = data.draw(st.integers(0, kernel - 1))
    stride = data.draw(st.integers(1, 3))
    height, width = (data.draw(st.integers(kernel, 9)) for _ in range(2))
    groups = data.draw(st.sampled_from([1, 1, 3]))
    shape = (
        data.draw(st.integers(1, 5)), height, width, groups * data.draw(st.integers(1, 5)),
        groups * data.draw(st.integers(1, 9)), kernel, stride, padding, groups,
    )  # fmt: skip
    x, weights, dy = operands(np.random.default_rng(data.draw(st.integers(0, 99))), shape)

    def nchw(a, order):
        return torch.tensor(a, dtype=torch.float64).permute(order).contiguous().requires_grad_()

    x_t, w_t = nchw(x, (0, 3, 1, 2)), nchw(weights, (3, 2, 0, 1))
    y_t = torch.nn.functional.conv2d(x_t, w_t, stride=stride, padding=padding, groups=groups)
    y_t.backward(nchw(dy, (0, 3, 1, 2)).detach())
    for exact, twin, order in (
        (y_t.detach(), reference.convolution(x, weights, stride, padding, groups), (0, 2, 3, 1)),
        (
            x_t.grad,
            reference.convolution_data(dy, weights, stride, padding, height, width, groups),
            (0, 2, 3, 1),
        ),
        (
            w_t.grad,
            reference.convolution_weight(x, dy, kernel, stride, padding, groups),
            (2, 3, 1, 0),
        ),
    ):
        assert np.array_equal(exact.permute(order).numpy(), twin)


@pytest.mark.parametrize("bits", [8, 16, 20, 24, 32, 48])
def test_a_narrow_accumulator_wraps_and_is_counted(bits, rng):
    """Any order of two's complement additions ends at the exact sum's low bits."""
    x, weights, dy = operands(rng, SHAPES[2], (32767, 32767) if bits >= 32 else (127, 127))

    def wrapped(sums):
        low = sums % 2**bits
        return np.where(low >= 2 ** (bits - 1), low - 2**bits, low)

    sums = reference.convolution(x, weights, 1, 0)
    y = conv2d.forward(x, weights, 1, 0, 3, -1, 32767, bits)
    assert np.array_equal(y.values, reference.rounded_map(wrapped(sums), 3, -1, 32767))
    assert y.overflowed == (wrapped(sums) != sums).sum()
    gradient, exponent, overflowed = conv2d.backward_weight(x, dy, 3, 1, 0, bits)
    sums = reference.convolution_weight(x, dy, 3, 1, 0)
    assert np.array_equal(gradient, reference.half_up(wrapped(sums), exponent))
    assert overflowed == (wrapped(sums) != sums).sum()


def test_the_largest_sums_that_32_bits_hold_and_those_beyond():
    """One product more than fits is summed in 64 bits; the gradient then has an exponent."""
    most = conv2d.SUM_LIMIT // 127**2
    for pixels in (most, 4 * most):
        dy = np.full((1, 1, pixels, 1), 127, np.int8)
        gradient, exponent, _ = conv2d.backward_weight(dy, -dy, 1, 1, 0, 48)
        assert gradient.item() == reference.half_up(-(127**2) * pixels, exponent)
        assert (exponent > 0) == (pixels > most)


@functools.cache
def digest():
    """Hash of the three convolutions on hundreds of random shapes, formats and roundings."""
    rng = np.random.default_rng(5)
    seen = hashlib.sha256()

    def pick(low, high):
        return int(rng.integers(low, high + 1))

    for case in range(400):
        kernel, groups = pick(1, 7), (1, 1, 2, 5, 17)[pick(0, 4)]
        height, width, stride, padding = pick(kernel, 12), pick(kernel, 12), pick(1, 3), pick(0, 3)
        padding = min(padding, kernel - 1)
        inputs, outputs = groups * pick(1, 20 // groups + 1), groups * pick(1, 40 // groups + 1)
        shape = pick(1, 9), height, width, inputs, outputs, kernel, stride, padding, groups
        widths = list(WIDTHS.values())[case % len(WIDTHS)]
        x, weights, dy = operands(rng, shape, widths, (None, None, 1, -1)[case % 4])
        window, place = (stride, padding), (stride, padding, height, width)
        rounding = pick(0, 24), (-1, -2, -3, -4, 99)[pick(0, 4)], (127, 32767)[pick(0, 1)]
        rest = *rounding, (20, 32, 48)[pick(0, 2)], groups
        for product in (
            conv2d.forward(x, weights, *window, *rest),
            conv2d.backward_data(dy, weights, *place, *rest),
            conv2d.backward_weight(x, dy, kernel, *window, *rest[3:]),
        ):
            seen.update(product[0])
            seen.update(str(product[1:]).encode())
    return seen.hexdigest()


@pytest.mark.parametrize(
    "environment",
    [
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+sse4.2,+bmi,+bmi2,+fma"},
        {"NUMBA_NUM_THREADS": "2"},
    ],
    ids=["generic", "AVX2", "two threads"],
)
def test_bits_do_not_depend_on_instructions_or_threads(environment):
    ran = subprocess.run(
        [sys.executable, "-c", "import test_conv2d; print(test_conv2d.digest())"],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == digest()
