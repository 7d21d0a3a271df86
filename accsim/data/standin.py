"""Generated images that take the place of a data set that cannot be had.

Ten shapes of random place, size, lean and colour lie on a cluttered ground: what tells classes
apart is local shape, at no fixed pixel and of no fixed sign, so a linear classifier on raw pixels
stays near chance while a small convolutional network learns it, the better the more images it
sees. Everything is integer arithmetic on the raw output of PCG64, which numpy keeps unchanged
(NEP 19), and on exactly rounded square roots: the same bits everywhere.
"""

import math
import zlib
from collections.abc import Callable

import numpy as np

from accsim.data.base import Dataset
from accsim.network import Shape

TRAIN_IMAGES = 20_000
TEST_IMAGES = 10_000
CHUNK = 500  # images drawn at once: their planes stay in the processor's cache

ANGLES = 64  # directions of a turn
TURN = np.array(  # cosine and sine of each, in 1/1024
    [
        [round(1024 * f(2 * math.pi * angle / ANGLES)) for f in (math.cos, math.sin)]
        for angle in range(ANGLES)
    ],
    np.int32,
)
TILT = ANGLES // 10  # a shape leans this far either way
CLUTTER = 2  # small shapes of any class under the one that counts
NOISE = 16  # grey levels either way
SUBPIXELS = 16  # to a pixel, for places and sizes
UNIT = 256  # a shape's coordinates run from -UNIT to UNIT


def _length(u, v):
    """Distance from the origin, rounded down."""
    return np.sqrt((u * u + v * v).astype(np.float64)).astype(np.int32)


def _box(u, v, half_width, half_height):
    """Depth inside an upright rectangle; negative outside."""
    return np.minimum(half_width - np.abs(u), half_height - np.abs(v))


def _ring(u, v):
    return 55 - np.abs(_length(u, v) - 175)


def _frame(u, v):
    return np.minimum(_box(u, v, 205, 205), -_box(u, v, 105, 105))


def _cross(u, v):
    return np.maximum(_box(u, v, 240, 62), _box(u, v, 62, 240))


