"""Labels that are one step old: what waits for what, bytes by hand, and the values replayed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from accsim import engine
from accsim.clock import StepClock
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware.dram_controller import DramController
from accsim.kernels import loss
from accsim.numerics import Numerics, Rounding
from accsim.passes import Blend, Passes, Turn
from accsim.schedule.alternate_teacher import AlternateTeacher
from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.gradient_accumulation import GradientAccumulation
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.overlapped_ema import OverlappedEma
from accsim.schedule.separate_ema import SeparateEma
from accsim.schedule.teacher_ahead import TeacherAhead
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map
from accsim.training.supervised import new_student, round_error

STEP = Passes(6, 7, 5, True, queued=6 - 3, ahead=True)  # labels of 3 samples waited
STORE = 49 * 2  # bytes of all parameters
INNER = [SeparateEma(), FusedUpdate(), OverlappedEma(), LayerwiseEma(), DeferredWriteback(2)]


@pytest.mark.parametrize("inner", INNER)
def test_bytes_are_those_of_the_inner_schedule_and_of_labels_that_wait(
    inner, lower, machine, travelled
):
    """Logits of a sample: 3 bytes. Of 6 samples they leave; those of 3 come from the step before.

    The loss of the inner schedule reads the 6 that the same step made.
    """
    now = replace(STEP, queued=0, ahead=False)
    counts, expected = (
        travelled(lower(schedule, machine, passes))
        for schedule, passes in ((TeacherAhead(inner), STEP), (inner, now))
    )
    assert expected["loss", "activations"] == ((7 + 6) * 3, 0)
    assert counts == expected | {("loss", "activations"): ((7 + 3) * 3, 0)}


@pytest.mark.parametrize("inner", INNER)
def test_the_loss_waits_for_no_pass_of_the_teacher(inner, lower, machine):
    (loss_pass,) = (o for o in lower(TeacherAhead(inner), machine, STEP) if o.pass_name == "loss")
    (needed,) = {
        transfer.needs_bytes
        for tile in loss_pass.tiles
        for transfer in tile.loads
        if transfer.tensor.name.startswith("teacher")
    }
    assert needed == 0


def test_in_the_first_step_no_labels_wait(lower, machine, travelled):
    first = replace(STEP, student_forward=4, backward=4, queued=6)
    counts = travelled(lower(TeacherAhead(SeparateEma()), machine, first))
    assert counts["loss", "activations"] == (4 * 3, 0)
    assert counts["teacher_forward", "teacher"] == (STORE, 0)


def test_teacher_and_student_take_turns_on_the_array(lower, machine):
    """The student's update reads no word of the teacher's pass: both run from first to last."""
    names = [
        o.pass_name
        for o in lower(TeacherAhead(SeparateEma()), machine, STEP)
        if o.unit == "pe_array"
    ]
    first, last = names.index("teacher_forward"), len(names) - names[::-1].index("teacher_forward")
    assert "student_forward" in names[first:last] or "backward_weight" in names[first:last]
    assert sorted(names) == sorted(
        o.pass_name for o in lower(SeparateEma(), machine, STEP) if o.unit == "pe_array"
    )


@pytest.mark.parametrize("inner", INNER[1:])
def test_what_reads_words_that_change_is_done_before(inner, lower, machine):
    """The fused update writes the teacher; the others read the student's words for its average."""
    names = [o.pass_name for o in lower(TeacherAhead(inner), machine, STEP)]
    assert "update" not in names[: len(names) - names[::-1].index("teacher_forward")]


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("channel", [False, True])
def test_no_word_is_overwritten_before_it_has_been_read(inner, channel, lower, machine):
    """On the machine, with one read engine or two: all reads of the step's old words, that of the
    update too, have ended when the first new word leaves."""
    machine = replace(machine, dma=replace(machine.dma, weight_channel=channel))
    operations = lower(TeacherAhead(inner), machine, STEP)
    moved = []

    class Overheard(DramController):
        def transfer(self, address, size_bytes, is_write, interval_ps=0):
            event = super().transfer(address, size_bytes, is_write, interval_ps)
            moved.append([address, size_bytes, is_write, self.env.now, None])
            row = moved[-1]
            event.callbacks.append(lambda _: row.__setitem__(4, self.env.now))
            return event

    engine.simulate(operations, machine, Overheard)
    wanted = {}
    for operation in operations:
        for tensor, size in operation.reads if operation.pass_name != "ema" else ():
            if tensor.kind in ("weights", "teacher"):
                wanted[tensor] = wanted.get(tensor, 0) + size
    assert len(wanted) == 6
    for tensor, size_bytes in wanted.items():
        here = [row for row in moved if row[0] == tensor.address]
        begun = min((start for *_, is_write, start, _ in here if is_write), default=math.inf)
        read = sum(size for _, size, is_write, _, end in here if not is_write and end <= begun)
        assert read >= size_bytes, tensor.name


