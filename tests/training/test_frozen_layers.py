"""Layers that do not train, and layers that train at rates of their own."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accsim.data.stream import SemiSupervisedStream
from accsim.kernels.fixed_point import random_key
from accsim.network import Network, Shape
from accsim.numerics import Numerics, Rounding, WeightScaling
from accsim.training import parameters
from accsim.training.base import Sgd
from accsim.training.fixed_network import FixedNetwork
from accsim.training.float_learner import InFloat
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map, layer_of
from accsim.training.supervised import Supervised, round_error
from accsim.training.weight_average import Exponential, WeightAverage
from accsim.workload import read_workload
from models import resnet

STREAM = SemiSupervisedStream(
    labels=60, labelled_per_batch=16, unlabelled_per_batch=24, translate=1, flip=False
)
WORKLOADS = Path(__file__).parents[2] / "workloads"
HEAD = Sgd(rates=(("classifier", 1), ("*", 0)))
BELOW = ("conv1", "norm1", "conv2", "norm2")


@pytest.fixture
def network(request, network):
    """The small network of these tests, or another."""
    return getattr(request, "param", None) or network


@pytest.fixture
def train(network, dataset, follow, clock):
    def run(rule, steps, numerics=None):
        learner = rule.start(network, numerics or Numerics(), follow, 40, seed=4)
        batches = STREAM.batches(dataset, clock, steps, seed=4)
        return learner, [learner.step(batch) for batch in batches]

    return run


def words(learner):
    return {name: stored.values.copy() for name, stored in learner.student.parameters.items()}


def changed(before, after):
    """The layers of which a word differs."""
    return {layer_of(name) for name in before if (before[name] != after[name]).any()}


@pytest.mark.parametrize(
    "rule",
    [
        Supervised(optimizer=HEAD),
        MeanTeacher(4, optimizer=HEAD),
        WeightAverage(averaging=Exponential(4), optimizer=HEAD),
    ],
    ids=["supervised", "mean teacher", "average"],
)
@pytest.mark.parametrize("rounding", [Rounding.STOCHASTIC, Rounding.STOCHASTIC_LFSR])
def test_frozen_layers_do_not_move_by_one_bit(rule, rounding, train):
    numerics = Numerics(
        master_rounding=rounding, momentum_rounding=rounding, teacher_rounding=rounding
    )
    start, _ = train(rule, 0, numerics)
    learner, outcomes = train(rule, 12, numerics)
    assert {outcome.passes.frozen for outcome in outcomes} == {BELOW}
    assert changed(words(start), words(learner)) == {"classifier"}
    moving = {name for name, m in learner.student.momenta.items() if m.values.any()}
    assert moving == {"classifier.weight", "classifier.bias"}
    if hasattr(learner, "average"):
        for kind in ("stored", "seen"):
            first, last = getattr(start.average, kind), getattr(learner.average, kind)
            moved = changed(*({n: s.values for n, s in side.items()} for side in (first, last)))
            assert moved == {"classifier"}


@pytest.mark.parametrize("teacher_bits", [16, 20])
def test_the_teacher_of_a_frozen_layer_is_the_student(teacher_bits, train):
    """So that nothing is lost where its average is not formed."""
    learner, _ = train(MeanTeacher(4, optimizer=HEAD), 5, Numerics(teacher_bits=teacher_bits))
    for name, stored in learner.student.parameters.items():
        seen = learner.average.seen[name].values
        same = (seen == stored.values.astype(seen.dtype) << teacher_bits - 16).all()
        assert same == (layer_of(name) != "classifier")


RESIDUAL = resnet.network(image=Shape(8, 8, 3))


@pytest.mark.parametrize("scaling", [WeightScaling.TENSOR, WeightScaling.CHANNEL])
@pytest.mark.parametrize("network", [None, RESIDUAL], indirect=True, ids=["chain", "residual"])
def test_gradients_of_the_others_are_those_of_the_whole_network(network, scaling):
    """Whatever is frozen: at the bottom, at the top, between, and one branch of a block."""
    rng = np.random.default_rng(5)
    numerics = Numerics(weight_scaling=scaling)
    key = random_key(1)
    start = parameters.initial(network, numerics, key)
    executor = FixedNetwork(network, numerics, key)
    images = Map(rng.integers(-127, 128, (6, *shape(network)), np.int8), -6)
    record = executor.forward(start, images)
    error = round_error(rng.integers(-(1 << 29), 1 << 29, (4, network.classes)), 8, key)
    rows = np.array([0, 2, 3, 5])

    def gradients(frozen):
        one, own = deepcopy((executor, record))
        return one.backward(own, error, rows, 1, frozen)

    whole = gradients(())
    names = [node.name for node in network.nodes if node.trains(())]
    for frozen in (names[:-1], names[:3], names[-1:], names[1:-1], names[::2], names[3:4]):
        found = gradients(frozen)
        assert list(found) == [name for name in whole if layer_of(name) not in frozen]
        for name, (values, exponent) in found.items():
            np.testing.assert_array_equal(values, whole[name][0])
            assert exponent == whole[name][1]


def shape(network: Network) -> tuple[int, int, int]:
    return network.image.height, network.image.width, network.image.channels


def test_errors_stop_at_the_lowest_layer_that_trains(network):
    _, _, conv2, norm2, pool, classifier = range(6)
    assert network.asked_errors() == set(range(6))
    assert network.asked_errors(("conv1", "norm1")) == {conv2, norm2, pool, classifier}
    assert network.asked_errors(("conv1", "norm1", "conv2")) == {norm2, pool, classifier}
    assert network.asked_errors(BELOW) == {classifier}
    assert network.asked_errors(("classifier",)) == set(range(6))


def test_the_first_update_of_the_classifier_is_that_of_the_whole_network(train):
    _, (first,) = train(Supervised(), 1)
    assert first.passes.frozen == ()
    whole, head = (words(train(Supervised(optimizer=o), 1)[0]) for o in (Sgd(), HEAD))
    for name in ("classifier.weight", "classifier.bias"):
        np.testing.assert_array_equal(whole[name], head[name])


def test_a_layer_learns_at_its_share_of_the_rate(train):
    """A first step at half of 1/8 is the step at 1/16; the others' is that at 1/8."""

    def after(**choices):
        return words(train(Supervised(optimizer=Sgd(**choices)), 1)[0])

    full, half = after(learning_rate=1 / 8), after(learning_rate=1 / 16)
    found = after(learning_rate=1 / 8, rates=(("conv2", 1), ("conv*", 0.5)))
    for name, values in found.items():
        np.testing.assert_array_equal(values, (half if name == "conv1.weight" else full)[name])
    assert (full["conv1.weight"] != half["conv1.weight"]).any()


