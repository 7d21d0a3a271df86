"""Images moved by a given length along a direction each, in whole numbers."""

from math import isqrt

import numpy as np

from accsim.kernels.fixed_point import limit, random_words

RADIUS_BITS = 8  # fractional bits of a radius, beside those of the images
FACTOR_BITS = 24  # fractional bits of a direction's factor


def random_signs(shape: tuple[int, ...], key: int) -> np.ndarray:
    """A random corner of the cube: +1 or -1 with equal chance, int8 of `shape`."""
    words = random_words(int(np.prod(shape)), key)
    return (1 - 2 * (words >> np.uint32(31)).astype(np.int8)).reshape(shape)


def moved(images: np.ndarray, directions: np.ndarray, radius: int) -> np.ndarray:
    """``image + radius * direction``, each direction with a root mean square of 1: int8[N, ...].

    Parameters
    ----------
    images : int8[N, ...]
    directions : integers[N, ...] of any scale, up to 16 bits; an image's must not be all 0
    radius : root mean square of what is added, in codes of the images, 8 fractional bits

    Notes
    -----
    Of n values of a direction d, ``s = sum d**2`` is exact. One number an image, the whole part of
    ``sqrt(n * radius**2 * 2**48 / s)``, has the length and 24 more fractional bits; d is multiplied
    with it, rounded half up and saturated with the image's own code. In hardware the root is one
    division and one restoring root an image.
    """
    wide = directions.reshape(len(images), -1).astype(np.int64)
    energy = wide.shape[1] * radius * radius << 2 * FACTOR_BITS
    factors = [isqrt(energy // square) for square in (wide * wide).sum(axis=1).tolist()]
    shift = RADIUS_BITS + FACTOR_BITS
    step = wide * np.array(factors, np.int64)[:, None] + (1 << shift >> 1) >> shift
    most = limit(8)
    return np.clip(images + step.reshape(images.shape), -most, most).astype(np.int8)
