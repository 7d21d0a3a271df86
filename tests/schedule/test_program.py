"""What a training step moves, counted by hand."""

from collections import Counter
from dataclasses import replace

import pytest

from accsim.dataflow.base import FixedTiling
from accsim.hardware.buffer import BufferSpec
from accsim.network import (
    IDENTITY,
    RELU,
    Activate,
    Add,
    AveragePool,
    BatchNorm,
    Conv2d,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Shape,
)
from accsim.numerics import Numerics, Scaling, WeightScaling
from accsim.passes import Passes
from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.operation import macs_by_label
from accsim.schedule.overlapped_ema import OverlappedEma
from accsim.schedule.separate_ema import SeparateEma

STEP = Passes(teacher_forward=2, student_forward=3, backward=2, ema=True)


def moved(operations):
    """(pass, class) -> bytes read, bytes written."""
    counts = {}
    for operation in operations:
        for place, side in enumerate((operation.reads, operation.writes)):
            for tensor, size in side:
                counts.setdefault((operation.pass_name, tensor.kind), [0, 0])[place] += size
    return {key: tuple(value) for key, value in counts.items()}


def test_every_byte_of_a_step_is_the_one_counted_by_hand(lower, machine):
    # maps of a sample: image 16, conv output 32, norm output (pooled) 8, logits 3; 49 parameters
    parameters = 49 * 2
    assert moved(lower(SeparateEma(), machine, STEP)) == {
        ("teacher_forward", "images"): (2 * 16, 0),
        ("teacher_forward", "teacher"): (parameters, 0),
        ("teacher_forward", "activations"): (2 * (32 + 8), 2 * (32 + 8 + 3)),
        ("student_forward", "images"): (3 * 16, 0),
        ("student_forward", "weights"): (parameters, 0),
        ("student_forward", "activations"): (3 * (32 + 8), 3 * (32 + 8 + 3)),
        ("loss", "activations"): ((2 + 3) * 3, 0),
        ("loss", "labels"): (3, 0),
        ("loss", "error"): (0, 2 * 3),
        # fc reads 24 weights and its error, norm's second pass reads error and saved output
        ("backward_data", "weights"): (24 * 2, 0),
        ("backward_data", "error"): (2 * (3 + 8), 2 * (8 + 32)),
        ("backward_data", "activations"): (2 * 32, 0),
        # fc: input and error; norm's first pass: scale and shift, error, saved output; conv
        ("backward_weight", "activations"): (2 * (8 + 32), 0),
        ("backward_weight", "error"): (2 * (3 + 8 + 32), 0),
        ("backward_weight", "weights"): (4 * 2, 0),
        ("backward_weight", "images"): (2 * 16, 0),
        ("update", "weights"): (parameters, parameters),
        ("update", "momentum"): (parameters, parameters),
        ("ema", "weights"): (parameters, 0),
        ("ema", "teacher"): (parameters, parameters),
    }


@pytest.mark.parametrize("schedule", [SeparateEma(), LayerwiseEma()])
def test_stored_words_travel_with_their_own_bytes(schedule, lower, machine):
    """49 words: master of 24 bits in 3 bytes, momentum of 12 in 2, teacher of 8 in 1."""
    numerics = Numerics(master_bits=24, momentum_bits=12, teacher_bits=8)
    counts = moved(lower(schedule, machine, STEP, numerics=numerics))
    assert counts["student_forward", "weights"] == (49 * 3, 0)
    assert counts["backward_data", "weights"] == (24 * 3, 0)
    assert counts["backward_weight", "weights"] == (4 * 3, 0)
    assert counts["update", "weights"] == (49 * 3, 49 * 3)
    assert counts["update", "momentum"] == (49 * 2, 49 * 2)
    name = "ema" if isinstance(schedule, SeparateEma) else "teacher_forward"
    assert counts[name, "weights"] == (49 * 3, 0)
    assert counts[name, "teacher"] == (49, 49)


