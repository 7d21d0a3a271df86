"""Mean teacher: the teacher, a moving average of the student, labels the unlabelled stream.

Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017; consistency
on logits and the confidence threshold as in French, Mackiewicz and Fisher, "Self-ensembling for
visual domain adaptation", ICLR 2018, section 3.3.
"""

from dataclasses import dataclass
from typing import final

from accsim.kernels.fixed_point import random_key
from accsim.training.average import Average
from accsim.training.base import Student, count_correct
from accsim.training.deployed import Deployed
from accsim.training.fixed_network import Statistics
from accsim.training.parameters import Map
from accsim.training.semi_supervised import SemiSupervised, SemiSupervisedLearner
from accsim.training.supervised import new_student

TEACHER = 4  # label of random keys


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

    def start(self, network, numerics, turn, steps, seed, deployed=None):
        student = new_student(network, numerics, seed, deployed)
        return MeanTeacherLearner(self, student, turn, steps, seed, forget=deployed is None)


@final
class MeanTeacherLearner(SemiSupervisedLearner):
    """The student, and the teacher as the schedule lets the next step see it."""

    rule: MeanTeacher

    def __init__(
        self, rule: MeanTeacher, student: Student, turn, steps: int, seed: int, forget: bool
    ):
        super().__init__(rule, student, turn, steps, seed)
        self.average = Average(student, seed)
        self.forget = forget  # the start, which is random
        self.executor = student.executor.fork(random_key(seed, TEACHER))

    def label(self, batch):
        images = Map(batch.teacher_view, batch.exponent)
        return self.executor.forward(self.average.seen, images, self.rule.teacher_statistics).logits

    def take_counters(self):
        return {
            "student": self.student.executor.tally.take(),
            "teacher": self.executor.tally.take(),
        }

    def correct(self, images, labels):
        test = images, labels, self.rule.evaluation_statistics
        teacher = count_correct(self.executor, self.average.seen, *test)
        return super().correct(images, labels) | {"teacher": teacher}

    def trained(self):
        return Deployed.of(self.executor, self.average.masters())

    def follow(self, how):
        """Move the teacher as the schedule says.

        From a random start the average is shorter until it has followed 2**teacher_shift times, so
        that the teacher forgets that start.
        """
        shift = self.rule.teacher_shift
        if self.forget:
            shift = min(shift, (self.average.moves + 1).bit_length())
        numerator = min(how.numerator, 1 << shift)
        frozen = self.rule.optimizer.frozen(self.student.network)
        self.average.move(numerator, shift, how.store, self.done, self.executor.tally, frozen)
