"""Batch norm against float64 formulas and torch autograd; words against exact integers."""

import numpy as np
import pytest
import reference
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from accsim.kernels import norm
from accsim.kernels.fixed_point import limit, narrowing_shift

SHAPES = [(8, 6, 6, 5, 1), (4, 8, 8, 3, 2), (3, 7, 9, 4, 2), (64, 1, 1, 7, 1)]
KEYS = [-1, -2, -3, -4, 7]
WIDE = st.integers(-(2**62), 2**62)


def stored(values, bits):
    largest = limit(bits)
    codes = np.clip(np.round(values), -largest, largest)
    return codes.astype(np.int8 if bits == 8 else np.int16)


def make(rng, shape, bits=8):
    images, height, width, channels, pool = shape
    unit = 2 ** (bits - 8)
    deviations = rng.uniform(3, 40, channels)
    y = rng.normal(rng.uniform(-20, 20, channels), deviations, (images, height, width, channels))
    scale = rng.integers(2000, 6000, channels).astype(np.int16)
    shift = rng.integers(-3000, 3000, channels).astype(np.int16)
    return stored(y * unit, bits), scale, shift, pool


def constants_of(y, scale, shift, bits=8):
    count = y.size // y.shape[3]
    mean, sigma = norm.batch_statistics(*norm.channel_sums(y), count)
    inverse = norm.inverse_sigma(sigma, bits)
    return count, mean, sigma, inverse, *norm.forward_constants(mean, inverse, scale, shift, bits)


def leaf(values):
    """A float64 tensor in torch's order."""
    return torch.tensor(values, dtype=torch.float64).permute(0, 3, 1, 2).contiguous()


def channels_last(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


@given(WIDE, WIDE, st.integers(1, 63))
@example(2**32, 2**31 + 1, 1)
def test_product_has_128_bits(a, b, shift):
    exact = (a * b + 2 ** (shift - 1)) >> shift
    assert norm._product(a, b, shift) == min(max(exact, -(2**62)), 2**62)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 20, 20, 3, 1)])
