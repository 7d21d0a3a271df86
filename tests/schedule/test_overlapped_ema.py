"""An average in the shadow of the next labelling: the words of a separate one, fewer cycles."""

import numpy as np
import pytest

from accsim import engine
from accsim.hardware import boards
from accsim.network import RELU, BatchNorm, Linear, Network, Shape
from accsim.numerics import Numerics, WeightScaling
from accsim.passes import Blend, Passes
from accsim.schedule.overlapped_ema import OverlappedEma
from accsim.schedule.separate_ema import SeparateEma
from accsim.training.mean_teacher import MeanTeacher
from models import digits

STEP = Passes(teacher_forward=2, student_forward=3, backward=2, ema=True)
STORE = 49 * 2  # bytes of all parameters


def test_student_and_teacher_in_and_teacher_out_beside_the_forwards_own_read(
    lower, machine, travelled
):
    """Update 2 words a weight, ema 3, forward 1: as in SeparateEma, to the byte."""
    counts = travelled(lower(OverlappedEma(), machine, STEP))
    assert counts["update", "weights"] == (STORE, STORE)
    assert counts["ema", "weights"] == (STORE, 0)
    assert counts["ema", "teacher"] == (STORE, STORE)
    assert counts["teacher_forward", "teacher"] == (STORE, 0)
    assert counts == travelled(lower(SeparateEma(), machine, STEP))


def test_residuals_and_exponents_travel_with_their_stores(lower, machine, travelled):
    numerics = Numerics(error_feedback=True, weight_scaling=WeightScaling.CHANNEL)
    one, other = (
        travelled(lower(schedule, machine, STEP, numerics=numerics))
        for schedule in (OverlappedEma(), SeparateEma())
    )
    assert one == other
    assert one["ema", "residual"] == (STORE, STORE)


def test_a_layer_is_averaged_behind_the_product_before_it(lower, machine):
    labels = [o.label for o in lower(OverlappedEma(), machine, STEP)]
    assert labels[:6] == [
        *("conv/ema", "conv/teacher_forward"),
        *("norm/ema", "fc/ema", "norm/teacher_forward"),
        "fc/teacher_forward",
    ]
    assert not [label for label in labels[6:] if label.endswith("ema")]


def test_words_behind_the_last_product_are_averaged_too(lower, machine):
    """Two products in a row, and a layer with words that none follows."""
    rows = (Linear("one", 4), Linear("two", 3), BatchNorm("norm", RELU))
    network = Network("rows", Shape(1, 1, 5), rows)
    labels = [o.label for o in lower(OverlappedEma(), machine, STEP, network=network)]
    assert labels[:6] == [
        *("one/ema", "one/teacher_forward", "two/ema", "two/teacher_forward"),
        *("norm/ema", "norm/teacher_forward"),
    ]


def test_only_the_first_layers_average_takes_time_where_products_are_long(lower):
    """Digits on a ZCU104: every product is longer than the average of the layer after it.

    What the average adds to a step is then what its first layer takes alone, from the first load
    to the last store, and at most its passes' share of the DDR beside.
    """
    network, machine = digits.network(16), boards.ZCU104
    cycles = {}
    for name, schedule, ema in (
        ("without", SeparateEma(), False),
        ("separate", SeparateEma(), True),
        ("overlapped", OverlappedEma(), True),
    ):
        operations = lower(schedule, machine, Passes(24, 32, 32, ema), network=network)
        cycles[name] = engine.simulate(operations, machine).makespan_cycles
    averages = [o for o in operations if o.pass_name == "ema"]
    alone = engine.simulate(averages[:1], machine).makespan_cycles
    in_a_row = engine.simulate(averages, machine).makespan_cycles
    assert cycles["separate"] - cycles["without"] == pytest.approx(in_a_row, rel=0.05)
    assert alone <= cycles["overlapped"] - cycles["without"] <= 1.25 * alone < in_a_row / 10


def test_without_a_teacher_forward_pass_the_average_runs_alone(lower, machine):
    passes = Passes(0, 3, 2, ema=True)
    one, other = (
        [operation.label for operation in lower(schedule, machine, passes)]
        for schedule in (OverlappedEma(), SeparateEma())
    )
    assert one == other
    assert one[-1] == "fc/ema"


def test_without_a_teacher_only_the_student_moves(lower, machine):
    for passes in (Passes(0, 3, 2, ema=False), Passes(2, 3, 2, ema=False)):
        names = {o.pass_name for o in lower(OverlappedEma(), machine, passes)}
        assert "ema" not in names


def test_the_next_step_sees_the_average_of_the_updated_student(network, batches, nearest, averaged):
    """In plain integers, after every step: no label comes from a layer whose average is to come."""
    rule = MeanTeacher(teacher_shift=3, confidence_threshold=0.0)
    learner = rule.start(network, nearest, OverlappedEma().turn, 10, seed=1)
    twin = rule.start(network, nearest, SeparateEma().turn, 10, seed=1)
    for step, batch in enumerate(batches(5), 1):
        before = {name: stored.values.copy() for name, stored in learner.average.stored.items()}
        learner.step(batch)
        twin.step(batch)
        shift = min(3, step.bit_length())
        for name, student in learner.student.parameters.items():
            expected = averaged(before[name], student.values, shift)
            assert learner.average.seen[name].values.ravel().tolist() == expected, name
            assert np.array_equal(
                learner.average.stored[name].values, twin.average.stored[name].values
            ), name


def test_every_step_blends_once_and_stores():
    assert OverlappedEma().blend(7) == Blend(1, True)
    with pytest.raises(ValueError, match=r"step must be at least 1 .* not 0"):
        OverlappedEma().blend(0)
    assert OverlappedEma().explain().count("\n") == 0
