"""Operands of a convolution in the order in which the micro-kernel of `gemm` reads them.

Maps get their borders, weights become panels, and images whose pixels are summed over lie side by
side; signed bytes of a left operand get 128 added.
"""

import numpy as np
from numba import njit, prange

from accsim.kernels.gemm import BYTE_OFFSET, LANES, ROWS, WORD, interleave_vector, multiply_tile
from accsim.units import ceil_div

HIGH_BITS = 8  # a 16-bit right operand may be split: value = high * 2**8 + low


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


def pack(weights, flipped, groups, planes, channels, lanes):
    """Weights in the order in which the micro-kernel reads them, and what sums begin with.

    A tile of outputs meets the input channels of its own groups only, from `starts` on; where it
    has several groups, zeros stand between channels and outputs that do not belong together.

    Parameters
    ----------
    weights : int8 or int16 [R, S, C / groups, K]
    flipped : for the backward-data convolution: taps rotated, C and K swapped
    groups : of channels
    planes : 2 to split 16-bit weights into low and high bytes, else 1
    channels : C rounded up to a whole lane
    lanes : columns of a tile, 16 or 32

    Returns
    -------
    packed : uint32[planes, K/lanes, R, S, B/g, lanes] of g values each, g = 4 bytes or 2 words; B
        input channels
    starts : int64[K/lanes], the first of these channels
    first_sums : int32[R + 1, R + 1, K rounded up], what sums over the rows of taps from the first
        index to before the second begin with: -128 times each output's bytes there; 0 for words
    """
    group = WORD // weights.itemsize
    parts = split_bytes(weights) if planes == 2 else (weights,)
    if flipped and groups == 1:
        rest = ((0, 0),) * 3 + ((0, -weights.shape[3] % group),)
        whole = [np.pad(part, rest) if rest[3][1] else part for part in parts]
        packed = [_pack_flipped(part.view(np.uint32), lanes) for part in whole]
        starts = np.zeros(len(packed[0]), np.int64)
    else:
        whole = [_flipped(part, groups) if flipped else part for part in parts]
        starts, block = _blocks(whole[0], groups, channels, lanes)
        packed = [_pack(part, groups, starts, block // group, lanes) for part in whole]
    first_sums = _between_rows(packed[0], weights.itemsize == 1)
    return stacked(packed), starts, first_sums


@njit(cache=True)
def offset_sums(panels):
    """What 128 added to the bytes of a left operand adds to its products with each panel.

    uint32[n, words, lanes] of 4 bytes each -> int32[n, lanes]
    """
    count, words, lanes = panels.shape
    left = np.full(WORD, BYTE_OFFSET, np.uint8)  # one word of a map that is zero everywhere
    places, nothing = np.zeros(ROWS, np.int64), np.zeros(lanes, np.int32)
    tile, sums = np.empty((ROWS, lanes), np.int32), np.empty((count, lanes), np.int32)
    for n in range(count):
        multiply_tile(
            lanes,
            left,
            0,
            places.ctypes.data,
            0,
            places.ctypes.data,
            panels.ctypes.data + n * words * lanes * WORD,
            lanes * WORD,
            1,
            words,
            nothing.ctypes.data,
            0,
            tile.ctypes.data,
        )
        sums[n] = tile[0]
    return sums


@njit(cache=True)
def _between_rows(packed, bytes_):
    """What sums of every range of rows of taps begin with, see `pack`."""
    tiles, height, width, words, lanes = packed.shape
    between = np.zeros((height + 1, height + 1, tiles * lanes), np.int32)
    if bytes_:
        sums = offset_sums(packed.reshape(tiles * height, width * words, lanes))
        for t in range(tiles):
            outputs = slice(t * lanes, (t + 1) * lanes)
            for last in range(height):
                for first in range(last + 1):
                    total = between[first, last, outputs] - sums[t * height + last]
                    between[first, last + 1, outputs] = total
    return between


def _flipped(weights, groups):
    """Weights of the backward-data convolution: [R, R, C / groups, K] -> [R, R, K / groups, C]."""
    height, width, inputs, outputs = weights.shape
    apart = weights[::-1, ::-1].reshape(height, width, inputs, groups, outputs // groups)
    swapped = apart.transpose(0, 1, 4, 3, 2)
    return np.ascontiguousarray(swapped).reshape(height, width, -1, groups * inputs)


def _blocks(weights, groups, channels, lanes):
    """First input channel of every tile of outputs, and how many it takes."""
    inputs, outputs = weights.shape[2:]
    if groups == 1:
        return np.zeros(-(-outputs // lanes), np.int64), channels
    of_group = outputs // groups
    firsts = np.arange(0, outputs, lanes)
    lasts = np.minimum(firsts + lanes, outputs) - 1
    starts = firsts // of_group * inputs
    block = int(((lasts // of_group + 1) * inputs - starts).max())
    group = WORD // weights.itemsize
    block = ceil_div(block, group) * group
    return np.minimum(starts, channels - block), block


@njit(cache=True, parallel=True)
def _pack(weights, groups, starts, words, lanes):
    """`pack` of one plane, not flipped."""
    height, width, _inputs, outputs = weights.shape
    runs = _runs(groups, outputs, lanes)
    packed = np.zeros((len(starts), height, width, words, lanes), np.uint32)
    for tap in prange(height * width):
        r, s = tap // width, tap % width
        _pack_tap(weights[r, s], runs, starts, lanes, packed[:, r, s])
    return packed


@njit(cache=True)
def _pack_tap(weights, runs, starts, lanes, packed):
    """One tap of `_pack`: [C / groups, K] -> [tiles, words, lanes]."""
    inputs, outputs = weights.shape
    group = WORD // weights.itemsize
    if len(runs) == 1 and inputs % group == outputs % LANES == 0:
        for word in range(inputs // group):
            for k in range(0, outputs, LANES):
                target = packed[k // lanes, word].view(weights.dtype)
                first = word * group * outputs + k
                interleave_vector(weights, first, outputs, 0, target, k % lanes * group)
        return
    for i in range(len(runs)):
        first, last, place = runs[i, 0], runs[i, 1], runs[i, 2] * inputs
        place -= starts[first // lanes]
        line = np.zeros(last - first, np.uint32)
        for word in range(place // group, (place + inputs - 1) // group + 1):
            line[:] = 0
            for c in range(max(word * group, place), min((word + 1) * group, place + inputs)):
                source = weights[c - place, first:last]
                _pack_channel(source, 8 * weights.itemsize, c % group, line)
            done = 0
            while done < len(line):
                tile, lane = (first + done) // lanes, (first + done) % lanes
                row = packed[tile, word]
                part = min(len(line) - done, lanes - lane)
                for k in range(part):
                    row[np.uint64(lane + k)] = line[np.uint64(done + k)]
                done += part


@njit(cache=True)
def _runs(groups, outputs, lanes):
    """Runs of outputs that meet the same channels: first, last + 1, and their group.

    Of several groups, a run stays in its tile; int64[runs, 3]
    """
    if groups == 1:
        return np.array([[0, outputs, 0]])
    of_group = outputs // groups
    runs = []
    first = 0
    while first < outputs:
        last = min((first // of_group + 1) * of_group, (first // lanes + 1) * lanes, outputs)
        runs.append((first, last, first // of_group))
        first = last
    return np.array(runs)


@njit(cache=True)
def _pack_channel(source, bits, place, packed):
    """Values of one channel into their place in the words."""
    mask = np.uint32(0xFF if bits == 8 else 0xFFFF)
    left = np.uint32(bits * place)
    for k in range(len(packed)):
        packed[k] |= np.uint32(np.uint32(np.uint32(source[k]) & mask) << left)


@njit(cache=True, parallel=True)
def _pack_flipped(words, lanes):
    """`pack` of one plane of one group, flipped: [R, S, C, K/g] -> [C/lanes, R, S, K/g, lanes]."""
    height, width, inputs, groups = words.shape
    tiles = (inputs + lanes - 1) // lanes
    packed = np.zeros((tiles, height, width, groups, lanes), np.uint32)
    for t in prange(tiles):
        _pack_flipped_tile(words, t * lanes, packed[t])
    return packed


@njit(cache=True)
def _pack_flipped_tile(words, start, packed):
    """One tile of `_pack_flipped`."""
    height, width, groups, lanes = packed.shape
    used = min(lanes, words.shape[2] - start)
    for r in range(height):
        for s in range(width):
            block = words[height - 1 - r, width - 1 - s, start : start + used]
            for g in range(groups):
                for lane in range(used):
                    packed[r, s, g, np.uint64(lane)] = block[np.uint64(lane), g]


@njit(cache=True, parallel=True)
def interleave_images(x, carrier, offset, border, block):
    """Blocks of channels, with groups of images side by side in 32-bit lanes.

    Parameters
    ----------
    x : int8 or int16 [N, H, W, C]
    carrier : empty array of the result's type
    offset : added to every value: 128 for bytes of a left operand, else 0
    border : zero rows and columns around the map
    block : channels of a block: 16, 32, or at most as many as there are

    Returns
    -------
    [ceil(C/block), ceil(N/g), border + H + border, border + W + border, block, g], g = 4 bytes or 2
        words; channels beyond C are zero
    """
    images, height, width, channels = x.shape
    group = WORD // carrier.itemsize
    groups = (images + group - 1) // group
    blocks = (channels + block - 1) // block
    shape = (blocks, groups, height + 2 * border, width + 2 * border, block, group)
    mixed = np.empty(shape, carrier.dtype)
    for g in prange(groups):
        _interleave_group(x, np.int64(g), offset, border, mixed)
    return mixed


@njit(cache=True)
def _interleave_group(x, g, offset, border, mixed):
    """Group `g` of images of `interleave_images`."""
    images, height, width, channels = x.shape
    blocks, groups, rows, columns, block, group = mixed.shape
    first = g * group
    if border or first + group > images or blocks * block > channels:
        for b in range(blocks):
            mixed[b, g].reshape(-1)[:] = offset
    whole = channels - channels % LANES if first + group <= images else 0
    image = height * width * channels
    places = np.empty(whole // LANES, np.int64)  # of 16 channels each, in the first pixel
    for i in range(len(places)):
        c = i * LANES
        places[i] = ((c // block * groups + g) * rows * columns * block + c % block) * group
    for h in range(height):
        for w in range(width):
            pixel = ((first * height + h) * width + w) * channels
            begin = ((border + h) * columns + border + w) * block * group
            for i in range(len(places)):
                target = begin + places[np.uint64(i)]
                interleave_vector(x, pixel + i * LANES, image, offset, mixed, target)
            for c in range(whole, channels):
                target = mixed[c // block, g, border + h, border + w, c % block]
                for i in range(min(group, images - first)):
                    target[i] = x[first + i, h, w, c] + offset


def stacked(planes):
    """Planes as one array; a single one is not copied."""
    return planes[0][None] if len(planes) == 1 else np.stack(planes)


def split_bytes(values):
    """Low and high parts of 16-bit integers: ``values = high * 2**8 + low``, both int16."""
    return values & np.int16((1 << HIGH_BITS) - 1), values >> np.int16(HIGH_BITS)


def carrier(bytes_: bool) -> np.ndarray:
    """Empty array of the type that an operand has: bytes, signed ones too, or 16-bit words."""
    return np.empty(0, np.uint8 if bytes_ else np.int16)