@pytest.mark.parametrize("schedule", [SeparateEma(), LayerwiseEma(), DeferredWriteback(2)])
@pytest.mark.parametrize("store", [True, False])
def test_residual_words_travel_with_the_stores_they_belong_to(schedule, store, lower, machine):
    """2 bytes a word: master's and momentum's in the update, teacher's where it is averaged."""
    plain = moved(lower(schedule, machine, STEP, store))
    counts = moved(lower(schedule, machine, STEP, store, numerics=Numerics(error_feedback=True)))
    deferred = isinstance(schedule, DeferredWriteback) and not store
    name = "ema" if isinstance(schedule, SeparateEma) else "teacher_forward"
    residuals = {key: counts.pop(key) for key in list(counts) if key[1] == "residual"}
    assert residuals == {
        ("update", "residual"): (2 * 49 * 2, 2 * 49 * 2),
        (name, "residual"): (49 * 2, 0 if deferred else 49 * 2),
    }
    assert counts == plain


def test_a_class_balance_reads_the_students_logits_once_more(lower, machine):
    """3 logits of each of 3 samples; of the 9 words a lane takes 8 cycles each."""
    plain = moved(lower(SeparateEma(), machine, STEP))
    operations = lower(SeparateEma(), machine, replace(STEP, class_balance=True))
    assert moved(operations) == plain | {("balance", "activations"): (3 * 3, 0)}
    names = [operation.pass_name for operation in operations]
    assert names.index("balance") == names.index("loss") - 1
    (balance,) = (operation for operation in operations if operation.pass_name == "balance")
    assert sum(tile.vector_operations for tile in balance.tiles) == 8 * 9


@pytest.mark.parametrize(("norm", "saved"), [(RELU, 2), (IDENTITY, 0)])
def test_a_mean_only_norm_has_no_scale_and_reads_its_input_only_for_a_slope(
    norm, saved, lower, machine
):
    """47 parameters; backward, an error of 32 bytes and, for the slope, a saved map of 32."""
    layers = (Conv2d("conv", 2, 3, padding=1), BatchNorm("norm", norm, mean_only=True))
    network = Network("tiny", Shape(4, 4, 1), (*layers, Linear("fc", 3)))
    assert network.parameters == 18 + 2 + 32 * 3 + 3
    operations = lower(SeparateEma(), machine, STEP, network=network)
    of_norm = [o for o in operations if o.layer == "norm"]
    counts = moved(of_norm)
    assert counts["backward_weight", "weights"] == (2 * 2, 0)
    assert counts["backward_weight", "error"] == (2 * 32, 0)
    assert counts.get(("backward_weight", "activations"), (0, 0)) == (saved * 32, 0)
    assert counts["backward_data", "error"] == (2 * 32, 2 * 32)
    assert counts.get(("backward_data", "activations"), (0, 0)) == (saved * 32, 0)
    assert counts["update", "momentum"] == (2 * 2, 2 * 2)


def test_layers_of_the_vector_unit_alone_are_charged(lower, machine):
    """Maps of a sample: conv 6x6x2 = 72, pooled 3x3 of 2 (windows of 2) = 18, mean 1x1 = 2."""
    layers = (
        Conv2d("conv", 2, 3, padding=1),
        MaxPool("max", 2, 2),
        Activate("relu", RELU),
        AveragePool("mean", 3, 1),
        Linear("fc", 3),
    )
    network = Network("bare", Shape(6, 6, 1), layers)
    operations = lower(SeparateEma(), machine, Passes(0, 3, 2, False), network=network)
    found = {}
    for o in operations:
        if o.layer in ("max", "relu", "mean"):
            sides = [sum(size for _, size in side) for side in (o.reads, o.writes)]
            found[o.label] = (*sides, sum(tile.vector_operations for tile in o.tiles))
    assert found == {
        "max/student_forward": (3 * 72, 3 * 18, 3 * 72),
        "relu/student_forward": (3 * 18, 3 * 18, 3 * 18),
        "mean/student_forward": (3 * 18, 3 * 2, 3 * 18),
        "mean/backward_data": (2 * 2, 2 * 18, 2 * 18),
        "relu/backward_data": (2 * (18 + 18), 2 * 18, 2 * 18),  # error and the sign of its input
        "max/backward_data": (2 * (18 + 72), 2 * 72, 2 * 72),  # error and its input
    }


