"""Convolutions of 8-bit maps, forward and both backward passes, on the micro-kernel of `gemm`.

All three are the same product with other operands: no im2col buffer, only address offsets.
"""

import numpy as np
from numba import njit, prange

from accsim.kernels.fixed_point import noise32, saturate
from accsim.kernels.gemm import GROUP, LANES, LARGEST_SUM, ROWS, multiply_tile


@njit(cache=True, parallel=True)
def pad_map(x, top, left, bottom, right, dilation, channels):
    """Map with a border, zeros between its pixels and more channels, offset by 128.

    Parameters
    ----------
    x : int8[N, H, W, C]
    top, left, bottom, right : zero rows and columns around it
    dilation : distance of two pixels of `x` in the result, 1 for none between
    channels : C or more; the rest is zero

    Returns
    -------
    uint8[N, top + (H-1)*dilation + 1 + bottom, ..., channels]: every value plus 128
    """
    images, height, width, used = x.shape
    padded = np.empty(
        (
            images,
            top + (height - 1) * dilation + 1 + bottom,
            left + (width - 1) * dilation + 1 + right,
            channels,
        ),
        np.uint8,
    )
    for n in prange(images):
        target = padded[n]
        target[:] = 128
        for h in range(height):
            for w in range(width):
                pixel = target[top + h * dilation, left + w * dilation]
                for c in range(used):
                    pixel[c] = np.uint8(x[n, h, w, c]) ^ np.uint8(128)
    return padded


