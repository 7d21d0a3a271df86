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
    multiply_tile,
    round_tile,
)
from accsim.kernels.operands import (
    HIGH_BITS,
    carrier,
    interleave_images,
    offset_sums,
    pack,
    pad_map,
    split_bytes,
    stacked,
)

PARTS = 8  # of the pixels of a pointwise product; fixed, whatever the threads
BLOCK_PIXELS = 64
CHANNEL_BLOCK = 16  # channels of the input whose weight gradients are summed together
POINTWISE_BLOCK = 64  # the same of a pointwise product, where no other taps share a run
RUN_PIXELS = 96  # pixels of a run of which both operands stay in the first-level cache
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
    right_norm: int | None = None,
    room: int = 0,
) -> Sums:
    """Bounds from the shape: which sums are exact in 32 bits, and whether the accumulator wraps.

    Parameters
    ----------
    products : terms of one sum
    left_limit, right_limit : largest magnitudes of the operands
    accumulator_bits : width of the modelled accumulator, 2 to 64; it wraps in two's complement
    right_norm : largest sum of magnitudes of right operands in one sum, where it is known
    room : what rounding adds to a sum at most
    """
    bound = left_limit * (products * right_limit if right_norm is None else right_norm)
    wrap_bits = 0 if bound.bit_length() < accumulator_bits else accumulator_bits
    if bound + room <= SUM_LIMIT and not wrap_bits:
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


def forward(
    x,
    weights,
    stride,
    padding,
    shift,
    key,
    limit,
    accumulator_bits=32,
    groups=1,
    finer=None,
) -> Product:
    """Convolution ``y = x * weights``, shifted right, rounded and saturated.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C]
    weights : int8 or int16 [R, R, C / groups, K]
    stride, padding : of the window
    shift : right shift of the exact sums, 0 to 30
    key : random key of stochastic rounding, or the code of a `fixed_point.Rounding`
    limit : largest output code; outputs are int16 where it is above 127
    accumulator_bits : width at which sums wrap
    groups : of channels; C for a depthwise convolution
    finer : int32[K], further right shift of every output, whose weights are so many bits finer;
        all shifts stay within 30, and `Product.largest` counts after this part of them
    """
    kernel = weights.shape[0]
    rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[1:3])
    shape = len(x), rows, columns, weights.shape[3]
    borders = padding, padding, padding, padding
    rounding = shift, finer, key, limit
    return _convolve(
        x, weights, False, borders, 1, stride, shape, rounding, accumulator_bits, groups
    )


def backward_data(
    dy,
    weights,
    stride,
    padding,
    height,
    width,
    shift,
    key,
    limit,
    accumulator_bits=32,
    groups=1,
    finer=None,
) -> Product:
    """Error of the layer's input, [N, height, width, C], shifted right, rounded and saturated.

    Parameters
    ----------
    dy : int8 or int16 [N, P, Q, K], the error of its output
    weights : int8 or int16 [R, R, C / groups, K] as in `forward`
    height, width : of the input map
    stride, padding, shift, key, limit, accumulator_bits, groups : as in `forward`
    finer : int32[C], as in `forward`, of every input channel
    """
    kernel = weights.shape[0]
    shape = len(dy), height, width, weights.shape[2] * groups
    before = kernel - 1 - padding
    below = height - ((dy.shape[1] - 1) * stride + 1) + padding
    right = width - ((dy.shape[2] - 1) * stride + 1) + padding
    borders = before, before, below, right
    rounding = shift, finer, key, limit
    return _convolve(
        dy, weights, True, borders, stride, 1, shape, rounding, accumulator_bits, groups
    )


