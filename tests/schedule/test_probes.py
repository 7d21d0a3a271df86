"""What virtual adversarial training adds to a step, counted by hand."""

from dataclasses import replace

import pytest
from memory_twin import check_on_chip, check_transfers

from accsim import engine
from accsim.clock import StepClock
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.tile import Tile, Transfer
from accsim.hardware import boards
from accsim.numerics import Numerics, Scaling
from accsim.passes import Passes
from accsim.schedule import (
    AlternateTeacher,
    DeferredWriteback,
    FusedUpdate,
    GradientAccumulation,
    LayerwiseEma,
    OverlappedEma,
    SeparateEma,
)
from accsim.schedule.operation import macs_by_label
from models import digits, resnet

# 4 frames are labelled, and 3 of them are sure; 5 labelled images
PLAIN = Passes(
    4, 9, 8, ema=False, micro_batches=((4, 3), (5, 5)), own_labels=True, separate_domains=True
)
ONE = replace(PLAIN, probes=((4, 3),))
TWO = replace(PLAIN, probes=((4, 3), (4, 3)))

# maps of a sample: image 16, conv output 32, norm output (pooled) 8, logits 3; 49 parameters
PROBE = {
    ("probe_forward", "images"): (4 * 16, 0),
    ("probe_forward", "weights"): (49 * 2, 0),
    ("probe_forward", "activations"): (4 * (32 + 8), 4 * (32 + 8 + 3)),
    ("probe_loss", "activations"): ((4 + 4) * 3, 0),  # of the probe and of the labels
    ("probe_loss", "error"): (0, 3 * 3),
    # fc: 24 weights; norm: its sums read scale and shift; conv: 18 weights
    ("probe_backward_data", "weights"): ((24 + 4 + 18) * 2, 0),
    # fc in 3, out 8; norm in 8 twice, out 32; conv in 32, out 16
    ("probe_backward_data", "error"): (3 * (3 + 8 + 8 + 32), 3 * (8 + 32 + 16)),
    ("probe_backward_data", "activations"): (3 * (32 + 32), 0),  # norm's saved input, twice
}


def times(moved, count):
    return {key: (count * read, count * written) for key, (read, written) in moved.items()}


@pytest.mark.parametrize(
    "schedule", [SeparateEma(), FusedUpdate(), LayerwiseEma(), DeferredWriteback(2)]
)
def test_every_byte_of_the_probes_is_the_one_counted_by_hand(schedule, lower, machine, travelled):
    plain = travelled(lower(schedule, machine, PLAIN))
    one = travelled(lower(schedule, machine, ONE))
    # frames in and moved ones out for the probe and for the student; the error that the probe left
    # is read for its squares and again to move along
    moving = {
        ("perturb", "images"): (2 * 4 * 16, 2 * 4 * 16),
        ("perturb", "error"): (2 * 3 * 16, 0),
    }
    assert one == plain | PROBE | moving
    two = travelled(lower(schedule, machine, TWO))
    moving = {
        ("perturb", "images"): (3 * 4 * 16, 3 * 4 * 16),
        ("perturb", "error"): (4 * 3 * 16, 0),
    }
    assert two == plain | times(PROBE, 2) | moving


def test_macs_by_hand(network):
    """conv: 16 pixels x 18 weights, also down to its input of 16 pixels; fc: 24."""
    plain = macs_by_label(network, PLAIN)
    assert macs_by_label(network, TWO) == plain | {
        "conv/probe_forward": 2 * 4 * 288,
        "conv/probe_backward_data": 2 * 3 * 288,
        "fc/probe_forward": 2 * 4 * 24,
        "fc/probe_backward_data": 2 * 3 * 24,
    }
    assert "conv/backward_data" not in plain


