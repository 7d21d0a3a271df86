"""Teacher and student on two parts: bytes by hand, values, and no read that a write overtakes."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from memory_twin import MemoryFault, check_on_chip, check_transfers

from accsim import engine
from accsim.clock import StepClock
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.tile import Tile, Transfer
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.hardware import boards
from accsim.numerics import Numerics, WeightScaling
from accsim.passes import Blend, Passes, Turn
from accsim.schedule.alternate_teacher import AlternateTeacher
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.gradient_accumulation import GradientAccumulation
from accsim.schedule.program import Program
from accsim.schedule.spatial_split import SpatialSplit
from accsim.schedule.teacher_ahead import TeacherAhead
from accsim.training.mean_teacher import MeanTeacher
from models import convnet, digits, resnet

STEP = Passes(6, 7, 5, True, queued=6 - 3, ahead=True)  # labels of 3 samples waited
STORE = 49 * 2  # bytes of all parameters
SPLIT = SpatialSplit(teacher_rows=8)


def step(network, schedule, machine, passes=STEP, numerics=None, dataflow=None):
    """The operations of a step and the machine that they are for."""
    cut = schedule.machine(machine)
    chosen = numerics or Numerics()
    operations = schedule.operations(network, chosen, cut, dataflow or OutputStationary(), passes)
    return operations, cut


def heard(operations, machine):
    """The timeline, its transfers and its tiles."""
    works = []
    timeline = engine.simulate(operations, machine, listen=works.append)
    transfers = [work for work in works if isinstance(work.what, Transfer)]
    return timeline, transfers, [work for work in works if isinstance(work.what, Tile)]


def test_every_word_moves_as_in_one_fused_pass(network, machine, travelled):
    """Update and average read and write student, momentum and teacher once; labelling reads."""
    counts = travelled(step(network, SPLIT, machine)[0])
    assert {key: moved for key, moved in counts.items() if key[1] in ("weights", "teacher")} == {
        ("teacher_forward", "teacher"): (STORE, 0),
        ("student_forward", "weights"): (STORE, 0),
        ("backward_data", "weights"): (24 * 2, 0),
        ("backward_weight", "weights"): (4 * 2, 0),  # scale and shift
        ("update", "weights"): (STORE, STORE),
        ("update", "teacher"): (STORE, STORE),
    }
    assert counts["update", "momentum"] == (STORE, STORE)
    assert counts == travelled(step(network, TeacherAhead(FusedUpdate()), machine)[0])


@pytest.mark.parametrize("scaling", list(WeightScaling))
def test_the_average_is_written_beside_the_teacher_that_labels(network, machine, scaling):
    """Residual words are the average's own: they stay where they are."""
    numerics = Numerics(weight_scaling=scaling, error_feedback=True)
    operations, _ = step(network, SPLIT, machine, numerics=numerics)
    for kind, count in (("teacher", 3), ("exponents", 2 * (scaling is WeightScaling.CHANNEL))):
        read, written = (
            {
                (tensor.address, tensor.address + tensor.size_bytes)
                for operation in operations
                for tensor, _ in getattr(operation, side)
                if tensor.kind == kind and tensor.name.startswith("teacher/")
            }
            for side in ("reads", "writes")
        )
        assert len(read) == len(written) == count
        places = sorted(read | written)
        assert all(end <= start for (_, end), (start, _) in pairwise(places))


@pytest.mark.parametrize("dataflow", [OutputStationary(), WeightStationary()])
@pytest.mark.parametrize("resident_bytes", [0, 40_000, 2**20])
@pytest.mark.parametrize(
    "trained", [convnet.network(width=4), resnet.network(width=4), digits.network(width=8)],
    ids=lambda network: network.name,
)  # fmt: skip
def test_every_transfer_finds_the_bytes_that_it_should(trained, resident_bytes, dataflow):
    whole = boards.ZCU104
    whole = replace(whole, buffers=replace(whole.buffers, resident_bytes=resident_bytes))
    operations, machine = step(trained, SPLIT, whole, dataflow=dataflow)
    _, transfers, tiles = heard(operations, machine)
    check_transfers(operations, transfers)
    check_on_chip(operations, tiles)


def test_with_one_copy_of_the_teacher_a_part_would_wait_for_the_other(monkeypatch):
    """In place the last layer's average waits for the teacher's last layer, and its part with it;
    and without that wait the teacher's part reads words of two teachers."""
    trained, passes = digits.network(width=8), Passes(60, 20, 20, True, queued=50, ahead=True)
    machine = replace(boards.ZCU104, vector_unit=replace(boards.ZCU104.vector_unit, lanes=8))
    ends = []
    for copies in (True, False):
        if not copies:
            monkeypatch.setattr(Program, "keep_teacher_twice", lambda program: None)
        operations, cut = step(trained, SpatialSplit(4), machine, passes)
        timeline, transfers, _ = heard(operations, cut)
        check_transfers(operations, transfers)
        records = timeline.records
        ends.append(max(r.end_ps for r in records if r.operation.part == "student"))
    assert ends[0] < ends[1]
    careless = [replace(operation, follows=()) for operation in operations]
    with pytest.raises(MemoryFault, match=r"overtakes a read|finds other bytes|is under way"):
        check_transfers(careless, heard(careless, cut)[1])


