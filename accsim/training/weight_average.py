"""Supervised training whose weights are averaged over the steps: nobody labels a frame.

What of mean teacher's gain is the average alone. Sources: Polyak and Juditsky, "Acceleration of
stochastic approximation by averaging", 1992; Izmailov et al., "Averaging weights leads to wider
optima and better generalization", UAI 2018, section 3.2 (SWA); Yang et al., "SWALP", ICML 2019, for
students of few bits.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

from accsim.passes import Blend, Passes
from accsim.training.average import Average
from accsim.training.base import Algorithm, Learner, Sgd, count_correct
from accsim.training.counters import Tally
from accsim.training.deployed import Deployed
from accsim.training.supervised import Supervised, SupervisedLearner, new_student

SHARE_BITS = 15  # fractional bits of an equal average's share


class Averaging(ABC):
    """When an average moves towards the student, and how far."""

    @abstractmethod
    def share(self, step: int, steps: int, moves: int) -> tuple[int, int] | None:
        """``numerator / 2**shift`` of the way at `step` of `steps`, from 1; None: it rests.

        It has moved `moves` times before.
        """


@final
@dataclass(frozen=True)
class Exponential(Averaging):
    """After every step 1 / 2**shift of the way, as the teacher of mean teacher."""

    shift: int = 7

    def __post_init__(self):
        if not 1 <= self.shift <= 15:
            raise ValueError(f"shift must be 1 to 15, not {self.shift}")

    def share(self, step, steps, moves):
        return 1, min(self.shift, (moves + 1).bit_length())


@final
@dataclass(frozen=True)
class Equal(Averaging):
    """From `first_share` of the steps on every student of `every` steps counts alike.

    The n-th moves the average 1 / n of the way, rounded to 15 fractional bits.
    """

    first_share: float = 0.75
    every: int = 10

    def __post_init__(self):
        if not 0 <= self.first_share < 1:
            raise ValueError(
                f"first_share must be at least 0 and less than 1, not {self.first_share}"
            )
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every must be a whole number of at least 1, not {self.every}")

    def share(self, step, steps, moves):
        first = round(self.first_share * steps)
        if step <= first or (step - first) % self.every:
            return None
        count = moves + 1
        return (2 * (1 << SHARE_BITS) + count) // (2 * count), SHARE_BITS


@final
@dataclass(frozen=True)
class WeightAverage(Algorithm):
    """Cross-entropy on the labelled images; the average is what is evaluated beside the student.

    It has no forward pass of its own in training: it is run with the exponents and the running
    statistics of the student, or with statistics ADAPTED to the images (as SWA does in a pass over
    its training images). The schedule must store it in every step.
    """

    averaging: Averaging = Exponential()
    optimizer: Sgd = Sgd()

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.averaging, Averaging):
            raise ValueError(
                f"averaging must be an Averaging such as Equal(), not {self.averaging!r}"
            )

    def largest_passes(self, labelled, frames):
        return Passes(0, labelled, labelled, ema=True)

    def start(self, network, numerics, turn, steps, seed, deployed=None):
        if turn(1).blend != Blend(1, True):
            raise ValueError(
                "schedule of a WeightAverage must store the average in every step, as SeparateEma "
                "does"
            )
        student = new_student(network, numerics, seed, deployed)
        rule = Supervised(
            evaluation_statistics=self.evaluation_statistics, optimizer=self.optimizer
        )
        learner = SupervisedLearner(rule, student, turn, steps, seed)
        return WeightAverageLearner(self, learner, Average(student, seed))


@final
class WeightAverageLearner(Learner):
    """A supervised learner, and the average of its student."""

    def __init__(self, rule: WeightAverage, learner: SupervisedLearner, average: Average):
        self.rule, self.learner, self.average = rule, learner, average
        self.student = learner.student
        self.tally = Tally()  # of the average

    def step(self, batch):
        learner = self.learner
        outcome = learner.step(batch)
        share = self.rule.averaging.share(learner.done, learner.steps, self.average.moves)
        if share:
            frozen = outcome.passes.frozen
            self.average.move(*share, True, learner.done, self.tally, frozen)
        return replace(
            outcome,
            passes=replace(outcome.passes, ema=share is not None),
            counters={**outcome.counters, "teacher": self.tally.take()},
        )

    def correct(self, images, labels):
        test = images, labels, self.rule.evaluation_statistics
        average = count_correct(self.student.executor, self.average.seen, *test)
        return {**self.learner.correct(images, labels), "teacher": average}

    def trained(self):
        return Deployed.of(self.student.executor, self.average.masters())
