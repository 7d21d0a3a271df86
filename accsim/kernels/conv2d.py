"""Convolutions of integer maps, forward and both backward passes, on the micro-kernel of `gemm`.

All three are the same product with other operands: no im2col buffer, only address offsets. Maps and
weights are int8, or int16 where a format has more than 8 bits; one 16-bit operand makes both so.
"""

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from accsim.kernels.fixed_point import (
    HALF_UP,
    hash32,
    narrowing_shift,
    noise32,
    round64,
    round_shift,
    saturate32,
)
from accsim.kernels.fixed_point import limit as limit_of
from accsim.kernels.gemm import (
    BYTE_OFFSET,
    LANES,
    ROWS,
    SUM_LIMIT,
    WORD,
    multiply_narrow_tile,
    multiply_wide_tile,
)

ROUNDED_LIMIT = 2**30  # leaves room for the noise that rounds a sum, shifts being 30 at most
CHUNKS = 8  # partial gradients at most; fixed, so that memory does not depend on the threads
FOLD_BYTES = 1 << 19  # images that one product goes through, so many that they stay in the cache
PARTIAL_WORDS = 1 << 19  # words of all partial gradients together, where there are several
HIGH_BITS = 8  # a 16-bit right operand may be split: value = high * 2**8 + low
LEAST_AT_ONCE = 32  # products of one 32-bit sum below which the right operand is split


class Sums(NamedTuple):
    """How a product of many terms is summed without a wrong bit."""

    planes: int  # 2 where the right operand is split into its high and low bytes
    at_once: int  # products that one 32-bit sum holds for sure; 0: all of them
    wrap_bits: int  # width at which the accumulator wraps; 0: it is proven wide enough


def plan_sums(
    products: int,
    left_limit: int,
    right_limit: int,
    accumulator_bits: int,
    largest_sum: int = SUM_LIMIT,
) -> Sums:
    """Bounds from the shape: which sums are exact in 32 bits, and whether the accumulator wraps.

    Parameters
    ----------
    products : terms of one sum
    left_limit, right_limit : largest magnitudes of the operands
    accumulator_bits : width of the modelled accumulator, 2 to 64; it wraps in two's complement
    largest_sum : what 32-bit sums may reach; less than they can hold where they are then rounded
    """
    bound = products * left_limit * right_limit
    wrap_bits = 0 if bound.bit_length() < accumulator_bits else accumulator_bits
    if bound <= largest_sum and not wrap_bits:
        return Sums(1, 0, 0)
    if max(left_limit, right_limit) <= limit_of(8):
        left_limit += BYTE_OFFSET  # as bytes are stored
    at_once = SUM_LIMIT // (left_limit * right_limit)
    if at_once >= LEAST_AT_ONCE:
        return Sums(1, at_once, wrap_bits)
    return Sums(2, SUM_LIMIT // (left_limit * ((1 << HIGH_BITS) - 1)), wrap_bits)


class Product(NamedTuple):
    """A rounded map and what was seen on the way."""

    values: np.ndarray  # int8 or int16
    largest: int  # magnitude of the sums before the shift
    saturated: int  # outputs that were clipped
    overflowed: int = 0  # sums that the accumulator could not hold


def forward(x, weights, stride, padding, shift, key, limit, accumulator_bits=32) -> Product:
    """Convolution ``y = x * weights``, shifted right, rounded and saturated.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C]
    weights : int8 or int16 [R, R, C, K]
    stride, padding : of the window
    shift : right shift of the exact sums, 0 to 30
    key : random key of stochastic rounding, or the code of a `fixed_point.Rounding`
    limit : largest output code; outputs are int16 where it is above 127
    accumulator_bits : width at which sums wrap
    """
    limits = _limits(x, weights)
    x, weights = _same_width(x, weights)
    kernel = weights.shape[0]
    rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[1:3])
    shape = (len(x), rows, columns, weights.shape[3])
    if kernel == 1 and stride == 1 and not padding:
        x = _merged(x)
        rows, columns = x.shape[1:3]
    inside = (len(x), rows, columns, shape[3])
    sums = plan_sums(kernel * kernel * x.shape[3], *limits, accumulator_bits, ROUNDED_LIMIT)
    channels = _round_up(x.shape[3], _group(x))
    padded = pad_map(x, _left(x), padding, padding, padding, padding, 1, channels)
    packed, corrections = pack_weights(weights, sums.planes, channels, _lanes(shape[3]))
    product = _convolve(padded, packed, corrections, stride, inside, shift, key, limit, sums)
    return product._replace(values=product.values.reshape(shape))


