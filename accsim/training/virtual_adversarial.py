"""Virtual adversarial training: the student agrees with itself where a small step hurts most.

Source: Miyato, Maeda, Koyama and Ishii, "Virtual adversarial training: a regularization method for
supervised and semi-supervised learning", TPAMI 2019.
"""

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from accsim.kernels import loss
from accsim.kernels.fixed_point import random_key
from accsim.kernels.perturb import RADIUS_BITS, moved, random_signs
from accsim.training.base import Student, chosen
from accsim.training.consistency import Consistency, Divergence
from accsim.training.counters import Tally
from accsim.training.parameters import Map
from accsim.training.semi_supervised import WEIGHT_BITS, SemiSupervised, SemiSupervisedLearner
from accsim.training.supervised import new_student, round_error

PROBE, DIRECTION, PROBE_ERROR = 20, 21, 22  # labels of random keys


@final
@dataclass(frozen=True, kw_only=True)
class VirtualAdversarial(SemiSupervised):
    """The labels are the student's own, of clean frames; it learns from frames moved against them.

    A probe moves every frame by `xi` along a direction, which is random at first, runs the student
    on it, and follows the gradient of the consistency down to the images; that is the next
    direction (a power iteration on the second derivative of the divergence, section 3.3 of the
    source). After the last probe frames are moved by `epsilon` instead, and the student learns from
    those. No weight has a gradient in a probe, and a frame whose label is not sure has no backward
    work: it keeps its random direction. So does one whose label a probe did not change.

    Lengths are root mean squares over an image's values, in the deviation to which images are
    normalised, so that one number suits images of any size. The source's radii are 0.14 to 0.24:
    8 to 10 on whitened CIFAR-10 of 3,072 values, 2 on MNIST's 784 of deviation 0.31. Images are
    rounded to a 32nd and clipped to their 8 bits as they are moved. `xi`, which the source lets go
    to 0, must change the logits by more than the rounding of 8-bit maps does: of ConvNet-13 at its
    start their change then has a cosine of 0.87 with that in float64, and of 0.37 at a 32nd.

    Frames go through the student in passes of their own: labels, probes and what is learned are
    normalised by the statistics of the same frames, as in the source's code. The frames are the
    teacher's view; the student's own is not looked at.

    Raises ValueError at the start for a schedule under which labels are not of the step's student.
    """

    own_labels = True
    confidence_threshold: float = 0.0  # all frames count, as in the source
    consistency: Consistency = Divergence()
    consistency_weight: float = 1.0
    separate_domains: bool = True
    epsilon: float = 0.15  # root mean square that frames are moved by, in deviations of the images
    xi: float = 0.25  # the same of a probe
    iterations: int = 1  # probes

    def __post_init__(self):
        super().__post_init__()
        if not self.separate_domains:
            raise ValueError(
                "separate_domains must be True: labels and probes are normalised by the statistics "
                "of the frames alone"
            )
        for name in ("epsilon", "xi"):
            if not 1 / 32 <= getattr(self, name) <= 4:
                raise ValueError(
                    f"{name} must be 1/32, the last bit of an image, to 4, "
                    f"not {getattr(self, name)}"
                )
        if not isinstance(self.iterations, int) or not 1 <= self.iterations <= 16:
            raise ValueError(f"iterations must be a whole number of 1 to 16, not {self.iterations}")

    def largest_passes(self, labelled, frames):
        probes = ((frames, frames),) * self.iterations
        return replace(super().largest_passes(labelled, frames), probes=probes)

    def start(self, network, numerics, turn, steps, seed, deployed=None):
        if turn(1).ahead or turn(1).labels != 1:
            raise ValueError(
                "schedule of virtual adversarial training must have the frames of a step labelled "
                "in that step, for frames are moved against labels of the student as it is"
            )
        student = new_student(network, numerics, seed, deployed)
        return VirtualAdversarialLearner(self, student, turn, steps, seed)


def random_directions(shape: tuple[int, ...], seed: int, step: int) -> np.ndarray:
    """Those of the first probe of `step`: int16 of `shape`, +1 or -1."""
    return random_signs(shape, random_key(seed, DIRECTION, step)).astype(np.int16)


@final
class VirtualAdversarialLearner(SemiSupervisedLearner):
    """The student alone; every probe has exponents of its own, for its errors are far smaller."""

    rule: VirtualAdversarial

    def __init__(self, rule: VirtualAdversarial, student: Student, turn, steps: int, seed: int):
        super().__init__(rule, student, turn, steps, seed)
        self.probes = [
            student.executor.fork(random_key(seed, PROBE, number))
            for number in range(rule.iterations)
        ]
        self.tally = Tally()
        for probe in self.probes:
            probe.tally = self.tally

    def label(self, batch):
        images = Map(batch.teacher_view, batch.exponent)
        return self.of_frames.forward(self.student.parameters, images).logits

    def follow(self, how):
        """It is its own labeller already."""

    def take_counters(self):
        return {"student": self.student.executor.tally.take(), "probe": self.tally.take()}

    def shown(self, batch, lesson):
        frames, sure = batch.teacher_view[: len(lesson)], np.flatnonzero(lesson.sure)
        if not len(sure):
            return replace(lesson, frames=frames), ()
        directions = random_directions(frames.shape, self.seed, self.done)
        for number, probe in enumerate(self.probes):
            images = Map(
                moved(frames, directions, self._radius(batch, self.rule.xi)), batch.exponent
            )
            record = probe.forward(self.student.parameters, images)
            error = self._error(record.logits, lesson, sure, number)
            found = probe.image_error(record, error, sure, self.done).values
            changed = found.reshape(len(sure), -1).any(axis=1)
            directions[sure[changed]] = found[changed]
        frames = moved(frames, directions, self._radius(batch, self.rule.epsilon))
        return replace(lesson, frames=frames), ((len(frames), len(sure)),) * len(self.probes)

    def _radius(self, batch, length: float) -> int:
        """`length` in codes of the batch's images."""
        return round(length * 2 ** (RADIUS_BITS - batch.exponent))

    def _error(self, logits, lesson, sure, number: int) -> Map:
        """Error of the logits of what is `sure`, each of about the same length.

        Its own length says nothing of a frame's direction, and differs by more than 8 bits.
        """
        wide = self.rule.consistency.error(
            logits[sure], lesson.targets[sure], lesson.sure[sure], 1 << WEIGHT_BITS, 1
        )
        numerics, key = self.student.numerics, random_key(self.seed, PROBE_ERROR, self.done, number)
        how = chosen(numerics.error_rounding, key)
        return round_error(loss.aligned(wide), numerics.error_bits, how)
