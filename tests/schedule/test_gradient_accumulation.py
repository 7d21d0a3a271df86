"""Micro-batches: bytes of their sums by hand, and the values of their one update."""

from dataclasses import replace

import numpy as np
import pytest

from accsim import engine
from accsim.clock import StepClock
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware.buffer import BufferSpec
from accsim.kernels import loss
from accsim.network import Conv2d, Linear, Network, Shape
from accsim.numerics import Numerics, Rounding
from accsim.passes import Passes, Turn, cuts
from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.gradient_accumulation import GradientAccumulation
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.separate_ema import SeparateEma
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Map
from accsim.training.supervised import Supervised, new_student, round_error

THREE = Passes(2, 3, 3, True, ((1, 1), (1, 1), (1, 1)))
TWO = Passes(2, 3, 3, True, ((2, 2), (1, 1)))
STORE = 49 * 2  # bytes of all parameters
GRADIENT = (18 + 24) * 4  # bytes of the gradients of conv and fc


def schedule(parts=3, inner=None):
    return GradientAccumulation(inner or SeparateEma(), micro_batches=parts)


def with_gradient_buffer(machine, capacity_bytes, slots=1):
    buffers = replace(machine.buffers, gradient=BufferSpec(capacity_bytes, slots))
    return replace(machine, buffers=buffers)


def of_sums(counts):
    return {key: size for key, size in counts.items() if key[1] in ("gradient", "gradient_sum")}


def test_sums_beside_the_slots_stay_on_chip_and_weights_are_read_for_each_micro_batch(
    lower, machine, travelled
):
    """Maps of a sample: image 16, conv output 32, norm output 8, logits 3 bytes."""
    counts = travelled(lower(schedule(), machine, THREE))
    whole = travelled(lower(SeparateEma(), machine, replace(THREE, micro_batches=())))
    again = {
        ("student_forward", "weights"): (3 * STORE, 0),
        ("backward_data", "weights"): (3 * 24 * 2, 0),
        ("backward_weight", "weights"): (3 * 4 * 2, 0),  # scale and shift
    }
    assert counts == whole | again


@pytest.mark.parametrize(
    ("capacity_bytes", "slots", "summed"),
    [
        (96, 1, GRADIENT),  # one slot, of fc's 24 words; no room beside it
        (96 + 72, 1, 96),  # conv's 18 words lie beside it
        (96 + 96, 1, 72),  # fc's do, and come first
        (96 + 96, 2, GRADIENT),  # two slots
        (96 + 96 + 72, 1, 0),
    ],
)
def test_sums_without_room_are_written_and_read_again_twice_of_three(
    capacity_bytes, slots, summed, lower, machine, travelled
):
    small = with_gradient_buffer(machine, capacity_bytes, slots)
    counts = of_sums(travelled(lower(schedule(), small, THREE)))
    travelling = {
        ("accumulate", "gradient_sum"): (summed, 2 * summed),
        ("update", "gradient_sum"): (summed, 0),
    }
    assert counts == (travelling if summed else {})


@pytest.mark.parametrize("capacity_bytes", [96, 512 * 1024])
def test_a_sum_is_read_when_all_of_the_one_before_is_there(capacity_bytes, lower, machine):
    """Five micro-batches: four sums in one place, each made once and waited for by the next."""
    small = with_gradient_buffer(machine, capacity_bytes)
    passes = Passes(0, 5, 5, False, ((1, 1),) * 5)
    operations = lower(schedule(5), small, passes)
    adds = [o for o in operations if o.layer == "fc" and o.pass_name in ("accumulate", "update")]
    made, waited = [], []
    for tile in (tile for operation in adds for tile in operation.tiles):
        stores = [(t.tensor, t.size_bytes) for t in tile.stores]
        loads = [(t.tensor, t.needs_bytes) for t in tile.loads]
        for found, moved in ((made, (*stores, *tile.makes)), (waited, (*loads, *tile.needs))):
            found += [(tensor, size) for tensor, size in moved if tensor.kind == "gradient_sum"]
    assert made == waited
    assert len(set(made)) == 4
    (place,) = [
        one
        for operation in operations
        for one in operation.takes
        if one.tensor.name == "student/fc/gradient_sum"
    ]
    assert place.memory == ("ddr" if capacity_bytes == 96 else "gradient")
    assert {tensor.address for tensor, _ in made} == {place.tensor.address}
    assert {size for _, size in made} == {96}


def test_a_gradient_beyond_its_slot_is_the_first_sum_where_its_product_wrote_it(
    lower, machine, travelled
):
    small = with_gradient_buffer(machine, 48)
    assert of_sums(travelled(lower(schedule(), small, THREE))) == {
        ("backward_weight", "gradient"): (0, 3 * GRADIENT),
        ("accumulate", "gradient"): (2 * GRADIENT, 0),  # the first and the second
        ("accumulate", "gradient_sum"): (0, GRADIENT),
        ("update", "gradient"): (GRADIENT, 0),  # the third
        ("update", "gradient_sum"): (GRADIENT, 0),
    }


