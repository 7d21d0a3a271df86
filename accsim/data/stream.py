"""What the learner is fed: replayed labelled images, and camera frames in simulated time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from accsim.data.augmentation import Blending, Mixup, Strong
from accsim.data.base import Dataset
from accsim.data.disturbance import Disturbance, FrameKind
from accsim.data.foreign import OtherDomain, fit
from accsim.data.pool import draw_labelled, frame_pool, in_random_order, noisy
from accsim.kernels.augment import IMAGE_BITS, PixelScale, augment
from accsim.kernels.fixed_point import random_key
from accsim.units import PS_PER_SECOND, ceil_div

LABEL_DRAW, REPLAY, FRAMES, LABELLED_VIEW, STUDENT_VIEW, TEACHER_VIEW = range(10, 16)  # key labels
LABEL_NOISE, FRAME_DRAW, DISTURBANCES, MIXUP, KEPT_VIEW = range(16, 21)


class Clock(Protocol):
    """Simulated time, as much of it as a stream needs."""

    @property
    def now_ps(self) -> int:
        """Simulated time since the start of the run."""

    def wait_until(self, ps: int) -> None:
        """Let the machine idle until `ps`."""


@dataclass(frozen=True)
class Batch:
    """One step's images, int8[N, H, W, C], augmented; the two views are of the same frames.

    Where the teacher labels for several steps at once, its view of the first shows the frames of
    all of them, in order, and that of the others shows none. Where it labels several views of a
    frame, all frames come once in order, then again.
    """

    labelled: np.ndarray
    labels: np.ndarray  # int64[N] of `labelled`
    student_view: np.ndarray
    teacher_view: np.ndarray
    exponent: int  # of all images
    frames_seen: int  # since the start of the run
    frames_dropped: int
    kinds: np.ndarray | None = None  # int8[N] of the frames, FrameKind; None: all are clean
    arrived_ps: np.ndarray | None = None  # int64[N] of the frames; None: no camera
    frames_waiting: int = 0  # in the ring buffer as the step begins, its own included
    label_views: int = 1  # of each frame in `teacher_view`
    blending: Blending | None = None  # of the student's view; None: every frame shows itself
    frames: np.ndarray | None = (
        None  # int8[N, H, W, C] as they came, not augmented; None: no camera
    )
    truth: np.ndarray | None = None  # int64[N] what those show, -1: none of the classes
    held_out: np.ndarray | None = None  # int8[N, H, W, C], the same in every step; not augmented
    held_out_labels: np.ndarray | None = None  # int64[N] of those
    places: np.ndarray | None = None  # int64[N] of the frames: what returns has the same place
    pool: int = 0  # places that there are
    pixels: np.ndarray | None = None  # uint8[N, H, W, C], the frames before they are normalised
    view: Callable[[np.ndarray], np.ndarray] | None = None  # the student's, of pixels of any step


class Stream(ABC):
    """Chooses what each step sees."""

    dataset: str | Path
    frames_dataset: str | Path | None = None  # that frames are of; None: the labelled one
    resize: bool = False  # the labelled set's images to the network's, as those of others are
    buffer_frames: int = 0  # of the camera's ring buffer
    held_out: int = 0  # labelled images that are never learned from

    @property
    def deadline_ps(self) -> int | None:
        """Longest step that keeps up with the camera; None: nothing arrives."""
        return None

    @property
    def other_datasets(self) -> tuple[str | Path, ...]:
        """Names or folders of sets that some frames are taken from; the data set carries them."""
        return ()

    def test(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Images that accuracies are of, uint8[N, H, W, C], and their labels, int64[N]."""
        return dataset.test_images, dataset.test_labels

    def shifted_tests(self, dataset: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Test images under each shift of the stream, by its name: uint8[N, H, W, C], int64[N]."""
        return {}

    @abstractmethod
    def batches(
        self,
        dataset: Dataset,
        clock: Clock,
        steps: int,
        seed: int,
        at_once: int = 1,
        looks: Callable[[int], bool] = lambda step: True,
    ) -> Iterator[Batch]:
        """One batch a step; waits on `clock` for frames that have not arrived.

        Those of `at_once` steps are taken, and shown to the teacher, in the first of them. A step,
        counted from 1, that does not look at the stream waits for no frame and takes none.
        """


@dataclass(frozen=True)
class SemiSupervisedStream(Stream):
    """Batches of labelled images, replayed for ever, and of unlabelled frames, seen as they come.

    Frames arrive at a steady rate into a ring buffer. While the machine works they queue up; a
    frame that finds the buffer full replaces the oldest, which is dropped. The frames are the
    training images in a random order, every image once before any comes again; `disturbances`
    then happen to some of them, one after another. The class frequencies of a long tail fall from
    the first class to the last. The student's view of a frame may be a stronger one than the
    teacher's. Frames may be of another set with the same classes: accuracies are then of its test
    images.
    """

    dataset: str | Path = "cifar10"  # a known name, or the folder of a user's images
    labels: int = 1000  # labelled images, equally many of each class
    label_noise: float = 0.0  # share of them whose label is replaced by another class
    labelled_imbalance: float = 1.0  # most frequent class of them over the least: a long tail
    labelled_per_batch: int = 32
    unlabelled_per_batch: int = 96
    frames_per_second: int = 1000
    buffer_frames: int = 256
    unlabelled_imbalance: float = 1.0  # the same of the frames; 1: as the data set is
    disturbances: tuple[Disturbance, ...] = ()
    translate: int = 4  # largest shift of a view, pixels
    flip: bool = True
    label_views: int = 1  # of each frame, whose labels are averaged
    student_augmentation: Strong | None = None  # of the student's view of the frames, beside those
    labelled_augmentation: Strong | None = None  # of the labelled images, likewise
    mixup: Mixup | None = None  # of that view in the end
    frames_dataset: str | Path | None = None
    resize: bool = False
    held_out: int = 0  # labelled images, balanced as the others, that are never learned from
    unseen_frames: bool = False  # no frame is one of the labelled or held-out images

    def __post_init__(self):
        for name, least in (
            ("labels", 1),
            ("labelled_per_batch", 1),
            ("labelled_imbalance", 1),
            ("unlabelled_imbalance", 1),
            ("unlabelled_per_batch", 0),
            ("frames_per_second", 1),
            ("buffer_frames", max(1, self.unlabelled_per_batch)),
            ("translate", 0),
            ("label_views", 1),
            ("held_out", 0),
        ):
            value = getattr(self, name)
            if not value >= least:  # NaN neither
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise must be 0 to 1, not {self.label_noise}")
        given = self.disturbances
        if not isinstance(given, tuple) or not all(isinstance(d, Disturbance) for d in given):
            raise ValueError(f"disturbances must be a tuple of Disturbance objects, not {given!r}")
        for name in ("student_augmentation", "labelled_augmentation"):
            strong = getattr(self, name)
            if not (strong is None or isinstance(strong, Strong)):
                raise ValueError(f"{name} must be Strong(...) or None, not {strong!r}")
        if not (self.mixup is None or isinstance(self.mixup, Mixup)):
            raise ValueError(f"mixup must be Mixup(...) or None, not {self.mixup!r}")

    @property
    def deadline_ps(self):
        if not self.unlabelled_per_batch:
            return None
        return self.unlabelled_per_batch * PS_PER_SECOND // self.frames_per_second

    @property
    def other_datasets(self):
        others = [disturbance.what for disturbance in self.disturbances]
        if self.frames_dataset is not None:
            others.append(OtherDomain(self.frames_dataset))
        return tuple(name for change in others for name in change.datasets)

    def test(self, dataset):
        if self.frames_dataset is None:
            return super().test(dataset)
        return OtherDomain(self.frames_dataset).test(dataset)

    def shifted_tests(self, dataset):
        tests = {repr(d.what): d.what.test(dataset) for d in self.disturbances}
        return {name: test for name, test in tests.items() if test is not None}

    def batches(self, dataset, clock, steps, seed, at_once=1, looks=lambda step: True):
        for disturbance in self.disturbances:
            disturbance.what.check(dataset)
        source = dataset
        if self.frames_dataset is not None:
            OtherDomain(self.frames_dataset).check(dataset)
            source = dataset.others[self.frames_dataset]
        scale = PixelScale.of(dataset.train_images)
        labelled = draw_labelled(
            dataset, self.labels, self.labelled_imbalance, random_key(seed, LABEL_DRAW)
        )
        held_out = self._held_out(dataset, labelled, seed)
        held_out_images = scale.apply(dataset.train_images[held_out])
        labels = noisy(
            dataset.train_labels[labelled],
            self.label_noise,
            len(dataset.classes),
            random_key(seed, LABEL_NOISE),
        )
        pool = frame_pool(source, self.unlabelled_imbalance, random_key(seed, FRAME_DRAW))
        if self.unseen_frames and source is dataset:
            pool = np.setdiff1d(pool, np.concatenate([labelled, held_out]))
        camera = Camera(self.frames_per_second, self.buffer_frames, clock)

        def view(images, *which, strong=None):
            key = random_key(seed, *which)
            everyone = np.arange(len(images))
            distorted = strong.distort(images, key) if strong else images
            seen = augment(
                distorted, everyone, scale.means, scale.gains, self.translate, self.flip, key
            )
            if strong:
                strong.cover(seen, key)
            return seen

        def kept_view(step, images):
            return view(images, KEPT_VIEW, step, strong=self.student_augmentation)

        for step in range(steps):
            turn = step % at_once
            wanted = self.unlabelled_per_batch if looks(step + 1) else 0
            waiting = (
                camera.fill(0 if turn else at_once * wanted) if self.unlabelled_per_batch else 0
            )
            if not turn:
                numbers = camera.take(at_once * wanted)
                pool_places = in_random_order(numbers, len(pool), random_key(seed, FRAMES))
                chosen = pool[pool_places]
                frames, kinds, truth = self._frames(dataset, source, chosen, numbers, seed)
                arrived = np.array([camera.arrival_ps(number) for number in numbers], np.int64)
            own = slice(turn * wanted, (turn + 1) * wanted)
            first = step * self.labelled_per_batch
            places = range(first, first + self.labelled_per_batch)
            replayed = in_random_order(places, len(labelled), random_key(seed, REPLAY))
            student_view = view(frames[own], STUDENT_VIEW, step, strong=self.student_augmentation)
            labelling = frames[:0] if turn else frames
            teacher_view = view(labelling, TEACHER_VIEW, step)
            more = [
                view(labelling, TEACHER_VIEW, step, number) for number in range(1, self.label_views)
            ]
            blending = None
            if self.mixup:
                blending = self.mixup.draw(len(student_view), random_key(seed, MIXUP, step))
                student_view = blending.apply(student_view)
            yield Batch(
                view(
                    dataset.train_images[labelled[replayed]],
                    LABELLED_VIEW,
                    step,
                    strong=self.labelled_augmentation,
                ),
                labels[replayed],
                student_view,
                np.concatenate([teacher_view, *more]),
                -IMAGE_BITS,
                camera.seen - len(numbers) + own.stop,
                camera.dropped,
                kinds[own],
                arrived[own],
                waiting,
                self.label_views,
                blending,
                scale.apply(frames[own]),
                truth[own],
                held_out_images,
                dataset.train_labels[held_out],
                pool_places[own],
                len(pool),
                frames[own],
                partial(kept_view, step),
            )

    def _held_out(self, dataset: Dataset, labelled: np.ndarray, seed: int) -> np.ndarray:
        """Indices of the images that a larger draw of labels would have had beside `labelled`."""
        wanted, key = self.labels + self.held_out, random_key(seed, LABEL_DRAW)
        return np.setdiff1d(draw_labelled(dataset, wanted, self.labelled_imbalance, key), labelled)

    def _frames(
        self, dataset: Dataset, source: Dataset, chosen: np.ndarray, numbers: range, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The camera's frames `numbers`, made of the images `chosen`, int64[N].

        uint8[N, H, W, C], kinds int8[N], classes int64[N].
        """
        images = fit(source.train_images[chosen], dataset.train_images.shape[1:])
        kinds = np.full(len(chosen), FrameKind.CLEAN, np.int8)
        truth = source.train_labels[chosen]
        for index, disturbance in enumerate(self.disturbances):
            key = random_key(seed, DISTURBANCES, index)
            disturbance.apply(images, kinds, numbers, key, dataset)
            disturbance.relabel(truth, numbers, key, dataset)
        return images, kinds, truth


class Camera:
    """Frames 0, 1, 2 ... at a steady rate, into a ring buffer that drops the oldest."""

    def __init__(self, frames_per_second: int, buffer_frames: int, clock: Clock):
        self.frames_per_second, self.buffer_frames = frames_per_second, buffer_frames
        self.clock = clock
        self.seen = 0  # frames that the learner took
        self.dropped = 0

    def arrival_ps(self, frame: int) -> int:
        """Simulated time at which frame number `frame` is in the buffer, rounded up."""
        return ceil_div((frame + 1) * PS_PER_SECOND, self.frames_per_second)

    def fill(self, count: int) -> int:
        """Frames in the buffer once there are `count`; the machine idles until then.

        The oldest of too many are dropped.
        """
        arrived = self.clock.now_ps * self.frames_per_second // PS_PER_SECOND
        self.dropped = max(self.dropped, arrived - self.buffer_frames - self.seen)
        missing = self.seen + self.dropped + count - arrived
        if missing > 0:
            self.clock.wait_until(self.arrival_ps(arrived + missing - 1))
        return max(arrived - self.dropped - self.seen, count)

    def take(self, count: int) -> range:
        """The numbers of the `count` oldest frames in the buffer; waits for those to come."""
        if not count:
            return range(0)
        self.fill(count)
        first = self.seen + self.dropped
        self.seen += count
        return range(first, first + count)
