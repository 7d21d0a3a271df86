"""What the vector unit does to stored weights: SGD with momentum, the teacher's average, narrowing.

A stored tensor has ``frac_bits`` fractional bits, fixed at the start of the run. Its momentum is
kept as the step itself, with 4 more fractional bits.
"""

import numpy as np
from numba import njit

from accsim.kernels.fixed_point import hash32, round_shift, round_shift_random, saturate

MOMENTUM_EXTRA_BITS = 4  # fractional bits of a momentum word beyond those of its weight
RATE_BITS = 24  # fractional bits of a learning rate
DECAY_BITS = 32  # fractional bits of learning rate * weight decay
MOMENTUM_BITS = 8  # fractional bits of the momentum factor
_GUARD = 16  # fractional bits of a step before its one rounding


@njit(cache=True)
def sgd(
    master, momentum, gradient, exponent, rate, factor, decay, key, master_limit, momentum_limit
):
    """One step of SGD with momentum, in place, stochastically rounded.

    ``step = factor * step + rate * gradient + decay * weight``; ``weight -= step``

    Parameters
    ----------
    master, momentum : int16[n], frac_bits and frac_bits + 4 fractional bits
    gradient : int32[n]; the gradient is ``gradient * 2**(exponent - frac_bits)``
    exponent : of the gradient, relative to the weight's last bit
    rate : learning rate, 24 fractional bits
    factor : momentum, 8 fractional bits
    decay : learning rate * weight decay, 32 fractional bits
    key : random key
    master_limit, momentum_limit : largest codes

    Returns
    -------
    largest : magnitude of the weights after the step
    unmoved : weights that did not change although their gradient was not zero
    saturated : words that were clipped

    Notes
    -----
    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning",
    ICML 2013, eq. 1-2, with the learning rate inside the step.
    """
    largest = 0
    unmoved = 0
    saturated = 0
    left = exponent - RATE_BITS + MOMENTUM_EXTRA_BITS + _GUARD
    for i in range(len(master)):
        weight = np.int64(master[i])
        push = np.int64(gradient[i]) * rate
        wide = saturate(push, 2**60 >> left) << left if left >= 0 else round_shift(push, -left)
        wide += factor * np.int64(momentum[i]) << (_GUARD - MOMENTUM_BITS)
        wide += round_shift(weight * decay, DECAY_BITS - _GUARD - MOMENTUM_EXTRA_BITS)
        random = hash32(np.uint32(i) ^ np.uint32(key))
        step = round_shift_random(wide, _GUARD, random)
        kept = saturate(step, momentum_limit)
        saturated += kept != step
        momentum[i] = kept
        moved = weight - round_shift_random(kept, MOMENTUM_EXTRA_BITS, hash32(random))
        narrow = saturate(moved, master_limit)
        saturated += narrow != moved
        master[i] = narrow
        unmoved += (narrow == weight) and gradient[i] != 0
        largest = max(largest, abs(narrow))
    return largest, unmoved, saturated


@njit(cache=True)
def blend(teacher, student, numerator, shift, coarse_bits, key, out):
    """The teacher as the next forward pass sees it: moved towards the student.

    ``out = teacher + ((student - teacher) * numerator >> shift)``, stochastically rounded

    Parameters
    ----------
    teacher, student, out : int16[n], the same fractional bits; `out` may be `teacher`
    numerator : 1 for the moving average; j for j steps at once
    shift : 7 for 127/128
    coarse_bits : low bits that the teacher's store lacks: it holds multiples of 2**coarse_bits
    key : random key

    Returns
    -------
    moved : words that changed

    Notes
    -----
    Source: Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, eq. 1,
    with 1 - alpha a power of two. ``abs(out)`` never exceeds the larger of the two inputs by more
    than rounding, so no saturation is needed beyond the store's limit.
    """
    moved = 0
    limit = (1 << 15) - (1 << coarse_bits)
    for i in range(len(teacher)):
        distance = (np.int64(student[i]) - teacher[i]) * numerator
        random = hash32(np.uint32(i) ^ np.uint32(key))
        step = round_shift_random(distance, shift + coarse_bits, random) << coarse_bits
        value = saturate(np.int64(teacher[i]) + step, limit)
        moved += value != teacher[i]
        out[i] = value
    return moved


@njit(cache=True)
def narrow(master, shift, limit, out):
    """Operands of the PE array from stored weights: rounded half up, saturated to int8.

    int16[n] -> int8[n] in `out`
    """
    for i in range(len(master)):
        out[i] = saturate(round_shift(np.int64(master[i]), shift), limit)
