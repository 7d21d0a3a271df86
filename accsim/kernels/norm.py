"""Batch norm with activation and max-pool in one pass, forward and backward, in integers.

A map stands for ``y * 2**e``. Per channel, the statistics are kept in units of the map's last bit:
the mean with 8 fractional bits, the standard deviation and its inverse with 20. What every element
sees is one 32-bit multiply-add, ``scale * y + shift``, whose per-channel constants share one power
of two chosen so that no sum can leave 32 bits.

Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015, Algorithm 1 and section 3 (backward).
"""

import numpy as np
from numba import njit, prange

from accsim.kernels.fixed_point import (
    bit_length,
    integer_sqrt,
    noise32,
    round_shift,
    saturate,
    saturate32,
)

MEAN_BITS = 8  # fractional bits of a mean
SIGMA_BITS = 20  # fractional bits of a standard deviation and of its inverse
PARAMETER_BITS = 12  # fractional bits of a scale or a shift: 16-bit words reach +-8
RUNNING_BITS = 32  # fractional bits of running statistics, in real units
EIGHTHS = 3  # an activated error is kept in eighths: its slope is a number of eighths
LEAST_SIGMA = 1 << (SIGMA_BITS - 4)  # 1/16 of the map's last bit, in place of an epsilon
NEVER = np.int32(-(2**31))  # no multiply-add reaches it
SAFE_BITS = 27  # bits of the largest magnitude that a multiply-add may reach; 3 more in eighths


