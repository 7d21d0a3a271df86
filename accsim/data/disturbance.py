"""What is wrong with some unlabelled frames: what happens to a frame, and to which frames.

Everything is a pure function of the seed and of a frame's number, counted by the camera from the
start of the run. A slow machine drops frames; those that it takes are the same frames.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import final

import numpy as np

from accsim.data.base import DataError, Dataset
from accsim.kernels.fixed_point import random_key

RENEWED, BAD = range(2)  # key labels of `AtRandom`
WHEN, WHAT = range(2)  # key labels of `Disturbance`
WORD = 1 << 32  # a random word is less


class FrameKind(IntEnum):
    """The truth about an unlabelled frame, which the learner does not see; the worst is last."""

    CLEAN = 0
    OTHER_DOMAIN = 1  # one of the classes, from another data set
    CORRUPTED = 2
    OUT_OF_DISTRIBUTION = 3  # none of the classes


class Change(ABC):
    """What happens to a frame."""

    @property
    def datasets(self) -> tuple[str | Path, ...]:
        """Names or folders of other data sets that frames are taken from."""
        return ()

    def check(self, dataset: Dataset) -> None:
        """Raise DataError unless the set, with its `others`, is one that this can happen to."""
        for name in self.datasets:
            if name not in dataset.others:
                raise DataError(
                    f"{dataset.name} must be opened together with {name}, which some frames are "
                    "taken from, but was opened without"
                )

    @abstractmethod
    def apply(
        self, images: np.ndarray, kinds: np.ndarray, numbers: np.ndarray, key: int, dataset: Dataset
    ) -> tuple[np.ndarray, np.ndarray]:
        """Changed frames and what they are now.

        Parameters
        ----------
        images : uint8[N, H, W, C], not changed in place
        kinds : int8[N], FrameKind of each
        numbers : int64[N], the camera's number of each
        key : random key; what becomes of a frame depends on the key and its number alone
        dataset : of the run, with the other sets in `others`
        """

    def truth(
        self, labels: np.ndarray, numbers: np.ndarray, key: int, dataset: Dataset
    ) -> np.ndarray:
        """What the frames show now, int64[N], of the `labels` before; -1: none of the classes.

        `numbers`, `key` and `dataset` as of `apply`.
        """
        return labels

    def test(self, dataset: Dataset) -> tuple[np.ndarray, np.ndarray] | None:
        """Test images on which a network shows how it stands this, and their labels.

        uint8[N, H, W, C] and int64[N], the same for every run; None where no label is right.
        """
        return None


class When(ABC):
    """Which frames something happens to."""

    @abstractmethod
    def due(self, numbers: range, key: int) -> np.ndarray:
        """Whether it happens to the frames `numbers`, which follow each other: bool[N]."""


@final
@dataclass(frozen=True)
class AtRandom(When):
    """A share of the frames: each by a draw of its own, or in runs of a mean length.

    At each frame, with a chance of ``1 / (mean_run * (1 - share))``, the state is drawn anew: bad
    with a chance of `share`, else good; until then it stays. This is the chain of two states of
    Gilbert, "Capacity of a burst-noise channel", Bell System Technical Journal 39, 1960, in a form
    whose state at any frame is found by looking back to the last draw.
    """

    share: float
    mean_run: float | None = None  # frames; None: draws of their own, 1 / (1 - share) on average

    def __post_init__(self):
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be 0 to 1, not {self.share}")
        if self.mean_run is None:
            return
        if self.share == 1:
            raise ValueError(f"mean_run must be None for a share of 1, not {self.mean_run}")
        if self.mean_run * (1 - self.share) < 1:
            raise ValueError(
                f"mean_run must be at least {1 / (1 - self.share):.4g} frames for a share of "
                f"{self.share}, as of independent draws, not {self.mean_run}"
            )

    def due(self, numbers, key):
        last_draw = numbers.start
        while not self._drawn_anew(last_draw, key):
            last_draw -= 1
        due = np.empty(len(numbers), bool)
        for index, number in enumerate(numbers):
            if self._drawn_anew(number, key):
                last_draw = number
            due[index] = random_key(key, BAD, last_draw) < round(self.share * WORD)
        return due

    def _drawn_anew(self, number: int, key: int) -> bool:
        if self.mean_run is None or number == 0:
            return True
        chance = 1 / (self.mean_run * (1 - self.share))
        return random_key(key, RENEWED, number) < round(chance * WORD)


@final
@dataclass(frozen=True)
class During(When):
    """All frames of a stretch of the stream, which may come again and again."""

    first: int  # number of its first frame, from 0
    frames: int | None = None  # how many; None: it does not end
    every: int | None = None  # frames from one start to the next; None: it comes once

    def __post_init__(self):
        if self.frames is None and self.every is not None:
            raise ValueError(f"every must be None for a stretch without end, not {self.every}")
        for name, least in (("first", 0), ("frames", 1), ("every", self.frames)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")

    def due(self, numbers, key):
        since = np.arange(numbers.start, numbers.stop) - self.first
        place = since if self.every is None else since % self.every
        return (since >= 0) & (True if self.frames is None else place < self.frames)


@final
@dataclass(frozen=True)
class Disturbance:
    """Something that happens to some frames."""

    what: Change
    when: When

    def __post_init__(self):
        for name, kind in (("what", Change), ("when", When)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"{name} of a disturbance must be a {kind.__name__} object, "
                    f"not {getattr(self, name)!r}"
                )

    def apply(
        self, images: np.ndarray, kinds: np.ndarray, numbers: range, key: int, dataset: Dataset
    ) -> None:
        """Change those of the consecutive frames that are due, in place; see `Change.apply`."""
        due = self._due(numbers, key)
        if len(due):
            images[due], kinds[due] = self.what.apply(
                images[due],
                kinds[due],
                numbers.start + due,
                random_key(key, WHAT),
                dataset,
            )

    def relabel(self, labels: np.ndarray, numbers: range, key: int, dataset: Dataset) -> None:
        """Change the true labels of those frames, in place; see `Change.truth`."""
        due = self._due(numbers, key)
        which = numbers.start + due
        labels[due] = self.what.truth(labels[due], which, random_key(key, WHAT), dataset)

    def _due(self, numbers: range, key: int) -> np.ndarray:
        return np.flatnonzero(self.when.due(numbers, random_key(key, WHEN)))
