"""Temporal ensembling: the labels of a frame are what the student said of it before, averaged.

Source: Laine and Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017, section 2.2
and algorithm 2: ``Z = a Z + (1 - a) z`` in every epoch, and ``Z / (1 - a**t)`` the target of the
next. Here z are logits, whose mean is the geometric mean of probabilities, and a frame's
prediction moves on in every step that sees it.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor
from typing import final

import numpy as np

from accsim.kernels import loss
from accsim.kernels.fixed_point import limit
from accsim.numerics import PREDICTION_BYTES
from accsim.passes import Turn
from accsim.training.counters import Tally
from accsim.training.semi_supervised import SemiSupervised, SemiSupervisedLearner
from accsim.training.supervised import new_student

STORED_BITS = 10  # fractional bits of a stored logit
SHARE_BITS = 15  # fractional bits of the share that a step has in a prediction


@final
@dataclass(frozen=True)
class TemporalEnsembling(SemiSupervised):
    """The student's own outputs of the same frames in earlier steps are its labels.

    One forward pass a frame: no other network and no pass that labels. Instead the prediction of
    every frame lies in DDR, is read before the loss and written after it. A frame that comes for
    the first time has no label, as if it were rejected: on a stream to which no frame returns
    nothing is learned from frames. A disturbed frame is taken for the frame that it was.
    """

    own_labels = True
    remembers = True
    ensemble_shift: int = 1  # Z += (z - Z) >> ensemble_shift: a = 1/2 (the source's is 0.6)

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.ensemble_shift <= 7:
            raise ValueError(f"ensemble_shift must be 1 to 7, not {self.ensemble_shift}")
        if self.least_accepted:
            raise ValueError(
                f"least_accepted must be 0 for TemporalEnsembling, not {self.least_accepted}: of "
                "frames in a batch that is rejected the student never has an output"
            )

    def start(self, network, numerics, turn, steps, seed, deployed=None):
        for asked in (turn(1), turn(2)):
            if asked != Turn(asked.blend, micro_batches=asked.micro_batches):
                raise ValueError(
                    "schedule of TemporalEnsembling must let the frames of every step have labels "
                    "in that step, as SeparateEma does: there is no teacher to rest or run ahead"
                )
        student = new_student(network, numerics, seed, deployed)
        return TemporalEnsemblingLearner(self, student, turn, steps, seed)


@final
class TemporalEnsemblingLearner(SemiSupervisedLearner):
    """The student, and what it said of each frame."""

    rule: TemporalEnsembling

    def __init__(self, rule: TemporalEnsembling, student, turn, steps: int, seed: int):
        super().__init__(rule, student, turn, steps, seed)
        self.predictions = Predictions(student.network.classes, rule.ensemble_shift)

    def label(self, batch):
        return self.predictions.recall(batch.places)

    def follow(self, how):
        """There is no network that labels."""

    def take_counters(self):
        return {"student": self.student.executor.tally.take()}

    def _lesson(self, batch, labelling):
        if batch.places is None:
            raise ValueError("places of a batch must be told for TemporalEnsembling, not None")
        self.predictions.make_room(batch.pool)
        lesson = super()._lesson(batch, labelling)
        return replace(lesson, sure=lesson.sure & self.predictions.known(batch.places))

    def _learn(self, study, batch, lesson, parts):
        super()._learn(study, batch, lesson, parts)
        tally = self.student.executor.tally
        self.predictions.move(batch.places, np.concatenate(study.predictions), tally)


class Predictions:
    """The average of the logits of every frame, as it lies in DDR: words of 16 bits, and a count.

    Kept is what the source's bias correction makes of Z: the t-th output of a frame moves it
    ``(1 - a) / (1 - a**t)`` of the way, which is all of it at first, with ``a = 1 - 2**-shift``.
    The shares are rounded to 15 fractional bits and looked up by the count, which stands still once
    they do; each step is rounded once, half up, to 10 fractional bits of a logit, and saturated.
    """

    def __init__(self, classes: int, shift: int):
        self.shares = shares(shift)
        self.words = np.zeros((0, classes), np.int16)
        self.counts = np.zeros(0, np.int16)

    def make_room(self, frames: int) -> None:
        """Have a word for every logit of so many frames."""
        missing = frames - len(self.words)
        self.words = np.pad(self.words, ((0, missing), (0, 0)))
        self.counts = np.pad(self.counts, (0, missing))

    def known(self, places: np.ndarray) -> np.ndarray:
        """Whether the frames at `places` have been seen: bool[N]."""
        return self.counts[places] > 0

    def recall(self, places: np.ndarray) -> np.ndarray:
        """The averages of the frames at `places`: int32[N, classes], 12 fractional bits."""
        return self.words[places].astype(np.int32) << (loss.LOGIT_BITS - STORED_BITS)

    def move(self, places: np.ndarray, logits: np.ndarray, tally: Tally) -> None:
        """Take in what the student says now: int32[N, classes], 12 fractional bits.

        All words are read before any is written: of a frame that is there twice the last stays.
        What is tallied as moved or not are the words of frames that were known.
        """
        before, known = self.words[places].astype(np.int64), self.known(places)
        finer, most = loss.LOGIT_BITS - STORED_BITS, limit(8 * PREDICTION_BYTES)
        share = self.shares[self.counts[places]][:, None]
        way = (logits - (before << finer)) * share
        wide = before + ((way + (1 << (SHARE_BITS + finer - 1))) >> (SHARE_BITS + finer))
        after = np.clip(wide, -most, most)
        self.words[places] = after
        self.counts[places] = np.minimum(self.counts[places] + 1, len(self.shares) - 1)
        changed = (after != before)[known]
        tally.add(
            "predictions",
            "predictions",
            after.size,
            saturated=int((wide != after).sum()),
            moved=int(changed.sum()),
            unmoved=int((way[known] != 0)[~changed].sum()),
        )


def shares(shift: int) -> np.ndarray:
    """``(1 - a) / (1 - a**t)`` for t = 1, 2, ...: int64[T], 15 fractional bits, rounded half up.

    The last is ``2**-shift``, and so are all that would follow.
    """
    found: list[int] = []
    a = power = 1 - Fraction(1, 1 << shift)
    while not found or found[-1] != 1 << (SHARE_BITS - shift):
        found.append(floor((1 - a) / (1 - power) * (1 << SHARE_BITS) + Fraction(1, 2)))
        power *= a
    return np.array(found)
