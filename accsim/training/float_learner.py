"""A learning rule in torch's float32: what the same steps on the same images give without rounding.

Needs the package's extra ``float`` (torch). Not the same bits on every machine.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from fractions import Fraction
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from accsim.data.augmentation import SHARE_BITS
from accsim.data.stream import Batch
from accsim.kernels import update
from accsim.kernels.fixed_point import random_key
from accsim.kernels.loss import PROBABILITY_BITS
from accsim.network import Network
from accsim.numerics import Numerics
from accsim.passes import Passes, Turn
from accsim.training import parameters
from accsim.training.base import (
    ADAPTATION_IMAGES,
    EVALUATION_BATCH,
    Algorithm,
    Checkable,
    Outcome,
    Sgd,
)
from accsim.training.consistency import (
    Consistency,
    Divergence,
    LogitDistance,
    ProbabilityDistance,
    PseudoLabel,
)
from accsim.training.counters import Tally
from accsim.training.deployed import Deployed
from accsim.training.fixed_network import Statistics, most_adapted
from accsim.training.float_twin import FloatTwin
from accsim.training.freed_memory import keep_freed_memory
from accsim.training.guard import Guarded
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map
from accsim.training.self_taught import SelfTaught
from accsim.training.self_training import Learned, SelfTraining, SelfTrainingLearner
from accsim.training.semi_supervised import WEIGHT_BITS, SemiSupervised
from accsim.training.supervised import STUDENT, Supervised
from accsim.training.temporal_ensembling import TemporalEnsembling
from accsim.training.virtual_adversarial import VirtualAdversarial, random_directions
from accsim.training.weight_average import Exponential, WeightAverage


@final
@dataclass(frozen=True)
class InFloat(Algorithm):
    """`rule` in float32, from the same start; its passes are charged as those of the fixed formats.

    A deployed network starts it with its words and running statistics as real numbers. A rule that
    is `Guarded` goes back to it by the same checks, made in float.

    Batch norms differ in one thing from the fixed ones: a sample that is rejected has no error, but
    takes its part in the gradient through the statistics of the batch. The schedule must label in
    every step, for that step, and take the batch whole; what it writes back is its choice.
    """

    rule: (
        Supervised
        | WeightAverage
        | MeanTeacher
        | SelfTaught
        | TemporalEnsembling
        | VirtualAdversarial
        | SelfTraining
        | Guarded
    ) = field(default_factory=MeanTeacher)

    def __post_init__(self):
        super().__post_init__()
        rule = self.rule
        kinds = Supervised | WeightAverage | SemiSupervised | SelfTraining | Guarded
        if not isinstance(rule, kinds):
            raise ValueError(f"rule must be a learning rule such as MeanTeacher(), not {rule!r}")
        if self.evaluation_statistics is not Statistics.RUNNING:
            raise ValueError(
                "evaluation_statistics of InFloat must be left to its rule, not "
                f"{self.evaluation_statistics}"
            )

    @property
    def optimizer(self):
        return self.rule.optimizer

    def require(self, stream):
        self.rule.require(stream)

    def looks(self, step, steps):
        return self.rule.looks(step, steps)

    def largest_passes(self, labelled, frames):
        return self.rule.largest_passes(labelled, frames)

    def start(self, network, numerics, turn, steps, seed, deployed=None):
        if isinstance(self.rule, Guarded):
            inside = InFloat(self.rule.rule)
            return self.rule.around(inside, network, numerics, turn, steps, seed, deployed)
        if any(turn(step) != Turn(turn(step).blend) or not turn(step).blend for step in (1, 2)):
            raise ValueError(
                "schedule of a rule in float must label in every step, and take the batch whole, "
                "as SeparateEma"
            )
        start = network, numerics, turn, steps, seed, deployed
        self.rule.start(*start)  # what it refuses, this does
        keep_freed_memory()
        if isinstance(self.rule, SelfTraining):
            if deployed:
                raise ValueError("start of a workload that trains itself in float must be None")
            return FloatSelfTraining(self.rule, network, numerics, turn, steps, seed)
        student = new_twin(network, numerics, seed, deployed)
        return FloatLearner(self.rule, student, turn, steps, seed, forget=deployed is None)


def new_twin(
    network: Network, numerics: Numerics, seed: int, deployed: Deployed | None = None
) -> FloatTwin:
    """A student where that of fixed point starts."""
    student = FloatTwin(network)
    if deployed:
        student.load(deployed.parameters)
        student.start_from(deployed.running)
    else:
        student.load(parameters.initial(network, numerics, random_key(seed, STUDENT)))
    return student


@final
class FloatLearner(Checkable):
    """Student, its momenta and, where the rule has them, the average or the predictions."""

    def __init__(
        self,
        rule,
        student: FloatTwin,
        turn: Callable[[int], Turn],
        steps: int,
        seed: int,
        forget: bool,
    ):
        self.rule, self.student, self.turn, self.steps = rule, student, turn, steps
        self.seed = seed
        self.forget = forget  # the start, which is random
        self.done = self.moves = 0
        self.frozen = rule.optimizer.frozen(student.network)
        self.momenta = {name: torch.zeros_like(p) for name, p in student.tensors.items()}
        averages = isinstance(rule, MeanTeacher | WeightAverage)
        self.average = deepcopy(student).requires_grad_(False) if averages else None
        self.stored = {  # the average as the schedule last wrote it back
            name: p.detach().clone() for name, p in student.tensors.items() if averages
        }
        remembers = isinstance(rule, TemporalEnsembling)
        self.predictions = FloatPredictions(rule.ensemble_shift) if remembers else None

    def step(self, batch):
        self.done += 1
        rule, labelled = self.rule, len(batch.labels)
        targets, taught, classes = self._lesson(batch)
        rejected = self.is_taught and rule.rejects(taught, self.done, self.steps)
        rate, correct, errors, share = 0.0, 0, torch.zeros(0, 1), None
        probes: tuple[tuple[int, int], ...] = ()
        tallies = {"student": Tally()} | ({"teacher": Tally()} if self.average else {})
        if not rejected:
            frames, probes = self._shown(batch, targets, taught)
            logits, errors, gradients = self._backward(batch, frames, targets, taught)
            correct = int((logits[:labelled].argmax(1).numpy() == batch.labels).sum())
            rate = rule.optimizer.rate(self.done, self.steps) / (1 << update.RATE_BITS)
            descend(self.student, self.momenta, rule.optimizer, gradients, rate)
            if self.predictions:
                self.predictions.move(batch, logits[labelled:], tallies["student"])
            share = self._share()
            if share and self.average:
                self._move(self.average, *share, tallies["teacher"])
        forward, sure = (0, 0) if rejected else (labelled + len(taught), int(taught.sum()))
        apart = self.is_taught and rule.separate_domains and forward > labelled
        return Outcome(
            passes=Passes(
                0 if self.predictions else len(taught) * batch.label_views,
                forward,
                0 if rejected else labelled + sure,
                ema=share is not None,
                own_labels=self.is_taught and rule.own_labels,
                micro_batches=((len(taught), sure), (labelled, labelled)) if apart else (),
                separate_domains=apart,
                frozen=self.frozen,
                queued=-len(taught) if self.predictions else 0,
                predictions=batch.pool if self.predictions else 0,
                probes=probes,
                class_balance=self.is_taught and rule.class_balance > 0 and forward > labelled,
            ),
            learning_rate=rate,
            labelled_correct=correct,
            labelled_samples=0 if rejected else labelled,
            labelled_error=float(errors[:labelled].norm()),
            frame_error=float(errors[labelled:].norm()),
            taught=taught,
            classes=classes,
            skipped_frames=0,
            counters={network: tally.take() for network, tally in tallies.items()},
        )

    def correct(self, images, labels):
        counts = {}
        for name, network in (("student", self.student), ("teacher", self.average)):
            if network is None:
                continue
            if isinstance(self.rule, WeightAverage):
                network.load_statistics(self.student)  # it has no forward pass of its own
            counts[name] = told_right(network, images, labels, self.rule.evaluation_statistics)
        return counts

    def right(self, images, labels):
        network = deepcopy(self.average or self.student).train()
        with torch.no_grad():
            best = network(_real(images.values, images.exponent)).argmax(1)
        return int((best.numpy() == labels).sum())

    def go_on_from(self, other):
        self.done, self.moves = other.done, other.moves

    @property
    def is_taught(self) -> bool:
        """Whether the rule learns from frames."""
        return isinstance(self.rule, SemiSupervised)

    def _lesson(self, batch: Batch) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Targets of the frames, which of them their labeller is sure of, and its classes."""
        rule, nothing = self.rule, np.zeros(0, np.int64)
        if not isinstance(rule, SemiSupervised) or not len(batch.teacher_view):
            return torch.zeros(0, self.student.network.classes), nothing > 0, nothing
        logits = self._labels(batch)
        confidence, classes = torch.softmax(logits, 1).max(1)
        targets, sure = targets_of(rule.consistency, logits), confidence > rule.confidence_threshold
        if self.predictions:
            sure = sure & self.predictions.known(batch)
        if batch.blending:
            partners = torch.from_numpy(batch.blending.partners)
            own = torch.from_numpy(batch.blending.shares)[:, None] / (1 << SHARE_BITS)
            targets = own * targets + (1 - own) * targets[partners]
            sure = sure & sure[partners]
        return targets, sure.numpy(), classes.numpy()

    def _labels(self, batch: Batch) -> Tensor:
        """The labeller's logits, the mean of its views."""
        rule = self.rule
        if self.predictions:
            return self.predictions.recall(batch, self.student.network.classes)
        labeller, view = self.average or self.student, _real(batch.teacher_view, batch.exponent)
        with torch.no_grad():
            logits = labeller.train()(view)
            if isinstance(rule, MeanTeacher) and rule.teacher_statistics is Statistics.RUNNING:
                logits = labeller.eval()(view)  # that of its batch has just moved them on
        return logits.reshape(batch.label_views, -1, logits.shape[1]).mean(0)

    def _shown(
        self, batch: Batch, targets: Tensor, taught: np.ndarray
    ) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
        """The frames as the student learns from them, and the probes that this took.

        Moved frames are not rounded and not clipped.
        """
        rule, student = self.rule, self.student.train()
        moves = isinstance(rule, VirtualAdversarial)
        view = batch.teacher_view if moves else batch.student_view
        frames = _real(view[: len(taught)], batch.exponent)
        if not (moves and taught.any()):
            return frames, ()
        sure = torch.from_numpy(taught)
        kept_apart = {name: buffer.clone() for name, buffer in student.named_buffers()}
        signs = random_directions(tuple(frames.shape), self.seed, self.done)
        direction = torch.from_numpy(signs).to(frames.dtype)
        for _ in range(rule.iterations):
            moved = (frames + rule.xi * _unit(direction)).requires_grad_()
            logits = functional_call(student, kept_apart, (moved,))
            each = consistency_loss(rule.consistency, logits, targets) * sure
            (error,) = torch.autograd.grad(each.sum(), logits, retain_graph=True)
            _, octave = torch.frexp(error.abs().amax(1, keepdim=True))
            (found,) = torch.autograd.grad(logits, moved, torch.ldexp(error, -octave))
            changed = sure & found.flatten(1).any(1)
            direction = torch.where(changed[:, None, None, None], found, direction)
        probes = ((len(taught), int(taught.sum())),) * rule.iterations
        return frames + rule.epsilon * _unit(direction), probes

    def _backward(self, batch: Batch, seen: Tensor, targets: Tensor, taught: np.ndarray):
        """The student's logits, their error, and the gradient of every parameter."""
        labelled, frames = len(batch.labels), len(taught)
        logits = self._logits(_real(batch.labelled, batch.exponent), seen)
        loss = functional.cross_entropy(logits[:labelled], torch.from_numpy(batch.labels))
        if frames:
            each = consistency_loss(self.rule.consistency, logits[labelled:], targets)
            weight = self.rule.weight(self.done, self.steps) / (1 << WEIGHT_BITS)
            sure = torch.from_numpy(taught)
            loss = loss + weight * (each * sure).sum() / frames
            if self.rule.class_balance:
                loss = loss + weight * self.rule.class_balance * imbalance(logits[labelled:], sure)
        errors, *gradients = torch.autograd.grad(loss, [logits, *self.student.parameters()])
        return logits.detach(), errors, gradients

    def _logits(self, labelled: Tensor, seen: Tensor) -> Tensor:
        """Of the labelled images, then of the frames; running statistics are those of the frames.

        Where domains are not separate they are those of all images.
        """
        student = self.student.train()
        if not (len(seen) and self.rule.separate_domains):
            return student(torch.cat([labelled, seen]))
        of_frames = student(seen)
        kept_apart = {name: buffer.clone() for name, buffer in student.named_buffers()}
        return torch.cat([functional_call(student, kept_apart, (labelled,)), of_frames])

    def _share(self) -> tuple[Fraction, bool] | None:
        """How far from the stored average the next is, and if it is stored; None: it rests."""
        match self.rule:
            case WeightAverage(averaging=averaging):
                share = averaging.share(self.done, self.steps, self.moves)
                return share and (Fraction(share[0], 1 << share[1]), True)
            case MeanTeacher(teacher_shift=shift):
                blend = self.turn(self.moves + 1).blend
                assert blend is not None
                if self.forget:
                    _, shift = Exponential(shift).share(self.done, self.steps, self.moves)
                return min(Fraction(blend.numerator, 1 << shift), Fraction(1)), blend.store
        return None

    def _move(self, network: FloatTwin, share: Fraction, store: bool, tally: Tally) -> None:
        """The average, so far nearer to the student."""
        self.moves += 1
        for name, average in network.tensors.items():
            before, stored = average.clone(), self.stored[name]
            average.copy_(stored.lerp(self.student.tensors[name].detach(), float(share)))
            tally.add("teacher", name, average.numel(), moved=int((average != before).sum()))
            if store:
                stored.copy_(average)


