"""A strong view: as drawn, the same on any threads, and never another frame."""

from fractions import Fraction
from math import floor

import numba
import numpy as np
import pytest

from accsim.data.augmentation import Blending, Mixup, Strong
from accsim.kernels import distort


@pytest.fixture
def images():
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (40, 12, 12, 3)).astype(np.uint8)


def test_nothing_asked_nothing_done(images):
    nothing = Strong(operations=0, magnitude=0, cutout=0)
    assert np.array_equal(nothing.distort(images, 3), images)
    kept = images.astype(np.int8)
    nothing.cover(kept, 3)
    assert np.array_equal(kept, images.astype(np.int8))


@pytest.mark.parametrize("added", [(), (distort.SHARPNESS,), (distort.EQUALIZE, distort.SHARPNESS)])
def test_every_operation_is_drawn_in_every_amount(added, images, monkeypatch):
    drawn = []
    wanted = [*range(12), *added]
    monkeypatch.setattr(distort, "distort", lambda *arguments: drawn.append(arguments[1:]))
    for key in range(200):
        Strong(operations=3, magnitude=7, added=added).distort(images, key)
    kinds, amounts = (np.concatenate(part) for part in zip(*drawn, strict=True))
    assert kinds.shape == amounts.shape == (8000, 3)
    for place in range(3):
        found, counts = np.unique(kinds[:, place], return_counts=True)
        assert found.tolist() == wanted
        assert counts.min() > 0.8 * 8000 / len(wanted)
        assert set(amounts[:, place]) == set(range(-7, 8))
    assert abs(np.corrcoef(kinds[:, 0], amounts[:, 0])[0, 1]) < 0.05


def test_an_image_depends_on_its_place_and_the_key_alone(images):
    strong, seen = Strong(), []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        seen.append(strong.distort(images, 3))
    assert np.array_equal(*seen)
    assert np.array_equal(strong.distort(images[:7], 3), seen[0][:7])
    assert not np.array_equal(strong.distort(images, 4), seen[0])


def test_one_square_over_every_image(images):
    views = np.ones(images.shape, np.int8)
    Strong(cutout=5).cover(views, 3)
    covered = (views == 0).all(3)
    sizes = covered.sum((1, 2))
    assert sizes.max() == 25
    assert sizes.min() >= 9  # a corner keeps 3 x 3 of 5 x 5
    for square, size in zip(covered, sizes, strict=True):
        assert square.any(1).sum() * square.any(0).sum() == size
    middles = {tuple(np.argwhere(square).mean(0)) for square in covered}
    assert len(middles) > 20


def test_a_blend_is_the_rounded_mean_of_two():
    """In exact fractions, element by element; of images and of targets alike."""
    values = np.random.default_rng(3).integers(-127, 128, (3, 2, 2, 1)).astype(np.int8)
    partners, shares = np.array([1, 2, 0]), np.array([256, 100, 0])
    got = Blending(partners, shares).apply(values)
    assert got.dtype == np.int8
    for i, (partner, own) in enumerate(zip(partners, shares, strict=True)):
        for place in np.ndindex(2, 2, 1):
            share = Fraction(int(own), 256)
            exact = share * int(values[i][place]) + (1 - share) * int(values[partner][place])
            assert got[i][place] == floor(exact + Fraction(1, 2))
    targets = np.array([[2**15, 0], [0, 2**15], [2**14, 2**14]], np.int32)
    blended = Blending(partners, shares).apply(targets)
    assert blended.tolist() == [[2**15, 0], [2**14 * 156 // 256, 2**15 - 2**14 * 156 // 256],
                                [2**15, 0]]  # fmt: skip


@pytest.mark.parametrize(("alpha", "variance"), [(1.0, 1 / 12), (0.2, 1 / 5.6), (4.0, 1 / 36)])
def test_shares_are_of_the_beta_distribution(alpha, variance):
    """Its mean is 1/2, its variance 1 / (4 (2 alpha + 1))."""
    shares = np.concatenate([Mixup(alpha).draw(500, key).shares for key in range(40)]) / 256
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.var() == pytest.approx(variance, rel=0.03)


def test_every_image_has_a_partner_and_is_one_once():
    first, again, other = (Mixup().draw(40, key).partners for key in (1, 1, 2))
    assert sorted(first) == list(range(40))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_impossible_alpha_is_refused():
    with pytest.raises(ValueError, match=r"alpha must be 0\.05 to 100, not 0"):
        Mixup(alpha=0)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"operations": 17}, "operations must be a whole number of 0 to 16, not 17"),
        ({"magnitude": 31}, "magnitude must be a whole number of 0 to 30, not 31"),
        ({"cutout": -1}, "cutout must be a whole number of 0 to 1024, not -1"),
        (
            {"added": (12, 14)},
            r"added must be of distort's EQUALIZE \(12\) and SHARPNESS \(13\), not",
        ),
        ({"magnitude": 1.5}, "magnitude must be a whole number of 0 to 30, not 1.5"),
    ],
)
def test_impossible_settings_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        Strong(**choice)
