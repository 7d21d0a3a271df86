"""Mean teacher: the teacher, a moving average of the student, labels the unlabelled stream.

Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017; consistency
on logits and the confidence threshold as in French, Mackiewicz and Fisher, "Self-ensembling for
visual domain adaptation", ICLR 2018, section 3.3.
"""

from dataclasses import dataclass

import numpy as np

from accsim.kernels import loss, update
from accsim.kernels.fixed_point import limit, random_key
from accsim.numerics import WeightScaling
from accsim.passes import Blend, Passes, cuts
from accsim.training.base import (
    Algorithm,
    Learner,
    Outcome,
    Sgd,
    Student,
    chosen,
    count_correct,
    top_class,
)
from accsim.training.consistency import Consistency, LogitDistance
from accsim.training.fixed_network import FixedNetwork, Statistics
from accsim.training.parameters import Map
from accsim.training.supervised import Descent, new_student

TEACHER = 4  # labels of random keys
EMA = 5
WEIGHT_BITS = 16  # fractional bits of the consistency weight


@dataclass(frozen=True)
class Lesson:
    """Frames as the student will see them, with what the teacher says of them."""

    frames: np.ndarray  # int8[N, H, W, C]
    logits: np.ndarray  # int32[N, classes], the teacher's
    sure: np.ndarray  # bool[N], of the teacher: the others teach nothing

    def __getitem__(self, part: slice) -> "Lesson":
        return Lesson(self.frames[part], self.logits[part], self.sure[part])

    def __len__(self) -> int:
        return len(self.sure)


