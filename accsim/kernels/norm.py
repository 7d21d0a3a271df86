"""Batch norm with activation and max-pool, forward and backward, in integers.

A map stands for ``y * 2**e``. Per channel, the statistics are kept in units of the map's last bit:
the mean with 8 fractional bits, the standard deviation with 20 and its inverse with 36. What every
element sees is one multiply-add, ``scale * y + shift``, whose per-channel constants share one power
of two chosen so that no sum can leave its word: 32 bits for 8-bit maps, 64 bits above.

The largest multiply-add of a pool is that of its largest or least word, by the sign of ``scale``:
a map is pooled first and normalised then.

Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, Algorithm 1 and section 3 (backward).
"""

import numpy as np
from numba import njit, prange

from accsim.kernels.fixed_point import (
    CHUNK,
    bit_length,
    code_type,
    integer_sqrt,
    round_shift,
    saturate,
    store_codes,
)
from accsim.kernels.fixed_point import limit as limit_of
from accsim.kernels.pooling import extremes, route

MEAN_BITS = 8  # fractional bits of a mean
LARGEST_MEAN_BITS = 23  # of a running mean: a finer map than those it was taken from saturates
SIGMA_BITS = 20  # fractional bits of a standard deviation, and of an inverse as 8-bit maps use it
GUARD_BITS = 16  # more fractional bits of an inverse, for 16-bit maps
PARAMETER_BITS = 12  # fractional bits of a scale or a shift: 16-bit words reach +-8
RUNNING_BITS = 32  # fractional bits of running statistics, in real units
EIGHTHS = 3  # an activated error is kept in eighths: its slope is a number of eighths
LEAST_SIGMA_BITS = 4  # at least 1/16 of an 8-bit map's last bit, in place of an epsilon
ROW_BITS = 32  # fractional bits of the constants before they are fitted into words
NARROW_BITS = 27  # bits of the largest magnitude that a 32-bit multiply-add may reach; 3 in eighths
WIDE_BITS = 45  # the same of a 64-bit one: a shift by 30 brings all into 16 bits


class DivergedError(ValueError):
    """Maps have outgrown every format: training has gone astray, and says so in one sentence."""


def channel_sums(y):
    """Sums and sums of squares over a batch: int8 or int16 [N, H, W, C] -> two int64[C].

    Exact for 8-bit images of up to 2**24 words, and for 16-bit batches of up to 2**32.
    """
    images, channels = len(y), y.shape[3]
    return _channel_sums(y.reshape(images, -1), channels, _zeros(channels, y))


def _zeros(channels, *maps):
    """Running sums of a chunk's words, every channel in its place, in words that hold them."""
    narrow = all(values.dtype == np.int8 for values in maps)
    return np.zeros(_copies(channels) * channels, np.int32 if narrow else np.int64)


