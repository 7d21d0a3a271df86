"""Rules in float32 beside the same rules in wide fixed point: the same steps, and they learn."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from accsim.data.augmentation import Mixup
from accsim.data.stream import Batch, SemiSupervisedStream
from accsim.kernels.augment import IMAGE_BITS, PixelScale
from accsim.network import BatchNorm, Shape
from accsim.numerics import Numerics, Rounding
from accsim.schedule import (
    AlternateTeacher,
    DeferredWriteback,
    GradientAccumulation,
    SeparateEma,
    TeacherAhead,
)
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
from accsim.training.self_training import NoisyStudent, RankedPseudoLabels
from accsim.training.supervised import Supervised
from accsim.training.virtual_adversarial import VirtualAdversarial
from accsim.training.weight_average import Equal, WeightAverage
from models import convnet, digits, mlp, mobilenet, resnet

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
    "balanced": MeanTeacher(4, confidence_threshold=0.0, ramp_share=0.0, class_balance=0.5),
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
    "adversarial": VirtualAdversarial(iterations=2, ramp_share=0.0),
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


PHASES = {
    "ranked": RankedPseudoLabels(
        k=30, p=1, teacher_share=0.25, rank_share=0.25, fine_tune_share=0.25
    ),
    "soft": NoisyStudent(k=30, rounds=1, teacher_share=0.25, rank_share=0.25),
    "hard": NoisyStudent(k=30, rounds=1, teacher_share=0.25, rank_share=0.25, soft=False),
}


@pytest.mark.parametrize("rule", PHASES.values(), ids=PHASES)
def test_phases_are_those_of_wide_fixed_point(rule, network, dataset, follow, clock):
    """Two steps of each; the student's learn from the same kept frames."""
    rule = replace(rule, optimizer=Sgd(learning_rate=0.05))
    fixed, twin = (made.start(network, WIDE, follow, 8, seed=4) for made in (rule, InFloat(rule)))
    start, ran = {name: real(s) for name, s in fixed.student.parameters.items()}, []
    looks = InFloat(rule).looks
    for batch in STREAM.batches(dataset, clock, 8, seed=4, looks=lambda step: looks(step, 8)):
        ours, theirs = fixed.step(batch), twin.step(batch)
        ran.append((ours.phase, theirs.phase))
        assert ours.passes.teacher_forward == theirs.passes.teacher_forward
        assert ours.learning_rate == pytest.approx(theirs.learning_rate)
        assert ours.labelled_error == pytest.approx(theirs.labelled_error, rel=0.05)
        assert ours.frame_error == pytest.approx(theirs.frame_error, rel=0.05)
        assert ours.teacher_changed == theirs.teacher_changed
        if fixed.done == 4:
            assert (ours.classes != theirs.classes).sum() <= 2
            shared = set(fixed.best.frames) & set(twin.best.frames)
            assert len(shared) > 0.9 * len(fixed.best.frames)
            for number in shared:
                far = fixed.best.frames[number].scores - twin.best.frames[number].scores
                assert np.abs(far).max() < 0.03 * 2**15
            twin.best = fixed.best
            start = {}
        else:
            assert ours.passes == theirs.passes
        if fixed.done == 5:  # a new student
            initial = rule.start(network, WIDE, follow, 8, fixed._seed(2)).student.parameters
            start = {name: real(stored) for name, stored in initial.items()}
        if start:
            moved, wanted = (
                np.concatenate([np.ravel(values[name] - start[name]) for name in start])
                for values in (
                    {name: twin.student[name].detach().numpy() for name in start},
                    {name: real(fixed.student.parameters[name]) for name in start},
                )
            )
            assert np.linalg.norm(moved - wanted) < 0.06 * np.linalg.norm(wanted)
    assert [one == other for one, other in ran] == [True] * 8
    teacher = np.concatenate([np.ravel(real(s)) for s in fixed.teacher.seen.values()])
    ours = [twin.teacher[name].detach().numpy().ravel() for name in fixed.teacher.seen]
    assert np.allclose(np.concatenate(ours), teacher, atol=0.01)


