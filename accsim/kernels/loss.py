"""Integer softmax, cross-entropy and distances to labels: only the error of the logits is made.

Logits have 12 fractional bits. ``exp(x)`` is ``2**(x * log2(e))``: the whole part is a shift, the
fraction a look-up in 256 entries, as in integer-only training.
Source: Wang et al., "NITI: Training Integer Neural Networks Using Integer-Only Arithmetic",
IEEE TPDS 2022, section 3.4 (base-2 softmax with log2(e) = 47274 / 2**15).
"""

from math import isqrt

import numpy as np
from numba import njit

from accsim.kernels.fixed_point import hash32, round64, saturate

LOGIT_BITS = 12  # fractional bits of logits
PROBABILITY_BITS = 15  # fractional bits of probabilities
ERROR_BITS = 30  # fractional bits of the error of the logits
LOG2_E = 47274  # 15 fractional bits
LOG2_E_BITS = 15


def _root_256(value: int) -> int:
    for _ in range(8):
        value = isqrt(value)
    return value


# floor(2**(15 - k/256)), by exact integer roots: the same on every machine
EXP2 = np.array([_root_256(1 << (256 * PROBABILITY_BITS - k)) for k in range(256)], np.int64)


@njit(cache=True)
def softmax(logits, table):
    """Probabilities of every row: int32[N, C], 12 fractional bits -> int32[N, C], 15.

    `table` is `EXP2`.
    """
    samples, classes = logits.shape
    probabilities = np.empty((samples, classes), np.int32)
    powers = np.empty(classes, np.int64)
    for n in range(samples):
        top = logits[n].max()
        total = np.int64(0)
        for c in range(classes):
            below = (np.int64(top) - logits[n, c]) * LOG2_E >> (LOGIT_BITS + LOG2_E_BITS - 8)
            whole = below >> 8
            powers[c] = table[below & 255] >> whole if whole < 16 else 0
            total += powers[c]
        for c in range(classes):
            probabilities[n, c] = (2 * (powers[c] << PROBABILITY_BITS) + total) // (2 * total)
    return probabilities


@njit(cache=True)
def cross_entropy_error(probabilities, labels, batch=0):
    """Error of the logits under the mean cross-entropy: ``(p - onehot) / N``.

    int32[N, C] with 15 fractional bits, integer labels [N] -> int64[N, C] with 30. Of a
    micro-batch, `batch` is the N of the whole batch.
    """
    samples, classes = probabilities.shape
    whole = batch or samples
    error = np.empty((samples, classes), np.int64)
    for n in range(samples):
        for c in range(classes):
            wide = np.int64(probabilities[n, c])
            if c == labels[n]:
                wide -= 1 << PROBABILITY_BITS
            error[n, c] = (wide << (ERROR_BITS - PROBABILITY_BITS)) // whole
    return error


@njit(cache=True)
def consistency_error(student, teacher, accepted, weight, batch=0):
    """Error of the student's logits under the masked mean squared distance to the teacher's.

    ``weight * 2 * (student - teacher) / (N * C)`` where accepted, else 0.

    Parameters
    ----------
    student, teacher : int32[N, C], 12 fractional bits
    accepted : bool[N]
    weight : consistency weight, 16 fractional bits
    batch : N of the whole batch, of which these are a micro-batch; 0: these are all

    Returns
    -------
    int64[N, C], 30 fractional bits

    Notes
    -----
    Source: mean squared error on logits masked by the teacher's confidence, as in French et al.,
    "Self-ensembling for visual domain adaptation", ICLR 2018, section 3.3; logits instead of
    probabilities avoid the student's softmax.
    """
    samples, classes = student.shape
    whole = batch or samples
    error = np.zeros((samples, classes), np.int64)
    for n in range(samples):
        if accepted[n]:
            for c in range(classes):
                distance = np.int64(student[n, c]) - teacher[n, c]
                error[n, c] = (2 * distance * weight << (ERROR_BITS - LOGIT_BITS - 16)) // (
                    whole * classes
                )
    return error


@njit(cache=True)
def divergence_error(probabilities, targets, accepted, weight, batch=0):
    """Error of the student's logits under the masked mean Kullback-Leibler divergence.

    ``weight * (p - q) / N`` where accepted, else 0, of the divergence ``sum q log(q / p)``; where q
    is one class, of the cross-entropy.

    Parameters
    ----------
    probabilities, targets : int32[N, C], the student's p and the teacher's q, 15 fractional bits
    accepted, weight, batch : as of `consistency_error`

    Returns
    -------
    int64[N, C], 30 fractional bits

    Notes
    -----
    No gradient goes through q. Source: Xie et al., "Unsupervised data augmentation for consistency
    training", NeurIPS 2020, eq. 1; the mean over all samples, rejected ones too, is that of Sohn et
    al., "FixMatch", NeurIPS 2020, eq. 4.
    """
    samples, classes = probabilities.shape
    whole = batch or samples
    error = np.zeros((samples, classes), np.int64)
    for n in range(samples):
        if accepted[n]:
            for c in range(classes):
                wide = np.int64(probabilities[n, c]) - targets[n, c]
                error[n, c] = wide * weight // (whole << (PROBABILITY_BITS + 16 - ERROR_BITS))
    return error


