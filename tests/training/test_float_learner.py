"""Rules in float32 beside the same rules in wide fixed point: the same steps, and they learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from accsim.data.augmentation import Mixup
from accsim.data.stream import SemiSupervisedStream
from accsim.kernels.augment import IMAGE_BITS, PixelScale
from accsim.numerics import Numerics, Rounding
from accsim.schedule import AlternateTeacher, SeparateEma
from accsim.training.base import Sgd
from accsim.training.consistency import (
    Divergence,
    LogitDistance,
    ProbabilityDistance,
    PseudoLabel,
)
from accsim.training.fixed_network import Statistics
from accsim.training.float_learner import InFloat
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map
from accsim.training.self_taught import SelfTaught
from accsim.training.supervised import Supervised
from accsim.training.weight_average import Equal, WeightAverage

STREAM = SemiSupervisedStream(
    labels=60, labelled_per_batch=16, unlabelled_per_batch=24, translate=1, flip=False
)
WIDE = Numerics(
    weight_bits=16,
    activation_bits=16,
    error_bits=16,
    accumulator_bits=64,
    master_bits=24,
    momentum_bits=24,
    teacher_bits=24,
    teacher_rounding=Rounding.HALF_UP,
)
RULES = {
    "supervised": Supervised(),
    "average": WeightAverage(averaging=Equal(first_share=0.0, every=2)),
    "logits": MeanTeacher(4, confidence_threshold=0.0, ramp_share=0.0),
    "domains": MeanTeacher(4, confidence_threshold=0.0, separate_domains=True),
    "running": MeanTeacher(4, confidence_threshold=0.0, teacher_statistics=Statistics.RUNNING),
    "probabilities": MeanTeacher(
        4, confidence_threshold=0.0, consistency=ProbabilityDistance(), consistency_weight=20.0
    ),
    "sharpened": MeanTeacher(
        4, confidence_threshold=0.0, consistency=Divergence(0.4), consistency_weight=1.0
    ),
    "hard": SelfTaught(
        confidence_threshold=0.0, consistency=PseudoLabel(), consistency_weight=1.0, ramp_share=0.0
    ),
}


def real(stored):
    return stored.values.astype(float) * 2.0**-stored.frac_bits


@pytest.mark.parametrize(
    "choice", [{}, {"mixup": Mixup()}, {"label_views": 3}], ids=["plain", "mixup", "three views"]
)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_step_is_that_of_wide_fixed_point(rule, choice, network, dataset, follow, clock):
    """Two steps; every weight, momentum and average moves as far, to a few parts in a hundred."""
    rule = replace(rule, optimizer=Sgd(learning_rate=0.05))
    apart = getattr(rule, "separate_domains", False)
    wide = replace(WIDE, error_bits=12) if apart else WIDE  # two gradients' sum has 32 bits
    fixed = rule.start(network, wide, follow, 4, seed=4)
    twin = InFloat(rule).start(network, wide, follow, 4, seed=4)
    start = {name: real(stored) for name, stored in fixed.student.parameters.items()}
    for batch in replace(STREAM, **choice).batches(dataset, clock, 2, seed=4):
        ours, theirs = fixed.step(batch), twin.step(batch)
        assert ours.passes == theirs.passes
        assert ours.learning_rate == pytest.approx(theirs.learning_rate)
        assert ours.labelled_correct == theirs.labelled_correct
        assert (ours.classes != theirs.classes).sum() <= 2
        assert ours.labelled_error == pytest.approx(theirs.labelled_error, rel=0.02)
        assert ours.frame_error == pytest.approx(theirs.frame_error, rel=0.1, abs=1e-6)
    networks = [(fixed.student.parameters, twin.student)]
    if twin.average:
        networks.append((fixed.average.stored, twin.average))
    for stores, floats in networks:
        for name, before in start.items():
            moved = floats[name].detach().numpy() - before
            assert np.abs(moved).max() > 0, name
            difference = np.linalg.norm(real(stores[name]) - before - moved)
            assert difference < 0.06 * np.linalg.norm(moved), name


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_learns_in_float(rule, network, dataset, follow, clock):
    torch.manual_seed(0)
    learner = InFloat(rule).start(network, Numerics(), follow, 60, seed=4)
    for batch in STREAM.batches(dataset, clock, 60, seed=4):
        outcome = learner.step(batch)
    test = Map(PixelScale.of(dataset.train_images).apply(dataset.test_images), -IMAGE_BITS)
    correct = learner.correct(test, dataset.test_labels)
    assert all(count > 0.8 * len(dataset.test_labels) for count in correct.values()), correct
    assert set(correct) == set(outcome.counters)
    if "teacher" in correct:
        assert outcome.teacher_changed > 0.5


def test_a_rejected_batch_moves_nothing_in_float_either(network, dataset, follow, clock):
    rule = MeanTeacher(confidence_threshold=1.0, least_accepted=0.5, ramp_share=0.0)
    learner = InFloat(rule).start(network, Numerics(), follow, 60, seed=4)
    before = [p.clone() for p in (*learner.student.parameters(), *learner.average.parameters())]
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    assert learner.step(batch).passes.rejected
    after = [*learner.student.parameters(), *learner.average.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InFloat(LogitDistance()), r"rule must be a learning rule such as MeanTeacher\(\)"),
        (
            lambda: InFloat(MeanTeacher(evaluation_statistics=Statistics.ADAPTED)),
            "evaluation_statistics of a rule in float must be RUNNING",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_schedule_that_skips_frames_is_refused(network):
    turn = AlternateTeacher(SeparateEma(), every=2).turn
    with pytest.raises(ValueError, match="schedule of a rule in float must label and store"):
        InFloat().start(network, Numerics(), turn, 60, seed=4)
