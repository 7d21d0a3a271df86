"""Batches: balanced labels, every frame once, and a camera that waits for no one."""

from collections import Counter
from dataclasses import dataclass, replace

import numba
import numpy as np
import pytest

from accsim.data.augmentation import Mixup, Strong
from accsim.data.base import DataError, Dataset
from accsim.data.corruption import Fog, GaussianNoise
from accsim.data.disturbance import AtRandom, Disturbance, During, FrameKind
from accsim.data.foreign import OutOfDistribution
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


def test_what_returns_has_the_place_that_it_had(dataset):
    """Three rounds of 100 frames: an image a place, each place once a round."""
    seen = batches(dataset, 15, translate=0, flip=False)
    assert {batch.pool for batch in seen} == {100}
    places = np.concatenate([batch.places for batch in seen])
    assert all(sorted(part) == list(range(100)) for part in places.reshape(3, 100))
    views = np.concatenate([batch.student_view for batch in seen])
    shown = {}
    for place, view in zip(places.tolist(), views, strict=True):
        assert shown.setdefault(place, view.tobytes()) == view.tobytes()


def test_unseen_frames_are_none_of_the_labelled_and_held_out_images(dataset):
    plain = {"translate": 0, "flip": False, "held_out": 10}
    for unseen in (False, True):
        seen = batches(dataset, 8, unlabelled_per_batch=10, unseen_frames=unseen, **plain)
        shown = {image.tobytes() for b in seen for image in b.frames}
        known = {image.tobytes() for b in seen for image in (*b.labelled, *b.held_out)}
        assert len(known) == 20
        assert len(shown) == 80
        assert bool(shown & known) == (not unseen)


def test_views_differ_but_show_the_same_frames(dataset):
    batch = batches(dataset, 1)[0]
    assert not np.array_equal(batch.student_view, batch.teacher_view)
    still = batches(dataset, 1, translate=0, flip=False)[0]
    assert np.array_equal(still.student_view, still.teacher_view)


@pytest.mark.parametrize(
    ("choice", "strong"),
    [("student_augmentation", "student_view"), ("labelled_augmentation", "labelled")],
)
def test_a_strong_view_is_of_what_its_name_says_alone(choice, strong, dataset):
    """A square of zeros, grey after normalisation, over every image of it."""

    def views(augmentation=None):
        (batch,) = batches(dataset, 1, translate=0, flip=False, **{choice: augmentation})
        seen = {name: getattr(batch, name) for name in ("labelled", "student_view", "teacher_view")}
        return seen.pop(strong), seen

    plain, others = views()
    covered, still = views(Strong(operations=0, magnitude=0, cutout=3))
    for name in others:
        assert np.array_equal(others[name], still[name])
    changed = covered != plain
    assert not covered[changed].any()
    assert changed.any((1, 2, 3)).all()
    distorted, _ = views(Strong(cutout=0))
    assert (distorted != plain).any((1, 2, 3)).sum() > len(plain) // 2


def test_frames_of_the_students_view_are_blended_in_the_end(dataset):
    (plain,) = batches(dataset, 1)
    (blended,) = batches(dataset, 1, mixup=Mixup())
    assert plain.blending is None
    for name in ("labelled", "teacher_view"):
        assert np.array_equal(getattr(plain, name), getattr(blended, name))
    assert np.array_equal(blended.student_view, blended.blending.apply(plain.student_view))
    assert (blended.student_view != plain.student_view).any((1, 2, 3)).sum() > 10


def test_the_teacher_may_see_several_views_of_every_frame(dataset):
    (one,), (three,) = (batches(dataset, 1, label_views=views) for views in (1, 3))
    views = np.split(three.teacher_view, 3)
    assert np.array_equal(views[0], one.teacher_view)
    assert np.array_equal(three.student_view, one.student_view)
    assert len({view.tobytes() for view in views}) == 3
    (still,) = batches(dataset, 1, label_views=2, translate=0, flip=False)
    assert np.array_equal(still.teacher_view, np.concatenate([still.student_view] * 2))


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


