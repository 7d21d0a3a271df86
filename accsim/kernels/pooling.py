"""Global average pooling of 8-bit maps, forward and backward.

The division by the pixels of a map is a multiplication by a 16-bit reciprocal, as in hardware.
"""

import numpy as np
from numba import njit

from accsim.kernels.fixed_point import noise32, saturate

RECIPROCAL_BITS = 16  # fractional bits of the results before their shift


def reciprocal(count: int) -> int:
    """``1 / count`` with 16 fractional bits, rounded half up."""
    return ((1 << RECIPROCAL_BITS + 1) + count) // (2 * count)


@njit(cache=True)
def average(x, reciprocal, shift, key, limit):
    """Mean of every channel: int8[N, H, W, C] -> int8[N, 1, 1, C], largest, saturated.

    `shift`, `key`, `limit` and the last two results as in `conv2d.convolve`. The sum times a
    16-bit reciprocal stays below 2**31: at most 127 * 2**16.
    """
    images, height, width, channels = x.shape
    z = np.empty((images, 1, 1, channels), np.int8)
    largest = np.int32(0)
    saturated = 0
    total = np.empty(channels, np.int32)
    for n in range(images):
        total[:] = 0
        for h in range(height):
            for w in range(width):
                for c in range(channels):
                    total[c] += x[n, h, w, c]
        for c in range(channels):
            value = np.int32(total[c] * np.int32(reciprocal))
            largest = max(largest, abs(value))
            value = (value + noise32(value, key, n * channels + c, shift)) >> shift
            narrow = saturate(value, limit)
            saturated += narrow != value
            z[n, 0, 0, c] = narrow
    return z, largest, saturated


@njit(cache=True)
def spread(dz, height, width, reciprocal, shift, key, limit):
    """Error of the map: int8[N, 1, 1, C] -> int8[N, height, width, C], largest, saturated."""
    images, channels = dz.shape[0], dz.shape[3]
    dx = np.empty((images, height, width, channels), np.int8)
    largest = np.int32(0)
    saturated = 0
    for n in range(images):
        for h in range(height):
            for w in range(width):
                index = ((n * height + h) * width + w) * channels
                for c in range(channels):
                    value = np.int32(dz[n, 0, 0, c] * np.int32(reciprocal))
                    largest = max(largest, abs(value))
                    value = (value + noise32(value, key, index + c, shift)) >> shift
                    narrow = saturate(value, limit)
                    saturated += narrow != value
                    dx[n, h, w, c] = narrow
    return dx, largest, saturated