def test_a_rule_in_float_freezes_the_same_layers(train):
    rates = (("conv1", 0), ("norm*", 0.5))
    rule = MeanTeacher(4, optimizer=Sgd(rates=rates))
    _, (outcome, *_) = train(rule, 3)
    learner, outcomes = train(InFloat(rule), 3)
    assert {one.passes.frozen for one in outcomes} == {outcome.passes.frozen} == {("conv1",)}
    start, _ = train(InFloat(rule), 0)
    for one, other in ((start.student, learner.student), (start.average, learner.average)):
        still = {name for name, p in one.tensors.items() if (p == other.tensors[name]).all()}
        assert still == {"conv1_weight"}


def test_rates_in_float_are_shares_of_the_rate(train):
    def step(rates):
        learner, _ = train(InFloat(Supervised(optimizer=Sgd(rates=rates))), 1)
        return {name: momentum.numpy() for name, momentum in learner.momenta.items()}

    whole, found = step(()), step((("conv2", 0.25),))
    for name, momentum in found.items():
        share = 0.25 if name == "conv2_weight" else 1
        np.testing.assert_allclose(momentum, share * whole[name], rtol=1e-5)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((("conv9*", 0),), r"rates must name layers .* of small, but 'conv9\*' matches none of co"),
        ((("pool", 0),), r"but 'pool' matches none"),
        ((("*", 0),), r"rates must leave a layer that trains, but all of them are 0"),
    ],
)
def test_patterns_must_match_and_a_layer_must_train(rates, message, network, follow):
    with pytest.raises(ValueError, match=message):
        Supervised(optimizer=Sgd(rates=rates)).optimizer.frozen(network)


@pytest.mark.parametrize("share", [-0.1, 160])
def test_a_share_makes_a_learning_rate_that_there_is(share):
    with pytest.raises(ValueError, match=f"rates of 'fc' must be a share from 0 .* not {share}"):
        Sgd(learning_rate=0.1, rates=(("fc", share),))


def test_rates_that_are_1_change_nothing(train):
    rule = MeanTeacher(4)
    plain, _ = train(rule, 4)
    ones, _ = train(replace(rule, optimizer=Sgd(rates=(("*", 1.0),))), 4)
    assert changed(words(plain), words(ones)) == set()


def test_rates_of_a_workload_and_of_its_pretraining_name_layers():
    workload = read_workload(WORKLOADS / "online_digits.py")
    guarded = workload.algorithm
    lost = replace(guarded.rule, optimizer=Sgd(rates=(("conv7", 0),)))
    with pytest.raises(ValueError, match="'conv7' matches none of conv1, norm1, conv2"):
        replace(workload, algorithm=replace(guarded, rule=lost))
    with pytest.raises(ValueError, match="'conv7' matches none of conv1, norm1, conv2"):
        replace(workload, start=replace(workload.start, algorithm=lost))
