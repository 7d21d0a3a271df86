"""Convolutions in which a group of outputs sees only a group of inputs; depthwise at the extreme.

A depthwise convolution has no product of matrices for the micro-kernel of `gemm`: it multiplies
runs of a map by runs of weights, lane by lane. A row of pixels is such a run, with the weights of
all channels written out once a pixel; a lane of bytes holds the same channel of four neighbouring
columns, whose products one instruction adds up. Where the window steps over columns, those that
one tap sees are brought side by side first.

Larger groups are convolutions of `conv2d`, one group after the other. Their exact sums are put
side by side before they are rounded, so that every output is rounded with its index in the whole
map, and no bit depends on how the groups are computed.
"""

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from accsim.kernels import conv2d
from accsim.kernels.conv2d import ROUNDED_LIMIT, Product, plan_sums, wrap
from accsim.kernels.fixed_point import (
    CHUNK,
    TRUNCATE,
    code_type,
    narrowing_shift,
    round_shift,
    store_codes,
)
from accsim.kernels.fixed_point import limit as limit_of
from accsim.kernels.gemm import BACK_END, BYTE_OFFSET, LANES, SUM_LIMIT, WORD

CHUNKS = 8  # partial gradients; fixed, so that memory does not depend on the threads
CACHE_LINE = 64  # bytes; a vector within one is read at once

LOW_BITS = 31  # of a gradient's exact sums, where they do not fit 32 bits


def forward(x, weights, stride, padding, groups, shift, key, limit, accumulator_bits=32) -> Product:
    """Grouped convolution ``y = x * weights``, shifted right, rounded and saturated.

    Outputs ``g * K/groups`` ... of group g are sums over its inputs ``g * C/groups`` ... alone.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C]
    weights : int8 or int16 [R, R, C/groups, K]
    stride, padding : of the window; padding below R
    groups : divides C and K; where it is C, the convolution is depthwise
    shift : right shift of the exact sums, 0 to 30
    key : random key of stochastic rounding, or the code of a `fixed_point.Rounding`
    limit : largest output code; outputs are int16 where it is above 127
    accumulator_bits : width at which sums wrap

    Raises
    ------
    ValueError : if groups do not divide the channels, or weights have other inputs than a group
    """
    kernel, _, depth, outputs = weights.shape
    inputs = x.shape[3]
    _check_groups(groups, inputs, outputs, depth)
    sums = plan_sums(kernel**2 * depth, *_limits(x, weights), accumulator_bits, ROUNDED_LIMIT)
    x, weights = _same_width(x, weights)
    rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in x.shape[1:3])
    shape = (len(x), rows, columns, outputs)
    if groups < inputs:
        parts = zip(_split(x, groups), _split(weights, groups), strict=True)
        wide, overflowed = _joined(
            _forward_sums(part, kernels, stride, padding, shape[:3], sums)
            for part, kernels in parts
        )
        return _rounded(wide, overflowed, shift, key, limit)
    x, weights = _summable(x, weights, kernel**2)
    layout = _window_layout(x, stride, padding)
    places, values = [], []
    for phase in range(min(stride, kernel)):
        part = weights[None, :, phase::stride, 0]
        columns = np.arange(0, part.shape[2], _group(x))
        places.append(layout.places(np.arange(kernel), phase, columns, outputs, 1))
        values.append(_lane_weights(part))
    kinds = [(np.concatenate(places), np.concatenate(values))]
    maps = _widened(x, outputs)[:, None]
    y = np.empty(shape, code_type(limit))
    return _convolve(maps, layout, kinds, stride, shift, key, limit, sums.wrap_bits, y)


