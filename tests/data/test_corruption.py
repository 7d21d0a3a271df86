"""Corruptions: integer results beside the published formulas in plain floats."""

import colorsys
from statistics import NormalDist

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from accsim.data.base import Dataset
from accsim.data.corruption import (
    NORMAL,
    Brightness,
    Contrast,
    Fog,
    GaussianBlur,
    GaussianNoise,
    blur_weights,
    plasma,
)
from accsim.data.disturbance import FrameKind
from accsim.kernels.fixed_point import random_words

KINDS = [Brightness, Contrast, Fog, GaussianBlur, GaussianNoise]
KEYS = (5, 77)
ROUNDING = 0.5 + 0.05  # of a level: the result's, and that of weights, heights and draws


@pytest.fixture
def images():
    """Two pictures of all kinds of pixels, black and white ones too, 13 high and 16 wide."""
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 256, (2, 13, 16, 3)).astype(np.uint8)
    pictures[0, :3, :4], pictures[0, 5:8] = 0, 255
    pictures[1] //= 3  # a dark one: the largest pixel matters to fog
    return pictures


def noise(x, severity, key):
    c = [0.04, 0.06, 0.08, 0.09, 0.10][severity - 1]
    places = (random_words(x.size, key) >> 20) / 4096 + 1 / 8192
    normal = np.array([NormalDist().inv_cdf(place) for place in places.tolist()])
    return x + c * normal.reshape(x.shape)


def blur(x, severity, key):
    c = [0.4, 0.6, 0.7, 0.8, 1][severity - 1]
    return gaussian_filter(x, (c, c, 0), mode="nearest", truncate=4)


def contrast(x, severity, key):
    c = [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1]
    means = np.mean(x, axis=(0, 1), keepdims=True)
    return (x - means) * c + means


def brightness(x, severity, key):
    c = [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1]
    pixels = []
    for rgb in x.reshape(-1, 3).tolist():
        hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
        pixels.append(colorsys.hsv_to_rgb(hue, saturation, min(value + c, 1)))
    return np.array(pixels).reshape(x.shape)


def fog(x, severity, key):
    c = [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)][severity - 1]
    draws = random_words(256, key).view(np.int32).reshape(16, 16) / 2**31
    heights = diamond_square(draws, c[1])[: x.shape[0], : x.shape[1], None]
    return (x + c[0] * heights) * x.max() / (x.max() + c[0])


def diamond_square(draws, decay):
    """Point by point, on a torus: the middles of squares, then the middles of their sides."""
    side = len(draws)
    heights, wibble, step = np.zeros((side, side)), 100, side
    while step >= 2:
        half = step // 2
        diagonal = [(-half, -half), (-half, half), (half, -half), (half, half)]
        straight = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for odd, neighbours in ((2, diagonal), (1, straight)):
            for y in range(0, side, half):
                for x in range(0, side, half):
                    if (y // half) % 2 + (x // half) % 2 == odd:
                        near = [heights[(y + dy) % side, (x + dx) % side] for dy, dx in neighbours]
                        heights[y, x] = sum(near) / 4 + wibble * wibble * draws[y, x]
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        (GaussianNoise, noise),
        (GaussianBlur, blur),
        (Contrast, contrast),
        (Brightness, brightness),
        (Fog, fog),
    ],
)
def test_corruptions_are_the_published_formulas_rounded(kind, formula, severity, images):
    corrupted = kind(severity).corrupt(images, KEYS)
    assert corrupted.dtype == np.uint8
    for image, key, got in zip(images, KEYS, corrupted, strict=True):
        exact = np.clip(formula(image / 255.0, severity, key), 0, 1) * 255
        np.testing.assert_allclose(got, exact, rtol=0, atol=ROUNDING)


def test_contrast_is_worked_by_hand():
    """The mean of 0 and 200 is 100; three quarters of the way from it lie 25 and 175."""
    image = np.array([0, 200], np.uint8).reshape(1, 1, 2, 1)
    assert Contrast(1).corrupt(image, [0]).ravel().tolist() == [25, 175]