def on_lanes(operations, layer="norm"):
    """Of a layer's passes of the vector unit: bytes read and written, operations, cycles."""
    return [
        (
            o.pass_name,
            *(sum(size for _, size in side) for side in (o.reads, o.writes)),
            sum(tile.vector_operations for tile in o.tiles),
            sum(tile.cycles for tile in o.tiles),
        )
        for o in operations
        if o.layer == layer and o.pass_name != "update"
    ]


def test_steps_of_a_batch_norm_are_one_pass_forward_and_two_backward(lower, machine):
    """A sample has 32 words in, 8 out; 4 parameters of 2 bytes; on 32 lanes 1 cycle and 7 of fill.

    Forward 4 steps a word: sums, multiply-add, activation, maximum; backward 3 in each pass: the
    error finds its maximum, its slope, and the two sums or the multiply-adds.
    """
    assert on_lanes(lower(SeparateEma(), machine, Passes(0, 3, 2, False))) == [
        ("student_forward", 3 * 32 + 8, 3 * 8, 3 * 32 * 4, 3 * 8),
        ("backward_weight", 2 * (8 + 32) + 8, 0, 2 * 32 * 3, 2 * 8),
        ("backward_data", 2 * (8 + 32), 2 * 32, 2 * 32 * 3, 2 * 8),
    ]


def test_steps_that_are_not_fused_read_and_write_their_own_maps(lower, machine):
    apart = replace(machine, vector_unit=replace(machine.vector_unit, fused=False))
    operations = lower(SeparateEma(), apart, Passes(0, 3, 2, False))
    assert on_lanes(operations) == [
        ("student_forward", 3 * 32, 0, 3 * 32, 3 * 8),  # statistics
        ("student_forward", 3 * 32 + 8, 3 * 32, 3 * 32, 3 * 8),  # normalise
        ("student_forward", 3 * 32, 3 * 32, 3 * 32, 3 * 8),  # activate
        ("student_forward", 3 * 32, 3 * 8, 3 * 32, 3 * 8),  # pool
        ("backward_data", 2 * (8 + 32), 2 * 32, 2 * 32, 2 * 8),  # route: error, pool's input
        ("backward_data", 2 * (32 + 32), 2 * 32, 2 * 32, 2 * 8),  # slope: error, activate's input
        ("backward_weight", 2 * (32 + 32) + 8, 0, 2 * 32, 2 * 8),  # reduce: error, norm's input
        ("backward_data", 2 * (32 + 32), 2 * 32, 2 * 32, 2 * 8),  # apply
    ]
    errors = [o for o in operations if o.label == "norm/backward_data"]
    assert [[tensor.name for tensor, _ in o.reads] for o in errors] == [
        ["student/fc/input_error", "student/norm/activate"],
        ["student/norm/route_error", "student/norm/normalise"],
        ["student/norm/slope_error", "student/conv/output"],
    ]


def test_the_sums_of_images_that_come_from_outside_are_a_pass_of_their_own(lower, machine):
    network = Network("norm first", Shape(4, 4, 2), (BatchNorm("norm", RELU, 2), Linear("fc", 3)))
    forward = on_lanes(lower(SeparateEma(), machine, Passes(0, 3, 0, False), network=network))
    assert forward == [
        ("student_forward", 3 * 32, 0, 3 * 32, 3 * 8),
        ("student_forward", 3 * 32 + 8, 3 * 8, 3 * 32 * 3, 3 * 8),
    ]


def test_a_machine_without_sums_on_arrival_reads_the_map_once_more(lower, machine):
    unit = replace(machine.vector_unit, sums_on_arrival=False)
    bare = replace(machine, vector_unit=unit)
    passes = Passes(0, 3, 2, False)
    more, *rest = on_lanes(lower(SeparateEma(), bare, passes))
    assert more == ("student_forward", 3 * 32, 0, 3 * 32, 3 * 8)
    fused = on_lanes(lower(SeparateEma(), machine, passes))
    assert rest == [(*fused[0][:3], 3 * 32 * 3, 3 * 8), *fused[1:]]


