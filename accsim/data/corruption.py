"""Corruptions of frames in five severities, in exact integers.

Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019; formulas and constants are those that its authors made CIFAR-10-C with.
Pixels x of 0 to 1 there are p = 255 x here. Every result is the formula's, rounded half up to a
whole level (the authors' is rounded down).
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from typing import final

import numpy as np

from accsim.data.disturbance import Change, FrameKind
from accsim.kernels.fixed_point import random_key, random_words

NORMAL_BITS = 12  # of a draw's place in `NORMAL`, and behind the point of its entries
NORMAL = np.array(  # the standard normal distribution's 4,096 mid-quantiles: up to 3.7 deviations
    [
        round(NormalDist().inv_cdf((place + 0.5) / (1 << NORMAL_BITS)) * (1 << NORMAL_BITS))
        for place in range(1 << NORMAL_BITS)
    ]
)
BLUR_BITS = 16  # behind the point of a blur's weights
BLUR_REACH = 4  # deviations that a blur reaches
FOG_BITS = 16  # behind the point of heights
FOG_HEIGHT = 100**2  # of the first bumps: the authors multiply 100 by a draw of -100 to 100
CHUNK = 500  # test images corrupted at once


@dataclass(frozen=True)
class Corruption(Change):
    """A corruption of one severity, 1 (mild) to 5."""

    severity: int

    def __post_init__(self):
        if not isinstance(self.severity, int) or not 1 <= self.severity <= 5:
            raise ValueError(f"severity must be 1, 2, 3, 4 or 5, not {self.severity!r}")

    def apply(self, images, kinds, numbers, key, dataset):
        keys = [random_key(key, int(number)) for number in numbers]
        return self.corrupt(images, keys), np.maximum(kinds, np.int8(FrameKind.CORRUPTED))

    def test(self, dataset):
        images = dataset.test_images
        chunks = [slice(first, first + CHUNK) for first in range(0, len(images), CHUNK)]
        keys = range(len(images))
        corrupted = [self.corrupt(images[chunk], keys[chunk]) for chunk in chunks]
        return np.concatenate(corrupted), dataset.test_labels

    @abstractmethod
    def corrupt(self, images: np.ndarray, keys: Sequence[int]) -> np.ndarray:
        """Corrupted copies, uint8[N, H, W, C]; image i depends on itself and keys[i] alone."""


@final
class GaussianNoise(Corruption):
    """``x + c n`` with n of a standard normal distribution."""

    PERCENT = (4, 6, 8, 9, 10)  # c

    def corrupt(self, images, keys):
        words = _words(images.shape, keys) >> np.uint32(32 - NORMAL_BITS)
        scale = 100 << NORMAL_BITS
        noise = 255 * self.PERCENT[self.severity - 1] * NORMAL[words]
        return _pixels(images * np.int64(scale) + noise, scale)


@final
class GaussianBlur(Corruption):
    """A Gaussian filter over height and width that reaches 4 deviations; borders are repeated."""

    DEVIATION_TENTHS = (4, 6, 7, 8, 10)  # pixels / 10

    def corrupt(self, images, keys):
        weights = blur_weights(self.DEVIATION_TENTHS[self.severity - 1])
        reach = len(weights) // 2
        wide = images.astype(np.int64)
        for axis in (1, 2):
            length = wide.shape[axis]
            around = [(reach, reach) if a == axis else (0, 0) for a in range(4)]
            padded = np.pad(wide, around, mode="edge")
            wide = sum(
                weight * padded.take(range(first, first + length), axis)
                for first, weight in enumerate(weights)
            )
        return _pixels(wide, 1 << 2 * BLUR_BITS)


@final
class Contrast(Corruption):
    """``(x - m) c + m`` with m, a channel's mean over the image."""

    PERCENT = (75, 50, 40, 30, 15)  # c

    def corrupt(self, images, keys):
        percent, pixels = self.PERCENT[self.severity - 1], images.shape[1] * images.shape[2]
        total = images.sum((1, 2), np.int64, keepdims=True)  # the mean, times `pixels`
        own = pixels * images.astype(np.int64)
        return _pixels(percent * own + (100 - percent) * total, 100 * pixels)


