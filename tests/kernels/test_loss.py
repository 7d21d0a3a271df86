"""Integer softmax and the errors of the logits against float64."""

import numpy as np
import pytest
import reference
import torch

from accsim.kernels import loss


def test_powers_of_two_are_exact():
    exact = np.floor(2.0 ** (15 - np.arange(256) / 256))
    assert np.array_equal(loss.EXP2, exact)


def test_softmax_is_close_to_float(rng):
    logits = rng.normal(0, 3, (200, 10))
    fixed = np.round(logits * 4096).astype(np.int32)
    got = loss.softmax(fixed, loss.EXP2) / 2**15
    exact = torch.softmax(torch.tensor(logits), 1).numpy()
    np.testing.assert_allclose(got, exact, atol=2e-3)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-3)


def test_softmax_of_extreme_logits_is_one_hot():
    logits = np.array([[2**23, -(2**23), 0]], np.int32)
    assert loss.softmax(logits, loss.EXP2).tolist() == [[2**15, 0, 0]]


def test_errors_are_gradients(rng):
    """Cross-entropy and masked logit MSE as torch differentiates them."""
    student, teacher = (rng.normal(0, 2, (12, 10)) for _ in range(2))
    fixed, fixed_teacher = (np.round(v * 4096).astype(np.int32) for v in (student, teacher))
    labels = rng.integers(0, 10, 12)
    error = loss.cross_entropy_error(loss.softmax(fixed, loss.EXP2), labels)
    logits = torch.tensor(student, requires_grad=True)
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    np.testing.assert_allclose(error / 2**30, logits.grad.numpy(), atol=2e-4)
    part = loss.cross_entropy_error(loss.softmax(fixed[:5], loss.EXP2), labels[:5], 12)
    assert np.array_equal(part, error[:5])  # a micro-batch of the 12

    accepted = rng.random(12) > 0.5
    error = loss.consistency_error(fixed, fixed_teacher, accepted, round(0.3 * 65536))
    logits = torch.tensor(student, requires_grad=True)
    distance = (logits - torch.tensor(teacher)).square().mean(1)
    (0.3 * (distance * torch.tensor(accepted)).sum() / 12).backward()
    np.testing.assert_allclose(error / 2**30, logits.grad.numpy(), rtol=1e-3, atol=1e-5)
    assert not error[~accepted].any()
    part = loss.consistency_error(
        fixed[:5], fixed_teacher[:5], accepted[:5], round(0.3 * 65536), 12
    )
    assert np.array_equal(part, error[:5])


def test_round_error_is_stochastic_per_element(rng):
    wide = rng.integers(-(2**26), 2**26, (30, 10))
    error = loss.round_error(wide, 20, 11, 127)
    for index, (value, got) in enumerate(zip(wide.ravel(), error.ravel(), strict=True)):
        random = reference.hash32(index ^ 11)
        assert got == max(-127, min(127, (int(value) + (random >> 12)) >> 20))


