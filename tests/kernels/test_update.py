"""Stored weights against exact Python integers: SGD, the teacher's average, narrowing."""

from functools import reduce

import numba
import numpy as np
import pytest
import reference

from accsim.kernels import lfsr, update
from accsim.kernels.lfsr import LaneRegisters
from accsim.numerics import Rounding

KEY, OTHER_KEY = 12345, 4_000_000_000
LFSR = Rounding.STOCHASTIC_LFSR
CODES = [Rounding.HALF_UP, Rounding.TRUNCATE, Rounding.NEAREST_EVEN, Rounding.PSEUDO_STOCHASTIC]
ROUNDINGS = [KEY, *CODES, LFSR]


def random_shift(value, shift, random):
    if shift > 32:
        value, shift = value >> (shift - 32), 32
    return (value + (random >> (32 - shift))) >> shift


class VectorUnit:
    """The lanes' registers of the RTL, a beat at a time, in Python integers."""

    def __init__(self, registers):
        self.lf = [int(state) for state in registers.states]
        self.width = registers.bits
        self.taps = 0x80200003 if registers.bits == 32 else 0xB400

    def leap(self, state):
        for _ in range(16):
            state = (state >> 1) ^ (self.taps if state & 1 else 0)
        return state

    def draws(self, count, uses):
        """What each of `count` words draws: a list of `uses`."""
        words = []
        for _ in range(0, count, len(self.lf)):
            beat = []
            for _ in range(uses):
                beat.append(self.lf)
                self.lf = [self.leap(state) for state in self.lf]
            words += [list(draws) for draws in zip(*beat, strict=True)]
        return words[:count]

    def rounded(self, value, shift, draw):
        """``(v + (u & (2**sh - 1))) >>> sh``; a register shorter than the shift adds from above."""
        if shift > self.width:
            value, shift = value >> (shift - self.width), self.width
        return (value + (draw & (2**shift - 1))) >> shift


def store(value, shift, rounding, random, unit, draw, residual):
    """A rounded value and what is left over (None where no residual is kept)."""
    dropped = shift
    if residual is not None:
        dropped = max(shift, 15)
        value = value * 2 ** (dropped - shift) + residual * 2 ** (dropped - 15)
    if rounding == LFSR:
        whole = unit.rounded(value, dropped, draw)
    elif rounding >= 0:
        whole = random_shift(value, dropped, random)
    else:
        whole = reference.rounded(value, dropped, rounding, 0)
    if residual is not None:
        left = reference.half_up(value - whole * 2**dropped, dropped - 15)
        residual = max(-32767, min(32767, left))
    return whole, residual


def clip(value, limit):
    return max(-limit, min(limit, value))


@pytest.mark.parametrize("exponent", [-16, -3, 4, 9])
def test_sgd_is_bit_exact(exponent, rng):
    count, rate, factor, decay, key = 400, 1_677_721, 230, 214_748, 12345
    master = rng.integers(-32767, 32768, count).astype(np.int16)
    momentum = rng.integers(-32767, 32768, count).astype(np.int16)
    gradient = rng.integers(-(2**20), 2**20, count).astype(np.int32)
    expected_master, expected_momentum = [], []
    for i in range(count):
        left = exponent - 24 + 4 + 16
        push = int(gradient[i]) * rate
        wide = push << left if left >= 0 else reference.half_up(push, -left)
        wide += factor * int(momentum[i]) << 8
        wide += reference.half_up(int(master[i]) * decay, 32 - 16 - 4)
        random = reference.hash32(i ^ key)
        step = max(-32767, min(32767, random_shift(wide, 16, random)))
        moved = int(master[i]) - random_shift(step, 4, reference.hash32(random))
        expected_momentum.append(step)
        expected_master.append(max(-32767, min(32767, moved)))
    before = master.copy()
    words = master, momentum, gradient
    counts = update.momentum_sgd(*words, exponent, rate, factor, decay, 32767, 32767, key, key)
    assert master.tolist() == expected_master
    assert momentum.tolist() == expected_momentum
    assert counts.largest == np.abs(master.astype(int)).max()
    assert counts.unmoved == ((master == before) & (gradient != 0)).sum()
    if exponent >= 4:
        assert counts.saturated > 0