def test_a_map_that_fits_between_its_sums_and_its_normalisation_is_read_once(lower, machine):
    """Room for one map of 3 * 32 bytes: the first, until it has been convolved again."""
    layers = (
        Conv2d("a", 2, 3, padding=1),
        Conv2d("b", 2, 3, padding=1),
        BatchNorm("norm", RELU, 2),
        Linear("fc", 3),
    )
    network = Network("two", Shape(4, 4, 1), layers)
    room = replace(
        machine,
        vector_unit=replace(machine.vector_unit, sums_on_arrival=False),
        buffers=replace(machine.buffers, resident_bytes=100),
    )
    operations = lower(SeparateEma(), room, Passes(0, 3, 0, False), network=network)
    assert [passed[1] for passed in on_lanes(operations)] == [3 * 32, 8]


def test_a_fused_addition_keeps_its_sum_on_the_lanes(lower, machine):
    """Maps of 32 bytes: two in and one out, or the sum written and read once more."""
    layers = (
        Conv2d("a", 2, 3, padding=1),
        Conv2d("b", 2, 3, padding=1),
        Add("sum", "a", RELU),
        Linear("fc", 3),
    )
    network = Network("residual", Shape(4, 4, 1), layers)
    apart = replace(machine, vector_unit=replace(machine.vector_unit, fused=False))
    passes = Passes(0, 2, 2, False)
    slope = ("backward_data", 2 * (32 + 32), 2 * 32, 2 * 32, 2 * 8)
    assert on_lanes(lower(SeparateEma(), machine, passes, network=network), "sum") == [
        ("student_forward", 2 * (32 + 32), 2 * 32, 2 * 32 * 2, 2 * 8),
        slope,
    ]
    assert on_lanes(lower(SeparateEma(), apart, passes, network=network), "sum") == [
        ("student_forward", 2 * (32 + 32), 2 * 32, 2 * 32, 2 * 8),
        ("student_forward", 2 * 32, 2 * 32, 2 * 32, 2 * 8),
        slope,
    ]


def test_a_depthwise_layer_moves_and_multiplies_by_the_hand_count(lower, machine):
    """8 channels of 6x6, kernels of 3x3: 72 weights, 72 products a pixel; the array takes 8 turns.

    On 32 x 32 processing elements a fold holds 9 pixels of one channel: one column of 32 works.
    """
    layers = (
        Conv2d("first", 8, 1),
        Conv2d("depth", 8, 3, padding=1, groups=8),
        Linear("fc", 3),
    )
    network = Network("separable", Shape(6, 6, 2), layers)
    fixed = FixedTiling("depth/student_forward", samples=1, outputs=8)
    assert network.parameters == 16 + 72 + 36 * 8 * 3 + 3
    passes = Passes(0, 4, 4, False)
    operations = lower(SeparateEma(), machine, passes, network=network, tilings=(fixed,))
    depth = {o.pass_name: o for o in operations if o.layer == "depth"}
    assert moved(depth.values()) == {
        ("student_forward", "activations"): (4 * 288, 4 * 288),
        ("student_forward", "weights"): (72 * 2, 0),
        ("backward_data", "error"): (4 * 288, 4 * 288),
        ("backward_data", "weights"): (72 * 2, 0),
        ("backward_weight", "activations"): (4 * 288, 0),
        ("backward_weight", "error"): (4 * 288, 0),
        ("update", "weights"): (72 * 2, 72 * 2),
        ("update", "momentum"): (72 * 2, 72 * 2),
    }
    macs = macs_by_label(network, passes)
    for name in ("student_forward", "backward_data", "backward_weight"):
        counted = sum(tile.macs for tile in depth[name].tiles)
        assert counted == 4 * 36 * 72 == macs[f"depth/{name}"]
    # one sample: 36 pixels of a channel are four folds of 9 rows, no more than there are taps
    assert depth["student_forward"].tiling.samples == 1
    for tile in depth["student_forward"].tiles:
        assert tile.cycles == 9 + 2 * 9 + 1 + 3 + (8 * 4 - 1) * 9


