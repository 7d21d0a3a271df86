"""Frames moved against their labels: how far, where to, at what price, and what it leaves alone."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from accsim.data.base import Dataset
from accsim.data.stream import SemiSupervisedStream
from accsim.data.synth_digits import FOLDER, depth_fields, draw
from accsim.kernels import loss
from accsim.kernels.augment import IMAGE_BITS, PixelScale
from accsim.network import Shape
from accsim.numerics import Numerics
from accsim.passes import Passes
from accsim.schedule import AlternateTeacher, GradientAccumulation, SeparateEma, TeacherAhead
from accsim.training.base import Sgd
from accsim.training.float_twin import FloatTwin
from accsim.training.parameters import Map
from accsim.training.virtual_adversarial import VirtualAdversarial, random_directions
from models import digits

STREAM = SemiSupervisedStream(
    labels=60, labelled_per_batch=16, unlabelled_per_batch=24, translate=1, flip=False
)
WIDE = Numerics(weight_bits=16, activation_bits=16, error_bits=16, accumulator_bits=64)


def settled(rule, network, dataset, follow, clock, numerics=None, steps=2):
    """A learner after so many steps, the next batch, and its lesson."""
    learner = rule.start(network, numerics or Numerics(), follow, 20, seed=4)
    *before, batch = STREAM.batches(dataset, clock, steps + 1, seed=4)
    for seen in before:
        learner.step(seen)
    learner.done += 1
    return learner, batch, learner._lesson(batch, len(batch.teacher_view))


def cosines(a, b):
    a, b = (x.reshape(len(x), -1).astype(float) for x in (a, b))
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def divergence(learner, lesson, frames):
    """Of the labels, from the student on `frames`: float[N]."""
    record = deepcopy(learner.of_frames).forward(learner.student.parameters, Map(frames, -5))
    p, q = loss.softmax(record.logits, loss.EXP2) / 2**15, lesson.targets / 2**15
    return (q * np.log(np.maximum(q, 1e-6) / np.maximum(p, 1e-6))).sum(1)


@pytest.mark.parametrize(("iterations", "least", "mean"), [(1, 0.95, 0.99), (2, 0.75, 0.93)])
def test_the_direction_is_that_of_a_power_iteration_in_float64(
    iterations, least, mean, network, dataset, follow, clock
):
    """Of wide maps, each frame's cosine, in torch by the formulas of the source's algorithm 1.

    The first probe's images are exact; a second one's are rounded to a 32nd, which turns signs
    before activations and winners of pools.
    """
    rule = VirtualAdversarial(epsilon=0.75, xi=0.75, iterations=iterations)
    learner, batch, lesson = settled(rule, network, dataset, follow, clock, WIDE)
    dim = replace(batch, teacher_view=batch.teacher_view // 4)  # nothing is clipped
    twin = FloatTwin(network, torch.float64, epsilon=1e-12).train()
    twin.load(learner.student.parameters)
    clean = torch.tensor(dim.teacher_view / 32)
    q = torch.softmax(twin(clean), 1).detach()
    targets = np.round(q.numpy() * 2**15).astype(np.int32)
    d = torch.tensor(random_directions(clean.shape, 4, learner.done)).double()
    for _ in range(iterations):
        d = d / d.flatten(1).norm(dim=1)[:, None, None, None]
        x = (clean + 0.75 * clean[0].numel() ** 0.5 * d).requires_grad_()
        kl = (q * (q.log() - torch.log_softmax(logits := twin(x), 1))).sum()
        (error,) = torch.autograd.grad(kl, logits, retain_graph=True)
        octave = error.abs().amax(1, keepdim=True).log2().ceil()
        (d,) = torch.autograd.grad(logits, x, error / 2**octave)  # every frame counts alike
    shown, probes = learner.shown(dim, replace(lesson, targets=targets))
    step = shown.frames.astype(int) - dim.teacher_view
    assert probes == ((24, 24),) * iterations
    assert cosines(step, d.numpy()).min() > least
    assert cosines(step, d.numpy()).mean() > mean
    lengths = np.sqrt((step**2).mean((1, 2, 3))) / 32
    assert lengths == pytest.approx(np.full(24, 0.75), rel=0.01)


def test_in_8_bits_it_hurts_far_more_than_a_random_direction(network, dataset, follow, clock):
    rule = VirtualAdversarial()
    learner, batch, lesson = settled(rule, network, dataset, follow, clock, steps=12)
    shown, _ = learner.shown(batch, lesson)
    signs = random_directions(batch.teacher_view.shape, 5, 5)
    randomly = np.clip(batch.teacher_view + np.round(0.15 * 32) * signs, -127, 127).astype(np.int8)
    against, aside = (divergence(learner, lesson, x).mean() for x in (shown.frames, randomly))
    assert against > 4 * aside > 0


def test_frames_that_are_not_sure_keep_their_random_direction(network, dataset, follow, clock):
    rule = VirtualAdversarial(epsilon=0.125)
    learner, batch, lesson = settled(rule, network, dataset, follow, clock, steps=6)
    lesson = replace(lesson, sure=np.arange(24) % 3 > 0)
    shown, probes = learner.shown(batch, lesson)
    assert probes == ((24, 16),)
    signs = random_directions(batch.teacher_view.shape, 4, learner.done)
    randomly = np.clip(batch.teacher_view + 4 * signs, -127, 127)
    same = (shown.frames == randomly).all((1, 2, 3))
    assert same.tolist() == (~lesson.sure).tolist()
    none = replace(lesson, sure=np.zeros(24, bool))
    shown, probes = learner.shown(batch, none)
    assert probes == ()
    assert np.array_equal(shown.frames, batch.teacher_view)


def test_a_frame_whose_label_no_probe_changes_keeps_its_random_direction(
    network, dataset, follow, clock
):
    rule = VirtualAdversarial(epsilon=0.125)
    learner, batch, lesson = settled(rule, network, dataset, follow, clock)
    for stored in learner.student.parameters.values():
        stored.values[:] = 0  # whatever it sees, all classes are equal
    even = replace(lesson, targets=np.full((24, 3), round(2**15 / 3), np.int32))
    shown, _ = learner.shown(batch, even)
    signs = random_directions(batch.teacher_view.shape, 4, learner.done)
    assert np.array_equal(shown.frames, np.clip(batch.teacher_view + 4 * signs, -127, 127))


def test_probes_leave_the_student_as_it_is(network, dataset, follow, clock):
    learner, batch, lesson = settled(VirtualAdversarial(), network, dataset, follow, clock)
    student = learner.student

    def state():
        stored = [*student.parameters.values(), *student.momenta.values()]
        running = [*student.executor.running.values(), *learner.of_frames.running.values()]
        words = [tensor.values.tobytes() for tensor in stored]
        statistics = [array.tobytes() for pair in running for array in pair]
        return (
            words,
            statistics,
            dict(student.executor.exponents),
            dict(learner.of_frames.exponents),
        )

    before = state()
    learner.take_counters()
    learner.shown(batch, lesson)
    assert state() == before
    counters = learner.take_counters()
    assert counters["student"].total("words") == 0
    assert counters["probe"].total("words", "error") > 24 * 8 * 8 * 3
    assert counters["probe"].total("words", "gradient") == 0


def test_a_step_reports_its_probes_and_is_reproducible(network, dataset, follow, clock):
    rule = VirtualAdversarial(iterations=2, confidence_threshold=0.4)
    found = []
    for _ in range(2):
        learner = rule.start(network, Numerics(), follow, 20, seed=4)
        for batch in STREAM.batches(dataset, clock, 3, seed=4):
            outcome = learner.step(batch)
        sure = outcome.accepted
        assert outcome.passes == Passes(
            24, 40, 16 + sure, ema=False, micro_batches=((24, sure), (16, 16)), own_labels=True,
            separate_domains=True, probes=((24, sure), (24, sure)),
        )  # fmt: skip
        found.append([s.values.tobytes() for s in learner.student.parameters.values()])
    assert found[0] == found[1]
    assert outcome.frame_error > 0


def test_micro_batches_share_one_search(network, dataset, clock):
    learner = VirtualAdversarial().start(
        network, Numerics(), GradientAccumulation(SeparateEma(), 2).turn, 20, seed=4
    )
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    passes = learner.step(batch).passes
    assert passes.micro_batches == ((12, 12), (8, 8)) * 2
    assert passes.probes == ((24, 24),)


def test_a_step_that_labels_nothing_has_no_probe(network, dataset, clock):
    learner = VirtualAdversarial().start(
        network, Numerics(), AlternateTeacher(SeparateEma(), every=2).turn, 20, seed=4
    )
    passes = [learner.step(batch).passes for batch in STREAM.batches(dataset, clock, 2, seed=4)]
    assert [p.probes for p in passes] == [((24, 24),), ()]
    assert passes[1] == Passes(0, 16, 16, ema=False, own_labels=True)


def test_digits_are_learned_and_nothing_looks_ill(follow, clock):
    """1,200 digits from fonts, half of them labelled: from a tenth right to over 45 in 100."""
    image, fields = Shape(20, 20, 1), depth_fields(FOLDER)
    drawn = *draw(1200, image, 0, fields), *draw(500, image, 1, fields)
    digits_drawn = Dataset("digits", "made by the test", False, tuple("0123456789"), *drawn)
    stream = replace(STREAM, labels=600, labelled_per_batch=32, unlabelled_per_batch=32)
    rule = VirtualAdversarial(optimizer=Sgd(learning_rate=0.05))
    learner = rule.start(digits.network(8, image=image), Numerics(), follow, 300, seed=4)
    outcomes = [learner.step(batch) for batch in stream.batches(digits_drawn, clock, 300, seed=4)]
    test = PixelScale.of(digits_drawn.train_images).apply(digits_drawn.test_images)
    correct = learner.correct(Map(test, -IMAGE_BITS), digits_drawn.test_labels)
    assert correct["student"] > 0.45 * 500
    assert min(outcome.frame_error for outcome in outcomes) > 0
    assert all(outcome.accepted == 32 for outcome in outcomes)
    labels = sum(outcome.pseudo_labels(10) for outcome in outcomes[150:])
    assert labels.max() < 2 * labels.mean() < 4 * labels.min()  # no class has taken over
    for kind in ("activations", "error"):
        clipped = [outcome.counters["probe"].share("saturated", kind) for outcome in outcomes]
        assert max(clipped[1:]) < 1e-3, kind


@pytest.mark.parametrize(
    "schedule",
    [TeacherAhead(SeparateEma()), AlternateTeacher(SeparateEma(), every=2, queue=True)],
)
def test_labels_of_another_step_are_refused(schedule, network):
    with pytest.raises(ValueError, match="must have the frames of a step labelled in that step"):
        VirtualAdversarial().start(network, Numerics(), schedule.turn, 20, seed=4)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"epsilon": 0.03}, "epsilon must be 1/32, the last bit of an image, to 4, not 0.03"),
        ({"xi": 5}, "xi must be 1/32, the last bit of an image, to 4, not 5"),
        ({"iterations": 0}, "iterations must be a whole number of 1 to 16, not 0"),
        ({"separate_domains": False}, "separate_domains must be True"),
    ],
)
def test_impossible_settings_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        VirtualAdversarial(**choice)