def test_brightness_is_worked_by_hand():
    """30 % of 255 is 76.5: a value of 100 becomes 176.5, and black a grey of 76.5."""
    image = np.array([[100, 50, 0], [0, 0, 0], [250, 250, 125]], np.uint8).reshape(1, 1, 3, 3)
    assert Brightness(5).corrupt(image, [0])[0, 0].tolist() == [
        [177, 88, 0],
        [77, 77, 77],
        [255, 255, 128],
    ]


def test_fog_takes_its_brightness_from_the_image():
    """Nothing shines in a black picture; the largest pixel stays where the fog is thickest."""
    black = np.zeros((1, 8, 8, 1), np.uint8)
    assert not Fog(5).corrupt(black, [1]).any()
    grey = np.full((1, 8, 8, 1), 90, np.uint8)
    foggy = Fog(3).corrupt(grey, [1])
    assert foggy.max() == 90
    assert foggy.min() == round(90 * 90 / (90 + 0.75 * 255))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_depends_on_itself_and_its_key_alone(kind, images):
    both = kind(4).corrupt(images, KEYS)
    for index, key in enumerate(KEYS):
        alone = kind(4).corrupt(images[index : index + 1], [key])
        assert np.array_equal(alone[0], both[index])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 1, 3), (28, 28, 1), (33, 20, 3)])
def test_images_of_any_shape_keep_it(kind, shape):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.uint8)
    assert kind(2).corrupt(images, KEYS).shape == images.shape


@pytest.mark.parametrize("kind", KINDS)
def test_higher_severities_change_more(kind, images):
    changes = [
        np.abs(kind(severity).corrupt(images, KEYS).astype(int) - images).mean()
        for severity in range(1, 6)
    ]
    assert changes == sorted(changes)
    assert changes[0] > 0


def test_the_normal_table_is_even_and_of_unit_deviation():
    assert np.array_equal(NORMAL, -NORMAL[::-1])
    assert NORMAL.std() / 4096 == pytest.approx(1, abs=2e-3)


def test_no_machine_can_round_the_tables_otherwise():
    """What is rounded lies far from a half, many times further than libraries differ."""
    exact = [NormalDist().inv_cdf((place + 0.5) / 4096) * 4096 for place in range(4096)]
    for tenths in GaussianBlur.DEVIATION_TENTHS:
        reach = len(blur_weights(tenths)) // 2
        weights = np.exp(-((np.arange(-reach, reach + 1) / (tenths / 10)) ** 2) / 2)
        weights *= 65536 / weights.sum()
        exact += weights.tolist()
        assert sum(blur_weights(tenths)) == 65536
        np.testing.assert_allclose(blur_weights(tenths), weights, atol=2)
    assert min(abs(value % 1 - 0.5) for value in exact) > 1e-6


def test_plasma_fills_its_range():
    maps = plasma(32, Fog.DECAY[2], [1, 2, 3])
    assert maps.min((1, 2)).tolist() == [0, 0, 0]
    assert maps.max((1, 2)).tolist() == [65536] * 3


def test_a_corrupted_frame_is_told_unless_it_was_worse(images):
    kinds = np.array([FrameKind.CLEAN, FrameKind.OUT_OF_DISTRIBUTION], np.int8)
    _, told = Fog(1).apply(images, kinds, np.array([3, 4]), 9, None)
    assert told.tolist() == [FrameKind.CORRUPTED, FrameKind.OUT_OF_DISTRIBUTION]
    assert told.dtype == np.int8


@pytest.mark.parametrize("kind", [Fog, GaussianNoise])
def test_test_images_are_corrupted_each_with_its_own_key(kind, monkeypatch):
    monkeypatch.setattr("accsim.data.corruption.CHUNK", 3)
    images = np.full((7, 8, 8, 3), 100, np.uint8)
    labels = np.arange(7) % 2
    clean = Dataset("even", "made", False, ("a", "b"), images, labels, images, labels)
    corrupted, same_labels = kind(2).test(clean)
    assert np.array_equal(corrupted, kind(2).corrupt(images, range(7)))
    assert len({image.tobytes() for image in corrupted}) == 7
    assert same_labels is labels


@pytest.mark.parametrize("severity", [0, 6, 2.0, "3"])
def test_other_severities_are_refused(severity):
    with pytest.raises(ValueError, match=f"severity must be 1, 2, 3, 4 or 5, not {severity!r}"):
        Fog(severity)
