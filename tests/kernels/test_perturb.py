"""Images moved along directions, against the exact length and direction."""

from decimal import Decimal, getcontext

import numpy as np
import pytest
import reference

from accsim.kernels.fixed_point import random_key
from accsim.kernels.perturb import moved, random_signs

getcontext().prec = 60


@pytest.mark.parametrize("largest", [1, 127, 32767])
@pytest.mark.parametrize("radius", [256, 1229, 20000])
def test_a_step_has_the_length_and_direction_to_half_a_code(largest, radius, rng):
    images = rng.integers(-127, 128, (6, 5, 4, 3)).astype(np.int8)
    directions = rng.integers(-largest, largest + 1, images.shape)
    directions[0] = 0
    directions[0, 0, 0, 0] = -1  # all of the length in one value
    found = moved(images, directions, radius)
    for image, direction, got in zip(images, directions, found, strict=True):
        wide = [int(value) for value in direction.ravel()]
        square = sum(value * value for value in wide)
        length = Decimal(radius) / 256 * Decimal(60).sqrt()
        for start, value, code in zip(image.ravel(), wide, got.ravel(), strict=True):
            exact = int(start) + value * length / Decimal(square).sqrt()
            nearest = min(max(exact, Decimal(-127)), Decimal(127))
            assert abs(int(code) - nearest) <= Decimal("0.5001"), (int(start), value)


def test_the_whole_step_has_the_length_where_nothing_saturates(rng):
    """Root mean square 6.4 codes; rounding adds the variance of a code's width, 1/12."""
    directions = rng.normal(0, 30, (8, 32, 32, 3)).round().astype(np.int64)
    step = moved(np.zeros(directions.shape, np.int8), directions, round(6.4 * 256)).astype(float)
    lengths = np.sqrt((step**2).mean((1, 2, 3)))
    assert lengths == pytest.approx(np.sqrt(6.4**2 + 1 / 12), rel=6e-3)
    cosine = (step * directions).sum((1, 2, 3)) / np.sqrt(
        (step**2).sum((1, 2, 3)) * (directions**2).sum((1, 2, 3))
    )
    assert cosine.min() > 0.997


def test_random_signs_are_the_top_bits_of_the_hash():
    key = random_key(7, 8)
    found = random_signs((50, 4, 5), key).ravel()
    assert found.tolist() == [-1 if reference.hash32(i ^ key) >> 31 else 1 for i in range(1000)]
    assert abs(found.sum()) < 100
