"""The student labels its own frames, in another view: no teacher is stored.

Which method it is lies in the consistency and in the views: the squared distance of probabilities
with every sample accepted is the Pi model (Laine and Aila, "Temporal ensembling for semi-supervised
learning", ICLR 2017, section 2.1); hard labels of sure samples are pseudo-labels (Lee,
"Pseudo-label", ICML workshops 2013), and with a strong view for the student FixMatch (Sohn et al.,
NeurIPS 2020).
"""

from dataclasses import dataclass
from typing import final

from accsim.training.parameters import Map
from accsim.training.semi_supervised import SemiSupervised, SemiSupervisedLearner
from accsim.training.supervised import new_student


@final
@dataclass(frozen=True)
class SelfTaught(SemiSupervised):
    """The labels are the student's own, of the teacher's view, before it learns.

    They cost a forward pass of the student; no gradient goes through it. Its batch norms see the
    frames alone there, with the labelled images as it learns.
    """

    own_labels = True

    def start(self, network, numerics, turn, steps, seed, deployed=None):
        student = new_student(network, numerics, seed, deployed)
        return SelfTaughtLearner(self, student, turn, steps, seed)


@final
class SelfTaughtLearner(SemiSupervisedLearner):
    """The student alone."""

    def label(self, batch):
        images = Map(batch.teacher_view, batch.exponent)
        return self.of_frames.forward(self.student.parameters, images).logits

    def follow(self, how):
        """It is its own labeller already."""

    def take_counters(self):
        return {"student": self.student.executor.tally.take()}
