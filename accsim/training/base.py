"""What every learning rule is: a start, a step, an evaluation; and the optimiser's settings."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from accsim.data.stream import Batch, Stream
from accsim.kernels import update
from accsim.kernels.fixed_point import limit, random_key
from accsim.network import Network
from accsim.numerics import Numerics, Rounding
from accsim.passes import Passes, Turn
from accsim.training.counters import Counters
from accsim.training.fixed_network import FixedNetwork, Statistics
from accsim.training.parameters import Map, Momentum, Stored, layer_of

if TYPE_CHECKING:
    from accsim.training.deployed import Deployed

EVALUATION_BATCH = 500  # images at once; has no influence on the result
ADAPTATION_IMAGES = 2000  # that adapted statistics are taken from, at most
MOST_RATE = 16  # what a learning rate is less than


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum; the rate falls linearly, as a rule to zero.

    The settings are decimal numbers; the update unit sees them as integers.

    `rates` are layer by layer: the first pattern (as of file names) that a layer's name matches
    tells its share of the learning rate, where none does it is 1. Share 0 is frozen: the parameters
    and what the teacher keeps of them stay as they are, and no work is done for their gradients;
    a batch norm goes on to normalise by its batches, whose statistics are of the images and not
    learned. Sources: Howard and Ruder, "Universal language model fine-tuning", ACL 2018, section
    3.2 (discriminative fine-tuning); Li et al., "Revisiting Batch Normalization for Practical
    Domain Adaptation", 2016 (weights are kept, statistics follow the domain).
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of the PE array's weights; scales, shifts and biases have none
    last_share: float = 0.0  # of the learning rate that the end of the run tends to; 1: constant
    rates: tuple[tuple[str, float], ...] = ()  # (pattern of layer names, share of the rate)

    def __post_init__(self):
        for name, high in (("learning_rate", MOST_RATE), ("momentum", 1), ("weight_decay", 1)):
            value = getattr(self, name)
            if not 0 <= value < high:
                raise ValueError(f"{name} must be at least 0 and less than {high}, not {value}")
        if not 0 <= self.last_share <= 1:
            raise ValueError(f"last_share must be 0 to 1, not {self.last_share}")
        for pattern, share in self.rates:
            if share < 0 or self.learning_rate * share >= MOST_RATE:
                raise ValueError(
                    f"rates of {pattern!r} must be a share from 0 that makes a learning rate of "
                    f"less than {MOST_RATE}, not {share}"
                )

    def share(self, layer: str) -> float:
        """The share of the learning rate that a layer has; 0: it is frozen."""
        return next((share for at, share in self.rates if fnmatchcase(layer, at)), 1.0)

    def frozen(self, network: Network) -> tuple[str, ...]:
        """The layers with parameters that do not train.

        Raises ValueError where a pattern of `rates` matches no such layer, and where none trains.
        """
        for pattern, _ in self.rates:
            network.trainable(pattern, "rates")
        names = network.trainable()
        frozen = tuple(name for name in names if not self.share(name))
        if len(frozen) == len(names):
            raise ValueError("rates must leave a layer that trains, but all of them are 0")
        return frozen

    def rate(self, step: int, steps: int) -> int:
        """Learning rate of `step` (from 1) of `steps`, 24 fractional bits."""
        whole = round(self.learning_rate * (1 << update.RATE_BITS))
        last = round(self.learning_rate * self.last_share * (1 << update.RATE_BITS))
        return last + (whole - last) * (steps - step + 1) // steps

    def apply(self, student: "Student", gradients, rate: int, labels: tuple[int, ...]) -> None:
        """One step for every parameter, in place; `labels` make random keys."""
        numerics = student.numerics
        decay_share = round(self.weight_decay * (1 << update.DECAY_BITS))
        extra_bits = update.MOMENTUM_EXTRA_BITS + numerics.momentum_bits - numerics.master_bits
        factor = round(self.momentum * (1 << update.MOMENTUM_BITS))
        for index, (name, (gradient, exponent)) in enumerate(gradients.items()):
            stored, momentum = student.parameters[name], student.momenta[name]
            key = random_key(random_key(*labels), index)
            own_rate = int(rate * Fraction(self.share(layer_of(name))))
            decay = decay_share * own_rate >> update.RATE_BITS
            seen = update.momentum_sgd(
                stored.values.reshape(-1),
                momentum.values,
                gradient.reshape(-1),
                exponent + stored.frac_bits,
                own_rate,
                factor,
                decay if name.endswith(".weight") else 0,
                limit(numerics.master_bits),
                limit(numerics.momentum_bits),
                chosen(numerics.master_rounding, key),
                chosen(numerics.momentum_rounding, key),
                student.executor.registers,
                stored.residual,
                momentum.residual,
                extra_bits,
            )
            stored.largest = seen.largest
            student.executor.tally.add_stored("weights", name, seen)


def chosen(rounding: Rounding, key: int) -> int:
    """What a kernel takes for `rounding`: a random key where it draws, else its code."""
    return key if rounding is Rounding.STOCHASTIC else int(rounding)


@dataclass(frozen=True)
class Check:
    """What a guard saw of the network that learns, on held-out images."""

    passes: Passes  # that it took
    right: int
    least: int  # that must be right

    @property
    def failed(self) -> bool:
        """The networks are the deployed one again."""
        return self.right < self.least


@dataclass(frozen=True)
class Outcome:
    """What one step did: the passes that ran (for the clock) and telemetry (for the log)."""

    passes: Passes
    learning_rate: float
    labelled_correct: int
    labelled_samples: int
    labelled_error: float  # length of what the labelled images' error is at the logits
    frame_error: float  # the same of the frames': 0 where they teach nothing
    taught: np.ndarray  # bool[N] of the unlabelled samples: the teacher was sure of it
    classes: np.ndarray  # int64[N] of them: as which it labelled each
    skipped_frames: int  # of the batch, that the schedule left unlabelled
    counters: dict[str, Counters]  # of the student and, if there is one, of the teacher
    check: Check | None = None  # after the step, by a guard
    phase: str | None = None  # of a rule that has several, that the step is in

    @property
    def accepted(self) -> int:
        """Unlabelled samples whose teacher was sure."""
        return int(self.taught.sum())

    def pseudo_labels(self, classes: int) -> np.ndarray:
        """Accepted samples by the class they were labelled as: int64[classes]."""
        return np.bincount(self.classes[self.taught], minlength=classes)

    @property
    def unlabelled_samples(self) -> int:
        """Unlabelled samples that the learner looked at."""
        return len(self.taught)

    @property
    def teacher_changed(self) -> float:
        """Share of the teacher's stored words that the step moved."""
        teacher = self.counters.get("teacher")
        return teacher.share("moved", "teacher") if teacher else 0.0

    @property
    def unmoved(self) -> float:
        """Share of the student's stored words whose update rounded to nothing."""
        return self.counters["student"].share("unmoved", "weights")

    @property
    def underflowed(self) -> float:
        """Share of the student's stored words whose gradient lies below the momentum."""
        return self.counters["student"].share("underflowed", "weights")

    @property
    def saturated(self) -> int:
        """Codes clipped in maps and stored words, and sums beyond the accumulator."""
        return sum(
            counters.total("saturated") + counters.total("overflowed")
            for counters in self.counters.values()
        )


