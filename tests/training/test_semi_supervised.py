"""Gates on samples and on batches, and who labels: the parts that learning rules share."""

from copy import deepcopy
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from accsim.data.augmentation import Mixup, Strong
from accsim.data.stream import SemiSupervisedStream
from accsim.kernels import loss
from accsim.kernels.augment import IMAGE_BITS, PixelScale
from accsim.numerics import Numerics, Rounding
from accsim.passes import Passes
from accsim.schedule import (
    AlternateTeacher,
    DeferredWriteback,
    GradientAccumulation,
    LayerwiseEma,
)
from accsim.training.base import Sgd, count_correct
from accsim.training.consistency import Divergence, ProbabilityDistance, PseudoLabel
from accsim.training.fixed_network import Statistics
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map
from accsim.training.self_taught import SelfTaught
from accsim.training.semi_supervised import mean_of_views
from accsim.training.supervised import Supervised

STREAM = SemiSupervisedStream(
    labels=60, labelled_per_batch=16, unlabelled_per_batch=24, translate=1, flip=False
)


def words(learner):
    """Every stored word of student and teacher."""
    tensors = [*learner.student.parameters.values(), *learner.student.momenta.values()]
    tensors += [*learner.average.stored.values(), *learner.average.seen.values()]
    return [tensor.values.tobytes() for tensor in tensors]


def test_of_a_rejected_batch_nothing_runs_but_the_labels_and_no_word_moves(
    network, dataset, follow, clock
):
    rule = MeanTeacher(confidence_threshold=1.0, least_accepted=0.1, ramp_share=0.2)
    learner = rule.start(network, Numerics(), follow, 10, seed=4)
    seen = []
    for batch in STREAM.batches(dataset, clock, 5, seed=4):
        before = words(learner)
        outcome = learner.step(batch)
        seen.append((outcome.passes, words(learner) == before))
        assert len(outcome.taught) == 24
        assert set(outcome.counters) == {"student", "teacher"}
    taken, rejected = (Passes(24, 40, 16, ema=True), False), (Passes(24, 0, 0, ema=False), True)
    assert seen == [taken] * 2 + [rejected] * 3  # the ramp is a fifth of ten steps
    assert rejected[0].rejected
    assert not taken[0].rejected
    assert (outcome.learning_rate, outcome.labelled_samples, outcome.accepted) == (0, 0, 0)
    assert outcome.counters["student"].total("words") == 0


def test_a_batch_needs_its_share_and_no_more(network, dataset, follow, clock):
    rule = MeanTeacher(confidence_threshold=0.4, ramp_share=0.0)
    start = rule.start(network, Numerics(), follow, 10, seed=4)
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    accepted = deepcopy(start).step(batch).accepted
    assert 0 < accepted < 24
    for share, rejected in ((accepted / 24, False), ((accepted + 1) / 24, True)):
        learner = deepcopy(start)
        learner.rule = replace(rule, least_accepted=share)
        assert learner.step(batch).passes.rejected is rejected


def test_a_rejected_batch_takes_no_turn_of_the_schedule(network, dataset, clock):
    """Blends count updates: the write-back of a round is not lost with a batch."""
    asked = []

    def turn(step):
        asked.append(step)
        return DeferredWriteback(every=2).turn(step)

    rule = MeanTeacher(confidence_threshold=1.0, ramp_share=0.0)
    learner = rule.start(network, Numerics(), turn, 10, seed=4)
    for share, batch in zip(
        [0, 1, 1, 0, 1], STREAM.batches(dataset, clock, 5, seed=4), strict=True
    ):
        learner.rule = replace(rule, least_accepted=float(share))
        learner.step(batch)
    assert asked == [1, 2, 2, 2, 3]
    assert all(
        np.array_equal(learner.average.seen[name].values, stored.values)
        for name, stored in learner.average.stored.items()
    )


