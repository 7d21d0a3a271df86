"""A teacher in one step of n: what the others move, and the teacher that labels."""

from copy import deepcopy

import numpy as np
import pytest

from accsim.clock import StepClock
from accsim.dataflow.output_stationary import OutputStationary
from accsim.numerics import Numerics
from accsim.passes import Blend, Passes, Turn
from accsim.schedule.alternate_teacher import AlternateTeacher
from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.gradient_accumulation import GradientAccumulation
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.separate_ema import SeparateEma
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.supervised import Supervised, SupervisedLearner

LABELS = Passes(6, 10, 8, ema=True)
ALONE = Passes(0, 4, 4, ema=False)
STORE = 49 * 2  # bytes of all parameters


def test_the_teacher_takes_part_in_the_first_step_of_each_round():
    schedule = AlternateTeacher(SeparateEma(), every=3)
    assert [schedule.turn(step).labels for step in range(1, 8)] == [
        *(True, False, False),
        *(True, False, False),
        True,
    ]
    blends = [schedule.turn(step).blend for step in range(1, 8)]
    assert blends == [None, None, Blend(1, True), None, None, Blend(1, True), None]


def test_the_inner_schedule_counts_rounds():
    schedule = AlternateTeacher(DeferredWriteback(2), every=3)
    assert [schedule.blend(step) for step in (1, 3, 4, 6, 7)] == [
        *(Blend(1, False),) * 2,
        *(Blend(2, True),) * 2,
        Blend(1, False),
    ]
    assert schedule.turn(6) == Turn(Blend(2, True), labels=False)
    both = AlternateTeacher(GradientAccumulation(SeparateEma(), micro_batches=4), every=2)
    assert both.turn(2) == Turn(Blend(1, True), False, 4)
    twice = AlternateTeacher(AlternateTeacher(SeparateEma(), every=2), every=2)
    assert [twice.turn(step).labels for step in range(1, 6)] == [True, False, False, False, True]


@pytest.mark.parametrize("inner", [SeparateEma(), FusedUpdate(), LayerwiseEma()])
def test_between_two_labellings_no_word_of_the_teacher_moves(inner, lower, machine, travelled):
    """Maps of a sample: image 16, conv output 32, norm output 8, logits 3 bytes."""
    schedule = AlternateTeacher(inner, every=2)
    assert travelled(lower(schedule, machine, LABELS)) == travelled(lower(inner, machine, LABELS))
    assert travelled(lower(schedule, machine, ALONE)) == {
        ("student_forward", "images"): (4 * 16, 0),
        ("student_forward", "weights"): (STORE, 0),
        ("student_forward", "activations"): (4 * (32 + 8), 4 * (32 + 8 + 3)),
        ("loss", "activations"): (4 * 3, 0),
        ("loss", "labels"): (4, 0),
        ("loss", "error"): (0, 4 * 3),
        ("backward_data", "weights"): (24 * 2, 0),
        ("backward_data", "error"): (4 * (3 + 8), 4 * (8 + 32)),
        ("backward_data", "activations"): (4 * 32, 0),
        ("backward_weight", "activations"): (4 * (8 + 32), 0),
        ("backward_weight", "error"): (4 * (3 + 8 + 32), 0),
        ("backward_weight", "weights"): (4 * 2, 0),
        ("backward_weight", "images"): (4 * 16, 0),
        ("update", "weights"): (STORE, STORE),
        ("update", "momentum"): (STORE, STORE),
    }


def test_a_run_writes_the_teacher_back_once_in_every_rounds(network, machine):
    """Rounds of 2 steps, of which one in 3 stores: 2 of 12 steps write it, all in labelling."""
    schedule = AlternateTeacher(DeferredWriteback(3), every=2)
    clock = StepClock(network, Numerics(), schedule, machine, OutputStationary())
    for step in range(1, 13):
        clock.charge(LABELS if schedule.turn(step).labels else ALONE, step)
    tensors = clock.totals().tensors  # its ledgers close
    teacher = tensors[tensors["class"] == "teacher"]
    assert teacher["write_bytes"].sum() == 2 * STORE
    assert teacher["read_bytes"].sum() == 6 * STORE
    assert set(teacher["pass"]) == {"teacher_forward"}


def test_the_teacher_that_labels_averages_the_last_students_of_the_rounds_before(
    network, batches, nearest, averaged
):
    """In plain integers; in the steps between, the student is one that has no teacher."""
    every, steps = 3, 8
    schedule = AlternateTeacher(SeparateEma(), every=every)
    rule = MeanTeacher(teacher_shift=2, confidence_threshold=0.0)
    learner = rule.start(network, nearest, schedule.turn, steps, seed=1)
    teacher = {name: stored.values.ravel().tolist() for name, stored in learner.stored.items()}
    for step, batch in enumerate(batches(steps), 1):
        labels = step % every == 1
        alone = SupervisedLearner(
            Supervised(), deepcopy(learner.student), SeparateEma().turn, steps, 1
        )
        alone.done = step - 1
        alone.step(batch)
        outcome = learner.step(batch)
        same = all(
            np.array_equal(stored.values, alone.student.parameters[name].values)
            for name, stored in learner.student.parameters.items()
        )
        assert same is not labels
        assert outcome.passes == (Passes(6, 10, 10, True) if labels else ALONE)
        assert outcome.skipped_frames == (0 if labels else 6)
        if step % every == 0:
            shift = min(2, (step // every).bit_length())
            for name, student in learner.student.parameters.items():
                teacher[name] = averaged(np.array(teacher[name]), student.values, shift)
        assert (outcome.teacher_changed > 0) is (step % every == 0)
        for name, expected in teacher.items():
            assert learner.seen[name].values.ravel().tolist() == expected, (step, name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AlternateTeacher(SeparateEma(), 0), "every must be a whole number of at least 1"),
        (lambda: AlternateTeacher("SeparateEma"), "schedule must be a Schedule .*'SeparateEma'"),
        (lambda: AlternateTeacher(SeparateEma()).blend(0), r"step must be at least 1 .* not 0"),
    ],
)
def test_impossible_choices_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_explanation_is_one_line():
    told = AlternateTeacher(SeparateEma(), 5).explain()
    assert "one step of 5" in told
    assert "\n" not in told
