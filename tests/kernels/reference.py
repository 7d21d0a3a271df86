"""Obvious twins of the kernels: exact Python integers, or float64 where a root is involved."""

import numpy as np


def hash32(counter):
    """lowbias32 in Python integers."""
    x = counter & 0xFFFFFFFF
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


def half_up(value, shift):
    """``value / 2**shift`` rounded half up, by exact division."""
    return (2 * value + 2**shift) // (2 * 2**shift)


def rounded(value, shift, key, index):
    """``value / 2**shift`` rounded by the rule of `key`, by exact division."""
    whole, rest = divmod(value, 2**shift)
    if key >= 0:
        return (value + (hash32(index ^ key) >> (32 - shift) if shift else 0)) >> shift
    up = {
        -1: 2 * rest >= 2**shift,
        -2: False,
        -3: 2 * rest > 2**shift or (2 * rest == 2**shift and whole % 2 == 1),
        -4: rest // 2 ** (shift - shift // 2) > rest % 2 ** (shift // 2),
    }
    return whole + (up[key] if shift else 0)


def rounded_map(values, shift, key, limit):
    """Every element of an integer array rounded with its own index and saturated; `rounded`.

    `shift` is one for all, or one for every channel, the last axis.
    """
    values = values.astype(np.int64)
    shift = np.broadcast_to(shift, values.shape)
    whole, rest = values >> shift, values & (2**shift - 1)
    half = 2**shift // 2
    if key >= 0:
        counters = np.arange(values.size, dtype=np.uint64).reshape(values.shape)
        random = hash32(counters ^ np.uint64(key)).astype(np.int64)
        whole = (values + (random >> (32 - shift))) >> shift
    else:
        low_bits = shift // 2
        up = {
            -1: rest >= half,
            -2: np.zeros(values.shape, bool),
            -3: (rest > half) | ((rest == half) & (whole % 2 == 1)),
            -4: rest >> (shift - low_bits) > rest % 2**low_bits,
        }
        whole = whole + (up[key] & (shift > 0))
    return np.clip(whole, -limit, limit)


def convolution(x, weights, stride, padding, groups=1):
    """Exact sums, int64[N, P, Q, K], from loops over taps."""
    if groups > 1:
        apart = zip(np.split(x, groups, 3), np.split(weights, groups, 3), strict=True)
        return np.concatenate([convolution(*pair, stride, padding) for pair in apart], 3)
    kernel = weights.shape[0]
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = np.pad(x.astype(np.int64), pad)
    rows = (x.shape[1] - kernel) // stride + 1
    columns = (x.shape[2] - kernel) // stride + 1
    y = np.zeros((len(x), rows, columns, weights.shape[3]), np.int64)
    for r in range(kernel):
        for s in range(kernel):
            window = x[:, r : r + stride * rows : stride, s : s + stride * columns : stride]
            y += window[:, :rows, :columns] @ weights[r, s].astype(np.int64)
    return y


def convolution_data(dy, weights, stride, padding, height, width, groups=1):
    """Exact error of the input, int64[N, height, width, C]."""
    if groups > 1:
        apart = zip(np.split(dy, groups, 3), np.split(weights, groups, 3), strict=True)
        return np.concatenate(
            [convolution_data(*pair, stride, padding, height, width) for pair in apart], 3
        )
    kernel = weights.shape[0]
    dx = np.zeros((len(dy), height + 2 * padding, width + 2 * padding, weights.shape[2]), np.int64)
    for p in range(dy.shape[1]):
        for q in range(dy.shape[2]):
            patch = np.einsum(
                "nk,rsck->nrsc", dy[:, p, q].astype(np.int64), weights.astype(np.int64)
            )
            dx[:, p * stride : p * stride + kernel, q * stride : q * stride + kernel] += patch
    return dx[:, padding : padding + height, padding : padding + width]


def convolution_weight(x, dy, kernel, stride, padding, groups=1):
    """Exact gradient of the weights, int64[kernel, kernel, C, K]."""
    if groups > 1:
        apart = zip(np.split(x, groups, 3), np.split(dy, groups, 3), strict=True)
        return np.concatenate(
            [convolution_weight(*pair, kernel, stride, padding) for pair in apart], 3
        )
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    x = np.pad(x.astype(np.int64), pad)
    gradient = np.zeros((kernel, kernel, x.shape[3], dy.shape[3]), np.int64)
    for p in range(dy.shape[1]):
        for q in range(dy.shape[2]):
            patch = x[:, p * stride : p * stride + kernel, q * stride : q * stride + kernel]
            gradient += np.einsum("nrsc,nk->rsck", patch, dy[:, p, q].astype(np.int64))
    return gradient