@pytest.mark.parametrize("schedule", [SeparateEma(), LayerwiseEma()])
def test_exponents_of_outputs_take_a_byte_each_where_weights_are_narrowed(schedule, lower, machine):
    """Outputs 2 and 3 forward; backward, inputs 1 and 8, of which the first layer's is not read."""
    numerics = Numerics(weight_scaling=WeightScaling.CHANNEL)
    plain = moved(lower(schedule, machine, STEP))
    counts = moved(lower(schedule, machine, STEP, numerics=numerics))
    exponents = {key[0]: counts.pop(key) for key in list(counts) if key[1] == "exponents"}
    separate = isinstance(schedule, SeparateEma)
    expected = {
        "teacher_forward": (5, 0) if separate else (2 * 5, 5),  # the student's bounds too
        "student_forward": (5, 0),
        "backward_data": (8, 0),
        "update": (0, 5 + 9),
    }
    assert exponents == expected | ({"ema": (0, 5)} if separate else {})
    assert counts == plain


def test_with_exact_scaling_the_sums_of_every_map_go_to_memory_and_come_back(lower, machine):
    """4 bytes a word there and back, and the bytes of before.

    The logits and their error are not narrowed map by map.
    """
    plain = moved(lower(SeparateEma(), machine, STEP))
    counts = moved(lower(SeparateEma(), machine, STEP, numerics=Numerics(scaling=Scaling.CURRENT)))
    sums = {key[0]: counts.pop(key) for key in list(counts) if key[1] == "sums"}
    assert sums == {
        "teacher_forward": (2 * (32 + 8) * 4,) * 2,
        "student_forward": (3 * (32 + 8) * 4,) * 2,
        "backward_data": (2 * (8 + 32) * 4,) * 2,
    }
    assert counts == plain
    fixed = lower(SeparateEma(), machine, STEP, numerics=Numerics(scaling=Scaling.STATIC))
    assert moved(fixed) == plain


@pytest.mark.parametrize("schedule", [LayerwiseEma(), OverlappedEma()])
@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
def test_with_exact_scaling_a_map_is_rounded_when_all_its_sums_are_there(
    schedule, resident_bytes, lower, machine
):
    """In the next pass of the vector unit, but for averages, which a product hides."""
    machine = replace(machine, buffers=replace(machine.buffers, resident_bytes=resident_bytes))
    operations = lower(schedule, machine, STEP, numerics=Numerics(scaling=Scaling.CURRENT))
    found, made = 0, {}
    for index, operation in enumerate(operations):
        first = operation.tiles[0]
        waits = {load.tensor: load.needs_bytes for load in first.loads} | dict(first.needs)
        for tensor, needs_bytes in waits.items():
            if tensor.kind == "sums":
                found += 1
                assert needs_bytes == tensor.size_bytes
                assert {o.pass_name for o in operations[made[tensor] + 1 : index]} <= {"ema"}
                words = tensor.size_bytes // 4
                assert sum(tile.vector_operations for tile in operation.tiles) == words
        for tensor, _ in (*operation.writes, *operation.on_chip):
            made.setdefault(tensor, index)
    assert found == 2 + 2 + 2  # conv and norm of teacher and student, errors below fc and norm


def test_with_exact_scaling_narrow_gradients_travel_as_they_were_summed(lower, small_machine):
    """The update rounds them: a gradient of 8 bits takes 4 bytes, where it leaves the chip."""
    network = Network("wide", Shape(1, 1, 64), (Linear("fc", 32),))
    sizes = {}
    for scaling in (Scaling.DELAYED, Scaling.CURRENT):
        numerics = Numerics(gradient_bits=8, scaling=scaling)
        operations = lower(SeparateEma(), small_machine, STEP, network=network, numerics=numerics)
        sizes[scaling] = moved(operations)["update", "gradient"]
    words = 64 * 32
    assert sizes == {Scaling.DELAYED: (words, 0), Scaling.CURRENT: (4 * words, 0)}


def test_tiles_move_the_bytes_of_their_operation(lower, machine):
    for operation in lower(SeparateEma(), machine, STEP):
        loads, stores = Counter(), Counter()
        for tile in operation.tiles:
            for transfer in tile.loads:
                loads[transfer.tensor] += transfer.size_bytes
            for transfer in (*tile.stores, *tile.early_stores):
                stores[transfer.tensor] += transfer.size_bytes
        assert loads == Counter(dict(operation.reads))
        assert stores == Counter(dict(operation.writes))


