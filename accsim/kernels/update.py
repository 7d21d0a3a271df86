"""What the vector unit does to stored weights: SGD with momentum, the teacher's average, narrowing.

A stored tensor has ``frac_bits`` fractional bits, fixed at the start of the run, in int16 words or,
above 16 bits, in int32 words. Its momentum is kept as the step itself, with 4 more fractional bits
if it has as many bits: its range is 1/16 of the weight's.

Every store rounds as its own `Rounding` says, given as its code or as a random key, and may keep
what the rounding dropped in a residual word that joins the next step:
``sum = step + residual; residual = sum - round(sum)``. No update is lost then, however small.
Source: Kahan, "Further remarks on reducing truncation errors", CACM 8(1), 1965; for weights,
Zamirai et al., "Revisiting BFloat16 Training", 2020, algorithm 1.

Words are worked on in blocks that stay in the first-level cache, and blocks in chunks that threads
share; random bits depend on a word's index or come from one stream, so threads change no bit.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from accsim.kernels import lfsr
from accsim.kernels.fixed_point import (
    HALF_UP,
    NEAREST_EVEN,
    TRUNCATE,
    hash32,
    noise32,
    round64,
    round_shift,
    saturate,
    saturate32,
)
from accsim.kernels.lfsr import LaneRegisters
from accsim.numerics import Rounding

MOMENTUM_EXTRA_BITS = 4  # fractional bits of a momentum of as many bits as its weight, beyond it
RATE_BITS = 24  # fractional bits of a learning rate
DECAY_BITS = 32  # fractional bits of learning rate * weight decay
MOMENTUM_BITS = 8  # fractional bits of the momentum factor
RESIDUAL_BITS = 15  # fractional bits of a residual: parts of its word's last bit
_GUARD = 16  # fractional bits of a step before its one rounding
_BLOCK = 2048  # words; a multiple of any power of two of lanes
_CHUNK = 64 * _BLOCK  # below this, waking a thread takes longer than the work
_NO_REGISTERS = np.empty(0, np.uint32)
_NO_RESIDUAL = np.empty(0, np.int16)
_STOCHASTIC_LFSR = -5  # `Rounding.STOCHASTIC_LFSR` as compiled kernels see it
_PSEUDO_STOCHASTIC = -4


@dataclass(frozen=True)
class WordCounts:
    """What an update did to stored words."""

    words: int = 0
    largest: int = 0  # magnitude of the words after the update
    moved: int = 0  # words that changed
    unmoved: int = 0  # words that had a reason to change, and did not
    saturated: int = 0  # words that were clipped
    underflowed: int = 0  # gradients below what the momentum's rounding to nearest could see

    def __add__(self, other: "WordCounts") -> "WordCounts":
        return WordCounts(
            self.words + other.words,
            max(self.largest, other.largest),
            self.moved + other.moved,
            self.unmoved + other.unmoved,
            self.saturated + other.saturated,
            self.underflowed + other.underflowed,
        )


def momentum_sgd(
    master: np.ndarray,
    momentum: np.ndarray,
    gradient: np.ndarray,
    exponent: int,
    rate: int,
    factor: int,
    decay: int,
    master_limit: int,
    momentum_limit: int,
    master_rounding: int,
    momentum_rounding: int,
    registers: LaneRegisters | None = None,
    master_residual: np.ndarray | None = None,
    momentum_residual: np.ndarray | None = None,
    extra_bits: int = MOMENTUM_EXTRA_BITS,
) -> WordCounts:
    """One step of SGD with momentum, in place.

    ``step = factor * step + rate * gradient + decay * weight``; ``weight -= step``

    Parameters
    ----------
    master, momentum : int16[n] or int32[n] of up to 24 bits; frac_bits and frac_bits + extra_bits
        fractional bits
    gradient : int32[n] or int64[n]; the gradient is ``gradient * 2**(exponent - frac_bits)``
    exponent : of the gradient, relative to the weight's last bit
    rate : learning rate, 24 fractional bits, below 2**28
    factor : momentum, 8 fractional bits
    decay : learning rate * weight decay, 32 fractional bits
    master_limit, momentum_limit : largest codes
    master_rounding, momentum_rounding : a `Rounding`, or a random key; one key serves both
    registers : random bits of `Rounding.STOCHASTIC_LFSR`: a word draws for its momentum, then for
        its master
    master_residual, momentum_residual : int16[n], 15 fractional bits of the stored word's last bit;
        what rounding dropped, in and out
    extra_bits : fractional bits of a momentum word beyond those of its weight, -16 to 16

    Returns
    -------
    counts : `unmoved` are weights that did not change although their gradient was not zero;
        `underflowed` are gradients, not zero, with ``rate * gradient`` less than half the
        momentum's last bit: rounding to nearest would drop them if they came alone

    Notes
    -----
    The sum is exact to 16 bits below the momentum's last and is rounded once. A gradient beyond
    ``2**61 / rate`` is clipped and counted; no int32 is.
    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning",
    ICML 2013, eq. 1-2, with the learning rate inside the step.
    """
    states, bits = _registers(registers, master_rounding, momentum_rounding)
    return _counted(
        _sgd_chunk,
        _sgd_threads,
        len(states) > 0,
        (
            master,
            momentum,
            gradient,
            exponent,
            rate,
            factor,
            decay,
            master_limit,
            momentum_limit,
            int(master_rounding),
            int(momentum_rounding),
            states,
            bits,
            _residual(master_residual, master),
            _residual(momentum_residual, momentum),
            extra_bits,
        ),
    )


def moving_average(
    teacher: np.ndarray,
    student: np.ndarray,
    numerator: int,
    shift: int,
    coarse_bits: int,
    student_shift: int,
    teacher_limit: int,
    rounding: int,
    out: np.ndarray,
    registers: LaneRegisters | None = None,
    residual: np.ndarray | None = None,
) -> WordCounts:
    """The teacher as the next forward pass sees it: moved towards the student.

    ``out = teacher + ((student - teacher) * numerator >> shift)``

    Parameters
    ----------
    teacher, out : int16[n] or int32[n] of up to 24 bits, the same fractional bits; `out` may be
        `teacher`
    student : int16[n] or int32[n], `student_shift` fractional bits less than the teacher
    numerator : 1 for the moving average; j for j steps at once
    shift : 7 for 127/128; 0 to 15
    coarse_bits : low bits that the teacher's store lacks: it holds multiples of 2**coarse_bits
    student_shift : 0 for a student as fine as the teacher, 4 for 16 bits under a teacher of 20
    teacher_limit : largest code, a multiple of 2**coarse_bits
    rounding : a `Rounding`, or a random key
    registers : random bits of `Rounding.STOCHASTIC_LFSR`
    residual : int16[n], 15 fractional bits of the store's last bit; what rounding dropped, in and
        out

    Returns
    -------
    counts : `unmoved` are words that differ from the student's and did not change

    Notes
    -----
    Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, eq. 1,
    with 1 - alpha a power of two. ``abs(out)`` never exceeds the larger of the two inputs by more
    than rounding, so it saturates only where the student is beyond the store's limit.
    """
    states, bits = _registers(registers, rounding)
    return _counted(
        _average_chunk,
        _average_threads,
        len(states) > 0,
        (
            teacher,
            student,
            numerator,
            shift,
            coarse_bits,
            student_shift,
            teacher_limit,
            int(rounding),
            out,
            states,
            bits,
            _residual(residual, teacher),
        ),
    )


def narrow(
    stored: np.ndarray,
    shift: int,
    limit: int,
    out: np.ndarray,
    rounding: int = Rounding.HALF_UP,
    registers: LaneRegisters | None = None,
) -> int:
    """Operands of the PE array from stored weights, saturated to int8; the words that were clipped.

    int16[n] or int32[n] of up to 24 bits -> int8[n] in `out`; `shift` is 0 to 24, `rounding` is a
    `Rounding` or a random key
    """
    states, bits = _registers(registers, rounding)
    if len(states):
        return _narrow_lfsr(stored, shift, limit, states, bits, out)
    return _narrow(stored, shift, limit, int(rounding), out)


def narrow_each(
    stored: np.ndarray,
    shifts: np.ndarray,
    limit: int,
    out: np.ndarray,
    rounding: int = Rounding.HALF_UP,
    registers: LaneRegisters | None = None,
) -> int:
    """`narrow` by a shift for every word, ``shifts``: int8[n], each 0 to 24."""
    states, bits = _registers(registers, rounding)
    random = np.zeros((1, len(stored)), np.uint32)
    if len(states):
        lfsr.draw(states, bits, len(stored), random)
    return _narrow_each(stored, shifts, limit, int(rounding), random[0], bits, out)


@njit(cache=True)
def accumulate(total, exponent, gradient, gradient_exponent, limit):
    """Add a micro-batch's gradient to the batch's, exactly, in place.

    ``total * 2**exponent + gradient * 2**gradient_exponent``, to the finer of the two exponents

    Parameters
    ----------
    total : int32[n] or int64[n]; at first the first micro-batch's gradient, with its exponent
    gradient : int32[n] or int64[n]
    limit : largest code of the total, below 2**62; both summands and the sum are clipped to it

    Returns
    -------
    exponent : of the total from now on
    saturated : words that were clipped
    """
    common = min(exponent, gradient_exponent)
    total_shift = min(exponent - common, 62)
    shift = min(gradient_exponent - common, 62)
    saturated = 0
    for i in range(len(total)):
        a, b = np.int64(total[i]), np.int64(gradient[i])
        kept_a = saturate(a, limit >> total_shift)
        kept_b = saturate(b, limit >> shift)
        wide_a = kept_a << total_shift if kept_a == a else (limit if a > 0 else -limit)
        wide_b = kept_b << shift if kept_b == b else (limit if b > 0 else -limit)
        both = wide_a + wide_b
        kept = saturate(both, limit)
        saturated += (kept_a != a) | (kept_b != b) | (kept != both)
        total[i] = kept
    return common, saturated


def _registers(registers: LaneRegisters | None, *roundings: int) -> tuple[np.ndarray, int]:
    """States and bits for the kernels; none if no rounding draws from them."""
    if Rounding.STOCHASTIC_LFSR not in roundings:
        return _NO_REGISTERS, 32
    if registers is None:
        raise ValueError(
            "registers must be LaneRegisters where a store rounds by STOCHASTIC_LFSR, not None"
        )
    return registers.states, registers.bits


def _residual(residual: np.ndarray | None, stored: np.ndarray) -> np.ndarray:
    """The residual words for the kernels; none if rounding may forget."""
    if residual is None:
        return _NO_RESIDUAL
    if residual.shape != stored.shape:
        raise ValueError(
            f"a residual must have one word for each of {stored.size} stored words, "
            f"not {residual.size} words"
        )
    return residual


def _counted(chunk, threads, sequential: bool, arguments: tuple) -> WordCounts:
    """Run a kernel over all words, in threads where that is worth it and order does not matter."""
    words = len(arguments[0])
    if sequential or words <= _CHUNK:
        return WordCounts(words, *chunk(0, words, *arguments))
    counts = threads(words, *arguments)
    return WordCounts(words, int(counts[:, 0].max()), *counts[:, 1:].sum(0).tolist())


@njit(cache=True)
def _sgd_chunk(
    begin,
    end,
    master,
    momentum,
    gradient,
    exponent,
    rate,
    factor,
    decay,
    master_limit,
    momentum_limit,
    master_key,
    momentum_key,
    states,
    bits,
    master_residual,
    momentum_residual,
    extra_bits,
):
    """`momentum_sgd` of words `begin` to `end`; the counts in the order of `WordCounts`."""
    wide = np.empty(_BLOCK, np.int64)
    random = np.empty((2, _BLOCK), np.uint32)
    largest = moved = unmoved = saturated = underflowed = 0
    block = _block(states)
    for first in range(begin, end, block):
        part = slice(first, min(first + block, end))
        weights, steps, gradients = master[part], momentum[part], gradient[part]
        count = len(weights)
        clipped, below = _sgd_sum(
            weights, steps, gradients, exponent, rate, factor, decay, extra_bits, wide[:count]
        )
        underflowed += below
        if len(states):
            uses = random[momentum_key != _STOCHASTIC_LFSR : 1 + (master_key == _STOCHASTIC_LFSR)]
            lfsr.draw(states, bits, count, uses)
        if momentum_key >= 0:
            _hash_block(first, momentum_key, random[0, :count])
        if master_key >= 0:
            if master_key != momentum_key:
                _hash_block(first, master_key, random[1, :count])
            _hash_again(random[0 if master_key == momentum_key else 1, :count], random[1])
        saturated += clipped
        _round_block(wide[:count], _GUARD, momentum_key, random[0], bits, momentum_residual[part])
        saturated += _store_steps(wide[:count], momentum_limit, steps)
        if extra_bits < 0:
            wide[:count] <<= -extra_bits
        down = max(extra_bits, 0)
        _round_block(wide[:count], down, master_key, random[1], bits, master_residual[part])
        found = _store_weights(wide[:count], gradients, master_limit, weights)
        largest = max(largest, found[0])
        moved += found[1]
        unmoved += found[2]
        saturated += found[3]
    return largest, moved, unmoved, saturated, underflowed


@njit(cache=True, parallel=True)
def _sgd_threads(words, *arguments):
    """`_sgd_chunk` of every chunk: int64[chunks, 5]."""
    chunks = -(-words // _CHUNK)
    counts = np.empty((chunks, 5), np.int64)
    for chunk in prange(chunks):
        begin = chunk * _CHUNK
        found = _sgd_chunk(begin, min(begin + _CHUNK, words), *arguments)
        for kind in range(5):
            counts[chunk, kind] = found[kind]
    return counts


@njit(cache=True)
def _sgd_sum(master, momentum, gradient, exponent, rate, factor, decay, extra_bits, wide):
    """The steps with their guard bits, in `wide`; gradients clipped and gradients underflowed."""
    left = exponent - RATE_BITS + extra_bits + _GUARD
    up, down = min(max(left, 0), 60), min(max(-left, 0), 62)
    gradient_limit = (2**61 - 1) // max(rate, 1)
    half_bit = 1 << (_GUARD - 1)
    clipped = underflowed = 0
    for i in range(len(wide)):
        kept = saturate(np.int64(gradient[i]), gradient_limit)
        clipped += kept != gradient[i]
        push = round_shift(saturate(kept * rate, 2**61 >> up) << up, down)
        underflowed += (abs(push) < half_bit) & (kept != 0)
        carried = factor * np.int64(momentum[i]) << (_GUARD - MOMENTUM_BITS)
        decayed = round_shift(np.int64(master[i]) * decay, DECAY_BITS - _GUARD - extra_bits)
        wide[i] = push + carried + decayed
    return clipped, underflowed


@njit(cache=True)
def _store_steps(steps, limit, momentum):
    """Clip `steps` in place and store them; words clipped."""
    saturated = 0
    for i in range(len(steps)):
        kept = saturate(steps[i], limit)
        saturated += kept != steps[i]
        steps[i] = kept
        momentum[i] = kept
    return saturated


@njit(cache=True)
def _store_weights(steps, gradient, limit, master):
    """Subtract `steps` from the weights; largest magnitude, words moved, unmoved and clipped."""
    largest = moved = unmoved = saturated = 0
    for i in range(len(steps)):
        weight = np.int64(master[i])
        kept = saturate(weight - steps[i], limit)
        saturated += kept != weight - steps[i]
        moved += kept != weight
        unmoved += (kept == weight) & (gradient[i] != 0)
        largest = max(largest, abs(kept))
        master[i] = kept
    return largest, moved, unmoved, saturated


@njit(cache=True)
def _average_chunk(
    begin,
    end,
    teacher,
    student,
    numerator,
    shift,
    coarse_bits,
    student_shift,
    limit,
    key,
    out,
    states,
    bits,
    residual,
):
    """`moving_average` of words `begin` to `end`; the counts in the order of `WordCounts`."""
    wide = np.empty(_BLOCK, np.int64)
    random = np.empty((1, _BLOCK), np.uint32)
    largest = moved = unmoved = saturated = 0
    block = _block(states)
    for first in range(begin, end, block):
        part = slice(first, min(first + block, end))
        old, new = teacher[part], student[part]
        count = len(old)
        _distances(old, new, numerator, student_shift, wide[:count])
        if len(states):
            lfsr.draw(states, bits, count, random)
        if key >= 0:
            _hash_block(first, key, random[0, :count])
        _round_block(wide[:count], shift + coarse_bits, key, random[0], bits, residual[part])
        found = _store_average(wide[:count], old, new, coarse_bits, student_shift, limit, out[part])
        largest = max(largest, found[0])
        moved += found[1]
        unmoved += found[2]
        saturated += found[3]
    return largest, moved, unmoved, saturated, 0


@njit(cache=True, parallel=True)
def _average_threads(words, *arguments):
    """`_average_chunk` of every chunk: int64[chunks, 5]."""
    chunks = -(-words // _CHUNK)
    counts = np.empty((chunks, 5), np.int64)
    for chunk in prange(chunks):
        begin = chunk * _CHUNK
        found = _average_chunk(begin, min(begin + _CHUNK, words), *arguments)
        for kind in range(5):
            counts[chunk, kind] = found[kind]
    return counts


@njit(cache=True)
def _distances(teacher, student, numerator, student_shift, wide):
    """``(student - teacher) * numerator`` in `wide`."""
    for i in range(len(wide)):
        wide[i] = ((np.int64(student[i]) << student_shift) - teacher[i]) * numerator


@njit(cache=True)
def _store_average(steps, teacher, student, coarse_bits, student_shift, limit, out):
    """Add `steps` to the teacher; largest magnitude, words moved, unmoved and clipped."""
    largest = moved = unmoved = saturated = 0
    for i in range(len(steps)):
        old = np.int64(teacher[i])
        new = old + (steps[i] << coarse_bits)
        kept = saturate(new, limit)
        saturated += kept != new
        moved += kept != old
        unmoved += (kept == old) & (old != np.int64(student[i]) << student_shift)
        largest = max(largest, abs(kept))
        out[i] = kept
    return largest, moved, unmoved, saturated


@njit(cache=True)
def _narrow(stored, shift, limit, key, out):
    """`narrow` by a rounding that needs no registers."""
    shift, limit = np.int32(shift), np.int32(limit)
    saturated = np.int32(0)
    for i in range(len(stored)):
        word = np.int32(stored[i])
        operand = np.int32(np.int32(word + noise32(word, key, i, shift)) >> shift)
        kept = saturate32(operand, limit)
        saturated = np.int32(saturated + np.int32(kept != operand))
        out[i] = kept
    return saturated


@njit(cache=True)
def _narrow_each(stored, shifts, limit, key, random, bits, out):
    """`narrow_each`, with the registers' draws in `random`, if they are wanted."""
    limit, saturated = np.int32(limit), np.int32(0)
    for i in range(len(stored)):
        word, shift = np.int32(stored[i]), np.int32(shifts[i])
        if key == _STOCHASTIC_LFSR:
            drawn = np.int64(random[i]) & ((np.int64(1) << min(shift, bits)) - 1)
            noise = np.int32(drawn << max(shift - bits, 0))
        else:
            noise = noise32(word, key, i, shift)
        operand = np.int32(np.int32(word + noise) >> shift)
        kept = saturate32(operand, limit)
        saturated = np.int32(saturated + np.int32(kept != operand))
        out[i] = kept
    return saturated