def exact_error(student, targets, accepted, weight, batch, squared):
    """The two losses of probabilities, element by element in Python integers."""
    rows = []
    for p, q, sure in zip(student.tolist(), targets.tolist(), accepted.tolist(), strict=True):
        mean = sum(a * (a - b) for a, b in zip(p, q, strict=True))
        row = []
        for a, b in zip(p, q, strict=True):
            if squared:  # 2 weight p (d - mean) / (N C), 15 + 16 fractional bits more than 30
                product = a * ((a - b) * 2**15 - mean) // 2**15
                row.append(2 * weight * product // (batch * len(p) * 2**16))
            else:  # weight (p - q) / N: 31 fractional bits
                row.append((a - b) * weight // (2 * batch))
        rows.append(row if sure else [0] * len(p))
    return rows


@pytest.mark.parametrize("weight", [1, round(0.3 * 65536), 1000 * 65536])
@pytest.mark.parametrize("squared", [False, True])
def test_errors_of_probabilities_are_bit_exact(squared, weight, rng):
    student, teacher = (
        loss.softmax(rng.integers(-(2**15), 2**15, (12, 10)).astype(np.int32), loss.EXP2)
        for _ in range(2)
    )
    student[0], teacher[0] = np.eye(10)[0] * 2**15, np.eye(10)[1] * 2**15  # the largest error
    accepted = rng.random(12) > 0.3
    accepted[0] = True
    kernel = loss.probability_error if squared else loss.divergence_error
    got = kernel(student, teacher, accepted, weight)
    assert got.tolist() == exact_error(student, teacher, accepted, weight, 12, squared)
    part = kernel(student[:5], teacher[:5], accepted[:5], weight, 12)
    assert np.array_equal(part, got[:5])


@pytest.mark.parametrize("squared", [False, True])
def test_errors_of_probabilities_are_gradients(squared, rng):
    """Of the mean over all samples, rejected ones too, as torch differentiates it."""
    student, teacher = (rng.normal(0, 2, (12, 10)) for _ in range(2))
    p, q = (
        loss.softmax(np.round(logits * 4096).astype(np.int32), loss.EXP2)
        for logits in (student, teacher)
    )
    accepted = rng.random(12) > 0.5
    kernel = loss.probability_error if squared else loss.divergence_error
    error = kernel(p, q, accepted, 5 << 16)
    logits = torch.tensor(student, requires_grad=True)
    target = torch.softmax(torch.tensor(teacher), 1)
    if squared:
        distance = (torch.softmax(logits, 1) - target).square().mean(1)
    else:
        distance = torch.nn.functional.kl_div(
            torch.log_softmax(logits, 1), target, reduction="none"
        ).sum(1)
    (5 * (distance * torch.tensor(accepted)).sum() / 12).backward()
    np.testing.assert_allclose(error / 2**30, logits.grad.numpy(), atol=5 * 2e-3 / 12)
    assert np.abs(logits.grad.numpy()).max() > 10 * 5 * 2e-3 / 12  # the tolerance is small


def exact_balance(probabilities, accepted, weight, batch):
    """The kernel's integers, one by one."""
    samples, classes = probabilities.shape
    one = samples << 15
    slopes = []
    for c in range(classes):
        total = int(probabilities[:, c].sum())
        above = ((classes - 1) * one << 16) // (classes * (one - total + samples))
        slopes.append(above - (one << 16) // (classes * (total + samples)))
    factor = weight * int(accepted.sum()) // samples
    error = []
    for row, taken in zip(probabilities.tolist(), accepted, strict=True):
        mean = sum(slope * p for slope, p in zip(slopes, row, strict=True))
        error.append(
            [
                (p * ((slope << 15) - mean) >> 30) * factor // (batch << 6) if taken else 0
                for slope, p in zip(slopes, row, strict=True)
            ]
        )
    return error


@pytest.mark.parametrize("weight", [1, 1573, 1000 << 20])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_balances_error_is_bit_exact(classes, weight, rng):
    """Also where one class takes all, and at the largest weight."""
    logits = rng.normal(0, 2, (12, classes)) * 4096
    for shift in (0, 10 << 12):
        logits[:, 0] += shift
        p = loss.softmax(np.round(logits).astype(np.int32), loss.EXP2)
        accepted = rng.random(12) > 0.3
        for batch in (12, 40):
            got = loss.balance_error(p, accepted, weight, batch)
            assert got.tolist() == exact_balance(p, accepted, weight, batch)
    assert np.array_equal(
        loss.balance_error(p, accepted, weight), loss.balance_error(p, accepted, weight, 12)
    )
    none = np.zeros(12, bool)
    assert not loss.balance_error(p, none, weight).any()
    assert loss.balance_error(p[:0], none[:0], weight, 12).shape == (0, classes)


@pytest.mark.parametrize("shift", [0, 2, 5])
def test_the_balances_error_is_a_gradient(shift, rng):
    """Binary cross-entropy of the mean prediction with a tenth, as torch differentiates it.

    Rejected samples are constants; `shift` makes one class the more frequent.
    """
    student = rng.normal(0, 2, (12, 10))
    student[:, 0] += shift
    accepted = rng.random(12) > 0.4
    p = loss.softmax(np.round(student * 4096).astype(np.int32), loss.EXP2)
    error = loss.balance_error(p, accepted, round(0.005 * 2**20))
    logits = torch.tensor(student, requires_grad=True)
    predictions = torch.softmax(logits, 1)
    taken = torch.tensor(accepted)[:, None]
    mean = torch.where(taken, predictions, predictions.detach()).mean(0)
    even = torch.full((10,), 0.1, dtype=mean.dtype)
    balance = torch.nn.functional.binary_cross_entropy(mean, even, reduction="sum")
    (0.005 * accepted.mean() * balance).backward()
    exact = logits.grad.numpy()
    np.testing.assert_allclose(error / 2**30, exact, rtol=0.02, atol=0.01 * np.abs(exact).max())
    assert not error[~accepted].any()
    assert np.abs(exact[accepted]).max() > 1e-6


def test_the_length_of_errors_is_exact():
    """Squares beyond 64 bits: 3, 4 and 12 make 13."""
    three, rest = np.array([[3 << 38]]), np.array([[4 << 38, 0], [0, -12 << 38]])
    assert loss.length(three, rest) == 13 << 8
    assert loss.length() == 0


def test_logits_over_a_temperature():
    logits = np.array([[-5, 3, 2**24], [7, 0, -(2**24)]], np.int32)
    assert loss.scaled(logits, 640).tolist() == [[-13, 7, 2**24], [17, 0, -(2**24)]]
    assert loss.scaled(logits, 64).tolist() == [[-2, 0, 2**22], [1, 0, -(2**22)]]


def test_aligned_rows_keep_their_direction_and_have_thirty_bits(rng):
    error = rng.integers(-(2**20), 2**20, (40, 10)) >> rng.integers(0, 18, (40, 1))
    error[3] = 0
    error[4, 0] = 2**35 + 12345  # a distance of logits may be wider
    for row, got in zip(error.tolist(), loss.aligned(error).tolist(), strict=True):
        bits = max(map(abs, row)).bit_length()
        left = 30 - bits if bits else 0
        assert got == [value << left if left >= 0 else value >> -left for value in row]
        assert max(map(abs, got)).bit_length() in (30, 0)
