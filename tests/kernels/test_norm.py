"""Batch norm against float64 formulas and torch autograd; the constants against exact fractions."""

import numpy as np
import pytest
import torch

from accsim.kernels import norm

SHAPES = [(8, 6, 6, 5, 1), (4, 8, 8, 3, 2), (3, 7, 9, 4, 2), (64, 1, 1, 7, 1)]


def make(rng, shape):
    images, height, width, channels, pool = shape
    deviations = rng.uniform(3, 40, channels)
    y = rng.normal(rng.uniform(-20, 20, channels), deviations, (images, height, width, channels))
    y = np.clip(np.round(y), -127, 127).astype(np.int8)
    scale = rng.integers(2000, 6000, channels).astype(np.int16)
    shift = rng.integers(-3000, 3000, channels).astype(np.int16)
    return y, scale, shift, pool


def constants_of(y, scale, shift):
    count = y.size // y.shape[3]
    mean, sigma = norm.batch_statistics(*norm.channel_sums(y), count)
    inverse = norm.inverse_sigma(sigma)
    return count, mean, sigma, inverse, *norm.forward_constants(mean, inverse, scale, shift)


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_are_those_of_numpy(shape, rng):
    y, *_ = make(rng, shape)
    count = y.size // y.shape[3]
    sums, squares = norm.channel_sums(y)
    assert np.array_equal(sums, y.astype(np.int64).sum((0, 1, 2)))
    assert np.array_equal(squares, (y.astype(np.int64) ** 2).sum((0, 1, 2)))
    mean, sigma = norm.batch_statistics(sums, squares, count)
    np.testing.assert_allclose(mean / 2**8, y.mean((0, 1, 2)), atol=2**-9 + 1e-9)
    np.testing.assert_allclose(sigma / 2**20, y.std((0, 1, 2)), rtol=1e-4)


def test_a_constant_channel_is_not_divided_by_zero():
    y = np.full((4, 2, 2, 1), 9, np.int8)
    one, zero = np.array([4096], np.int16), np.array([0], np.int16)
    _, _mean, sigma, inverse, constants, frac_bits = constants_of(y, one, zero)
    assert sigma[0] == 0
    assert inverse[0] == 16 << 36
    z, largest, _ = norm.normalise(y, constants, 8, 1, frac_bits - 5, -1, 127)
    assert not z.any()
    assert largest == 0


