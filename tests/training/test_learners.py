"""Learning rules: they learn, they are reproducible, and the teacher is what the schedule says."""

from dataclasses import replace

import numba
import numpy as np
import pytest

from accsim.data.stream import SemiSupervisedStream
from accsim.kernels import update
from accsim.kernels.augment import IMAGE_BITS, PixelScale
from accsim.kernels.fixed_point import limit, random_key
from accsim.kernels.lfsr import draw
from accsim.numerics import Numerics, Rounding, Scaling, WeightScaling
from accsim.passes import Blend, Passes, Turn
from accsim.training import parameters
from accsim.training.average import EMA
from accsim.training.base import Sgd
from accsim.training.consistency import Divergence, ProbabilityDistance, PseudoLabel
from accsim.training.fixed_network import Statistics
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map
from accsim.training.self_taught import SelfTaught
from accsim.training.supervised import Supervised
from accsim.training.virtual_adversarial import VirtualAdversarial
from accsim.training.weight_average import Equal, Exponential, WeightAverage

STREAM = SemiSupervisedStream(
    labels=60, labelled_per_batch=16, unlabelled_per_batch=24, translate=1, flip=False
)


LFSR = Numerics(
    weight_rounding=Rounding.STOCHASTIC_LFSR,
    master_rounding=Rounding.STOCHASTIC_LFSR,
    momentum_rounding=Rounding.STOCHASTIC_LFSR,
    teacher_rounding=Rounding.STOCHASTIC_LFSR,
)


def train(rule, network, dataset, turn, clock, steps=60, numerics=None):
    learner = rule.start(network, numerics or Numerics(), turn, steps, seed=4)
    outcomes = [learner.step(batch) for batch in STREAM.batches(dataset, clock, steps, seed=4)]
    test = Map(PixelScale.of(dataset.train_images).apply(dataset.test_images), -IMAGE_BITS)
    return learner, outcomes, learner.correct(test, dataset.test_labels)


def digest(learner):
    return [stored.values.tobytes() for stored in learner.student.parameters.values()]


@pytest.mark.parametrize(
    "rule",
    [
        Supervised(),
        MeanTeacher(teacher_shift=4),
        MeanTeacher(
            teacher_shift=4,
            teacher_statistics=Statistics.RUNNING,
            optimizer=Sgd(learning_rate=0.03),
        ),
        MeanTeacher(4, consistency=ProbabilityDistance(), consistency_weight=20.0),
        MeanTeacher(4, consistency=Divergence(), consistency_weight=1.0),
        MeanTeacher(4, consistency=Divergence(temperature=0.4), consistency_weight=1.0),
        MeanTeacher(4, consistency=PseudoLabel(), consistency_weight=1.0),
        SelfTaught(
            confidence_threshold=0.0, consistency=ProbabilityDistance(), consistency_weight=20.0
        ),
        WeightAverage(averaging=Exponential(4)),
        WeightAverage(averaging=Equal(first_share=0.5, every=2), optimizer=Sgd(last_share=0.5)),
        SelfTaught(confidence_threshold=0.9, consistency=PseudoLabel(), consistency_weight=1.0),
        VirtualAdversarial(),
        VirtualAdversarial(confidence_threshold=0.9, iterations=2),
    ],
    ids=[
        "supervised",
        "own batch",
        "running",
        "probabilities",
        "divergence",
        "sharpened",
        "hard",
        "pi model",
        "average",
        "swa",
        "pseudo-labels",
        "adversarial",
        "adversarial, sure",
    ],
)
def test_every_rule_learns(rule, network, dataset, follow, clock):
    _, _, correct = train(rule, network, dataset, follow, clock)
    assert all(count > 0.8 * len(dataset.test_labels) for count in correct.values()), correct


