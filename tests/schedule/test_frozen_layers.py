"""What a step moves and multiplies where layers do not train, counted by hand."""

from dataclasses import replace

import pytest
from memory_twin import check_on_chip, check_transfers

from accsim import engine
from accsim.clock import StepClock
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.tile import Tile, Transfer
from accsim.hardware import boards
from accsim.numerics import Numerics
from accsim.passes import Passes
from accsim.schedule import (
    DeferredWriteback,
    FusedUpdate,
    GradientAccumulation,
    LayerwiseEma,
    OverlappedEma,
    SeparateEma,
    SpatialSplit,
    TeacherAhead,
)
from accsim.schedule.operation import macs_by_label
from models import digits

STEP = Passes(teacher_forward=2, student_forward=3, backward=2, ema=True)
HEAD = replace(STEP, frozen=("conv", "norm"))  # what is left is fc
FOOT = replace(STEP, frozen=("norm", "fc"))  # what is left is conv
MIDDLE = replace(STEP, frozen=("conv", "fc"))  # what is left is norm

# maps of a sample: image 16, conv output 32, norm output (pooled) 8, logits 3
FORWARD = {
    ("teacher_forward", "images"): (2 * 16, 0),
    ("teacher_forward", "teacher"): (49 * 2, 0),
    ("teacher_forward", "activations"): (2 * (32 + 8), 2 * (32 + 8 + 3)),
    ("student_forward", "images"): (3 * 16, 0),
    ("student_forward", "weights"): (49 * 2, 0),
    ("student_forward", "activations"): (3 * (32 + 8), 3 * (32 + 8 + 3)),
    ("loss", "activations"): ((2 + 3) * 3, 0),
    ("loss", "labels"): (3, 0),
    ("loss", "error"): (0, 2 * 3),
}
BACKWARD = {
    HEAD: {
        # fc alone: its input and its error
        ("backward_weight", "activations"): (2 * 8, 0),
        ("backward_weight", "error"): (2 * 3, 0),
    },
    FOOT: {
        # fc: 24 weights, error 3 in and 8 out; norm twice: error 8, saved map 32; sums read its
        # scale and shift, the second pass writes an error of 32
        ("backward_data", "weights"): ((24 + 4) * 2, 0),
        ("backward_data", "error"): (2 * (3 + 8 + 8), 2 * (8 + 32)),
        ("backward_data", "activations"): (2 * (32 + 32), 0),
        # conv: its input and its error
        ("backward_weight", "images"): (2 * 16, 0),
        ("backward_weight", "error"): (2 * 32, 0),
    },
    MIDDLE: {
        ("backward_data", "weights"): (24 * 2, 0),
        ("backward_data", "error"): (2 * 3, 2 * 8),
        # sums of norm: scale and shift, error, saved map
        ("backward_weight", "weights"): (4 * 2, 0),
        ("backward_weight", "error"): (2 * 8, 0),
        ("backward_weight", "activations"): (2 * 32, 0),
    },
}
TRAINED_BYTES = {HEAD: 27 * 2, FOOT: 18 * 2, MIDDLE: 4 * 2}
SCHEDULES = [
    SeparateEma(),
    FusedUpdate(),
    LayerwiseEma(),
    DeferredWriteback(2),
    OverlappedEma(),
    GradientAccumulation(SeparateEma(), 2),
    TeacherAhead(LayerwiseEma()),
    SpatialSplit(teacher_rows=8),
]


@pytest.mark.parametrize("step", BACKWARD, ids=["head", "foot", "middle"])
@pytest.mark.parametrize("schedule", [SeparateEma(), OverlappedEma()])
def test_every_byte_where_the_average_has_a_pass_of_its_own(
    schedule, step, lower, machine, travelled
):
    trained = TRAINED_BYTES[step]
    assert travelled(lower(schedule, machine, step)) == {
        **FORWARD,
        **BACKWARD[step],
        ("update", "weights"): (trained, trained),
        ("update", "momentum"): (trained, trained),
        ("ema", "weights"): (trained, 0),
        ("ema", "teacher"): (trained, trained),
    }