@pytest.mark.parametrize("rule", PHASES.values(), ids=PHASES)
def test_every_phase_learns_in_float(rule, network, dataset, follow, clock):
    learner = InFloat(rule).start(network, Numerics(), follow, 120, seed=4)
    for batch in STREAM.batches(dataset, clock, 120, 4, looks=lambda s: rule.looks(s, 120)):
        learner.step(batch)
    test = Map(PixelScale.of(dataset.train_images).apply(dataset.test_images), -IMAGE_BITS)
    correct = learner.correct(test, dataset.test_labels)
    assert set(correct) == {"student"}
    assert correct["student"] > 0.9 * len(dataset.test_labels), correct


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
            lambda: InFloat(evaluation_statistics=Statistics.ADAPTED),
            "evaluation_statistics of InFloat must be left to its rule, not Statistics.ADAPTED",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "schedule",
    [
        AlternateTeacher(SeparateEma(), every=2),
        GradientAccumulation(SeparateEma()),
        TeacherAhead(SeparateEma()),
    ],
)
def test_a_schedule_of_other_batches_is_refused(schedule, network):
    with pytest.raises(ValueError, match="schedule of a rule in float must label in every step"):
        InFloat().start(network, Numerics(), schedule.turn, 60, seed=4)


def test_what_the_rule_refuses_its_twin_does_too(network):
    with pytest.raises(ValueError, match="must store the average in every step"):
        InFloat(WeightAverage()).start(network, WIDE, DeferredWriteback(every=2).turn, 60, seed=4)


def test_an_average_that_is_written_back_late_is_that_of_wide_fixed_point(network, dataset, clock):
    rule = MeanTeacher(4, confidence_threshold=0.0, ramp_share=0.0)
    turn = DeferredWriteback(every=3).turn
    fixed, twin = (made.start(network, WIDE, turn, 8, seed=4) for made in (rule, InFloat(rule)))
    name, stored = "conv2.weight", []
    start = real(fixed.average.seen[name])
    for batch in STREAM.batches(dataset, clock, 5, seed=4):
        fixed.step(batch)
        twin.step(batch)
        moved = real(fixed.average.seen[name]) - start
        ours = twin.average[name].detach().numpy() - start
        assert np.linalg.norm(ours - moved) < 0.05 * np.linalg.norm(moved)
        stored.append(twin.stored["conv2_weight"].numpy().copy())
    changes = [not np.array_equal(*pair) for pair in pairwise(stored)]
    assert changes == [False, True, False, False]


