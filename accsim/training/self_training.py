"""Self-training in phases: a network learns from labels, ranks the stream, and a new one learns.

Each phase has a share of the run's steps. The *teacher* learns from labelled images alone. Then it
rests and *ranks* the stream: of each class the `k` frames of highest score are kept, in a heap that
every frame passes once, in place of a sort of all of them; what no class keeps costs nothing more.
Then a new *student* learns from those that are kept. Only steps that rank look at the stream: in
the others no frame is waited for, and the camera's ring buffer runs over.

Scores are the teacher's probabilities, integers of 15 fractional bits; of frames with equal scores
the one that came first stays.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from enum import Enum, auto
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import ClassVar, final

import numpy as np

from accsim.data.stream import Batch, SemiSupervisedStream
from accsim.kernels import loss
from accsim.kernels.fixed_point import random_key
from accsim.passes import Blend, Kept, Passes, Turn, shares
from accsim.training.average import Average
from accsim.training.base import Algorithm, Learner, Outcome, Sgd, count_correct, top_class
from accsim.training.best_frames import BestFrames
from accsim.training.counters import Counters, Tally
from accsim.training.deployed import Deployed
from accsim.training.fixed_network import Statistics
from accsim.training.parameters import Map
from accsim.training.semi_supervised import WEIGHT_BITS
from accsim.training.supervised import Descent, new_student

PHASE, ORDER, LABELLER = 20, 21, 22  # labels of random keys
MOST_PARTS = 10_000  # denominator of a share: 0.1 is a tenth, not the float beside it
MOST_KEPT = 1 << 16  # frames of each class


class Phase(Enum):
    """What a step of self-training does."""

    TEACHER = auto()  # a network learns from labelled images
    RANK = auto()  # it labels frames, the best of each class are kept
    STUDENT = auto()  # a new network learns from those
    FINE_TUNE = auto()  # it goes on with labelled images


@dataclass(frozen=True)
class Stretch:
    """The steps `first` to `last`, counted from 1, of one phase."""

    name: str
    phase: Phase
    first: int
    last: int

    @property
    def steps(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


@dataclass(frozen=True, kw_only=True)
class SelfTraining(Algorithm):
    """What such rules share: a teacher, the frames that it ranks, and a student after it.

    A student starts at random, and learns in a step from as many frames as a batch of the stream
    has. Frames are kept as the camera has them: the teacher labels them so, normalised by its
    running statistics, and the student sees a new view of them in every step, strong where the
    stream says so. They come class by class alike, in a random order; a class that has fewer frames
    than another repeats them.

    Where a student becomes the teacher its words are copied, in the teacher's format, which costs
    what an average costs. Its own random start is not charged, as that of no run is. A deployed
    network learns on as the teacher, or is the teacher where `teacher_share` is 0.
    """

    k: int  # frames of each class that are kept, at most
    teacher_share: float = 0.2  # of the steps
    optimizer: Sgd = Sgd()  # of the teacher and of students; its rate falls anew in every phase
    together: ClassVar[bool]  # a student learns from labelled images beside the frames

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.k, int) or not 1 <= self.k <= MOST_KEPT:
            raise ValueError(f"k must be a whole number of 1 to {MOST_KEPT}, not {self.k}")
        for name, phase, share in self.plan():
            if share < 0 or (share == 0 and phase in (Phase.RANK, Phase.STUDENT)):
                raise ValueError(
                    f"shares of {type(self).__name__} must leave steps for the phase {name}, "
                    f"not {float(share):g} of them"
                )

    @property
    @abstractmethod
    def soft(self) -> bool:
        """A frame's labels are the teacher's probabilities; else the class that keeps it."""

    @abstractmethod
    def plan(self) -> tuple[tuple[str, Phase, Fraction], ...]:
        """Name, phase and share of the steps of every stretch, in order; they sum to 1."""

    @abstractmethod
    def offers(self, scores: np.ndarray) -> np.ndarray:
        """Which classes may keep each frame: int32[N, classes] -> bool[N, classes]."""

    def optimizer_of(self, phase: Phase) -> Sgd:
        """How the network that trains in `phase` moves."""
        return self.optimizer

    def stretches(self, steps: int) -> tuple[Stretch, ...]:
        """What a run of so many steps goes through; a phase whose share is 0 is left out.

        Raises ValueError where a phase has no step.
        """
        plan = [each for each in self.plan() if each[2]]
        ends = [round(share * steps) for share in accumulate(share for *_, share in plan)]
        found = tuple(
            Stretch(name, phase, before + 1, end)
            for (name, phase, _), (before, end) in zip(plan, pairwise([0, *ends]), strict=True)
        )
        if min(stretch.steps for stretch in found) < 1:
            raise ValueError(
                f"steps must be enough for one of every phase of {type(self).__name__}, not {steps}"
            )
        return found

    def require(self, stream):
        name = type(self).__name__
        if not isinstance(stream, SemiSupervisedStream):
            raise ValueError(f"data of {name} must be a SemiSupervisedStream, not {stream!r}")
        if not stream.unlabelled_per_batch:
            raise ValueError(f"unlabelled_per_batch must be at least 1 for {name}, not 0")
        for choice, value in (("mixup", None), ("label_views", 1)):
            given = getattr(stream, choice)
            if given != value:
                raise ValueError(f"{choice} of the stream must be {value} for {name}, not {given}")

    def looks(self, step, steps):
        return any(
            stretch.first <= step <= stretch.last
            for stretch in self.stretches(steps)
            if stretch.phase is Phase.RANK
        )

    def largest_passes(self, labelled, frames):
        return self.student_passes(labelled if self.together else 0, frames)

    def student_passes(self, labelled: int, frames: int) -> Passes:
        """Those of a student's step, in one micro-batch."""
        ran, kept = labelled + frames, Kept(self.k, self.soft)
        return Passes(0, ran, ran, ema=False, queued=-frames if self.soft else 0, kept=kept)

    def start(self, network, numerics, turn, steps, seed, deployed=None):
        return FixedSelfTraining(self, network, numerics, turn, steps, seed, deployed)


