"""Supervised training of the student on the labelled images alone."""

from dataclasses import dataclass, field

import numpy as np

from accsim.kernels import loss, update
from accsim.kernels.fixed_point import limit, narrowing_shift, random_key
from accsim.passes import Passes, cuts
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
from accsim.training.deployed import Deployed
from accsim.training.fixed_network import FixedNetwork, Record
from accsim.training.parameters import Map

STUDENT = 1  # labels of random keys
ROUND_ERROR = 2
UPDATE = 3
SUM_BITS = 32  # of the words in which the gradients of micro-batches are summed
REGISTER_BITS = 63  # ... of those of scale, shift and bias where errors have more than 8 bits


@dataclass(frozen=True)
class Supervised(Algorithm):
    """Cross-entropy on the labelled images; no teacher, the unlabelled frames are not looked at."""

    optimizer: Sgd = Sgd()

    def largest_passes(self, labelled, frames):
        return Passes(0, labelled, labelled, ema=False)

    def start(self, network, numerics, turn, steps, seed, deployed=None):
        student = new_student(network, numerics, seed, deployed)
        return SupervisedLearner(self, student, turn, steps, seed)


class SupervisedLearner(Learner):
    """The student and its progress."""

    def __init__(self, rule: Supervised, student: Student, turn, steps: int, seed: int):
        self.rule, self.student, self.turn = rule, student, turn
        self.steps, self.seed, self.done = steps, seed, 0

    def step(self, batch):
        self.done += 1
        student, samples = self.student, len(batch.labels)
        descent = Descent(self.rule.optimizer, student, self.done, self.steps, self.seed)
        correct, errors = 0, []
        for part in cuts(samples, self.turn(self.done).micro_batches):
            labels = batch.labels[part]
            record = student.executor.forward(
                student.parameters, Map(batch.labelled[part], batch.exponent)
            )
            probabilities = loss.softmax(record.logits, loss.EXP2)
            errors.append(loss.cross_entropy_error(probabilities, labels, samples))
            descent.add(student.executor, record, errors[-1], None)
            correct += int((top_class(record.logits) == labels).sum())
        rate = descent.update()
        return Outcome(
            passes=Passes(
                0,
                samples,
                samples,
                ema=False,
                micro_batches=descent.micro_batches,
                frozen=descent.frozen,
            ),
            learning_rate=rate,
            labelled_correct=correct,
            labelled_samples=samples,
            labelled_error=loss.length(*errors),
            frame_error=0.0,
            taught=np.zeros(0, bool),
            classes=np.zeros(0, np.int64),
            skipped_frames=0,
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

    def trained(self):
        return Deployed.of(self.student.executor, self.student.parameters)


def new_student(network, numerics, seed, deployed: Deployed | None = None) -> Student:
    """A student at its random start, or where the deployed network is."""
    key = random_key(seed, STUDENT)
    if deployed:
        return Student(network, numerics, deployed.words(), deployed.executor(key))
    start = parameters.initial(network, numerics, key)
    return Student(network, numerics, start, FixedNetwork(network, numerics, key))


@dataclass
class Descent:
    """One step down: the gradients of its micro-batches, summed exactly, and one update."""

    optimizer: Sgd
    student: Student
    step: int  # from 1
    steps: int  # of the whole run
    seed: int
    gradients: dict[str, tuple[np.ndarray, int]] = field(default_factory=dict)
    parts: list[tuple[int, int]] = field(default_factory=list)

    def add(
        self, executor: FixedNetwork, record: Record, wide: np.ndarray, rows: np.ndarray | None
    ) -> None:
        """Backward pass of one micro-batch, and its gradients to the others'.

        Parameters
        ----------
        executor : that ran its forward pass
        record : of that pass
        wide : int64[n, classes], 30 fractional bits, error of the samples with backward work
        rows : their places in the micro-batch, or None for all
        """
        numerics = self.student.numerics
        label = self.step + self.steps * len(self.parts)  # of random keys: no other pass has it
        self.parts.append((len(record.images.values), len(wide)))
        if not len(wide):
            return
        key = chosen(numerics.error_rounding, random_key(self.seed, ROUND_ERROR, label))
        error = round_error(wide, numerics.error_bits, key)
        found_here = executor.backward(record, error, rows, label, self.frozen)
        for name, found in found_here.items():
            if name in self.gradients:
                found = self._sum(name, *found)
            self.gradients[name] = found

    def _sum(self, name: str, gradient: np.ndarray, exponent: int) -> tuple[np.ndarray, int]:
        """The sum of all micro-batches so far, in words of their own size; what is clipped counts.

        Gradients of scale, shift and bias wait in registers, those of weights in `SUM_BITS`.
        """
        total, total_exponent = self.gradients[name]
        most = limit(SUM_BITS if total.dtype == np.int32 else REGISTER_BITS)
        common, saturated = update.accumulate(
            total.reshape(-1), total_exponent, gradient.reshape(-1), exponent, most
        )
        row = f"{name.removesuffix('.weight')}.gradient"
        self.student.executor.tally.add("gradient", row, total.size, saturated)
        return total, common

    def update(self) -> float:
        """Move the student; the learning rate, a real number."""
        rate = self.optimizer.rate(self.step, self.steps)
        self.optimizer.apply(self.student, self.gradients, rate, (self.seed, UPDATE, self.step))
        return rate / (1 << update.RATE_BITS)

    @property
    def frozen(self) -> tuple[str, ...]:
        """The layers that do not train."""
        return self.optimizer.frozen(self.student.network)

    @property
    def micro_batches(self) -> tuple[tuple[int, int], ...]:
        """For `Passes`: samples forward and backward of each, if there are several."""
        return tuple(self.parts) if len(self.parts) > 1 else ()


def round_error(wide: np.ndarray, bits: int, key: int) -> Map:
    """Narrow the error of the logits to its own current exponent, rounded as `key` says."""
    shift = narrowing_shift(int(np.abs(wide).max()), bits)
    values = loss.round_error(wide, shift, key, limit(bits))
    return Map(values.reshape(len(wide), 1, 1, -1), shift - loss.ERROR_BITS)
