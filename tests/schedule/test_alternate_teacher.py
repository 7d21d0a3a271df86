"""A teacher in one step of n: what the others move, the teacher that labels, and its queue."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from accsim.clock import StepClock
from accsim.data.stream import Batch
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.kernels import loss
from accsim.numerics import Numerics
from accsim.passes import Blend, Passes, Turn
from accsim.schedule.alternate_teacher import AlternateTeacher
from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.gradient_accumulation import GradientAccumulation
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.separate_ema import SeparateEma
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map
from accsim.training.supervised import Supervised, SupervisedLearner

LABELS = Passes(6, 10, 8, ema=True)
ALONE = Passes(0, 4, 4, ema=False)
FIRST = Passes(18, 10, 8, ema=True, queued=12)  # 6 frames of each of 3 batches
LATER = Passes(0, 10, 8, ema=False, queued=-6)
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
    teacher = {
        name: stored.values.ravel().tolist() for name, stored in learner.average.stored.items()
    }
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
            assert learner.average.seen[name].values.ravel().tolist() == expected, (step, name)


def test_a_queue_is_labelled_in_the_first_step_of_each_round():
    schedule = AlternateTeacher(SeparateEma(), every=3, queue=True)
    assert [schedule.turn(step).labels for step in range(1, 8)] == [3, 0, 0, 3, 0, 0, 3]
    skipping = AlternateTeacher(SeparateEma(), every=3)
    assert [schedule.turn(step).blend for step in range(1, 8)] == [
        skipping.turn(step).blend for step in range(1, 8)
    ]
    around = GradientAccumulation(schedule, micro_batches=2)
    assert around.turn(4) == Turn(None, 3, 2)
    outside = AlternateTeacher(skipping, every=2, queue=True)
    assert [outside.turn(step).labels for step in range(1, 8)] == [2, 0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("inner", [SeparateEma(), FusedUpdate(), LayerwiseEma()])
def test_labels_of_a_queue_wait_in_ddr(inner, lower, machine, travelled):
    """Maps of a sample: image 16, conv output 32, norm output 8, logits 3 bytes.

    18 frames pass the teacher, whose words are read once; 6 labels are read in each of the steps.
    """
    schedule = AlternateTeacher(inner, every=3, queue=True)
    first, later = (travelled(lower(schedule, machine, passes)) for passes in (FIRST, LATER))
    every = travelled(lower(inner, machine, LABELS))
    forward = {key: moved for key, moved in first.items() if key[0] == "teacher_forward"}
    words = {key: moved for key, moved in every.items() if key[0] == "teacher_forward"}
    assert forward == words | {
        ("teacher_forward", "images"): (18 * 16, 0),
        ("teacher_forward", "activations"): (18 * (32 + 8), 18 * (32 + 8 + 3)),
    }
    rest = {key: moved for key, moved in every.items() if key not in words}
    assert first == forward | rest
    assert rest["loss", "activations"] == ((10 + 6) * 3, 0)
    alone = Passes(0, 10, 8, ema=False)
    assert later == travelled(lower(inner, machine, alone)) | {
        ("loss", "activations"): ((10 + 6) * 3, 0)
    }


def test_labels_that_later_steps_read_leave_the_chip_though_they_had_room(lower, travelled):
    schedule = AlternateTeacher(SeparateEma(), every=3, queue=True)
    roomy = boards.ZCU104
    kept = travelled(lower(schedule, roomy, LABELS))
    assert ("teacher_forward", "activations") not in kept
    assert ("loss", "activations") not in kept
    first, later = (travelled(lower(schedule, roomy, passes)) for passes in (FIRST, LATER))
    assert first["teacher_forward", "activations"] == (0, 18 * 3)
    assert first["loss", "activations"] == later["loss", "activations"] == (6 * 3, 0)


def test_micro_batches_share_the_queued_labels_of_their_step(lower, machine, travelled):
    schedule = GradientAccumulation(AlternateTeacher(SeparateEma(), every=3, queue=True))
    halves = replace(LATER, micro_batches=((5, 4), (5, 4)))
    assert travelled(lower(schedule, machine, halves))["loss", "activations"] == (16 * 3, 0)


def test_a_run_reads_the_teacher_once_a_round(network, machine):
    """6 steps are 2 rounds: 2 labellings and 2 averages read it, 2 averages write it."""
    schedule = AlternateTeacher(SeparateEma(), every=3, queue=True)
    clock = StepClock(network, Numerics(), schedule, machine, OutputStationary())
    for step in range(1, 7):
        clock.charge(FIRST if schedule.turn(step).labels else LATER, step)
    totals = clock.totals()  # its ledgers close
    tensors = totals.tensors
    teacher = tensors[tensors["class"] == "teacher"]
    assert teacher["read_bytes"].sum() == 4 * STORE
    assert teacher["write_bytes"].sum() == 2 * STORE
    labels = tensors[tensors["tensor"] == "teacher/fc/output"]
    assert labels["write_bytes"].sum() == labels["read_bytes"].sum() == 36 * 3
    assert len(totals.kinds) == 2


def test_a_queue_is_labelled_by_the_teacher_of_the_rounds_first_step(network, nearest, averaged):
    """All its frames in one forward pass; the averages in plain integers.

    A step with labels that waited does what one does whose teacher gives the same labels at once.
    """
    every, steps = 3, 7
    schedule = AlternateTeacher(SeparateEma(), every=every, queue=True)
    rule = MeanTeacher(teacher_shift=2, confidence_threshold=0.6)
    learner = rule.start(network, nearest, schedule.turn, steps, seed=1)
    teacher = {
        name: stored.values.ravel().tolist() for name, stored in learner.average.stored.items()
    }
    rng = np.random.default_rng(5)
    taught = []
    for step in range(1, steps + 1):
        turn = (step - 1) % every
        images = rng.integers(-127, 128, (28, 4, 4, 1), np.int8)
        labelled, student_view, teacher_view = np.split(images, [4, 10])
        if turn:
            teacher_view = teacher_view[:0]
        else:
            queue = (
                deepcopy(learner.executor)
                .forward(learner.average.seen, Map(teacher_view, -6))
                .logits
            )
        batch = Batch(labelled, rng.integers(0, 3, 4), student_view, teacher_view, -6, 6 * step, 0)
        logits = queue[6 * turn : 6 * turn + 6]
        twin = deepcopy(learner)
        twin.turn, twin.label = SeparateEma().turn, lambda _, logits=logits: logits
        outcome = learner.step(batch)
        at_once = twin.step(replace(batch, teacher_view=student_view))
        sure = loss.softmax(logits, loss.EXP2).max(axis=1) > 0.6 * (1 << loss.PROBABILITY_BITS)
        assert outcome.taught.tolist() == at_once.taught.tolist() == sure.tolist()
        taught += sure.tolist()
        for name, stored in learner.student.parameters.items():
            assert np.array_equal(stored.values, twin.student.parameters[name].values), name
        backward = 4 + int(sure.sum())
        assert outcome.passes == (
            Passes(0, 10, backward, False, queued=-6)
            if turn
            else Passes(18, 10, backward, True, queued=12)
        )
        assert outcome.skipped_frames == 0
        if step % every == 0:
            shift = min(2, (step // every).bit_length())
            for name, student in learner.student.parameters.items():
                teacher[name] = averaged(np.array(teacher[name]), student.values, shift)
        for name, expected in teacher.items():
            assert learner.average.seen[name].values.ravel().tolist() == expected, (step, name)
    assert 0 < sum(taught) < len(taught)


def test_more_labels_cannot_wait_than_were_made():
    with pytest.raises(ValueError, match="samples of a pass must be 0 or more"):
        Passes(6, 10, 8, True, queued=7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AlternateTeacher(SeparateEma(), queue=2), "queue must be True or False, not 2"),
        (
            lambda: AlternateTeacher(AlternateTeacher(SeparateEma(), queue=True)),
            "schedule of an AlternateTeacher must not queue labels itself",
        ),
        (lambda: AlternateTeacher(SeparateEma(), 0), "every must be a whole number of at least 1"),
        (lambda: AlternateTeacher("SeparateEma"), "schedule must be a Schedule .*'SeparateEma'"),
        (lambda: AlternateTeacher(SeparateEma()).blend(0), r"step must be at least 1 .* not 0"),
    ],
)
def test_impossible_choices_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_explanation_is_one_line():
    for queue in (False, True):
        told = AlternateTeacher(SeparateEma(), 5, queue).explain()
        assert "one step of 5" in told
        assert ("5 batches at once" in told) is queue
        assert "\n" not in told
