"""Every word, register and cycle of the vector unit's RTL is the kernels' and the model's."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from vector_unit import RtlVectorUnit

from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.hardware.vector_unit import VectorUnitSpec
from accsim.kernels import update
from accsim.kernels.fixed_point import limit
from accsim.kernels.lfsr import LaneRegisters
from accsim.numerics import Numerics, Rounding
from accsim.passes import Passes
from accsim.schedule.separate_ema import SeparateEma
from models import digits

LFSR, HALF_UP = Rounding.STOCHASTIC_LFSR, Rounding.HALF_UP
UNITS = {  # lanes, bits of a register, of master, momentum, teacher, gradient; error feedback
    "8 lanes": (8, 16, 16, 16, 16, 32),
    "16 lanes": (16, 32, 16, 16, 16, 32),
    "wide master": (2, 16, 24, 12, 8, 64),
    "narrow master": (3, 32, 8, 8, 20, 32),
    "feedback": (1, 32, 16, 16, 16, 32, True),
    "feedback to a fine momentum": (2, 16, 12, 24, 8, 32, True),
}


@pytest.fixture(scope="module")
def unit_of(build):
    made = {}

    def unit(name):
        if name not in made:
            made[name] = RtlVectorUnit(build, *UNITS[name])
        return made[name]

    return unit


@pytest.fixture
def rng(request):
    return np.random.default_rng(list(request.node.name.encode()))


def words(rng, bits, count):
    """Stored words over their whole range, some of them at its ends and at 0."""
    most = limit(bits)
    values = rng.integers(-most, most + 1, count) >> rng.integers(0, bits, count)
    values[rng.integers(0, count, 3)] = (most, -most, 0)
    return values.astype(np.int16 if bits <= 16 else np.int32)


def compare_update(
    unit,
    rng,
    count,
    exponent,
    rounding,
    master_rounding=LFSR,
    rate=0.1,
    momentum=0.9,
    decay=5e-4,
    spec=None,
):
    """One update by kernel and RTL: the same words, registers, largest magnitude and cycles."""
    master_bits, momentum_bits, gradient_bits, _ = unit.bits
    fixed_rate = round(rate * 2**update.RATE_BITS)
    most = 2 ** (gradient_bits - 1)  # of int64, more than a product with the rate can hold
    gradient = rng.integers(1 - most, most, count) >> rng.integers(0, gradient_bits - 1, count)
    settings = (
        gradient.astype(np.int32 if gradient_bits == 32 else np.int64),
        exponent,
        fixed_rate,
        round(momentum * 2**update.MOMENTUM_BITS),
        round(decay * 2**update.DECAY_BITS) * fixed_rate >> update.RATE_BITS,
        limit(master_bits),
        limit(momentum_bits),
        master_rounding,
        rounding,
    )
    stores = [words(rng, master_bits, count), words(rng, momentum_bits, count)]
    stores += [words(rng, 16, count) if unit.feedback else None for _ in range(2)]
    ours, theirs = copy.deepcopy(stores), copy.deepcopy(stores)
    registers = LaneRegisters.seeded(unit.lanes, unit.register_bits, int(rng.integers(2**31)))
    moved = registers.copy()
    more = registers, *ours[2:], unit.extra_bits
    counts = update.momentum_sgd(*ours[:2], *settings, *more)
    done = unit.momentum_sgd(*theirs[:2], *settings, moved, *theirs[2:], unit.extra_bits)
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(its, mine)
    np.testing.assert_array_equal(moved.states, registers.states)
    assert done.largest == counts.largest
    assert done.cycles == (spec or VectorUnitSpec(unit.lanes)).cycles(("update",), count)
    assert counts.moved > 0 or count == 1  # else there is nothing to see


def compare_average(unit, rng, count, shift, rounding, numerator=1, spec=None):
    """One moving average by kernel and RTL, as `compare_update`."""
    master_bits, _, _, teacher_bits = unit.bits
    finer, coarse = max(teacher_bits - master_bits, 0), max(master_bits - teacher_bits, 0)
    student = words(rng, master_bits, count)
    teacher = words(rng, teacher_bits, count).astype(np.int32) << coarse
    settings = numerator, shift, coarse, finer, limit(teacher_bits) << coarse, rounding
    registers = LaneRegisters.seeded(unit.lanes, unit.register_bits, int(rng.integers(2**31)))
    moved = registers.copy()
    ours, theirs = np.empty_like(teacher), np.empty_like(teacher)
    residual = words(rng, 16, count) if unit.feedback else None
    other = copy.deepcopy(residual)
    counts = update.moving_average(teacher, student, *settings, ours, registers, residual)
    done = unit.moving_average(teacher, student, *settings, theirs, moved, other)
    np.testing.assert_array_equal(theirs, ours)
    np.testing.assert_array_equal(other, residual)
    np.testing.assert_array_equal(moved.states, registers.states)
    assert done.largest == counts.largest
    assert done.cycles == (spec or VectorUnitSpec(unit.lanes)).cycles(("ema",), count)
    assert counts.moved > 0 or shift == 15


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("count", [1, 16, 999])
def test_an_update_by_registers_has_the_kernels_bits(name, count, unit_of, rng):
    compare_update(unit_of(name), rng, count, -14, LFSR)


@pytest.mark.parametrize("exponent", [-40, -24, -8, 0, 5, 30])
def test_an_update_takes_gradients_of_every_size(exponent, unit_of, rng):
    compare_update(unit_of("8 lanes"), rng, 1001, exponent, LFSR)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (HALF_UP, HALF_UP),
        (Rounding.TRUNCATE, LFSR),
        (LFSR, Rounding.NEAREST_EVEN),
        (Rounding.NEAREST_EVEN, Rounding.PSEUDO_STOCHASTIC),
        (Rounding.PSEUDO_STOCHASTIC, Rounding.TRUNCATE),
    ],
)
def test_an_update_rounds_momentum_and_master_each_in_its_way(name, first, second, unit_of, rng):
    compare_update(unit_of(name), rng, 517, -12, first, second)


@pytest.mark.parametrize(
    ("rate", "momentum", "decay"), [(0, 0.9, 0), (15.9, 0.999, 0.99), (1e-4, 0, 5e-4), (1, 0.5, 0)]
)
def test_an_update_takes_every_learning_rate(rate, momentum, decay, unit_of, rng):
    compare_update(unit_of("16 lanes"), rng, 300, -10, LFSR, LFSR, rate, momentum, decay)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("shift", [0, 1, 7, 15])
def test_an_average_by_registers_has_the_kernels_bits(name, shift, unit_of, rng):
    compare_average(unit_of(name), rng, 1003, shift, LFSR)


@pytest.mark.parametrize(
    "rounding",
    [HALF_UP, Rounding.TRUNCATE, Rounding.NEAREST_EVEN, Rounding.PSEUDO_STOCHASTIC],
)
@pytest.mark.parametrize("name", UNITS)
def test_an_average_of_several_steps_rounds_in_every_way(name, rounding, unit_of, rng):
    compare_average(unit_of(name), rng, 250, 7, rounding, numerator=5)


def test_a_residual_is_clipped_to_its_word(unit_of):
    """All 16 guard bits cut off are 65,535 halves of a residual's last bit: half up, 32,768."""
    settings = np.array([2**16 - 1], np.int32), 4, 1, 0, 0, limit(16), limit(16)
    settings += Rounding.TRUNCATE, Rounding.TRUNCATE, LaneRegisters.seeded(1, 32, 1)
    for made_by in (update, unit_of("feedback")):
        master, momentum = np.zeros((2, 1), np.int16)
        residuals = np.zeros((2, 1), np.int16)
        made_by.momentum_sgd(master, momentum, *settings, *residuals)
        assert [*master, *momentum, *residuals[0], *residuals[1]] == [0, 0, 0, 32767]


