"""Which frames are disturbed: shares, runs, and the same ones however the stream is cut."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accsim.data.corruption import Contrast
from accsim.data.disturbance import AtRandom, Disturbance, During, FrameKind

FRAMES = 20_000


def runs(due):
    """Lengths of the runs of True that both begin and end inside."""
    edges = np.flatnonzero(np.diff(due.astype(int)))
    edges = edges[int(due[0]) :]
    return np.diff(edges)[::2]


def test_runs_are_counted_right():
    due = np.array([1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1], bool)
    assert runs(due).tolist() == [3, 1]


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_independent_frames_have_their_share_and_short_runs(share):
    """The deviation of a share of n draws is sqrt(p (1 - p) / n); five of it are allowed."""
    due = AtRandom(share).due(range(FRAMES), key=1)
    assert due.mean() == pytest.approx(share, abs=5 * (share * (1 - share) / FRAMES) ** 0.5)
    assert runs(due).mean() == pytest.approx(1 / (1 - share), rel=0.1)


@pytest.mark.parametrize(("share", "mean_run"), [(0.3, 20), (0.3, 1.5), (0.8, 12)])
def test_bursts_have_their_share_and_mean_length(share, mean_run):
    """Lengths are geometric: their deviation is near their mean, and there are `count` of them."""
    due = AtRandom(share, mean_run).due(range(4 * FRAMES), key=2)
    lengths = runs(due)
    assert lengths.mean() == pytest.approx(mean_run, rel=5 / len(lengths) ** 0.5)
    assert due.mean() == pytest.approx(share, abs=0.04)
    assert lengths.std() == pytest.approx((mean_run * (mean_run - 1)) ** 0.5, rel=0.2)


def test_the_least_mean_run_is_that_of_independent_draws():
    independent = AtRandom(0.75).due(range(5000), key=3)
    bursts = AtRandom(0.75, mean_run=4).due(range(5000), key=3)
    assert np.array_equal(independent, bursts)


@pytest.mark.parametrize("when", [AtRandom(0.0), AtRandom(0.0, mean_run=5)])
def test_a_share_of_nothing_is_none(when):
    assert not when.due(range(1000), key=1).any()


def test_a_share_of_one_is_all():
    assert AtRandom(1).due(range(1000), key=1).all()


@pytest.mark.parametrize(
    "when", [AtRandom(0.3), AtRandom(0.4, mean_run=9), During(20, 30, every=70), During(100, 50)]
)
@given(cuts=st.lists(st.integers(0, 300), min_size=2, max_size=6))
def test_dropped_frames_and_batches_change_no_other_frame(when, cuts):
    whole = when.due(range(301), key=5)
    for first, last in zip(sorted(cuts), sorted(cuts)[1:], strict=False):
        assert np.array_equal(when.due(range(first, last), key=5), whole[first:last])


def test_keys_choose_other_frames():
    one, other = (AtRandom(0.5).due(range(100), key=key) for key in (1, 2))
    assert not np.array_equal(one, other)


def test_a_stretch_comes_once_or_again_and_again():
    assert np.flatnonzero(During(2, 3).due(range(12), key=0)).tolist() == [2, 3, 4]
    again = During(2, 3, every=5).due(range(12), key=0)
    assert np.flatnonzero(again).tolist() == [2, 3, 4, 7, 8, 9]
    assert During(2, 3, every=5).due(range(7, 11), key=0).tolist() == [True, True, True, False]
    assert During(2).due(range(1, 5), key=0).tolist() == [False, True, True, True]


def test_only_the_frames_that_are_due_change():
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1)).astype(np.uint8)
    before, kinds = images.copy(), np.zeros(10, np.int8)
    Disturbance(Contrast(5), During(105, 2)).apply(images, kinds, range(100, 110), 7, None)
    assert kinds.tolist() == [0] * 5 + [FrameKind.CORRUPTED] * 2 + [0] * 3
    changed = (images != before).any((1, 2, 3))
    assert np.flatnonzero(changed).tolist() == [5, 6]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AtRandom(1.5), "share must be 0 to 1, not 1.5"),
        (
            lambda: AtRandom(0.5, mean_run=1),
            "mean_run must be at least 2 frames for a share of 0.5, as of independent draws, not 1",
        ),
        (lambda: AtRandom(1.0, 5), "mean_run must be None for a share of 1, not 5"),
        (lambda: During(-1, 5), "first must be at least 0, not -1"),
        (lambda: During(0, 0), "frames must be at least 1, not 0"),
        (lambda: During(0, 10, every=9), "every must be at least 10, not 9"),
        (lambda: During(0, every=9), "every must be None for a stretch without end, not 9"),
        (
            lambda: Disturbance("fog", AtRandom(0.5)),
            "what of a disturbance must be a Change object, not 'fog'",
        ),
        (
            lambda: Disturbance(Contrast(1), 0.5),
            "when of a disturbance must be a When object, not 0.5",
        ),
    ],
)
def test_impossible_choices_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
