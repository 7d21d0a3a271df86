"""Temporal ensembling: predictions worked by hand and replayed in plain integers; it learns."""

from copy import deepcopy
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from accsim.data.stream import SemiSupervisedStream
from accsim.kernels import loss
from accsim.kernels.augment import IMAGE_BITS, PixelScale
from accsim.numerics import Numerics, Rounding
from accsim.passes import Passes
from accsim.schedule import (
    AlternateTeacher,
    GradientAccumulation,
    LayerwiseEma,
    OverlappedEma,
    SeparateEma,
    SpatialSplit,
    TeacherAhead,
)
from accsim.training.base import Sgd
from accsim.training.consistency import (
    Divergence,
    LogitDistance,
    ProbabilityDistance,
    PseudoLabel,
)
from accsim.training.counters import KINDS, Tally
from accsim.training.parameters import Map
from accsim.training.supervised import Supervised
from accsim.training.temporal_ensembling import Predictions, TemporalEnsembling, shares

STREAM = SemiSupervisedStream(
    labels=30, labelled_per_batch=16, unlabelled_per_batch=24, translate=1, flip=False
)
ONE = 4096  # a logit of 1


def returning(dataset, count=72):
    """So few frames: every third batch is of the same ones, where nothing else is said."""
    return replace(
        dataset,
        train_images=dataset.train_images[:count],
        train_labels=dataset.train_labels[:count],
    )


def corrected(outputs, shift):
    """Laine and Aila's ``Z / (1 - a**t)``, exactly."""
    a = 1 - Fraction(1, 2**shift)
    z = Fraction(0)
    for output in outputs:
        z = a * z + (1 - a) * output
    return z / (1 - a ** len(outputs))


def test_an_average_worked_by_hand():
    """a = 1/2: of 1 and 3 it is (1/2 * 1 + 3) / (3/2) = 7/3, of 1, 3 and 0 it is 1."""
    stored, tally = Predictions(2, shift=1), Tally()
    stored.make_room(5)
    outputs = ([1, -1], [3, -3], [0, 0])
    expected = ([1024, -1024], [round(7 / 3 * 1024), round(-7 / 3 * 1024)], [1024, -1024])
    places = np.array([3, 0])
    for output, words in zip(outputs, expected, strict=True):
        known = stored.known(places).tolist()
        assert known == ([False, False] if output == outputs[0] else [True, True])
        stored.move(places, np.array([output, [8, 8]], np.int32) * ONE, tally)
        assert np.abs(stored.words[3] - words).max() <= 1
        assert stored.words[0].tolist() == [8192, 8192]
        assert stored.recall(places)[1].tolist() == [8 * ONE, 8 * ONE]
    assert stored.counts.tolist() == [3, 0, 0, 3, 0]
    counted = dict(zip(KINDS, tally.take().counts[0].tolist(), strict=True))
    # of 12 words 4 were new, and 2 twice as they were: what is 8 stays 8, for no reason to move
    assert counted == {
        "words": 12, "saturated": 0, "overflowed": 0, "moved": 4, "unmoved": 0, "underflowed": 0
    }  # fmt: skip


@pytest.mark.parametrize("shift", [1, 3, 7])
def test_shares_make_the_bias_correction_of_the_source(shift):
    """The t-th moves ``(1 - a) / (1 - a**t)`` of the way; the recurrence is exact in fractions."""
    a, found = 1 - Fraction(1, 2**shift), shares(shift)
    outputs = [Fraction(n * 37 % 11 - 5) for n in range(1, 30)]
    kept = Fraction(0)
    for t, output in enumerate(outputs, 1):
        share = (1 - a) / (1 - a**t)
        kept += (output - kept) * share
        assert kept == corrected(outputs[:t], shift)
        row = min(t, len(found)) - 1
        assert abs(Fraction(int(found[row]), 2**15) - share) <= Fraction(1, 2**16)
    assert found[0] == 2**15
    assert found[-1] == 2 ** (15 - shift) < found[-2]