def _triangle(u, v):
    return np.minimum(v + 130, (230 - v - 2 * np.abs(u)) * 29 // 64)  # 29/64 is about 1/sqrt(5)


def _corner(u, v):
    return np.minimum(_box(u, v, 210, 210), np.maximum(-u - 90, -v - 90))


def _dumbbell(u, v):
    return np.maximum(100 - _length(np.abs(u) - 145, v), _box(u, v, 145, 28))


def _crescent(u, v):
    return np.minimum(225 - _length(u, v), _length(u - 115, v) - 170)


SHAPES: dict[str, Callable] = {  # depth inside the shape at (u, v); negative outside
    "disc": lambda u, v: 195 - _length(u, v),
    "ring": _ring,
    "square": lambda u, v: _box(u, v, 175, 175),
    "frame": _frame,
    "bar": lambda u, v: _box(u, v, 245, 75),
    "cross": _cross,
    "triangle": _triangle,
    "corner": _corner,
    "dumbbell": _dumbbell,
    "crescent": _crescent,
}


class Draws:
    """Integers in a range from the raw 64-bit output of PCG64."""

    def __init__(self, seed: int):
        self._bits = np.random.PCG64(seed)

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        """int32 of `shape`, low to high - 1, by the upper bits of each raw word."""
        raw = self._bits.random_raw(shape) >> np.uint64(40)  # 24 bits
        return (low + ((raw * np.uint64(high - low)) >> np.uint64(24)).astype(np.int64)).astype(
            np.int32
        )


def dataset(name: str, image: Shape) -> Dataset:
    """The stand-in for the set `name`: 20,000 and 10,000 images of shape `image`, ten classes.

    Classes are equally frequent in both splits; sets of different names have different images.
    """
    seed = zlib.crc32(name.encode())
    train, test = (
        draw(count, image, seed + split) for split, count in enumerate((TRAIN_IMAGES, TEST_IMAGES))
    )
    return Dataset(name, "procedural stand-in", True, tuple(SHAPES), *train, *test)


def draw(count: int, image: Shape, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8[count, H, W, C] and int64[count]; label i % 10, so every prefix is balanced."""
    draws = Draws(seed)
    labels = np.arange(count, dtype=np.int64) % len(SHAPES)
    images = np.empty((count, image.height, image.width, image.channels), np.uint8)
    for start in range(0, count, CHUNK):
        chunk = slice(start, min(start + CHUNK, count))
        images[chunk] = _draw_chunk(draws, labels[chunk], image)
    return images, labels


def _draw_chunk(draws: Draws, labels: np.ndarray, image: Shape) -> np.ndarray:
    """uint8[N, H, W, C] of the shapes `labels`, over clutter, over a slanted and noisy ground."""
    count = len(labels)
    base = draws.integers(48, 208, count, 1, 1, image.channels)
    slant = draws.integers(-64, 65, count, 2, 1, image.channels)  # grey levels across the image
    x = np.arange(image.width, dtype=np.int32)[:, None] - image.width // 2  # (W, 1)
    y = np.arange(image.height, dtype=np.int32)[:, None, None] - image.height // 2  # (H, 1, 1)
    picture = base + slant[:, :1] * x // image.width + slant[:, 1:] * y // image.height

    sides = min(image.height, image.width) * SUBPIXELS
    for _ in range(CLUTTER):
        kinds = draws.integers(0, len(SHAPES), count)
        alpha = _alpha(draws, kinds, image, sides // 16, sides // 8)
        picture += (_contrast(draws, picture, base) * alpha) >> 8
    alpha = _alpha(draws, labels, image, sides * 3 // 16, sides * 3 // 8)
    picture += (_contrast(draws, picture, base) * alpha) >> 8

    picture += draws.integers(-NOISE, NOISE + 1, *picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _contrast(draws: Draws, picture: np.ndarray, base: np.ndarray) -> np.ndarray:
    """What to add to the picture, (N, H, W, C), to get one colour that stands out from `base`.

    All channels are brighter, or all darker, by chance: the sign says nothing of the class.
    """
    sign = 2 * draws.integers(0, 2, len(base), 1, 1, 1) - 1
    return base + sign * draws.integers(40, 128, *base.shape) - picture


def _alpha(
    draws: Draws, kinds: np.ndarray, image: Shape, smallest: int, largest: int
) -> np.ndarray:
    """Cover of each pixel, 0 to 256, by the shapes `kinds` at chance places: int32[N, H, W, 1].

    Radii, half the sides of the shapes' squares, are `smallest` to `largest` subpixels.
    """
    count = len(kinds)
    radius = draws.integers(smallest, largest + 1, count, 1, 1)
    turn = TURN[draws.integers(-TILT, TILT + 1, count) % ANGLES][..., None, None]  # (N, 2, 1, 1)
    inset = radius * 3 // 4  # corners may be cut by the border, middles may not
    spots = draws.integers(0, 1 << 12, count, 2, 1, 1)
    x = _pixels(image.width) - _spread(spots[:, 0], inset, image.width)  # (N, 1, W)
    y = _pixels(image.height)[:, None] - _spread(spots[:, 1], inset, image.height)  # (N, H, 1)
    cosine, sine = (turn[:, axis] * UNIT // radius for axis in (0, 1))
    u = (x * cosine + y * sine) >> 10  # (N, H, W)
    v = (y * cosine - x * sine) >> 10
    depth = np.empty_like(u)
    for kind, shape in enumerate(SHAPES.values()):
        rows = np.flatnonzero(kinds == kind)
        depth[rows] = shape(u[rows], v[rows])
    # One pixel of depth is SUBPIXELS * UNIT / radius units; the edge is one pixel wide.
    return np.clip(128 + depth * radius // SUBPIXELS, 0, 256)[..., None]


def _pixels(side: int) -> np.ndarray:
    """Middles of the pixels of a side, in subpixels."""
    return np.arange(side, dtype=np.int32) * SUBPIXELS + SUBPIXELS // 2


def _spread(spot: np.ndarray, inset: np.ndarray, side: int) -> np.ndarray:
    """Place on a side, `inset` subpixels from its ends, for a `spot` of 0 to 4095."""
    return inset + (spot * (side * SUBPIXELS - 2 * inset) >> 12)