def test_arrivals_and_the_ring_buffer_are_worked_by_hand(dataset):
    """A frame a millisecond, 20 a step, room for 30; steps of 15, 35, 60 and 20 ms.

    The first waits to 20 ms, the second from 35 to 40; by 75 ms the buffer has lost 5, by 135 ms
    40 more.
    """
    clock = Clock()
    stream = SemiSupervisedStream(
        labels=10, labelled_per_batch=5, unlabelled_per_batch=20, buffer_frames=30
    )
    assert stream.deadline_ps == 20 * 10**9
    begins, firsts, waiting, dropped = [], [], [], []
    seen = stream.batches(dataset, clock, 4, 0)
    for batch, milliseconds in zip(seen, (15, 35, 60, 20), strict=True):
        begins.append(clock.now_ps // 10**9)
        first = int(batch.arrived_ps[0]) // 10**9
        assert batch.arrived_ps.tolist() == [(first + n) * 10**9 for n in range(20)]
        firsts.append(first)
        waiting.append(batch.frames_waiting)
        dropped.append(batch.frames_dropped)
        clock.now_ps += milliseconds * 10**9
    assert begins == [20, 40, 75, 135]
    assert firsts == [1, 21, 46, 106]
    assert waiting == [20, 20, 30, 30]
    assert dropped == [0, 0, 5, 45]


def test_a_queue_of_frames_is_taken_at_once_and_shown_one_batch_after_the_other(dataset):
    """A frame a millisecond, 20 a step, 2 steps at once, room for 50; steps of 30 ms.

    The first waits to 40 ms. The third begins at 100 ms, when frames 50 to 99 are left; it takes
    40 of them. By 130 ms, when the fourth begins, the ring holds the 10 others and 30 new ones.
    """
    clock = Clock()
    fog = Disturbance(Fog(5), During(first=20, frames=1))
    stream = SemiSupervisedStream(
        labels=10, labelled_per_batch=5, unlabelled_per_batch=20, buffer_frames=50,
        translate=0, flip=False, disturbances=(fog,),
    )  # fmt: skip
    begins, seen = [], []
    for batch in stream.batches(dataset, clock, 4, 0, at_once=2):
        begins.append(clock.now_ps // 10**9)
        seen.append(batch)
        clock.now_ps += 30 * 10**9
    assert begins == [40, 70, 100, 130]
    assert [len(batch.teacher_view) for batch in seen] == [40, 0, 40, 0]
    for first, second in (seen[:2], seen[2:]):
        shown = np.concatenate([first.student_view, second.student_view])
        assert np.array_equal(first.teacher_view, shown)
    assert [batch.frames_seen for batch in seen] == [20, 40, 60, 80]
    assert [batch.frames_dropped for batch in seen] == [0, 0, 10, 10]
    assert [batch.frames_waiting for batch in seen] == [40, 30, 50, 40]
    arrivals = [batch.arrived_ps // 10**9 for batch in seen]
    assert np.concatenate(arrivals).tolist() == [*range(1, 41), *range(51, 91)]
    foggy = [np.flatnonzero(batch.kinds == FrameKind.CORRUPTED).tolist() for batch in seen]
    assert foggy == [[], [0], [], []]


def test_steps_that_do_not_look_take_no_frame_and_wait_for_none(dataset):
    """A frame a millisecond, 20 a step, room for 30; only the third of four steps looks.

    Steps take 25 ms: by 50 ms the buffer holds the last 30 of 50, and 20 of them are taken.
    """
    clock = Clock()
    stream = SemiSupervisedStream(
        labels=10, labelled_per_batch=5, unlabelled_per_batch=20, buffer_frames=30
    )
    begins, seen = [], []
    for batch in stream.batches(dataset, clock, 4, 0, looks=lambda step: step == 3):
        begins.append(clock.now_ps // 10**9)
        seen.append(batch)
        clock.now_ps += 25 * 10**9
    assert begins == [0, 25, 50, 75]
    for name in ("student_view", "teacher_view", "frames", "pixels"):
        assert [len(getattr(batch, name)) for batch in seen] == [0, 0, 20, 0]
    assert (seen[2].arrived_ps // 10**9).tolist() == list(range(21, 41))
    assert [batch.frames_seen for batch in seen] == [0, 0, 20, 20]
    assert [batch.frames_dropped for batch in seen] == [0, 0, 20, 25]
    assert [batch.frames_waiting for batch in seen] == [0, 25, 30, 30]
    assert all(len(batch.labelled) == 5 for batch in seen)


def test_pixels_are_what_the_camera_has_and_are_seen_anew_in_every_step(dataset):
    one, two = batches(dataset, 2)
    assert np.array_equal(PixelScale.of(dataset.train_images).apply(one.pixels), one.frames)
    assert np.array_equal(one.view(one.pixels), one.view(one.pixels))
    assert (one.view(one.pixels) != two.view(one.pixels)).any()
    still = {"translate": 0, "flip": False}
    (plain,) = batches(dataset, 1, **still)
    assert np.array_equal(plain.view(plain.pixels), plain.frames)


def test_without_unlabelled_frames_there_is_no_camera(dataset):
    clock = Clock(10**12)
    (batch,) = batches(dataset, 1, clock=clock, unlabelled_per_batch=0)
    assert (batch.frames_waiting, batch.frames_dropped, len(batch.arrived_ps)) == (0, 0, 0)
    assert SemiSupervisedStream(unlabelled_per_batch=0).deadline_ps is None


def test_too_many_labels_are_refused(dataset):
    with pytest.raises(DataError, match="labels must be at most 25 for class a of noise, not 26"):
        batches(dataset, 1, labels=104)


def test_disturbed_frames_are_told_and_the_others_are_untouched(dataset):
    """Every third frame of a hundred is foggy; the fourth batch shows the frames 60 to 79."""
    foggy = Disturbance(Fog(5), During(first=0, frames=1, every=3))
    still = {"translate": 0, "flip": False}
    clear = batches(dataset, 4, **still)
    hazy = batches(dataset, 4, disturbances=(foggy,), **still)
    for plain, disturbed in zip(clear, hazy, strict=True):
        first = plain.frames_seen - 20
        due = np.arange(first, first + 20) % 3 == 0
        assert plain.kinds.tolist() == [FrameKind.CLEAN] * 20
        assert np.array_equal(disturbed.kinds == FrameKind.CORRUPTED, due)
        changed = (disturbed.student_view != plain.student_view).any((1, 2, 3))
        assert np.array_equal(changed, due)
        assert np.array_equal(disturbed.labelled, plain.labelled)


def test_disturbances_happen_one_after_another(dataset):
    other = replace(dataset, name="other", train_images=255 - dataset.train_images)
    both = replace(dataset, others={"other": other})
    fog = Disturbance(Fog(5), AtRandom(1.0))
    foreign = Disturbance(OutOfDistribution("other"), AtRandom(1.0))
    assert SemiSupervisedStream(disturbances=(fog, foreign)).other_datasets == ("other",)
    scale = PixelScale.of(dataset.train_images)
    clear = {view.tobytes() for view in scale.apply(other.train_images)}
    for order, are_clear in (((fog, foreign), True), ((foreign, fog), False)):
        batch = batches(both, 1, disturbances=order, translate=0, flip=False)[0]
        assert set(batch.kinds) == {FrameKind.OUT_OF_DISTRIBUTION}
        assert [view.tobytes() in clear for view in batch.student_view] == [are_clear] * 20


def test_a_slow_machine_sees_the_same_frames_where_it_does_not_drop_them(dataset):
    """Of the frames that both take, kinds and pixels are those of their number."""
    choices = {
        "disturbances": (Disturbance(GaussianNoise(3), AtRandom(0.4, mean_run=6)),),
        "translate": 0,
        "flip": False,
        "buffer_frames": 20,
    }
    fast = batches(dataset, 12, **choices)
    clock = Clock()
    stream = SemiSupervisedStream(
        labels=10, labelled_per_batch=5, unlabelled_per_batch=20, **choices
    )
    frames = np.concatenate([batch.student_view for batch in fast])
    kinds = np.concatenate([batch.kinds for batch in fast])
    dropped = 0
    for batch in stream.batches(dataset, clock, 6, 0):
        last = batch.frames_seen + batch.frames_dropped
        dropped = batch.frames_dropped
        assert np.array_equal(batch.student_view, frames[last - 20 : last])
        assert np.array_equal(batch.kinds, kinds[last - 20 : last])
        clock.now_ps += 35 * 10**9  # 35 frames arrive during a step, 15 are lost
    assert dropped == 5 * 15


def test_disturbed_batches_are_the_same_on_any_threads(dataset):
    choices = {"disturbances": (Disturbance(Fog(2), AtRandom(0.5)),)}
    digests = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        batch = batches(dataset, 3, **choices)[2]
        digests.append((batch.student_view.tobytes(), batch.kinds.tobytes()))
    assert digests[0] == digests[1]


def test_label_noise_replaces_labels_and_no_images(dataset):
    plain, noisy = batches(dataset, 2), batches(dataset, 2, label_noise=0.3)
    pairs = set()
    for one, other in zip(plain, noisy, strict=True):
        assert np.array_equal(one.labelled[:, 1:-1], other.labelled[:, 1:-1])
        pairs |= set(zip(one.labels.tolist(), other.labels.tolist(), strict=True))
    labels = [np.concatenate([batch.labels for batch in seen]) for seen in (plain, noisy)]
    assert (labels[0] != labels[1]).sum() == 3  # of a pool of 10, each seen once
    assert all(0 <= label < 4 for _, label in pairs)


def test_imbalance_of_labels_and_of_frames(dataset):
    """A tail of ratio 8 from 25 is 12.5, 6.25 and 3.1 frames; from 8, it is 4, 2 and 1 labels."""
    seen = batches(dataset, 3, labels=15, labelled_imbalance=8)
    assert Counter(np.concatenate([b.labels for b in seen])) == {0: 8, 1: 4, 2: 2, 3: 1}
    still = {"translate": 0, "flip": False}
    frames = batches(dataset, 47, unlabelled_per_batch=1, unlabelled_imbalance=8, **still)
    views = PixelScale.of(dataset.train_images).apply(dataset.train_images)
    label_of = {view.tobytes(): c for view, c in zip(views, dataset.train_labels, strict=True)}
    shown = Counter(label_of[batch.student_view.tobytes()] for batch in frames)
    assert shown == {0: 25, 1: 13, 2: 6, 3: 3}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"labels": 0}, "labels must be at least 1, not 0"),
        ({"buffer_frames": 10}, "buffer_frames must be at least 20, not 10"),
        ({"frames_per_second": 0}, "frames_per_second must be at least 1, not 0"),
        ({"label_noise": 1.2}, "label_noise must be 0 to 1, not 1.2"),
        ({"labelled_imbalance": 0.5}, "labelled_imbalance must be at least 1, not 0.5"),
        ({"unlabelled_imbalance": 0}, "unlabelled_imbalance must be at least 1, not 0"),
        (
            {"student_augmentation": True},
            r"student_augmentation must be Strong\(...\) or None, not",
        ),
        (
            {"labelled_augmentation": True},
            r"labelled_augmentation must be Strong\(...\) or None, not",
        ),
        ({"label_views": 0}, "label_views must be at least 1, not 0"),
        ({"mixup": 0.5}, r"mixup must be Mixup\(...\) or None, not 0.5"),
        ({"disturbances": (3,)}, "disturbances must be a tuple of Disturbance objects, not .3,."),
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
