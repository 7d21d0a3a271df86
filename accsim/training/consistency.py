"""What the student is asked to agree on with the labels of its frames: one loss a class.

Each is the error of the student's logits, a mean over all frames of the batch: those that the
confidence threshold rejects count as 0. Labels are logits, taken as given: no gradient goes through
them.
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
    def error(
        self, student: np.ndarray, labels: np.ndarray, accepted: np.ndarray, weight: int, batch: int
    ) -> np.ndarray:
        """Error of the student's logits: int64[N, C], 30 fractional bits.

        Parameters
        ----------
        student, labels : int32[N, C], logits, 12 fractional bits
        accepted : bool[N]
        weight : of this loss beside the cross-entropy, 16 fractional bits
        batch : samples of the whole batch, of which these N are a micro-batch
        """


@final
@dataclass(frozen=True)
class LogitDistance(Consistency):
    """Squared distance of logits, mean over the classes: needs no softmax of the student."""

    def error(self, student, labels, accepted, weight, batch):
        return loss.consistency_error(student, labels, accepted, weight, batch)


@final
@dataclass(frozen=True)
class ProbabilityDistance(Consistency):
    """Squared distance of probabilities, mean over the classes; takes weights of 50 to 100."""

    def error(self, student, labels, accepted, weight, batch):
        probabilities, targets = _softmax(student), _softmax(labels)
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

    def error(self, student, labels, accepted, weight, batch):
        factor = round((1 << TEMPERATURE_BITS) / self.temperature)
        targets = _softmax(loss.scaled(labels, factor))
        return loss.divergence_error(_softmax(student), targets, accepted, weight, batch)


@final
@dataclass(frozen=True)
class PseudoLabel(Consistency):
    """Cross-entropy with the labels' most probable class."""

    def error(self, student, labels, accepted, weight, batch):
        targets = np.zeros(labels.shape, np.int32)
        targets[np.arange(len(labels)), top_class(labels)] = 1 << loss.PROBABILITY_BITS
        return loss.divergence_error(_softmax(student), targets, accepted, weight, batch)


def _softmax(logits: np.ndarray) -> np.ndarray:
    return loss.softmax(logits, loss.EXP2)