def _convolve(
    x, weights, flipped, borders, dilation, stride, shape, rounding, accumulator_bits, groups
):
    """`forward`, or `backward_data` with the weights flipped and the map dilated.

    Parameters
    ----------
    borders : zero rows and columns above, left, below and right of `x`
    shape : of the result
    rounding : shift, finer, key and limit
    """
    shift, finer, key, limit = rounding
    limits = _limits(x, weights)
    bytes_ = x.itemsize == weights.itemsize == 1
    if not bytes_:
        weights = weights.astype(np.int16)
    if weights.shape[0] == 1 and dilation == stride == 1 and not any(borders):
        x = _merged(x)
    images = len(x)
    rows, columns = (
        ((size - 1) * dilation + before + after + 1 - weights.shape[0]) // stride + 1
        for size, before, after in zip(x.shape[1:3], borders[:2], borders[2:], strict=True)
    )
    group_inputs = x.shape[3] // groups
    terms = weights.shape[0] ** 2 * group_inputs
    room = 1 << (shift if finer is None else shift + int(finer.max()))
    sums = plan_sums(terms, *limits, accumulator_bits, room=room)
    if sums.at_once:  # the weights are rarely all at their largest
        norm = largest_norm(weights, flipped, groups)
        sums = plan_sums(terms, *limits, accumulator_bits, norm, room)
    group = WORD // weights.itemsize
    channels = _round_up(x.shape[3], group)
    padded = pad_map(x, carrier(bytes_), *borders, dilation, channels)
    lanes = _lanes(shape[3] // groups)
    packed, starts, first_sums = pack(weights, flipped, groups, sums.planes, channels, lanes)
    fine = np.zeros(first_sums.shape[2], np.int32)
    if finer is not None:
        fine[: len(finer)] = finer
    y = np.empty((images, rows, columns, shape[3]), np.int8 if limit <= 127 else np.int16)
    rest = stride, shift + fine, key, limit, y
    if sums.at_once:
        steps = max(1, sums.at_once // group)
        whole = first_sums[0, -1]
        largest, seen = convolve_exact(padded, packed, starts, whole, *rest, steps, sums.wrap_bits)
    else:
        inside = borders[0], borders[0] + (x.shape[1] - 1) * dilation + 1
        largest, seen = convolve(padded, packed, starts, first_sums, inside, *rest)
    return Product(y.reshape(shape), *_overall(largest, fine, seen))


def backward_weight(x, dy, kernel, stride, padding, accumulator_bits=32, groups=1):
    """Gradient of the weights, int32[kernel, kernel, C / groups, K], its exponent, and overflows.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C], the layer's input
    dy : int8 or int16 [N, P, Q, K], the error of its output
    kernel, stride, padding : of the layer's window
    accumulator_bits : width at which sums wrap
    groups : as in `forward`

    Returns
    -------
    gradient : int32; stands for ``gradient * 2**exponent``
    exponent : 0 where the exact sums fit 32 bits, as those of 8-bit maps nearly always do
    overflowed : sums that the accumulator could not hold
    """
    images, rows, columns, outputs = dy.shape
    sums = plan_sums(images * rows * columns, *_limits(x, dy), accumulator_bits)
    bytes_ = x.itemsize == dy.itemsize == 1
    offset = BYTE_OFFSET if bytes_ else 0
    lanes = _lanes(outputs // groups)
    pointwise = kernel == stride == 1 and not padding
    if pointwise:  # the rows of both operands follow each other
        x, dy = (a.reshape(images, 1, -1, a.shape[3]) for a in (x, dy))
    block = min(POINTWISE_BLOCK if pointwise else CHANNEL_BLOCK, x.shape[3])
    left = interleave_images(x, carrier(bytes_), offset, padding, block)
    right = stacked(
        [
            interleave_images(part, carrier(bytes_), 0, 0, lanes)
            for part in (split_bytes(dy) if sums.planes == 2 else (dy,))
        ]
    )
    if bytes_ and not sums.at_once:  # modulo 2**32, as the sums themselves
        panels = right.view(np.uint32).reshape(right.shape[1], -1, lanes)
        corrections = offset_sums(panels).reshape(-1)[:outputs].astype(np.int64)
    else:
        corrections = output_sums(dy) * offset
    if pointwise:  # and so do the groups of images
        left, right = (a.reshape(*a.shape[:-5], 1, 1, -1, *a.shape[-2:]) for a in (left, right))
    shape = kernel, kernel, x.shape[3] // groups, outputs
    common = left, right, corrections, stride, groups
    if not sums.at_once:
        gradient = np.empty(shape, np.int32)
        correlate(*common, 0, gradient)
        return gradient, 0, 0
    totals = np.empty(shape, np.int64)
    correlate(*common, max(1, sums.at_once // left.shape[5]), totals)
    totals, overflowed = wrap(totals, sums.wrap_bits)
    shift = narrowing_shift(int(np.abs(totals).max()), 32)
    return round_shift(totals, shift).astype(np.int32), shift, overflowed


@njit(cache=True)
def _overall(largest, fine, seen):
    """What a `Product` says of all images: largest magnitude, clipped outputs, overflows."""
    most = saturated = overflowed = 0
    for n in range(len(largest)):
        for k in range(len(fine)):
            most = max(most, np.int64(largest[n, k]) >> fine[k])
        saturated += seen[n, 0]
        overflowed += seen[n, 1]
    return most, saturated, overflowed


def largest_norm(weights, flipped, groups) -> int:
    """Largest sum of magnitudes of the weights of one output: of K, or flipped, of C."""
    sizes = np.abs(weights.astype(np.int64)).sum((0, 1))
    if not flipped:
        return int(sizes.sum(0).max())
    return int(sizes.reshape(len(sizes), groups, -1).sum(2).max())


@njit(cache=True, parallel=True)
def convolve(padded, packed, starts, first_sums, inside, stride, shifts, key, limit, y):
    """Convolution of a padded map whose sums fit 32 bits, rounded and saturated into `y`.

    Parameters
    ----------
    padded : uint8 or int16 [N, H, W, C], see `operands.pad_map`
    packed, starts, first_sums : see `operands.pack`; one plane
    inside : first row of `padded` that is no border, and the first that is again
    stride : step of the window
    shifts : int32[K rounded up], the right shift of every output
    key, limit : as in `forward`
    y : int8 or int16 [N, P, Q, K], overwritten

    Returns
    -------
    largest : int32[N, K rounded up], magnitudes of the sums
    seen : int64[N, 2], outputs clipped, and no overflow
    """
    images = len(padded)
    largest = np.zeros((images, len(shifts)), np.int32)
    seen = np.zeros((images, 2), np.int64)
    for n in prange(images):
        seen[n, 0] = _convolve_image(
            padded[n],
            packed[0],
            starts,
            first_sums,
            inside,
            stride,
            shifts,
            key,
            limit,
            np.int64(n),
            y,
            largest[n],
        )
    return largest, seen


@njit(cache=True)
def _convolve_image(
    padded, packed, starts, first_sums, inside, stride, shifts, key, limit, image, y, largest
):
    """Image number `image` of `convolve`; outputs clipped.

    Rows of taps that lie in the border for all pixels of a tile are left out.
    """
    _, width, channels = padded.shape
    tiles, kernel_rows, kernel_columns, groups, lanes = packed.shape
    _, rows, columns, outputs = y.shape
    pixels = rows * columns
    pixel_bytes = channels * padded.itemsize
    flat = y.reshape(-1, outputs)
    taps, inner = _taps(kernel_rows, kernel_columns, groups, width, pixel_bytes)
    taps_in_row = len(taps) // kernel_rows
    row_panel = taps_in_row * inner * lanes * WORD
    tile = np.empty((ROWS, lanes), np.int32)
    seen = _aligned_zeros(3 * tiles * lanes).reshape(3, -1)
    most, least, clipped = seen[0], seen[1], seen[2]
    row_bytes, column_bytes = width * stride * pixel_bytes, stride * pixel_bytes
    offsets = _window_offsets(rows, columns, row_bytes, column_bytes)
    met = _rows_met(pixels, columns, stride, inside, kernel_rows)
    plain = key == HALF_UP or (key >= 0 and outputs % LANES == 0)
    for block in range(0, pixels, BLOCK_PIXELS):
        for t in range(tiles):
            lane = t * lanes
            for first in range(block, min(block + BLOCK_PIXELS, pixels), ROWS):
                begin, end = met[first // np.int64(ROWS), 0], met[first // np.int64(ROWS), 1]
                sums_row = (begin * len(first_sums) + end) * tiles * lanes + lane
                used = min(ROWS, pixels - first)
                if plain and lane + lanes <= outputs:
                    round_tile(
                        lanes,
                        padded,
                        starts[t] * padded.itemsize,
                        offsets.ctypes.data + 8 * first,
                        WORD,
                        taps.ctypes.data + 8 * begin * taps_in_row,
                        packed.ctypes.data + (t * kernel_rows + begin) * row_panel,
                        lanes * WORD,
                        (end - begin) * taps_in_row,
                        inner,
                        first_sums.ctypes.data + sums_row * WORD,
                        used,
                        key,
                        shifts.ctypes.data + lane * WORD,
                        limit,
                        most.ctypes.data + lane * WORD,
                        least.ctypes.data + lane * WORD,
                        clipped.ctypes.data + lane * WORD,
                        flat,
                        (image * pixels + first) * outputs + lane,
                        outputs,
                    )
                else:  # other roundings, and tiles that are not whole
                    multiply_tile(
                        lanes,
                        padded,
                        starts[t] * padded.itemsize,
                        offsets.ctypes.data + 8 * first,
                        WORD,
                        taps.ctypes.data + 8 * begin * taps_in_row,
                        packed.ctypes.data + (t * kernel_rows + begin) * row_panel,
                        lanes * WORD,
                        (end - begin) * taps_in_row,
                        inner,
                        first_sums.ctypes.data + sums_row * WORD,
                        0,
                        tile.ctypes.data,
                    )
                    row = image * pixels + first
                    _round_codes(tile[:used], lane, row, shifts, key, limit, flat, most, clipped)
    for k in range(len(most)):
        largest[k] = max(most[k], -least[k])
    return clipped.sum()


@njit(cache=True)
def _aligned_zeros(count):
    """int32 zeros at the begin of a cache line, so that no vector of them lies in two."""
    words = np.zeros(count + LANES, np.int32)
    skipped = -(words.ctypes.data // WORD) % LANES
    return words[skipped : skipped + count]


@njit(cache=True)
def _rows_met(pixels, columns, stride, inside, kernel_rows):
    """Rows of taps that any pixel of a tile meets: the first, and the last + 1, of every tile."""
    met = np.empty(((pixels + ROWS - 1) // ROWS, 2), np.int64)
    for tile in range(len(met)):
        first = tile * ROWS
        last = min(first + ROWS, pixels) - 1
        begin = min(max(inside[0] - last // columns * stride, 0), kernel_rows - 1)
        met[tile, 0] = begin
        met[tile, 1] = max(min(inside[1] - first // columns * stride, kernel_rows), begin + 1)
    return met


@njit(cache=True)
def _taps(rows, columns, words, width, pixel_bytes):
    """Where the taps of a window begin, in bytes, and the words from there on that lie together.

    A row of taps is one piece where every output meets all channels.
    """
    whole = words * WORD == pixel_bytes
    starts = np.empty(rows if whole else rows * columns, np.int64)
    for tap in range(len(starts)):
        r, s = (tap, 0) if whole else (tap // columns, tap % columns)
        starts[tap] = (r * width + s) * pixel_bytes
    return starts, columns * words if whole else words


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


@njit(cache=True)
def _round_codes(tile, start, first, shifts, key, limit, flat, largest, clipped):
    """Round a tile's sums into pixels `first`... and outputs `start`... of `flat`; and count."""
    outputs = flat.shape[1]
    for m in range(len(tile)):
        counter = (first + m) * outputs + start
        for k in range(min(tile.shape[1], outputs - start)):
            total = tile[m, k]
            largest[start + k] = max(largest[start + k], np.int32(abs(total)))
            shift = np.int32(shifts[start + k])
            noise = noise32(total, key, np.uint32((counter + k) & 0xFFFFFFFF), shift)
            wide = np.int32(np.int32(total + noise) >> shift)
            narrow = saturate32(wide, np.int32(limit))
            clipped[start + k] += np.int32(wide != narrow)
            flat[first + m, start + k] = narrow


@njit(cache=True, parallel=True)
def convolve_exact(
    padded, packed, starts, first_sums, stride, shifts, key, limit, y, steps, wrap_bits
):
    """`convolve` with 64-bit totals of 32-bit sums of `steps` lanes each.

    Returns
    -------
    largest : int64[N, K rounded up], magnitudes of the sums
    seen : int64[N, 2], saturated and overflowed, see `Product`
    """
    images, _, width, channels = padded.shape
    planes, tiles, kernel_rows, kernel_columns, groups, lanes = packed.shape
    _, rows, columns, outputs = y.shape
    pixels = rows * columns
    pixel_bytes = channels * padded.itemsize
    largest = np.zeros((images, len(shifts)), np.int64)
    seen = np.zeros((images, 2), np.int64)
    for n in prange(images):
        tile = np.empty((ROWS, lanes), np.int32)
        nothing = np.zeros(lanes, np.int32)
        totals = np.empty((ROWS, lanes), np.int64)
        row_bytes, column_bytes = width * stride * pixel_bytes, stride * pixel_bytes
        offsets = _window_offsets(rows, columns, row_bytes, column_bytes)
        taps, inner = _taps(kernel_rows, kernel_columns, groups, width, pixel_bytes)
        panel = len(taps) * inner * lanes * WORD
        flat = y[n].reshape(pixels, outputs)
        for first in range(0, pixels, ROWS):
            for t in range(tiles):
                totals[:] = 0
                for plane in range(planes):
                    base = packed.ctypes.data + (plane * tiles + t) * panel
                    for tap in range(len(taps)):
                        for i in range(0, inner, steps):
                            multiply_tile(
                                lanes,
                                padded[n],
                                starts[t] * padded.itemsize + i * WORD,
                                offsets.ctypes.data + 8 * first,
                                WORD,
                                taps.ctypes.data + 8 * tap,
                                base + (tap * inner + i) * lanes * WORD,
                                lanes * WORD,
                                1,
                                min(steps, inner - i),
                                nothing.ctypes.data,
                                0,
                                tile.ctypes.data,
                            )
                            _add_plane(totals, tile, HIGH_BITS * plane)
                _round_totals(
                    totals,
                    first_sums,
                    t * lanes,
                    first,
                    shifts,
                    key,
                    n * pixels * outputs,
                    limit,
                    wrap_bits,
                    flat,
                    largest[n],
                    seen[n],
                )
    return largest, seen


@njit(cache=True)
def _add_plane(totals, tile, left):
    """Add a tile of 32-bit sums, shifted left, to its totals."""
    wide, narrow = totals.ravel(), tile.ravel()
    for i in range(len(wide)):
        wide[i] += np.int64(narrow[i]) << left


@njit(cache=True)
def _round_totals(
    totals,
    first_sums,
    start,
    first,
    shifts,
    key,
    first_index,
    limit,
    wrap_bits,
    flat,
    largest,
    seen,
):
    """`_round_codes` of 64-bit totals; adds outputs clipped and sums overflowed to `seen`."""
    pixels, outputs = flat.shape
    used = min(totals.shape[1], outputs - start)
    clipped, overflowed = 0, 0
    for m in range(min(ROWS, pixels - first)):
        row = np.uint64(first + m)
        for k in range(used):
            place = np.uint64(start + k)
            exact = totals[m, k] + first_sums[place]
            total = _wrapped(exact, wrap_bits)
            overflowed += total != exact
            largest[place] = max(largest[place], abs(total))
            totals[m, k] = total
        counter = np.uint32((first_index + (first + m) * outputs + start) & 0xFFFFFFFF)
        if key >= 0:
            for k in range(used):
                shift = np.int64(shifts[np.uint64(start + k)])
                random = hash32(np.uint32(counter + np.uint32(k)) ^ np.uint32(key))
                totals[m, k] = (totals[m, k] + (np.int64(random) >> (32 - shift))) >> shift
        else:
            for k in range(used):
                totals[m, k] = round64(totals[m, k], np.int64(shifts[np.uint64(start + k)]), key, 0)
        for k in range(used):
            narrow = min(max(totals[m, k], -limit), limit)
            clipped += narrow != totals[m, k]
            flat[row, np.uint64(start + k)] = narrow
    seen[0] += clipped
    seen[1] += overflowed


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
def correlate(x, dy, corrections, stride, groups, steps, gradient):
    """Weight gradient: the correlation of the layer's input with its output's error.

    Parameters
    ----------
    x : [B, G, H, W, block, g], see `operands.interleave_images`, padded, a left operand
    dy : [planes, K/lanes, G, P, Q, lanes, g], interleaved, a right operand
    corrections : int64[K], what the left operand's offset adds
    stride : of the layer's window
    groups : of channels
    steps : lanes that one 32-bit sum may add up, for int64 gradients; 0 for int32 gradients
    gradient : int32 (modulo 2**32) or int64 [R, R, C / groups, K], overwritten
    """
    tiles, blocks, size = dy.shape[1], len(x), x.shape[4]
    kernel, _, inputs, outputs = gradient.shape
    lanes = dy.shape[5]
    of_group = outputs // groups
    starts = _row_starts(x.shape[1:], dy.shape[3], stride)
    for task in prange(tiles * kernel * blocks):
        t, r, block = task // (kernel * blocks), task // blocks % kernel, task % blocks
        end = min((t + 1) * lanes, outputs)
        channels = block * size, min((block + 1) * size, inputs * groups)
        first = max(t * lanes // of_group * inputs, channels[0])
        last = min(((end - 1) // of_group + 1) * inputs, channels[1])
        if first < last:
            sums = _correlate_block(x[block], dy[:, t], starts, stride, r, kernel, steps, gradient)
            for c in range(first, last):  # those that meet the outputs of this tile
                group = c // inputs
                begin = max(t * lanes, group * of_group)
                stop = min(end, (group + 1) * of_group)
                for s in range(kernel):
                    line = sums[s * size + c - channels[0], begin - t * lanes :]
                    target = gradient[r, s, c - group * inputs, begin:stop]
                    _difference(line, corrections[begin:stop], target)


@njit(cache=True)
def _row_starts(shape, rows, stride):
    """Where the rows that the window reads begin, in bytes; of every group of images."""
    groups, height, width, block, _ = shape
    starts = np.empty(groups * rows, np.int64)
    for g in range(groups):
        for p in range(rows):
            starts[g * rows + p] = (g * height + p * stride) * width * block * WORD
    return starts


@njit(cache=True)
def _difference(a, b, out):
    """``a - b`` in `out`; a function of its own so that its loop becomes vectors."""
    for i in range(len(out)):
        out[i] = a[i] - b[i]


@njit(cache=True)
def _correlate_block(x, dy, starts, stride, r, kernel, steps, gradient):
    """Sums of one row of taps, a block of channels and a tile: [kernel * block, lanes].

    Pixels are taken in runs so short that both operands stay in the first-level cache while all
    rows of taps and channels go over them.
    """
    _groups, _height, width, block, _ = x.shape
    columns, lanes = dy.shape[3:5]
    lines = (kernel * block + ROWS - 1) // ROWS * ROWS
    pixel = block * WORD
    sums = np.zeros((lines, lanes), gradient.dtype)
    tile = np.empty((ROWS, lanes), np.int32)
    nothing = np.zeros(lanes, np.int32)
    offsets = np.empty(lines, np.int64)
    for line in range(lines):
        offsets[line] = min(line, kernel * block - 1) * WORD + r * width * pixel
    most = min(steps, RUN_PIXELS) if steps else RUN_PIXELS
    rows_at_once, columns_at_once = max(1, most // columns), min(columns, most)
    for plane in range(len(dy)):
        for p in range(0, len(starts), rows_at_once):
            for q in range(0, columns, columns_at_once):
                right = dy[plane].ctypes.data + (p * columns + q) * lanes * WORD
                for line in range(0, lines, ROWS):
                    multiply_tile(
                        lanes,
                        x,
                        q * stride * pixel,
                        offsets.ctypes.data + 8 * line,
                        stride * pixel,
                        starts.ctypes.data + 8 * p,
                        right,
                        lanes * WORD,
                        min(rows_at_once, len(starts) - p),
                        min(columns_at_once, columns - q),
                        nothing.ctypes.data if steps else sums.ctypes.data + line * lanes * WORD,
                        0 if steps else lanes * WORD,
                        tile.ctypes.data if steps else sums.ctypes.data + line * lanes * WORD,
                    )
                    if steps:
                        _add_plane(sums[line : line + ROWS], tile, HIGH_BITS * plane)
    return sums


def _limits(a, b) -> tuple[int, int]:
    """Largest magnitudes that the operands' types hold."""
    return limit_of(8 * a.itemsize), limit_of(8 * b.itemsize)


def _lanes(outputs: int) -> int:
    """Columns of a tile: 32 where they are mostly used."""
    wide = 2 * LANES
    return wide if _round_up(outputs, wide) < 1.2 * _round_up(outputs, LANES) else LANES


def _merged(x) -> np.ndarray:
    """Maps of a pointwise product in few large images, so that small maps fill the tiles."""
    images, height, width, channels = x.shape
    parts = PARTS if images % PARTS == 0 else 1
    return x.reshape(parts, 1, images // parts * height * width, channels)


def _round_up(count: int, multiple: int) -> int:
    """Least multiple of `multiple` that is at least `count`."""
    return -(-count // multiple) * multiple
