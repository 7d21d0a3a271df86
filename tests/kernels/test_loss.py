"""Integer softmax and the errors of the logits against float64."""

import numpy as np
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
