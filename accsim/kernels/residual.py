"""Sums of two 8-bit maps with different exponents, and the slope of the activation after them."""

import numpy as np
from numba import njit

from accsim.kernels.fixed_point import noise32, saturate

LARGEST_ALIGNMENT = 16  # a map more than 16 bits coarser than the other one swallows it


@njit(cache=True)
def add(a, b, left_a, left_b, negative_eighths, shift, key, limit):
    """``activation(a * 2**left_a + b * 2**left_b)`` in eighths, shifted right, saturated.

    Parameters
    ----------
    a, b : int8[N, H, W, C]
    left_a, left_b : 0 to 16, bring both maps to the finer exponent of the two
    negative_eighths : slope of the activation below zero
    shift, key, limit : as in `conv2d.convolve`

    Returns
    -------
    int8[N, H, W, C], largest, saturated : as in `conv2d.convolve`
    """
    z = np.empty(a.shape, np.int8)
    flat_a, flat_b, flat_z = a.ravel(), b.ravel(), z.ravel()
    largest = np.int32(0)
    saturated = 0
    for i in range(len(flat_a)):
        total = (np.int32(flat_a[i]) << left_a) + (np.int32(flat_b[i]) << left_b)
        value = np.int32(total * np.int32(8 if total > 0 else negative_eighths))
        largest = max(largest, abs(value))
        value = (value + noise32(value, key, i, shift)) >> shift
        narrow = saturate(value, limit)
        saturated += narrow != value
        flat_z[i] = narrow
    return z, largest, saturated


@njit(cache=True)
def slope_error(dz, z, negative_eighths, shift, key, limit):
    """Error before an activation whose output was `z`: int8 maps of one shape; in eighths."""
    dx = np.empty(dz.shape, np.int8)
    flat_dz, flat_z, flat_dx = dz.ravel(), z.ravel(), dx.ravel()
    largest = np.int32(0)
    saturated = 0
    for i in range(len(flat_dz)):
        value = np.int32(flat_dz[i] * np.int32(8 if flat_z[i] > 0 else negative_eighths))
        largest = max(largest, abs(value))
        value = (value + noise32(value, key, i, shift)) >> shift
        narrow = saturate(value, limit)
        saturated += narrow != value
        flat_dx[i] = narrow
    return dx, largest, saturated


def alignment(exponent_a: int, exponent_b: int) -> tuple[int, int, int]:
    """Left shifts that bring two exponents together, and the common exponent."""
    common = min(exponent_a, exponent_b)
    common = max(common, exponent_a - LARGEST_ALIGNMENT, exponent_b - LARGEST_ALIGNMENT)
    return max(exponent_a - common, 0), max(exponent_b - common, 0), common