@pytest.mark.parametrize("inner", INNER)
def test_the_books_of_a_run_close(inner, network, machine):
    """The first step has no labels yet; each of the others learns from those of the one before."""
    schedule = TeacherAhead(inner)
    clock = StepClock(network, Numerics(), schedule, machine, OutputStationary())
    first = Passes(6, 4, 4, True, queued=6, ahead=True)
    later = Passes(6, 10, 10, True, ahead=True)
    costs = [clock.charge(passes, step) for step, passes in enumerate((first, later, later), 1)]
    totals = clock.totals()  # LedgerError if one is open
    assert costs[0].cycles < costs[1].cycles
    conv, fc = 16 * 9 * 2, 8 * 3
    assert totals.macs == (18 + 24) * (conv + fc) + 24 * (conv + 2 * fc)


def test_the_student_learns_from_labels_of_the_step_before(network, batches, nearest, averaged):
    """The rule replayed: the teacher that saw the updates up to the step before labels a batch, and
    the step after learns from them, together with its own labelled images."""
    shift, steps = 2, 6
    rule = MeanTeacher(teacher_shift=shift, confidence_threshold=0.5, ramp_share=0.0)
    learner = rule.start(network, nearest, TeacherAhead(SeparateEma()).turn, steps, seed=1)
    twin = new_student(network, nearest, 1)
    labeller = rule.start(network, nearest, SeparateEma().turn, steps, seed=1)
    teacher = {
        name: stored.values.ravel().tolist() for name, stored in learner.average.stored.items()
    }
    waiting = None
    taught = set()
    for step, batch in enumerate(batches(steps), 1):
        for name, words in teacher.items():  # of step - 1 updates
            assert learner.average.seen[name].values.ravel().tolist() == words, (step, name)
        views = Map(batch.teacher_view, batch.exponent)
        labels = labeller.executor.forward(learner.average.seen, views).logits
        sure = loss.softmax(labels, loss.EXP2).max(axis=1) > round(0.5 * 2**15)
        frames, logits, accepted = waiting or (batch.student_view[:0], labels[:0], sure[:0])
        waiting = batch.student_view, labels, sure
        images = np.concatenate([batch.labelled, frames])
        record = twin.executor.forward(twin.parameters, Map(images, batch.exponent))
        by_label = loss.cross_entropy_error(
            loss.softmax(record.logits[:4], loss.EXP2), batch.labels, 4
        )
        distance = record.logits[4:].astype(object) - logits
        by_teacher = 2 * distance * round(0.3 * 2**16) * 4 // (6 * 3)  # 12 + 16 + 2 bits
        rows = np.array([*range(4), *(4 + np.flatnonzero(accepted))])
        wide = np.concatenate([by_label, by_teacher.astype(np.int64)])[rows]
        found = twin.executor.backward(
            record, round_error(wide, 8, int(Rounding.HALF_UP)), rows, step
        )
        rule.optimizer.apply(twin, found, rule.optimizer.rate(step, steps), (1, 3, step))
        outcome = learner.step(batch)
        count = len(frames)
        assert outcome.passes == Passes(
            6, 4 + count, 4 + int(accepted.sum()), True, queued=6 - count, ahead=True
        )
        assert outcome.taught.tolist() == accepted.tolist()
        taught.add(int(accepted.sum()))
        for name, student in learner.student.parameters.items():
            assert np.array_equal(student.values, twin.parameters[name].values), (step, name)
            words = np.array(teacher[name])
            teacher[name] = averaged(words, student.values, min(shift, step.bit_length()))
    assert len(taught) > 2  # some batches are taken in part


def test_with_a_teacher_that_rests_labels_wait_for_the_next_step_only(network, batches, nearest):
    schedule = AlternateTeacher(TeacherAhead(SeparateEma()), every=3)
    rule = MeanTeacher(teacher_shift=2, confidence_threshold=0.0)
    learner = rule.start(network, nearest, schedule.turn, 7, seed=1)
    outcomes = [learner.step(batch).passes for batch in batches(7)]
    labels, learns, alone = (
        Passes(6, 4, 4, True, queued=6, ahead=True),
        Passes(0, 10, 10, False, queued=-6, ahead=True),
        Passes(0, 4, 4, False, ahead=True),
    )
    assert outcomes == [labels, learns, alone] * 2 + [labels]


def test_turns_and_blends_are_those_of_the_inner_schedule():
    schedule = TeacherAhead(GradientAccumulation(DeferredWriteback(3), micro_batches=2))
    assert schedule.turn(3) == Turn(Blend(3, True), 1, 2, ahead=True)
    assert schedule.blend(3) == Blend(3, True)
    assert "\n" not in schedule.explain()
    with pytest.raises(ValueError, match=r"schedule must be a Schedule .*'SeparateEma'"):
        TeacherAhead("SeparateEma")


def test_a_pass_stays_behind_the_one_that_keeps_its_maps_on_chip(lower, machine):
    """By its work alone the teacher's last layer belongs between the two passes of a batch norm."""
    passes = Passes(1, 200, 50, True, queued=1 - 3, ahead=True)
    names = [o.label for o in lower(TeacherAhead(SeparateEma()), machine, passes)]
    place = names.index("norm/backward_weight")
    assert names[place + 1 : place + 3] == ["norm/backward_data", "fc/teacher_forward"]