@final
class Brightness(Corruption):
    """``min(v + c, 1)`` with v, the value of HSV colours: the largest channel of a pixel.

    Hue and saturation stay, so the channels keep their ratios; black becomes grey.
    """

    PERCENT = (5, 10, 15, 20, 30)  # c

    def corrupt(self, images, keys):
        value = images.max(3, keepdims=True).astype(np.int64)
        brighter = np.minimum(100 * value + 255 * self.PERCENT[self.severity - 1], 25500)
        lit = np.where(value > 0, images, 1) * brighter
        return _pixels(lit, 100 * np.maximum(value, 1))


@final
class Fog(Corruption):
    """``(x + c h) m / (m + c)`` with m, the largest x of the image, and h, a plasma of 0 to 1."""

    PERCENT = (20, 50, 75, 100, 150)  # c
    DECAY = (Fraction(3), Fraction(3), Fraction(5, 2), Fraction(2), Fraction(7, 4))

    def corrupt(self, images, keys):
        _, height, width, _ = images.shape
        side = max(2, 1 << (max(height, width) - 1).bit_length())
        heights = plasma(side, self.DECAY[self.severity - 1], keys)[:, :height, :width, None]
        percent = self.PERCENT[self.severity - 1]
        largest = images.max((1, 2, 3), keepdims=True).astype(np.int64)
        foggy = images * np.int64(100 << FOG_BITS) + 255 * percent * heights
        return _pixels(foggy * largest, (100 * largest + 255 * percent) << FOG_BITS)


@lru_cache
def blur_weights(deviation_tenths: int) -> tuple[int, ...]:
    """Weights of a Gaussian filter, 16 fractional bits; the middle one makes their sum 1."""
    deviation = deviation_tenths / 10
    reach = int(BLUR_REACH * deviation + 0.5)
    side = [math.exp(-((place / deviation) ** 2) / 2) for place in range(1, reach + 1)]
    total = 1 + 2 * sum(side)
    half = [round(weight / total * (1 << BLUR_BITS)) for weight in side]
    return (*half[::-1], (1 << BLUR_BITS) - 2 * sum(half), *half)


def plasma(side: int, decay: Fraction, keys: Sequence[int]) -> np.ndarray:
    """Cloud-like heights by the diamond-square algorithm, on a torus.

    Parameters
    ----------
    side : of the maps, a power of two
    decay : bumps get lower by its square with every halving of their distance
    keys : a random key for each map

    Returns
    -------
    int64[N, side, side], 0 to 1 with 16 fractional bits: lowest 0, highest 1
    """
    draws = _words((len(keys), side, side), keys).view(np.int32).astype(np.int64)  # -1 to 1, Q31
    heights = np.zeros((len(keys), side, side), np.int64)
    bump = Fraction(FOG_HEIGHT << FOG_BITS)
    step = side
    while step >= 2:
        low, middle = slice(0, None, step), slice(step // 2, None, step)
        size = math.floor(bump)

        def fill(rows, columns, neighbours, size=size):
            """The mean of four neighbours, and a bump."""
            place = slice(None), rows, columns
            heights[place] = (neighbours >> 2) + (size * draws[place] >> 31)

        corners = heights[:, low, low]
        below = corners + np.roll(corners, -1, 1)
        beside = corners + np.roll(corners, -1, 2)
        fill(middle, middle, below + np.roll(below, -1, 2))
        middles = heights[:, middle, middle]
        fill(low, middle, middles + np.roll(middles, 1, 1) + beside)
        fill(middle, low, middles + np.roll(middles, 1, 2) + below)
        step //= 2
        bump /= decay**2
    heights -= heights.min((1, 2), keepdims=True)
    return (heights << FOG_BITS) // np.maximum(heights.max((1, 2), keepdims=True), 1)


def _words(shape: tuple[int, ...], keys: Sequence[int]) -> np.ndarray:
    """Random words of every image's own key: uint32 of `shape`, whose first axis is the images."""
    count = math.prod(shape[1:])
    return np.array([random_words(count, key) for key in keys], np.uint32).reshape(shape)


def _pixels(dividend: np.ndarray, divisor: np.ndarray | int) -> np.ndarray:
    """The quotient of integers rounded half up, in the range of a pixel: uint8."""
    return np.clip((2 * dividend + divisor) // (2 * divisor), 0, 255).astype(np.uint8)