def test_a_prediction_saturates_and_is_counted():
    stored, tally = Predictions(2, shift=1), Tally()
    stored.make_room(1)
    stored.move(np.array([0]), np.array([[40 * ONE, -31 * ONE]], np.int32), tally)
    assert stored.words.tolist() == [[32767, -31 * 1024]]
    assert tally.take().total("saturated") == 1


def test_of_a_frame_that_is_there_twice_both_read_before_the_last_is_written():
    stored = Predictions(1, shift=1)
    stored.make_room(2)
    stored.move(np.array([1, 1]), np.array([[2 * ONE], [5 * ONE]], np.int32), Tally())
    assert stored.words.tolist() == [[0], [5 * 1024]]
    assert stored.counts.tolist() == [0, 1]


def test_training_is_that_of_a_plain_integer_replay(network, dataset, follow, clock):
    """Twelve steps: what is stored, who is sure, which passes ran; each frame is seen four times.

    The student's outputs are those of a copy of it, taken before the step.
    """
    rule = TemporalEnsembling(confidence_threshold=0.4, ensemble_shift=2)
    learner = rule.start(network, Numerics(), follow, 12, seed=4)
    a, words, counts = Fraction(3, 4), {}, {}
    for step, batch in enumerate(STREAM.batches(returning(dataset), clock, 12, seed=4)):
        student = deepcopy(learner.student)
        images = Map(np.concatenate([batch.labelled, batch.student_view]), batch.exponent)
        outputs = student.executor.forward(student.parameters, images).logits[16:].tolist()
        places = batch.places.tolist()
        labels = np.array([words.get(place, [0] * 3) for place in places], np.int32) * 4
        known = np.array([place in words for place in places])
        assert known.all() == known.any() == (step >= 3)
        sure = known & (loss.softmax(labels, loss.EXP2).max(1) > round(0.4 * 2**15))
        outcome = learner.step(batch)
        assert outcome.taught.tolist() == sure.tolist()
        assert outcome.classes.tolist() == labels.argmax(1).tolist()
        assert outcome.passes == Passes(
            0, 40, 16 + int(sure.sum()), False, queued=-24, own_labels=True, predictions=72
        )
        assert (outcome.frame_error > 0) == sure.any() == (step >= 3)
        for place, output in zip(places, outputs, strict=True):
            counts[place] = t = counts.get(place, 0) + 1
            share = floor((1 - a) / (1 - a**t) * 2**15 + Fraction(1, 2))
            before = words.get(place, [0] * 3)
            words[place] = [
                w + floor(Fraction((z - 4 * w) * share, 2**17) + Fraction(1, 2))
                for w, z in zip(before, output, strict=True)
            ]
        stored = learner.predictions
        assert stored.words[places].tolist() == [words[place] for place in places]
        assert stored.counts[places].tolist() == [counts[place] for place in places]
    assert set(counts.values()) == {4}
    assert outcome.counters["student"].total("moved", "predictions") > 0


HARD = {"confidence_threshold": 0.0, "consistency_weight": 20.0}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    "consistency", [LogitDistance(), ProbabilityDistance(), Divergence(0.5), PseudoLabel()]
)
def test_errors_are_those_of_every_consistency(consistency, apart, network, dataset, follow, clock):
    """One step, in plain floats from the student's logits and the stored words."""
    rule = TemporalEnsembling(
        **HARD, consistency=consistency, ramp_share=0.0, separate_domains=apart
    )
    learner = rule.start(network, Numerics(), follow, 10, seed=4)
    *before, batch = STREAM.batches(returning(dataset), clock, 4, seed=4)
    for earlier in before:
        learner.step(earlier)
    student, executor = deepcopy((learner.student, learner.of_frames))
    images = batch.student_view if apart else np.concatenate([batch.labelled, batch.student_view])
    logits = executor.forward(student.parameters, Map(images, -5)).logits[-24:] / ONE
    labels = learner.predictions.words[batch.places] / 1024

    def probabilities(z):
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    p, q = probabilities(logits), probabilities(labels)
    match consistency:
        case LogitDistance():
            error = 2 * (logits - labels) / 3
        case ProbabilityDistance():
            error = 2 * p * (p - q - (p * (p - q)).sum(1, keepdims=True)) / 3
        case Divergence():
            error = p - probabilities(labels / 0.5)
        case PseudoLabel():
            error = p - np.eye(3)[labels.argmax(1)]
    outcome = learner.step(batch)
    assert outcome.frame_error == pytest.approx(20 * np.linalg.norm(error) / 24, rel=0.02)
    assert outcome.passes.separate_domains is apart
    assert outcome.passes.labels_read == ((24, 0) if apart else (24,))


