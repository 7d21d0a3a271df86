"""Grouped and depthwise convolutions against the exact convolution of every group, bit for bit."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from accsim.kernels import conv2d, grouped
from accsim.numerics import Rounding

SHAPES = [  # images, height, width, inputs, outputs, kernel, stride, padding, groups
    (1, 1, 1, 1, 1, 1, 1, 0, 1),
    (5, 7, 6, 3, 3, 3, 1, 1, 3),
    (3, 9, 10, 40, 40, 3, 2, 1, 40),
    (9, 8, 9, 5, 15, 5, 1, 2, 5),
    (2, 11, 8, 4, 8, 7, 2, 3, 4),
    (4, 6, 6, 33, 33, 1, 2, 0, 33),
    (2, 40, 3, 130, 130, 2, 1, 1, 130),
    (5, 7, 6, 8, 12, 3, 1, 1, 4),
    (3, 8, 9, 6, 4, 3, 2, 1, 2),
    (2, 6, 5, 64, 64, 1, 1, 0, 2),
    (1, 12, 12, 9, 15, 5, 2, 2, 3),
]

WIDTHS = {  # (left, right) largest codes: bytes, words, and what mixes them
    "8x8": (127, 127),
    "4x8": (7, 127),
    "8x16": (127, 32767),
    "12x12": (2047, 2047),
    "16x16": (32767, 32767),
}


def split(array, groups):
    return np.split(array, groups, -1)


def grouped_sums(x, weights, stride, padding, groups):
    """Exact outputs of every group, side by side."""
    parts = zip(split(x, groups), split(weights, groups), strict=True)
    return np.concatenate([reference.convolution(*part, stride, padding) for part in parts], -1)


def grouped_data_sums(dy, weights, stride, padding, groups, height, width):
    parts = zip(split(dy, groups), split(weights, groups), strict=True)
    return np.concatenate(
        [reference.convolution_data(*part, stride, padding, height, width) for part in parts], -1
    )


def grouped_weight_sums(x, dy, kernel, stride, padding, groups):
    parts = zip(split(x, groups), split(dy, groups), strict=True)
    return np.concatenate(
        [reference.convolution_weight(*part, kernel, stride, padding) for part in parts], -1
    )


def draw(rng, size, largest, extreme):
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


def wrapped(sums, bits):
    """The accumulator's low bits in two's complement, from Python integers."""
    half = 2 ** (bits - 1)
    return np.array([(int(s) + half) % 2**bits - half for s in sums.flat]).reshape(sums.shape)


def check(shape, widths, extreme, rng, shift, key, limit=127, bits=64):
    """All three convolutions of drawn maps against their twins, bit for bit."""
    _, height, width, _, _, kernel, stride, padding, groups = shape
    x, weights, dy = operands(rng, shape, widths, extreme)
    rest = groups, shift, key, limit, bits
    y = grouped.forward(x, weights, stride, padding, *rest)
    check_product(y, grouped_sums(x, weights, stride, padding, groups), *rest[1:])
    rest = groups, height, width, shift, key, limit, bits
    dx = grouped.backward_data(dy, weights, stride, padding, *rest)
    sums = grouped_data_sums(dy, weights, stride, padding, groups, height, width)
    check_product(dx, sums, *rest[3:])

    gradient, exponent, overflowed = grouped.backward_weight(
        x, dy, kernel, stride, padding, groups, bits
    )
    sums = grouped_weight_sums(x, dy, kernel, stride, padding, groups)
    totals = wrapped(sums, bits)
    assert np.array_equal(gradient, reference.half_up(totals, exponent))
    assert overflowed == (totals != sums).sum()
    assert gradient.dtype == np.int32
    assert exponent == 0 or np.abs(totals).max() >= 2**31 - 1


def check_product(product, sums, shift, key, limit, bits):
    totals = wrapped(sums, bits)
    assert product.values.dtype == (np.int8 if limit <= 127 else np.int16)
    assert np.array_equal(product.values, reference.rounded_map(totals, shift, key, limit))
    assert product.largest == np.abs(totals).max()
    whole = reference.rounded_map(totals, shift, key, 2**62)
    assert product.saturated == (np.abs(whole) > limit).sum()
    assert product.overflowed == (totals != sums).sum()


@pytest.mark.parametrize("extreme", [None, 1, -1])
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_three_convolutions_are_bit_exact(shape, widths, extreme, rng):
    shift = 9 if max(WIDTHS[widths]) <= 127 else 20
    check(shape, WIDTHS[widths], extreme, rng, shift, key=77)


@pytest.mark.parametrize("rounding", [r for r in Rounding if -5 < r < 0])
@pytest.mark.parametrize("limit", [7, 127, 32767])
@pytest.mark.parametrize("shape", [SHAPES[3], SHAPES[8]], ids=["depthwise", "grouped"])
def test_every_rounding_and_result_width(rounding, limit, shape, rng):
    check(shape, (127, 127), None, rng, 6, int(rounding), limit)
    check(shape, (32767, 32767), None, rng, 17, int(rounding), limit)


@pytest.mark.parametrize("bits", [8, 14, 16, 20, 24, 32, 48])
@pytest.mark.parametrize("shape", [SHAPES[3], SHAPES[8]], ids=["depthwise", "grouped"])
def test_a_narrow_accumulator_wraps_and_is_counted(bits, shape, rng):
    """Any order of two's complement additions ends at the exact sum's low bits."""
    check(shape, (32767, 32767) if bits >= 32 else (127, 127), None, rng, 3, -1, 32767, bits)


@settings(max_examples=3000)
@given(st.data())
def test_any_shape_is_bit_exact(data):
    kernel = data.draw(st.integers(1, 7))
    groups = data.draw(st.integers(1, 12))
    depth = data.draw(st.sampled_from([1, 1, 1, 2, 3]))
    shape = (
        data.draw(st.integers(1, 9)),
        data.draw(st.integers(kernel, 9)),
        data.draw(st.integers(kernel, 9)),
        groups * depth,
        groups * data.draw(st.sampled_from([1, 1, 2, 3])),
        kernel,
        data.draw(st.integers(1, 2)),
        data.draw(st.integers(0, kernel - 1)),
        groups,
    )
    widths = data.draw(st.sampled_from(list(WIDTHS.values())))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shift = data.draw(st.integers(0, 24))
    key = data.draw(st.integers(-4, 2**32 - 1))
    limit = data.draw(st.sampled_from([127, 32767]))
    bits = data.draw(st.sampled_from([12, 20, 31, 32, 48, 64]))
    extreme = data.draw(st.sampled_from([None, None, 1, -1]))
    check(shape, widths, extreme, rng, shift, key, limit, bits)


@settings(max_examples=100)
@given(st.data())
def test_agrees_with_torch(data):
    """Float64 autograd is exact at these sizes; unshifted sums are kept where they fit 16 bits."""
    kernel = data.draw(st.integers(1, 4))
    padding = data.draw(st.integers(0, kernel - 1))
    stride = data.draw(st.integers(1, 3))
    groups = data.draw(st.integers(1, 6))
    depth, multiplier = (data.draw(st.integers(1, 3)) for _ in range(2))
    height, width = (data.draw(st.integers(kernel, 9)) for _ in range(2))
    inputs, outputs = groups * depth, groups * multiplier
    images = data.draw(st.integers(1, 5))
    shape = images, height, width, inputs, outputs, kernel, stride, padding, groups
    x, weights, dy = operands(np.random.default_rng(data.draw(st.integers(0, 99))), shape, (7, 7))

    def nchw(a, order):
        return torch.tensor(a, dtype=torch.float64).permute(order).contiguous().requires_grad_()

    x_t, w_t = nchw(x, (0, 3, 1, 2)), nchw(weights, (3, 2, 0, 1))
    y_t = torch.nn.functional.conv2d(x_t, w_t, stride=stride, padding=padding, groups=groups)
    y_t.backward(nchw(dy, (0, 3, 1, 2)).detach())
    window = stride, padding, groups
    for exact, computed, order in (
        (y_t.detach(), grouped.forward(x, weights, *window, 0, -1, 32767)[0], (0, 2, 3, 1)),
        (
            x_t.grad,
            grouped.backward_data(dy, weights, *window, height, width, 0, -1, 32767)[0],
            (0, 2, 3, 1),
        ),
        (w_t.grad, grouped.backward_weight(x, dy, kernel, *window)[0], (2, 3, 1, 0)),
    ):
        assert np.array_equal(exact.permute(order).numpy(), computed)


def test_one_group_is_a_convolution(rng):
    """Same bits, random ones too, as the convolution without groups."""
    x, weights, dy = operands(rng, (4, 8, 7, 6, 10, 3, 2, 1, 1))
    ours = grouped.forward(x, weights, 2, 1, 1, 8, 99, 127)
    theirs = conv2d.forward(x, weights, 2, 1, 8, 99, 127)
    assert np.array_equal(ours.values, theirs.values)
    assert ours[1:] == theirs[1:]
    ours = grouped.backward_data(dy, weights, 2, 1, 1, 8, 7, 8, 99, 127)
    theirs = conv2d.backward_data(dy, weights, 2, 1, 8, 7, 8, 99, 127)
    assert np.array_equal(ours.values, theirs.values)
    assert ours[1:] == theirs[1:]


@pytest.mark.parametrize(("inputs", "groups"), [(2, 2), (4, 2)], ids=["depthwise", "grouped"])
@pytest.mark.parametrize("images", [1, 3, 40])
def test_gradients_beyond_32_bits_are_exact_and_rounded_once(inputs, groups, images):
    """One image's sums fit 32 bits only if it has at most 133,152 pixels of 8-bit maps."""
    x = np.full((images, 400, 333, inputs), 127, np.int8)
    x[:, 0, 0] = 1
    dy = np.full((images, 400, 333, 2), -127, np.int8)
    gradient, exponent, _ = grouped.backward_weight(x, dy, 1, 1, 0, groups, 48)
    exact = -127 * (127 * (400 * 333 - 1) + 1) * images
    assert (gradient == reference.half_up(exact, exponent)).all()
    assert exponent == max(0, abs(exact).bit_length() - 31)