def test_registers_go_on_from_pass_to_pass(unit_of):
    """Words 0 to 4 of two passes on 8 lanes: the second draws what words 8 to 12 of one would."""
    unit = unit_of("8 lanes")
    once, twice = (LaneRegisters.seeded(8, 16, 1) for _ in range(2))
    teacher, student = np.zeros(16, np.int16), np.full(16, 64, np.int16)
    whole, parts = np.empty_like(teacher), np.empty_like(teacher)
    settings = 1, 7, 0, 0, limit(16), LFSR
    unit.moving_average(teacher, student, *settings, whole, once)
    for part in (slice(0, 5), slice(8, 13)):
        unit.moving_average(teacher[part], student[part], *settings, parts[part], twice)
        np.testing.assert_array_equal(parts[part], whole[part])
    np.testing.assert_array_equal(twice.states, once.states)
    assert set(whole) == {0, 1}  # a half of a bit goes either way


@pytest.mark.parametrize("step", ["update", "ema"])
def test_every_tile_of_a_simulated_step_takes_the_cycles_of_a_pass(step, unit_of):
    """The tiles that the machine is charged for, of a training step of the digits network."""
    unit, machine = unit_of("8 lanes"), boards.PYNQ_Z2
    assert machine.vector_unit == VectorUnitSpec(unit.lanes)
    operations = SeparateEma().operations(
        digits.network(), Numerics(), machine, OutputStationary(), Passes(8, 8, 8, ema=True), True
    )
    tiles = [tile for o in operations if o.pass_name == step for tile in o.tiles]
    cycles = {tile.vector_operations: tile.cycles for tile in tiles}  # an operation a word
    assert len(cycles) > 5
    for count, charged in cycles.items():
        words = np.zeros((2, count), np.int16)
        if step == "ema":
            done = unit.moving_average(*words, 1, 7, 0, 0, limit(16), HALF_UP, words[0])
        else:
            gradient = np.zeros(count, np.int32)
            limits = limit(16), limit(16)
            done = unit.momentum_sgd(*words, gradient, 0, 1, 0, 0, *limits, HALF_UP, HALF_UP)
        assert done.cycles == charged


def test_a_model_that_is_one_cycle_off_is_caught(unit_of, rng):
    spec = VectorUnitSpec(8)
    for off in (-1, 1):
        wrong = replace(spec, fill_cycles=spec.fill_cycles + off)
        with pytest.raises(AssertionError):
            compare_update(unit_of("8 lanes"), rng, 100, -14, LFSR, spec=wrong)
        with pytest.raises(AssertionError):
            compare_average(unit_of("8 lanes"), rng, 100, 7, LFSR, spec=wrong)


def test_a_register_that_is_one_draw_off_is_seen(unit_of):
    unit = unit_of("16 lanes")
    teacher, student = np.zeros(64, np.int16), np.full(64, 64, np.int16)
    registers = LaneRegisters.seeded(16, 32, 1)
    settings = 1, 7, 0, 0, limit(16), LFSR
    drawn, late = np.empty_like(teacher), np.empty_like(teacher)
    unit.moving_average(teacher, student, *settings, drawn, registers.copy())
    unit.moving_average(teacher[:1], student[:1], *settings, late[:1], registers)
    unit.moving_average(teacher, student, *settings, late, registers)
    assert (drawn != late).any()
