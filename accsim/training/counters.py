"""What fixed point did to every tensor of a step: words clipped, overflowed, moved and lost."""

from dataclasses import dataclass
from operator import add

import numpy as np

from accsim.kernels.update import WordCounts

KINDS = ("words", "saturated", "overflowed", "moved", "unmoved", "underflowed")


class Tally:
    """Counts of one network's tensors, until they are taken."""

    def __init__(self):
        self._rows: dict[tuple[str, str], tuple[int, ...]] = {}

    def add(
        self,
        kind: str,
        tensor: str,
        words: int,
        saturated: int = 0,
        overflowed: int = 0,
        moved: int = 0,
        unmoved: int = 0,
        underflowed: int = 0,
    ) -> None:
        """Add to the counts of `tensor`; its `kind` is activations, error, gradient, weights."""
        seen = (words, saturated, overflowed, moved, unmoved, underflowed)
        before = self._rows.get((kind, tensor))
        self._rows[kind, tensor] = seen if before is None else tuple(map(add, before, seen))

    def add_stored(self, kind: str, tensor: str, counts: WordCounts) -> None:
        """Add what an update did to a stored tensor; its `kind` is weights or teacher."""
        self.add(
            kind, tensor, counts.words, counts.saturated, 0, counts.moved, counts.unmoved,
            counts.underflowed,
        )  # fmt: skip

    def take(self) -> "Counters":
        """The counts since the last call."""
        rows, self._rows = self._rows, {}
        counts = np.array([*rows.values()], np.int64).reshape(len(rows), len(KINDS))
        return Counters(tuple(rows), counts)


@dataclass(frozen=True)
class Counters:
    """Counts of one network in one step, a row a tensor."""

    tensors: tuple[tuple[str, str], ...]  # (kind, name), in the order of the step
    counts: np.ndarray  # int64[tensors, KINDS]

    def total(self, column: str, kind: str | None = None) -> int:
        """Sum of one column of `KINDS`, of the tensors of one `kind` or of all."""
        rows = [kind is None or tensor[0] == kind for tensor in self.tensors]
        return int(self.counts[rows, KINDS.index(column)].sum())

    def share(self, column: str, kind: str) -> float:
        """Share of the words of a `kind`; 0 where there are none."""
        return self.total(column, kind) / max(self.total("words", kind), 1)
