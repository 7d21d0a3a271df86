"""Convolutions against exact sums, bit for bit, on ragged shapes and extreme values."""

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
from accsim.kernels.gemm import LARGEST_SUM

SHAPES = [  # images, height, width, inputs, outputs, kernel, stride, padding
    (1, 1, 1, 1, 1, 1, 1, 0),
    (5, 7, 6, 3, 5, 3, 1, 1),
    (4, 8, 8, 16, 32, 3, 1, 0),
    (9, 9, 10, 5, 17, 3, 2, 1),
    (6, 8, 8, 7, 9, 1, 2, 0),
    (3, 12, 9, 2, 6, 5, 1, 2),
    (2, 11, 11, 4, 4, 3, 2, 0),
    (1, 1, 1, 70, 10, 1, 1, 0),
]


def operands(rng, shape, extreme=None):
    images, height, width, inputs, outputs, kernel, stride, padding = shape
    rows = (height + 2 * padding - kernel) // stride + 1
    columns = (width + 2 * padding - kernel) // stride + 1

    def draw(*size):
        if extreme is not None:
            return np.full(size, extreme, np.int8)
        return rng.integers(-127, 128, size).astype(np.int8)

    return (
        draw(images, height, width, inputs),
        draw(kernel, kernel, inputs, outputs),
        draw(images, rows, columns, outputs),
    )


@pytest.mark.parametrize("extreme", [None, 127, -127])
@pytest.mark.parametrize("shape", SHAPES)
def test_three_convolutions_are_bit_exact(shape, extreme, rng):
    _, height, width, _, _, kernel, stride, padding = shape
    x, weights, dy = operands(rng, shape, extreme)

    sums = reference.convolution(x, weights, stride, padding)
    y, largest, saturated = conv2d.forward(x, weights, stride, padding, 9, -1, 127)
    assert np.array_equal(y, reference.rounded_map(sums, 9, -1, 127))
    assert largest == np.abs(sums).max()
    assert saturated == (np.abs(reference.half_up(sums, 9)) > 127).sum()

    sums = reference.convolution_data(dy, weights, stride, padding, height, width)
    dx, largest, _ = conv2d.backward_data(dy, weights, stride, padding, height, width, 8, 77, 127)
    assert np.array_equal(dx, reference.rounded_map(sums, 8, 77, 127))
    assert largest == np.abs(sums).max()

    gradient = conv2d.backward_weight(x, dy, kernel, stride, padding)
    exact = reference.convolution_weight(x, dy, kernel, stride, padding)
    assert np.array_equal(gradient, exact)


@settings(max_examples=60)
@given(st.data())
def test_twins_agree_with_torch(data):
    """The integer twins are themselves held against float64 autograd, exact at these sizes."""
    kernel = data.draw(st.integers(1, 4))
    padding = data.draw(st.integers(0, kernel - 1))
    stride = data.draw(st.integers(1, 3))
    height, width = (data.draw(st.integers(kernel, 9)) for _ in range(2))
    shape = (
        data.draw(st.integers(1, 5)), height, width,
        data.draw(st.integers(1, 9)), data.draw(st.integers(1, 20)), kernel, stride, padding,
    )  # fmt: skip
    x, weights, dy = operands(np.random.default_rng(data.draw(st.integers(0, 99))), shape)
    x_t = torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2).contiguous().requires_grad_()
    w_t = (
        torch.tensor(weights, dtype=torch.float64).permute(3, 2, 0, 1).contiguous().requires_grad_()
    )
    y_t = torch.nn.functional.conv2d(x_t, w_t, stride=stride, padding=padding)
    y_t.backward(torch.tensor(dy, dtype=torch.float64).permute(0, 3, 1, 2).contiguous())
    y, _, _ = conv2d.forward(x, weights, stride, padding, 7, -1, 127)
    exact = y_t.detach().permute(0, 2, 3, 1).numpy().astype(np.int64)
    assert np.array_equal(y, reference.rounded_map(exact, 7, -1, 127))
    dx, _, _ = conv2d.backward_data(dy, weights, stride, padding, height, width, 7, -1, 127)
    exact = x_t.grad.permute(0, 2, 3, 1).numpy().astype(np.int64)
    assert np.array_equal(dx, reference.rounded_map(exact, 7, -1, 127))
    gradient = conv2d.backward_weight(x, dy, kernel, stride, padding)
    assert np.array_equal(gradient, w_t.grad.permute(2, 3, 1, 0).numpy().astype(np.int64))


def test_weight_gradient_refuses_sums_beyond_32_bits():
    dy = np.zeros((LARGEST_SUM // 1024 + 1, 32, 32, 1), np.int8)
    with pytest.raises(ValueError, match="must be at most 133144"):
        conv2d.backward_weight(dy, dy, 1, 1, 0)


def test_weight_gradient_holds_the_largest_sum():
    dy = np.full((LARGEST_SUM // 1024, 32, 32, 1), 127, np.int8)
    gradient = conv2d.backward_weight(dy, -dy, 1, 1, 0)
    assert gradient.item() == -(127**2) * dy.size


def digest():
    """Hash of the three convolutions on random maps."""
    rng = np.random.default_rng(5)
    seen = hashlib.sha256()
    for shape in SHAPES:
        x, weights, dy = operands(rng, shape)
        _, height, width, _, _, kernel, stride, padding = shape
        seen.update(conv2d.forward(x, weights, stride, padding, 7, 3, 127)[0])
        dx = conv2d.backward_data(dy, weights, stride, padding, height, width, 7, 5, 127)[0]
        seen.update(dx)
        seen.update(conv2d.backward_weight(x, dy, kernel, stride, padding))
    return seen.hexdigest()


@pytest.mark.parametrize(
    "environment",
    [{"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}, {"NUMBA_NUM_THREADS": "2"}],
    ids=["no AVX-512", "two threads"],
)
def test_bits_do_not_depend_on_instructions_or_threads(environment, tmp_path):
    code = "import test_conv2d; print(test_conv2d.digest())"
    here = Path(__file__).parent
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=here,
        env={**os.environ, **environment, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == digest()