@pytest.mark.parametrize("step", BACKWARD, ids=["head", "foot", "middle"])
@pytest.mark.parametrize("store", [True, False])
def test_every_byte_where_the_forward_pass_forms_the_average(
    step, store, lower, machine, travelled
):
    """The student is read, and the teacher written, of what trains only."""
    trained = TRAINED_BYTES[step]
    assert travelled(lower(DeferredWriteback(2), machine, step, store)) == {
        **FORWARD,
        ("teacher_forward", "teacher"): (49 * 2, trained * store),
        ("teacher_forward", "weights"): (trained, 0),
        **BACKWARD[step],
        ("update", "weights"): (trained, trained),
        ("update", "momentum"): (trained, trained),
    }


@pytest.mark.parametrize("step", BACKWARD, ids=["head", "foot", "middle"])
def test_every_byte_where_update_and_average_are_one_pass(step, lower, machine, travelled):
    trained = TRAINED_BYTES[step]
    assert travelled(lower(FusedUpdate(), machine, step)) == {
        **FORWARD,
        **BACKWARD[step],
        ("update", "weights"): (trained, trained),
        ("update", "momentum"): (trained, trained),
        ("update", "teacher"): (trained, trained),
    }


def test_macs_by_hand(network):
    # conv: 16 pixels x 18 weights; fc: 24
    forward = {
        "conv/teacher_forward": 2 * 288,
        "conv/student_forward": 3 * 288,
        "fc/teacher_forward": 2 * 24,
        "fc/student_forward": 3 * 24,
    }
    assert macs_by_label(network, HEAD) == forward | {"fc/backward_weight": 2 * 24}
    assert macs_by_label(network, MIDDLE) == forward | {"fc/backward_data": 2 * 24}
    assert macs_by_label(network, FOOT) == forward | {
        "fc/backward_data": 2 * 24,
        "conv/backward_weight": 2 * 288,
    }


def test_only_what_trains_has_momenta_and_a_second_teacher(lower, machine):
    """What DDR holds from step to step: 49 words of student and teacher, 27 of what is fc's."""

    def stored(schedule):
        operations = lower(schedule, schedule.machine(machine), HEAD)
        takes = {one for operation in operations for one in operation.takes}
        kinds = ("weights", "momentum", "teacher")
        return [
            sum(one.size_bytes for one in takes if one.tensor.kind == kind and not one.copy)
            for kind in kinds
        ]

    assert stored(SeparateEma()) == [49 * 2, 27 * 2, 49 * 2]
    assert stored(SpatialSplit(teacher_rows=8)) == [49 * 2, 27 * 2, (49 + 27) * 2]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
@pytest.mark.parametrize("step", BACKWARD, ids=["head", "foot", "middle"])
def test_books_close_and_less_is_done(schedule, step, network):
    """Bytes, bursts, MACs, time and energy of a step agree on both sides, or the clock refuses."""
    clock = StepClock(network, Numerics(), schedule, boards.ZCU104, OutputStationary())

    def cost(passes):
        passes = replace(passes, backward=3)  # the array's granule
        if isinstance(schedule, GradientAccumulation):
            passes = replace(passes, micro_batches=((1, 1), (2, 2)))
        return clock.charge(passes, 1)

    whole, some = cost(STEP), cost(step)
    assert some.cycles < whole.cycles
    assert some.joules < whole.joules
    assert some.ddr_read_bytes + some.ddr_write_bytes < whole.ddr_read_bytes + whole.ddr_write_bytes
    macs = macs_by_label(network, replace(step, backward=3))
    assert some.macs == sum(macs.values()) < whole.macs


def test_every_transfer_finds_its_bytes_where_stores_are_left_out():
    """A twin of the memory replays a step of which half of the layers rest."""
    network = digits.network(width=8)
    names = [node.name for node in network.nodes if node.trains(())]
    passes = Passes(6, 9, 7, True, frozen=tuple(names[::2]))
    buffers = replace(boards.ZCU104.buffers, resident_bytes=40_000)  # some maps stay, most travel
    machine, works = replace(boards.ZCU104, buffers=buffers), []
    operations = LayerwiseEma().operations(network, Numerics(), machine, OutputStationary(), passes)
    engine.simulate(operations, machine, listen=works.append)
    check_transfers(operations, [work for work in works if isinstance(work.what, Transfer)])
    check_on_chip(operations, [work for work in works if isinstance(work.what, Tile)])