def exact(share: float) -> Fraction:
    """A share of the steps as it is written."""
    return Fraction(share).limit_denominator(MOST_PARTS)


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Whether each score is of the `count` highest of its row; of equals the lower class first."""
    places = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    found = np.zeros(scores.shape, bool)
    np.put_along_axis(found, places, True, axis=1)
    return found


@final
@dataclass(frozen=True, kw_only=True)
class RankedPseudoLabels(SelfTraining):
    """Teacher, rank, a student on frames alone, then fine-tuned on labelled images.

    A frame is offered to its `p` most probable classes and may be kept by several, each of which
    then is a label of its own: so are frames found of classes that are rarely the most probable.

    Source: Yalniz, Jegou, Chen, Paluri and Mahajan, "Billion-scale semi-supervised learning for
    image classification", 2019, section 3: K and P, with its defaults.
    """

    k: int = 16_000
    p: int = 10  # or all, where there are fewer classes
    rank_share: float = 0.2
    fine_tune_share: float = 0.2  # the student has the steps that are left
    fine_tuning: Sgd = Sgd(learning_rate=0.01)
    soft = False
    together = False

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.p, int) or self.p < 1:
            raise ValueError(f"p must be a whole number of at least 1, not {self.p}")

    def plan(self):
        given = exact(self.teacher_share), exact(self.rank_share), exact(self.fine_tune_share)
        teacher, rank, fine_tune = given
        return (
            ("teacher", Phase.TEACHER, teacher),
            ("rank", Phase.RANK, rank),
            ("student", Phase.STUDENT, 1 - sum(given)),
            ("fine-tune", Phase.FINE_TUNE, fine_tune),
        )

    def offers(self, scores):
        return highest(scores, self.p) & (scores > 0)

    def optimizer_of(self, phase):
        return self.fine_tuning if phase is Phase.FINE_TUNE else self.optimizer


@final
@dataclass(frozen=True, kw_only=True)
class NoisyStudent(SelfTraining):
    """Teacher, then `rounds` of rank and student; each student is the next round's teacher.

    A frame is offered to its most probable class, if its score is above the threshold. A student
    learns from labelled images and frames together, each sample's cross-entropy counting alike. Its
    noise is that of its input, the strong view of the stream: there is neither dropout nor
    stochastic depth, and every student is as large as the teacher.

    Source: Xie, Luong, Hovy and Le, "Self-training with noisy student improves ImageNet
    classification", CVPR 2020, algorithm 1 and section 3.1 (threshold, as many frames of each
    class, frames of rare classes repeated, three rounds, soft labels).
    """

    k: int = 16_000  # the paper has 130,000 of each of 1,000 classes
    confidence_threshold: float = 0.3
    soft: bool = True
    rounds: int = 3
    rank_share: float = 0.25  # of every round
    together = True

    def __post_init__(self):
        if not isinstance(self.rounds, int) or self.rounds < 1:
            raise ValueError(f"rounds must be a whole number of at least 1, not {self.rounds}")
        if not 0 <= self.confidence_threshold < 1:
            raise ValueError(
                "confidence_threshold must be at least 0 and less than 1, "
                f"not {self.confidence_threshold}"
            )
        super().__post_init__()

    def plan(self):
        teacher, rank = exact(self.teacher_share), exact(self.rank_share)
        whole = (1 - teacher) / self.rounds
        rounds = (
            stretch
            for number in range(1, self.rounds + 1)
            for stretch in (
                (f"rank {number}", Phase.RANK, whole * rank),
                (f"student {number}", Phase.STUDENT, whole * (1 - rank)),
            )
        )
        return ("teacher", Phase.TEACHER, teacher), *rounds

    def offers(self, scores):
        least = round(self.confidence_threshold * (1 << loss.PROBABILITY_BITS))
        return highest(scores, 1) & (scores > least)


@dataclass(frozen=True)
class Lesson:
    """What one step learns from: labelled images, then frames."""

    images: np.ndarray  # int8[N, H, W, C]
    exponent: int  # of those
    targets: np.ndarray  # int32[N, classes], 15 fractional bits
    labelled: int  # the first so many

    @property
    def frames(self) -> int:
        """The others."""
        return len(self.targets) - self.labelled


@dataclass(frozen=True)
class Learned:
    """What the student made of a lesson."""

    learning_rate: float
    correct: int  # labelled images
    labelled_error: float  # length, of their logits
    frame_error: float
    micro_batches: tuple[tuple[int, int], ...] = ()  # as of `Passes`


class SelfTrainingLearner(Learner):
    """Goes through the phases; what a network is, in integers or in float, is a subclass's.

    Before the first student the network that trains is the one that becomes the teacher.
    """

    def __init__(self, rule: SelfTraining, network, turn, steps: int, seed: int, deployed: bool):
        self.rule, self.network, self.turn = rule, network, turn
        self.seed, self.done = seed, 0
        self.stretches = rule.stretches(steps)
        self.best = BestFrames(rule.k, network.classes)
        self.frames_at_once = 0  # of the stream
        self.has_teacher = False
        self.moved = Tally()  # words of the teacher
        name = type(rule).__name__
        for how in map(turn, (1, 2)):
            if how != Turn(Blend(1, True), micro_batches=how.micro_batches):
                raise ValueError(
                    f"schedule of {name} must label in every step, for that step, and store the "
                    "teacher in it, as SeparateEma does: its teacher rests or labels alone"
                )
        if rule.optimizer.frozen(network):
            raise ValueError(f"rates of {name} must freeze no layer: students start at random")
        if self.stretches[0].phase is Phase.RANK and not deployed:
            raise ValueError(
                f"teacher_share of {name} must be above 0 where no deployed network is the teacher"
            )

    @abstractmethod
    def renew(self, seed: int) -> None:
        """A new student, at random."""

    @abstractmethod
    def promote(self) -> dict[str, int]:
        """Make the teacher what the student is; the words of each of its tensors."""

    @abstractmethod
    def label(self, images: Map) -> np.ndarray:
        """The teacher's probabilities: int32[N, classes], 15 fractional bits."""

    @abstractmethod
    def learn(self, lesson: Lesson, optimizer: Sgd, stretch: Stretch, seed: int) -> Learned:
        """One step of the student."""

    @abstractmethod
    def take_counters(self) -> Counters:
        """What fixed point did to the student since the last call."""

    @abstractmethod
    def right(self, network: str, images: Map, labels: np.ndarray) -> int:
        """Images that the network of that name, student or teacher, tells right."""

    def step(self, batch):
        self.done += 1
        index = self._index()
        stretch, seed = self.stretches[index], self._seed(index)
        if self.done == 1 and stretch.phase is Phase.RANK:
            self._hand_over()  # what is deployed
        if stretch.phase is Phase.RANK:
            return self._rank(batch, stretch)
        if self.done == stretch.first and stretch.phase is Phase.STUDENT:
            self.renew(seed)
        optimizer = self.rule.optimizer_of(stretch.phase)
        lesson = self._lesson(batch, stretch, random_key(seed, ORDER))
        learned = self.learn(lesson, optimizer, stretch, seed)
        following = self.stretches[index + 1 : index + 2]
        promotes = self.done == stretch.last and any(s.phase is Phase.RANK for s in following)
        if promotes:
            self._hand_over()
        ran = lesson.labelled + lesson.frames
        passes = Passes(0, ran, ran, ema=False)
        if stretch.phase is Phase.STUDENT:
            passes = self.rule.student_passes(lesson.labelled, lesson.frames)
        return Outcome(
            passes=replace(
                passes,
                ema=promotes,
                micro_batches=learned.micro_batches,
                frozen=optimizer.frozen(self.network),
            ),
            learning_rate=learned.learning_rate,
            labelled_correct=learned.correct,
            labelled_samples=lesson.labelled,
            labelled_error=learned.labelled_error,
            frame_error=learned.frame_error,
            taught=np.zeros(0, bool),
            classes=np.zeros(0, np.int64),
            skipped_frames=len(batch.student_view),
            counters=self._counters(),
            phase=stretch.name,
        )

    def correct(self, images, labels):
        """Of the network that the phase is about; the first that learns counts as the teacher."""
        phase = self.stretches[self._index()].phase
        name = "student" if phase in (Phase.STUDENT, Phase.FINE_TUNE) else "teacher"
        asked = name if self.has_teacher else "student"
        return {name: self.right(asked, images, labels)}

    def _index(self) -> int:
        """The stretch that the last step was in, or the first."""
        return next(i for i, s in enumerate(self.stretches) if self.done <= s.last)

    def _seed(self, index: int) -> int:
        """That of a stretch; the first has the run's, as supervised training has."""
        return random_key(self.seed, PHASE, index) if index else self.seed

    def _hand_over(self) -> None:
        """The student becomes the teacher, all of whose words are others then."""
        self.has_teacher = True
        for name, words in self.promote().items():
            self.moved.add("teacher", name, words, moved=words)

    def _counters(self) -> dict[str, Counters]:
        counters = {"student": self.take_counters()}
        return counters | ({"teacher": self.moved.take()} if self.has_teacher else {})

    def _rank(self, batch: Batch, stretch: Stretch) -> Outcome:
        """The teacher labels the frames; some are kept."""
        if self.done == stretch.first:
            self.best = BestFrames(self.rule.k, self.network.classes)
        assert batch.frames is not None  # the rule requires it of the stream
        assert batch.pixels is not None
        self.frames_at_once = len(batch.frames)
        scores = self.label(Map(batch.frames, batch.exponent))
        keeps = self.best.offer(batch.pixels, scores, self.rule.offers(scores))
        kept = np.asarray(keeps.any(axis=1))
        classes = np.where(kept, np.where(keeps, scores, -1).argmax(axis=1), top_class(scores))
        stored = Kept(self.rule.k, self.rule.soft, int(kept.sum()), int(keeps.sum()))
        return Outcome(
            passes=Passes(len(scores), 0, 0, ema=False, kept=stored),
            learning_rate=0.0,
            labelled_correct=0,
            labelled_samples=0,
            labelled_error=0.0,
            frame_error=0.0,
            taught=kept,
            classes=classes,
            skipped_frames=0,
            counters=self._counters(),
            phase=stretch.name,
        )

    def _lesson(self, batch: Batch, stretch: Stretch, key: int) -> Lesson:
        """Labelled images, frames that were kept, or both, as the phase has it."""
        certain = np.eye(self.network.classes, dtype=np.int32) << loss.PROBABILITY_BITS
        student = stretch.phase is Phase.STUDENT
        own = slice(None) if self.rule.together or not student else slice(0)
        images, targets = [batch.labelled[own]], [certain[batch.labels[own]]]
        if student and self.best.frames:
            first = (self.done - stretch.first) * self.frames_at_once
            places = range(first, first + self.frames_at_once)
            pixels, scores, classes = self.best.draw(places, key)
            assert batch.view is not None
            images.append(batch.view(pixels))
            targets.append(scores if self.rule.soft else certain[classes])
        return Lesson(
            np.concatenate(images), batch.exponent, np.concatenate(targets), len(images[0])
        )


