"""Heaps of the best frames, against a plain sort of everything that came."""

import numpy as np
import pytest

from accsim.training.best_frames import BestFrames


def sorted_best(scores, offers, k):
    """Of every class its k best frames: highest score first, of equals the oldest."""
    return [
        sorted(np.flatnonzero(offers[:, c]).tolist(), key=lambda n: (-scores[n, c], n))[:k]
        for c in range(scores.shape[1])
    ]


@pytest.mark.parametrize("k", [1, 2, 7, 40])
@pytest.mark.parametrize("levels", [2, 1000], ids=["many equals", "few equals"])
def test_heaps_keep_what_a_sort_would(k, levels):
    """Told batch by batch what is kept, and afterwards which frames, with pixels and scores."""
    rng = np.random.default_rng(k)
    scores = rng.integers(0, levels, (60, 3)).astype(np.int32)
    offers = rng.random((60, 3)) < 0.7
    pixels = rng.integers(0, 256, (60, 2, 2, 1), np.uint8)
    best = BestFrames(k, 3)
    for first, end in ((0, 1), (1, 25), (25, 25), (25, 60)):
        kept = best.offer(pixels[first:end], scores[first:end], offers[first:end])
        for n in range(first, end):
            now = sorted_best(scores[: n + 1], offers[: n + 1], k)  # as it comes
            assert kept[n - first].tolist() == [n in of_class for of_class in now]
    found = [[-number for _, number in heap] for heap in best.heaps]
    wanted = sorted_best(scores, offers, k)
    assert [sorted(numbers) for numbers in found] == [sorted(numbers) for numbers in wanted]
    assert set(best.frames) == {number for numbers in wanted for number in numbers}
    for number, held in best.frames.items():
        assert np.array_equal(held.pixels, pixels[number])
        assert np.array_equal(held.scores, scores[number])
        assert held.classes == sum(number in numbers for numbers in wanted)


def test_classes_are_drawn_alike_and_all_their_frames():
    """Class 0 keeps frames 0 to 3, class 1 frame 4, class 2 none: eight places a round."""
    scores = np.eye(3, dtype=np.int32)[[0, 0, 0, 0, 1]]
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    best = BestFrames(4, 3)
    best.offer(pixels, scores, scores > 0)
    rounds = []
    for number in range(3):
        drawn, found, classes = best.draw(range(8 * number, 8 * number + 8), key=5)
        assert sorted(drawn.ravel().tolist()) == [0, 1, 2, 3, 4, 4, 4, 4]
        assert classes.tolist() == [int(pixel == 4) for pixel in drawn.ravel()]
        assert np.array_equal(found, scores[drawn.ravel()])
        rounds.append(drawn.tobytes())
    assert len(set(rounds)) == 3