def test_a_step_without_accepted_samples_has_no_backward_pass_and_no_update(lower, machine):
    passes = replace(STEP, backward=0)
    names = {operation.pass_name for operation in lower(SeparateEma(), machine, passes)}
    assert names == {"teacher_forward", "student_forward", "loss", "ema"}


def test_supervised_steps_have_no_teacher(lower, machine):
    operations = lower(SeparateEma(), machine, Passes(0, 4, 4, ema=False))
    assert {operation.network for operation in operations} == {"student"}


def test_tensors_that_live_at_the_same_time_have_pages_of_their_own(lower, machine):
    operations = lower(SeparateEma(), machine, STEP)
    places = [one for operation in operations for one in operation.takes]
    tensors = {tensor for o in operations for tensor, _ in (*o.reads, *o.writes)}
    assert {one.tensor for one in places} >= tensors
    assert all(one.tensor.address % 4096 == 0 for one in places)
    for index in range(len(operations)):
        pages = [
            page
            for one in places
            if one.first <= index <= one.last
            for page in range(one.address // 4096, -(-one.end // 4096))
        ]
        assert len(pages) == len(set(pages))
    # 9 stores; most live in fc's backward_data: images, the maps of conv and norm, two errors, and
    # what the loss has just read: labels and two logits. A page each, the last of 3 bytes of labels
    assert max(one.end for one in places) == (9 + 7) * 4096 + 3


def test_a_map_that_fits_the_resident_buffer_does_not_travel(lower, machine):
    room = replace(machine, buffers=replace(machine.buffers, resident_bytes=1 << 20))
    operations = lower(SeparateEma(), room, STEP)
    travelling = moved(operations)
    # images, labels and the stored weights have no producer in the step: they travel as before
    assert {kind for _, kind in travelling} == {
        "images", "labels", "weights", "teacher", "momentum"
    }  # fmt: skip
    everywhere = sum(map(sum, moved(lower(SeparateEma(), machine, STEP)).values()))
    kept = sum(size for o in operations for tensor, size in o.on_chip if tensor.kind != "gradient")
    assert sum(map(sum, travelling.values())) + kept == everywhere


def test_batch_norm_reads_once_what_fits_between_its_two_passes(lower, machine):
    # 64 + 16 bytes wait for the second pass; nothing else of at most 80 bytes lives at that time
    # but the error itself (16 bytes), which is then resident from its birth
    room = replace(machine, buffers=replace(machine.buffers, resident_bytes=80))
    (apply,) = [
        operation
        for operation in lower(SeparateEma(), room, STEP)
        if operation.label == "norm/backward_data"
    ]
    assert apply.reads == ()
    assert sorted(size for _, size in apply.on_chip) == [16, 64]


def test_weights_that_fit_stay_from_the_forward_pass_to_backward_data(lower, machine):
    """A convolution of 4 weights in 16 bits, after one that has no backward_data.

    Maps come first: logits and their error of 3 bytes a sample; those of 32 bytes find no room.
    """
    layers = (Conv2d("a", 2, 1), Conv2d("b", 2, 1), Linear("fc", 3))
    network = Network("two", Shape(4, 4, 1), layers)
    passes = Passes(0, 2, 2, False)

    def read(resident_bytes):
        room = replace(machine, buffers=replace(machine.buffers, resident_bytes=resident_bytes))
        counts = {
            (o.label, tensor.kind): size
            for o in lower(SeparateEma(), room, passes, network=network)
            for tensor, size in o.reads
        }
        return counts["b/student_forward", "weights"], counts.get(("b/backward_data", "weights"), 0)

    logits = error = 2 * 3
    assert read(logits + error + 8) == (8, 0)
    assert read(logits + error + 7) == (8, 8)


FOLDS = (FixedTiling("conv/backward_weight", samples=1, outputs=8, inputs=16, held=0),)


def test_a_gradient_too_large_for_its_buffer_is_spilled_and_read_by_the_update(
    lower, small_machine
):
    network = Network("wide", Shape(8, 8, 16), (Conv2d("conv", 64, 3, padding=1),))
    counts = moved(lower(SeparateEma(), small_machine, STEP, network=network, tilings=FOLDS))
    gradient = 9 * 16 * 64 * 4  # 36,864 bytes against a buffer of 5,000
    assert counts["backward_weight", "gradient"] == (0, gradient)
    assert counts["update", "gradient"] == (gradient, 0)
    # a fold of 8 channels (4,608 bytes) at a time: the images are read once for each of 8
    assert counts["backward_weight", "images"] == (8 * 2 * 8 * 8 * 16, 0)
    assert counts["backward_weight", "error"] == (2 * 8 * 8 * 64, 0)


def test_a_narrow_gradient_travels_narrow_but_is_summed_wide(lower, small_machine):
    network = Network("wide", Shape(8, 8, 16), (Conv2d("conv", 64, 3, padding=1),))
    numerics = Numerics(gradient_bits=8)
    operations = lower(
        SeparateEma(), small_machine, STEP, network=network, numerics=numerics, tilings=FOLDS
    )
    counts = moved(operations)
    gradient = 9 * 16 * 64  # a byte a word; as sums of four bytes too large for 5,000 on chip
    assert counts["backward_weight", "gradient"] == (0, gradient)
    assert counts["update", "gradient"] == (gradient, 0)
    assert counts["backward_weight", "images"] == (8 * 2 * 8 * 8 * 16, 0)  # folds as in 32 bits


@pytest.mark.parametrize(
    ("held", "samples", "images", "weights"),
    [
        (24, 1, 1, 1),  # one sample is one tile: it stays while the blocks of weights pass
        (0, 1, 1, 1),
        (24, 8, 3, 1),  # a block of weights stays while all maps pass: they come three times
        (0, 8, 1, 4),  # four pieces of two samples stay, all weights come for each
    ],
)
def test_held_weights_are_read_once_and_maps_for_every_block(
    lower, small_machine, held, samples, images, weights
):
    # weights 9,216 bytes on chip against a slot of 4,096: blocks of 24 channels, 3 of them
    network = Network("wide", Shape(8, 8, 16), (Conv2d("conv", 64, 3, padding=1),))
    fixed = FixedTiling(samples=2, outputs=24, inputs=16, held=held)
    passes = Passes(0, samples, 0, False)
    counts = moved(lower(SeparateEma(), small_machine, passes, network=network, tilings=(fixed,)))
    assert counts["student_forward", "images"][0] == images * samples * 8 * 8 * 16
    assert counts["student_forward", "weights"][0] == weights * 9 * 16 * 64 * 2


def test_a_map_with_two_readers_sums_their_errors(lower, machine):
    layers = (
        Conv2d("a", 2, 3, padding=1),
        BatchNorm("na", RELU),
        Conv2d("b", 2, 3, padding=1),
        BatchNorm("nb"),
        Add("sum", "na", IDENTITY),
        GlobalAveragePool("pool"),
        Linear("fc", 3),
    )
    network = Network("residual", Shape(4, 4, 1), layers)
    operations = lower(SeparateEma(), machine, Passes(0, 2, 2, False), network=network)
    (summed,) = [o for o in operations if o.label == "na/backward_data" and len(o.writes) == 1][:1]
    assert [size for _, size in summed.reads] == [64, 64]
    assert [size for _, size in summed.writes] == [64]
    # an addition without activation passes its error on as it is
    assert not [o for o in operations if o.label == "sum/backward_data"]
    relu = Network("residual", Shape(4, 4, 1), (*layers[:4], Add("sum", "na", RELU), *layers[5:]))
    (masked,) = [
        o
        for o in lower(SeparateEma(), machine, Passes(0, 2, 2, False), network=relu)
        if o.label == "sum/backward_data"
    ]
    assert [tensor.name for tensor, _ in masked.reads] == [
        "student/pool/input_error", "student/sum/output"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "bytes_", "message"),
    [
        ("weight", 16, "weight buffer must hold one tile of conv/teacher_forward, 9 bytes"),
        ("input", 14, "input buffer must hold one tile of conv/teacher_forward, 8 bytes"),
        ("output", 10, "output buffer must hold one tile of conv/teacher_forward, 8 bytes"),
        ("gradient", 30, "gradient buffer must hold one tile of conv/backward_weight, 36 bytes"),
    ],
)
def test_a_buffer_too_small_for_one_tile_is_named(lower, machine, name, bytes_, message):
    network = Network("one", Shape(8, 8, 16), (Conv2d("conv", 1, 3, padding=1),))
    buffers = replace(
        machine.buffers, **{name: BufferSpec(bytes_, slots=1 if name == "gradient" else 2)}
    )
    # of one channel: 3 x 3 weights, a row of 8 pixels in and out, 3 x 3 sums of four bytes
    if name == "input":
        network = Network("one", Shape(8, 8, 16), (Conv2d("conv", 1, 1),))
    with pytest.raises(ValueError, match=message):
        lower(SeparateEma(), replace(machine, buffers=buffers), STEP, network=network)