class FloatPredictions:
    """Laine and Aila's Z of every frame, and the ``1 - a**t`` that it is divided by."""

    def __init__(self, shift: int):
        self.share = 0.5**shift  # 1 - a
        self.sums = self.weights = torch.zeros(0)

    def known(self, batch: Batch) -> Tensor:
        """Whether the batch's frames have been seen: bool[N]."""
        return self.weights[batch.places, 0] > 0

    def recall(self, batch: Batch, classes: int) -> Tensor:
        """The averaged logits of the batch's frames, 0 of one that has not been seen."""
        if not len(self.sums):
            self.sums, self.weights = torch.zeros(batch.pool, classes), torch.zeros(batch.pool, 1)
        return self.sums[batch.places] / self.weights[batch.places].clamp_min(self.share)

    def move(self, batch: Batch, logits: Tensor, tally: Tally) -> None:
        """Take in what the student says now."""
        moved = int(self.known(batch).sum()) * logits.shape[1]
        for kept, new in ((self.sums, logits), (self.weights, torch.ones(()))):
            kept[batch.places] = kept[batch.places].lerp(new, self.share)
        tally.add("predictions", "predictions", logits.numel(), moved=moved)


def descend(
    student: FloatTwin,
    momenta: dict[str, Tensor],
    optimizer: Sgd,
    gradients: Sequence[Tensor],
    rate: float,
) -> None:
    """One step of SGD with momentum, the rate inside the momentum, in place."""
    shares = student.by_layer(optimizer.share)
    with torch.no_grad():
        for (name, parameter), gradient in zip(student.tensors.items(), gradients, strict=True):
            if not shares[name]:
                continue
            decay = optimizer.weight_decay if name.endswith("_weight") else 0.0
            momentum = momenta[name]
            momentum.mul_(optimizer.momentum).add_(
                gradient + decay * parameter, alpha=rate * shares[name]
            )
            parameter.sub_(momentum)


