"""Sums of two maps with different exponents, activations, and the slopes of these."""

import numpy as np
from numba import njit, prange

from accsim.kernels.fixed_point import CHUNK, code_type, store_codes

LARGEST_ALIGNMENT = 16  # a map more than 16 bits coarser than the other one swallows it


def add(a, b, left_a, left_b, negative_eighths, shift, key, limit):
    """``activation(a * 2**left_a + b * 2**left_b)`` in eighths, shifted right, saturated.

    Parameters
    ----------
    a, b : int8 or int16 [N, H, W, C], of one type
    left_a, left_b : 0 to 16, bring both maps to the finer exponent of the two
    negative_eighths : slope of the activation below zero
    shift, key, limit : as in `conv2d.forward`

    Returns
    -------
    z : [N, H, W, C], int8, or int16 where `limit` is above 127
    largest, saturated : as in `conv2d.forward`

    Notes
    -----
    Before the shift, 8-bit maps stay below 2**27 and 16-bit maps, in 64-bit words, below 2**35.
    """
    z = np.empty(a.shape, code_type(limit))
    slopes = np.array([negative_eighths, 8], np.int32 if a.dtype == np.int8 else np.int64)
    a, b, flat = a.reshape(-1), b.reshape(-1), z.reshape(-1)
    return z, *_add(a, b, left_a, left_b, slopes, shift, key, limit, flat)


@njit(cache=True, parallel=True)
def _add(a, b, left_a, left_b, slopes, shift, key, limit, z):
    """`add` in words of the type of `slopes`: below zero and above."""
    chunks = -(-len(a) // CHUNK)
    largest = np.zeros(chunks, slopes.dtype)
    saturated = np.zeros(chunks, np.int64)
    for n in prange(chunks):
        first, last = n * CHUNK, min((n + 1) * CHUNK, len(a))
        wide = np.empty(last - first, slopes.dtype)
        _activated_sum(a[first:last], b[first:last], left_a, left_b, slopes, wide)
        largest[n], saturated[n] = store_codes(wide, first, shift, key, limit, z[first:last])
    return largest.max(), saturated.sum()


@njit(cache=True)
def _activated_sum(a, b, left_a, left_b, slopes, wide):
    word = wide.dtype.type
    below, above = slopes[0], slopes[1]
    for i in range(len(wide)):
        total = word(word(word(a[i]) << word(left_a)) + word(word(b[i]) << word(left_b)))
        wide[i] = word(total * (above if total > 0 else below))


def activate(x, negative_eighths, shift, key, limit):
    """Activation of a map by itself, in eighths, shifted right, saturated.

    `x` : int8 or int16 [N, H, W, C]; the rest and the results as in `add`. A value's own sign
    decides its slope, so that this is `slope_error` of the map itself.
    """
    return slope_error(x, x, negative_eighths, shift, key, limit)


def slope_error(dz, z, negative_eighths, shift, key, limit):
    """Error before an activation whose input, or output, was `z`: maps of one shape; in eighths.

    Parameters
    ----------
    dz, z : int8 or int16 [N, H, W, C]
    negative_eighths, shift, key, limit and the results : as in `add`
    """
    dx = np.empty(dz.shape, code_type(limit))
    eighths = np.int32(negative_eighths)
    dz, z, flat = dz.reshape(-1), z.reshape(-1), dx.reshape(-1)
    return dx, *_slope_error(dz, z, eighths, shift, key, limit, flat)


@njit(cache=True, parallel=True)
def _slope_error(dz, z, eighths, shift, key, limit, dx):
    chunks = -(-len(dz) // CHUNK)
    largest = np.zeros(chunks, np.int32)
    saturated = np.zeros(chunks, np.int64)
    for n in prange(chunks):
        first, last = n * CHUNK, min((n + 1) * CHUNK, len(dz))
        wide = np.empty(last - first, np.int32)
        _sloped(dz[first:last], z[first:last], eighths, wide)
        largest[n], saturated[n] = store_codes(wide, first, shift, key, limit, dx[first:last])
    return largest.max(), saturated.sum()


@njit(cache=True)
def _sloped(dz, z, eighths, wide):
    for i in range(len(wide)):
        wide[i] = np.int32(np.int32(dz[i]) * (np.int32(8) if z[i] > 0 else eighths))


def alignment(exponent_a: int, exponent_b: int) -> tuple[int, int, int]:
    """Left shifts that bring two exponents together, and the common exponent."""
    common = min(exponent_a, exponent_b)
    common = max(common, exponent_a - LARGEST_ALIGNMENT, exponent_b - LARGEST_ALIGNMENT)
    return max(exponent_a - common, 0), max(exponent_b - common, 0), common