def test_adapted_statistics_bridge_a_change_of_the_camera_in_float_too(
    network, dataset, follow, clock
):
    faded = (dataset.test_images // 4 + 10).astype(np.uint8)
    test = Map(PixelScale.of(dataset.train_images).apply(faded), -IMAGE_BITS)
    right = {}
    for statistics in (Statistics.RUNNING, Statistics.ADAPTED):
        rule = MeanTeacher(teacher_shift=4, evaluation_statistics=statistics)
        learner = InFloat(rule).start(network, Numerics(), follow, 60, seed=4)
        for batch in STREAM.batches(dataset, clock, 60, seed=4):
            learner.step(batch)
        kept = [buffer.clone() for buffer in learner.student.buffers()]
        right[statistics] = learner.correct(test, dataset.test_labels)["teacher"] / len(faded)
        assert all(map(torch.equal, kept, learner.student.buffers()))
    assert right[Statistics.RUNNING] < 0.6 < 0.98 < right[Statistics.ADAPTED]


@pytest.mark.parametrize("apart", [False, True])
def test_running_statistics_are_those_of_wide_fixed_point(apart, network, dataset, follow, clock):
    """Means and biased variances, the first batch's whole and an eighth of each later one."""
    rule = MeanTeacher(
        confidence_threshold=0.0, optimizer=Sgd(learning_rate=0.02), separate_domains=apart
    )
    fixed, twin = (made.start(network, WIDE, follow, 9, seed=4) for made in (rule, InFloat(rule)))
    for batch in STREAM.batches(dataset, clock, 3, seed=4):
        fixed.step(batch)
        twin.step(batch)
    for node in network.nodes:
        if isinstance(node.layer, BatchNorm):
            mean, variance = (a * 2.0**-32 for a in fixed.of_frames.running[node.index])
            assert np.allclose(getattr(twin.student, f"{node.name}_mean"), mean, atol=0.01)
            ours = getattr(twin.student, f"{node.name}_variance").numpy()
            assert np.allclose(ours, variance, rtol=0.01), node.name


@pytest.mark.parametrize("name", ["logits", "domains", "hard", "average"])
def test_a_deployed_network_is_where_both_start(name, network, dataset, follow, clock):
    """Words and statistics are its own, and the average has no random start to forget."""
    rule = replace(RULES[name], optimizer=Sgd(learning_rate=0.05))
    factory = Supervised().start(network, WIDE, follow, 3, seed=4)
    for batch in STREAM.batches(dataset, clock, 3, seed=4):
        factory.step(batch)
    start = {key: real(stored) for key, stored in factory.student.parameters.items()}
    wide = replace(WIDE, error_bits=12) if name == "domains" else WIDE
    fixed, twin = (
        made.start(network, wide, follow, 4, seed=4, deployed=factory.trained())
        for made in (rule, InFloat(rule))
    )
    assert all(np.array_equal(twin.student[key].detach(), start[key]) for key in start)
    test = Map(PixelScale.of(dataset.train_images).apply(dataset.test_images), -IMAGE_BITS)
    kept = factory.trained().correct(test, dataset.test_labels)["deployed"]
    for count in twin.correct(test, dataset.test_labels).values():
        assert abs(count - kept) <= 0.01 * len(dataset.test_labels)
    for batch in STREAM.batches(dataset, clock, 2, seed=5):
        assert fixed.step(batch).passes == twin.step(batch).passes
    pairs = [(fixed.student.parameters, twin.student)]
    if twin.average:
        pairs.append((fixed.average.stored, twin.average))
    for stores, floats in pairs:
        for key, before in start.items():
            moved = floats[key].detach().numpy() - before
            difference = np.linalg.norm(real(stores[key]) - before - moved)
            assert difference < 0.1 * np.linalg.norm(moved), key


NETWORKS = {
    "convnet": convnet.network(4, 3, Shape(16, 16, 3)),
    "resnet": resnet.network(classes=3, image=Shape(8, 8, 3)),
    "mobilenet": mobilenet.network(4, 3, Shape(16, 16, 3)),
    "digits": digits.network(4, 3, Shape(20, 20, 1)),
    "mlp": mlp.network((16, 12), 3, Shape(8, 8, 1)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_moves_as_in_wide_fixed_point(name, follow):
    """Three steps of a teacher whose student takes every frame: the weights as one vector.

    15 batch norms of few channels amplify what 16 bits round: signs before ReLUs turn, and
    gradients with them.
    """
    most = 0.35 if name == "mobilenet" else 0.05
    network, rng = NETWORKS[name], np.random.default_rng(0)
    shape = (network.image.height, network.image.width, network.image.channels)
    rule = MeanTeacher(2, confidence_threshold=0.0, ramp_share=0.0, optimizer=Sgd(0.01))
    fixed, twin = (made.start(network, WIDE, follow, 9, seed=4) for made in (rule, InFloat(rule)))
    start = {name: real(stored) for name, stored in fixed.student.parameters.items()}
    for _ in range(3):
        batch = Batch(
            np.clip(rng.normal(0, 32, (16, *shape)), -127, 127).astype(np.int8),
            rng.integers(0, 3, 16),
            *np.clip(rng.normal(0, 32, (2, 16, *shape)), -127, 127).astype(np.int8),
            -5,
            0,
            0,
        )
        fixed.step(batch)
        twin.step(batch)
    for stores, floats in (
        (fixed.student.parameters, twin.student),
        (fixed.average.seen, twin.average),
    ):
        moved, ours = (
            np.concatenate([np.ravel(values[name] - start[name]) for name in start])
            for values in (
                {name: real(stored) for name, stored in stores.items()},
                {name: floats[name].detach().numpy() for name in start},
            )
        )
        assert np.linalg.norm(ours - moved) < most * np.linalg.norm(moved)