@pytest.mark.parametrize("eighths", [0, 1, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_batch_norm_activation_and_pool(shape, eighths, rng):
    y, scale, shift, pool = make(rng, shape)
    *_, constants, frac_bits = constants_of(y, scale, shift)
    z, largest, saturated = norm.normalise(y, constants, eighths, pool, frac_bits - 4, -1, 127)
    x = torch.tensor(y, dtype=torch.float64).permute(0, 3, 1, 2)
    exact = torch.nn.functional.batch_norm(
        x,
        None,
        None,
        torch.tensor(scale / 4096),
        torch.tensor(shift / 4096),
        training=True,
        eps=1e-12,
    )
    exact = torch.nn.functional.leaky_relu(exact, eighths / 8)
    exact = torch.nn.functional.max_pool2d(exact, pool).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(z / 16, np.clip(exact, -127 / 16, 127 / 16), atol=0.5 / 16 + 0.01)
    np.testing.assert_allclose(largest / 2.0**frac_bits, np.abs(exact).max(), atol=0.01)
    assert abs(int(saturated) - (np.abs(exact * 16) > 127.5).sum()) <= 2


@pytest.mark.parametrize("eighths", [0, 1, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_autograd(shape, eighths, rng):
    y, scale, shift, pool = make(rng, shape)
    images, height, width, channels = y.shape
    dz = rng.integers(-127, 128, (images, height // pool, width // pool, channels)).astype(np.int8)
    count, mean, _, inverse, constants, _ = constants_of(y, scale, shift)
    error, sums, products = norm.activation_error(dz, y, constants, eighths, pool)
    back, frac_bits, scale_gradient, shift_gradient = norm.backward_constants(
        sums, products, count, mean, inverse, scale
    )
    x = torch.tensor(y, dtype=torch.float64).permute(0, 3, 1, 2).contiguous().requires_grad_()
    scale_t = torch.tensor(scale / 4096, requires_grad=True)
    shift_t = torch.tensor(shift / 4096, requires_grad=True)
    z = torch.nn.functional.batch_norm(x, None, None, scale_t, shift_t, training=True, eps=1e-12)
    z = torch.nn.functional.max_pool2d(torch.nn.functional.leaky_relu(z, eighths / 8), pool)
    z.backward(torch.tensor(dz, dtype=torch.float64).permute(0, 3, 1, 2))
    wide = x.grad.permute(0, 2, 3, 1).numpy()

    largest_shift = frac_bits + norm.EIGHTHS + int(np.floor(np.log2(np.abs(wide).max()))) - 6
    dy, _largest, _ = norm.denormalise(error, y, back, largest_shift, -1, 127)
    unit = 2.0 ** (largest_shift - frac_bits - norm.EIGHTHS)
    close = np.isclose(dy * unit, wide, atol=0.75 * unit)
    assert close.mean() > 0.995  # equal maxima within rounding may route to another pixel
    scale_of_gradient = np.abs(scale_t.grad.numpy()).max()
    np.testing.assert_allclose(
        scale_gradient / 8, scale_t.grad.numpy(), rtol=5e-3, atol=5e-3 * scale_of_gradient
    )
    np.testing.assert_allclose(shift_gradient / 8, shift_t.grad.numpy(), rtol=1e-6, atol=1e-6)


def test_constants_never_leave_32_bits(rng):
    """Adversarial statistics: a nearly dead channel beside a lively one, extreme parameters."""
    mean = np.array([127 << 8, -(127 << 8), 0], np.int64)
    inverse = norm.inverse_sigma(np.array([1, 127 << 20, 5 << 20], np.int64))
    scale = np.array([32767, -32767, 1], np.int16)
    shift = np.array([32767, 32767, -32767], np.int16)
    constants, _ = norm.forward_constants(mean, inverse, scale, shift)
    reach = np.abs(constants[0].astype(np.int64)) * 127 + np.abs(constants[1].astype(np.int64))
    assert reach.max() < 2**31
    sums = np.array([2**30, -(2**30), 5], np.int64)
    products = np.array([2**36, 2**36, -(2**36)], np.int64)
    back, _, _, _ = norm.backward_constants(sums, products, 2**17, mean, inverse, scale)
    wide = np.abs(back.astype(np.int64))
    assert (wide[0] * 127 * 8 + wide[1] * 127 + wide[2]).max() < 2**31


def test_running_statistics_follow_and_return(rng):
    """After many equal batches the running statistics give back the batch's own."""
    y, *_ = make(rng, (8, 6, 6, 5, 1))
    mean, sigma = norm.batch_statistics(*norm.channel_sums(y), y.size // 5)
    running_mean = np.zeros(5, np.int64)
    running_variance = np.full(5, 1 << 32, np.int64)
    for _ in range(300):
        norm.update_running(running_mean, running_variance, mean, sigma, -6, 4)
    np.testing.assert_allclose(running_mean / 2**32, y.mean((0, 1, 2)) / 64, atol=1e-4)
    again_mean, again_sigma = norm.running_statistics(running_mean, running_variance, -6)
    np.testing.assert_allclose(again_mean, mean, atol=1)
    np.testing.assert_allclose(again_sigma, sigma, rtol=1e-3)
    finer_mean, finer_sigma = norm.running_statistics(running_mean, running_variance, -7)
    np.testing.assert_allclose(finer_mean, 2 * mean, atol=2)
    np.testing.assert_allclose(finer_sigma, 2 * sigma, rtol=1e-3)