def test_a_self_taught_student_labels_by_its_own_pass_before_it_learns(
    network, dataset, follow, clock
):
    rule = SelfTaught(confidence_threshold=0.4)
    learner = rule.start(network, Numerics(), follow, 10, seed=4)
    for batch in STREAM.batches(dataset, clock, 3, seed=4):
        student = deepcopy(learner.student)
        images = Map(batch.teacher_view, batch.exponent)
        logits = student.executor.forward(student.parameters, images).logits
        sure = loss.softmax(logits, loss.EXP2).max(1) > round(0.4 * 2**15)
        outcome = learner.step(batch)
        assert np.array_equal(outcome.taught, sure)
        backward = 16 + sure.sum()
        assert outcome.passes == Passes(24, 40, backward, ema=False, own_labels=True)
    assert set(outcome.counters) == {"student"}
    assert outcome.teacher_changed == 0


def test_errors_and_classes_are_those_of_the_lesson(network, dataset, follow, clock):
    """One step from the start, in plain floats from the logits of copies."""
    rule = MeanTeacher(confidence_threshold=0.4, consistency=PseudoLabel(), ramp_share=0.0)
    learner = rule.start(network, Numerics(), follow, 10, seed=4)
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    teacher, student = deepcopy(learner), deepcopy(learner.student)
    labels = (
        teacher.executor.forward(teacher.average.seen, Map(batch.teacher_view, -5)).logits / 4096
    )
    images = np.concatenate([batch.labelled, batch.student_view])
    logits = student.executor.forward(student.parameters, Map(images, -5)).logits / 4096
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    outcome = learner.step(batch)
    assert outcome.classes.tolist() == labels.argmax(1).tolist()
    sure = outcome.taught
    assert outcome.pseudo_labels(3).tolist() == [
        (labels.argmax(1)[sure] == c).sum() for c in range(3)
    ]
    far = (p[:16] - np.eye(3)[batch.labels]) / 16
    assert outcome.labelled_error == pytest.approx(np.linalg.norm(far), rel=0.01)
    far = 0.3 * (p[16:] - np.eye(3)[labels.argmax(1)])[sure] / 24
    assert outcome.frame_error == pytest.approx(np.linalg.norm(far), rel=0.01)


def test_blended_frames_have_blended_targets_and_need_both_labels(network, dataset, follow, clock):
    """One step from the start, in plain floats: the distance is to the blend of two softmaxes."""
    rule = MeanTeacher(
        confidence_threshold=0.4, consistency=ProbabilityDistance(), ramp_share=0.0,
        consistency_weight=9.0,
    )  # fmt: skip
    learner = rule.start(network, Numerics(), follow, 10, seed=4)
    (batch,) = replace(STREAM, mixup=Mixup()).batches(dataset, clock, 1, seed=4)
    teacher, student = deepcopy(learner), deepcopy(learner.student)
    labels = teacher.executor.forward(teacher.average.seen, Map(batch.teacher_view, -5)).logits
    images = np.concatenate([batch.labelled, batch.student_view])
    logits = student.executor.forward(student.parameters, Map(images, -5)).logits[16:]
    p, q = (np.exp(z / 4096) / np.exp(z / 4096).sum(1, keepdims=True) for z in (logits, labels))
    partners, own = batch.blending.partners, batch.blending.shares[:, None] / 256
    alone = q.max(1) > 0.4
    sure = alone & alone[partners]
    assert 0 < sure.sum() < alone.sum()
    outcome = learner.step(batch)
    assert outcome.taught.tolist() == sure.tolist()
    far = p - own * q - (1 - own) * q[partners]
    error = 9 * 2 * p * (far - (p * far).sum(1, keepdims=True)) / (24 * 3)
    assert outcome.frame_error == pytest.approx(np.linalg.norm(error[sure]), rel=0.02)


