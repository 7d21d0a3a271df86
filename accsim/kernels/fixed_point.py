"""Fixed-point arithmetic that every kernel shares: rounding, saturation, random bits, roots.

A tensor of B bits holds integers ``q`` in [-(2**(B-1) - 1), 2**(B-1) - 1] (symmetric: the most
negative code is unused) and one exponent ``e``; it stands for ``q * 2**e``.
"""

import numpy as np
from numba import njit

HALF_UP, TRUNCATE, NEAREST_EVEN = -1, -2, -3  # as compiled kernels see them

STEP_KEY = 0x9E3779B9  # odd constant of Weyl sequences: 2**32 / golden ratio


HASH_SHIFTS = 16, 15, 16
HASH_FACTORS = 0x7FEB352D, 0x846CA68B


@njit(cache=True, inline="always")
def hash32(counter):
    """32 well-mixed bits of a 32-bit `counter`.

    Source: "lowbias32", C. Wellons, "Prospecting for Hash Functions", 2018.
    """
    x = np.uint32(counter)
    x = np.uint32(x ^ (x >> np.uint32(HASH_SHIFTS[0])))
    x = np.uint32(x * np.uint32(HASH_FACTORS[0]))
    x = np.uint32(x ^ (x >> np.uint32(HASH_SHIFTS[1])))
    x = np.uint32(x * np.uint32(HASH_FACTORS[1]))
    return np.uint32(x ^ (x >> np.uint32(HASH_SHIFTS[2])))


def random_key(*labels: int) -> int:
    """32-bit key of a tensor at a step: `labels` are small integers such as seed, step, tensor.

    Random bits depend on the key and on the element's index alone, never on threads or tiles.
    """
    key = 0
    for label in labels:
        key = int(hash32((key * STEP_KEY + label + 1) & 0xFFFFFFFF))
    return key


@njit(cache=True)
def random_words(count, key):
    """Independent 32-bit words of a 32-bit `key`: uint32[count]."""
    words = np.empty(count, np.uint32)
    for i in range(count):
        words[i] = hash32(np.uint32(i) ^ np.uint32(key))
    return words


@njit(cache=True, inline="always")
def round_shift(value, shift):
    """``value / 2**shift`` rounded half up, for shift >= 0."""
    return (value + ((1 << shift) >> 1)) >> shift


