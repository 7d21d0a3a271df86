"""Max and average pooling of integer maps without padding, forward and backward.

Rows are reduced before columns: the loops over whole rows are long, so they become vectors. The
division by the words of a window is a multiplication by a 16-bit reciprocal, as in hardware.
"""

import numpy as np
from numba import njit, prange

from accsim.kernels.fixed_point import CHUNK, code_type, store_codes

RECIPROCAL_BITS = 16  # fractional bits of an average before its shift


def reciprocal(count: int) -> int:
    """``1 / count`` with 16 fractional bits, rounded half up."""
    return ((1 << RECIPROCAL_BITS + 1) + count) // (2 * count)


def max_pool(x, window, stride):
    """Largest value of every window: [N, H, W, C] -> [N, P, Q, C] of x's type and exponent.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C]
    window, stride : of the square windows; P is (H - window) // stride + 1, so is Q
    """
    return extremes(x, np.ones(x.shape[3], np.int8), window, stride)


def max_pool_error(dz, z, x, window, stride, shift, key, limit):
    """Send an error back through `max_pool`; the first of equal maxima takes it, as in torch.

    Parameters
    ----------
    dz : int8 or int16 [N, P, Q, C], error of `z`
    z, x, window, stride : result and arguments of `max_pool`
    shift, key, limit : of the errors' sums where windows overlap, as in `conv2d.forward`

    Returns
    -------
    dx : [N, H, W, C], int8, or int16 where `limit` is above 127
    largest, saturated : as in `conv2d.forward`
    """
    total = route(dz.astype(np.int32), z, x, window, stride)
    return _scale(total, 1, shift, key, limit)


def average_pool(x, window, stride, shift, key, limit):
    """Mean of every window: [N, H, W, C] -> [N, P, Q, C], largest, saturated.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C]
    window, stride : as in `max_pool`
    shift, key, limit : as in `conv2d.forward`; before the shift, a mean has 16 fractional bits

    Returns
    -------
    z : [N, P, Q, C], int8, or int16 where `limit` is above 127
    largest, saturated : as in `conv2d.forward`

    Notes
    -----
    Of 8-bit maps, a sum times its reciprocal stays below 2**31: at most 127 * (2**16 + count / 2).
    """
    total = _window_sums(x, window, window, stride, _zero(x))
    return _scale(total, reciprocal(window * window), shift, key, limit)


def average_pool_error(dz, height, width, window, stride, shift, key, limit):
    """Send an error back through `average_pool`: [N, P, Q, C] -> [N, height, width, C].

    Parameters and results as in `average_pool`; errors of windows that overlap add up exactly.
    """
    total = _window_spread(dz, height, width, window, window, stride, _zero(dz))
    return _scale(total, reciprocal(window * window), shift, key, limit)


def average(x, reciprocal, shift, key, limit):
    """Mean of every channel: [N, H, W, C] -> [N, 1, 1, C], largest, saturated.

    `shift`, `key`, `limit` and the results as in `average_pool`; `reciprocal` is that of H * W.
    """
    _, height, width, _ = x.shape
    return _scale(_window_sums(x, height, width, 1, _zero(x)), reciprocal, shift, key, limit)


def spread(dz, height, width, reciprocal, shift, key, limit):
    """Error of the map: [N, 1, 1, C] -> [N, height, width, C] and the rest as in `average`."""
    total = _window_spread(dz, height, width, height, width, 1, _zero(dz))
    return _scale(total, reciprocal, shift, key, limit)


def extremes(x, direction, window, stride):
    """Largest, least or first value of every window, by channel.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C]
    direction : [C]; positive for the largest value, negative for the least, 0 for the first
    window, stride : as in `max_pool`

    Returns
    -------
    [N, P, Q, C] of x's type
    """
    width = x.shape[2]
    keep = np.tile(np.where(direction == 0, 0, -1).astype(x.dtype), width)
    flip = np.tile(np.where(direction < 0, -1, 0).astype(x.dtype), width)
    return _extremes(x, keep, flip, window, stride)


@njit(cache=True, parallel=True)
def _extremes(x, keep, flip, window, stride):
    """`extremes`, in the order of ``(value & keep) ^ flip``; keep, flip: [W * C]."""
    images, height, width, channels = x.shape
    rows, columns = (height - window) // stride + 1, (width - window) // stride + 1
    best = np.empty((images, rows, columns, channels), x.dtype)
    for n in prange(images):
        _extremes_image(x[n], keep, flip, window, stride, best[n])
    return best


@njit(cache=True)
def _extremes_image(x, keep, flip, window, stride, best):
    """One image of `extremes`; whole rows are compared as if a window began at each pixel."""
    rows, columns, channels = best.shape
    height, width, _ = x.shape
    lines = x.reshape(height, -1)
    line = np.empty(width * channels, x.dtype)
    every = np.empty((width - window + 1) * channels, x.dtype)
    pixels = every.reshape(-1, channels)
    for p in range(rows):
        _copy(lines[p * stride], line)
        for r in range(1, window):
            _take_better(line, lines[p * stride + r], keep, flip)
        _copy(line, every)
        for s in range(1, window):
            _take_better(every, line[s * channels :], keep, flip)
        for q in range(columns):
            for c in range(channels):
                best[p, q, c] = pixels[q * stride, c]


@njit(cache=True)
def _copy(source, target):
    """Copy as many words as `target` has."""
    for i in range(len(target)):
        target[i] = source[i]


