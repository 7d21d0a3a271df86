"""Counters of every tensor: what went in comes out once, and a step's counts are those by hand."""

import numpy as np
import pytest

from accsim.data.stream import Batch
from accsim.kernels.update import WordCounts
from accsim.numerics import Numerics, Rounding
from accsim.training.base import Sgd
from accsim.training.counters import KINDS, Tally
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.supervised import Supervised


def test_a_tally_adds_up_by_tensor_and_is_taken_once():
    tally = Tally()
    tally.add("activations", "a.output", 10, saturated=2)
    tally.add("activations", "a.output", 10, saturated=1, overflowed=4)
    tally.add_stored("weights", "a.weight", WordCounts(8, 100, 5, 3, 1, 2))
    counters = tally.take()
    assert counters.tensors == (("activations", "a.output"), ("weights", "a.weight"))
    assert counters.counts.tolist() == [[20, 3, 4, 0, 0, 0], [8, 1, 0, 5, 3, 2]]
    assert counters.total("saturated") == 4
    assert counters.total("saturated", "weights") == 1
    assert counters.share("moved", "weights") == 5 / 8
    assert counters.share("moved", "teacher") == 0
    assert tally.take().tensors == ()
    assert tally.take().total("words") == 0


def batch(seed=7, labelled=10, frames=6):
    rng = np.random.default_rng(seed)
    images = [
        rng.integers(-90, 91, (n, 8, 8, 3)).astype(np.int8) for n in (labelled, frames, frames)
    ]
    return Batch(images[0], rng.integers(0, 3, labelled), images[1], images[2], -5, 0, 0)


def rows(counters):
    return {
        name: dict(zip(KINDS, counts, strict=True))
        for (_, name), counts in zip(counters.tensors, counters.counts.tolist(), strict=True)
    }


def test_every_map_gradient_and_stored_tensor_of_a_step_has_a_row(network, follow):
    learner = MeanTeacher(confidence_threshold=0.0).start(network, Numerics(), follow, 4, seed=3)
    before = {name: stored.values.copy() for name, stored in learner.average.stored.items()}
    outcome = learner.step(batch())
    student, teacher = (rows(outcome.counters[name]) for name in ("student", "teacher"))
    maps = {f"{node.name}.output" for node in network.nodes[:-1]}  # logits are never narrowed
    stored = set(learner.student.parameters)
    errors = {f"{node.name}.input_error" for node in network.nodes[1:]}
    gradients = {f"{node.name}.gradient" for node in network.nodes if node.weights}
    assert set(student) == maps | errors | gradients | stored
    assert set(teacher) == maps | stored
    for node in network.nodes[:-1]:
        assert student[f"{node.name}.output"]["words"] == 16 * node.output.size
        assert teacher[f"{node.name}.output"]["words"] == 6 * node.output.size
    for name, tensor in learner.average.stored.items():
        assert teacher[name]["words"] == tensor.values.size
        assert teacher[name]["moved"] == (tensor.values != before[name]).sum()
    assert outcome.teacher_changed == (
        sum(teacher[name]["moved"] for name in stored) / network.parameters
    )


def test_dead_updates_and_gradient_underflow_are_told_by_tensor(network, follow):
    """At a rate of 2**-24 rounding to nearest loses every update, and every gradient underflows."""
    nearest = dict.fromkeys(("master_rounding", "momentum_rounding"), Rounding.HALF_UP)
    rule = Supervised(Sgd(learning_rate=2.0**-24, weight_decay=0.0))
    learner = rule.start(network, Numerics(**nearest), follow, 1, seed=3)
    outcome = learner.step(batch())
    student = rows(outcome.counters["student"])
    for name in learner.student.parameters:
        assert student[name]["moved"] == 0
        assert 0 < student[name]["unmoved"] == student[name]["underflowed"]
    assert outcome.unmoved == outcome.underflowed > 0.5
    assert outcome.teacher_changed == 0


def test_overflows_are_told_of_the_gradient_whose_sums_wrapped(network, follow):
    learner = Supervised().start(network, Numerics(accumulator_bits=12), follow, 2, seed=3)
    student = rows(learner.step(batch()).counters["student"])
    assert student["conv2.output"]["overflowed"] > 0
    assert student["conv1.gradient"]["overflowed"] > 0
    assert all(counts["overflowed"] == 0 for name, counts in student.items() if "norm" in name)


def test_steps_below_half_a_bit_die_unless_rounding_is_random_or_remembers(network, follow):
    """How far an 8-bit store goes of the way of one of 24 bits, whose every step it cannot hold.

    To nearest not at all; at random all of it, on average over 2,800 words; with error feedback the
    words move whose steps sum up to half a bit.
    """
    rule = Supervised(Sgd(learning_rate=0.003, momentum=0.0, weight_decay=0.0, last_share=1.0))
    nearest = dict.fromkeys(("master_rounding", "momentum_rounding"), Rounding.HALF_UP)

    def way(bits, **numerics):
        """What the words have changed by after 30 steps on one batch, and the updates that did."""
        learner = rule.start(network, Numerics(master_bits=bits, **numerics), follow, 30, seed=3)
        parameters = learner.student.parameters
        before = {name: stored.values / 2**stored.frac_bits for name, stored in parameters.items()}
        moved = [learner.step(batch()).counters["student"].total("moved") for _ in range(30)]
        after = {name: stored.values / 2**stored.frac_bits for name, stored in parameters.items()}
        return np.concatenate([(after[n] - before[n]).ravel() for n in after]), sum(moved)

    exact, _ = way(24, **nearest)

    def share(**numerics):
        moved, updates = way(8, **numerics)
        return moved @ exact / (exact @ exact), updates

    assert share(**nearest) == (0, 0)
    at_random, updates = share()
    assert at_random == pytest.approx(1, abs=0.15)
    remembered, of_sums = share(**nearest, error_feedback=True)
    assert 0.05 < remembered < 1
    assert 0 < of_sums < updates