def backward_data(
    dy, weights, stride, padding, height, width, shift, key, limit, accumulator_bits=32
) -> Product:
    """Error of the layer's input, [N, height, width, C], shifted right, rounded and saturated.

    Parameters
    ----------
    dy : int8 or int16 [N, P, Q, K], the error of its output
    weights : int8 or int16 [R, R, C, K] as in `forward`
    height, width : of the input map
    stride, padding, shift, key, limit, accumulator_bits : as in `forward`
    """
    limits = _limits(dy, weights)
    dy, weights = _same_width(dy, weights)
    kernel = weights.shape[0]
    shape = (len(dy), height, width, weights.shape[2])
    if kernel == 1 and stride == 1 and not padding:
        dy = _merged(dy)
        height, width = dy.shape[1:3]
    inside = (len(dy), height, width, shape[3])
    before = kernel - 1 - padding
    below = height - ((dy.shape[1] - 1) * stride + 1) + padding
    right = width - ((dy.shape[2] - 1) * stride + 1) + padding
    sums = plan_sums(kernel * kernel * dy.shape[3], *limits, accumulator_bits, ROUNDED_LIMIT)
    channels = _round_up(dy.shape[3], _group(dy))
    padded = pad_map(dy, _left(dy), before, before, below, right, stride, channels)
    packed, corrections = pack_flipped_weights(weights, sums.planes, channels, _lanes(shape[3]))
    product = _convolve(padded, packed, corrections, 1, inside, shift, key, limit, sums)
    return product._replace(values=product.values.reshape(shape))


