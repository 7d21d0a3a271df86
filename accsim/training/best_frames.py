"""Of every class the frames of highest score, as frames stream by: a heap each, and no sort."""

from dataclasses import dataclass
from heapq import heappush, heapreplace
from typing import final

import numpy as np

from accsim.data.pool import in_random_order


@dataclass
class Held:
    """A frame that some classes keep."""

    pixels: np.ndarray  # uint8[H, W, C], as the camera has it
    scores: np.ndarray  # int32[classes]
    classes: int = 0  # that keep it


@final
class BestFrames:
    """The `k` frames of each class whose scores are highest, of all that were offered to it.

    The lowest score of a class lies on top of its heap: what is not above it is not kept, and what
    is takes its place. Of equal scores the older is the higher. What the last class lets go is
    forgotten.
    """

    def __init__(self, k: int, classes: int):
        self.k = k
        self.offered = 0  # frames; they are numbered as they come
        self.heaps: list[list[tuple[int, int]]] = [[] for _ in range(classes)]  # (score, -number)
        self.frames: dict[int, Held] = {}  # by number

    def offer(self, pixels: np.ndarray, scores: np.ndarray, offers: np.ndarray) -> np.ndarray:
        """Which class keeps which frame as it comes, be it until a later one: bool[N, classes].

        Parameters
        ----------
        pixels : uint8[N, H, W, C]
        scores : int32[N, classes]
        offers : bool[N, classes], the classes that may keep it
        """
        kept = np.zeros(offers.shape, bool)
        for n, c in np.argwhere(offers).tolist():  # frame by frame
            heap, number = self.heaps[c], self.offered + n
            entry = int(scores[n, c]), -number
            if len(heap) < self.k:
                heappush(heap, entry)
            elif entry > heap[0]:
                self._let_go(-heapreplace(heap, entry)[1])
            else:
                continue
            kept[n, c] = True
            self.frames.setdefault(number, Held(pixels[n], scores[n])).classes += 1
        self.offered += len(pixels)
        return kept

    def draw(self, places: range, key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames at `places` of an endless random order, in which every class is equally often.

        A class of fewer frames repeats them; one that keeps none is left out, but not all may be.

        Returns
        -------
        uint8[N, H, W, C], int32[N, classes], their scores, and int64[N], the class that keeps each
        """
        classes = np.flatnonzero([len(heap) for heap in self.heaps])
        most = max(map(len, self.heaps))
        groups, ranks = np.divmod(in_random_order(places, most * len(classes), key), most)
        chosen = classes[groups]
        numbers = [
            -self.heaps[c][rank % len(self.heaps[c])][1]
            for c, rank in zip(chosen.tolist(), ranks.tolist(), strict=True)
        ]
        held = [self.frames[number] for number in numbers]
        return np.stack([h.pixels for h in held]), np.stack([h.scores for h in held]), chosen

    def _let_go(self, number: int) -> None:
        held = self.frames[number]
        held.classes -= 1
        if not held.classes:
            del self.frames[number]