def backward_data(
    dy, weights, stride, padding, groups, height, width, shift, key, limit, accumulator_bits=32
) -> Product:
    """Error of the layer's input, [N, height, width, C], shifted right, rounded and saturated.

    Parameters
    ----------
    dy : int8 or int16 [N, P, Q, K], the error of its output
    weights : int8 or int16 [R, R, C/groups, K] as in `forward`
    height, width : of the input map
    stride, padding, groups, shift, key, limit, accumulator_bits : as in `forward`

    Raises
    ------
    ValueError : as in `forward`
    """
    kernel, _, depth, outputs = weights.shape
    inputs = depth * groups
    _check_groups(groups, inputs, outputs, depth)
    multiplier = outputs // groups
    products = kernel**2 * multiplier
    sums = plan_sums(products, *_limits(dy, weights), accumulator_bits, ROUNDED_LIMIT)
    dy, weights = _same_width(dy, weights)
    if groups < inputs:
        parts = zip(_split(dy, groups), _split(weights, groups), strict=True)
        wide, overflowed = _joined(
            _data_sums(part, kernels, stride, padding, height, width, sums)
            for part, kernels in parts
        )
        return _rounded(wide, overflowed, shift, key, limit)
    dy, weights = _summable(dy, weights, products)
    before = -(-(kernel - 1 - padding) // stride)
    rows, columns = ((size - 1 + padding) // stride + before + 1 for size in (height, width))
    layout = Layout(before, before, rows, columns, 1)
    by_output = weights.reshape(kernel, kernel, inputs, multiplier).transpose(3, 0, 1, 2)
    taps = np.arange(kernel)[::-1]  # the map's columns in order
    kinds = []  # of pixels: in every `stride`th row and column, the same taps meet outputs
    for row in range(stride):
        for column in range(stride):
            r, s = (taps[(place + padding - taps) % stride == 0] for place in (row, column))
            upper = (row + padding - r) // stride + before
            left = (column + padding - s[:: _group(dy)]) // stride + before
            places = layout.places(upper, 0, left, inputs, multiplier)
            kinds.append((places, _lane_weights(by_output[:, r][:, :, s])))
    maps = dy.reshape(*dy.shape[:3], inputs, multiplier).transpose(0, 4, 1, 2, 3)
    dx = np.empty((len(dy), height, width, inputs), code_type(limit))
    return _convolve(maps, layout, kinds, 1, shift, key, limit, sums.wrap_bits, dx)


def backward_weight(x, dy, kernel, stride, padding, groups, accumulator_bits=32):
    """Gradient of the weights, int32[kernel, kernel, C/groups, K], its exponent, and overflows.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C], the layer's input
    dy : int8 or int16 [N, P, Q, K], the error of its output
    kernel, stride, padding : of the layer's window; padding below kernel
    groups : as in `forward`
    accumulator_bits : width at which sums wrap

    Returns
    -------
    gradient : int32; stands for ``gradient * 2**exponent``
    exponent : 0 where the exact sums fit 32 bits, as those of 8-bit maps nearly always do
    overflowed : sums that the accumulator could not hold

    Raises
    ------
    ValueError : if groups do not divide the channels
    """
    inputs, outputs = x.shape[3], dy.shape[3]
    _check_groups(groups, inputs, outputs, inputs // groups)
    limits = _limits(x, dy)
    pixels = dy.shape[1] * dy.shape[2]
    wrap_bits = plan_sums(len(x) * pixels, *limits, accumulator_bits).wrap_bits
    if groups < inputs:
        parts = zip(_split(x, groups), _split(dy, groups), strict=True)
        exact = [_weight_sums(part, error, kernel, stride, padding) for part, error in parts]
        totals = np.concatenate(exact, 3)
    else:
        x, dy = _summable(*_same_width(x, dy), pixels)
        layout = _window_layout(x, stride, padding)
        tap = np.arange(kernel)
        totals = correlate(
            _widened(x, outputs)[:, None],
            layout,
            _carriers(x),
            layout.places(tap, tap % stride, tap // stride, outputs, 1),
            _group(x),
            stride,
            np.ascontiguousarray(dy),
            max(1, SUM_LIMIT // (pixels * limits[0] * limits[1])),
        ).reshape(kernel, kernel, 1, outputs)
    totals, overflowed = wrap(totals, wrap_bits)
    exponent = narrowing_shift(int(np.abs(totals).max()), 32)
    return round_shift(totals, exponent).astype(np.int32), exponent, overflowed


def _check_groups(groups, inputs, outputs, depth):
    if groups < 1 or inputs % groups or outputs % groups:
        raise ValueError(
            f"groups must divide the {inputs} input and {outputs} output channels, not be {groups}"
        )
    if depth * groups != inputs:
        raise ValueError(
            f"weights must have {inputs // groups} input channels for {groups} groups "
            f"of {inputs}, not {depth}"
        )


def _split(array, groups) -> list[np.ndarray]:
    """The groups' parts of the last axis, each contiguous."""
    return [np.ascontiguousarray(part) for part in np.split(array, groups, -1)]


def _limits(a, b) -> tuple[int, int]:
    """Largest magnitudes that the operands' types hold."""
    return limit_of(8 * a.itemsize), limit_of(8 * b.itemsize)


def _same_width(a, b):
    """Both operands as bytes, or both as 16-bit words."""
    kind = np.promote_types(a.dtype, b.dtype)
    return a.astype(kind, copy=False), b.astype(kind, copy=False)


def _summable(a, b, products):
    """Operands of a depthwise sum: bytes only where 32 bits hold it with room to round."""
    if a.dtype == np.int8 and products * limit_of(8) ** 2 > ROUNDED_LIMIT:
        return a.astype(np.int16), b.astype(np.int16)
    return a, b


def _widened(x, outputs) -> np.ndarray:
    """A depthwise layer's input, every channel as often as there are outputs of it."""
    multiplier = outputs // x.shape[3]
    return np.ascontiguousarray(x if multiplier == 1 else np.repeat(x, multiplier, 3))


def _forward_sums(x, weights, stride, padding, pixels, sums):
    """Exact sums of one group's forward convolution; see `_exact_sums`."""
    channels = _whole_words(x)
    lanes = _lanes(weights.shape[3])
    carrier = _carrier(x)
    padded = conv2d.pad_map(x, carrier, padding, padding, padding, padding, 1, channels)
    packed, corrections = conv2d.pack_weights(weights, sums.planes, channels, lanes)
    return _exact_sums(padded, packed, corrections, stride, (*pixels, weights.shape[3]), sums)


def _data_sums(dy, weights, stride, padding, height, width, sums):
    """Exact sums of one group's error; see `_exact_sums`."""
    images, rows, columns, _ = dy.shape
    kernel, _, inputs, _ = weights.shape
    before = kernel - 1 - padding
    below = height - ((rows - 1) * stride + 1) + padding
    right = width - ((columns - 1) * stride + 1) + padding
    channels = _whole_words(dy)
    lanes = _lanes(inputs)
    padded = conv2d.pad_map(dy, _carrier(dy), before, before, below, right, stride, channels)
    packed, corrections = conv2d.pack_flipped_weights(weights, sums.planes, channels, lanes)
    return _exact_sums(padded, packed, corrections, 1, (images, height, width, inputs), sums)


def _exact_sums(padded, packed, corrections, stride, shape, sums):
    """Sums in the accumulator, int32 or int64 of `shape`, and how many it could not hold."""
    wide = np.empty(shape, np.int64 if sums.at_once else np.int32)
    largest = 2**62 if sums.at_once else ROUNDED_LIMIT  # beyond all sums
    common = padded, packed, corrections, stride, 0, TRUNCATE, largest, wide
    if not sums.at_once:
        conv2d.convolve(*common)
        return wide, 0
    steps = max(1, sums.at_once // (WORD // padded.itemsize))
    return wide, conv2d.convolve_exact(*common, steps, sums.wrap_bits)[2]


def _joined(parts):
    """Groups' sums side by side, and how many the accumulator could not hold."""
    wide, overflowed = zip(*parts, strict=True)
    return np.concatenate(wide, -1), sum(overflowed)


def _weight_sums(x, dy, kernel, stride, padding):
    """Exact int64 gradient of one group.

    Where it does not fit 32 bits, the rounded gradient tells to which multiple of 2**LOW_BITS the
    exact low bits, which an accumulator of that width keeps, belong.
    """
    rounded, exponent, _ = conv2d.backward_weight(x, dy, kernel, stride, padding, 64)
    totals = rounded.astype(np.int64) << exponent
    if exponent:
        low, _, _ = conv2d.backward_weight(x, dy, kernel, stride, padding, LOW_BITS)
        totals += wrap(low - totals, LOW_BITS)[0]
    return totals


def _carrier(x) -> np.ndarray:
    """Empty array of the type that `x` has as a left operand of the micro-kernel."""
    return np.empty(0, np.uint8 if x.dtype == np.int8 else np.int16)


def _whole_words(x) -> int:
    """Channels of `x`, rounded up to whole 32-bit words."""
    group = WORD // x.itemsize
    return -(-x.shape[3] // group) * group


def _lanes(outputs) -> int:
    """Columns of a tile of the micro-kernel: 32 where more than 16 are used."""
    return LANES if outputs <= LANES else 2 * LANES


def _rounded(wide, overflowed, shift, key, limit) -> Product:
    values = np.empty(wide.shape, code_type(limit))
    largest, saturated = _round_images(wide, shift, key, limit, values)
    return Product(values, largest, saturated, overflowed)


@njit(cache=True, parallel=True)
def _round_images(wide, shift, key, limit, values):
    """`store_codes` of a whole map [N, P, Q, K]."""
    images = len(wide)
    largest = np.zeros(images, np.int64)
    saturated = np.zeros(images, np.int64)
    for n in prange(images):
        largest[n], saturated[n] = store_codes(
            wide[n].reshape(-1), n * wide[n].size, shift, key, limit, values[n].reshape(-1)
        )
    return largest.max(), saturated.sum()


class Layout(NamedTuple):
    """A map's lanes in the order in which taps read runs: [planes, rows, phases, columns, C].

    Column w of the padded map is column ``w // phases`` of phase ``w % phases``. A lane of bytes
    holds a column and the three after it of the same phase; a lane of 16-bit words, one column.
    """

    top: int  # rows of zeros before the map
    left: int  # columns of zeros before the map
    rows: int  # in all
    columns: int  # in all, of one phase
    phases: int

    def places(self, rows, phase, columns, channels, planes) -> np.ndarray:
        """Lanes where pixels stand: int64[planes * rows * columns], columns fastest.

        Parameters
        ----------
        rows : int64[...] of the padded map
        phase, columns : of one phase, or int64[...] each of several
        channels : C
        planes : all of them
        """
        row_pixels = self.phases * self.columns
        plane = np.arange(planes)[:, None, None] * (self.rows * row_pixels)
        row = rows[:, None] * row_pixels
        return ((plane + row + phase * self.columns + columns) * channels).ravel()


def _window_layout(x, stride, padding) -> Layout:
    """Layout of a depthwise layer's input for a window of `stride`."""
    height, width = x.shape[1:3]
    columns = -(-(width + 2 * padding) // stride)
    return Layout(padding, padding, height + 2 * padding, columns, stride)


class Carriers(NamedTuple):
    """Empty arrays of the types that a depthwise product of bytes, or of words, goes through."""

    lane: np.ndarray  # uint32 of 4 bytes, or int16
    pixel: np.ndarray  # uint8, 128 above the byte, or int16
    total: np.ndarray  # int32 or int64


def _carriers(x) -> Carriers:
    kinds = (
        (np.uint32, np.uint8, np.int32) if x.dtype == np.int8 else (np.int16, np.int16, np.int64)
    )
    return Carriers(*(np.empty(0, kind) for kind in kinds))


class Taps(NamedTuple):
    """Places in the map and weights of every kind of output pixel, a lane at a time."""

    counts: np.ndarray  # int64[kinds], taps that the kind has
    places: np.ndarray  # int64[kinds, taps], of the kind's first pixel; see `Layout.places`
    weights: np.ndarray  # lanes[kinds * taps * run and a vector], the channels' for every pixel
    weight_places: np.ndarray  # int64[kinds, taps], of runs in the weights
    first: np.ndarray  # int32 or int64 [kinds, run and a vector], what takes bytes' offset off


def _lane_weights(weights) -> np.ndarray:
    """Weights [planes, rows, columns, C] as lanes' neighbours: [taps, C, bytes or words]."""
    planes, rows, columns, channels = weights.shape
    group = _group(weights)
    lanes = -(-columns // group)
    whole = np.zeros((planes, rows, lanes * group, channels), weights.dtype)
    whole[:, :, :columns] = weights
    parts = whole.reshape(planes * rows * lanes, group, channels)
    return np.ascontiguousarray(parts.transpose(0, 2, 1))


def _group(x) -> int:
    """Neighbouring columns in one lane."""
    return WORD if x.dtype == np.int8 else 1


def _tile_taps(kinds, carriers) -> Taps:
    """Taps of (places int64[taps], `_lane_weights`) of every kind."""
    most = max(len(places) for places, _ in kinds)
    _, channels, group = kinds[0][1].shape
    copies = -(-CHUNK // channels)
    run = copies * channels
    counts = np.array([len(places) for places, _ in kinds])
    places = np.zeros((len(kinds), most), np.int64)
    lanes = _aligned(len(kinds) * most * run + LANES, carriers.lane)
    lanes[:] = 0
    tiles = lanes[: len(kinds) * most * run].reshape(len(kinds), most, copies, channels)
    first = np.zeros((len(kinds), run + LANES), carriers.total.dtype)
    for kind, (starts, weights) in enumerate(kinds):
        places[kind, : len(starts)] = starts
        tiles[kind, : len(starts)] = weights.view(lanes.dtype).reshape(-1, 1, channels)
        if group > 1:
            offset = -BYTE_OFFSET * weights.sum((0, 2), dtype=np.int32)
            first[kind, :run] = np.tile(offset, copies)
    weight_places = np.arange(len(kinds) * most).reshape(len(kinds), most) * run
    return Taps(counts, places, lanes, weight_places, first)


def _convolve(maps, layout, kinds, step, shift, key, limit, wrap_bits, y) -> Product:
    """`convolve` with taps of the maps' width; kinds: see `_tile_taps`."""
    carriers = _carriers(maps)
    taps = _tile_taps(kinds, carriers)
    every = math.isqrt(len(kinds))
    maps = np.ascontiguousarray(maps)
    return Product(
        y, *convolve(maps, layout, carriers, taps, every, step, shift, key, limit, wrap_bits, y)
    )


@njit(cache=True, parallel=True)
def convolve(maps, layout, carriers, taps, every, step, shift, key, limit, wrap_bits, y):
    """Sums over taps of runs of maps times runs of weights, rounded and saturated into `y`.

    Parameters
    ----------
    maps : int8 or int16 [N, planes, H, W, C]
    layout, carriers, taps : see `Layout`, `Carriers`, `Taps`
    every : pixel (p, q) of `y` is of kind ``p % every * every + q % every``
    step : rows of the map from one row of `y` to the next of its kind
    shift, key, limit : as in `forward`
    wrap_bits : width at which sums wrap, 0 for none
    y : int8 or int16 [N, P, Q, C], overwritten

    Returns
    -------
    largest, saturated, overflowed : see `conv2d.Product`
    """
    images = len(maps)
    chunks = min(CHUNKS, images)
    seen = np.zeros((chunks, 3), np.int64)
    for chunk in prange(chunks):
        first, end = chunk * images // chunks, (chunk + 1) * images // chunks
        lanes, pixels = _blank_lanes(maps[first], layout, carriers)
        size = y[0, 0].size
        line = _aligned((1 + CHUNK // size) * size + LANES, carriers.total)
        phase = _aligned(size + LANES, carriers.total)
        for n in range(first, end):
            _lay_out(maps[n], layout, pixels, lanes)
            rounding = n * y[n].size, shift, key, limit, wrap_bits
            _convolve_image(
                lanes, layout, taps, every, step, rounding, line, phase, y[n], seen[chunk]
            )
    return seen[:, 0].max(), seen[:, 1].sum(), seen[:, 2].sum()


@njit(cache=True)
def _convolve_image(lanes, layout, taps, every, step, rounding, line, phase, y, seen):
    """One image of `convolve`.

    Parameters
    ----------
    lanes : of the image; see `_lay_out`
    rounding : first index, shift, key, limit, wrap_bits
    line : room for sums of as many rows as are rounded together, and for a vector
    phase : room for a row of sums and a vector
    seen : int64[3], largest, saturated and overflowed so far
    """
    first_index, shift, key, limit, wrap_bits = rounding
    rows, columns, channels = y.shape
    row_lanes = layout.phases * layout.columns * channels
    run = taps.first.shape[1] - LANES
    size = columns * channels
    codes = y.reshape(-1)
    at_once = (len(line) - LANES) // size
    for p in range(rows):
        upper = p // every * step * row_lanes
        place = p % at_once * size
        for q in range(min(every, columns)):
            kind = p % every * every + q
            length = (columns - q + every - 1) // every * channels
            for start in range(0, length, run):
                add_products(
                    lanes,
                    upper + start,
                    taps.places[kind],
                    taps.weights,
                    0,
                    taps.weight_places[kind],
                    taps.counts[kind],
                    taps.first[kind],
                    0,
                    line if every == 1 else phase,
                    place + start if every == 1 else start,
                    min(run, length - start),
                )
            if every > 1:
                row = line[place : place + size].reshape(columns, channels)
                _merge_columns(phase, q, every, row)
        if p % at_once == at_once - 1 or p == rows - 1:
            first = (p - p % at_once) * size
            end = (p + 1) * size
            sums = line[: end - first]
            if wrap_bits:
                sums, overflowed = wrap(sums, wrap_bits)
                seen[2] += overflowed
            largest, saturated = store_codes(
                sums, first_index + first, shift, key, limit, codes[first:end]
            )
            seen[0] = max(seen[0], largest)
            seen[1] += saturated


@njit(cache=True)
def _aligned(count, carrier):
    """Array of `count` of the carrier's type that begins with a cache line."""
    whole = np.empty(count + CACHE_LINE // carrier.itemsize, carrier.dtype)
    skipped = -whole.ctypes.data % CACHE_LINE // carrier.itemsize
    return whole[skipped : skipped + count]


@njit(cache=True)
def _blank_lanes(maps, layout, carriers):
    """Room for `_lay_out`: lanes and a vector, and the padded map of zeros and three pixels."""
    planes, _height, _width, channels = maps.shape
    size = planes * layout.rows * layout.phases * layout.columns * channels
    pixels = _aligned(size + (WORD - 1) * channels, carriers.pixel)
    pixels[:] = BYTE_OFFSET if carriers.pixel.itemsize == 1 else 0
    return _aligned(size + LANES, carriers.lane), pixels


@njit(cache=True)
def _lay_out(maps, layout, pixels, lanes):
    """One image's maps [planes, H, W, C] in `_blank_lanes`, as `layout` orders them.

    The last lanes of a row hold pixels of the next one, which meet zeros.
    """
    planes, height, _width, channels = maps.shape
    offset = BYTE_OFFSET if pixels.itemsize == 1 else 0
    size = len(lanes) - LANES
    rows = pixels[:size].reshape(planes, layout.rows, layout.phases, layout.columns * channels)
    for plane in range(planes):
        for h in range(height):
            row = rows[plane, layout.top + h]
            if layout.phases == 1:
                source = maps[plane, h].reshape(-1)
                _offset_pixels(source, offset, row[0, layout.left * channels :])
            else:
                columns = row.reshape(layout.phases, layout.columns, channels)
                _split_columns(maps[plane, h], layout.left, offset, columns)
    if lanes.itemsize == 2:
        lanes[:size] = pixels[:size]
    else:
        _fill_bytes(
            pixels[:size],
            pixels[channels : channels + size],
            pixels[2 * channels : 2 * channels + size],
            pixels[3 * channels : 3 * channels + size],
            lanes,
        )


@njit(cache=True)
def _offset_pixels(source, offset, pixels):
    """A function of its own so that its loop becomes vectors."""
    for i in range(len(source)):
        pixels[i] = source[i] + offset


@njit(cache=True)
def _split_columns(source, left, offset, pixels):
    """Columns [W, C] of a row, `left` zeros before them, by phase: [phases, columns, C]."""
    width, channels = source.shape
    phases = len(pixels)
    for w in range(width):
        phase, column = np.uint64((left + w) % phases), np.uint64((left + w) // phases)
        for c in range(channels):
            pixels[phase, column, c] = source[w, c] + offset


@njit(cache=True)
def _merge_columns(phase, first, every, pixels):
    """Put the columns of one phase, [columns * C], into every `every`th of a row [Q, C]."""
    columns, channels = pixels.shape
    source = phase[: (columns - first + every - 1) // every * channels].reshape(-1, channels)
    for i in range(len(source)):
        column = np.uint64(first + i * every)
        for c in range(channels):
            pixels[column, c] = source[i, c]


@njit(cache=True)
def _fill_bytes(a, b, c, d, lanes):
    """The bytes of every lane; lanes may be longer by a vector."""
    for i in range(len(a)):
        low = np.uint32(np.uint8(a[i])) | np.uint32(np.uint32(np.uint8(b[i])) << np.uint32(8))
        high = np.uint32(np.uint8(c[i])) | np.uint32(np.uint32(np.uint8(d[i])) << np.uint32(8))
        lanes[i] = np.uint32(low | np.uint32(high << np.uint32(16)))


@njit(cache=True, parallel=True)
def correlate(maps, layout, carriers, places, group, stride, dy, at_once):
    """Weight gradient of a depthwise layer: int64[taps, K].

    Parameters
    ----------
    maps : int8 or int16 [N, 1, H, W, K], the layer's input, one channel for every output
    layout, carriers : see `Layout`, `Carriers`
    places : of the taps; see `Layout.places`
    group : neighbouring columns in one lane
    stride : of the window
    dy : int8 or int16 [N, P, Q, K]
    at_once : images whose sums one word holds
    """
    images, _rows, _columns, channels = dy.shape
    chunks = min(CHUNKS, images)
    partial = np.zeros((chunks, len(places), channels), np.int64)
    for chunk in prange(chunks):
        first, end = chunk * images // chunks, (chunk + 1) * images // chunks
        for n in range(first, end, at_once):
            last = min(n + at_once, end)
            _correlate_images(
                maps[n:last], layout, carriers, places, group, stride, dy[n:last], partial[chunk]
            )
    return partial.sum(0)


@njit(cache=True)
def _correlate_images(maps, layout, carriers, places, group, stride, dy, gradient):
    """Add to `gradient` the images whose sums one word holds."""
    images, rows, columns, channels = dy.shape
    lane_columns = (columns + group - 1) // group
    row_places = np.arange(lane_columns) * (group * channels)  # of a row's errors in the map
    row_lanes = stride * layout.phases * layout.columns * channels
    error_places = np.arange(lane_columns) * channels
    size = (channels + LANES - 1) // LANES * LANES  # whole vectors
    lanes, pixels = _blank_lanes(maps[0], layout, carriers)
    line = np.zeros((lane_columns, group, channels), dy.dtype)
    errors = _aligned(lane_columns * channels + LANES, carriers.lane)
    nowhere = np.zeros(lane_columns, np.int64)
    ones = _aligned(size, carriers.lane)
    ones[:] = 0x01010101 if group > 1 else 1
    totals = _aligned((len(places) + 1) * size, carriers.total)  # the last are sums of errors
    totals[:] = 0
    for n in range(images):
        _lay_out(maps[n], layout, pixels, lanes)
        for p in range(rows):
            _offset_pixels(dy[n, p].reshape(-1), 0, line.reshape(-1))
            _fill_errors(line, errors)
            for t in range(len(places)):
                add_products(
                    lanes,
                    places[t] + p * row_lanes,
                    row_places,
                    errors,
                    0,
                    error_places,
                    lane_columns,
                    totals,
                    t * size,
                    totals,
                    t * size,
                    channels,
                )
            if group > 1:
                add_products(
                    ones,
                    0,
                    nowhere,
                    errors,
                    0,
                    error_places,
                    lane_columns,
                    totals,
                    len(places) * size,
                    totals,
                    len(places) * size,
                    channels,
                )
    word = carriers.total.dtype.type
    offset = BYTE_OFFSET if group > 1 else 0
    for t in range(len(places)):
        for k in range(channels):
            errors_sum = word(offset * totals[len(places) * size + k])
            gradient[t, k] += word(totals[t * size + k] - errors_sum)


@njit(cache=True)
def _fill_errors(line, lanes):
    """Lanes [columns * C] of a row's errors [columns, pixels in a lane, C]."""
    columns, group, channels = line.shape
    for q in range(columns):
        target = lanes[q * channels : (q + 1) * channels]
        if group == 1:
            target[:] = line[q, 0]
        else:
            _fill_bytes(line[q, 0], line[q, 1], line[q, 2], line[q, 3], target)


_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
BLOCK = 8  # vectors of sums that are in registers together


def _vector(bits):
    return ir.VectorType(ir.IntType(bits), LANES)


def _dot_bytes(builder, total, left, right):
    """`total` plus, in every lane, the products of 4 unsigned by 4 signed bytes, modulo 2**32."""
    if BACK_END == "vnni":
        kind = ir.FunctionType(_vector(32), [_vector(32)] * 3)
        name = "llvm.x86.avx512.vpdpbusd.512"
        dot = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(dot, [total, left, right])
    for byte in range(WORD):
        up = ir.Constant(_vector(32), [24 - 8 * byte] * LANES)
        down = ir.Constant(_vector(32), [24] * LANES)
        factors = (
            builder.lshr(builder.shl(left, up), down),
            builder.ashr(builder.shl(right, up), down),
        )
        total = builder.add(total, builder.mul(*factors))
    return total


def _dot_words(builder, total, left, right):
    """`total` plus, in every lane, the product of two words."""
    factors = (builder.sext(operand, _vector(32)) for operand in (left, right))
    return builder.add(total, builder.sext(builder.mul(*factors), _vector(64)))


@intrinsic
def add_products(
    typing,
    left,
    left_first,
    left_places,
    right,
    right_first,
    right_places,
    count,
    before,
    before_first,
    after,
    after_first,
    length,
):
    """Add up products of lanes of runs: ``after[after_first + i] = before[before_first + i]
    + sum over t < count of left[left_first + left_places[t] + i] . right[right_first +
    right_places[t] + i]`` for i below `length` rounded up to a whole vector.

    Parameters
    ----------
    left, right : uint32 lanes of 4 bytes, unsigned and signed, or int16, contiguous
    left_places, right_places : int64[count]
    before, after : int32 for bytes, whose sums are modulo 2**32, or int64; may be the same
    left_first, right_first, count, before_first, after_first, length : int64
    """
    scalar, places = types.int64, left_places
    signature = types.void(
        left, scalar, places, right, scalar, right_places, scalar,
        before, scalar, after, scalar, scalar,
    )  # fmt: skip
    narrow = left.dtype == types.uint32
    lane, word = (_I32, _I32) if narrow else (ir.IntType(16), _I64)
    lane_vector, vector = ir.VectorType(lane, LANES), ir.VectorType(word, LANES)
    dot = _dot_bytes if narrow else _dot_words

    def generate(context, builder, signature, arguments):
        def data(number):
            return context.make_array(signature.args[number])(
                context, builder, arguments[number]
            ).data

        def run(number, first):
            return builder.gep(data(number), [first])

        left, right = run(0, arguments[1]), run(3, arguments[4])
        left_places, right_places, count = data(2), data(5), arguments[6]
        before, after = run(7, arguments[8]), run(9, arguments[10])
        length = arguments[11]

        def block(start, vectors):
            """The sums of `vectors` vectors of lanes from `start`."""

            def lanes(pointer, kind, number):
                place = builder.gep(pointer, [builder.add(start, _I64(number * LANES))])
                return builder.bitcast(place, ir.PointerType(kind))

            def load(pointer, kind, number):
                place = lanes(pointer, kind, number)
                return builder.load(place, align=kind.element.width // 8)

            sums = [cgutils.alloca_once(builder, vector) for _ in range(vectors)]
            for number, total in enumerate(sums):
                builder.store(load(before, vector, number), total)
            with cgutils.for_range(builder, count) as tap:
                run_places = [
                    builder.gep(pointer, [builder.load(builder.gep(places, [tap.index]))])
                    for pointer, places in ((left, left_places), (right, right_places))
                ]
                for number, total in enumerate(sums):
                    operands = (load(place, lane_vector, number) for place in run_places)
                    builder.store(dot(builder, builder.load(total), *operands), total)
            for number, total in enumerate(sums):
                place = lanes(after, vector, number)
                builder.store(builder.load(total), place, align=word.width // 8)

        step = _I64(BLOCK * LANES)
        blocks = builder.mul(builder.sdiv(length, step), step)
        with cgutils.for_range_slice(builder, _I64(0), blocks, step) as (start, _):
            block(start, BLOCK)
        with cgutils.for_range_slice(builder, blocks, length, _I64(LANES)) as (start, _):
            block(start, 1)
        return context.get_dummy_value()

    return signature, generate
