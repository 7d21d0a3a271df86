"""Frames of other sets: their size and colour by hand and by Pillow, their truth, their errors."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from accsim.data.base import DataError, Dataset
from accsim.data.disturbance import FrameKind
from accsim.data.foreign import OtherDomain, OutOfDistribution, fit, resized
from accsim.data.stream import SemiSupervisedStream
from accsim.kernels.augment import PixelScale
from accsim.network import Shape


class Stopped:
    """A machine that takes no time of its own."""

    now_ps = 0

    def wait_until(self, ps):
        self.now_ps = ps


def dataset(name, shape, classes="ab", images=6, **more):
    pixels = np.random.default_rng(len(name)).integers(0, 256, (images, *shape)).astype(np.uint8)
    labels = np.arange(images) % len(classes)
    return Dataset(name, "made", False, tuple(classes), pixels, labels, pixels, labels, **more)


def test_growing_is_bilinear_between_the_middles_of_pixels():
    """The middles of 4 pixels lie at 1/8, 3/8 ... of the row, those of the 2 at 1/4 and 3/4."""
    row = np.array([0, 100], np.uint8).reshape(1, 1, 2, 1)
    assert fit(row, (1, 4, 1)).ravel().tolist() == [0, 25, 75, 100]
    assert fit(row.reshape(1, 2, 1, 1), (4, 1, 1)).ravel().tolist() == [0, 25, 75, 100]


def test_shrinking_weighs_all_pixels_near():
    """Of four pixels the first of two sees 6, 6, 2 and 0 fourteenths."""
    row = np.array([14, 28, 70, 255], np.uint8).reshape(1, 1, 4, 1)
    assert fit(row, (1, 2, 1))[0, 0, 0, 0] == (6 * 14 + 6 * 28 + 2 * 70) // 14


@pytest.mark.parametrize(("before", "after"), [(28, 32), (16, 28), (32, 16), (28, 16), (7, 19)])
def test_sizes_change_as_in_pillow(before, after):
    """Pillow rounds after each axis, so that it may be a level off."""
    picture = np.random.default_rng(1).integers(0, 256, (before, before)).astype(np.uint8)
    pillow = Image.fromarray(picture).resize((after, after), Image.Resampling.BILINEAR)
    got = fit(picture[None, :, :, None], (after, after, 1))[0, :, :, 0]
    np.testing.assert_allclose(got.astype(int), np.asarray(pillow).astype(int), atol=1)
    assert got.dtype == np.uint8


def test_an_even_picture_stays_even_and_a_fitting_one_stays():
    even = np.full((1, 16, 16, 1), 173, np.uint8)
    assert (fit(even, (32, 21, 1)) == 173).all()
    picture = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    assert np.array_equal(fit(picture, (8, 8, 3)), picture)


def test_grey_is_repeated_and_colour_becomes_its_luma():
    """0.299 of 255 is 76.2, 0.587 of it 149.7 and 0.114 of it 29.07."""
    grey = np.array([7], np.uint8).reshape(1, 1, 1, 1)
    assert fit(grey, (1, 1, 3)).ravel().tolist() == [7, 7, 7]
    colours = (255 * np.eye(3, dtype=np.uint8)).reshape(1, 1, 3, 3)
    assert fit(colours, (1, 3, 1)).ravel().tolist() == [76, 150, 29]
    assert fit(np.full((1, 1, 1, 3), 255, np.uint8), (1, 1, 1)).ravel().tolist() == [255]


def test_foreign_frames_come_once_each_before_any_again():
    other = dataset("other", (4, 4, 1))
    ours = dataset("ours", (8, 8, 3), others={"other": other})
    images, kinds = np.zeros((6, 8, 8, 3), np.uint8), np.zeros(6, np.int8)
    change = OutOfDistribution("other")
    change.check(ours)
    foreign, told = change.apply(images, kinds, np.arange(12, 18), 3, ours)
    all_of_them = {image.tobytes() for image in fit(other.train_images, (8, 8, 3))}
    assert {image.tobytes() for image in foreign} == all_of_them
    assert set(told) == {FrameKind.OUT_OF_DISTRIBUTION}
    alone, _ = change.apply(images[:1], kinds[:1], np.array([15]), 3, ours)
    assert np.array_equal(alone[0], foreign[3])


def test_another_domain_is_told_even_where_a_corrupted_frame_stood():
    ours = dataset("ours", (4, 4, 1), others={"other": dataset("other", (4, 4, 1))})
    kinds = np.array([FrameKind.CORRUPTED], np.int8)
    change = OtherDomain("other")
    change.check(ours)
    _, told = change.apply(np.zeros((1, 4, 4, 1), np.uint8), kinds, np.array([0]), 3, ours)
    assert told.tolist() == [FrameKind.OTHER_DOMAIN]


def test_a_stand_in_takes_the_place_of_another_domain_of_as_many_classes():
    ours = dataset("ours", (4, 4, 1), classes="ab")
    shapes = replace(dataset("usps", (4, 4, 1), classes="xy"), stand_in=True)
    OtherDomain("usps").check(replace(ours, others={"usps": shapes}))
    OtherDomain("usps").check(replace(shapes, others={"usps": ours}))
    more = replace(dataset("usps", (4, 4, 1), classes="xyz"), stand_in=True)
    with pytest.raises(DataError, match="classes of usps must be those of ours"):
        OtherDomain("usps").check(replace(ours, others={"usps": more}))


def test_another_domain_is_tested_on_its_own_test_images():
    other = dataset("other", (4, 4, 1), classes="ab", images=7)
    ours = dataset("ours", (8, 8, 3), others={"other": other})
    images, labels = OtherDomain("other").test(ours)
    assert np.array_equal(images, fit(other.test_images, (8, 8, 3)))
    assert np.array_equal(labels, other.test_labels)
    assert OutOfDistribution("other").test(ours) is None


def test_frames_of_another_set_come_from_the_start_and_are_tested_on():
    other = dataset("other", (4, 4, 1), images=10)
    ours = resized(dataset("ours", (16, 16, 1), others={"other": other}), Shape(8, 8, 1))
    assert ours.train_images.shape == (6, 8, 8, 1)
    stream = SemiSupervisedStream(
        labels=4, labelled_per_batch=4, unlabelled_per_batch=5, translate=0, flip=False,
        frames_dataset="other",
    )  # fmt: skip
    assert stream.other_datasets == ("other",)
    seen = list(stream.batches(ours, Stopped(), 2, seed=0))
    scale = PixelScale.of(ours.train_images)
    wanted = {image.tobytes() for image in scale.apply(fit(other.train_images, (8, 8, 1)))}
    assert {image.tobytes() for batch in seen for image in batch.student_view} == wanted
    labelled = {image.tobytes() for image in scale.apply(ours.train_images)}
    assert {image.tobytes() for batch in seen for image in batch.labelled} <= labelled
    assert all(set(batch.kinds) == {FrameKind.CLEAN} for batch in seen)
    images, labels = stream.test(ours)
    assert np.array_equal(images, fit(other.test_images, (8, 8, 1)))
    assert np.array_equal(labels, other.test_labels)
    assert replace(stream, frames_dataset=None).test(ours)[0] is ours.test_images
    strangers = replace(ours, others={"other": dataset("other", (4, 4, 1), classes="xy")})
    with pytest.raises(DataError, match="classes of other must be those of ours"):
        next(stream.batches(strangers, Stopped(), 1, seed=0))


@pytest.mark.parametrize(
    ("change", "others", "message"),
    [
        (OutOfDistribution("svhn"), {}, "ours must be opened together with svhn"),
        (
            OutOfDistribution("x"),
            {"x": dataset("x", (4, 4, 2))},
            "channels of frames of another data set must be 3, or 1 or 3 .* not 2",
        ),
        (
            OtherDomain("x"),
            {"x": dataset("x", (4, 4, 3), classes="abc")},
            r"classes of x must be those of ours \(a, b\), not a, b, c",
        ),
    ],
)
def test_sets_that_cannot_take_part_are_refused(change, others, message):
    with pytest.raises(DataError, match=message):
        change.check(dataset("ours", (4, 4, 3), others=others))
