"""Mean teacher: the teacher, a moving average of the student, labels the unlabelled stream.

Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017; consistency
on logits and the confidence threshold as in French, Mackiewicz and Fisher, "Self-ensembling for
visual domain adaptation", ICLR 2018, section 3.3.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from accsim.kernels import update
from accsim.kernels.fixed_point import limit, random_key
from accsim.numerics import WeightScaling
from accsim.training.base import Student, chosen, count_correct
from accsim.training.fixed_network import FixedNetwork, Statistics
from accsim.training.semi_supervised import SemiSupervised, SemiSupervisedLearner
from accsim.training.supervised import new_student

TEACHER = 4  # labels of random keys
EMA = 5


@final
@dataclass(frozen=True)
class MeanTeacher(SemiSupervised):
    """The labels are the moving average's.

    `PseudoLabel` and a stronger view for the student (see the stream) make it weak-strong training:
    FixMatch whose labels are the average's; `Divergence` of a low temperature is unsupervised data
    augmentation.
    """

    own_labels = False
    teacher_shift: int = 7  # teacher += (student - teacher) >> teacher_shift
    teacher_statistics: Statistics = Statistics.BATCH  # of its labelling pass, or RUNNING

    def __post_init__(self):
        super().__post_init__()
        if self.teacher_statistics not in (Statistics.BATCH, Statistics.RUNNING):
            raise ValueError(
                f"teacher_statistics must be BATCH or RUNNING, not {self.teacher_statistics}"
            )
        if not 1 <= self.teacher_shift <= 15:
            raise ValueError(f"teacher_shift must be 1 to 15, not {self.teacher_shift}")

    def start(self, network, numerics, turn, steps, seed):
        return MeanTeacherLearner(self, new_student(network, numerics, seed), turn, steps, seed)


@final
class MeanTeacherLearner(SemiSupervisedLearner):
    """Student, stored teacher, and the teacher as the schedule lets the next step see it."""

    rule: MeanTeacher

    def __init__(self, rule: MeanTeacher, student: Student, turn, steps: int, seed: int):
        super().__init__(rule, student, turn, steps, seed)
        self.blends = 0  # times that the teacher has followed
        bits = student.numerics.teacher_bits
        self.finer_bits = bits - student.numerics.master_bits  # than the student's words
        self.stored = {
            name: tensor.teacher(self.finer_bits, bits)
            for name, tensor in student.parameters.items()
        }
        self.seen = {name: tensor.copy() for name, tensor in self.stored.items()}
        key, registers = random_key(seed, TEACHER), student.executor.registers
        self.executor = FixedNetwork(student.network, student.numerics, key, registers)

    def label(self, images):
        return self.executor.forward(self.seen, images, self.rule.teacher_statistics).logits

    def take_counters(self):
        return {
            "student": self.student.executor.tally.take(),
            "teacher": self.executor.tally.take(),
        }

    def correct(self, images, labels):
        test = images, labels, self.rule.evaluation_statistics
        teacher = count_correct(self.executor, self.seen, *test)
        return super().correct(images, labels) | {"teacher": teacher}

    def follow(self, how):
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