def test_micro_batches_share_the_step_and_its_predictions(network, dataset, clock):
    turn = GradientAccumulation(LayerwiseEma(), micro_batches=2).turn
    learner = TemporalEnsembling(**HARD).start(network, Numerics(), turn, 10, seed=4)
    for batch in STREAM.batches(returning(dataset), clock, 4, seed=4):
        passes = learner.step(batch).passes
    assert passes.micro_batches == ((20, 20), (20, 20))
    assert passes.labels_read == (12, 12)
    assert (
        learner.predictions.counts.tolist()
        == (1 + np.bincount(batch.places, minlength=72)).tolist()
    )


def test_it_gains_on_supervised_training_from_few_labels(network, dataset, follow, clock):
    """Six labels of three classes, pictures in noise, three draws of labels: a gain in each."""
    rng = np.random.default_rng(1)

    def noisy(images):
        return np.clip(images + rng.normal(0, 90, images.shape), 0, 255).astype(np.uint8)

    hard = replace(
        dataset,
        train_images=noisy(dataset.train_images),
        test_images=noisy(dataset.test_images),
    )
    test = Map(PixelScale.of(hard.train_images).apply(hard.test_images), -IMAGE_BITS)
    stream = replace(STREAM, labels=6, labelled_per_batch=12, unlabelled_per_batch=48)
    for seed in range(3):
        right = []
        for rule in (
            Supervised(),
            TemporalEnsembling(**HARD, consistency=ProbabilityDistance()),
        ):
            learner = rule.start(network, Numerics(), follow, 200, seed=seed)
            batches = stream.batches(hard, type(clock)(), 200, seed=seed)
            outcomes = [learner.step(batch) for batch in batches]
            right.append(learner.correct(test, hard.test_labels)["student"] / 300)
        assert right[1] > max(0.6, right[0] + 0.05)
        errors = [outcome.frame_error for outcome in outcomes]
        accepted = [outcome.accepted for outcome in outcomes]
        assert not any(errors[:12])
        assert accepted[:12] == [0] * 12  # 600 frames in batches of 48
        assert all(errors[13:])
        assert accepted[13:] == [48] * 187
        labels = sum(outcome.pseudo_labels(3) for outcome in outcomes)
        assert labels.max() < 0.67 * labels.sum()


WIDE = Numerics(
    weight_bits=16,
    activation_bits=16,
    error_bits=12,  # two gradients' sum has 32 bits
    accumulator_bits=64,
    master_bits=24,
    momentum_bits=24,
    teacher_rounding=Rounding.HALF_UP,
)


