"""Pooling, forward and backward, against exact integers, loops over windows and torch."""

import numpy as np
import pytest
import reference
import torch

from accsim.kernels import pooling
from accsim.kernels.fixed_point import limit

KEYS = [-1, -2, -3, -4, 9]
WINDOWS = [(2, 2), (3, 2), (3, 3), (2, 3), (1, 1)]  # window, stride


def maps(rng, shape, bits):
    largest = limit(bits)
    return rng.integers(-largest, largest + 1, shape).astype(np.int8 if bits == 8 else np.int16)


def windows(shape, window, stride):
    """Place of every window in its map and in the result."""
    for p in range((shape[1] - window) // stride + 1):
        for q in range((shape[2] - window) // stride + 1):
            rows = slice(p * stride, p * stride + window)
            yield (slice(None), rows, slice(q * stride, q * stride + window)), (slice(None), p, q)


def check(result, wide, shift, key, bits):
    """Values, largest and saturated of a kernel are those of exact integers, rounded."""
    values, largest, saturated = result
    codes = reference.rounded_map(wide, shift, key, limit(bits))
    assert np.array_equal(values, codes)
    assert values.dtype == (np.int8 if bits == 8 else np.int16)
    assert largest == np.abs(wide).max()
    unlimited = reference.rounded_map(wide, shift, key, 2**62)
    assert saturated == (unlimited != codes).sum()


def test_reciprocal_is_rounded_half_up():
    for count in (1, 2, 3, 36, 64, 1000):
        assert pooling.reciprocal(count) == (2 * 65536 + count) // (2 * count)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("key", KEYS)
def test_average_is_exact(key, bits, rng):
    x = maps(rng, (5, 6, 6, 11), bits)
    wide = x.astype(np.int64).sum((1, 2), keepdims=True) * pooling.reciprocal(36)
    check(pooling.average(x, pooling.reciprocal(36), 14, key, limit(bits)), wide, 14, key, bits)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("key", KEYS)
def test_spread_is_exact(key, bits, rng):
    dz = maps(rng, (4, 1, 1, 9), bits)
    wide = np.broadcast_to(dz.astype(np.int64) * pooling.reciprocal(20), (4, 4, 5, 9))
    result = pooling.spread(dz, 4, 5, pooling.reciprocal(20), 11, key, limit(bits))
    check(result, wide, 11, key, bits)


def test_the_largest_16_bit_average_needs_more_than_32_bits():
    x = np.full((1, 3, 3, 2), 32767, np.int16)
    wide = np.full((1, 1, 1, 2), 9 * 32767 * 7282)
    check(pooling.average(x, pooling.reciprocal(9), 16, -1, 32767), wide, 16, -1, 16)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("window", "stride"), WINDOWS)
def test_max_pool_is_that_of_every_window(window, stride, bits, rng):
    x = maps(rng, (3, 9, 8, 5), bits)
    z = pooling.max_pool(x, window, stride)
    assert z.dtype == x.dtype
    for pixels, place in windows(x.shape, window, stride):
        assert np.array_equal(z[place], x[pixels].max((1, 2)))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("window", "stride"), WINDOWS)
def test_max_pool_error_is_autograd(window, stride, bits, rng):
    """Few different values: many equal maxima, of which the first takes the error."""
    x = rng.integers(-2, 3, (3, 9, 8, 5)).astype(np.int8 if bits == 8 else np.int16)
    z = pooling.max_pool(x, window, stride)
    dz = maps(rng, z.shape, bits)
    leaf = torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2).contiguous().requires_grad_()
    pooled = torch.nn.functional.max_pool2d(leaf, window, stride)
    pooled.backward(torch.tensor(dz, dtype=torch.float64).permute(0, 3, 1, 2))
    wide = leaf.grad.permute(0, 2, 3, 1).numpy().astype(np.int64)
    for key in KEYS:
        result = pooling.max_pool_error(dz, z, x, window, stride, 1, key, limit(bits))
        check(result, wide, 1, key, bits)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("window", "stride"), WINDOWS)
def test_average_pool_is_exact_forward_and_backward(window, stride, bits, rng):
    x = maps(rng, (3, 9, 8, 5), bits)
    rows, columns = (9 - window) // stride + 1, (8 - window) // stride + 1
    wide = np.zeros((3, rows, columns, 5), np.int64)
    dz = maps(rng, wide.shape, bits)
    spread = np.zeros(x.shape, np.int64)
    factor = pooling.reciprocal(window * window)
    for pixels, place in windows(x.shape, window, stride):
        wide[place] = x[pixels].astype(np.int64).sum((1, 2)) * factor
        spread[pixels] += dz[place][:, None, None].astype(np.int64) * factor
    for key in KEYS:
        result = pooling.average_pool(x, window, stride, 15, key, limit(bits))
        check(result, wide, 15, key, bits)
        result = pooling.average_pool_error(dz, 9, 8, window, stride, 13, key, limit(bits))
        check(result, spread, 13, key, bits)


def test_extremes_are_by_channel(rng):
    x = maps(rng, (2, 6, 6, 3), 8)
    x[0, 0, 0], x[0, 1, 1] = -127, 127
    best = pooling.extremes(x, np.array([5, -5, 0]), 2, 2)
    tiles = x.reshape(2, 3, 2, 3, 2, 3)
    assert np.array_equal(best[..., 0], tiles[..., 0].max((2, 4)))
    assert np.array_equal(best[..., 1], tiles[..., 1].min((2, 4)))
    assert np.array_equal(best[..., 2], x[:, ::2, ::2, 2])