def test_tensors_beyond_the_memory_are_refused(lower, machine):
    with pytest.raises(ValueError, match=r"tensors of a step must fit DDR4.* use fewer samples"):
        lower(SeparateEma(), machine, Passes(0, 10**9, 0, False))


def test_macs_of_a_step_by_hand(network):
    # conv: 16 pixels x 18 weights; fc: 24; no data gradient below the first layer
    assert macs_by_label(network, STEP) == {
        "conv/teacher_forward": 2 * 288,
        "conv/student_forward": 3 * 288,
        "conv/backward_weight": 2 * 288,
        "fc/teacher_forward": 2 * 24,
        "fc/student_forward": 3 * 24,
        "fc/backward_weight": 2 * 24,
        "fc/backward_data": 2 * 24,
    }


@pytest.mark.parametrize("resident_bytes", [0, 300, 1 << 20])
def test_nothing_is_used_before_it_has_been_written(lower, machine, resident_bytes):
    room = replace(machine, buffers=replace(machine.buffers, resident_bytes=resident_bytes))
    written = set()
    for operation in lower(SeparateEma(), room, STEP):
        uses = [
            (transfer.tensor, transfer.offset_bytes + transfer.size_bytes, transfer.needs_bytes)
            for tile in operation.tiles
            for transfer in tile.loads
        ]
        uses += [(tensor, 0, needed) for tile in operation.tiles for tensor, needed in tile.needs]
        for tensor, end, needed in uses:
            if tensor not in written:
                assert needed == 0  # there before the step began
            else:
                assert needed >= max(end, 1)
        made = [tensor for tile in operation.tiles for tensor, _ in tile.makes]
        written.update([*made, *(tensor for tensor, _ in operation.writes)])