@pytest.mark.parametrize(
    "numerics",
    [
        Numerics(weight_bits=4, activation_bits=6, error_bits=6),
        Numerics(error_bits=16, accumulator_bits=48),
        Numerics(weight_bits=16, activation_bits=16, error_bits=16, accumulator_bits=64),
        Numerics(scaling=Scaling.CURRENT),
        Numerics(scaling=Scaling.STATIC),
        Numerics(
            weight_rounding=Rounding.NEAREST_EVEN,
            activation_rounding=Rounding.TRUNCATE,
            error_rounding=Rounding.PSEUDO_STOCHASTIC,
            momentum_rounding=Rounding.NEAREST_EVEN,
            teacher_rounding=Rounding.HALF_UP,
        ),
        Numerics(weight_rounding=Rounding.STOCHASTIC, activation_rounding=Rounding.STOCHASTIC),
        LFSR,
        replace(LFSR, lfsr_bits=16, lfsr_lanes=5, master_bits=12),
        replace(LFSR, weight_scaling=WeightScaling.CHANNEL, teacher_bits=20, error_feedback=True),
        Numerics(master_bits=24, momentum_bits=20, teacher_bits=20),
        Numerics(master_bits=12, momentum_bits=8, teacher_bits=18),
    ],
    ids=[
        "4/6/6",
        "16-bit errors",
        "all 16",
        "current",
        "static",
        "roundings",
        "stochastic",
        "lfsr",
        "short lfsr",
        "channels",
        "24/20/20",
        "12/8/18",
    ],
)
def test_every_format_learns(numerics, network, dataset, follow, clock):
    _, _, correct = train(MeanTeacher(4), network, dataset, follow, clock, numerics=numerics)
    assert correct["student"] > 0.8 * len(dataset.test_labels), correct


def test_a_narrow_accumulator_is_counted_and_hurts(network, dataset, follow, clock):
    numerics = Numerics(accumulator_bits=14)
    _, outcomes, correct = train(Supervised(), network, dataset, follow, clock, numerics=numerics)
    assert all(outcome.saturated > 1000 for outcome in outcomes)
    assert correct["student"] < 0.8 * len(dataset.test_labels)


@pytest.mark.parametrize("numerics", [Numerics(), LFSR], ids=["hash", "lfsr"])
def test_same_seed_same_bits_on_any_threads(numerics, network, dataset, follow, clock):
    rule, seen = MeanTeacher(teacher_shift=4), []
    for threads in {1, min(2, numba.config.NUMBA_NUM_THREADS)}:
        numba.set_num_threads(threads)
        learner, _, correct = train(rule, network, dataset, follow, clock, 8, numerics)
        seen.append((digest(learner), correct))
    assert all(one == seen[0] for one in seen)