@pytest.mark.parametrize(
    ("channels", "groups", "depth", "message"),
    [
        ((6, 6), 4, 1, "groups must divide the 6 input and 6 output channels, not be 4"),
        ((6, 9), 6, 1, "groups must divide the 6 input and 9 output channels, not be 6"),
        ((6, 6), 0, 1, "groups must divide the 6 input and 6 output channels, not be 0"),
        ((6, 6), 3, 1, "weights must have 2 input channels for 3 groups of 6, not 1"),
    ],
)
def test_groups_must_fit(channels, groups, depth, message):
    inputs, outputs = channels
    x = np.zeros((1, 4, 4, inputs), np.int8)
    weights = np.zeros((3, 3, depth, outputs), np.int8)
    with pytest.raises(ValueError, match=message):
        grouped.forward(x, weights, 1, 1, groups, 0, -1, 127)


def digest():
    """Hash of the three convolutions on random maps."""
    rng = np.random.default_rng(5)
    seen = hashlib.sha256()
    for shape in SHAPES:
        for widths in ((127, 127), (32767, 32767)):
            x, weights, dy = operands(rng, shape, widths)
            _, height, width, _, _, kernel, *window = shape
            seen.update(grouped.forward(x, weights, *window, 9, 3, 32767, 48)[0])
            rest = height, width, 9, 5, 127, 48
            seen.update(grouped.backward_data(dy, weights, *window, *rest)[0])
            seen.update(grouped.backward_weight(x, dy, kernel, *window, 48)[0])
    return seen.hexdigest()


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_do_not_depend_on_threads(threads):
    before, expected = numba.get_num_threads(), digest()
    numba.set_num_threads(min(threads, before))
    try:
        assert digest() == expected
    finally:
        numba.set_num_threads(before)


def test_bits_do_not_depend_on_instructions(tmp_path):
    haswell = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    ran = subprocess.run(
        [sys.executable, "-c", "import test_grouped; print(test_grouped.digest())"],
        cwd=Path(__file__).parent,
        env={**os.environ, **haswell, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == digest()