def told_right(network: FloatTwin, images: Map, labels: np.ndarray, statistics: Statistics) -> int:
    """Images whose largest logit is their label's, with the statistics that the rule wants."""
    if statistics is Statistics.ADAPTED:
        first_images = images.values[: min(ADAPTATION_IMAGES, most_adapted(network.network))]
        network = deepcopy(network)
        network.share = 1.0
        with torch.no_grad():
            network.train()(_real(first_images, images.exponent))
    total = 0
    for first in range(0, len(labels), EVALUATION_BATCH):
        part = slice(first, first + EVALUATION_BATCH)
        with torch.no_grad():
            best = network.eval()(_real(images.values[part], images.exponent)).argmax(1)
        total += int((best.numpy() == labels[part]).sum())
    return total


@final
class FloatSelfTraining(SelfTrainingLearner):
    """The phases of self-training in float32; frames are ranked by scores of as many bits."""

    def __init__(self, rule, network, numerics: Numerics, turn, steps: int, seed: int):
        super().__init__(rule, network, turn, steps, seed, deployed=False)
        self.numerics = numerics
        self.renew(seed)
        self.teacher: FloatTwin | None = None

    def renew(self, seed):
        self.student = new_twin(self.network, self.numerics, seed)
        self.momenta = {name: torch.zeros_like(p) for name, p in self.student.tensors.items()}

    def promote(self):
        self.teacher = deepcopy(self.student)
        return {name: words.numel() for name, words in self.teacher.tensors.items()}

    def label(self, images):
        assert self.teacher is not None
        with torch.no_grad():
            logits = self.teacher.eval()(_real(images.values, images.exponent))
        return (torch.softmax(logits, 1) * (1 << PROBABILITY_BITS)).round().int().numpy()

    def learn(self, lesson, optimizer, stretch, seed):
        logits = self.student.train()(_real(lesson.images, lesson.exponent))
        targets = torch.from_numpy(lesson.targets) / (1 << PROBABILITY_BITS)
        whole = functional.cross_entropy(logits, targets)
        errors, *gradients = torch.autograd.grad(whole, [logits, *self.student.parameters()])
        step = self.done - stretch.first + 1
        rate = optimizer.rate(step, stretch.steps) / (1 << update.RATE_BITS)
        descend(self.student, self.momenta, optimizer, gradients, rate)
        told = (logits.argmax(1) == targets.argmax(1))[: lesson.labelled]
        of_labelled, of_frames = errors.tensor_split([lesson.labelled])
        return Learned(rate, int(told.sum()), float(of_labelled.norm()), float(of_frames.norm()))

    def take_counters(self):
        return Tally().take()

    def right(self, network, images, labels):
        asked = self.teacher if network == "teacher" else self.student
        assert asked is not None
        return told_right(asked, images, labels, self.rule.evaluation_statistics)