def test_the_lanes_registers_serve_the_whole_step_and_no_evaluation(
    network, dataset, follow, clock
):
    """Draws of a step by hand: one beat a use, for 32 lanes; the state after so many leaps."""
    learner = MeanTeacher().start(network, LFSR, follow, 4, seed=4)
    registers = learner.student.executor.registers
    assert learner.executor.registers is registers
    beats = 0
    for node in network.nodes:
        beats += 2 * -(-node.weights // 32)  # narrowed for teacher and student
    for stored in learner.student.parameters.values():
        beats += 3 * -(-stored.values.size // 32)  # momentum, master, teacher
    expected = registers.copy()
    draw(expected.states, 32, 32 * beats, np.empty((1, 32 * beats), np.uint32))
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    learner.step(batch)
    assert registers.states.tolist() == expected.states.tolist()
    test = Map(batch.labelled, batch.exponent)
    assert learner.correct(test, batch.labels) == learner.correct(test, batch.labels)
    assert registers.states.tolist() == expected.states.tolist()


def test_adapted_statistics_bridge_a_change_of_the_camera(network, dataset, follow, clock):
    """Dark pictures of little contrast: the same weights, other statistics."""
    faded = (dataset.test_images // 4 + 10).astype(np.uint8)
    test = Map(PixelScale.of(dataset.train_images).apply(faded), -IMAGE_BITS)
    correct = []
    for statistics in (Statistics.RUNNING, Statistics.ADAPTED):
        rule = MeanTeacher(teacher_shift=4, evaluation_statistics=statistics)
        learner, _, _ = train(rule, network, dataset, follow, clock)
        correct.append(learner.correct(test, dataset.test_labels))
    assert correct[0]["teacher"] < 0.6 * len(faded), correct
    assert min(correct[1].values()) > 0.98 * len(faded) > correct[0]["student"], correct


def test_passes_say_what_ran(network, dataset, follow, clock):
    _, outcomes, _ = train(MeanTeacher(), network, dataset, follow, clock, steps=5)
    for outcome in outcomes:
        assert outcome.passes == Passes(24, 40, 16 + outcome.accepted, ema=True)
    _, outcomes, _ = train(Supervised(), network, dataset, follow, clock, steps=2)
    assert outcomes[0].passes == Passes(0, 16, 16, ema=False)


def test_a_threshold_of_one_rejects_every_sample(network, dataset, follow, clock):
    rule = MeanTeacher(confidence_threshold=1.0)
    _, outcomes, _ = train(rule, network, dataset, follow, clock, steps=5)
    assert {outcome.accepted for outcome in outcomes} == {0}
    assert {outcome.passes.backward for outcome in outcomes} == {16}


def test_a_threshold_of_zero_accepts_every_sample(network, dataset, follow, clock):
    rule = MeanTeacher(confidence_threshold=0.0)
    _, outcomes, _ = train(rule, network, dataset, follow, clock, steps=3)
    assert {outcome.accepted for outcome in outcomes} == {24}


@pytest.mark.parametrize("every", [1, 3])
def test_teacher_follows_the_schedule(every, network, dataset, clock):
    """A plain replay of the rule on the students of every step gives the learner's teacher."""

    def blend(step):
        numerator = (step - 1) % every + 1
        return Blend(numerator, numerator == every)

    steps, shift, seed = 7, 2, 4
    rule = MeanTeacher(teacher_shift=shift)
    learner = rule.start(network, Numerics(), lambda step: Turn(blend(step)), steps, seed)
    name = "conv2.weight"
    index = list(learner.student.parameters).index(name)
    stored = learner.average.stored[name].values.copy()
    for step, batch in enumerate(STREAM.batches(dataset, clock, steps, seed), 1):
        learner.step(batch)
        seen = np.empty_like(stored)
        now = min(shift, step.bit_length())
        update.moving_average(
            stored.reshape(-1),
            learner.student.parameters[name].values.reshape(-1),
            min(blend(step).numerator, 1 << now),
            now,
            0,
            0,
            32767,
            random_key(seed, EMA, step, index),
            seen.reshape(-1),
        )
        assert np.array_equal(learner.average.seen[name].values, seen)
        if blend(step).store:
            stored = seen
        assert np.array_equal(learner.average.stored[name].values, stored)


def test_an_eight_bit_teacher_holds_eight_bits(network, dataset, follow, clock):
    numerics = Numerics(teacher_bits=8)
    learner, _, _ = train(MeanTeacher(), network, dataset, follow, clock, 4, numerics=numerics)
    for stored in learner.average.stored.values():
        assert not (stored.values & 255).any()


@pytest.mark.parametrize(("bits", "freezes"), [(8, True), (20, False)])
def test_a_narrow_teacher_freezes_where_a_wide_one_follows(
    bits, freezes, network, dataset, follow, clock
):
    """A 128th of a distance rounds to nothing below 64 last bits: half the range of 8 bits.

    The same law froze averages kept in half precision in the wild; 20 bits lie 12 below 8.
    """
    numerics = Numerics(teacher_bits=bits, teacher_rounding=Rounding.HALF_UP)
    learner = MeanTeacher(teacher_shift=7).start(network, numerics, follow, 1000, seed=4)
    learner.done = learner.average.moves = 200  # the average has its full length
    start = {name: stored.values.copy() for name, stored in learner.average.stored.items()}
    outcomes = [learner.step(batch) for batch in STREAM.batches(dataset, clock, 5, seed=4)]
    changed = [outcome.teacher_changed for outcome in outcomes]
    moved = any(
        (stored.values != start[name]).any() for name, stored in learner.average.stored.items()
    )
    assert moved is not freezes
    assert max(changed) == 0 if freezes else min(changed) > 0.5
    assert all(outcome.unmoved < 0.5 for outcome in outcomes)  # the student does move


def test_error_feedback_loses_no_step_of_a_narrow_teacher(network, dataset, clock):
    """8 bits and their residuals hold the exact sum of all steps, (student - teacher) / 8 each.

    What is not stored moves neither the teacher nor its residual.
    """
    numerics = Numerics(teacher_bits=8, teacher_rounding=Rounding.HALF_UP, error_feedback=True)

    def turn(step):
        return Turn(Blend(2 - step % 2, step % 2 == 0))

    learner = MeanTeacher(teacher_shift=4).start(network, numerics, turn, 1000, seed=4)
    learner.done = learner.average.moves = 200
    kept = {name: stored.copy() for name, stored in learner.average.stored.items()}
    exact = {name: stored.values.astype(float).ravel() for name, stored in kept.items()}
    for step, batch in enumerate(STREAM.batches(dataset, clock, 12, seed=4), 201):
        learner.step(batch)
        for name, stored in learner.average.stored.items():
            if turn(step).blend.store:
                student = learner.student.parameters[name].values.ravel()
                exact[name] += (student - kept[name].values.ravel()) / 8
                kept[name] = stored.copy()
            else:
                assert np.array_equal(stored.values, kept[name].values)
                assert np.array_equal(stored.residual, kept[name].residual)
    for name, stored in learner.average.stored.items():
        whole = stored.values.ravel() + stored.residual * (256 / 2**15)
        # six stores, each of which rounds a residual to a part in 2**15 of the last bit, 256
        assert np.abs(whole - exact[name]).max() <= 6 * 256 / 2**15, name


def test_error_feedback_learns_at_a_rate_below_the_last_bit(network, dataset, follow, clock):
    """A master of 8 bits, rounded to nearest: without residuals nearly every update is lost."""
    bits = {"master_bits": 8, "momentum_bits": 8, "teacher_bits": 8}
    roundings = {f"{name}_rounding": Rounding.HALF_UP for name in ("master", "momentum", "teacher")}
    share = []
    for feedback in (False, True):
        numerics = Numerics(**bits, **roundings, error_feedback=feedback)
        rule = Supervised(Sgd(learning_rate=0.005))
        _, _, correct = train(rule, network, dataset, follow, clock, numerics=numerics)
        share.append(correct["student"] / len(dataset.test_labels))
    assert share[0] < 0.5 < 0.9 < share[1]


def test_a_teacher_finer_than_its_student_is_the_exact_average(network, dataset, follow, clock):
    """By whole numbers: teacher += (16 student - teacher + 64) >> 7, from 20-bit words."""
    numerics = Numerics(teacher_bits=20, teacher_rounding=Rounding.HALF_UP)
    learner = MeanTeacher(teacher_shift=7).start(network, numerics, follow, 1000, seed=4)
    learner.done = learner.average.moves = 200
    (batch,) = STREAM.batches(dataset, clock, 1, seed=4)
    before = {name: stored.values.tolist() for name, stored in learner.average.stored.items()}
    learner.step(batch)
    for name, stored in learner.average.stored.items():
        student = learner.student.parameters[name]
        assert stored.values.dtype == np.int32
        assert stored.frac_bits == student.frac_bits + 4
        pairs = zip(np.ravel(before[name]).tolist(), student.values.ravel().tolist(), strict=True)
        expected = [t + ((16 * s - t + 64) >> 7) for t, s in pairs]
        assert stored.values.ravel().tolist() == expected, name


@pytest.mark.parametrize("bits", [8, 12, 16, 24])
def test_scales_start_at_one_and_reach_eight_in_any_bits(bits, network):
    stored = parameters.initial(network, Numerics(master_bits=bits), 3)["norm1.scale"]
    assert stored.at(12).tolist() == [1 << 12] * 16
    assert limit(bits) / 2**stored.frac_bits == pytest.approx(8, rel=0.01)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_the_narrowest_stores_keep_their_limits(bits, network, dataset, follow, clock):
    """Master, momentum and teacher of few bits: every word is a code of its format."""
    numerics = Numerics(master_bits=bits, momentum_bits=bits, teacher_bits=bits)
    learner, _, _ = train(MeanTeacher(), network, dataset, follow, clock, 3, numerics)
    for tensors in (learner.student.parameters, learner.average.stored):
        assert all(np.abs(stored.values).max() <= limit(bits) for stored in tensors.values())
    assert all(
        np.abs(kept.values).max() <= limit(bits) for kept in learner.student.momenta.values()
    )
    weights = [s for name, s in learner.student.parameters.items() if name.endswith("weight")]
    assert all(np.abs(stored.values).max() > 0 for stored in weights)


def test_without_a_learning_rate_nothing_moves(network, dataset, follow, clock):
    rule = replace(MeanTeacher(), optimizer=Sgd(learning_rate=0.0))
    start = rule.start(network, Numerics(), follow, 3, seed=4)
    learner, outcomes, _ = train(rule, network, dataset, follow, clock, steps=3)
    assert digest(learner) == digest(start)
    assert outcomes[-1].teacher_changed == 0
    assert outcomes[-1].unmoved > 0.9


def test_a_learning_rate_falls_to_its_last_share_or_not_at_all():
    rule = Sgd(learning_rate=0.5, last_share=0.5)
    assert [rule.rate(step, 4) for step in (1, 2, 3, 4)] == [
        whole << 20 for whole in (8, 7, 6, 5)
    ]  # 0.5 is 8 << 20, its share 4 << 20
    assert {Sgd(0.3, last_share=1.0).rate(step, 7) for step in range(1, 8)} == {round(0.3 * 2**24)}


def test_learning_rate_falls_linearly_to_the_last_step():
    rule = Sgd(learning_rate=0.5)
    assert rule.rate(1, 10) == 1 << 23
    assert rule.rate(6, 10) == 1 << 22
    assert rule.rate(10, 10) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanTeacher(teacher_shift=0), "teacher_shift must be 1 to 15, not 0"),
        (lambda: MeanTeacher(confidence_threshold=2), "confidence_threshold must be 0 to 1, not 2"),
        (lambda: MeanTeacher(consistency_weight=-1), "consistency_weight must be 0 to 1000"),
        (
            lambda: MeanTeacher(consistency="mse"),
            r"consistency must be a Consistency such as PseudoLabel\(\), not 'mse'",
        ),
        (lambda: Divergence(temperature=0.0), "temperature must be 0.01 to 16, not 0.0"),
        (lambda: Sgd(last_share=1.5), "last_share must be 0 to 1, not 1.5"),
        (lambda: Sgd(momentum=1.0), "momentum must be at least 0 and less than 1, not 1.0"),
        (
            lambda: MeanTeacher(teacher_statistics=Statistics.ADAPTED),
            "teacher_statistics must be BATCH or RUNNING, not Statistics.ADAPTED",
        ),
        (
            lambda: Supervised(evaluation_statistics=Statistics.BATCH),
            "evaluation_statistics must be RUNNING or ADAPTED, not Statistics.BATCH",
        ),
        (lambda: Numerics(weight_bits=17), "weight_bits must be 2 to 16, not 17"),
        (lambda: Numerics(error_rounding=-1), "error_rounding must be a Rounding, not -1"),
        (
            lambda: Numerics(error_rounding=Rounding.STOCHASTIC_LFSR),
            "error_rounding must be a Rounding other than STOCHASTIC_LFSR: results are rounded",
        ),
        (lambda: Numerics(lfsr_bits=24), "lfsr_bits must be 16 or 32, not 24"),
        (lambda: Numerics(gradient_bits=20), "gradient_bits must be 2 to 16, or 32, not 20"),
        (lambda: Numerics(lfsr_lanes=0), "lfsr_lanes must be 1 to 1024, not 0"),
        (lambda: Numerics(teacher_bits=25), "teacher_bits must be 2 to 24, not 25"),
        (
            lambda: Numerics(momentum_bits=24, master_bits=8),
            r"momentum_bits must be at most master_bits \+ 12 \(20\), not 24",
        ),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