def _copies(channels):
    """How often a per-channel constant stands in a chunk."""
    return -(-CHUNK // channels)


@njit(cache=True, parallel=True)
def _channel_sums(y, channels, zeros):
    images = len(y)
    sums = np.zeros((images, channels), np.int64)
    squares = np.zeros((images, channels), np.int64)
    for n in prange(images):
        _channel_sums_image(y[n], zeros, sums[n], squares[n])
    return sums.sum(0), squares.sum(0)


@njit(cache=True)
def _channel_sums_image(y, zeros, sums, squares):
    total, square = zeros.copy(), zeros.copy()
    for start in range(0, len(y), len(zeros)):
        _add_squares(y[start : start + len(zeros)], total, square)
    _fold(total, sums)
    _fold(square, squares)


@njit(cache=True)
def _add_squares(y, total, square):
    word = total.dtype.type
    for i in range(len(y)):
        value = word(y[i])
        total[i] = word(total[i] + value)
        square[i] = word(square[i] + word(value * value))


@njit(cache=True)
def _fold(chunk, sums):
    """Add up a chunk's words by channel."""
    channels = len(sums)
    for start in range(0, len(chunk), channels):
        sums += chunk[start : start + channels]


@njit(cache=True)
def batch_statistics(sums, squares, count):
    """Mean (8 fractional bits) and standard deviation (20) of `count` values a channel.

    Parameters
    ----------
    sums, squares : int64[C], see `channel_sums`
    count : at most 2**22

    Returns
    -------
    mean, sigma : int64[C], in units of the map's last bit

    Notes
    -----
    ``count**2 * variance`` is formed around the nearest integer below the mean, where nothing
    cancels. It is exact up to 61 bits, as of all 8-bit maps; else its lowest bits are dropped, at
    most 14 of 75.
    """
    mean = np.empty_like(sums)
    sigma = np.empty_like(sums)
    for c in range(len(sums)):
        mean[c] = (2 * (sums[c] << MEAN_BITS) + count) // (2 * count)
        center = sums[c] // count
        rest = sums[c] - center * count
        around = squares[c] - center * (sums[c] + rest)  # sum of (y - center)**2
        half = max(0, bit_length(around) + bit_length(count) - 60) // 2
        variance = count * (around >> (2 * half)) - ((rest * rest) >> (2 * half))
        variance = max(variance, 0)  # times count**2
        spare = min(8, (61 - bit_length(variance)) // 2)
        root = integer_sqrt(variance << (2 * spare))  # count * sigma, `spare` fractional bits
        sigma[c] = (root << (SIGMA_BITS - spare + half)) // count
    return mean, sigma


@njit(cache=True)
def update_running(running_mean, running_variance, mean, sigma, exponent, momentum_shift):
    """Move running statistics towards the batch's by 2**-momentum_shift, in place.

    Parameters
    ----------
    running_mean, running_variance : int64[C], real units with 32 fractional bits
    mean, sigma : int64[C], see `batch_statistics`
    exponent : of the map
    """
    for c in range(len(mean)):
        batch_mean = _shift(mean[c], exponent - MEAN_BITS + RUNNING_BITS)
        square = _product(sigma[c], sigma[c], SIGMA_BITS)
        batch_variance = _shift(square, 2 * exponent - SIGMA_BITS + RUNNING_BITS)
        running_mean[c] += round_shift(batch_mean - running_mean[c], momentum_shift)
        running_variance[c] += round_shift(batch_variance - running_variance[c], momentum_shift)


@njit(cache=True)
def running_statistics(running_mean, running_variance, exponent):
    """Mean and sigma, as of `batch_statistics`, of a map with `exponent` from running ones."""
    mean = np.empty_like(running_mean)
    sigma = np.empty_like(running_mean)
    for c in range(len(mean)):
        wide = _shift(running_mean[c], MEAN_BITS - exponent - RUNNING_BITS)
        mean[c] = saturate(wide, np.int64(1) << LARGEST_MEAN_BITS)
        square = _shift(running_variance[c], SIGMA_BITS - 2 * exponent - RUNNING_BITS)
        half = max(0, bit_length(square) + SIGMA_BITS - 61) // 2  # the root takes 62 bits
        sigma[c] = integer_sqrt(_shift(square, SIGMA_BITS - 2 * half)) << half
    return mean, sigma


@njit(cache=True)
def _shift(value, left):
    """``value * 2**left``, rounded half up where bits are lost, saturated at 2**62."""
    if left < 0:
        return round_shift(value, min(-left, 62))
    most = (np.int64(1) << 62) >> min(left, 62)
    return saturate(value, most) << min(left, 62)


@njit(cache=True)
def _product(a, b, shift):
    """``a * b / 2**shift`` rounded half up, for shift 1 to 63; the product has 128 bits.

    Saturates at 2**62. Source: schoolbook multiplication of 32-bit halves, Knuth, "The Art of
    Computer Programming", volume 2, section 4.3.1, algorithm M.
    """
    half_word, low_half = np.uint64(32), np.uint64(0xFFFFFFFF)
    negative = (a < 0) != (b < 0)
    x, y = np.uint64(abs(a)), np.uint64(abs(b))
    x_high, x_low = x >> half_word, x & low_half
    y_high, y_low = y >> half_word, y & low_half
    low = x_low * y_low
    middle = x_high * y_low + (low >> half_word)
    carry = x_low * y_high + (middle & low_half)
    high = x_high * y_high + (middle >> half_word) + (carry >> half_word)
    low = (carry << half_word) | (low & low_half)
    rounded = low + ((np.uint64(1) << np.uint64(shift - 1)) - np.uint64(negative))
    high += np.uint64(rounded < low)
    bits = (high << np.uint64(64 - shift)) | (rounded >> np.uint64(shift))
    saturated = (high >> np.uint64(shift - 1)) != 0 or (bits >> np.uint64(62)) != 0
    size = np.int64(1) << 62 if saturated else np.int64(bits)
    return -size if negative else size


@njit(cache=True)
def _fit(rows, largest_inputs, safe_bits):
    """Constants in words and their fractional bits, from rows with 32 fractional bits.

    ``sum over r of abs(rows[r]) * largest_inputs[r]`` stays below 2**safe_bits in every channel.
    """
    bound = np.int64(0)
    for c in range(rows.shape[1]):
        total = np.int64(0)
        for r in range(rows.shape[0]):
            total += (abs(rows[r, c]) >> 12) * largest_inputs[r]
        bound = max(bound, total + len(largest_inputs))
    drop = max(0, bit_length(bound) + 12 - safe_bits)
    fitted = np.empty(rows.shape, np.int64)
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            fitted[r, c] = round_shift(rows[r, c], drop)
    return fitted, ROW_BITS - drop


def _fit_words(rows, largest_inputs, wide):
    """`_fit` into 64-bit words, or into 32-bit ones."""
    largest_inputs = np.array(largest_inputs, np.int64)
    constants, frac_bits = _fit(rows, largest_inputs, WIDE_BITS if wide else NARROW_BITS)
    return constants if wide else constants.astype(np.int32), frac_bits


@njit(cache=True)
def inverse_sigma(sigma, bits=8):
    """``1 / sigma`` of every channel, 36 fractional bits.

    Sigma counts as 1/16 of the last bit at least, or, of a map of more than 8 bits, as that same
    part of its range.
    """
    least = np.int64(1) << (SIGMA_BITS - LEAST_SIGMA_BITS + max(bits - 8, 0))
    inverse = np.empty_like(sigma)
    for c in range(len(sigma)):
        inverse[c] = (np.int64(1) << (2 * SIGMA_BITS + GUARD_BITS)) // max(sigma[c], least)
    return inverse


def inverse_unit(channels, exponent, bits=8):
    """What takes the place of `inverse_sigma` in a mean-only norm: nothing is divided.

    The map's last bit in real units, ``2**exponent``, of every channel: int64[C], 36 fractional
    bits. Raises DivergedError where the map has grown so large that 32-bit constants cannot hold
    it.

    Source: Salimans and Kingma, "Weight Normalization", NeurIPS 2016, section 4.
    """
    most = LEAST_SIGMA_BITS - max(bits - 8, 0)
    if exponent > most:
        raise DivergedError(
            f"a mean-only norm takes {bits}-bit maps with an exponent of at most {most}, "
            f"not {exponent}: their weights have diverged; lower the learning rate"
        )
    left = SIGMA_BITS + GUARD_BITS + exponent
    return np.full(channels, 1 << left if left >= 0 else 0, np.int64)


def forward_constants(mean, inverse, scale, shift, bits=8):
    """Constants of ``z = (y - mean) / sigma * scale + shift`` as one multiply-add.

    Parameters
    ----------
    mean, inverse : int64[C], 8 and 36 fractional bits
    scale, shift : int16[C], 12 fractional bits
    bits : of the map; above 8, the multiply-add takes 64-bit words

    Returns
    -------
    constants : int32[2, C] or int64[2, C], (factor, addend): z = factor * y + addend
    frac_bits : of z
    """
    wide = bits > 8
    rows = _forward_rows(mean, inverse, scale, shift, GUARD_BITS if wide else 0)
    return _fit_words(rows, (limit_of(max(bits, 8)), 1), wide)


@njit(cache=True)
def _forward_rows(mean, inverse, scale, shift, guard):
    """Constants with 32 fractional bits; `guard` of the 16 further bits of an inverse count."""
    rows = np.empty((2, len(mean)), np.int64)
    for c in range(len(mean)):
        factor = round_shift(np.int64(scale[c]) * (inverse[c] >> (GUARD_BITS - guard)), guard)
        addend = (np.int64(shift[c]) << SIGMA_BITS) - round_shift(factor * mean[c], MEAN_BITS)
        rows[0, c], rows[1, c] = factor, addend
    return rows


def normalise(y, constants, negative_eighths, pool, shift, key, limit):
    """Max-pool, normalise and activate a map; round by `shift` and saturate.

    Parameters
    ----------
    y : int8 or int16 [N, H, W, C]
    constants : int32[2, C], or int64[2, C] for more than 8 bits, see `forward_constants`
    negative_eighths : slope of the activation below zero
    pool : size and stride of the max-pool, 1 for none
    shift, key, limit : as in `conv2d.forward`

    Returns
    -------
    z : [N, H // pool, W // pool, C], int8, or int16 where `limit` is above 127
    largest, saturated : as in `conv2d.forward`
    """
    best = _pooled(y, constants, pool)
    z = np.empty(best.shape, code_type(limit))
    best, flat, constants = best.reshape(-1), z.reshape(-1), _chunk(constants)
    return z, *_normalise(best, constants, negative_eighths, shift, key, limit, flat)


def _pooled(y, constants, pool):
    """The word of every pool whose multiply-add is the largest."""
    return extremes(y, constants[0], pool, pool) if pool > 1 else y


def _chunk(constants):
    """The constants of every word of a chunk."""
    return np.tile(constants, (1, _copies(constants.shape[1])))


@njit(cache=True, parallel=True)
def _normalise(y, constants, negative_eighths, shift, key, limit, z):
    size = constants.shape[1]
    chunks = -(-len(y) // size)
    largest = np.zeros(chunks, constants.dtype)
    saturated = np.zeros(chunks, np.int64)
    for n in prange(chunks):
        first, last = n * size, min((n + 1) * size, len(y))
        wide = np.empty(last - first, constants.dtype)
        _multiply_add(y[first:last], constants[0], constants[1], negative_eighths, wide)
        largest[n], saturated[n] = store_codes(wide, first, shift, key, limit, z[first:last])
    return largest.max(), saturated.sum()


@njit(cache=True)
def _multiply_add(y, factor, addend, negative_eighths, wide):
    word = wide.dtype.type
    eighths = word(negative_eighths)
    for i in range(len(wide)):
        value = word(word(factor[i] * word(y[i])) + addend[i])
        wide[i] = max(value, word(word(value * eighths) >> word(EIGHTHS)))


def activation_error(dz, y, constants, negative_eighths, pool):
    """Send an error back through the activation and the max-pool, and sum it.

    The first of equal maxima takes a pool's error, as in torch.

    Parameters
    ----------
    dz : int8 or int16 [N, H // pool, W // pool, C], error of `normalise`'s result
    y, constants, negative_eighths, pool : as given to `normalise`

    Returns
    -------
    error : [N, H, W, C], in eighths of dz's last bit; int16, or int32 if dz is int16
    sums, products : int64[C], sums over the batch of error and of error * y

    Notes
    -----
    The sums are exact for 8-bit images of up to 2**24 words; of 16-bit maps for up to 2**20
    elements a channel.
    """
    images, channels = len(y), y.shape[3]
    best = _pooled(y, constants, pool)
    error = np.empty(dz.shape, np.int16 if dz.dtype == np.int8 else np.int32)
    sums, products = _activation_error(
        dz.reshape(images, -1),
        best.reshape(images, -1),
        _chunk(constants),
        negative_eighths,
        channels,
        _zeros(channels, dz, y),
        error.reshape(images, -1),
    )
    return route(error, best, y, pool, pool) if pool > 1 else error, sums, products


@njit(cache=True, parallel=True)
def _activation_error(dz, y, constants, negative_eighths, channels, zeros, error):
    images = len(y)
    sums = np.zeros((images, channels), np.int64)
    products = np.zeros((images, channels), np.int64)
    for n in prange(images):
        _activation_error_image(
            dz[n], y[n], constants, negative_eighths, zeros, error[n], sums[n], products[n]
        )
    return sums.sum(0), products.sum(0)


@njit(cache=True)
def _activation_error_image(dz, y, constants, negative_eighths, zeros, error, sums, products):
    total, product = zeros.copy(), zeros.copy()
    for first in range(0, len(y), len(zeros)):
        last = min(first + len(zeros), len(y))
        part = error[first:last]
        _slope(dz[first:last], y[first:last], constants[0], constants[1], negative_eighths, part)
        _add_products(part, y[first:last], total, product)
    _fold(total, sums)
    _fold(product, products)


@njit(cache=True)
def _slope(dz, y, factor, addend, negative_eighths, error):
    word, of_error = factor.dtype.type, error.dtype.type
    below, above = of_error(negative_eighths), of_error(1 << EIGHTHS)
    for i in range(len(error)):
        reached = word(word(factor[i] * word(y[i])) + addend[i])
        error[i] = of_error(of_error(dz[i]) * (above if reached > 0 else below))


@njit(cache=True)
def _add_products(error, y, total, product):
    word = total.dtype.type
    for i in range(len(error)):
        value = word(error[i])
        total[i] = word(total[i] + value)
        product[i] = word(product[i] + word(value * word(y[i])))


def backward_constants(
    sums, products, count, mean, inverse, scale, bits=8, error_bits=8, mean_only=False
):
    """Constants of the error of `y`, and the gradients of scale and shift.

    With D the activated error, x = (y - mean) / sigma and averages over the whole batch,
    ``dy = scale / sigma * (D - mean(D) - x * mean(D * x))``, which is a multiply-add of D and y. A
    mean-only norm lacks the last term, and its scale is fixed: the gradient is zero.

    Parameters
    ----------
    sums, products : int64[C], see `activation_error`
    count : elements a channel that the sums are taken over
    mean, inverse, scale : as in `forward_constants`
    bits, error_bits : of y and of dz; above 8, the multiply-add takes 64-bit words
    mean_only : `inverse` is that of `inverse_unit`

    Returns
    -------
    constants : int32[3, C] or int64[3, C], (of error, of y, addend)
    frac_bits : of their result, in units of the error's last bit / y's last bit
    scale_gradient, shift_gradient : int32[C] or int64[C], in units of the error's last bit
    """
    wide = max(bits, error_bits) > 8
    guard = GUARD_BITS if wide else 0
    rows, *gradients = _backward_rows(sums, products, count, mean, inverse, scale, guard, mean_only)
    largest_inputs = (limit_of(max(error_bits, 8)) << EIGHTHS, limit_of(max(bits, 8)), 1)
    constants, frac_bits = _fit_words(rows, largest_inputs, wide)
    if not wide:
        gradients = [np.clip(sum_, -(2**31) + 1, 2**31 - 1).astype(np.int32) for sum_ in gradients]
    return constants, frac_bits, *gradients


@njit(cache=True)
def _backward_rows(sums, products, count, mean, inverse, scale, guard, mean_only):
    """Constants with 32 fractional bits and gradients; `guard` as in `_forward_rows`.

    Without guard bits, products are rounded 8 bits earlier, as 64-bit hardware multiplies them.
    """
    channels = len(sums)
    rows = np.empty((3, channels), np.int64)
    scale_gradient = np.zeros(channels, np.int64)
    early = 0 if guard else 8
    inverse_bits = SIGMA_BITS + guard
    for c in range(channels):
        kept = inverse[c] >> (GUARD_BITS - guard)
        factor = round_shift(np.int64(scale[c]) * kept, guard)  # 32 fractional bits
        coarse = round_shift(factor, early)
        of_y = np.int64(0)
        if not mean_only:
            covariance = (products[c] << MEAN_BITS) - mean[c] * sums[c]
            scale_gradient[c] = _product(
                round_shift(covariance, early // 2), kept, inverse_bits + MEAN_BITS - early // 2
            )
            whole = covariance // count
            average = (whole << 8) + ((covariance - whole * count) << 8) // count  # 16
            correlation = _product(average, kept, inverse_bits)  # 16
            slope = _product(correlation, kept, inverse_bits - 4)  # 20
            slope = saturate(slope, np.int64(1) << (31 + guard))
            of_y = saturate(-_product(coarse, slope, SIGMA_BITS - early), np.int64(1) << 46)
        offset = (sums[c] << 16) // count  # 16
        rows[0, c] = factor
        rows[1, c] = of_y
        rows[2, c] = -_product(coarse, offset, 16 - early) - _product(of_y, mean[c], MEAN_BITS)
    return rows, scale_gradient, sums


def denormalise(error, y, constants, shift, key, limit):
    """Error of `y`: ``constants[0] * error + constants[1] * y + constants[2]``, as codes.

    Parameters
    ----------
    error : int16 or int32 [N, H, W, C], see `activation_error`
    y : int8 or int16 [N, H, W, C]
    constants : int32[3, C] or int64[3, C], see `backward_constants`
    shift, key, limit : as in `conv2d.forward`

    Returns
    -------
    dy : [N, H, W, C], int8, or int16 where `limit` is above 127
    largest, saturated : as in `conv2d.forward`
    """
    dy = np.empty(y.shape, code_type(limit))
    error, y, flat = error.reshape(-1), y.reshape(-1), dy.reshape(-1)
    return dy, *_denormalise(error, y, _chunk(constants), shift, key, limit, flat)


@njit(cache=True, parallel=True)
def _denormalise(error, y, constants, shift, key, limit, dy):
    size = constants.shape[1]
    chunks = -(-len(y) // size)
    largest = np.zeros(chunks, constants.dtype)
    saturated = np.zeros(chunks, np.int64)
    for n in prange(chunks):
        first, last = n * size, min((n + 1) * size, len(y))
        wide = np.empty(last - first, constants.dtype)
        _combine(error[first:last], y[first:last], constants[0], constants[1], constants[2], wide)
        largest[n], saturated[n] = store_codes(wide, first, shift, key, limit, dy[first:last])
    return largest.max(), saturated.sum()


@njit(cache=True)
def _combine(error, y, of_error, of_y, addend, wide):
    word = wide.dtype.type
    for i in range(len(wide)):
        value = word(word(of_error[i] * word(error[i])) + word(of_y[i] * word(y[i])))
        wide[i] = word(value + addend[i])