@dataclass
class Student:
    """The network that trains: its parameters, their momenta and its executor."""

    network: Network
    numerics: Numerics
    parameters: dict[str, Stored]
    executor: FixedNetwork
    momenta: dict[str, Momentum] = field(init=False)

    def __post_init__(self):
        self.momenta = {
            name: Momentum.zero(stored.values.size, self.numerics)
            for name, stored in self.parameters.items()
        }


class Learner(ABC):
    """A running experiment's values."""

    @abstractmethod
    def step(self, batch: Batch) -> Outcome:
        """Learn from one batch."""

    @abstractmethod
    def correct(self, images: Map, labels: np.ndarray) -> dict[str, int]:
        """Correctly classified images by network: 'student' and, if there is one, 'teacher'."""

    def trained(self) -> "Deployed | None":
        """The teacher, or the student where there is none, to deploy; None: not in integers."""
        return None


class Checkable(Learner):
    """A learner that a guard can look at and start again."""

    done: int  # steps

    @abstractmethod
    def right(self, images: Map, labels: np.ndarray) -> int:
        """Images that the network to deploy tells right, normalised by their own statistics."""

    @abstractmethod
    def go_on_from(self, other) -> None:
        """Count steps and updates on from those of `other`, of the same class."""


@dataclass(frozen=True, kw_only=True)
class Algorithm(ABC):
    """A learning rule and its settings; makes a `Learner`."""

    evaluation_statistics: Statistics = Statistics.RUNNING  # or ADAPTED to the test images

    def __post_init__(self):
        if self.evaluation_statistics not in (Statistics.RUNNING, Statistics.ADAPTED):
            raise ValueError(
                "evaluation_statistics must be RUNNING or ADAPTED, "
                f"not {self.evaluation_statistics}: the batch of an evaluation is arbitrary"
            )

    @property
    @abstractmethod
    def optimizer(self) -> Sgd:
        """How the student moves, and which of its layers."""

    def require(self, stream: Stream) -> None:  # noqa: B027
        """Raise ValueError for a stream that this rule cannot learn from."""

    def looks(self, step: int, steps: int) -> bool:
        """Whether `step` of `steps`, from 1, takes frames from the stream."""
        return True

    @abstractmethod
    def largest_passes(self, labelled: int, frames: int) -> Passes:
        """A step of so many images whose frames are all accepted, in one micro-batch."""

    @abstractmethod
    def start(
        self,
        network: Network,
        numerics: Numerics,
        turn: Callable[[int], Turn],
        steps: int,
        seed: int,
        deployed: "Deployed | None" = None,
    ) -> Learner:
        """A learner at its random start, or at a network that is deployed already.

        `turn` is what the schedule asks of every step.
        """


def count_correct(
    executor: FixedNetwork,
    parameters: dict[str, Stored],
    images: Map,
    labels: np.ndarray,
    statistics: Statistics,
) -> int:
    """Images whose largest logit is their label's, with fixed exponents.

    ADAPTED statistics are those of the first images, without their labels.
    """
    if statistics is Statistics.ADAPTED:
        first_images = images.values[: min(ADAPTATION_IMAGES, executor.most_adapted)]
        executor.adapt(parameters, Map(first_images, images.exponent))
    total = 0
    for first in range(0, len(labels), EVALUATION_BATCH):
        part = slice(first, first + EVALUATION_BATCH)
        some = Map(images.values[part], images.exponent)
        record = executor.forward(parameters, some, statistics, training=False)
        total += int((top_class(record.logits) == labels[part]).sum())
    return total


def top_class(logits: np.ndarray) -> np.ndarray:
    """Class of the largest logit of every row; the lower class wins a tie."""
    return logits.argmax(axis=1)