@pytest.mark.parametrize("apart", [False, True])
def test_a_class_balance_adds_its_error_and_a_pass(apart, network, dataset, follow, clock):
    """One step from the start: the frames' error is the consistency's and the balance's."""
    plain = MeanTeacher(confidence_threshold=0.4, ramp_share=0.0, separate_domains=apart)
    errors, passes = [], []
    for rule in (plain, replace(plain, class_balance=0.8)):
        learner = rule.start(network, Numerics(), follow, 10, seed=4)
        (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
        before = deepcopy(learner)
        outcome = learner.step(batch)
        passes.append(outcome.passes)
        errors.append(outcome.frame_error)
    student, images = before.student, np.concatenate([batch.labelled, batch.student_view])
    seen = batch.student_view if apart else images
    logits = before.of_frames.forward(student.parameters, Map(seen, -5)).logits[-24:]
    labels = before.executor.forward(before.average.seen, Map(batch.teacher_view, -5)).logits
    sure, weight = outcome.taught, rule.weight(1, 10)
    assert rule.balance_weight(weight) == pytest.approx(0.3 * 0.8 * 2**20, rel=1e-4)
    balance = loss.balance_error(
        loss.softmax(logits, loss.EXP2), sure, rule.balance_weight(weight), 24
    )
    distance = rule.consistency.error(logits, labels, sure, weight, 24)
    assert errors == [loss.length(distance), loss.length(distance + balance)]
    assert errors[0] != errors[1]
    assert passes[1] == replace(passes[0], class_balance=True)


def test_a_class_balance_keeps_predictions_even(network, dataset, follow, clock):
    """From labels of which nine of ten are of one class, a student says the others more often."""
    stream = replace(STREAM, labels=60, labelled_imbalance=12.0)
    shares = []
    for balance in (0.0, 1.0):
        rule = SelfTaught(
            confidence_threshold=0.0, consistency=PseudoLabel(), consistency_weight=1.0,
            class_balance=balance, ramp_share=0.0, optimizer=Sgd(learning_rate=0.05),
        )  # fmt: skip
        learner = rule.start(network, Numerics(), follow, 30, seed=4)
        outcomes = [learner.step(batch) for batch in stream.batches(dataset, clock, 30, seed=4)]
        labels = sum(outcome.pseudo_labels(3) for outcome in outcomes)
        shares.append(labels.max() / labels.sum())
    assert shares[1] < shares[0] - 0.05, shares


def test_separate_domains_are_normalised_by_statistics_of_their_own(
    network, dataset, follow, clock
):
    """One step from the start, in plain floats from the logits of copies."""
    rule = MeanTeacher(confidence_threshold=0.4, separate_domains=True, ramp_share=0.0)
    learner = rule.start(network, Numerics(), follow, 10, seed=4)
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    darker = np.clip(batch.student_view.astype(int) - 30, -127, 127).astype(np.int8)
    batch = replace(batch, student_view=darker, teacher_view=darker)
    before = deepcopy(learner)
    parameters = before.student.parameters
    of_labelled = before.student.executor.forward(parameters, Map(batch.labelled, -5))
    of_frames = before.of_frames.forward(parameters, Map(darker, -5))
    labels = before.executor.forward(before.average.seen, Map(darker, -5)).logits / 4096
    outcome = learner.step(batch)
    p = np.exp(of_labelled.logits / 4096)
    far = (p / p.sum(1, keepdims=True) - np.eye(3)[batch.labels]) / 16
    assert outcome.labelled_error == pytest.approx(np.linalg.norm(far), rel=0.01)
    far = 0.3 * 2 * (of_frames.logits / 4096 - labels)[outcome.taught] / (24 * 3)
    assert outcome.taught.any()
    assert outcome.frame_error == pytest.approx(np.linalg.norm(far), rel=0.01)
    for node, kept in before.student.executor.running.items():
        assert np.array_equal(learner.student.executor.running[node], kept)
        assert not np.array_equal(learner.of_frames.running[node], kept)
    evaluated = deepcopy(learner.student)
    evaluated.executor = learner.of_frames
    test = Map(darker, -5), np.zeros(24, np.int64)
    count = count_correct(evaluated.executor, evaluated.parameters, *test, Statistics.RUNNING)
    assert learner.correct(*test)["student"] == count


def test_separate_frames_that_all_are_rejected_leave_the_step_of_labelled_images_alone(
    network, dataset, follow, clock
):
    """Bit for bit that of supervised training where no rounding draws by a pass's number."""
    numerics = Numerics(error_rounding=Rounding.HALF_UP)
    rule = MeanTeacher(confidence_threshold=1.0, separate_domains=True)
    learner = rule.start(network, numerics, follow, 10, seed=4)
    alone = Supervised().start(network, numerics, follow, 10, seed=4)
    for batch in STREAM.batches(dataset, clock, 3, seed=4):
        passes = learner.step(batch).passes
        assert passes == Passes(
            24, 40, 16, True, micro_batches=((24, 0), (16, 16)), separate_domains=True
        )
        assert passes.labels_read == (24, 0)
        alone.step(batch)
    for name, stored in alone.student.parameters.items():
        assert np.array_equal(stored.values, learner.student.parameters[name].values), name


def test_micro_batches_of_separate_domains_take_turns(network, dataset, follow, clock):
    rule = MeanTeacher(confidence_threshold=0.0, separate_domains=True)
    turn = GradientAccumulation(LayerwiseEma(), micro_batches=2).turn
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    passes = rule.start(network, Numerics(), turn, 10, seed=4).step(batch).passes
    assert passes.micro_batches == ((12, 12), (8, 8), (12, 12), (8, 8))
    assert passes.labels_read == (12, 0, 12, 0)
    with pytest.raises(
        ValueError, match=r"micro_batches of separate_domains must be in pairs, not 1"
    ):
        replace(passes, micro_batches=())


@pytest.mark.parametrize(
    "rule",
    [
        MeanTeacher(),
        SelfTaught(),
        MeanTeacher(separate_domains=True),
        SelfTaught(separate_domains=True),
    ],
)
def test_the_largest_step_is_one_that_accepts_all(rule, network, dataset, follow, clock):
    accepting = replace(rule, confidence_threshold=0.0)
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    learner = accepting.start(network, Numerics(), follow, 10, seed=4)
    assert learner.step(batch).passes == rule.largest_passes(16, 24)


def test_a_queue_of_labels_and_a_gate_on_batches_exclude_each_other(network):
    queue = AlternateTeacher(LayerwiseEma(), every=2, queue=True)
    with pytest.raises(ValueError, match=r"least_accepted must be 0 under .* not 0\.5: their"):
        MeanTeacher(least_accepted=0.5).start(network, Numerics(), queue.turn, 10, seed=4)


def test_labels_are_the_mean_of_all_views(network, dataset, follow, clock):
    """By whole numbers, and in one forward pass of the teacher."""
    assert mean_of_views(np.array([[1, -1], [2, -2]]), 2).tolist() == [[2, -1]]
    assert mean_of_views(np.array([[4, 0], [1, 3], [0, 6]]), 1).tolist() == [[4, 0], [1, 3], [0, 6]]
    rule = MeanTeacher(confidence_threshold=0.4)
    learner = rule.start(network, Numerics(), follow, 10, seed=4)
    (batch,) = replace(STREAM, label_views=3).batches(dataset, clock, 1, seed=4)
    teacher = deepcopy(learner)
    images = Map(batch.teacher_view, batch.exponent)
    logits = teacher.executor.forward(teacher.average.seen, images).logits
    mean = mean_of_views(logits, 3)
    assert mean[5, 2] == floor(Fraction(int(logits[[5, 29, 53], 2].sum()), 3) + Fraction(1, 2))
    outcome = learner.step(batch)
    assert outcome.classes.tolist() == mean.argmax(1).tolist()
    assert outcome.passes == Passes(72, 40, 16 + outcome.accepted, ema=True)


@pytest.mark.parametrize(
    ("consistency", "weight", "view"),
    [
        (ProbabilityDistance(), 20.0, {"mixup": Mixup(alpha=0.5)}),
        (Divergence(0.5), 1.0, {"label_views": 2, "mixup": Mixup(alpha=0.75)}),
        (PseudoLabel(), 1.0, {"student_augmentation": Strong(magnitude=10, cutout=2)}),
    ],
    ids=["interpolation", "sharpened mean of two", "weak-strong"],
)
def test_a_student_learns_from_changed_frames(
    consistency, weight, view, network, dataset, follow, clock
):
    rule = MeanTeacher(4, consistency=consistency, consistency_weight=weight)
    learner = rule.start(network, Numerics(), follow, 60, seed=4)
    accepted = sum(
        learner.step(batch).accepted
        for batch in replace(STREAM, **view).batches(dataset, clock, 60, seed=4)
    )
    test = Map(PixelScale.of(dataset.train_images).apply(dataset.test_images), -IMAGE_BITS)
    correct = learner.correct(test, dataset.test_labels)
    assert accepted > 0.2 * 60 * 24
    assert all(count > 0.8 * len(dataset.test_labels) for count in correct.values()), correct


def test_an_impossible_share_is_refused():
    with pytest.raises(ValueError, match=r"least_accepted must be 0 to 1, not 1\.5"):
        SelfTaught(least_accepted=1.5)
