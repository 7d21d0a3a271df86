"""Learning from labelled images and from frames that a network labels: what such rules share.

A rule says which network labels the frames and how that network moves; which of its labels count is
decided here, and the student learns from those by the rule's `Consistency`.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import numpy as np

from accsim.data.stream import Batch
from accsim.kernels import loss
from accsim.kernels.fixed_point import random_key
from accsim.passes import Blend, Passes, shares
from accsim.training.base import (
    Algorithm,
    Checkable,
    Outcome,
    Sgd,
    Student,
    count_correct,
    top_class,
)
from accsim.training.consistency import Consistency, LogitDistance
from accsim.training.counters import Counters
from accsim.training.deployed import Deployed
from accsim.training.fixed_network import Statistics
from accsim.training.parameters import Map
from accsim.training.supervised import Descent

OF_FRAMES = 7  # label of random keys
WEIGHT_BITS = 16  # fractional bits of the consistency weight
BALANCE_BITS = 20  # and of the weight of the class balance
MOST_PARTS = 10_000  # denominator of `least_accepted`: 0.1 is a tenth, not the float beside it


@dataclass(frozen=True, kw_only=True)
class SemiSupervised(Algorithm):
    """Cross-entropy on labelled images, and agreement with the labels of frames that are sure.

    A sample whose largest labelled probability is not above the threshold is rejected: it has no
    error and no backward work. A batch with too few accepted samples is rejected whole: its step
    ends with the labels, the student does not run and no word moves; its labelled images are
    left out too. The gate on batches opens only as the ramp ends: before, nobody is sure. Where the
    stream blends frames, their targets are blended, and both labels must be sure.

    With `class_balance` the mean of the student's predictions of frames is asked to be uniform, by
    its binary cross-entropy times the share of frames that are sure; frames that are not take part
    in the mean alone. French et al., section 3.4, have 0.005 (see `accsim.kernels.loss`).

    Where frames are of another domain than labelled images, `separate_domains` takes either through
    the student in passes of their own: each is normalised by the statistics of its own batch, and
    keeps its own running statistics and exponents. Networks are evaluated by those of the frames.
    Source: French, Mackiewicz and Fisher, "Self-ensembling for visual domain adaptation", ICLR
    2018, section 3.2.
    """

    confidence_threshold: float = 0.75
    least_accepted: float = 0.0  # share of a batch's frames; a batch with less is rejected; well
    # below the share that clean batches have as the ramp ends, else the student stands still
    consistency: Consistency = LogitDistance()
    consistency_weight: float = 0.3
    class_balance: float = 0.0  # of a loss beside the consistency, which its weight multiplies too
    ramp_share: float = 0.15  # share of the steps over which the weight rises from 0, linearly
    separate_domains: bool = False  # passes and batch-norm statistics of the student
    optimizer: Sgd = Sgd()
    own_labels: ClassVar[bool]  # the student labels its frames itself: there is no other network
    remembers: ClassVar[bool] = False  # labels are what it said of the frames before: no pass more

    def __post_init__(self):
        super().__post_init__()
        for name in ("confidence_threshold", "least_accepted", "ramp_share", "class_balance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.consistency_weight <= 1000:
            raise ValueError(f"consistency_weight must be 0 to 1000, not {self.consistency_weight}")
        if not isinstance(self.consistency, Consistency):
            raise ValueError(
                f"consistency must be a Consistency such as PseudoLabel(), not {self.consistency!r}"
            )

    def weight(self, step: int, steps: int) -> int:
        """Consistency weight of `step`, from 1, of `steps`: 16 fractional bits."""
        full, ramp = round(self.consistency_weight * (1 << WEIGHT_BITS)), self._ramp(steps)
        return full * step // ramp if step < ramp else full

    def balance_weight(self, weight: int) -> int:
        """Of the class balance, for a consistency weight of 16: 20 fractional bits."""
        return weight * round(self.class_balance * (1 << BALANCE_BITS)) >> WEIGHT_BITS

    def rejects(self, sure: np.ndarray, step: int, steps: int) -> bool:
        """Whether too few frames are `sure`, bool[N], for the student to run at all."""
        least = Fraction(self.least_accepted).limit_denominator(MOST_PARTS) * len(sure)
        return step > self._ramp(steps) and int(sure.sum()) < least

    def _ramp(self, steps: int) -> int:
        return round(self.ramp_share * steps)

    def largest_passes(self, labelled, frames):
        ran = labelled + frames
        apart = ((frames, frames), (labelled, labelled))
        return Passes(
            0 if self.remembers else frames,
            ran,
            ran,
            ema=not self.own_labels,
            micro_batches=apart if self.separate_domains else (),
            queued=-frames if self.remembers else 0,
            own_labels=self.own_labels,
            separate_domains=self.separate_domains,
            predictions=frames if self.remembers else 0,
            class_balance=self.class_balance > 0,
        )


@dataclass(frozen=True)
class Lesson:
    """Frames as the student will see them, with what their labeller says of them."""

    frames: np.ndarray  # int8[N, H, W, C]
    targets: np.ndarray  # int32[N, classes], what the consistency makes of the labeller's logits
    sure: np.ndarray  # bool[N], of the labeller: the others teach nothing
    classes: np.ndarray  # int64[N], the labeller's most probable

    def __getitem__(self, part: slice) -> "Lesson":
        return Lesson(self.frames[part], self.targets[part], self.sure[part], self.classes[part])

    def __len__(self) -> int:
        return len(self.sure)


@dataclass
class Study:
    """One step of the student, as far as it has come."""

    descent: Descent
    correct: int = 0  # labelled images
    labelled_errors: list[np.ndarray] = field(default_factory=list)  # of the logits
    frame_errors: list[np.ndarray] = field(default_factory=list)
    predictions: list[np.ndarray] = field(default_factory=list)  # logits of the frames


class SemiSupervisedLearner(Checkable):
    """The student and its progress; what labels its frames is a subclass's."""

    def __init__(self, rule: SemiSupervised, student: Student, turn, steps: int, seed: int):
        self.rule, self.student, self.turn = rule, student, turn
        self.steps, self.seed = steps, seed
        self.done = 0  # steps
        self.updates = 0  # steps whose batch was not rejected
        self.of_frames = student.executor  # through which the student sees frames
        if rule.separate_domains:
            self.of_frames = student.executor.fork(random_key(seed, OF_FRAMES))
            self.of_frames.tally = student.executor.tally
        classes = student.network.classes
        self.lesson: Lesson | None = None  # of the step before, where the labeller is ahead
        self.waiting = np.empty((0, classes), np.int32)  # labels of frames of later batches
        if rule.least_accepted and turn(1).labels > 1:
            raise ValueError(
                "least_accepted must be 0 under a schedule that labels several batches at once, "
                f"not {rule.least_accepted}: their labels wait for the steps to come"
            )

    @abstractmethod
    def label(self, batch: Batch) -> np.ndarray:
        """The labeller's logits of the teacher's view: int32[N, classes], 12 fractional bits."""

    @abstractmethod
    def follow(self, how: Blend) -> None:
        """Move the labeller as the schedule says; the student has just been updated."""

    def shown(self, batch: Batch, lesson: Lesson) -> tuple[Lesson, tuple[tuple[int, int], ...]]:
        """The frames as the student learns from them, and the probes that this took, for `Passes`.

        The batch was not rejected.
        """
        return lesson, ()

    @abstractmethod
    def take_counters(self) -> dict[str, Counters]:
        """What fixed point did to each network since the last call."""

    def step(self, batch):
        self.done += 1
        turn = self.turn(self.updates + 1)
        labelling = len(batch.teacher_view) if turn.labels else 0
        lesson = self._lesson(batch, labelling)
        if self.rule.remembers:
            labelling = 0  # samples that take a pass of the labeller's
        skipped = len(batch.student_view) - len(lesson)
        if turn.ahead:
            lesson, self.lesson = self.lesson or lesson[:0], lesson
        rejected = self.rule.rejects(lesson.sure, self.done, self.steps)
        labelled, ran, sure = 0, 0, 0
        study = Study(Descent(self.rule.optimizer, self.student, self.done, self.steps, self.seed))
        rate = 0.0
        probes: tuple[tuple[int, int], ...] = ()
        if not rejected:
            lesson, probes = self.shown(batch, lesson)
            labelled, ran, sure = len(batch.labels), len(lesson), int(lesson.sure.sum())
            self._learn(study, batch, lesson, turn.micro_batches)
            rate = study.descent.update()
            self.updates += 1
            if turn.blend:
                self.follow(turn.blend)
        return Outcome(
            passes=Passes(
                labelling,
                labelled + ran,
                labelled + sure,
                ema=turn.labels > 0 and not (rejected or self.rule.own_labels),
                micro_batches=study.descent.micro_batches,
                queued=labelling - len(lesson) * batch.label_views,
                ahead=turn.ahead,
                own_labels=self.rule.own_labels,
                separate_domains=self.rule.separate_domains and ran > 0,
                frozen=study.descent.frozen,
                predictions=batch.pool if self.rule.remembers else 0,
                probes=probes,
                class_balance=self.rule.class_balance > 0 and ran > 0,
            ),
            learning_rate=rate,
            labelled_correct=study.correct,
            labelled_samples=labelled,
            labelled_error=loss.length(*study.labelled_errors),
            frame_error=loss.length(*study.frame_errors),
            taught=lesson.sure,
            classes=lesson.classes,
            skipped_frames=skipped,
            counters=self.take_counters(),
        )

    def correct(self, images, labels):
        student, statistics = self.student, self.rule.evaluation_statistics
        count = count_correct(self.of_frames, student.parameters, images, labels, statistics)
        return {"student": count}

    def trained(self):
        return Deployed.of(self.of_frames, self.student.parameters)

    def right(self, images, labels):
        network = self.trained()
        record = network.executor(0).forward(
            network.parameters, images, Statistics.BATCH, training=False
        )
        return int((top_class(record.logits) == labels).sum())

    def go_on_from(self, other):
        self.done, self.updates = other.done, other.updates

    def _lesson(self, batch: Batch, labelling: int) -> Lesson:
        """The frames that have labels: of this step's `labelling`, or of an earlier step's."""
        if labelling:
            self.waiting = mean_of_views(self.label(batch), batch.label_views)
        logits, self.waiting = np.split(self.waiting, [len(batch.student_view)])
        threshold = round(self.rule.confidence_threshold * (1 << loss.PROBABILITY_BITS))
        sure = loss.softmax(logits, loss.EXP2).max(axis=1) > threshold
        targets = self.rule.consistency.targets(logits)
        if batch.blending and len(logits):
            targets = batch.blending.apply(targets)
            sure = sure & sure[batch.blending.partners]
        frames = batch.student_view[: len(logits)]
        return Lesson(frames, targets, sure, top_class(logits))

    def _learn(self, study: Study, batch: Batch, lesson: Lesson, parts: int) -> None:
        """Forward and backward passes of the student's step."""
        student, labelled = self.student, len(batch.labels)
        weight = self.rule.weight(self.done, self.steps)
        apart = self.rule.separate_domains and len(lesson) > 0
        for own, part in shares(labelled, len(lesson), parts, apart):
            labels, seen = batch.labels[own], lesson[part]
            images = np.concatenate([batch.labelled[own], seen.frames])
            executor = student.executor if len(labels) else self.of_frames
            record = executor.forward(student.parameters, Map(images, batch.exponent))
            logits, of_frames = np.split(record.logits, [len(labels)])
            supervised = loss.cross_entropy_error(loss.softmax(logits, loss.EXP2), labels, labelled)
            consistency = self.rule.consistency.error(
                of_frames, seen.targets, seen.sure, weight, len(lesson)
            )
            if self.rule.class_balance:
                consistency = consistency + loss.balance_error(
                    loss.softmax(of_frames, loss.EXP2),
                    seen.sure,
                    self.rule.balance_weight(weight),
                    len(lesson),
                )
            rows = np.flatnonzero(np.concatenate([np.ones(len(labels), bool), seen.sure]))
            errors = np.concatenate([supervised, consistency])[rows]
            study.descent.add(executor, record, errors, rows)
            study.correct += int((top_class(logits) == labels).sum())
            study.labelled_errors.append(supervised)
            study.frame_errors.append(consistency)
            study.predictions.append(of_frames)


def mean_of_views(logits: np.ndarray, views: int) -> np.ndarray:
    """Mean over the views of each frame, rounded half up: int32[views * N, C] -> int32[N, C].

    That of logits is the geometric mean of probabilities. Source: of probabilities, Berthelot et
    al., "MixMatch", NeurIPS 2019, eq. 6; sharpening (its eq. 7) is `Divergence`'s temperature.
    """
    total = logits.reshape(views, -1, logits.shape[1]).sum(axis=0, dtype=np.int64)
    return ((2 * total + views) // (2 * views)).astype(np.int32)