@pytest.mark.parametrize("consistency", [LogitDistance(), ProbabilityDistance()])
def test_its_float_twin_takes_the_steps_of_wide_fixed_point(
    consistency, network, dataset, follow, clock
):
    """Three steps, two of them with labels; the twin keeps Z and ``1 - a**t``, as the source.

    In passes of their own: in one with labelled images, frames that all are rejected take part in
    the twin's gradient through the statistics of the batch.
    """
    float_learner = pytest.importorskip("accsim.training.float_learner")
    rule = TemporalEnsembling(
        **HARD, consistency=consistency, ramp_share=0.0, ensemble_shift=2,
        separate_domains=True, optimizer=Sgd(learning_rate=0.05),
    )  # fmt: skip
    if isinstance(consistency, LogitDistance):
        rule = replace(rule, consistency_weight=0.3)
    fixed, twin = (
        made.start(network, WIDE, follow, 20, seed=4)
        for made in (rule, float_learner.InFloat(rule))
    )
    start = {name: s.values * 2.0**-s.frac_bits for name, s in fixed.student.parameters.items()}
    stream = replace(STREAM, labels=6)
    for step, batch in enumerate(stream.batches(returning(dataset, 24), clock, 3, seed=4)):
        ours, theirs = fixed.step(batch), twin.step(batch)
        assert ours.passes == theirs.passes
        assert ours.taught.tolist() == theirs.taught.tolist() == [step > 0] * 24
        assert ours.frame_error == pytest.approx(theirs.frame_error, rel=0.1, abs=1e-6)
        words = [o.counters["student"].total("words", "predictions") for o in (ours, theirs)]
        assert words == [72, 72]
        moved = theirs.counters["student"].total("moved", "predictions")
        assert moved == 72 * (step > 0) >= ours.counters["student"].total("moved", "predictions")
        kept = twin.predictions.recall(batch, 3).numpy()
        words = fixed.predictions.words[batch.places] / 1024
        assert np.linalg.norm(words - kept) < 0.02 * np.linalg.norm(kept)
    for name, before in start.items():
        stored = fixed.student.parameters[name]
        moved = twin.student.tensors[name.replace(".", "_")].detach().numpy() - before
        difference = np.linalg.norm(stored.values * 2.0**-stored.frac_bits - before - moved)
        assert difference < 0.06 * np.linalg.norm(moved), name


@pytest.mark.parametrize(
    "schedule",
    [
        AlternateTeacher(LayerwiseEma()),
        AlternateTeacher(LayerwiseEma(), every=3, queue=True),
        TeacherAhead(SeparateEma()),
        SpatialSplit(teacher_rows=4),
    ],
)
def test_a_schedule_that_rests_or_hurries_a_teacher_is_refused(schedule, network):
    with pytest.raises(ValueError, match="there is no teacher to rest or run ahead"):
        TemporalEnsembling().start(network, Numerics(), schedule.turn, 10, seed=4)


@pytest.mark.parametrize("schedule", [SeparateEma(), OverlappedEma()])
def test_other_schedules_are_one_to_it(schedule, network, dataset, follow, clock):
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    passes = [
        TemporalEnsembling().start(network, Numerics(), turn, 10, seed=4).step(batch).passes
        for turn in (follow, schedule.turn)
    ]
    assert passes[0] == passes[1]
    assert passes[0].predictions == len(dataset.train_images)


def test_the_largest_step_is_one_that_accepts_all(network, dataset, follow, clock):
    """But for the room for predictions, which the stream says."""
    rule = TemporalEnsembling(confidence_threshold=0.0)
    learner = rule.start(network, Numerics(), follow, 10, seed=4)
    for batch in STREAM.batches(returning(dataset), clock, 4, seed=4):
        passes = learner.step(batch).passes
    assert passes == replace(rule.largest_passes(16, 24), predictions=72)


def test_frames_without_a_place_are_refused(network, dataset, follow, clock):
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    learner = TemporalEnsembling().start(network, Numerics(), follow, 10, seed=4)
    with pytest.raises(ValueError, match="places of a batch must be told"):
        learner.step(replace(batch, places=None))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"ensemble_shift": 0}, "ensemble_shift must be 1 to 7, not 0"),
        ({"ensemble_shift": 8}, "ensemble_shift must be 1 to 7, not 8"),
        ({"least_accepted": 0.1}, r"least_accepted must be 0 for TemporalEnsembling, not 0\.1: of"),
    ],
)
def test_impossible_settings_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        TemporalEnsembling(**choice)
