"""What the student is asked to agree on with the labels of its frames: one loss a class.

Each is the error of the student's logits, a mean over all frames of the batch: those that the
confidence threshold rejects count as 0. Labels are logits, taken as given: no gradient goes through
them. What the student is compared with, the targets, is linear: targets of blended frames are
blended as the frames are.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np

from accsim.kernels import loss
from accsim.training.base import top_class

TEMPERATURE_BITS = 8  # fractional bits of 1 / temperature


class Consistency(ABC):
    """A loss between the student's logits and the labels."""

    @abstractmethod
    def targets(self, labels: np.ndarray) -> np.ndarray:
        """What the labels, logits of 12 fractional bits, ask for: int32[N, C] both."""

    @abstractmethod
    def error(
        self,
        student: np.ndarray,
        targets: np.ndarray,
        accepted: np.ndarray,
        weight: int,
        batch: int,
    ) -> np.ndarray:
        """Error of the student's logits: int64[N, C], 30 fractional bits.

        Parameters
        ----------
        student : int32[N, C], logits, 12 fractional bits
        targets : int32[N, C], see `targets`
        accepted : bool[N]
        weight : of this loss beside the cross-entropy, 16 fractional bits
        batch : samples of the whole batch, of which these N are a micro-batch
        """


@final
@dataclass(frozen=True)
class LogitDistance(Consistency):
    """Squared distance of logits, mean over the classes: needs no softmax of the student."""

    def targets(self, labels):
        return labels

    def error(self, student, targets, accepted, weight, batch):
        return loss.consistency_error(student, targets, accepted, weight, batch)


@final
@dataclass(frozen=True)
class ProbabilityDistance(Consistency):
    """Squared distance of probabilities, mean over the classes; takes weights of 50 to 100."""

    def targets(self, labels):
        return loss.softmax(labels, loss.EXP2)

    def error(self, student, targets, accepted, weight, batch):
        probabilities = loss.softmax(student, loss.EXP2)
        return loss.probability_error(probabilities, targets, accepted, weight, batch)


@final
@dataclass(frozen=True)
class Divergence(Consistency):
    """Kullback-Leibler divergence of the student from the labels, these sharpened.

    Their logits are divided by `temperature`, which is 1 for none and near 0 for hard labels; the
    confidence is that before it.
    """

    temperature: float = 1.0

    def __post_init__(self):
        if not 0.01 <= self.temperature <= 16:
            raise ValueError(f"temperature must be 0.01 to 16, not {self.temperature}")

    def targets(self, labels):
        factor = round((1 << TEMPERATURE_BITS) / self.temperature)
        return loss.softmax(loss.scaled(labels, factor), loss.EXP2)

    def error(self, student, targets, accepted, weight, batch):
        probabilities = loss.softmax(student, loss.EXP2)
        return loss.divergence_error(probabilities, targets, accepted, weight, batch)


@final
@dataclass(frozen=True)
class PseudoLabel(Consistency):
    """Cross-entropy with the labels' most probable class."""

    def targets(self, labels):
        targets = np.zeros(labels.shape, np.int32)
        targets[np.arange(len(labels)), top_class(labels)] = 1 << loss.PROBABILITY_BITS
        return targets

    def error(self, student, targets, accepted, weight, batch):
        probabilities = loss.softmax(student, loss.EXP2)
        return loss.divergence_error(probabilities, targets, accepted, weight, batch)