@njit(cache=True, parallel=True)
def channel_sums(y):
    """Sums and sums of squares over a batch: int8[N, H, W, C] -> two int64[C]."""
    images, height, width, channels = y.shape
    sums = np.zeros((images, channels), np.int64)
    squares = np.zeros((images, channels), np.int64)
    for n in prange(images):
        for h in range(height):
            row_sum = np.zeros(channels, np.int32)
            row_square = np.zeros(channels, np.int32)
            for w in range(width):
                for c in range(channels):
                    value = np.int32(y[n, h, w, c])
                    row_sum[c] += value
                    row_square[c] += value * value
            sums[n] += row_sum
            squares[n] += row_square
    return sums.sum(0), squares.sum(0)


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
    """
    mean = np.empty_like(sums)
    sigma = np.empty_like(sums)
    for c in range(len(sums)):
        mean[c] = (2 * (sums[c] << MEAN_BITS) + count) // (2 * count)
        variance = count * squares[c] - sums[c] * sums[c]  # times count**2
        spare = min(8, (61 - bit_length(variance)) // 2)
        root = integer_sqrt(variance << (2 * spare))  # count * sigma, `spare` fractional bits
        sigma[c] = (root << (SIGMA_BITS - spare)) // count
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
        square = round_shift(sigma[c] * sigma[c], SIGMA_BITS)
        batch_variance = _shift(square, 2 * exponent - SIGMA_BITS + RUNNING_BITS)
        running_mean[c] += round_shift(batch_mean - running_mean[c], momentum_shift)
        running_variance[c] += round_shift(batch_variance - running_variance[c], momentum_shift)


@njit(cache=True)
def running_statistics(running_mean, running_variance, exponent):
    """Mean and sigma, as of `batch_statistics`, of a map with `exponent` from running ones."""
    mean = np.empty_like(running_mean)
    sigma = np.empty_like(running_mean)
    for c in range(len(mean)):
        mean[c] = _shift(running_mean[c], MEAN_BITS - exponent - RUNNING_BITS)
        square = _shift(running_variance[c], SIGMA_BITS - 2 * exponent - RUNNING_BITS)
        sigma[c] = integer_sqrt(square << SIGMA_BITS)
    return mean, sigma


@njit(cache=True)
def _shift(value, left):
    """``value * 2**left``, rounded half up where bits are lost."""
    return value << left if left >= 0 else round_shift(value, min(-left, 62))


@njit(cache=True)
def _fit(rows, largest_inputs):
    """Rows of 32-bit constants and their fractional bits, from rows with 32 fractional bits.

    ``sum over r of abs(rows[r]) * largest_inputs[r]`` stays below 2**27 in every channel.
    """
    bound = np.int64(0)
    for c in range(rows.shape[1]):
        total = np.int64(0)
        for r in range(rows.shape[0]):
            total += (abs(rows[r, c]) >> 12) * largest_inputs[r]
        bound = max(bound, total + len(largest_inputs))
    drop = max(0, bit_length(bound) + 12 - SAFE_BITS)
    fitted = np.empty(rows.shape, np.int32)
    for r in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            fitted[r, c] = round_shift(rows[r, c], drop)
    return fitted, 32 - drop


@njit(cache=True)
def inverse_sigma(sigma):
    """``1 / sigma`` of every channel, 20 fractional bits; sigma is at least 1/16."""
    inverse = np.empty_like(sigma)
    for c in range(len(sigma)):
        inverse[c] = (np.int64(1) << (2 * SIGMA_BITS)) // max(sigma[c], LEAST_SIGMA)
    return inverse


@njit(cache=True)
def forward_constants(mean, inverse, scale, shift):
    """Constants of ``z = (y - mean) / sigma * scale + shift`` as one multiply-add.

    Parameters
    ----------
    mean, inverse : int64[C], 8 and 20 fractional bits
    scale, shift : int16[C], 12 fractional bits

    Returns
    -------
    constants : int32[2, C], (factor, addend): z = factor * y + addend
    frac_bits : of z
    """
    rows = np.empty((2, len(mean)), np.int64)
    for c in range(len(mean)):
        factor = np.int64(scale[c]) * inverse[c]
        addend = (np.int64(shift[c]) << SIGMA_BITS) - round_shift(factor * mean[c], MEAN_BITS)
        rows[0, c], rows[1, c] = factor, addend
    return _fit(rows, np.array([127, 1]))


@njit(cache=True, parallel=True)
def normalise(y, constants, negative_eighths, pool, shift, key, limit):
    """Normalise, max-pool and activate a map; round by `shift` and saturate to int8.

    Parameters
    ----------
    y : int8[N, H, W, C]
    constants : int32[2, C], see `forward_constants`
    negative_eighths : slope of the activation below zero
    pool : size and stride of the max-pool, 1 for none
    shift, key, limit : as in `conv2d.convolve`

    Returns
    -------
    z : int8[N, H // pool, W // pool, C]
    largest, saturated : as in `conv2d.convolve`
    """
    images, height, width, channels = y.shape
    z = np.empty((images, height // pool, width // pool, channels), np.int8)
    largest = np.zeros(images, np.int32)
    saturated = np.zeros(images, np.int64)
    for n in prange(images):
        largest[n], saturated[n] = _normalise_image(
            y[n],
            constants[0],
            constants[1],
            np.int32(negative_eighths),
            pool,
            shift,
            key,
            n * z[n].size,
            np.int32(limit),
            z[n],
        )
    return z, largest.max(), saturated.sum()


@njit(cache=True)
def _normalise_image(y, factor, addend, eighths, pool, shift, key, first_index, limit, z):
    """One image of `normalise`; a function of its own so that its loops become vectors."""
    rows, columns, channels = z.shape
    bits = np.int32(shift)
    biggest = np.int32(0)
    clipped = 0
    best = np.empty(channels, np.int32)
    for p in range(rows):
        for q in range(columns):
            _best_of_pool(y, p * pool, q * pool, pool, factor, addend, best)
            start = np.uint32((first_index + (p * columns + q) * channels) & 0xFFFFFFFF)
            for c in range(channels):
                value = best[c]
                value = max(value, np.int32(np.int32(value * eighths) >> np.int32(EIGHTHS)))
                biggest = max(biggest, np.int32(abs(value)))
                noise = noise32(value, key, np.uint32(start + np.uint32(c)), shift)
                wide = np.int32(np.int32(value + noise) >> bits)
                clipped += (wide > limit) | (wide < -limit)
                z[p, q, c] = saturate32(wide, limit)
    return biggest, clipped


@njit(cache=True, inline="always")
def _best_of_pool(y, top, left, pool, factor, addend, best):
    """Largest multiply-add of every channel over one pool, before the activation, into `best`."""
    for c in range(len(best)):
        best[c] = np.int32(factor[c] * np.int32(y[top, left, c])) + addend[c]
    for place in range(1, pool * pool):
        h, w = top + place // pool, left + place % pool
        for c in range(len(best)):
            value = np.int32(np.int32(factor[c] * np.int32(y[h, w, c])) + addend[c])
            best[c] = max(best[c], value)


@njit(cache=True, parallel=True)
def activation_error(dz, y, constants, negative_eighths, pool):
    """Send an error back through the activation and the max-pool, and sum it.

    The first of equal maxima takes a pool's error, as in torch.

    Parameters
    ----------
    dz : int8[N, H // pool, W // pool, C], error of `normalise`'s result
    y, constants, negative_eighths, pool : as given to `normalise`

    Returns
    -------
    error : int16[N, H, W, C], in eighths of dz's last bit
    sums, products : int64[C], sums over the batch of error and of error * y
    """
    images, height, width, channels = y.shape
    error = np.empty((images, height, width, channels), np.int16)
    sums = np.zeros((images, channels), np.int64)
    products = np.zeros((images, channels), np.int64)
    for n in prange(images):
        _activation_error_image(
            dz[n],
            y[n],
            constants[0],
            constants[1],
            np.int32(negative_eighths),
            pool,
            error[n],
            sums[n],
            products[n],
        )
    return error, sums.sum(0), products.sum(0)


@njit(cache=True)
def _activation_error_image(dz, y, factor, addend, eighths, pool, error, sums, products):
    """One image of `activation_error`; its loops are short so that they become vectors."""
    rows, columns, channels = dz.shape
    best = np.empty(channels, np.int32)
    row_sum = np.empty(channels, np.int32)
    row_product = np.empty(channels, np.int32)
    if pool > 1:
        error[:] = 0  # pixels that no pool covers
    for p in range(rows):
        row_sum[:] = 0
        row_product[:] = 0
        for q in range(columns):
            _best_of_pool(y, p * pool, q * pool, pool, factor, addend, best)
            for place in range(pool * pool):
                h, w = p * pool + place // pool, q * pool + place % pool
                for c in range(channels):
                    reached = np.int32(np.int32(factor[c] * np.int32(y[h, w, c])) + addend[c])
                    slope = np.int32(8) if reached > 0 else eighths
                    value = np.int32(np.int32(dz[p, q, c]) * slope)
                    error[h, w, c] = value if reached == best[c] else np.int32(0)
                if pool > 1:  # the first of equal maxima wins
                    for c in range(channels):
                        reached = np.int32(np.int32(factor[c] * np.int32(y[h, w, c])) + addend[c])
                        best[c] = NEVER if reached == best[c] else best[c]
                for c in range(channels):
                    row_sum[c] += error[h, w, c]
                for c in range(channels):
                    row_product[c] += np.int32(np.int32(error[h, w, c]) * np.int32(y[h, w, c]))
        for c in range(channels):
            sums[c] += row_sum[c]
            products[c] += row_product[c]


@njit(cache=True)
def backward_constants(sums, products, count, mean, inverse, scale):
    """Constants of the error of `y`, and the gradients of scale and shift.

    With D the activated error, x = (y - mean) / sigma and averages over the whole batch,
    ``dy = scale / sigma * (D - mean(D) - x * mean(D * x))``, which is a multiply-add of D and y.

    Parameters
    ----------
    sums, products : int64[C], see `activation_error`
    count : elements a channel that the sums are taken over
    mean, inverse, scale : as in `forward_constants`

    Returns
    -------
    constants : int32[3, C], (of error, of y, addend)
    frac_bits : of their result, in units of the error's last bit / y's last bit
    scale_gradient, shift_gradient : int32[C], in units of the error's last bit
    """
    channels = len(sums)
    rows = np.empty((3, channels), np.int64)
    scale_gradient = np.empty(channels, np.int32)
    shift_gradient = np.empty(channels, np.int32)
    for c in range(channels):
        covariance = (products[c] << MEAN_BITS) - mean[c] * sums[c]
        gradient = round_shift(round_shift(covariance, 4) * inverse[c], SIGMA_BITS + 4)
        scale_gradient[c] = saturate(gradient, 2**31 - 1)
        shift_gradient[c] = saturate(sums[c], 2**31 - 1)
        factor = np.int64(scale[c]) * inverse[c]  # 32 fractional bits
        average = (covariance << 8) // count  # 16
        correlation = round_shift(average * inverse[c], SIGMA_BITS)  # 16
        slope = saturate(round_shift(correlation * inverse[c], 16), 2**31)  # 20
        offset = (sums[c] << 16) // count  # 16
        of_y = saturate(-round_shift(round_shift(factor, 8) * slope, 12), 2**46)
        rows[0, c] = factor
        rows[1, c] = of_y
        rows[2, c] = -round_shift(round_shift(factor, 8) * offset, 8)
        rows[2, c] -= round_shift(of_y * mean[c], MEAN_BITS)
    constants, frac_bits = _fit(rows, np.array([127 << EIGHTHS, 127, 1]))
    return constants, frac_bits, scale_gradient, shift_gradient


@njit(cache=True, parallel=True)
def denormalise(error, y, constants, shift, key, limit):
    """Error of `y`: ``constants[0] * error + constants[1] * y + constants[2]``, to int8.

    Parameters
    ----------
    error : int16[N, H, W, C], see `activation_error`
    y : int8[N, H, W, C]
    constants : int32[3, C], see `backward_constants`
    shift, key, limit : as in `conv2d.convolve`

    Returns
    -------
    dy : int8[N, H, W, C]
    largest, saturated : as in `conv2d.convolve`
    """
    images = len(y)
    dy = np.empty(y.shape, np.int8)
    largest = np.zeros(images, np.int32)
    saturated = np.zeros(images, np.int64)
    for n in prange(images):
        largest[n], saturated[n] = _denormalise_image(
            error[n],
            y[n],
            constants[0],
            constants[1],
            constants[2],
            shift,
            key,
            n * y[n].size,
            np.int32(limit),
            dy[n],
        )
    return dy, largest.max(), saturated.sum()


@njit(cache=True)
def _denormalise_image(error, y, of_error, of_y, addend, shift, key, first_index, limit, dy):
    """One image of `denormalise`; a function of its own so that its loops become vectors."""
    height, width, channels = y.shape
    bits = np.int32(shift)
    biggest = np.int32(0)
    clipped = 0
    for h in range(height):
        for w in range(width):
            start = np.uint32((first_index + (h * width + w) * channels) & 0xFFFFFFFF)
            for c in range(channels):
                value = np.int32(of_error[c] * np.int32(error[h, w, c]))
                value = np.int32(value + np.int32(of_y[c] * np.int32(y[h, w, c])))
                value = np.int32(value + addend[c])
                biggest = max(biggest, np.int32(abs(value)))
                noise = noise32(value, key, np.uint32(start + np.uint32(c)), shift)
                wide = np.int32(np.int32(value + noise) >> bits)
                clipped += (wide > limit) | (wide < -limit)
                dy[h, w, c] = saturate32(wide, limit)
    return biggest, clipped