@njit(cache=True)
def _narrow_lfsr(stored, shift, limit, states, bits, out):
    """`narrow` by the lanes' registers."""
    random = np.empty((1, len(stored)), np.uint32)
    lfsr.draw(states, bits, len(stored), random)
    wide = stored.astype(np.int64)
    _round_block(wide, shift, _STOCHASTIC_LFSR, random[0], bits, np.empty(0, np.int16))
    return _store_steps(wide, limit, out)


@njit(cache=True)
def _block(states):
    """Words of a block: whole beats of the lanes, if words draw from their registers."""
    return _BLOCK - _BLOCK % len(states) if len(states) else _BLOCK


@njit(cache=True)
def _hash_block(first, key, random):
    """Random words of the indices from `first`, in `random`."""
    for i in range(len(random)):
        random[i] = hash32(np.uint32(first + i) ^ np.uint32(key))


@njit(cache=True)
def _hash_again(random, out):
    """Other random words of the same indices, in `out`, which may be `random`."""
    for i in range(len(random)):
        out[i] = hash32(random[i])


@njit(cache=True)
def _round_block(values, shift, key, random, bits, residual):
    """``values / 2**shift``, int64, rounded in place as `key` says; see `round64`.

    A `residual` word joins its value and takes what the rounding dropped. A register of `bits` in
    `random` is added to as many of the dropped bits as it has, to the lowest if it has enough.
    """
    dropped_bits = shift
    if len(residual):
        dropped_bits = max(shift, RESIDUAL_BITS)
        finer = dropped_bits - RESIDUAL_BITS
        for i in range(len(values)):
            values[i] = (values[i] << (dropped_bits - shift)) + (np.int64(residual[i]) << finer)
        whole = values.copy()
    if key >= 0:
        for i in range(len(values)):
            values[i] = round64(values[i], dropped_bits, 0, random[i])
    elif key == _STOCHASTIC_LFSR:
        mask = (np.int64(1) << min(dropped_bits, bits)) - 1
        up = max(dropped_bits - bits, 0)
        for i in range(len(values)):
            values[i] = (values[i] + ((np.int64(random[i]) & mask) << up)) >> dropped_bits
    elif key == HALF_UP:
        for i in range(len(values)):
            values[i] = round_shift(values[i], dropped_bits)
    elif key == TRUNCATE:
        for i in range(len(values)):
            values[i] = values[i] >> dropped_bits
    elif key == NEAREST_EVEN:
        for i in range(len(values)):
            values[i] = round64(values[i], dropped_bits, NEAREST_EVEN, 0)
    else:
        for i in range(len(values)):
            values[i] = round64(values[i], dropped_bits, _PSEUDO_STOCHASTIC, 0)
    if len(residual):
        for i in range(len(values)):
            rest = whole[i] - (values[i] << dropped_bits)
            residual[i] = saturate(round_shift(rest, finer), (1 << RESIDUAL_BITS) - 1)
