"""Supervised training of the student on the labelled images alone."""

from dataclasses import dataclass

import numpy as np

from accsim.kernels import loss
from accsim.kernels.fixed_point import limit, narrowing_shift, random_key
from accsim.passes import Passes
from accsim.training import parameters
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
from accsim.training.fixed_network import FixedNetwork
from accsim.training.parameters import Map

STUDENT = 1  # labels of random keys
ROUND_ERROR = 2
UPDATE = 3


@dataclass(frozen=True)
class Supervised(Algorithm):
    """Cross-entropy on the labelled images; no teacher, the unlabelled frames are not looked at."""

    optimizer: Sgd = Sgd()

    def start(self, network, numerics, blend, steps, seed):
        return SupervisedLearner(self, new_student(network, numerics, seed), steps, seed)


class SupervisedLearner(Learner):
    """The student and its progress."""

    def __init__(self, rule: Supervised, student: Student, steps: int, seed: int):
        self.rule, self.student, self.steps, self.seed = rule, student, steps, seed
        self.done = 0

    def step(self, batch):
        self.done += 1
        student = self.student
        images = Map(batch.labelled, batch.exponent)
        record = student.executor.forward(student.parameters, images)
        probabilities = loss.softmax(record.logits, loss.EXP2)
        wide = loss.cross_entropy_error(probabilities, batch.labels)
        rate = learn(
            self.rule.optimizer, student, record, wide, None, self.done, self.steps, self.seed
        )
        samples = len(batch.labels)
        return Outcome(
            passes=Passes(0, samples, samples, ema=False),
            learning_rate=rate,
            labelled_correct=int((top_class(record.logits) == batch.labels).sum()),
            labelled_samples=samples,
            taught=np.zeros(0, bool),
            counters={"student": student.executor.tally.take()},
        )

    def correct(self, images, labels):
        student = self.student
        statistics = self.rule.evaluation_statistics
        return {
            "student": count_correct(
                student.executor, student.parameters, images, labels, statistics
            )
        }


def new_student(network, numerics, seed) -> Student:
    """A student at its random start."""
    key = random_key(seed, STUDENT)
    start = parameters.initial(network, numerics, key)
    return Student(network, numerics, start, FixedNetwork(network, numerics, key))


def learn(optimizer, student, record, wide, rows, step, steps, seed):
    """Backward pass and update from the wide error of the logits.

    Parameters
    ----------
    wide : int64[n, classes], 30 fractional bits, of the samples with backward work
    rows : their places in the batch, or None for all

    Returns
    -------
    the learning rate, a real number
    """
    numerics = student.numerics
    key = chosen(numerics.error_rounding, random_key(seed, ROUND_ERROR, step))
    error = round_error(wide, numerics.error_bits, key)
    gradients = student.executor.backward(record, error, rows, step)
    rate = optimizer.rate(step, steps)
    labels = (seed, UPDATE, step)
    optimizer.apply(student, gradients, rate, labels)
    return rate / (1 << 24)


def round_error(wide: np.ndarray, bits: int, key: int) -> Map:
    """Narrow the error of the logits to its own current exponent, rounded as `key` says."""
    shift = narrowing_shift(int(np.abs(wide).max()), bits)
    values = loss.round_error(wide, shift, key, limit(bits))
    return Map(values.reshape(len(wide), 1, 1, -1), shift - loss.ERROR_BITS)
