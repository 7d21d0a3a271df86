"""Integer images for training: normalised, shifted and mirrored, the same bits everywhere.

Pixels become signed 8-bit integers with 5 fractional bits: ``(pixel - mean) / deviation``, with
integer statistics of the training set. No float is involved.
"""

from dataclasses import dataclass
from math import isqrt

import numpy as np
from numba import njit, prange

from accsim.kernels.fixed_point import hash32, round_shift, saturate

IMAGE_BITS = 5  # fractional bits of a normalised pixel: +-4 deviations fit 8 bits
_GAIN_BITS = 16


@dataclass(frozen=True)
class PixelScale:
    """Integer normalisation of each colour channel."""

    means: np.ndarray  # int64[C], of pixels 0 to 255
    gains: np.ndarray  # int64[C], 2**IMAGE_BITS / deviation with 16 fractional bits

    @classmethod
    def of(cls, images: np.ndarray) -> "PixelScale":
        """The scale of a training set, uint8[N, H, W, C]."""
        pixels = images.reshape(-1, images.shape[3])
        count = len(pixels)
        means, gains = [], []
        for channel in range(images.shape[3]):
            values = pixels[:, channel]
            total = int(values.sum(dtype=np.int64))
            square = int(np.square(values, dtype=np.int64).sum())
            deviation_256 = isqrt((count * square - total * total) * (1 << 16)) // count
            means.append((2 * total + count) // (2 * count))
            gains.append((1 << IMAGE_BITS + _GAIN_BITS + 8) // max(deviation_256, 256))
        return cls(np.array(means), np.array(gains))

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Normalise without augmenting: uint8[N, H, W, C] -> int8[N, H, W, C]."""
        return augment(images, np.arange(len(images)), self.means, self.gains, 0, False, 0)


@njit(cache=True, parallel=True)
def augment(images, chosen, means, gains, translate, flip, key):
    """Normalised images, each randomly shifted (borders reflected) and mirrored.

    Parameters
    ----------
    images : uint8[M, H, W, C]
    chosen : int64[N], which of them
    means, gains : see `PixelScale`
    translate : largest shift, pixels, in either direction
    flip : mirror half of the images
    key : random key; image i of the result depends on (key, i) alone

    Returns
    -------
    int8[N, H, W, C] with 5 fractional bits
    """
    _, height, width, channels = images.shape
    out = np.empty((len(chosen), height, width, channels), np.int8)
    span = np.uint32(2 * translate + 1)
    for i in prange(len(chosen)):
        random = hash32(np.uint32(i) ^ np.uint32(key))
        down = np.int64(random % span) - translate
        random = hash32(random)
        right = np.int64(random % span) - translate
        mirrored = flip and (hash32(random) & np.uint32(1)) == 1
        for h in range(height):
            source_h = _reflect(h + down, height)
            for w in range(width):
                source_w = _reflect(w + right, width)
                if mirrored:
                    source_w = width - 1 - source_w
                for c in range(channels):
                    pixel = np.int64(images[chosen[i], source_h, source_w, c])
                    out[i, h, w, c] = saturate(
                        round_shift((pixel - means[c]) * gains[c], _GAIN_BITS), 127
                    )
    return out


@njit(cache=True, inline="always")
def _reflect(place, size):
    """`place` mirrored at the borders of 0 to size - 1, without repeating the border."""
    if place < 0:
        place = -place
    if place >= size:
        place = 2 * (size - 1) - place
    return place
