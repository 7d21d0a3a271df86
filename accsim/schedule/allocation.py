"""Where the tensors of a step lie, and for how long: addresses that one gives on to the next.

The operations of a step are known before it runs, so memory is given out ahead of time: a tensor
takes bytes from the operation that makes it to the last that uses it, and a later one may take the
same bytes. The machine works on several operations at once; what keeps it from writing over bytes
that are still wanted is `follows`, not luck.
"""

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from accsim.dataflow.tile import Tensor
from accsim.units import ceil_div

PAGE_BYTES = 4096  # tensors in DDR begin on a page


class Life(NamedTuple):
    """Bytes that a tensor wants from operation `first` to `last`, both counted."""

    tensor: Tensor
    size_bytes: int
    first: int
    last: int
    copy: bool = False  # of what lies in DDR too


@dataclass(frozen=True, eq=False)
class Allocation:
    """Bytes of one memory that hold a tensor from operation `first` to `last`, both counted."""

    memory: str  # ddr, or a part's resident or gradient buffer: sums, beside the slots of that
    address: int  # in that memory
    tensor: Tensor
    size_bytes: int
    first: int
    last: int
    copy: bool = False  # of what lies in DDR too

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.address + self.size_bytes


class Arena:
    """The bytes of one memory over the operations of a step: who has which, and when.

    `size_bytes` None: as many as it takes. Addresses are multiples of `grain_bytes`.
    """

    def __init__(self, size_bytes: int | None = None, grain_bytes: int = 1):
        self._size_bytes = size_bytes
        self._grain_bytes = grain_bytes
        self._taken: list[tuple[int, int, int, int]] = []  # address, end, first, last

    def take(self, size_bytes: int, first: int, last: int) -> int | None:
        """Address of the smallest gap free from operation `first` to `last`; None: there is none.

        Of equal gaps the lowest; behind the last tensor only where no gap between two is enough.
        """
        grain = self._grain_bytes
        size = ceil_div(size_bytes, grain) * grain
        best: tuple[int, int] | None = None  # gap, address
        free = 0
        for address, end, begun, ended in self._taken:
            if begun > last or ended < first:
                continue
            if address - free >= size and (best is None or address - free < best[0]):
                best = address - free, free
            free = max(free, end)
        if best is None:
            if self._size_bytes is not None and free + size > self._size_bytes:
                return None
            best = 0, free
        _, address = best
        insort(self._taken, (address, address + size, first, last))
        return address


def largest_first(memory: str, wanted: Iterable[Life], arena: Arena) -> list[Allocation]:
    """A place in `arena` for all that is `wanted`, but for what finds no gap.

    Greedy by size: the largest takes its place first, each the smallest gap between those that
    live at the same time. Source: Pisarchyk and Lee, "Efficient memory management for deep neural
    net inference", 2020 (arXiv:2001.03288), section 5, "greedy by size for offset calculation",
    which TensorFlow Lite has too.
    """
    placed = []
    for life in sorted(wanted, key=lambda life: -life.size_bytes):  # stable
        address = arena.take(life.size_bytes, life.first, life.last)
        if address is not None:
            placed.append(Allocation(memory, address, *life))
    return placed


@dataclass(frozen=True)
class Uses:
    """The allocations that one operation of `unit` reads and writes."""

    unit: str
    reads: frozenset[Allocation]
    writes: frozenset[Allocation]


def follows(uses: Sequence[Uses], allocations: Sequence[Allocation]) -> list[tuple[int, ...]]:
    """For each operation the earlier ones that must be over before it computes its first tile.

    It may write bytes, of a tensor in place or where another tensor lay before, only when nothing
    earlier uses them any more; and a copy on chip is whole when the operation that made it is over.
    Results that it reads are not named: their bytes are waited for one by one. A unit takes its
    operations in order, so its own earlier ones have computed, and only their stores are waited
    for; of another unit's the last one is enough.
    """
    users: dict[Allocation, dict[tuple[str, bool], int]] = {one: {} for one in allocations}
    waits: list[tuple[int, ...]] = []
    for index, used in enumerate(uses):
        latest: dict[str, int] = {}
        for tenant in _held_up_by(used, allocations):
            for (unit, wrote), earlier in users[tenant].items():
                if unit != used.unit or wrote:
                    latest[unit] = max(latest.get(unit, earlier), earlier)
        for allocation in used.reads | used.writes:
            users[allocation][used.unit, allocation in used.writes] = index
        waits.append(tuple(sorted(latest.values())))
    return waits


def _held_up_by(used: Uses, allocations: Sequence[Allocation]) -> Iterator[Allocation]:
    """What an operation may have to wait for: itself in place, what lay there before, copies."""
    for one in used.writes:
        yield one
        for other in allocations:
            if (
                other.memory == one.memory
                and other.last < one.first
                and other.address < one.end
                and one.address < other.end
            ):
                yield other
    yield from (one for one in used.reads if one.copy)


class Extent(NamedTuple):
    """How much of one memory a step takes."""

    peak_bytes: int  # to the end of the last byte that was ever taken
    least_bytes: int  # the most that was taken at one time: no placement needs less


def extents(events: Iterable[tuple[bool, Allocation]]) -> dict[str, Extent]:
    """What every memory holds at its fullest; `events` in order: (taken, or given back; what)."""
    held: dict[str, int] = {}
    found: dict[str, Extent] = {}
    for taken, one in events:
        held[one.memory] = held.get(one.memory, 0) + (one.size_bytes if taken else -one.size_bytes)
        before = found.get(one.memory, Extent(0, 0))
        found[one.memory] = Extent(
            max(before.peak_bytes, one.end), max(before.least_bytes, held[one.memory])
        )
    return found