def test_sums_of_narrow_gradients_have_words_of_their_own(lower, machine, travelled):
    """Gradients of 2 bytes are written by their products; their sums take 4 in another place."""
    small, narrow = with_gradient_buffer(machine, 48), Numerics(gradient_bits=16)
    assert of_sums(travelled(lower(schedule(), small, THREE, numerics=narrow))) == {
        ("backward_weight", "gradient"): (0, 3 * GRADIENT // 2),
        ("accumulate", "gradient"): (GRADIENT, 0),
        ("accumulate", "gradient_sum"): (0, GRADIENT),
        ("update", "gradient"): (GRADIENT // 2, 0),
        ("update", "gradient_sum"): (GRADIENT, 0),
    }


def test_a_unit_that_is_not_fused_writes_the_last_sum_too(lower, machine, travelled):
    small = with_gradient_buffer(machine, 96)
    apart = replace(small, vector_unit=replace(machine.vector_unit, fused=False))
    assert of_sums(travelled(lower(schedule(2), apart, TWO))) == {
        ("accumulate", "gradient_sum"): (GRADIENT, 2 * GRADIENT),
        ("update", "gradient_sum"): (GRADIENT, 0),
    }


@pytest.mark.parametrize(
    "inner", [SeparateEma(), FusedUpdate(), LayerwiseEma(), DeferredWriteback(2)]
)
@pytest.mark.parametrize("capacity_bytes", [48, 96, 512 * 1024])
def test_update_and_average_are_those_of_the_inner_schedule_once_a_step(
    inner, capacity_bytes, lower, machine, travelled
):
    small = with_gradient_buffer(machine, capacity_bytes)
    plain = replace(THREE, micro_batches=())
    kinds = ("weights", "momentum", "teacher")
    passes = ("teacher_forward", "update", "ema")
    counts, expected = (
        {
            key: size
            for key, size in travelled(lower(chosen, small, ran)).items()
            if key[0] in passes and key[1] in kinds
        }
        for chosen, ran in ((schedule(3, inner), THREE), (inner, plain))
    )
    assert counts == expected
    assert counts["update", "weights"] == (STORE, STORE)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("capacity_bytes", [48, 96, 168, 512 * 1024])
@pytest.mark.parametrize("inner", [SeparateEma(), FusedUpdate(), DeferredWriteback(2)])
def test_books_close_and_micro_batches_round_up_one_by_one(
    inner, capacity_bytes, fused, network, machine
):
    """Granules of 8: 9 of 16 and 3 of 12 backward are charged as 16 and 8."""
    small = with_gradient_buffer(machine, capacity_bytes)
    small = replace(small, vector_unit=replace(machine.vector_unit, fused=fused))
    clock = StepClock(network, Numerics(), schedule(2, inner), small, OutputStationary())
    cost = clock.charge(Passes(18, 28, 12, True, ((12, 3), (16, 9))), 1)  # LedgerError if open
    conv, fc = 16 * 9 * 2, 8 * 3
    assert cost.macs == (18 + 28) * (conv + fc) + (16 + 8) * (conv + 2 * fc)
    same = clock.charge(Passes(18, 28, 21, True, ((12, 5), (16, 16))), 1)
    assert same == cost
    assert len(clock.totals().kinds) == 1


def test_with_a_second_slot_the_next_product_runs_while_a_gradient_is_added(lower, machine):
    """Two layers of 18,432 weights on one lane: the array waits for its only slot, or does not."""
    layers = (
        Conv2d("a", 32, 3, padding=1),
        Conv2d("b", 64, 3, padding=1),
        Conv2d("c", 32, 3, padding=1),
        Linear("fc", 3),
    )
    network = Network("pair", Shape(8, 8, 3), layers)
    slot = 64 * 32 * 9 * 4
    passes = Passes(0, 64, 64, False, ((32, 32), (32, 32)))
    unit = replace(machine.vector_unit, lanes=1)
    waits = []
    for slots in (1, 2):
        shared = with_gradient_buffer(machine, slots * slot, slots)
        shared = replace(shared, vector_unit=unit, check_board=False)
        operations = lower(schedule(2), shared, passes, network=network)
        timeline = engine.simulate(operations, shared)
        table = timeline.passes()
        waits.append(table.loc[table["pass"] == "backward_weight", "cycles_wait_output"].sum())
    assert waits[1] < waits[0] / 2


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_step_is_one_update_by_the_exact_sum_of_its_micro_batches(
    parts, network, batches, nearest
):
    """A replay that says the rule: own statistics, errors over the whole batch, whole sums."""
    rule = MeanTeacher(confidence_threshold=0.4, ramp_share=0.0)
    learner = rule.start(network, nearest, schedule(parts).turn, 10, seed=1)
    twin = new_student(network, nearest, 1)
    teacher = rule.start(network, nearest, SeparateEma().turn, 10, seed=1)
    for step, batch in enumerate(batches(4), 1):
        views = Map(batch.teacher_view, batch.exponent)
        labels = teacher.executor.forward(
            learner.average.seen, views
        ).logits  # one pass for all frames
        sure = loss.softmax(labels, loss.EXP2).max(axis=1) > round(0.4 * 2**15)
        sums, ran = {}, []
        for own, frames in zip(cuts(4, parts), cuts(6, parts), strict=True):
            count = own.stop - own.start
            images = np.concatenate([batch.labelled[own], batch.student_view[frames]])
            record = twin.executor.forward(twin.parameters, Map(images, batch.exponent))
            by_label = loss.cross_entropy_error(
                loss.softmax(record.logits[:count], loss.EXP2), batch.labels[own], 4
            )
            distance = record.logits[count:].astype(object) - labels[frames]
            by_teacher = 2 * distance * round(0.3 * 2**16) * 4 // (6 * 3)  # 12 + 16 + 2 bits
            rows = np.array([*range(count), *(count + np.flatnonzero(sure[frames]))])
            wide = np.concatenate([by_label, by_teacher.astype(np.int64)])[rows]
            found = twin.executor.backward(
                record, round_error(wide, 8, int(Rounding.HALF_UP)), rows, step
            )
            for name, (gradient, exponent) in found.items():
                sums.setdefault(name, []).append((gradient.astype(object), exponent))
            ran.append((len(images), len(rows)))
        exact = {}
        for name, found in sums.items():
            least = min(exponent for _, exponent in found)
            total = sum(gradient * 2 ** (exponent - least) for gradient, exponent in found)
            exact[name] = total.astype(np.int64), least
        rule.optimizer.apply(twin, exact, rule.optimizer.rate(step, 10), (0,))
        outcome = learner.step(batch)
        assert outcome.passes.parts == tuple(ran)
        assert outcome.passes.teacher_forward == 6
        for name, stored in learner.student.parameters.items():
            assert np.array_equal(stored.values, twin.parameters[name].values), (step, name)
            momentum, expected = learner.student.momenta[name], twin.momenta[name]
            assert np.array_equal(momentum.values, expected.values), (step, name)


def test_supervised_learners_take_micro_batches_too(network, batches, nearest):
    """Errors are shares of the whole batch: of images that are all alike, halves sum to it."""
    (batch,) = batches(1)
    same = replace(
        batch, labelled=np.repeat(batch.labelled[:1], 4, 0), labels=np.repeat(batch.labels[:1], 4)
    )
    moved = []
    for parts in (1, 2):
        turn = schedule(parts).turn
        learner = Supervised().start(network, replace(nearest, error_bits=16), turn, 10, seed=1)
        start = learner.student.parameters["fc.bias"].values.copy()
        outcome = learner.step(same)
        assert outcome.passes.parts == ((4 // parts, 4 // parts),) * parts
        moved.append(learner.student.parameters["fc.bias"].values - start)
    assert np.abs(moved[0]).max() > 10
    assert np.abs(moved[0] - moved[1]).max() <= 1


def test_random_bits_of_micro_batches_are_their_own(network, batches):
    """The same images twice: with one key for both, both gradients would round alike."""
    (batch,) = batches(1)
    twice = replace(
        batch,
        labelled=np.tile(batch.labelled[:2], (2, 1, 1, 1)),
        labels=np.tile(batch.labels[:2], 2),
    )
    learner = Supervised().start(network, Numerics(), schedule(2).turn, 10, seed=1)
    seen = []
    backward = learner.student.executor.backward

    def spied(record, error, rows, step, frozen):
        seen.append(step)
        return backward(record, error, rows, step, frozen)

    learner.student.executor.backward = spied
    for _ in range(3):
        learner.step(twice)
    assert len(set(seen)) == 6


def test_a_schedule_of_schedules_asks_for_both():
    twice = GradientAccumulation(schedule(2, DeferredWriteback(3)), micro_batches=3)
    assert twice.turn(2) == Turn(DeferredWriteback(3).blend(2), True, 6)
    assert twice.blend(3) == DeferredWriteback(3).blend(3)
    assert "2 micro-batches" in schedule(2).explain()
    assert "\n" not in twice.explain()


def test_cuts_share_samples_as_evenly_as_whole_numbers_allow():
    assert cuts(7, 3) == (slice(0, 2), slice(2, 4), slice(4, 7))
    assert cuts(0, 2) == (slice(0, 0), slice(0, 0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedule(0), "micro_batches must be a whole number of at least 1, not 0"),
        (lambda: GradientAccumulation(3), r"schedule must be a Schedule .*, not 3"),
        (
            lambda: Passes(0, 4, 4, False, ((2, 2), (1, 1))),
            r"micro_batches must sum to student_forward and backward \(4, 4\), not \(3, 3\)",
        ),
        (
            lambda: Passes(0, 4, 4, False, ((1, 2), (3, 2))),
            r"backward must be at most student_forward \(1 samples\), not 2",
        ),
    ],
)
def test_impossible_choices_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
