"""A floor under what is learned on: a network that falls below is the deployed one again."""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import final

from accsim.data.stream import Batch
from accsim.passes import Passes
from accsim.training.base import Algorithm, Check, Checkable, Learner
from accsim.training.fixed_network import Statistics
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map
from accsim.training.self_taught import SelfTaught
from accsim.training.virtual_adversarial import VirtualAdversarial

MOST_PARTS = 10_000  # denominator of `margin`: 0.02 is a fiftieth, not the float beside it


@final
@dataclass(frozen=True, kw_only=True)
class Guarded(Algorithm):
    """`rule`, checked on the stream's held-out labelled images after every `every` steps.

    Where the network that it would deploy gets more than `margin` of them less right than the one
    that was deployed, student and teacher are that one again, momenta are zero and labels that
    wait are dropped. Both are normalised by the statistics of the held-out images themselves, as a
    teacher is by those of the frames: the domain of the stream is no reason to roll back. What is
    deployed by running statistics may fall lower: they follow a change of domain over many steps,
    which no check sees. With `evaluation_statistics` of the rule ADAPTED it is what is checked.

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
        return self.around(self.rule, network, numerics, turn, steps, seed, deployed)

    def around(self, rule: Algorithm, *start) -> "GuardedLearner":
        """Guard `rule`, this one's own or that in float, from `start`; see `Algorithm.start`."""
        if start[-1] is None:
            raise ValueError("start of a workload whose rule is Guarded must be a deployed network")
        return GuardedLearner(self, rule, start)


@final
class GuardedLearner(Learner):
    """A learner, and the network that it falls back to."""

    def __init__(self, guard: Guarded, rule: Algorithm, start: tuple):
        self.guard, self.rule, self.how = guard, rule, start  # what the rule starts from
        self.learner = self._started()
        self.least: int | None = None  # held-out images that must be right; None: not counted yet

    def step(self, batch):
        outcome = self.learner.step(batch)
        if self.learner.done % self.guard.every:
            return outcome
        check = self._check(batch, outcome.passes)
        if check.failed:
            fallen, self.learner = self.learner, self._started()
            self.learner.go_on_from(fallen)
        return replace(outcome, check=check)

    def correct(self, images, labels):
        return self.learner.correct(images, labels)

    def trained(self):
        return self.learner.trained()

    def _started(self) -> Checkable:
        learner = self.rule.start(*self.how)
        assert isinstance(learner, Checkable)
        return learner

    def _check(self, batch: Batch, ran: Passes) -> Check:
        assert batch.held_out is not None  # the workload saw to it
        assert batch.held_out_labels is not None
        held_out, count = Map(batch.held_out, batch.exponent), len(batch.held_out)
        if self.least is None:
            margin = Fraction(self.guard.margin).limit_denominator(MOST_PARTS) * count
            deployed = self._started().right(held_out, batch.held_out_labels)
            self.least = max(deployed - int(margin // 1), 0)
        forward = count, 0, 0
        passes = Passes(*forward, ema=False, own_labels=ran.own_labels, frozen=ran.frozen)
        return Check(passes, self.learner.right(held_out, batch.held_out_labels), self.least)