def test_neither_part_waits_for_the_other(network, machine):
    """No operation follows one of the other part: they meet in the DDR's channel alone."""
    operations, _ = step(network, SPLIT, machine)
    number = {id(one): at for at, one in enumerate(operations)}
    for part in ("student", "teacher"):
        own = {number[id(one)] for one in operations if one.part == part}
        assert own
        assert all(set(one.follows) <= own for one in operations if one.part == part)


@pytest.mark.parametrize("teacher_rows", [4, 8, 16])
def test_the_books_of_a_run_close(network, teacher_rows):
    schedule = SpatialSplit(teacher_rows)
    clock = StepClock(network, Numerics(), schedule, boards.ZCU104, OutputStationary())
    first = Passes(6, 4, 4, True, queued=6, ahead=True)
    later = Passes(6, 10, 10, True, ahead=True)
    for number, passes in enumerate((first, later, later), 1):
        clock.charge(passes, number)
    totals = clock.totals()  # LedgerError if one is open
    conv, fc = 16 * 9 * 2, 8 * 3
    assert totals.macs == (18 + 24) * (conv + fc) + 24 * (conv + 2 * fc)
    spent = totals.units.groupby("unit")["cycles"].sum()
    assert set(spent.index) == {
        *(f"{part}_{unit}" for part in ("student", "teacher")
          for unit in ("dma_read", "dma_write", "pe_array", "vector_unit")),
        "ddr",
    }  # fmt: skip
    assert spent.tolist() == pytest.approx([totals.cycles] * 9)
    by_unit = totals.passes.groupby("unit")["macs"].sum()
    assert by_unit["teacher_pe_array"] == 18 * (conv + fc)
    assert by_unit["student_pe_array"] == totals.macs - by_unit["teacher_pe_array"]


def test_a_balanced_step_ends_before_its_parts_one_after_the_other():
    """Both parts at once: later than the slower alone, earlier than one behind the other."""
    operations, machine = step(
        digits.network(width=8), SPLIT, boards.ZCU104, Passes(24, 32, 20, True, ahead=True)
    )
    together = engine.simulate(operations, machine).makespan_ps
    alone = []
    for part, spec in machine.parts.items():
        own = [replace(one, part="", follows=()) for one in operations if one.part == part]
        alone.append(engine.simulate(own, spec).makespan_ps)
    assert max(alone) <= together < sum(alone)


def test_the_values_are_those_of_labels_ahead(network, batches):
    learners = [
        MeanTeacher(confidence_threshold=0.3).start(network, Numerics(), schedule.turn, 9, seed=1)
        for schedule in (SPLIT, TeacherAhead(FusedUpdate()))
    ]
    for batch in batches(4):
        one, other = (learner.step(batch) for learner in learners)
        assert one.passes == other.passes
    for name, stored in learners[0].average.stored.items():
        assert np.array_equal(stored.values, learners[1].average.stored[name].values)
    assert SPLIT.turn(3) == Turn(Blend(1, True), ahead=True)


def test_schedules_around_it_cut_the_machine_too(network, travelled):
    around = AlternateTeacher(GradientAccumulation(SPLIT, micro_batches=2), every=2)
    assert around.machine(boards.ZCU104) == boards.ZCU104.split(8)
    passes = Passes(6, 8, 8, True, ((4, 4), (4, 4)), queued=0, ahead=True)
    operations, machine = step(network, around, boards.ZCU104, passes)
    assert {operation.part for operation in operations} == {"student", "teacher"}
    engine.simulate(operations, machine)
    resting = replace(passes, teacher_forward=0, queued=-6, ema=False)
    operations, _ = step(network, around, boards.ZCU104, resting)
    assert {operation.part for operation in operations} == {"student"}


def test_without_a_backward_pass_the_average_runs_alone(network, machine, travelled):
    passes = replace(STEP, backward=0)
    counts = travelled(step(network, SPLIT, machine, passes)[0])
    assert counts["ema", "teacher"] == (STORE, STORE)


def test_impossible_choices_are_refused(network):
    with pytest.raises(ValueError, match=r"teacher_rows must be 1 to 31, .* not 32"):
        SpatialSplit(32).machine(boards.ZCU104)
    with pytest.raises(
        ValueError, match="accelerator of a SpatialSplit must be what its `machine`"
    ):
        SPLIT.operations(network, Numerics(), boards.ZCU104, OutputStationary(), STEP)
    with pytest.raises(ValueError, match=r"must not label ahead itself, but SpatialSplit"):
        TeacherAhead(SPLIT)
    operations, _ = step(network, SPLIT, boards.ZCU104)
    with pytest.raises(
        ValueError, match=r"parts \[''\] of ZCU104, not of \['student', 'teacher'\]"
    ):
        engine.simulate(operations, boards.ZCU104)
    with pytest.raises(ValueError, match=r"step must be at least 1 .* not 0"):
        SPLIT.blend(0)
    assert "\n" not in SPLIT.explain()