@dataclass(frozen=True)
class MeanTeacher(Algorithm):
    """Cross-entropy on labelled images, and agreement with the teacher on frames where it is sure.

    A sample whose largest teacher probability is not above the threshold is rejected: it has no
    error and no backward work. `PseudoLabel` and a stronger view for the student (see the stream)
    make it weak-strong training: FixMatch whose labels are the average's; `Divergence` of a low
    temperature is unsupervised data augmentation.
    """

    teacher_shift: int = 7  # teacher += (student - teacher) >> teacher_shift
    confidence_threshold: float = 0.75
    consistency: Consistency = LogitDistance()
    consistency_weight: float = 0.3
    ramp_share: float = 0.15  # share of the steps over which the weight rises from 0, linearly
    teacher_statistics: Statistics = Statistics.BATCH  # of its labelling pass, or RUNNING
    optimizer: Sgd = Sgd()

    def __post_init__(self):
        super().__post_init__()
        if self.teacher_statistics not in (Statistics.BATCH, Statistics.RUNNING):
            raise ValueError(
                f"teacher_statistics must be BATCH or RUNNING, not {self.teacher_statistics}"
            )
        if not 1 <= self.teacher_shift <= 15:
            raise ValueError(f"teacher_shift must be 1 to 15, not {self.teacher_shift}")
        for name in ("confidence_threshold", "ramp_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.consistency_weight <= 1000:
            raise ValueError(f"consistency_weight must be 0 to 1000, not {self.consistency_weight}")
        if not isinstance(self.consistency, Consistency):
            raise ValueError(
                f"consistency must be a Consistency such as PseudoLabel(), not {self.consistency!r}"
            )

    def start(self, network, numerics, turn, steps, seed):
        return MeanTeacherLearner(self, new_student(network, numerics, seed), turn, steps, seed)


class MeanTeacherLearner(Learner):
    """Student, stored teacher, and the teacher as the schedule lets the next step see it."""

    def __init__(self, rule: MeanTeacher, student: Student, turn, steps: int, seed: int):
        self.rule, self.student, self.turn = rule, student, turn
        self.steps, self.seed = steps, seed
        self.done = 0  # steps
        self.blends = 0  # times that the teacher has followed
        self.lesson: Lesson | None = None  # of the step before, where the teacher is ahead
        bits = student.numerics.teacher_bits
        self.finer_bits = bits - student.numerics.master_bits  # than the student's words
        self.stored = {
            name: tensor.teacher(self.finer_bits, bits)
            for name, tensor in student.parameters.items()
        }
        self.seen = {name: tensor.copy() for name, tensor in self.stored.items()}
        key, registers = random_key(seed, TEACHER), student.executor.registers
        self.executor = FixedNetwork(student.network, student.numerics, key, registers)
        self.waiting = self._no_labels()  # of frames that later batches show the student

    def step(self, batch):
        self.done += 1
        turn, student = self.turn(self.done), self.student
        if turn.labels:
            self.waiting = self._labels(batch)
        teacher_logits, self.waiting = np.split(self.waiting, [len(batch.student_view)])
        labelled, frames = len(batch.labels), len(teacher_logits)
        teacher_forward = len(batch.teacher_view) if turn.labels else 0
        accepted = self._accepted(teacher_logits)
        lesson = Lesson(batch.student_view[:frames], teacher_logits, accepted)
        if turn.ahead:
            lesson, self.lesson = self.lesson or lesson[:0], lesson
        descent = Descent(self.rule.optimizer, student, self.done, self.steps, self.seed)
        correct = 0
        parts = turn.micro_batches
        for own, part in zip(cuts(labelled, parts), cuts(len(lesson), parts), strict=True):
            labels, seen = batch.labels[own], lesson[part]
            images = np.concatenate([batch.labelled[own], seen.frames])
            record = student.executor.forward(student.parameters, Map(images, batch.exponent))
            logits, of_frames = np.split(record.logits, [len(labels)])
            supervised = loss.cross_entropy_error(loss.softmax(logits, loss.EXP2), labels, labelled)
            consistency = self.rule.consistency.error(
                of_frames, seen.logits, seen.sure, self._weight(), len(lesson)
            )
            rows = np.flatnonzero(np.concatenate([np.ones(len(labels), bool), seen.sure]))
            descent.add(record, np.concatenate([supervised, consistency])[rows], rows)
            correct += int((top_class(logits) == labels).sum())
        rate = descent.update()
        if turn.blend:
            self._blend(turn.blend)
        return Outcome(
            passes=Passes(
                teacher_forward,
                labelled + len(lesson),
                labelled + int(lesson.sure.sum()),
                ema=turn.labels > 0,
                micro_batches=descent.micro_batches,
                queued=teacher_forward - len(lesson),
                ahead=turn.ahead,
            ),
            learning_rate=rate,
            labelled_correct=correct,
            labelled_samples=labelled,
            taught=lesson.sure,
            skipped_frames=len(batch.student_view) - frames,
            counters={
                "student": student.executor.tally.take(),
                "teacher": self.executor.tally.take(),
            },
        )

    def correct(self, images, labels):
        student = self.student
        test = images, labels, self.rule.evaluation_statistics
        return {
            "student": count_correct(student.executor, student.parameters, *test),
            "teacher": count_correct(self.executor, self.seen, *test),
        }

    def _no_labels(self) -> np.ndarray:
        return np.empty((0, self.student.network.classes), np.int32)

    def _labels(self, batch) -> np.ndarray:
        """The teacher's logits of its view, in one forward pass: int32[N, classes]."""
        if not len(batch.teacher_view):
            return self._no_labels()
        images = Map(batch.teacher_view, batch.exponent)
        return self.executor.forward(self.seen, images, self.rule.teacher_statistics).logits

    def _accepted(self, logits) -> np.ndarray:
        """Samples that the teacher is sure of: bool[N]."""
        threshold = round(self.rule.confidence_threshold * (1 << loss.PROBABILITY_BITS))
        return loss.softmax(logits, loss.EXP2).max(axis=1) > threshold

    def _weight(self) -> int:
        """Consistency weight of this step, 16 fractional bits."""
        full = round(self.rule.consistency_weight * (1 << WEIGHT_BITS))
        ramp_steps = round(self.rule.ramp_share * self.steps)
        return full * self.done // ramp_steps if self.done < ramp_steps else full

    def _blend(self, how: Blend) -> None:
        """Move the teacher as the schedule says.

        Before it has followed 2**teacher_shift times the average is shorter, so that the teacher
        forgets its random start.
        """
        self.blends += 1
        rule, student = self.rule, self.student
        numerics = student.numerics
        shift = min(rule.teacher_shift, self.blends.bit_length())
        finer, coarse = max(self.finer_bits, 0), max(-self.finer_bits, 0)
        largest_code = limit(numerics.teacher_bits) << coarse
        for index, (name, master) in enumerate(student.parameters.items()):
            stored, seen = self.stored[name], self.seen[name]
            seen.largest = max(stored.largest, master.largest << finer)
            if numerics.weight_scaling is WeightScaling.CHANNEL and master.values.ndim == 4:
                seen.channel_bounds = np.maximum(
                    stored.largest_of_outputs(), master.largest_of_outputs() << finer
                )
            residual = None if stored.residual is None else stored.residual.copy()
            key = random_key(self.seed, EMA, self.done, index)
            counts = update.moving_average(
                stored.values.reshape(-1),
                master.values.reshape(-1),
                min(how.numerator, 1 << shift),
                shift,
                coarse,
                finer,
                largest_code,
                chosen(numerics.teacher_rounding, key),
                seen.values.reshape(-1),
                student.executor.registers,
                residual,
            )
            self.executor.tally.add_stored("teacher", name, counts)
            if how.store:
                np.copyto(stored.values, seen.values)
                stored.residual = residual
                stored.largest = int(np.abs(stored.values).max())