@njit(cache=True)
def probability_error(probabilities, targets, accepted, weight, batch=0):
    """Error of the student's logits under the masked mean squared distance of probabilities.

    ``weight * 2 * p * (d - sum(p d)) / (N * C)`` with ``d = p - q`` where accepted, else 0: the
    distance ``sum d**2 / C`` through the derivative of the softmax.

    Parameters
    ----------
    probabilities, targets : int32[N, C], the student's p and the teacher's q, 15 fractional bits
    accepted, weight, batch : as of `consistency_error`

    Returns
    -------
    int64[N, C], 30 fractional bits

    Notes
    -----
    The product with p is rounded down to 30 fractional bits; no gradient goes through q. Source:
    Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017, section 3 (its
    mean over the classes is what makes its weights as large as 100).
    """
    samples, classes = probabilities.shape
    whole = batch or samples
    error = np.zeros((samples, classes), np.int64)
    for n in range(samples):
        if accepted[n]:
            mean = np.int64(0)
            for c in range(classes):
                p = np.int64(probabilities[n, c])
                mean += p * (p - targets[n, c])
            for c in range(classes):
                p = np.int64(probabilities[n, c])
                far = (p - targets[n, c] << PROBABILITY_BITS) - mean
                error[n, c] = 2 * weight * (p * far >> PROBABILITY_BITS) // (whole * classes << 16)
    return error


@njit(cache=True)
def balance_error(probabilities, accepted, weight, batch=0):
    """Error of the student's logits where the mean of its predictions should be uniform.

    The loss is ``weight * a * sum(-u log(m + e) - (1 - u) log(1 - m + e))``: m, the mean of p over
    these samples, u = 1 / C, a the share that is accepted, e = 2**-15. Its derivative by m is
    ``g = (1 - u) / (1 - m + e) - u / (m + e)``, the error ``weight * a * p (g - sum(g p)) / N``
    where accepted, else 0.

    Parameters
    ----------
    probabilities : int32[N, C], the student's p, 15 fractional bits
    accepted : bool[N]; the others count in m and a, but have no error
    weight : 20 fractional bits, at most 1000
    batch : as of `consistency_error`; a micro-batch has its own m and a

    Returns
    -------
    int64[N, C], 30 fractional bits

    Notes
    -----
    g has 16 fractional bits, and so has its product with p; all quotients are rounded down. Source:
    French, Mackiewicz and Fisher, "Self-ensembling for visual domain adaptation", ICLR 2018,
    section 3.4 (where e is 1e-6, and rejected samples have an error too).
    """
    samples, classes = probabilities.shape
    whole = batch or samples
    error = np.zeros((samples, classes), np.int64)
    taken = np.int64(accepted.sum())
    if not taken:
        return error
    slopes = np.empty(classes, np.int64)
    one = np.int64(samples) << PROBABILITY_BITS  # of a sum over the samples; its e is `samples`
    factor = np.int64(weight) * taken // samples
    for c in range(classes):
        total = np.int64(probabilities[:, c].sum())
        above = ((classes - 1) * one << 16) // (classes * (one - total + samples))
        slopes[c] = above - (one << 16) // (classes * (total + samples))
    for n in range(samples):
        if accepted[n]:
            mean = np.int64(0)
            for c in range(classes):
                mean += slopes[c] * probabilities[n, c]
            for c in range(classes):
                far = (slopes[c] << PROBABILITY_BITS) - mean
                product = probabilities[n, c] * far >> 2 * PROBABILITY_BITS
                error[n, c] = product * factor // (whole << 6)
    return error


@njit(cache=True)
def scaled(logits, factor):
    """``logits * factor / 2**8``, rounded down: int32[N, C]; 1 / temperature, 8 fractional bits.

    Kept within the 25 bits of the last layer's logits.
    """
    most = np.int64(1) << 24
    out = np.empty(logits.shape, np.int32)
    for n in range(logits.shape[0]):
        for c in range(logits.shape[1]):
            out[n, c] = min(max(np.int64(logits[n, c]) * factor >> 8, -most), most)
    return out


def aligned(error: np.ndarray) -> np.ndarray:
    """Every row times the power of two that gives the largest of it 30 bits: int64[N, C] both.

    A shift by the place of the leading one. Rows of nothing stay so.
    """
    largest = np.maximum(np.abs(error).max(axis=1, initial=0), 1)
    left = ERROR_BITS - np.frexp(largest.astype(np.float64))[1][:, None]
    return np.where(left >= 0, error << np.maximum(left, 0), error >> np.maximum(-left, 0))


def length(*errors) -> float:
    """Euclidean length of the errors together, each int64[N, C] with 30 fractional bits."""
    square = sum(value * value for error in errors for value in error.reshape(-1).tolist())
    return isqrt(square) / (1 << ERROR_BITS)


def round_error(wide, shift, key, limit):
    """``wide / 2**shift`` rounded as `key` says and saturated: int64[N, C] -> int8 or int16."""
    error = np.empty(wide.shape, np.int8 if limit <= 127 else np.int16)
    _round_error(wide.reshape(-1), shift, key, limit, error.reshape(-1))
    return error


@njit(cache=True)
def _round_error(wide, shift, key, limit, error):
    for i in range(len(wide)):
        random = hash32(np.uint32(i) ^ np.uint32(key))
        error[i] = saturate(round64(wide[i], shift, key, random), limit)
