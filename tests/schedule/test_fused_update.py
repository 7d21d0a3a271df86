"""Update and average in one pass over the words: four words a weight, values of SeparateEma."""

from dataclasses import replace

import numpy as np
import pytest

from accsim.numerics import Numerics, WeightScaling
from accsim.passes import Blend, Passes
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.separate_ema import SeparateEma
from accsim.training.mean_teacher import MeanTeacher

STEP = Passes(teacher_forward=2, student_forward=3, backward=2, ema=True)
STORE = 49 * 2  # bytes of all parameters


def test_student_and_teacher_are_read_and_written_once(lower, machine, travelled):
    fused = travelled(lower(FusedUpdate(), machine, STEP))
    assert {kind: bytes_ for (name, kind), bytes_ in fused.items() if name == "update"} == {
        "weights": (STORE, STORE),
        "momentum": (STORE, STORE),
        "teacher": (STORE, STORE),
    }
    separate = travelled(lower(SeparateEma(), machine, STEP))
    rest = {key: bytes_ for key, bytes_ in separate.items() if key[0] not in ("update", "ema")}
    assert {key: bytes_ for key, bytes_ in fused.items() if key[0] != "update"} == rest


def test_a_pass_takes_the_cycles_of_one_step_and_the_operations_of_two(lower, machine):
    """conv: 18 words on 32 lanes are 1 cycle and 7 of fill; 18 updates and 18 averages."""
    (conv,) = (o for o in lower(FusedUpdate(), machine, STEP) if o.label == "conv/update")
    assert [tile.cycles for tile in conv.tiles] == [8]
    assert sum(tile.vector_operations for tile in conv.tiles) == 2 * 18


def test_residuals_and_exponents_travel_with_their_stores(lower, machine, travelled):
    numerics = Numerics(error_feedback=True, weight_scaling=WeightScaling.CHANNEL)
    counts = travelled(lower(FusedUpdate(), machine, STEP, numerics=numerics))
    assert counts["update", "residual"] == (3 * STORE, 3 * STORE)
    # outputs 2 and 3 of student and teacher; inputs 1 and 8 backward
    assert counts["update", "exponents"] == (0, 2 * 5 + 9)


def test_a_unit_that_is_not_fused_takes_the_five_words_of_a_separate_pass(
    lower, machine, travelled
):
    apart = replace(machine, vector_unit=replace(machine.vector_unit, fused=False))
    fused, separate = (
        travelled(lower(schedule, apart, STEP)) for schedule in (FusedUpdate(), SeparateEma())
    )
    assert fused == separate
    assert fused["ema", "weights"] == (STORE, 0)


def test_without_a_backward_pass_the_average_runs_alone(lower, machine, travelled):
    passes = Passes(2, 3, 0, ema=True)
    counts = travelled(lower(FusedUpdate(), machine, passes))
    assert counts == travelled(lower(SeparateEma(), machine, passes))


def test_without_a_teacher_only_the_student_moves(lower, machine, travelled):
    passes = Passes(0, 3, 2, ema=False)
    counts = travelled(lower(FusedUpdate(), machine, passes))
    assert counts == travelled(lower(SeparateEma(), machine, passes))


def test_the_next_step_sees_the_average_of_the_updated_student(network, batches, nearest, averaged):
    """In plain integers, after every step; the student of the same step is already in it."""
    rule = MeanTeacher(teacher_shift=3, confidence_threshold=0.0)
    learner = rule.start(network, nearest, FusedUpdate().turn, 10, seed=1)
    for step, batch in enumerate(batches(5), 1):
        before = {name: stored.values.copy() for name, stored in learner.average.stored.items()}
        learner.step(batch)
        shift = min(3, step.bit_length())
        for name, student in learner.student.parameters.items():
            expected = averaged(before[name], student.values, shift)
            assert learner.average.seen[name].values.ravel().tolist() == expected, name
            assert learner.average.stored[name].values.ravel().tolist() == expected, name


def test_values_are_bit_equal_to_a_separate_average(network, batches):
    learners = [
        MeanTeacher(confidence_threshold=0.3).start(network, Numerics(), schedule.turn, 9, seed=1)
        for schedule in (FusedUpdate(), SeparateEma())
    ]
    for batch in batches(4):
        one, other = (learner.step(batch) for learner in learners)
        assert one.passes == other.passes
    for name, stored in learners[0].average.stored.items():
        assert np.array_equal(stored.values, learners[1].average.stored[name].values)
        student, twin = (learner.student.parameters[name] for learner in learners)
        assert np.array_equal(student.values, twin.values)


def test_every_step_blends_once_and_stores():
    assert FusedUpdate().blend(7) == Blend(1, True)
    with pytest.raises(ValueError, match=r"step must be at least 1 .* not 0"):
        FusedUpdate().blend(0)
    assert FusedUpdate().explain().count("\n") == 0