@njit(cache=True)
def _take_better(best, other, keep, flip):
    """Put the better of two values of every channel into `best`; it stays where they are equal."""
    for i in range(len(best)):
        if (other[i] & keep[i]) ^ flip[i] > (best[i] & keep[i]) ^ flip[i]:
            best[i] = other[i]


@njit(cache=True, parallel=True)
def route(error, best, x, window, stride):
    """Send every window's error to the first of its pixels that holds the window's best value.

    Parameters
    ----------
    error : [N, P, Q, C] of any integer type that holds the sums
    best, x, window, stride : result and arguments of `extremes`

    Returns
    -------
    total : [N, H, W, C] of the error's type, summed where windows overlap
    """
    total = np.empty(x.shape, error.dtype)
    for n in prange(len(x)):
        _route_image(error[n], best[n], x[n], window, stride, total[n])
    return total


@njit(cache=True)
def _route_image(error, best, x, window, stride, total):
    """One image of `route`: every row as if there were a window, without error, at each pixel."""
    rows, columns, channels = error.shape
    height, width, _ = x.shape
    lines, sums = x.reshape(height, -1), total.reshape(height, -1)
    left = np.zeros((width - window + 1) * channels, error.dtype)
    wanted = np.zeros(len(left), x.dtype)
    left_pixels, wanted_pixels = left.reshape(-1, channels), wanted.reshape(-1, channels)
    sums[:] = 0
    for p in range(rows):
        for q in range(columns):
            for c in range(channels):
                left_pixels[q * stride, c] = error[p, q, c]
            for c in range(channels):
                wanted_pixels[q * stride, c] = best[p, q, c]
        for r in range(window):
            line, line_sums = lines[p * stride + r], sums[p * stride + r]
            for s in range(window):
                start = s * channels
                _take_error(left, wanted, line[start:], line_sums[start:])


@njit(cache=True)
def _take_error(left, wanted, x, total):
    """Move the error that is left to where `x` is the wanted value."""
    zero = left.dtype.type(0)
    for i in range(len(left)):
        taken = left[i] if x[i] == wanted[i] else zero
        total[i] += taken
        left[i] -= taken


def _zero(x):
    """0 of the type that sums of a map's words need."""
    return np.int32(0) if x.dtype == np.int8 else np.int64(0)


@njit(cache=True, parallel=True)
def _window_sums(x, window_rows, window_columns, stride, zero):
    """Sums over windows: [N, H, W, C] -> [N, P, Q, C] of the type of `zero`."""
    images, height, width, channels = x.shape
    rows, columns = (height - window_rows) // stride + 1, (width - window_columns) // stride + 1
    total = np.full((images, rows, columns, channels), zero)
    for n in prange(images):
        _window_sums_image(x[n], window_rows, window_columns, stride, total[n])
    return total


@njit(cache=True)
def _window_sums_image(x, window_rows, window_columns, stride, total):
    rows, columns, channels = total.shape
    height, width, _ = x.shape
    lines = x.reshape(height, -1)
    line = np.empty(width * channels, total.dtype)
    pixels = line.reshape(-1, channels)
    for p in range(rows):
        line[:] = 0
        for r in range(window_rows):
            _add(line, lines[p * stride + r])
        for q in range(columns):
            for s in range(window_columns):
                for c in range(channels):
                    total[p, q, c] += pixels[q * stride + s, c]


@njit(cache=True, parallel=True)
def _window_spread(dz, height, width, window_rows, window_columns, stride, zero):
    """Every window's value added to all its pixels: [N, P, Q, C] -> [N, height, width, C]."""
    images, _, _, channels = dz.shape
    total = np.full((images, height, width, channels), zero)
    for n in prange(images):
        _window_spread_image(dz[n], window_rows, window_columns, stride, total[n])
    return total


@njit(cache=True)
def _window_spread_image(dz, window_rows, window_columns, stride, total):
    rows, columns, channels = dz.shape
    height, width, _ = total.shape
    lines = total.reshape(height, -1)
    line = np.empty(width * channels, total.dtype)
    pixels = line.reshape(-1, channels)
    for p in range(rows):
        line[:] = 0
        for q in range(columns):
            for s in range(window_columns):
                for c in range(channels):
                    pixels[q * stride + s, c] += dz[p, q, c]
        for r in range(window_rows):
            _add(lines[p * stride + r], line)


@njit(cache=True)
def _add(total, values):
    """Add in place, in the type of `total`."""
    word = total.dtype.type
    for i in range(len(total)):
        total[i] = word(total[i] + word(values[i]))


def _scale(total, factor, shift, key, limit):
    """Codes of ``total * factor``, rounded by `shift`: values, largest, saturated."""
    codes = np.empty(total.shape, code_type(limit))
    found = _scale_words(total.reshape(-1), factor, shift, key, limit, codes.reshape(-1))
    return codes, *found


@njit(cache=True, parallel=True)
def _scale_words(total, factor, shift, key, limit, codes):
    chunks = -(-len(total) // CHUNK)
    largest = np.zeros(chunks, total.dtype)
    saturated = np.zeros(chunks, np.int64)
    for n in prange(chunks):
        first, last = n * CHUNK, min((n + 1) * CHUNK, len(total))
        wide = np.empty(last - first, total.dtype)
        _multiply(total[first:last], factor, wide)
        largest[n], saturated[n] = store_codes(wide, first, shift, key, limit, codes[first:last])
    return largest.max(), saturated.sum()


@njit(cache=True)
def _multiply(total, factor, wide):
    word = wide.dtype.type
    for i in range(len(wide)):
        wide[i] = word(total[i] * word(factor))
