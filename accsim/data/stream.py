"""What the learner is fed: replayed labelled images, and camera frames in simulated time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from accsim.data.base import DataError, Dataset
from accsim.kernels.augment import IMAGE_BITS, PixelScale, augment
from accsim.kernels.fixed_point import random_key, random_words
from accsim.units import PS_PER_SECOND, ceil_div

LABEL_DRAW, REPLAY, FRAMES, LABELLED_VIEW, STUDENT_VIEW, TEACHER_VIEW = range(10, 16)  # key labels


class Clock(Protocol):
    """Simulated time, as much of it as a stream needs."""

    @property
    def now_ps(self) -> int:
        """Simulated time since the start of the run."""

    def wait_until(self, ps: int) -> None:
        """Let the machine idle until `ps`."""


@dataclass(frozen=True)
class Batch:
    """One step's images, int8[N, H, W, C], augmented; the two views are of the same frames."""

    labelled: np.ndarray
    labels: np.ndarray  # int64[N] of `labelled`
    student_view: np.ndarray
    teacher_view: np.ndarray
    exponent: int  # of all images
    frames_seen: int  # since the start of the run
    frames_dropped: int


class Stream(ABC):
    """Chooses what each step sees."""

    dataset: str | Path

    @abstractmethod
    def batches(self, dataset: Dataset, clock: Clock, steps: int, seed: int) -> Iterator[Batch]:
        """One batch a step; waits on `clock` for frames that have not arrived."""


@dataclass(frozen=True)
class SemiSupervisedStream(Stream):
    """Batches of labelled images, replayed for ever, and of unlabelled frames, seen as they come.

    Frames arrive at a steady rate into a ring buffer. While the machine works they queue up; a
    frame that finds the buffer full replaces the oldest, which is dropped. The frames are the
    training images in a random order, every image once before any comes again.
    """

    dataset: str | Path = "cifar10"  # a known name, or the folder of a user's images
    labels: int = 1000  # labelled images, equally many of each class
    labelled_per_batch: int = 32
    unlabelled_per_batch: int = 96
    frames_per_second: int = 1000
    buffer_frames: int = 256
    translate: int = 4  # largest shift of a view, pixels
    flip: bool = True

    def __post_init__(self):
        for name, least in (
            ("labels", 1),
            ("labelled_per_batch", 1),
            ("unlabelled_per_batch", 0),
            ("frames_per_second", 1),
            ("buffer_frames", max(1, self.unlabelled_per_batch)),
            ("translate", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")

    def batches(self, dataset, clock, steps, seed):
        scale = PixelScale.of(dataset.train_images)
        labelled = self._draw_labels(dataset, seed)
        camera = Camera(self.frames_per_second, self.buffer_frames, clock)
        pool = len(dataset.train_images)

        def view(chosen, which, step):
            key = random_key(seed, which, step)
            return augment(
                dataset.train_images,
                chosen,
                scale.means,
                scale.gains,
                self.translate,
                self.flip,
                key,
            )

        for step in range(steps):
            frames = camera.take(self.unlabelled_per_batch)
            chosen = _in_random_order(frames, pool, random_key(seed, FRAMES))
            first = step * self.labelled_per_batch
            places = range(first, first + self.labelled_per_batch)
            replayed = labelled[_in_random_order(places, len(labelled), random_key(seed, REPLAY))]
            yield Batch(
                view(replayed, LABELLED_VIEW, step),
                dataset.train_labels[replayed],
                view(chosen, STUDENT_VIEW, step),
                view(chosen, TEACHER_VIEW, step),
                -IMAGE_BITS,
                camera.seen,
                camera.dropped,
            )

    def _draw_labels(self, dataset: Dataset, seed: int) -> np.ndarray:
        """Indices of the labelled images: a random, class-balanced draw."""
        classes = len(dataset.classes)
        order = _permutation(len(dataset.train_labels), random_key(seed, LABEL_DRAW))
        sorted_labels = dataset.train_labels[order]
        counts = [self.labels // classes + (c < self.labels % classes) for c in range(classes)]
        drawn = []
        for c, count in enumerate(counts):
            of_class = order[sorted_labels == c]
            if len(of_class) < count:
                raise DataError(
                    f"labels must be at most {len(of_class)} for class {dataset.classes[c]} "
                    f"of {dataset.name}, not {count}; ask for fewer labels"
                )
            drawn.append(of_class[:count])
        return np.concatenate(drawn)


class Camera:
    """Frames 0, 1, 2 ... at a steady rate, into a ring buffer that drops the oldest."""

    def __init__(self, frames_per_second: int, buffer_frames: int, clock: Clock):
        self.frames_per_second, self.buffer_frames = frames_per_second, buffer_frames
        self.clock = clock
        self.seen = 0  # frames that the learner took
        self.dropped = 0

    def take(self, count: int) -> range:
        """The `count` oldest frames in the buffer; waits until they have all arrived."""
        if not count:
            return range(0)
        arrived = self.clock.now_ps * self.frames_per_second // PS_PER_SECOND
        self.dropped = max(self.dropped, arrived - self.buffer_frames - self.seen)
        first = self.seen + self.dropped
        last = first + count
        self.clock.wait_until(ceil_div(last * PS_PER_SECOND, self.frames_per_second))
        self.seen += count
        return range(first, last)


@lru_cache(maxsize=4)
def _permutation(count: int, key: int) -> np.ndarray:
    """int64[count], a random order of 0 to count - 1."""
    return np.argsort(random_words(count, key), kind="stable")


def _in_random_order(places: range, count: int, key: int) -> np.ndarray:
    """What stands at `places` of an endless sequence of permutations of 0 to count - 1."""
    chosen = np.empty(len(places), np.int64)
    for epoch in {place // count for place in places}:
        order = _permutation(count, random_key(key, epoch))
        for index, place in enumerate(places):
            if place // count == epoch:
                chosen[index] = order[place % count]
    return chosen
