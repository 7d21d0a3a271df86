"""Which training images a run has labels for and which it may see as frames; in which order."""

from bisect import bisect
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from accsim.data.base import DataError, Dataset
from accsim.kernels.fixed_point import random_key, random_words


def draw_labelled(dataset: Dataset, labels: int, ratio: float, key: int) -> np.ndarray:
    """Indices of the labelled training images, int64[labels]: a random draw.

    Equally many of each class, or where `ratio` is above 1 a long tail of that ratio; what does
    not go up goes to the first classes. Raises DataError for more labels than a class has images,
    and for so few that a class has none.
    """
    classes = len(dataset.classes)
    most = bisect(
        range(1, labels + 1), labels, key=lambda n: int(long_tail(n, ratio, classes).sum())
    )
    counts = long_tail(most, ratio, classes)
    rest = labels - int(counts.sum())
    counts += rest // classes + (np.arange(classes) < rest % classes)
    if ratio > 1 and not counts.all():
        raise DataError(
            f"labels must be enough for one of each of {classes} classes at a labelled_imbalance "
            f"of {ratio}, not {labels}; ask for more labels or less imbalance"
        )
    return np.concatenate(_by_class(dataset, counts, key))


def frame_pool(dataset: Dataset, ratio: float, key: int) -> np.ndarray:
    """Indices of the training images that come as frames: all, or as large a long tail as is there.

    `ratio` 1 leaves the set as it is. Raises DataError for a class without images.
    """
    if ratio == 1:
        return np.arange(len(dataset.train_labels))
    classes = len(dataset.classes)
    there = np.bincount(dataset.train_labels, minlength=classes)
    sizes = range(1, int(there.max()) + 1)
    most = bisect(sizes, False, key=lambda n: bool((long_tail(n, ratio, classes) > there).any()))
    if most == 0:
        raise DataError(
            f"unlabelled_imbalance must be 1 for {dataset.name}, not {ratio}: it has no image of "
            f"class {dataset.classes[there.argmin()]} to keep"
        )
    return np.sort(np.concatenate(_by_class(dataset, long_tail(most, ratio, classes), key)))


def noisy(labels: np.ndarray, share: float, classes: int, key: int) -> np.ndarray:
    """Labels of which a share, rounded to whole labels, is replaced by another class.

    Every other class is as likely (symmetric noise). The images are drawn, not each by chance:
    the share is exact.
    """
    replaced = permutation(len(labels), key)[: round(share * len(labels))]
    steps = random_words(len(labels), random_key(key, 1))[replaced] % np.uint32(classes - 1)
    given = labels.copy()
    given[replaced] = (labels[replaced] + 1 + steps) % classes
    return given


def long_tail(most: int, ratio: float, classes: int) -> np.ndarray:
    """Images of each class, int64[classes]: ``most * ratio**(-c / (classes - 1))``, half up.

    `most` is the first class's count and `ratio` its multiple of the last one's.
    Source: Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019.
    """
    return np.array([_falling(most, ratio, c, max(classes - 1, 1)) for c in range(classes)])


def _falling(most: int, ratio: float, c: int, power: int) -> int:
    """``most * ratio**(-c / power)`` rounded half up: the n whose ``n - 1/2`` is not yet above.

    Whole powers are compared, so that no machine's ``pow`` decides.
    """
    over, under = (part**c for part in Fraction(ratio).as_integer_ratio())
    bound = (2 * most) ** power * under
    return bisect(range(1, most + 1), bound, key=lambda n: int((2 * n - 1) ** power * over))


@lru_cache(maxsize=4)
def permutation(count: int, key: int) -> np.ndarray:
    """int64[count], a random order of 0 to count - 1."""
    return np.argsort(random_words(count, key), kind="stable")


def in_random_order(places: Sequence[int], count: int, key: int) -> np.ndarray:
    """What stands at `places` of an endless sequence of permutations of 0 to count - 1."""
    epochs, rest = np.divmod(np.asarray(places, np.int64), count)
    chosen = np.empty(len(places), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        chosen[here] = permutation(count, random_key(key, int(epoch)))[rest[here]]
    return chosen


def _by_class(dataset: Dataset, counts: np.ndarray, key: int) -> list[np.ndarray]:
    """Random training images: `counts` of each class, indices, a class after another."""
    order = permutation(len(dataset.train_labels), key)
    sorted_labels = dataset.train_labels[order]
    drawn = []
    for c, count in enumerate(counts):
        of_class = order[sorted_labels == c]
        if len(of_class) < count:
            raise DataError(
                f"labels must be at most {len(of_class)} for class {dataset.classes[c]} "
                f"of {dataset.name}, not {count}; ask for fewer labels"
            )
        drawn.append(of_class[:count])
    return drawn