@njit(cache=True)
def pack_weights(weights, channels):
    """Weights in the order in which the micro-kernel reads them, and each output's sum.

    Parameters
    ----------
    weights : int8[R, S, C, K]
    channels : C rounded up to a multiple of 4

    Returns
    -------
    packed : int8[K/16, R, S, channels/4, 16, 4], zero where there is no weight
    sums : int32[K] of the weights of each output channel
    """
    height, width, inputs, outputs = weights.shape
    tiles = (outputs + LANES - 1) // LANES
    packed = np.zeros((tiles, height, width, channels // GROUP, LANES, GROUP), np.int8)
    sums = np.zeros(outputs, np.int32)
    for r in range(height):
        for s in range(width):
            for c in range(inputs):
                for k in range(outputs):
                    value = weights[r, s, c, k]
                    packed[k // LANES, r, s, c // GROUP, k % LANES, c % GROUP] = value
                    sums[k] += value
    return packed, sums


@njit(cache=True)
def flip_weights(weights):
    """Weights of the backward-data convolution: taps rotated by 180 degrees, channels swapped."""
    height, width, inputs, outputs = weights.shape
    flipped = np.empty((height, width, outputs, inputs), np.int8)
    for r in range(height):
        for s in range(width):
            for c in range(inputs):
                for k in range(outputs):
                    flipped[height - 1 - r, width - 1 - s, k, c] = weights[r, s, c, k]
    return flipped


@njit(cache=True, parallel=True)
def convolve(padded, packed, sums, stride, rows, columns, shift, key, limit):
    """Convolution of a padded map, rounded by `shift` and saturated to int8.

    Parameters
    ----------
    padded : uint8[N, H, W, C], values plus 128, C a multiple of 4 (see `pad_map`)
    packed, sums : see `pack_weights`
    stride : step of the window
    rows, columns : size P x Q of the output map
    shift : right shift of the exact 32-bit sums, 0 to 31
    key : random key of stochastic rounding, or -1 to round half up
    limit : largest output code

    Returns
    -------
    y : int8[N, P, Q, K]
    largest : the largest magnitude of the sums before the shift
    saturated : outputs that were clipped
    """
    images, height, width, channels = padded.shape
    kernel_rows, kernel_columns = packed.shape[1], packed.shape[2]
    outputs = len(sums)
    pixels = rows * columns
    y = np.empty((images, rows, columns, outputs), np.int8)
    flat = y.reshape(images, pixels, outputs)
    largest = np.zeros(images, np.int32)
    saturated = np.zeros(images, np.int64)
    taps = np.empty(kernel_rows, np.int64)
    for r in range(kernel_rows):
        taps[r] = r * width * channels
    inner = kernel_columns * channels // GROUP
    panel = kernel_rows * inner * LANES * GROUP
    for n in prange(images):
        tile = np.empty((ROWS, LANES), np.int32)
        offsets = np.empty(ROWS, np.int64)
        biggest = np.int32(0)
        clipped = 0
        base = padded.ctypes.data + n * height * width * channels
        for first in range(0, pixels, ROWS):
            for m in range(ROWS):
                pixel = min(first + m, pixels - 1)
                p, q = pixel // columns, pixel % columns
                offsets[m] = (p * width + q) * stride * channels
            for block in range(packed.shape[0]):
                multiply_tile(
                    base,
                    offsets.ctypes.data,
                    GROUP,
                    taps.ctypes.data,
                    packed.ctypes.data + block * panel,
                    LANES * GROUP,
                    kernel_rows,
                    inner,
                    tile.ctypes.data,
                    0,
                )
                start = block * LANES
                used = min(LANES, outputs - start)
                for m in range(min(ROWS, pixels - first)):
                    target = flat[n, first + m]
                    index = np.uint32(((n * pixels + first + m) * outputs + start) & 0xFFFFFFFF)
                    for k in range(used):
                        total = np.int32(tile[m, k] - np.int32(128) * sums[start + k])
                        biggest = max(biggest, abs(total))
                        value = (total + noise32(total, key, index + np.uint32(k), shift)) >> shift
                        narrow = saturate(value, limit)
                        clipped += narrow != value
                        target[start + k] = narrow
        largest[n] = biggest
        saturated[n] = clipped
    return y, largest.max(), saturated.sum()


@njit(cache=True, parallel=True)
def interleave_images(x, top, bottom, offset, channels):
    """Groups of 4 images side by side, so that a 32-bit word holds one value of each.

    Parameters
    ----------
    x : int8[N, H, W, C]
    top, bottom : zero rows and columns before and after the map
    offset : added to every value: 128 for the unsigned left operand, 0 for the right one
    channels : C or more; the rest is zero

    Returns
    -------
    uint8[ceil(N/4), top + H + bottom, top + W + bottom, channels, 4]
    """
    images, height, width, used = x.shape
    groups = (images + GROUP - 1) // GROUP
    shape = (groups, top + height + bottom, top + width + bottom, channels, GROUP)
    mixed = np.empty(shape, np.uint8)
    for g in prange(groups):
        target = mixed[g]
        target[:] = offset
        for i in range(min(GROUP, images - g * GROUP)):
            for h in range(height):
                for w in range(width):
                    for c in range(used):
                        value = np.uint8(x[g * GROUP + i, h, w, c]) ^ np.uint8(offset)
                        target[top + h, top + w, c, i] = value
    return mixed


@njit(cache=True)
def output_sums(dy):
    """Sum of the errors of every output channel: int8[N, P, Q, K] -> int32[K]."""
    sums = np.zeros(dy.shape[3], np.int32)
    for row in dy.reshape(-1, dy.shape[3]):
        for k in range(len(sums)):
            sums[k] += row[k]
    return sums


CHUNKS = 8  # partial gradients; fixed, so that memory does not depend on the threads


@njit(cache=True, parallel=True)
def correlate(x, dy, sums, stride, kernel, inputs):
    """Weight gradient: the correlation of the layer's input with its output's error.

    Parameters
    ----------
    x : uint8[G, H, W, C, 4], padded and interleaved with offset 128
    dy : uint8[G, P, Q, K', 4], interleaved; K' a multiple of 16
    sums : int32[K], sum of each output channel's errors
    stride, kernel : of the layer's window
    inputs : C

    Returns
    -------
    int32[kernel, kernel, C, K], exact: the caller bounds N*P*Q by `LARGEST_SUM`
    """
    groups, height, width = x.shape[:3]
    rows, columns, padded_outputs = dy.shape[1:4]
    outputs = len(sums)
    line = kernel * inputs  # (tap column, channel) pairs: neighbours in memory
    blocks = (line + ROWS - 1) // ROWS
    tiles = padded_outputs // LANES
    chunks = min(CHUNKS, groups)
    partial = np.zeros((chunks, kernel, blocks, tiles, ROWS, LANES), np.int32)
    starts = np.empty(rows, np.int64)
    for p in range(rows):
        starts[p] = p * stride * width * inputs * GROUP
    for chunk in prange(chunks):
        offsets = np.empty(ROWS, np.int64)
        for g in range(chunk * groups // chunks, (chunk + 1) * groups // chunks):
            left = x.ctypes.data + g * height * width * inputs * GROUP
            right = dy.ctypes.data + g * rows * columns * padded_outputs * GROUP
            for r in range(kernel):
                for block in range(blocks):
                    for m in range(ROWS):
                        place = min(block * ROWS + m, line - 1)
                        offsets[m] = (r * width * inputs + place) * GROUP
                    for t in range(tiles):
                        multiply_tile(
                            left,
                            offsets.ctypes.data,
                            stride * inputs * GROUP,
                            starts.ctypes.data,
                            right + t * LANES * GROUP,
                            padded_outputs * GROUP,
                            rows,
                            columns,
                            partial[chunk, r, block, t].ctypes.data,
                            1,
                        )
    gradient = np.empty((kernel, kernel, inputs, outputs), np.int32)
    for r in range(kernel):
        for place in range(line):
            for k in range(outputs):
                total = np.int32(0)
                for chunk in range(chunks):
                    total += partial[chunk, r, place // ROWS, k // LANES, place % ROWS, k % LANES]
                gradient[r, place // inputs, place % inputs, k] = total - np.int32(128) * sums[k]
    return gradient


def forward(x, weights, stride, padding, shift, key, limit):
    """Convolution ``y = x * weights``; see `convolve` for the result.

    Parameters
    ----------
    x : int8[N, H, W, C]
    weights : int8[R, R, C, K]
    """
    rows, columns = ((size + 2 * padding - weights.shape[0]) // stride + 1 for size in x.shape[1:3])
    channels = round_up(x.shape[3], GROUP)
    padded = pad_map(x, padding, padding, padding, padding, 1, channels)
    packed, sums = pack_weights(weights, channels)
    return convolve(padded, packed, sums, stride, rows, columns, shift, key, limit)


def backward_data(dy, weights, stride, padding, height, width, shift, key, limit):
    """Error of the layer's input, int8[N, height, width, C]; see `convolve` for the result.

    Parameters
    ----------
    dy : int8[N, P, Q, K], the error of its output
    weights : int8[R, R, C, K] as in `forward`
    """
    before = weights.shape[0] - 1 - padding
    dilated_rows = (dy.shape[1] - 1) * stride + 1
    dilated_columns = (dy.shape[2] - 1) * stride + 1
    channels = round_up(dy.shape[3], GROUP)
    padded = pad_map(
        dy,
        before,
        before,
        height - dilated_rows + padding,
        width - dilated_columns + padding,
        stride,
        channels,
    )
    packed, sums = pack_weights(flip_weights(weights), channels)
    return convolve(padded, packed, sums, 1, height, width, shift, key, limit)


def backward_weight(x, dy, kernel, stride, padding):
    """Gradient of the weights, int32[kernel, kernel, C, K], exact.

    Parameters
    ----------
    x : int8[N, H, W, C], the layer's input
    dy : int8[N, P, Q, K], the error of its output

    Raises
    ------
    ValueError : if a sum of N*P*Q products might not fit 32 bits
    """
    images, rows, columns, outputs = dy.shape
    if images * rows * columns > LARGEST_SUM:
        raise ValueError(
            f"samples x output pixels of a weight gradient must be at most {LARGEST_SUM} "
            f"for a 32-bit accumulator, not {images} x {rows * columns}; use smaller batches"
        )
    left = interleave_images(x, padding, padding, 128, x.shape[3])
    right = interleave_images(dy, 0, 0, 0, round_up(outputs, LANES))
    return correlate(left, right, output_sums(dy), stride, kernel, x.shape[3])


def round_up(count: int, multiple: int) -> int:
    """Least multiple of `multiple` that is at least `count`."""
    return -(-count // multiple) * multiple