def test_statistics_are_those_of_numpy(shape, bits, rng):
    y, *_ = make(rng, shape, bits)
    count = y.size // y.shape[3]
    sums, squares = norm.channel_sums(y)
    assert np.array_equal(sums, y.astype(np.int64).sum((0, 1, 2)))
    assert np.array_equal(squares, (y.astype(np.int64) ** 2).sum((0, 1, 2)))
    mean, sigma = norm.batch_statistics(sums, squares, count)
    np.testing.assert_allclose(mean / 2**8, y.mean((0, 1, 2)), atol=2**-9 + 1e-9)
    np.testing.assert_allclose(sigma / 2**20, y.std((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("count", [2**17, 2**22])
@pytest.mark.parametrize(("low", "high"), [(-32767, 32767), (32765, 32767), (-3, 32767)])
def test_statistics_of_16_bits_do_not_overflow_or_cancel(low, high, count):
    """A quarter of the values are `low`, the rest `high`: the deviation is known."""
    some = count // 4
    sums = np.array([some * low + (count - some) * high])
    squares = np.array([some * low**2 + (count - some) * high**2])
    mean, sigma = norm.batch_statistics(sums, squares, count)
    assert mean[0] == (low + 3 * high) * 64
    np.testing.assert_allclose(sigma[0] / 2**20, (high - low) * 3**0.5 / 4, rtol=1e-6)


def test_a_constant_channel_is_not_divided_by_zero():
    y = np.full((4, 2, 2, 1), 9, np.int8)
    one, zero = np.array([4096], np.int16), np.array([0], np.int16)
    _, _mean, sigma, inverse, constants, frac_bits = constants_of(y, one, zero)
    assert sigma[0] == 0
    assert inverse[0] == 16 << 36
    z, largest, _ = norm.normalise(y, constants, 8, 1, frac_bits - 5, -1, 127)
    assert not z.any()
    assert largest == 0


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("eighths", [0, 1, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_batch_norm_activation_and_pool(shape, eighths, bits, rng):
    y, scale, shift, pool = make(rng, shape, bits)
    *_, constants, frac_bits = constants_of(y, scale, shift, bits)
    results_bits = bits - 4  # 4 bits before the point
    drop = frac_bits - results_bits
    z, largest, saturated = norm.normalise(y, constants, eighths, pool, drop, -1, limit(bits))
    scale_t, shift_t = torch.tensor(scale / 4096), torch.tensor(shift / 4096)
    exact = torch.nn.functional.batch_norm(
        leaf(y), None, None, scale_t, shift_t, training=True, eps=1e-12
    )
    exact = torch.nn.functional.leaky_relu(exact, eighths / 8)
    exact = channels_last(torch.nn.functional.max_pool2d(exact, pool))
    unit = 2.0**-results_bits
    largest_code = limit(bits) * unit
    error = 0.01 if bits == 8 else 1e-4
    np.testing.assert_allclose(
        z * unit, np.clip(exact, -largest_code, largest_code), atol=0.5 * unit + error
    )
    np.testing.assert_allclose(largest / 2.0**frac_bits, np.abs(exact).max(), atol=error)
    assert abs(int(saturated) - (np.abs(exact) > largest_code + unit / 2).sum()) <= 2


@pytest.mark.parametrize(("bits", "error_bits"), [(8, 8), (16, 16), (8, 16), (16, 8)])
@pytest.mark.parametrize("eighths", [0, 1, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_autograd(shape, eighths, bits, error_bits, rng):
    y, scale, shift, pool = make(rng, shape, bits)
    images, height, width, channels = y.shape
    size = (images, height // pool, width // pool, channels)
    dz = stored(rng.normal(0, limit(error_bits) / 3, size), error_bits)
    count, mean, _, inverse, constants, _ = constants_of(y, scale, shift, bits)
    error, sums, products = norm.activation_error(dz, y, constants, eighths, pool)
    back, frac_bits, scale_gradient, shift_gradient = norm.backward_constants(
        sums, products, count, mean, inverse, scale, bits, error_bits
    )
    x = leaf(y).requires_grad_()
    scale_t = torch.tensor(scale / 4096, requires_grad=True)
    shift_t = torch.tensor(shift / 4096, requires_grad=True)
    z = torch.nn.functional.batch_norm(x, None, None, scale_t, shift_t, training=True, eps=1e-12)
    z = torch.nn.functional.max_pool2d(torch.nn.functional.leaky_relu(z, eighths / 8), pool)
    z.backward(leaf(dz))
    wide = channels_last(x.grad)

    _, largest, _ = norm.denormalise(error, y, back, 0, -1, limit(error_bits))
    drop = narrowing_shift(largest, error_bits)
    dy, _, _ = norm.denormalise(error, y, back, drop, -1, limit(error_bits))
    unit = 2.0 ** (drop - frac_bits - norm.EIGHTHS)
    close = np.isclose(dy * unit, wide, atol=0.75 * unit if error_bits == 8 else 2 * unit)
    assert close.mean() > 0.995  # equal maxima within rounding may route to another pixel
    if bits == error_bits == 16 and pool == 1:
        assert np.abs(dy * unit - wide).max() < 1e-4 * np.abs(wide).max()
    tolerance = 5e-3 if bits == 8 else 2e-4
    scale_of_gradient = np.abs(scale_t.grad.numpy()).max()
    np.testing.assert_allclose(
        scale_gradient / 8,
        scale_t.grad.numpy(),
        rtol=tolerance,
        atol=tolerance * scale_of_gradient,
    )
    np.testing.assert_allclose(shift_gradient / 8, shift_t.grad.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("key", KEYS)
def test_every_word_is_rounded_exactly(key, pool, bits, rng):
    """Constants of both signs and zero; maps longer than a chunk."""
    y, *_ = make(rng, (5, 9, 10, 7, pool), bits)
    word, reach = (np.int32, 2**19) if bits == 8 else (np.int64, 2**27)
    constants = rng.integers(-reach, reach, (3, 7)).astype(word)
    constants[0, 2] = 0
    factor, addend, _ = constants.astype(np.int64)
    wide = factor * y + addend
    p, q = 9 // pool, 10 // pool
    tiles = wide[:, : p * pool, : q * pool].reshape(5, p, pool, q, pool, 7)
    best = tiles.max((2, 4))
    activated = np.maximum(best, (best * 1) >> 3)
    drop = narrowing_shift(np.abs(activated).max(), bits) - 1  # some saturate
    z, largest, saturated = norm.normalise(y, constants[:2], 1, pool, drop, key, limit(bits))
    codes = reference.rounded_map(activated, drop, key, limit(bits))
    assert np.array_equal(z, codes)
    assert z.dtype == y.dtype
    assert largest == np.abs(activated).max()
    assert saturated == (reference.rounded_map(activated, drop, key, 2**62) != codes).sum() > 0

    dz = stored(rng.normal(0, limit(bits) / 3, z.shape), bits)
    error, sums, products = norm.activation_error(dz, y, constants[:2], 1, pool)
    expected = np.zeros(y.shape, np.int64)
    for n, h, w, c in np.ndindex(z.shape):
        place = np.unravel_index(np.argmax(tiles[n, h, :, w, :, c]), (pool, pool))
        slope = 8 if best[n, h, w, c] > 0 else 1
        expected[n, h * pool + place[0], w * pool + place[1], c] = slope * int(dz[n, h, w, c])
    assert np.array_equal(error, expected)
    assert np.array_equal(sums, expected.sum((0, 1, 2)))
    assert np.array_equal(products, (expected * y).sum((0, 1, 2)))

    total = factor * expected + constants[1].astype(np.int64) * y + constants[2]
    drop = narrowing_shift(np.abs(total).max(), bits)
    dy, largest, _ = norm.denormalise(error, y, constants, drop, key, limit(bits))
    assert np.array_equal(dy, reference.rounded_map(total, drop, key, limit(bits)))
    assert dy.dtype == dz.dtype
    assert largest == np.abs(total).max()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("exponent", [-5, -9])
def test_mean_only_norm_is_autograd(exponent, bits, rng):
    y, scale, shift, pool = make(rng, (6, 8, 8, 5, 2), bits)
    exponent -= bits - 8
    count = y.size // y.shape[3]
    mean, _ = norm.batch_statistics(*norm.channel_sums(y), count)
    inverse = norm.inverse_unit(y.shape[3], exponent, bits)
    constants, frac_bits = norm.forward_constants(mean, inverse, scale, shift, bits)
    _, largest, _ = norm.normalise(y, constants, 1, pool, 0, -1, limit(bits))
    drop = narrowing_shift(largest, bits)
    z, _, _ = norm.normalise(y, constants, 1, pool, drop, -1, limit(bits))
    x = leaf(y * 2.0**exponent).requires_grad_()
    centered = x - x.mean((0, 2, 3), keepdim=True)
    scale_t, shift_t = (torch.tensor(v / 4096).reshape(1, -1, 1, 1) for v in (scale, shift))
    exact = torch.nn.functional.leaky_relu(centered * scale_t + shift_t, 1 / 8)
    exact = torch.nn.functional.max_pool2d(exact, pool)
    unit = 2.0 ** (drop - frac_bits)
    np.testing.assert_allclose(z * unit, channels_last(exact), atol=0.52 * unit)

    dz = stored(rng.normal(0, limit(bits) / 3, z.shape), bits)
    exact.backward(leaf(dz))
    error, sums, products = norm.activation_error(dz, y, constants, 1, pool)
    back, frac_bits, scale_gradient, shift_gradient = norm.backward_constants(
        sums, products, count, mean, inverse, scale, bits, bits, mean_only=True
    )
    assert not scale_gradient.any()
    assert np.array_equal(shift_gradient, sums)
    _, largest, _ = norm.denormalise(error, y, back, 0, -1, limit(bits))
    drop = narrowing_shift(largest, bits)
    dy, _, _ = norm.denormalise(error, y, back, drop, -1, limit(bits))
    unit = 2.0 ** (drop - frac_bits - norm.EIGHTHS - exponent)
    np.testing.assert_allclose(dy * unit, channels_last(x.grad), atol=0.55 * unit)


def test_a_mean_only_norm_refuses_a_map_that_has_diverged():
    assert norm.inverse_unit(2, 4)[0] == 2**40
    assert norm.inverse_unit(2, -40)[0] == 0
    with pytest.raises(ValueError, match="exponent of at most 4, not 5: their weights"):
        norm.inverse_unit(2, 5)
    with pytest.raises(ValueError, match="16-bit maps with an exponent of at most -4, not 0"):
        norm.inverse_unit(2, 0, 16)


def test_a_batchs_own_statistics_leave_the_running_ones_alone(rng):
    """Adaptive batch norm: a shifted batch normalises itself. Source: Li et al., 2016."""
    y, scale, shift, _ = make(rng, (8, 6, 6, 5, 1))
    running = np.zeros(5, np.int64), np.full(5, 1 << 32, np.int64)
    mean, sigma = norm.batch_statistics(*norm.channel_sums(y // 2), y.size // 5)
    norm.update_running(*running, mean, sigma, -5, 0)
    before = [values.copy() for values in running]
    brighter = (y // 2 + 30).astype(np.int8)
    *_, own, frac_bits = constants_of(brighter, scale, shift)
    inverse = norm.inverse_sigma(sigma)
    source, source_bits = norm.forward_constants(mean, inverse, scale, shift)
    z, _, _ = norm.normalise(brighter, own, 1, 1, frac_bits - 4, -1, 127)
    expected, _, _ = norm.normalise((y // 2), source, 1, 1, source_bits - 4, -1, 127)
    assert np.array_equal(z, expected)
    for now, then in zip(running, before, strict=True):
        assert np.array_equal(now, then)
    old_mean, old_sigma = norm.running_statistics(*running, -5)
    np.testing.assert_allclose(old_mean, mean, atol=1)
    np.testing.assert_allclose(old_sigma, sigma, rtol=1e-5)


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


def test_constants_of_16_bits_leave_room_for_a_shift_of_30():
    """The same with 16-bit maps: what any multiply-add reaches fits 16 bits after a shift by 30."""
    mean = np.array([32767 << 8, -(32767 << 8), 0], np.int64)
    inverse = norm.inverse_sigma(np.array([1, 32767 << 20, 5 << 20], np.int64), 16)
    assert inverse[0] == 2**32  # 16 of the last bits: the part of the range that it is with 8 bits
    scale = np.array([32767, -32767, 1], np.int16)
    shift = np.array([32767, 32767, -32767], np.int16)
    constants, _ = norm.forward_constants(mean, inverse, scale, shift, 16)
    assert constants.dtype == np.int64
    assert (np.abs(constants[0]) * 32767 + np.abs(constants[1])).max() < 2**45
    sums = np.array([2**38, -(2**38), 5], np.int64)
    products = np.array([2**53, 2**53, -(2**53)], np.int64)
    back, *_ = norm.backward_constants(sums, products, 2**20, mean, inverse, scale, 16, 16)
    wide = np.abs(back)
    assert (wide[0] * 32767 * 8 + wide[1] * 32767 + wide[2]).max() < 2**45


def test_running_statistics_of_much_coarser_maps_saturate():
    """A map 40 powers of two finer than the running average: no overflow, no endless root."""
    running = np.array([3 << 32, -(3 << 32)]), np.array([9 << 32, 1 << 32])
    mean, sigma = norm.running_statistics(*running, -40)
    assert np.array_equal(mean, [2**23, -(2**23)])
    assert sigma.min() > 0


@pytest.mark.parametrize("exponent", [-6, -14])
def test_running_statistics_of_16_bits_return(exponent, rng):
    y, *_ = make(rng, (8, 6, 6, 5, 1), 16)
    mean, sigma = norm.batch_statistics(*norm.channel_sums(y), y.size // 5)
    running = np.zeros(5, np.int64), np.zeros(5, np.int64)
    norm.update_running(*running, mean, sigma, exponent, 0)
    again_mean, again_sigma = norm.running_statistics(*running, exponent)
    np.testing.assert_allclose(again_mean, mean, atol=1)
    np.testing.assert_allclose(again_sigma, sigma, rtol=1e-6)


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