def test_the_lanes_work_once_a_value_and_the_labels_come_first(lower, machine):
    """Frames have 16 values: those of 3 errors are squared, those of 4 frames are moved."""
    operations = lower(SeparateEma(), machine, ONE)
    moves = [o for o in operations if o.pass_name == "perturb"]
    assert [(o.network, o.words) for o in moves] == [
        ("probe", 4 * 16),
        ("student", 3 * 16),
        ("student", 4 * 16),
    ]
    assert [sum(t.vector_operations for t in o.tiles) for o in moves] == [64, 48, 64]
    order = list(dict.fromkeys(o.pass_name for o in operations))
    assert order[:6] == [
        *("teacher_forward", "perturb", "probe_forward", "probe_loss", "probe_backward_data"),
        "student_forward",
    ]


def test_moved_frames_take_ddr_from_the_move_to_the_last_product_that_reads_them(lower, machine):
    operations = lower(SeparateEma(), machine, ONE)
    lives = {}
    for index, operation in enumerate(operations):
        for one in operation.takes:
            if one.tensor.kind == "images" or one.tensor.name == "probe/conv/input_error":
                lives[one.tensor.name, one.tensor.samples] = [one.size_bytes, index, None]
        for one in operation.gives:
            if (one.tensor.name, one.tensor.samples) in lives:
                lives[one.tensor.name, one.tensor.samples][2] = index
    labels = [o.label for o in operations]
    last_move = len(labels) - labels[::-1].index("conv/perturb") - 1
    assert lives["probe/images", 4][:2] == [64, labels.index("conv/perturb")]
    assert lives["student/images", 4][:2] == [64, last_move]
    assert lives["student/images", 4][2] >= labels.index("conv/backward_weight")
    assert lives["probe/conv/input_error", 3][0] == 48
    assert lives["probe/conv/input_error", 3][2] >= last_move
    assert lives["teacher/images", 4][2] >= last_move


@pytest.mark.parametrize(
    "schedule",
    [
        SeparateEma(),
        FusedUpdate(),
        LayerwiseEma(),
        DeferredWriteback(2),
        OverlappedEma(),
        AlternateTeacher(SeparateEma(), every=2),
        GradientAccumulation(LayerwiseEma(), 2),
    ],
    ids=lambda schedule: schedule.name,
)
@pytest.mark.parametrize("numerics", [Numerics(), Numerics(scaling=Scaling.CURRENT)])
@pytest.mark.parametrize("resident_bytes", [0, 1 << 16, 1 << 20])
def test_no_transfer_finds_other_bytes_and_every_book_closes(schedule, numerics, resident_bytes):
    board = boards.ZCU104
    machine = replace(board, buffers=replace(board.buffers, resident_bytes=resident_bytes))
    network = digits.network(4)
    parts = schedule.turn(1).micro_batches
    passes = replace(
        PLAIN, teacher_forward=8, student_forward=16, backward=14,
        micro_batches=((8 // parts, 6 // parts), (8 // parts, 8 // parts)) * parts,
        probes=((8, 6), (8, 6)),
    )  # fmt: skip
    operations = schedule.operations(network, numerics, machine, OutputStationary(), passes)
    works = []
    timeline = engine.simulate(operations, machine, listen=works.append)
    check_transfers(operations, [work for work in works if isinstance(work.what, Transfer)])
    check_on_chip(operations, [work for work in works if isinstance(work.what, Tile)])
    for book in timeline.ledgers(network, passes).values():
        book.check()


def test_a_residual_network_sends_its_errors_down_to_the_images():
    network = resnet.network()
    clock = StepClock(
        network, Numerics(), SeparateEma(), boards.ZCU104, OutputStationary()
    )  # every kind of step is held against the network's MACs
    passes = replace(PLAIN, probes=((4, 3),))
    kinds = [clock.kind(each, 1) for each in (PLAIN, passes)]
    plain, probed = (kind.timeline for kind in kinds)
    assert kinds[1].passes.probes == ((4, 4),)  # rounded up to what the array takes at once
    data = sum(count for label, count in macs_by_label(network, kinds[1].passes).items()
               if label.endswith("probe_backward_data"))  # fmt: skip
    assert probed.array_macs - plain.array_macs == 4 * network.macs + data
    assert data > 4 * network.macs  # strides insert zeros