@pytest.mark.parametrize(("master_bits", "momentum_bits"), [(24, 8), (16, 12), (8, 20)])
def test_a_momentum_of_other_bits_reaches_a_sixteenth_of_its_weight(
    master_bits, momentum_bits, rng
):
    """Its last bit is 2**-extra_bits of the weight's: coarser steps are whole last bits of it."""
    extra, count = 4 + momentum_bits - master_bits, 200
    rate, factor, decay, exponent = 1_677_721, 230, 214_748, 2 - extra
    types = [np.int16 if bits <= 16 else np.int32 for bits in (master_bits, momentum_bits)]
    limits = [2 ** (bits - 1) - 1 for bits in (master_bits, momentum_bits)]
    master, momentum = (
        rng.integers(-most // 2, most // 2 + 1, count).astype(type_)
        for most, type_ in zip(limits, types, strict=True)
    )
    gradient = rng.integers(-limits[1], limits[1], count).astype(np.int32)
    expected = []
    for weight, step, push in zip(*(w.tolist() for w in (master, momentum, gradient)), strict=True):
        left = exponent - 24 + extra + 16
        wide = push * rate << left if left >= 0 else reference.half_up(push * rate, -left)
        wide += factor * step << 8
        wide += reference.half_up(weight * decay, 32 - 16 - extra)
        step = clip(reference.half_up(wide, 16), limits[1])
        moved = reference.half_up(step, extra) if extra > 0 else step << -extra
        expected.append((step, clip(weight - moved, limits[0])))
    words = master, momentum, gradient, exponent, rate, factor, decay
    update.momentum_sgd(*words, *limits, Rounding.HALF_UP, Rounding.HALF_UP, extra_bits=extra)
    assert list(zip(momentum.tolist(), master.tolist(), strict=True)) == expected
    assert any(abs(step) > limits[1] // 4 for step, _ in expected)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", [16, 32])
def test_narrowing_by_a_shift_of_each_word_is_that_of_its_channel(rounding, bits, rng):
    """Word by word, what `narrow` gives when every word has that shift."""
    stored = rng.integers(-(2**23) + 1, 2**23, 300).astype(np.int32)
    shifts = np.tile(np.array([16, 0, 5, 18, 24], np.int8), 60)
    out = np.empty(300, np.int8)
    registers = LaneRegisters.seeded(7, bits, 3)
    clipped = update.narrow_each(stored, shifts, 127, out, rounding, registers.copy())
    expected = np.empty_like(out)
    for shift in np.unique(shifts):
        every = np.empty_like(out)
        update.narrow(stored, int(shift), 127, every, rounding, registers.copy())
        expected[shifts == shift] = every[shifts == shift]
    assert np.array_equal(out, expected)
    assert clipped >= (np.abs(stored.astype(int)) >> shifts > 128).sum() > 0


def test_sgd_follows_the_real_formula():
    """0.1 * 0.5 with no momentum moves a weight by 0.05 on average."""
    master = np.zeros(2000, np.int16)
    momentum = np.zeros(2000, np.int16)
    gradient = np.full(2000, 1 << 20, np.int32)  # 0.5 at exponent -21
    rate = round(0.1 * 2**24)
    words = master, momentum, gradient
    update.momentum_sgd(*words, -21 + 14, rate, 0, 0, 32767, 32767, 7, 7)
    assert abs(master.mean() / 2**14 + 0.05) < 1e-5


@pytest.mark.parametrize(("numerator", "shift", "coarse"), [(1, 7, 0), (5, 7, 0), (1, 7, 8)])
def test_blend_is_bit_exact(numerator, shift, coarse, rng):
    teacher = rng.integers(-127, 128, 300).astype(np.int16) << 8
    student = rng.integers(-32767, 32768, 300).astype(np.int16)
    out = np.empty_like(teacher)
    limit = 2**15 - 2**coarse
    how = numerator, shift, coarse, 0, limit, 99
    moved = update.moving_average(teacher, student, *how, out).moved
    for i in range(300):
        distance = (int(student[i]) - int(teacher[i])) * numerator
        step = random_shift(distance, shift + coarse, reference.hash32(i ^ 99)) << coarse
        assert out[i] == max(-limit, min(limit, int(teacher[i]) + step))
        assert out[i] % 2**coarse == 0
    assert moved == (out != teacher).sum()


def test_teacher_is_the_moving_average():
    """A 16-bit teacher follows 127/128 of itself and 1/128 of a constant student."""
    teacher = np.zeros(1000, np.int16)
    student = np.full(1000, 16000, np.int16)
    for step in range(200):
        update.moving_average(teacher, student, 1, 7, 0, 0, 32767, step, teacher)
    assert abs(teacher.mean() - 16000 * (1 - (127 / 128) ** 200)) < 8


def test_narrow_rounds_half_up_and_saturates():
    out = np.empty(4, np.int8)
    update.narrow(np.array([127, 128, -129, 32767], np.int16), 8, 127, out)
    assert out.tolist() == [0, 1, -1, 127]


def sgd_twin(
    masters, momenta, gradients, exponent, rate, factor, decay, limits, roundings, unit, residuals
):
    """Masters, momenta, residuals and counts after a step, word by word."""
    master_rounding, momentum_rounding = roundings
    draws = unit.draws(len(masters), roundings.count(LFSR)) if unit else [[]] * len(masters)
    words, counts = [], [0, 0, 0, 0, 0]
    for i, (weight, step, gradient) in enumerate(zip(masters, momenta, gradients, strict=True)):
        usable = clip(gradient, (2**61 - 1) // max(rate, 1))
        left = exponent - 24 + 4 + 16
        push = usable * rate
        push = push << left if left >= 0 else reference.half_up(push, -left)
        wide = push + (factor * step << 8) + reference.half_up(weight * decay, 12)
        random = reference.hash32(i ^ momentum_rounding) if momentum_rounding >= 0 else None
        exact, left_step = store(
            wide, 16, momentum_rounding, random, unit, draws[i][0] if draws[i] else None,
            residuals and residuals[1][i],
        )  # fmt: skip
        kept = clip(exact, limits[1])
        if master_rounding >= 0:
            random = reference.hash32(reference.hash32(i ^ master_rounding))
        fall, left_weight = store(
            kept, 4, master_rounding, random, unit, draws[i][-1] if draws[i] else None,
            residuals and residuals[0][i],
        )  # fmt: skip
        new = clip(weight - fall, limits[0])
        words.append((new, kept, left_weight, left_step))
        counts[0] = max(counts[0], abs(new))
        counts[1] += new != weight
        counts[2] += new == weight and gradient != 0
        counts[3] += (usable != gradient) + (kept != exact) + (new != weight - fall)
        counts[4] += gradient != 0 and abs(push) < 2**15
    return [list(column) for column in zip(*words, strict=True)], counts


def check_sgd(count, rng, *, bits, exponent, roundings, registers, residual, wide_gradient=False):
    dtype = np.int16 if bits <= 16 else np.int32
    limit = 2 ** (bits - 1) - 1
    master = rng.integers(-limit, limit + 1, count).astype(dtype)
    momentum = rng.integers(-limit, limit + 1, count).astype(dtype)
    gradient = rng.integers(-(2**20), 2**20, count).astype(np.int32)
    gradient[::5] = 0
    gradient[1::5] >>= 15
    if wide_gradient:
        gradient = gradient.astype(np.int64) << 20
    residuals = [rng.integers(-(2**14), 2**14, count).astype(np.int16) for _ in range(2)]
    unit = VectorUnit(registers) if registers else None
    settings = (exponent, 1_677_721, 230, 214_748)
    (masters, momenta, *left), expected = sgd_twin(
        master.tolist(), momentum.tolist(), gradient.tolist(), *settings, (limit, limit), roundings,
        unit, [r.tolist() for r in residuals] if residual else None,
    )  # fmt: skip
    counts = update.momentum_sgd(
        master, momentum, gradient, *settings, limit, limit, *roundings, registers,
        *(residuals if residual else ()),
    )  # fmt: skip
    assert master.tolist() == masters
    assert momentum.tolist() == momenta
    if residual:
        assert [r.tolist() for r in residuals] == left
    assert counts == update.WordCounts(count, *expected)
    if registers:
        assert registers.states.tolist() == unit.lf
    return counts


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("momentum_rounding", [*ROUNDINGS, OTHER_KEY])
@pytest.mark.parametrize("master_rounding", ROUNDINGS)
def test_momentum_sgd_rounds_each_store_by_its_own_rule(
    master_rounding, momentum_rounding, residual, rng
):
    roundings = (master_rounding, momentum_rounding)
    registers = LaneRegisters.seeded(8, 16, 3) if LFSR in roundings else None
    check_sgd(
        150, rng, bits=16, exponent=-3, roundings=roundings, registers=registers, residual=residual
    )


@pytest.mark.parametrize("exponent", [-90, -20, 0, 20, 70])
@pytest.mark.parametrize("bits", [2, 8, 16, 20, 24])
@pytest.mark.parametrize("wide_gradient", [False, True])
def test_momentum_sgd_at_every_scale(exponent, bits, wide_gradient, rng):
    counts = check_sgd(
        200, rng, bits=bits, exponent=exponent, roundings=(KEY, KEY), registers=None,
        residual=False, wide_gradient=wide_gradient,
    )  # fmt: skip
    assert (counts.underflowed >= 120) == (exponent == -90)
    if exponent == 70:
        assert counts.saturated >= 120


@pytest.mark.parametrize(("lanes", "bits"), [(1, 16), (3, 32), (8, 16), (16, 32), (1000, 32)])
def test_lanes_draw_as_the_rtl_does_over_blocks_and_tensors(lanes, bits, rng):
    registers = LaneRegisters.seeded(lanes, bits, 7)
    for count in (5, 2100, 17):
        check_sgd(
            count, rng, bits=16, exponent=-3, roundings=(LFSR, LFSR), registers=registers,
            residual=False,
        )  # fmt: skip


def test_lane_registers_visit_every_word_but_zero():
    """A maximal register of 16 bits has period 65535, which a leap of 16 steps keeps (odd)."""
    registers = LaneRegisters(np.array([1], np.uint32), 16)
    out = np.empty((1, 65535), np.uint32)
    lfsr.draw(registers.states, 16, 65535, out)
    assert sorted(out[0].tolist()) == list(range(1, 65536))
    assert registers.states.tolist() == [1]


def test_the_32_bit_register_is_of_maximal_length():
    """The step's order divides 2**32 - 1 and none of its parts: as a matrix over GF(2)."""

    def apply(matrix, vector):
        return reduce(lambda x, i: x ^ (matrix[i] if vector >> i & 1 else 0), range(32), 0)

    def power(matrix, exponent):
        result = [1 << i for i in range(32)]
        while exponent:
            if exponent & 1:
                result = [apply(matrix, column) for column in result]
            matrix = [apply(matrix, column) for column in matrix]
            exponent >>= 1
        return result

    taps = int(lfsr.taps(32))
    step = [taps if i == 0 else 1 << (i - 1) for i in range(32)]
    identity = [1 << i for i in range(32)]
    assert power(step, 2**32 - 1) == identity
    for prime in (3, 5, 17, 257, 65537):
        assert power(step, (2**32 - 1) // prime) != identity


@pytest.mark.parametrize(
    ("states", "bits", "message"),
    [
        ([1], 8, "bits of a lane register must be 16 or 32, not 8"),
        ([], 16, "must be 1 to 1024 uint32, not 0 uint32"),
        ([1, 0], 16, "must be 1 to 65535, not 0 to 1"),
        ([65536], 16, "must be 1 to 65535, not 65536 to 65536"),
    ],
)
def test_lane_registers_refuse_states_that_cannot_run(states, bits, message):
    with pytest.raises(ValueError, match=message):
        LaneRegisters(np.array(states, np.uint32), bits)


def test_lanes_are_asked_for():
    operands = np.zeros(4, np.int8)
    with pytest.raises(ValueError, match="registers must be LaneRegisters where a store rounds by"):
        update.narrow(np.zeros(4, np.int16), 8, 127, operands, LFSR)


def test_a_residual_has_a_word_for_each_stored_word():
    words = np.zeros(4, np.int16)
    with pytest.raises(ValueError, match="one word for each of 4 stored words, not 3 words"):
        update.moving_average(words, words, 1, 7, 0, 0, 127, KEY, words, None, words[:3])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    ("teacher_bits", "student_bits", "numerator", "shift"),
    [(16, 16, 1, 7), (8, 16, 1, 7), (2, 8, 1, 3), (12, 16, 5, 10), (20, 16, 1, 10),
     (24, 16, 1, 10), (10, 24, 1, 10), (16, 24, 3, 0)],
)  # fmt: skip
def test_moving_average_is_bit_exact(
    teacher_bits, student_bits, numerator, shift, rounding, residual, rng
):
    count, bits = 130, max(teacher_bits, student_bits)
    dtype = np.int16 if bits <= 16 else np.int32
    coarse, lift = bits - teacher_bits, bits - student_bits
    limit = (2 ** (teacher_bits - 1) - 1) << coarse
    top = 2 ** (student_bits - 1)
    teacher = (rng.integers(-limit, limit + 1, count) >> coarse << coarse).astype(dtype)
    student = rng.integers(1 - top, top, count).astype(np.int16 if student_bits <= 16 else np.int32)
    student[::7] = teacher[::7] >> lift
    left = rng.integers(-(2**14), 2**14, count).astype(np.int16)
    registers = LaneRegisters.seeded(8, 16, 5) if rounding == LFSR else None
    unit = VectorUnit(registers) if registers else None
    draws = unit.draws(count, 1) if unit else [[None]] * count
    expected, expected_left, saturated, unmoved = [], [], 0, 0
    for i in range(count):
        distance = int(student[i]) * 2**lift - int(teacher[i])
        step, rest = store(
            distance * numerator, shift + coarse, rounding,
            reference.hash32(i ^ rounding) if rounding >= 0 else None,
            unit, draws[i][0], int(left[i]) if residual else None,
        )  # fmt: skip
        new = int(teacher[i]) + step * 2**coarse
        expected.append(clip(new, limit))
        expected_left.append(rest)
        saturated += clip(new, limit) != new
        unmoved += expected[i] == teacher[i] and distance != 0
    out = np.empty_like(teacher)
    counts = update.moving_average(
        teacher, student, numerator, shift, coarse, lift, limit, rounding, out, registers,
        left if residual else None,
    )  # fmt: skip
    assert out.tolist() == expected
    assert not residual or left.tolist() == expected_left
    assert counts == update.WordCounts(
        count, int(np.abs(out).max()), int((out != teacher).sum()), unmoved, saturated
    )


@pytest.mark.parametrize("rounding", [KEY, Rounding.HALF_UP, LFSR])
def test_a_residual_loses_nothing(rounding, rng):
    """Teacher and residual together gain exactly 1/128 of every distance to the student."""
    teacher = (rng.integers(-100, 101, 500) << 8).astype(np.int16)
    student = rng.integers(-30000, 30001, 500).astype(np.int16)
    residual = np.zeros(500, np.int16)
    registers = LaneRegisters.seeded(4, 32, 1)
    exact = teacher.astype(np.int64) << 7
    for step in range(50):
        exact += student.astype(np.int64) - teacher
        rule = rounding + step if rounding >= 0 else rounding
        update.moving_average(
            teacher, student, 1, 7, 8, 0, 127 << 8, rule, teacher, registers, residual
        )
    assert ((teacher.astype(np.int64) << 7) + residual == exact).all()


def test_a_residual_lets_small_steps_add_up():
    """Steps of 1/32 of the last bit: nearest never moves; with a residual 64 of them move by 2."""
    moved = []
    for residuals in ((), (np.zeros(1, np.int16), np.zeros(1, np.int16))):
        master, momentum = np.zeros(1, np.int16), np.zeros(1, np.int16)
        for _ in range(64):
            update.momentum_sgd(
                master, momentum, np.ones(1, np.int32), -5, 2**24, 0, 0, 127, 127,
                Rounding.NEAREST_EVEN, Rounding.NEAREST_EVEN, None, *residuals,
            )  # fmt: skip
        moved.append(int(master[0]))
    assert moved == [0, -2]


def test_counts_tell_dead_updates_from_underflow():
    """Gradients in parts of the weight's last bit: 0, 1/64 (< 1/32), 1/16 (< 1/2), 1, 1000."""
    master, momentum = np.array([5, 5, 5, 5, -900], np.int16), np.zeros(5, np.int16)
    counts = update.momentum_sgd(
        master, momentum, np.array([0, 1, 4, 64, 64_000], np.int32), -6, 2**24, 0, 0, 1023, 32767,
        Rounding.HALF_UP, Rounding.HALF_UP,
    )  # fmt: skip
    assert momentum.tolist() == [0, 0, 1, 16, 16_000]
    assert master.tolist() == [5, 5, 5, 4, -1023]
    assert counts == update.WordCounts(
        words=5, largest=1023, moved=2, unmoved=2, saturated=1, underflowed=1
    )
    assert (counts + update.WordCounts(words=1, largest=7, moved=1)) == update.WordCounts(
        words=6, largest=1023, moved=3, unmoved=2, saturated=1, underflowed=1
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_large_tensors_are_cut_without_a_seam(threads, rng):
    """Chunks and threads against one line of numpy."""
    count = 2 * 2**17 + 1001
    master = rng.integers(-9000, 9001, count).astype(np.int16)
    momentum = rng.integers(-900, 901, count).astype(np.int16)
    gradient = rng.integers(-(2**20), 2**20, count).astype(np.int32)
    teacher = rng.integers(-9000, 9001, count).astype(np.int16)
    random = np.array([reference.hash32(i ^ KEY) for i in range(count)])
    push = (gradient.astype(np.int64) * 2**20 + 2**9) >> 10
    step = (push + (momentum.astype(np.int64) * 230 << 8) + 2**15) >> 16
    new_master = master - ((step + 8) >> 4)
    new_teacher = teacher + (((new_master - teacher) + (random >> 25)) >> 7)
    before, default = master.copy(), numba.get_num_threads()
    numba.set_num_threads(min(threads, default))
    try:
        counts = update.momentum_sgd(
            master, momentum, gradient, -6, 2**20, 230, 0, 32767, 32767,
            Rounding.HALF_UP, Rounding.HALF_UP,
        )  # fmt: skip
        out = np.empty_like(teacher)
        averaged = update.moving_average(teacher, master, 1, 7, 0, 0, 32767, KEY, out)
    finally:
        numba.set_num_threads(default)
    assert (momentum == step).all()
    assert (master == new_master).all()
    assert (out == new_teacher).all()
    assert counts.moved == (master != before).sum()
    assert counts.unmoved == ((master == before) & (gradient != 0)).sum()
    assert (counts.largest, counts.saturated) == (np.abs(master).max(), 0)
    assert averaged.moved == (out != teacher).sum()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    ("stored_bits", "shift", "limit"), [(16, 0, 127), (16, 8, 127), (16, 13, 7), (24, 17, 127)]
)
def test_narrow_is_bit_exact(stored_bits, shift, limit, rounding, rng):
    top = 2 ** (stored_bits - 1)
    dtype = np.int16 if stored_bits <= 16 else np.int32
    stored = rng.integers(1 - top, top, 300).astype(dtype)
    registers = LaneRegisters.seeded(8, 16, 2) if rounding == LFSR else None
    unit = VectorUnit(registers) if registers else None
    draws = unit.draws(300, 1) if unit else [[None]] * 300
    wide = [
        store(word, shift, rounding, reference.hash32(i ^ KEY), unit, draws[i][0], None)[0]
        for i, word in enumerate(stored.tolist())
    ]
    out = np.empty(300, np.int8)
    saturated = update.narrow(stored, shift, limit, out, rounding, registers)
    assert out.tolist() == [clip(value, limit) for value in wide]
    assert saturated == sum(abs(value) > limit for value in wide)


@pytest.mark.parametrize(
    ("dtype", "limit"), [(np.int32, 2**31 - 1), (np.int64, 2**47 - 1), (np.int64, 2**62 - 1)]
)
def test_accumulate_sums_micro_batches_exactly(dtype, limit, rng):
    exponents = [-20, -18, -23, -23, -17, -19]
    parts = [rng.integers(-(2**24), 2**24, 200).astype(np.int32) for _ in exponents]
    exact = sum(
        part.astype(object) * 2 ** (exponent + 23)
        for part, exponent in zip(parts, exponents, strict=True)
    )
    total, exponent = parts[0].astype(dtype), exponents[0]
    for part, part_exponent in zip(parts[1:], exponents[1:], strict=True):
        exponent, saturated = update.accumulate(total, exponent, part, part_exponent, limit)
        assert saturated == 0
    assert exponent == -23
    assert total.tolist() == exact.tolist()


def test_accumulate_clips_and_counts():
    """Words: in range; the total's shift, the gradient's shift, the sum beyond the limit."""
    total = np.array([1, 100, 0, 60, -100], np.int32)
    exponent, saturated = update.accumulate(total, 1, np.array([3, 0, 1, 50, 0], np.int32), 0, 127)
    assert (exponent, saturated) == (0, 3)
    assert total.tolist() == [5, 127, 1, 127, -127]
    exponent, saturated = update.accumulate(total, 0, np.array([-1, 0, 1, 0, 1], np.int32), 90, 127)
    assert (exponent, saturated) == (0, 3)
    assert total.tolist() == [-122, 127, 127, 127, 0]
