"""A floor under what is learned on: a network that falls below is the deployed one again."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import final

from accsim.data.stream import Batch
from accsim.passes import Passes
from accsim.training.base import Algorithm, Check, Learner, top_class
from accsim.training.fixed_network import Statistics
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map
from accsim.training.self_taught import SelfTaught
from accsim.training.semi_supervised import SemiSupervisedLearner
from accsim.training.virtual_adversarial import VirtualAdversarial

MOST_PARTS = 10_000  # denominator of `margin`: 0.02 is a fiftieth, not the float beside it


@final
@dataclass(frozen=True, kw_only=True)
class Guarded(Algorithm):
    """`rule`, checked on the stream's held-out labelled images after every `every` steps.

    Where the network that it would deploy gets more than `margin` of them less right than the one
    that was deployed, student and teacher are that one again, momenta are zero and labels that
    wait are dropped. Both are normalised by the statistics of the held-out images themselves, as a
    teacher is by those of the frames: the domain of the stream is no reason to roll back.

    The forward pass of a check is charged to the machine; the deployed network's own is made at the
    factory. Its words lie in DDR or flash beside the others: that room and their copy are not.
    """

    rule: MeanTeacher | SelfTaught | VirtualAdversarial = field(default_factory=MeanTeacher)
    every: int = 50  # steps
    margin: float = 0.02  # of accuracy

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.rule, MeanTeacher | SelfTaught | VirtualAdversarial):
            raise ValueError(
                f"rule must be a MeanTeacher, SelfTaught or VirtualAdversarial, not {self.rule!r}"
            )
        if self.evaluation_statistics is not Statistics.RUNNING:
            raise ValueError(
                "evaluation_statistics of Guarded must be left to its rule, not "
                f"{self.evaluation_statistics}"
            )
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every must be a whole number of at least 1, not {self.every}")
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin must be 0 to 1, not {self.margin}")

    @property
    def optimizer(self):
        return self.rule.optimizer

    def largest_passes(self, labelled, frames):
        return self.rule.largest_passes(labelled, frames)

    def start(self, network, numerics, turn, steps, seed, deployed=None):
        if deployed is None:
            raise ValueError("start of a workload whose rule is Guarded must be a deployed network")
        return GuardedLearner(self, (network, numerics, turn, steps, seed, deployed))


@final
class GuardedLearner(Learner):
    """A learner, and the network that it falls back to."""

    def __init__(self, guard: Guarded, start: tuple):
        self.guard, self.how = guard, start  # what the rule starts from
        self.learner: SemiSupervisedLearner = guard.rule.start(*start)
        self.least: int | None = None  # held-out images that must be right; None: not counted yet

    def step(self, batch):
        outcome = self.learner.step(batch)
        if self.learner.done % self.guard.every:
            return outcome
        check = self._check(batch, outcome.passes)
        if check.failed:
            fallen, self.learner = self.learner, self.guard.rule.start(*self.how)
            self.learner.done, self.learner.updates = fallen.done, fallen.updates
        return replace(outcome, check=check)

    def correct(self, images, labels):
        return self.learner.correct(images, labels)

    def trained(self):
        return self.learner.trained()

    def _check(self, batch: Batch, ran: Passes) -> Check:
        images, labels = batch.held_out, batch.held_out_labels
        assert images is not None  # the workload saw to it

        def right(learner: SemiSupervisedLearner) -> int:
            network = learner.trained()
            record = network.executor(0).forward(
                network.parameters, Map(images, batch.exponent), Statistics.BATCH, training=False
            )
            return int((top_class(record.logits) == labels).sum())

        if self.least is None:
            margin = Fraction(self.guard.margin).limit_denominator(MOST_PARTS) * len(images)
            self.least = max(-int(margin // 1) + right(self.guard.rule.start(*self.how)), 0)
        forward = len(images), 0, 0
        passes = Passes(*forward, ema=False, own_labels=ran.own_labels, frozen=ran.frozen)
        return Check(passes, right(self.learner), self.least)