@final
class FixedSelfTraining(SelfTrainingLearner):
    """In integers: the student, and the teacher as it lies in DDR."""

    def __init__(self, rule, network, numerics, turn, steps, seed, deployed: Deployed | None):
        super().__init__(rule, network, turn, steps, seed, deployed is not None)
        self.numerics = numerics
        self.student = new_student(network, numerics, seed, deployed)
        self.teacher: Average | None = None
        self.executor = self.student.executor  # of the teacher

    def renew(self, seed):
        self.student = new_student(self.network, self.numerics, seed)

    def promote(self):
        self.teacher = Average(self.student, self.seed)
        self.executor = self.student.executor.fork(random_key(self.seed, LABELLER))
        return {name: stored.values.size for name, stored in self.teacher.stored.items()}

    def label(self, images):
        assert self.teacher is not None
        record = self.executor.forward(
            self.teacher.seen, images, Statistics.RUNNING, training=False
        )
        return loss.softmax(record.logits, loss.EXP2)

    def learn(self, lesson, optimizer, stretch, seed):
        student, executor = self.student, self.student.executor
        step = self.done - stretch.first + 1
        descent = Descent(optimizer, student, step, stretch.steps, seed)
        errors, correct = np.zeros(lesson.targets.shape, np.int64), 0
        parts = self.turn(1).micro_batches
        for own, part in shares(lesson.labelled, lesson.frames, parts, False):
            rows = np.r_[own, lesson.labelled + part.start : lesson.labelled + part.stop]
            targets = lesson.targets[rows]
            record = executor.forward(student.parameters, Map(lesson.images[rows], lesson.exponent))
            errors[rows] = loss.divergence_error(
                loss.softmax(record.logits, loss.EXP2),
                targets,
                np.ones(len(rows), bool),
                1 << WEIGHT_BITS,
                len(lesson.targets),
            )
            descent.add(executor, record, errors[rows], None)
            told = top_class(record.logits) == top_class(targets)
            correct += int(told[: own.stop - own.start].sum())
        rate = descent.update()
        of_labelled, of_frames = np.split(errors, [lesson.labelled])
        lengths = loss.length(of_labelled), loss.length(of_frames)
        return Learned(rate, correct, *lengths, descent.micro_batches)

    def take_counters(self):
        return self.student.executor.tally.take()

    def right(self, network, images, labels):
        executor, words = self.student.executor, self.student.parameters
        if network == "teacher":
            assert self.teacher is not None
            executor, words = self.executor, self.teacher.seen
        return count_correct(executor, words, images, labels, self.rule.evaluation_statistics)

    def trained(self):
        return Deployed.of(self.student.executor, self.student.parameters)