@njit(cache=True, inline="always")
def noise32(value, key, index, shift):
    """What to add to the 32-bit `value` before its right shift by `shift` (0 to 31), to round it.

    Parameters
    ----------
    value : int32
    key : a random key (0 or more) for stochastic rounding, else a `Rounding`'s code
    index : of the element in its tensor; with the key it decides the random bits
    shift : bits to drop
    """
    if key >= 0:
        random = hash32(np.uint32(index) ^ np.uint32(key))
        return np.int32((random >> np.uint32(1)) >> np.uint32(31 - shift))
    bits = np.int32(shift)
    half = np.int32(np.int32(np.int32(1) << bits) >> np.int32(1))
    if key == HALF_UP:
        return half
    if key == TRUNCATE:
        return np.int32(0)
    if key == NEAREST_EVEN:
        odd = np.int32(np.int32(value >> bits) & np.int32(1))
        return np.int32(half - np.int32(1) + odd) if shift else np.int32(0)
    low_bits = np.int32(shift // 2)
    rest = np.int32(value & np.int32((np.int32(1) << bits) - np.int32(1)))
    high = np.int32(rest >> np.int32(bits - low_bits))
    low = np.int32(rest & np.int32((np.int32(1) << low_bits) - np.int32(1)))
    return np.int32((high > low) << bits)


@njit(cache=True, inline="always")
def round_shift_random(value, shift, random):
    """The 64-bit ``value / 2**shift`` rounded up with its fraction's probability; random: uint32.

    Above a shift of 32 the lowest bits of the fraction are rounded down.
    """
    if shift > 32:
        value, shift = value >> (shift - 32), 32
    return (value + (np.int64(random) >> (32 - shift))) >> shift


@njit(cache=True, inline="always")
def round64(value, shift, key, random):
    """The 64-bit ``value / 2**shift`` rounded as `key` says, for shift >= 0; see `noise32`.

    `random` is the uint32 that stochastic rounding draws from.
    """
    if key >= 0:
        return round_shift_random(value, shift, random)
    if shift == 0:
        return value
    whole = value >> shift
    rest = value - (whole << shift)
    half = 1 << (shift - 1)
    if key == HALF_UP:
        return whole + (rest >= half)
    if key == TRUNCATE:
        return whole
    if key == NEAREST_EVEN:
        return whole + (rest > half or (rest == half and whole & 1 == 1))
    low_bits = shift // 2
    return whole + ((rest >> (shift - low_bits)) > (rest & ((1 << low_bits) - 1)))


@njit(cache=True, inline="always")
def saturate(value, limit):
    """`value` clipped to [-limit, limit]."""
    return min(max(value, -limit), limit)


@njit(cache=True, inline="always")
def saturate32(value, limit):
    """`saturate` of int32 values, without numba's promotion to 64 bits."""
    return min(max(value, np.int32(-limit)), limit)


@njit(cache=True)
def bit_length(value):
    """Bits of the non-negative integer `value`; 0 for 0."""
    bits = 0
    while value:
        bits += 1
        value >>= 1
    return bits


@njit(cache=True)
def integer_sqrt(value):
    """Largest integer whose square is at most `value`, for 0 <= value < 2**62."""
    root = np.int64(0)
    bit = np.int64(1) << 60
    while bit > value:
        bit >>= 2
    while bit:
        if value >= root + bit:
            value -= root + bit
            root = (root >> 1) + bit
        else:
            root >>= 1
        bit >>= 2
    return root


def limit(bits: int) -> int:
    """Largest code of a signed, symmetric format of `bits`."""
    return (1 << (bits - 1)) - 1


def narrowing_shift(largest: int, bits: int) -> int:
    """Least right shift that brings integers up to `largest` into `bits`, rounding included."""
    shift = max(0, int(largest).bit_length() - (bits - 1))
    if shift and (largest + (1 << shift >> 1)) >> shift > limit(bits):
        shift += 1
    return shift


CHUNK = 1024  # words that the kernels on maps treat at once: the constants' copies stay in cache


def code_type(limit: int) -> type:
    """What a map with codes up to `limit` is stored in: int8, or int16 above 8 bits."""
    return np.int8 if limit <= 127 else np.int16


@njit(cache=True)
def store_codes(wide, first_index, shift, key, limit, codes):
    """Round wide integers by `shift`, saturate them and store them as codes.

    Parameters
    ----------
    wide : int32[n] or int64[n]; overwritten by the rounded integers
    first_index : of the first element in its tensor
    shift : 0 to 30
    key : a random key (0 or more) for stochastic rounding, else a `Rounding`'s code
    limit : largest code
    codes : int8[n] or int16[n]; overwritten

    Returns
    -------
    largest : the largest magnitude before the shift
    saturated : codes that were clipped
    """
    largest = _round_words(wide, np.uint32(first_index & 0xFFFFFFFF), shift, key)
    return largest, _narrow_words(wide, wide.dtype.type(limit), codes)


@njit(cache=True)
def _round_words(wide, first_index, shift, key):
    """The rounding of `store_codes`; a function of its own so that its loop becomes vectors."""
    word = wide.dtype.type
    bits = word(shift)
    largest = word(0)
    for i in range(len(wide)):
        value = wide[i]
        largest = max(largest, word(abs(value)))
        noise = noise32(value, key, np.uint32(first_index + np.uint32(i)), shift)
        wide[i] = word(word(value + noise) >> bits)
    return largest


@njit(cache=True)
def _narrow_words(wide, limit, codes):
    """The saturation of `store_codes`; a function of its own so that its loop becomes vectors."""
    word = wide.dtype.type
    saturated = np.int32(0)
    for i in range(len(wide)):
        code = min(max(wide[i], word(-limit)), limit)
        saturated = np.int32(saturated + np.int32(code != wide[i]))
        codes[i] = code
    return saturated
