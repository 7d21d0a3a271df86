"""Operations of strong augmentation: against Pillow, and against exact fractions."""

from fractions import Fraction
from math import atan2, degrees, floor

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from accsim.kernels import distort

AMOUNTS = (-30, -17, -1, 0, 4, 20, 30)


@pytest.fixture
def picture(rng):
    """8 high and 10 wide, without black or white."""
    return rng.integers(20, 230, (8, 10, 3)).astype(np.uint8)


def distorted(picture, *operations):
    """After operations, each a kind and its amount."""
    kinds, amounts = np.array(operations).T[:, None]
    return distort.distort(picture[None], kinds.copy(), amounts.copy())[0]


def enhanced(enhance):
    return lambda image, amount: enhance(image).enhance(1 + 0.9 * amount / 30)


PILLOW = {
    distort.IDENTITY: lambda image, amount: image,
    distort.AUTOCONTRAST: lambda image, amount: ImageOps.autocontrast(image),
    distort.BRIGHTNESS: enhanced(ImageEnhance.Brightness),
    distort.CONTRAST: enhanced(ImageEnhance.Contrast),
    distort.SATURATION: enhanced(ImageEnhance.Color),
    distort.POSTERIZE: lambda image, amount: ImageOps.posterize(image, 8 - abs(amount) * 4 // 30),
    distort.SOLARIZE: lambda image, amount: ImageOps.solarize(
        image, floor(255 * (1 - abs(amount) / 30) + 0.999)
    ),
    distort.EQUALIZE: lambda image, amount: ImageOps.equalize(image),
    distort.SHARPNESS: enhanced(ImageEnhance.Sharpness),
}


@pytest.mark.parametrize("kind", PILLOW)
@pytest.mark.parametrize("amount", AMOUNTS)
def test_colours_are_those_of_pillow(kind, amount, picture):
    """Pillow rounds down, and greys once more: two levels."""
    expected = np.asarray(PILLOW[kind](Image.fromarray(picture), amount))
    got = distorted(picture, (kind, amount))
    assert np.abs(got.astype(int) - expected).max() <= 2
    exact = (distort.IDENTITY, distort.POSTERIZE, distort.SOLARIZE, distort.EQUALIZE)
    if kind in exact:
        assert np.array_equal(got, expected)


def origin(kind, amount, x, y, width, height):
    """Where a pixel comes from, about the middle, in exact fractions."""
    share = Fraction(amount, 100)
    if kind == distort.ROTATE:
        t = Fraction(9 * amount, 1000)
        cosine, sine = (1 - t**2) / (1 + t**2), 2 * t / (1 + t**2)
        assert degrees(atan2(sine, cosine)) == pytest.approx(amount, rel=0.035)
        return x * cosine + y * sine, y * cosine - x * sine
    return {
        distort.SHEAR_ROWS: (x + y * share, y),
        distort.SHEAR_COLUMNS: (x, y + x * share),
        distort.SHIFT_ROWS: (x + width * share, y),
        distort.SHIFT_COLUMNS: (x, y + height * share),
    }[kind]


@pytest.mark.parametrize("kind", range(distort.SHEAR_ROWS, distort.ROTATE + 1))
@pytest.mark.parametrize("amount", AMOUNTS)
def test_places_are_the_nearest_of_exact_fractions(kind, amount, picture):
    height, width, _ = picture.shape
    middle_x, middle_y = Fraction(width - 1, 2), Fraction(height - 1, 2)
    got = distorted(picture, (kind, amount))
    for h in range(height):
        for w in range(width):
            x, y = origin(kind, amount, w - middle_x, h - middle_y, width, height)
            column, row = floor(x + middle_x + Fraction(1, 2)), floor(y + middle_y + Fraction(1, 2))
            inside = 0 <= column < width and 0 <= row < height
            expected = picture[row, column].tolist() if inside else [distort.OUTSIDE] * 3
            assert got[h, w].tolist() == expected


@pytest.mark.parametrize("levels", [1, 2, 40, 256])
@pytest.mark.parametrize("shape", [(8, 10, 3), (32, 32, 3), (28, 28, 1)])
def test_equalized_pictures_are_pillows(levels, shape, rng):
    """Of few levels and of many, of fewer pixels than levels and of more; every channel its own."""
    drawn = rng.integers(0, levels, shape) * 255 // max(levels - 1, 1)
    picture = np.minimum(drawn, rng.integers(0, 256, shape)).astype(np.uint8)
    got = distorted(picture, (distort.EQUALIZE, 7))
    for c in range(shape[2]):
        expected = np.asarray(ImageOps.equalize(Image.fromarray(picture[:, :, c])))
        assert np.array_equal(got[:, :, c], expected)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_sharpened_pictures_are_exact_and_pillows_rounded_down(amount, rng):
    picture = rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(picture).filter(ImageFilter.SMOOTH)).astype(int)
    got = distorted(picture, (distort.SHARPNESS, amount)).astype(int)
    factor = 1 + Fraction(3 * amount, 100)
    for place in np.ndindex(picture.shape):
        s, p = int(smooth[place]), int(picture[place])
        assert got[place] == min(max(s + floor((p - s) * factor + Fraction(1, 2)), 0), 255)
    pillow = ImageEnhance.Sharpness(Image.fromarray(picture)).enhance(float(factor))
    assert np.abs(got - np.asarray(pillow)).max() <= 1
    assert np.array_equal(got == picture, np.ones_like(got)) == (amount == 0)
    border = np.ones(picture.shape, bool)
    border[1:-1, 1:-1] = False
    assert np.array_equal(got[border], picture[border])


def test_operations_follow_one_another(picture):
    first, second = (distort.BRIGHTNESS, 20), (distort.SHIFT_ROWS, -15)
    both = distorted(picture, first, second)
    assert np.array_equal(both, distorted(distorted(picture, first), second))
    assert not np.array_equal(both, distorted(picture, second))


@pytest.mark.parametrize("kind", range(distort.KINDS))
def test_grey_pictures_stay_grey(kind, picture):
    grey = picture[:, :, :1]
    got = distorted(grey, (kind, 12))
    assert np.array_equal(got, distorted(np.repeat(grey, 3, 2), (kind, 12))[:, :, :1])


def test_a_flat_picture_has_no_contrast_to_stretch():
    flat = np.full((4, 4, 3), 77, np.uint8)
    assert np.array_equal(distorted(flat, (distort.AUTOCONTRAST, 5)), flat)


def test_squares_are_cut_where_they_lie_in_the_image():
    images = np.ones((3, 5, 6, 2), np.int8)
    distort.cut_out(images, np.array([[2, 3], [0, 0], [4, 5]]), 3)
    expected = np.ones((3, 5, 6), int)
    expected[0, 1:4, 2:5] = 0
    expected[1, :2, :2] = 0
    expected[2, 3:, 4:] = 0
    assert np.array_equal(images, np.repeat(expected[..., None], 2, 3))
