"""Batches: balanced labels, every frame once, and a camera that waits for no one."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from accsim.data.base import DataError, Dataset
from accsim.data.stream import Camera, SemiSupervisedStream
from accsim.kernels.augment import PixelScale, augment


@dataclass
class Clock:
    now_ps: int = 0

    def wait_until(self, ps):
        self.now_ps = max(self.now_ps, ps)


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 6, 6, 1)).astype(np.uint8)
    labels = np.arange(100) % 4
    return Dataset("noise", "made", False, tuple("abcd"), images, labels, images[:8], labels[:8])


def batches(dataset, steps, seed=0, clock=None, **choices):
    stream = SemiSupervisedStream(
        **{"labels": 10, "labelled_per_batch": 5, "unlabelled_per_batch": 20, **choices}
    )
    return list(stream.batches(dataset, clock or Clock(), steps, seed))


def test_labels_are_balanced_and_replayed(dataset):
    seen = batches(dataset, 4)  # 20 labelled samples of a pool of 10
    assert Counter(np.concatenate([b.labels for b in seen])) == {0: 6, 1: 6, 2: 4, 3: 4}


def test_every_frame_comes_once_before_any_comes_again(dataset):
    plain = {"translate": 0, "flip": False}
    views = np.concatenate([b.student_view for b in batches(dataset, 5, **plain)])
    assert len({view.tobytes() for view in views}) == 100


def test_views_differ_but_show_the_same_frames(dataset):
    batch = batches(dataset, 1)[0]
    assert not np.array_equal(batch.student_view, batch.teacher_view)
    still = batches(dataset, 1, translate=0, flip=False)[0]
    assert np.array_equal(still.student_view, still.teacher_view)


def test_seeds_choose_other_labels_and_frames(dataset):
    one, same, other = (batches(dataset, 1, seed=s)[0] for s in (0, 0, 1))
    assert np.array_equal(one.labelled, same.labelled)
    assert not np.array_equal(one.labelled, other.labelled)


def test_camera_makes_a_fast_machine_wait():
    clock = Clock()
    camera = Camera(frames_per_second=1000, buffer_frames=50, clock=clock)
    assert camera.take(20) == range(20)
    assert clock.now_ps == 20 * 10**9  # the twentieth frame arrives after 20 ms
    assert (camera.seen, camera.dropped) == (20, 0)


def test_camera_drops_the_oldest_frames_of_a_slow_machine():
    clock = Clock()
    camera = Camera(frames_per_second=1000, buffer_frames=50, clock=clock)
    camera.take(20)
    clock.now_ps = 200 * 10**9  # 200 frames have arrived, the buffer holds the last 50
    assert camera.take(20) == range(150, 170)
    assert (camera.seen, camera.dropped) == (40, 130)
    assert camera.take(20) == range(170, 190)


def test_too_many_labels_are_refused(dataset):
    with pytest.raises(DataError, match="labels must be at most 25 for class a of noise, not 26"):
        batches(dataset, 1, labels=104)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"labels": 0}, "labels must be at least 1, not 0"),
        ({"buffer_frames": 10}, "buffer_frames must be at least 20, not 10"),
        ({"frames_per_second": 0}, "frames_per_second must be at least 1, not 0"),
    ],
)
def test_impossible_settings_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        SemiSupervisedStream(**{"unlabelled_per_batch": 20, **choice})


def test_pixels_are_normalised_in_integers():
    images = np.random.default_rng(1).integers(0, 256, (50, 8, 8, 3)).astype(np.uint8)
    exact = (images - images.mean((0, 1, 2))) / images.std((0, 1, 2)) * 32
    got = PixelScale.of(images).apply(images)
    np.testing.assert_allclose(got, np.clip(exact, -127, 127), atol=0.8)


def test_augment_shifts_reflects_and_mirrors():
    """Without noise the augmented image is one of the shifts of the reflected original."""
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    chosen = np.zeros(200, np.int64)
    means, gains = np.array([0]), np.array([1 << 16])
    views = augment(image, chosen, means, gains, 1, True, 5)
    padded = np.pad(image[0, :, :, 0], 1, mode="reflect")
    possible = set()
    for down in range(3):
        for right in range(3):
            shifted = padded[down : down + 4, right : right + 4]
            possible |= {shifted.tobytes(), shifted[:, ::-1].tobytes()}
    seen = {view.astype(np.uint8).tobytes() for view in views}
    assert seen == possible
