"""Ledgers: the same quantity counted on two sides, row by row; a difference stops the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

TOTAL = "all"


class LedgerError(AssertionError):
    """Two sides of a ledger disagree; the message names the ledger, the sides and the row."""


@dataclass(frozen=True)
class Ledger:
    """One quantity, counted by `left_name` and by `right_name` for the same rows.

    ``bound`` makes it an inequality: the left may not exceed the right. A row named `TOTAL` is a
    total that was counted on its own; without one the rows' sum stands for it.
    """

    name: str
    unit: str
    left_name: str
    right_name: str
    left_rows: Mapping[str, int] = field(repr=False)
    right_rows: Mapping[str, int] = field(repr=False)
    bound: bool = False

    @property
    def left(self) -> int:
        """Total of the left side."""
        return _total(self.left_rows)

    @property
    def right(self) -> int:
        """Total of the right side."""
        return _total(self.right_rows)

    def _open_rows(self):
        for row in {**self.left_rows, **self.right_rows}:
            left, right = self.left_rows.get(row, 0), self.right_rows.get(row, 0)
            if left > right or (left != right and not self.bound):
                yield row, left, right

    @property
    def closed(self) -> bool:
        """True where every row agrees."""
        return not any(True for _ in self._open_rows())

    def check(self) -> None:
        """Raise LedgerError naming the first row that does not add up."""
        for row, left, right in self._open_rows():
            raise LedgerError(
                f"ledger {self.name!r} does not close: {self.left_name} says {left} {self.unit}, "
                f"{self.right_name} says {right}; row {row}"
            )


def _total(rows: Mapping[str, int]) -> int:
    return rows[TOTAL] if TOTAL in rows else sum(rows.values())


def check(ledgers: Mapping[str, Ledger]) -> None:
    """Raise LedgerError for the first ledger that does not close."""
    for ledger in ledgers.values():
        ledger.check()