@pytest.mark.parametrize("resident_bytes", [0, 1 << 20])
def test_batch_norm_waits_for_the_statistics_of_the_whole_batch(lower, machine, resident_bytes):
    room = replace(machine, buffers=replace(machine.buffers, resident_bytes=resident_bytes))
    (norm,) = [o for o in lower(SeparateEma(), room, STEP) if o.label == "norm/student_forward"]
    for tile in norm.tiles:
        needs = [transfer.needs_bytes for transfer in tile.loads if "conv" in transfer.tensor.name]
        needs += [needed for _, needed in tile.needs]
        assert needs == [3 * 32]  # three samples of 32 bytes, before the first of them


def test_a_gradient_is_written_once_a_tile_and_read_back_by_all_but_the_first(lower, machine):
    (operation,) = [
        o
        for o in lower(
            SeparateEma(), machine, Passes(0, 8, 8, False), tilings=(FixedTiling(samples=2),)
        )
        if o.label == "conv/backward_weight"
    ]
    gradient = 9 * 2 * 4  # 9 x 2 sums of 4 bytes
    # a tile of two samples streams 9 x 32 and 32 x 2 operands once: one fold of 32 x 32
    operands = 9 * 32 + 32 * 2
    assert [tile.buffer_read_bytes for tile in operation.tiles] == [
        operands,
        *[operands + gradient] * 3,
    ]
    # two images and two error maps arrive in the buffers
    assert {tile.buffer_write_bytes for tile in operation.tiles} == {2 * 16 + 2 * 32 + gradient}