def backward_weight(x, dy, kernel, stride, padding, accumulator_bits=32):
    """Gradient of the weights, int32[kernel, kernel, C, K], its exponent, and overflows.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C], the layer's input
    dy : int8 or int16 [N, P, Q, K], the error of its output
    kernel, stride, padding : of the layer's window
    accumulator_bits : width at which sums wrap

    Returns
    -------
    gradient : int32; stands for ``gradient * 2**exponent``
    exponent : 0 where the exact sums fit 32 bits, as those of 8-bit maps nearly always do
    overflowed : sums that the accumulator could not hold
    """
    limits = _limits(x, dy)
    x, dy = _same_width(x, dy)
    images, rows, columns, outputs = dy.shape
    sums = plan_sums(images * rows * columns, *limits, accumulator_bits)
    offset = BYTE_OFFSET if x.dtype == np.int8 else 0
    left = interleave_images(x, _left(x), offset, padding, padding, x.shape[3])
    lanes = _lanes(outputs)
    channels = _round_up(outputs, lanes)
    parts = [
        interleave_images(part, part[:0].ravel(), 0, 0, 0, channels)
        for part in (split_bytes(dy) if sums.planes == 2 else (dy,))
    ]
    right = np.stack(parts) if sums.planes == 2 else parts[0][None]
    corrections = output_sums(dy) * offset
    rest = stride, kernel, x.shape[3], lanes
    if not sums.at_once:  # modulo 2**32, as the sums themselves
        return correlate(left, right, corrections.astype(np.int32), *rest), 0, 0
    steps = max(1, sums.at_once // _group(x))
    totals = correlate_exact(left, right, corrections, *rest, steps)
    totals, overflowed = wrap(totals, sums.wrap_bits)
    shift = narrowing_shift(int(np.abs(totals).max()), 32)
    return round_shift(totals, shift).astype(np.int32), shift, overflowed


def _convolve(padded, packed, corrections, stride, shape, shift, key, limit, sums):
    """`convolve` to a map of `shape`, with the sums that `plan_sums` chose."""
    y = np.empty(shape, np.int8 if limit <= 127 else np.int16)
    common = padded, packed, corrections, stride, shift, key, limit, y
    if not sums.at_once:
        return Product(y, *convolve(*common))
    group = WORD // padded.itemsize
    return Product(y, *convolve_exact(*common, max(1, sums.at_once // group), sums.wrap_bits))


@njit(cache=True, parallel=True)
def pad_map(x, carrier, top, left, bottom, right, dilation, channels):
    """Map with a border, zeros between its pixels and more channels, as a left operand.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C]
    carrier : empty array of the result's type: uint8 for bytes, which get 128 added, or int16
    top, left, bottom, right : zero rows and columns around it
    dilation : distance of two pixels of `x` in the result, 1 for none between
    channels : C or more; the rest is zero

    Returns
    -------
    [N, top + (H-1)*dilation + 1 + bottom, left + (W-1)*dilation + 1 + right, channels]
    """
    images, height, width, _used = x.shape
    offset = BYTE_OFFSET if carrier.itemsize == 1 else 0
    rows = top + (height - 1) * dilation + 1 + bottom
    columns = left + (width - 1) * dilation + 1 + right
    padded = np.empty((images, rows, columns, channels), carrier.dtype)
    for n in prange(images):
        _pad_image(x[n], offset, top, left, dilation, padded[n])
    return padded


@njit(cache=True)
def _pad_image(x, offset, top, left, dilation, padded):
    height, width, used = x.shape
    rows, _columns, channels = padded.shape
    whole = used == channels and dilation == 1
    for row in range(rows):
        inside = row - top
        if inside < 0 or inside >= (height - 1) * dilation + 1 or inside % dilation:
            padded[row] = offset
        elif whole:
            padded[row, :left] = offset
            padded[row, left + width :] = offset
            source = x[inside].reshape(-1)
            target = padded[row, left : left + width].reshape(-1)
            for i in range(len(source)):
                target[i] = source[i] + offset
        else:
            padded[row] = offset
            for w in range(width):
                for c in range(used):
                    padded[row, left + w * dilation, c] = x[inside // dilation, w, c] + offset


@njit(cache=True, parallel=True)
def pack_weights(weights, planes, channels, lanes):
    """Weights in the order in which the micro-kernel reads them, and what bytes' offsets add.

    Parameters
    ----------
    weights : int8 or int16 [R, S, C, K]
    planes : 2 to split 16-bit weights into low and high bytes, else 1
    channels : C rounded up to a whole lane
    lanes : columns of a tile, 16 or 32

    Returns
    -------
    packed : [planes, K/lanes, R, S, channels/g, lanes, g], zero where there is no weight; g = 4
        bytes or 2 words
    corrections : int32[K rounded up], 128 times the sum of each output's bytes; 0 for words
    """
    height, width, inputs, outputs = weights.shape
    group = WORD // weights.itemsize
    tiles = (outputs + lanes - 1) // lanes
    shape = (planes, tiles, height, width, channels // group, lanes, group)
    packed = np.zeros(shape, weights.dtype)
    corrections = np.zeros(tiles * lanes, np.int32)
    offset = BYTE_OFFSET if weights.itemsize == 1 else 0
    for t in prange(tiles):
        start = t * lanes
        used = min(lanes, outputs - start)
        for r in range(height):
            for s in range(width):
                for c in range(0, inputs, group):
                    if planes == 1 and group == 4 and c + 4 <= inputs:
                        _pack_four(
                            weights[r, s, c : c + 4], start, packed[0, t, r, s, c // 4, :used]
                        )
                        continue
                    for j in range(min(group, inputs - c)):
                        for plane in range(planes):
                            target = packed[plane, t, r, s, c // group]
                            for k in range(used):
                                value = weights[r, s, c + j, start + k]
                                target[k, j] = _plane(value, plane, planes)
                for c in range(inputs):
                    sums = corrections[start : start + used]
                    source = weights[r, s, c, start : start + used]
                    for k in range(used):
                        sums[k] += offset * np.int32(source[k])
    return packed, corrections


@njit(cache=True)
def _pack_four(weights, start, packed):
    """Four input channels side by side; four stores beside each other become one vector's."""
    for k in range(len(packed)):
        place = np.uint64(start + k)
        packed[k, 0] = weights[0, place]
        packed[k, 1] = weights[1, place]
        packed[k, 2] = weights[2, place]
        packed[k, 3] = weights[3, place]


@njit(cache=True, parallel=True)
def pack_flipped_weights(weights, planes, channels, lanes):
    """`pack_weights` of the backward-data convolution: taps rotated, channels swapped.

    weights[R, S, C, K] -> packed [planes, C/lanes, R, S, channels/g, lanes, g], corrections;
    `channels` is K rounded up to a whole lane.
    """
    height, width, inputs, outputs = weights.shape
    group = WORD // weights.itemsize
    tiles = (inputs + lanes - 1) // lanes
    shape = (planes, tiles, height, width, channels // group, lanes, group)
    packed = np.zeros(shape, weights.dtype)
    corrections = np.zeros(tiles * lanes, np.int32)
    offset = BYTE_OFFSET if weights.itemsize == 1 else 0
    for t in prange(tiles):
        start = t * lanes
        for r in range(height):
            for s in range(width):
                for lane in range(min(lanes, inputs - start)):
                    source = weights[height - 1 - r, width - 1 - s, start + lane]
                    total = np.int32(0)
                    for k in range(outputs):
                        total += np.int32(source[k])
                    corrections[start + lane] += offset * total
                    for plane in range(planes):
                        target = packed[plane, t, r, s, :, lane]
                        for g in range((outputs + group - 1) // group):
                            for j in range(min(group, outputs - g * group)):
                                value = source[np.uint64(g * group + j)]
                                target[g, j] = _plane(value, plane, planes)
    return packed, corrections


@njit(cache=True, inline="always")
def _plane(value, plane, planes):
    """`value` itself, or its low or high byte: ``value = high * 2**8 + low``."""
    if planes == 1:
        return value
    return value & ((1 << HIGH_BITS) - 1) if plane == 0 else value >> HIGH_BITS


@njit(cache=True, parallel=True)
def convolve(padded, packed, corrections, stride, shift, key, limit, y):
    """Convolution of a padded map whose sums fit 32 bits, rounded and saturated into `y`.

    Parameters
    ----------
    padded : uint8 or int16 [N, H, W, C], see `pad_map`
    packed, corrections : see `pack_weights`, one plane
    stride : step of the window
    shift, key, limit : as in `forward`
    y : int8 or int16 [N, P, Q, K], overwritten

    Returns
    -------
    largest, saturated : see `Product`
    """
    images = len(padded)
    largest = np.zeros(images, np.int32)
    saturated = np.zeros(images, np.int64)
    for n in prange(images):
        largest[n], saturated[n] = _convolve_image(
            padded[n], packed[0], corrections, stride, shift, key, n * y[n].size, limit, y[n]
        )
    return largest.max(), saturated.sum()


@njit(cache=True)
def _convolve_image(padded, packed, corrections, stride, shift, key, first_index, limit, y):
    """One image of `convolve`."""
    _, width, channels = padded.shape
    tiles, kernel_rows, kernel_columns, groups, lanes, _ = packed.shape
    rows, columns, outputs = y.shape
    pixels = rows * columns
    pixel_bytes = channels * padded.itemsize
    flat = y.reshape(pixels, outputs)
    taps = np.arange(kernel_rows) * (width * pixel_bytes)
    inner = kernel_columns * groups
    panel = kernel_rows * inner * lanes * WORD
    tile = np.empty((ROWS, lanes), np.int32)
    row_bytes, column_bytes = width * stride * pixel_bytes, stride * pixel_bytes
    offsets = _window_offsets(rows, columns, row_bytes, column_bytes)
    largest = np.int32(0)
    clipped = 0
    for first in range(0, pixels, ROWS):
        for t in range(tiles):
            _multiply(
                padded,
                0,
                offsets[first:],
                WORD,
                taps,
                packed.ctypes.data + t * panel,
                lanes * WORD,
                kernel_rows,
                inner,
                tile,
                0,
            )
            biggest, lost = _round_tile(
                tile, corrections, t * lanes, first, shift, key, first_index, limit, flat
            )
            largest = max(largest, biggest)
            clipped += lost
    return largest, clipped


@njit(cache=True)
def _window_offsets(rows, columns, row_bytes, column_bytes):
    """Where the window of every output pixel begins; the last one again up to a whole tile."""
    pixels = rows * columns
    offsets = np.empty((pixels + ROWS - 1) // ROWS * ROWS, np.int64)
    for p in range(rows):
        for q in range(columns):
            offsets[p * columns + q] = p * row_bytes + q * column_bytes
    offsets[pixels:] = offsets[pixels - 1]
    return offsets


@njit(cache=True, inline="always")
def _multiply(
    left, start, offsets, left_step, starts, right, right_step, outer_count, inner_count, tile, add
):
    """`gemm.multiply_tile` of the tile's width."""
    if tile.shape[1] == LANES:
        multiply_narrow_tile(
            left,
            start,
            offsets.ctypes.data,
            left_step,
            starts.ctypes.data,
            right,
            right_step,
            outer_count,
            inner_count,
            tile.ctypes.data,
            add,
        )
    else:
        multiply_wide_tile(
            left,
            start,
            offsets.ctypes.data,
            left_step,
            starts.ctypes.data,
            right,
            right_step,
            outer_count,
            inner_count,
            tile.ctypes.data,
            add,
        )


@njit(cache=True)
def _round_tile(tile, corrections, start, first, shift, key, first_index, limit, flat):
    """Round a tile's sums into pixels `first`... and outputs `start`... of `flat`; and count."""
    pixels, outputs = flat.shape
    rows = min(ROWS, pixels - first)
    used = min(tile.shape[1], outputs - start)
    index = first_index + first * outputs + start
    if key >= 0:
        return _round_rows(
            tile, corrections, start, first, rows, used, shift, key, index, limit, flat, 0
        )
    if key == HALF_UP:
        return _round_rows(
            tile, corrections, start, first, rows, used, shift, key, index, limit, flat, 1
        )
    return _round_rows(
        tile, corrections, start, first, rows, used, shift, key, index, limit, flat, 2
    )


@njit(cache=True, inline="always")
def _round_rows(tile, corrections, start, first, rows, used, shift, key, index, limit, flat, kind):
    """`_round_tile` for one kind of rounding, a constant: 0 stochastic, 1 half up, 2 any other.

    Runs of 16 become one vector each: their indices are unsigned because a signed sum of indices
    might be negative, which numba would have to wrap around, element by element.
    """
    outputs = flat.shape[1]
    bits, top = np.int32(shift), np.int32(limit)
    half = np.int32((np.int64(1) << shift) >> 1)
    largest = np.int32(0)
    clipped = np.int32(0)
    for m in range(rows):
        row = np.uint64(first + m)
        for lane in range(0, used, LANES):
            counter = np.uint32((index + m * outputs + lane) & 0xFFFFFFFF)
            for k in range(LANES if used - lane >= LANES else used - lane):
                column, place = np.uint64(lane + k), np.uint64(start + lane + k)
                total = np.int32(tile[m, column] - corrections[place])
                largest = max(largest, np.int32(abs(total)))
                noise = half
                if kind == 0:
                    random = hash32(np.uint32(counter + np.uint32(k)) ^ np.uint32(key))
                    noise = np.int32((random >> np.uint32(1)) >> np.uint32(31 - shift))
                if kind == 2:
                    noise = noise32(total, key, 0, shift)
                wide = np.int32(np.int32(total + noise) >> bits)
                narrow = saturate32(wide, top)
                clipped += np.int32(wide != narrow)
                flat[row, place] = narrow
    return largest, clipped


@njit(cache=True, parallel=True)
def convolve_exact(padded, packed, corrections, stride, shift, key, limit, y, steps, wrap_bits):
    """`convolve` with 64-bit totals of 32-bit sums of `steps` lanes each.

    Returns
    -------
    largest, saturated, overflowed : see `Product`
    """
    images, _, width, channels = padded.shape
    planes, tiles, kernel_rows, kernel_columns, groups, lanes, _ = packed.shape
    _, rows, columns, outputs = y.shape
    pixels = rows * columns
    pixel_bytes = channels * padded.itemsize
    inner = kernel_columns * groups
    panel = kernel_rows * inner * lanes * WORD
    largest = np.zeros(images, np.int64)
    saturated = np.zeros(images, np.int64)
    overflowed = np.zeros(images, np.int64)
    for n in prange(images):
        tile = np.empty((ROWS, lanes), np.int32)
        totals = np.empty((ROWS, lanes), np.int64)
        row_bytes, column_bytes = width * stride * pixel_bytes, stride * pixel_bytes
        offsets = _window_offsets(rows, columns, row_bytes, column_bytes)
        tap = np.zeros(1, np.int64)
        flat = y[n].reshape(pixels, outputs)
        for first in range(0, pixels, ROWS):
            for t in range(tiles):
                totals[:] = 0
                for plane in range(planes):
                    base = packed.ctypes.data + (plane * tiles + t) * panel
                    for r in range(kernel_rows):
                        for i in range(0, inner, steps):
                            _multiply(
                                padded[n],
                                r * width * pixel_bytes + i * WORD,
                                offsets[first:],
                                WORD,
                                tap,
                                base + (r * inner + i) * lanes * WORD,
                                lanes * WORD,
                                1,
                                min(steps, inner - i),
                                tile,
                                0,
                            )
                            for m in range(ROWS):
                                for k in range(lanes):
                                    totals[m, k] += np.int64(tile[m, k]) << (HIGH_BITS * plane)
                seen = _round_totals(
                    totals,
                    corrections,
                    t * lanes,
                    first,
                    shift,
                    key,
                    n * pixels * outputs,
                    limit,
                    wrap_bits,
                    flat,
                )
                largest[n] = max(largest[n], seen[0])
                saturated[n] += seen[1]
                overflowed[n] += seen[2]
    return largest.max(), saturated.sum(), overflowed.sum()


@njit(cache=True)
def _round_totals(
    totals, corrections, start, first, shift, key, first_index, limit, wrap_bits, flat
):
    """`_round_tile` of 64-bit totals; largest magnitude, clipped outputs and overflows."""
    pixels, outputs = flat.shape
    used = min(totals.shape[1], outputs - start)
    largest, clipped, overflowed = 0, 0, 0
    for m in range(min(ROWS, pixels - first)):
        row = np.uint64(first + m)
        for k in range(used):
            exact = totals[m, k] - corrections[np.uint64(start + k)]
            total = _wrapped(exact, wrap_bits)
            overflowed += total != exact
            largest = max(largest, abs(total))
            totals[m, k] = total
        counter = np.uint32((first_index + (first + m) * outputs + start) & 0xFFFFFFFF)
        if key >= 0 and shift <= 32:
            for k in range(used):
                random = hash32(np.uint32(counter + np.uint32(k)) ^ np.uint32(key))
                totals[m, k] = (totals[m, k] + (np.int64(random) >> (32 - shift))) >> shift
        else:
            for k in range(used):
                random = hash32(np.uint32(counter + np.uint32(k)) ^ np.uint32(key))
                totals[m, k] = round64(totals[m, k], shift, key, random)
        for k in range(used):
            narrow = min(max(totals[m, k], -limit), limit)
            clipped += narrow != totals[m, k]
            flat[row, np.uint64(start + k)] = narrow
    return largest, clipped, overflowed


@njit(cache=True, inline="always")
def _wrapped(value, bits):
    """`value` in two's complement of `bits`; all of it for 0."""
    return (value << (64 - bits)) >> (64 - bits) if bits else value


@njit(cache=True)
def wrap(totals, bits):
    """Sums in an accumulator of `bits` (0: wide enough), and how many it could not hold."""
    wrapped = np.empty_like(totals)
    flat, out = totals.ravel(), wrapped.ravel()
    overflowed = 0
    for i in range(len(flat)):
        out[i] = _wrapped(flat[i], bits)
        overflowed += out[i] != flat[i]
    return wrapped, overflowed


@njit(cache=True, parallel=True)
def interleave_images(x, carrier, offset, before, after, channels):
    """Groups of images side by side, so that a 32-bit lane holds one value of each.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C]
    carrier : empty array of the result's type
    offset : added to every value: 128 for bytes of a left operand, else 0
    before, after : zero rows and columns around the map
    channels : C or more; the rest is zero

    Returns
    -------
    [ceil(N/g), before + H + after, before + W + after, channels, g], g = 4 bytes or 2 words
    """
    images, height, width, _used = x.shape
    group = WORD // carrier.itemsize
    groups = (images + group - 1) // group
    shape = (groups, before + height + after, before + width + after, channels, group)
    mixed = np.empty(shape, carrier.dtype)
    for g in prange(groups):
        _interleave_group(x[g * group : (g + 1) * group], offset, before, mixed[g])
    return mixed


@njit(cache=True)
def _interleave_group(x, offset, before, mixed):
    images, height, width, used = x.shape
    mixed[:] = offset
    if images == 4 == mixed.shape[3]:  # four stores side by side become one vector's
        for h in range(height):
            for w in range(width):
                target = mixed[before + h, before + w]
                for c in range(used):
                    target[c, 0] = x[0, h, w, c] + offset
                    target[c, 1] = x[1, h, w, c] + offset
                    target[c, 2] = x[2, h, w, c] + offset
                    target[c, 3] = x[3, h, w, c] + offset
        return
    if images == 2 == mixed.shape[3]:
        for h in range(height):
            for w in range(width):
                target = mixed[before + h, before + w]
                for c in range(used):
                    target[c, 0] = x[0, h, w, c] + offset
                    target[c, 1] = x[1, h, w, c] + offset
        return
    for i in range(images):
        for h in range(height):
            for w in range(width):
                target = mixed[before + h, before + w]
                for c in range(used):
                    target[c, i] = x[i, h, w, c] + offset


@njit(cache=True)
def output_sums(dy):
    """Sum of the errors of every output channel: [N, P, Q, K] -> int64[K]."""
    images, rows, columns, outputs = dy.shape
    sums = np.zeros(outputs, np.int64)
    line = np.empty(outputs, np.int32)
    for n in range(images):
        for p in range(rows):
            line[:] = 0
            for q in range(columns):
                for k in range(outputs):
                    line[k] += dy[n, p, q, k]
            for k in range(outputs):
                sums[k] += line[k]
    return sums


@njit(cache=True, parallel=True)
def correlate(x, dy, corrections, stride, kernel, inputs, lanes):
    """Weight gradient: the correlation of the layer's input with its output's error, in 32 bits.

    Parameters
    ----------
    x : [G, H, W, C, g], padded and interleaved, a left operand
    dy : [1, G, P, Q, K', g], interleaved, a right operand; K' a multiple of `lanes`
    corrections : int32[K], what the left operand's offset adds, modulo 2**32
    stride, kernel : of the layer's window
    inputs : C
    lanes : columns of a tile, 16 or 32

    Returns
    -------
    int32[kernel, kernel, C, K]
    """
    groups, height, width = x.shape[:3]
    _, _, rows, columns, padded_outputs, _ = dy.shape
    outputs = len(corrections)
    line = kernel * inputs  # (tap column, channel) pairs: neighbours in memory
    blocks = (line + ROWS - 1) // ROWS
    tiles = padded_outputs // lanes
    size = kernel * blocks * tiles * ROWS * lanes
    chunks = min(CHUNKS, groups, max(1, PARTIAL_WORDS // size))
    parts = 1 if chunks > 1 else blocks  # few weights: split the images; many: the weights
    partial = np.empty((chunks, kernel, blocks, tiles, ROWS, lanes), np.int32)
    image = height * width * inputs * WORD
    fold = max(1, FOLD_BYTES // (image + rows * columns * padded_outputs * WORD))
    starts = np.empty(groups * rows, np.int64)  # of every row of every group
    for g in range(groups):
        for p in range(rows):
            starts[g * rows + p] = g * image + p * stride * width * inputs * WORD
    for task in prange(chunks * kernel * parts):
        chunk, rest = task // (kernel * parts), task % (kernel * parts)
        r, part = rest // parts, rest % parts
        offsets = np.empty(ROWS, np.int64)
        first, last = chunk * groups // chunks, (chunk + 1) * groups // chunks
        for g in range(first, last, fold):
            right = dy.ctypes.data + g * rows * columns * padded_outputs * WORD
            for block in range(part * blocks // parts, (part + 1) * blocks // parts):
                for m in range(ROWS):
                    place = min(block * ROWS + m, line - 1)
                    offsets[m] = (r * width * inputs + place) * WORD
                for t in range(tiles):
                    _multiply(
                        x,
                        0,
                        offsets,
                        stride * inputs * WORD,
                        starts[g * rows :],
                        right + t * lanes * WORD,
                        padded_outputs * WORD,
                        min(fold, last - g) * rows,
                        columns,
                        partial[chunk, r, block, t],
                        g > first,
                    )
    gradient = np.empty((kernel, line, outputs), np.int32)
    for task in prange(kernel * blocks):
        r, block = task // blocks, task % blocks
        for m in range(min(ROWS, line - block * ROWS)):
            for t in range(tiles):
                total = partial[0, r, block, t, m]
                for chunk in range(1, chunks):
                    total += partial[chunk, r, block, t, m]
                start = t * lanes
                for k in range(min(lanes, outputs - start)):
                    value = total[k] - corrections[start + k]
                    gradient[r, block * ROWS + m, start + k] = value
    return gradient.reshape(kernel, kernel, inputs, outputs)


@njit(cache=True, parallel=True)
def correlate_exact(x, dy, corrections, stride, kernel, inputs, lanes, steps):
    """`correlate` in 64 bits, from 32-bit sums of `steps` lanes each: int64 gradient."""
    groups, _height, width = x.shape[:3]
    planes, _, rows, columns, padded_outputs, _ = dy.shape
    outputs = len(corrections)
    line = kernel * inputs
    blocks = (line + ROWS - 1) // ROWS
    tiles = padded_outputs // lanes
    rows_at_once = max(1, steps // columns)
    starts = np.arange(rows) * (stride * width * inputs * WORD)
    gradient = np.empty((kernel, line, outputs), np.int64)
    for task in prange(kernel * blocks):
        r, block = task // blocks, task % blocks
        offsets = np.empty(ROWS, np.int64)
        tile = np.empty((ROWS, lanes), np.int32)
        totals = np.empty((ROWS, lanes), np.int64)
        for m in range(ROWS):
            offsets[m] = (r * width * inputs + min(block * ROWS + m, line - 1)) * WORD
        for t in range(tiles):
            totals[:] = 0
            for plane in range(planes):
                for g in range(groups):
                    base = dy[plane, g].ctypes.data + t * lanes * WORD
                    for p in range(0, rows, rows_at_once):
                        for q in range(0, columns, steps):
                            _multiply(
                                x[g],
                                q * stride * inputs * WORD,
                                offsets,
                                stride * inputs * WORD,
                                starts[p:],
                                base + (p * columns + q) * padded_outputs * WORD,
                                padded_outputs * WORD,
                                min(rows_at_once, rows - p),
                                min(steps, columns - q),
                                tile,
                                0,
                            )
                            for m in range(ROWS):
                                for k in range(lanes):
                                    totals[m, k] += np.int64(tile[m, k]) << (HIGH_BITS * plane)
            for m in range(min(ROWS, line - block * ROWS)):
                for k in range(min(lanes, outputs - t * lanes)):
                    place = t * lanes + k
                    gradient[r, block * ROWS + m, place] = totals[m, k] - corrections[place]
    return gradient.reshape(kernel, kernel, inputs, outputs)


def split_bytes(values):
    """Low and high parts of 16-bit integers: ``values = high * 2**8 + low``, both int16."""
    return values & np.int16((1 << HIGH_BITS) - 1), values >> np.int16(HIGH_BITS)


def _same_width(a, b):
    """Both operands as bytes, or both as 16-bit words."""
    if a.dtype == b.dtype:
        return a, b
    return a.astype(np.int16), b.astype(np.int16)


def _limits(a, b) -> tuple[int, int]:
    """Largest magnitudes that the operands' types hold."""
    return limit_of(8 * a.itemsize), limit_of(8 * b.itemsize)


def _left(x) -> np.ndarray:
    """Empty array of the type that `x` has as a left operand."""
    return np.empty(0, np.uint8 if x.dtype == np.int8 else np.int16)


def _group(x) -> int:
    """Values that one 32-bit lane holds."""
    return WORD // x.itemsize


def _lanes(outputs: int) -> int:
    """Columns of a tile: 32 where they are mostly used."""
    wide = 2 * LANES
    return wide if _round_up(outputs, wide) < 1.2 * _round_up(outputs, LANES) else LANES


def _merged(x) -> np.ndarray:
    """Maps of a pointwise product in few large images, so that small maps fill the tiles."""
    images, height, width, channels = x.shape
    parts = CHUNKS if images % CHUNKS == 0 else 1
    return x.reshape(parts, images // parts * height * width, 1, channels)


def _round_up(count: int, multiple: int) -> int:
    """Least multiple of `multiple` that is at least `count`."""
    return -(-count // multiple) * multiple
