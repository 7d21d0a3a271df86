"""Long tails by hand, noisy labels by count."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accsim.data.base import DataError, Dataset
from accsim.data.pool import draw_labelled, frame_pool, in_random_order, long_tail, noisy


def dataset(counts, name="noise"):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    classes = tuple("abcdefghij"[: len(counts)])
    return Dataset(name, "made", False, classes, images, labels, images, labels)


def of_class(data, chosen):
    return np.bincount(data.train_labels[chosen], minlength=len(data.classes)).tolist()


def test_a_tail_falls_by_equal_factors_to_its_ratio():
    assert long_tail(400, 100, 3).tolist() == [400, 40, 4]
    assert long_tail(5000, 100, 10).tolist() == [
        round(5000 * 100 ** (-c / 9)) for c in range(10)
    ]  # no tie


def test_halves_are_rounded_up_exactly():
    """Half of 1 goes up, its quarter does not; a sixth of 9 is one and a half, and goes up."""
    assert long_tail(1, 4, 3).tolist() == [1, 1, 0]
    assert long_tail(9, 36, 3).tolist() == [9, 2, 0]


@given(st.integers(0, 300), st.floats(1, 1000), st.integers(1, 12))
def test_tails_never_rise_and_begin_with_the_most(most, ratio, classes):
    counts = long_tail(most, ratio, classes).tolist()
    assert counts[0] == most
    assert counts == sorted(counts, reverse=True)


def test_a_labelled_tail_has_all_its_labels():
    """100 + 10 + 1 of ratio 100; three more labels lengthen no tail and go to the first classes."""
    data = dataset([200, 200, 200])
    assert of_class(data, draw_labelled(data, 111, 100, key=1)) == [100, 10, 1]
    assert of_class(data, draw_labelled(data, 112, 100, key=1)) == [101, 10, 1]
    balanced = draw_labelled(data, 11, 1, key=1)
    assert of_class(data, balanced) == [4, 4, 3]
    assert len(set(balanced.tolist())) == 11


@given(st.integers(20, 200), st.floats(1, 20))
def test_labels_are_as_many_as_asked_for(labels, ratio):
    data = dataset([200] * 5)
    drawn = draw_labelled(data, labels, ratio, key=3)
    assert len(set(drawn.tolist())) == labels


def test_frames_are_all_or_the_largest_tail_that_is_there():
    """Of 90, 100 and 5 images, a ratio of 16 leaves 4 times less a class: 80 to 87 end with 5."""
    data = dataset([90, 100, 5])
    assert frame_pool(data, 1, key=1).tolist() == list(range(195))
    pool = frame_pool(data, 16, key=1)
    assert of_class(data, pool) == [87, 22, 5]
    assert len(set(pool.tolist())) == len(pool)
    assert of_class(data, frame_pool(data, 100, key=1)) == [90, 9, 1]


def test_the_share_of_wrong_labels_is_exact_and_symmetric():
    labels = np.arange(3000) % 4
    given_labels = noisy(labels, 0.4, 4, key=2)
    wrong = given_labels != labels
    assert wrong.sum() == 1200
    steps = Counter(((given_labels - labels) % 4)[wrong].tolist())
    assert set(steps) == {1, 2, 3}
    for count in steps.values():  # 400 each; deviation sqrt(1200 * 1/3 * 2/3) = 16
        assert abs(count - 400) < 80
    assert np.array_equal(given_labels, noisy(labels, 0.4, 4, key=2))
    assert not np.array_equal(given_labels, noisy(labels, 0.4, 4, key=3))
    assert np.array_equal(noisy(labels, 0.0, 4, key=2), labels)
    assert (noisy(labels, 1.0, 4, key=2) != labels).all()


def test_an_endless_order_has_everything_once_an_epoch():
    assert sorted(in_random_order(range(20, 30), 10, key=4)) == list(range(10))
    some = in_random_order([3, 25, 21], 10, key=4)
    whole = in_random_order(range(30), 10, key=4)
    assert some.tolist() == whole[[3, 25, 21]].tolist()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: draw_labelled(dataset([50, 50, 50]), 10, 100, key=1),
            "labels must be enough for one of each of 3 classes at a labelled_imbalance of 100, "
            "not 10; ask for more labels or less imbalance",
        ),
        (
            lambda: draw_labelled(dataset([50, 50, 50]), 111, 100, key=1),
            "labels must be at most 50 for class a of noise, not 100; ask for fewer labels",
        ),
        (
            lambda: frame_pool(dataset([50, 0, 50]), 2, key=1),
            "unlabelled_imbalance must be 1 for noise, not 2: it has no image of class b to keep",
        ),
    ],
)
def test_tails_that_cannot_be_had_are_refused(draw, message):
    with pytest.raises(DataError, match=f"^{message}$"):
        draw()