def targets_of(kind: Consistency, labels: Tensor) -> Tensor:
    """What logits of labels ask for: [N, classes] both."""
    match kind:
        case LogitDistance():
            return labels
        case Divergence(temperature=temperature):
            return torch.softmax(labels / temperature, 1)
        case PseudoLabel():
            return functional.one_hot(labels.argmax(1), labels.shape[1]).to(labels.dtype)
    return torch.softmax(labels, 1)


def consistency_loss(kind: Consistency, student: Tensor, targets: Tensor) -> Tensor:
    """The loss whose gradient a `Consistency` is, of every sample: [N, classes] twice -> [N].

    That of a divergence is short of the targets' own entropy, which has no gradient.
    """
    match kind:
        case LogitDistance():
            return (student - targets).square().mean(1)
        case ProbabilityDistance():
            return (torch.softmax(student, 1) - targets).square().mean(1)
        case Divergence() | PseudoLabel():
            return -(targets * torch.log_softmax(student, 1)).sum(1)
    raise TypeError(f"consistency must be one of accsim.training.consistency's, not {kind!r}")


def imbalance(student: Tensor, sure: Tensor) -> Tensor:
    """The loss whose gradient `balance_error` is: [N, classes], bool[N] -> []."""
    predictions = torch.softmax(student, 1)
    mean = torch.where(sure[:, None], predictions, predictions.detach()).mean(0)
    least, even = 2.0**-PROBABILITY_BITS, 1 / len(mean)
    far = even * (mean + least).log() + (1 - even) * (1 - mean + least).log()
    return -far.sum() * sure.float().mean()


def _real(values: np.ndarray, exponent: int) -> Tensor:
    """Integers times ``2**exponent``: float32[N, H, W, C]."""
    return torch.from_numpy(values.astype(np.float32) * np.float32(2.0**exponent))


def _unit(directions: Tensor) -> Tensor:
    """Each image's direction with a root mean square of 1."""
    return directions / directions.square().mean((1, 2, 3), keepdim=True).sqrt()
