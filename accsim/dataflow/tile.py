"""Tiles: what one command of a compute unit does, and the runs of bytes that it moves.

A tensor lies in DDR in the order in which its producer writes it, so every transfer is one
contiguous run (EF-Train reshapes its maps to the same end).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from accsim.dataflow.tiling import Tiling


@dataclass(frozen=True, eq=False)
class Tensor:
    """Samples of one kind of data; two tensors are never equal."""

    name: str
    kind: str  # weights, activations, error, gradient, momentum, teacher, predictions, ...
    sample_bytes: int
    samples: int
    address: int | None = None  # first byte in DDR, a multiple of 4 KiB; None: it has none

    @property
    def size_bytes(self) -> int:
        return self.sample_bytes * self.samples


@dataclass(frozen=True)
class Operand:
    """A tensor as one operation uses it: the first `samples` of it.

    `on_chip`: it is in the resident buffer (or the gradient buffer) and causes no DDR traffic.
    `pending`: an earlier operation of the step writes it, so a reader must wait for its bytes;
    `whole`: for all of them, before the first tile (sums over the batch, another order).
    `places`: the samples that it uses where those are not the first; each travels alone.
    """

    tensor: Tensor
    samples: int
    on_chip: bool = False
    pending: bool = True
    whole: bool = False
    places: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int:
        return self.tensor.sample_bytes * self.samples

    def needs_bytes(self, end_bytes: int) -> int:
        """Bytes that must have been written before the first `end_bytes` can be used."""
        if not self.pending:
            return 0
        return self.tensor.size_bytes if self.whole else end_bytes

    def runs(self, low: int, high: int, needs_bytes: int = 0) -> "Iterator[Transfer]":
        """The transfers of its bytes `low` to `high`; of `places`, the samples that end there."""
        if self.places:
            size = self.tensor.sample_bytes
            for place in self.places[low // size : high // size]:
                yield Transfer(self.tensor, place * size, size, needs_bytes)
        elif high > low:
            yield Transfer(self.tensor, low, high - low, needs_bytes)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One contiguous run between DDR and a buffer."""

    tensor: Tensor
    offset_bytes: int
    size_bytes: int
    needs_bytes: int = 0  # of the tensor, written before the transfer may start
    buffer: str = "input"  # that a load fills

    @property
    def address(self) -> int:
        assert self.tensor.address is not None, f"{self.tensor.name} has no place in DDR"
        return self.tensor.address + self.offset_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What one command of a compute unit does, and the buffer slots it holds meanwhile."""

    cycles: int
    macs: int = 0
    vector_operations: int = 0
    buffer_read_bytes: int = 0
    buffer_write_bytes: int = 0
    loads: tuple[Transfer, ...] = ()  # in order, before the unit starts
    stores: tuple[Transfer, ...] = ()  # when it ends
    early_stores: tuple[Transfer, ...] = ()  # when it starts: weights blended as they arrived
    needs: tuple[tuple[Tensor, int], ...] = ()  # on-chip data: bytes that must be there
    makes: tuple[tuple[Tensor, int], ...] = ()  # on-chip data: bytes that are there at the end
    fills: tuple[str, ...] = ()  # buffers of which the loads take a slot
    restarts: bool = False  # the innermost loop begins anew: some DMA engines stop here
    opens: tuple[str, ...] = ()  # buffers of which the unit takes a slot when it starts
    frees: tuple[str, ...] = ()  # buffers of which a slot is given back when the unit ends
    drains: tuple[str, ...] = ()  # ... when the stores have ended


@dataclass(frozen=True)
class Plan:
    """The tiles of one operation, and the bytes of its tensors that they move, counted apart.

    `slot_bytes` is what the largest tile takes of a slot of each buffer.
    """

    tiles: tuple[Tile, ...]
    reads: tuple[tuple[Tensor, int], ...]
    writes: tuple[tuple[Tensor, int], ...]
    slot_bytes: Mapping[str, int]
    in_order: bool = True  # the samples of the result are whole one after the other
    tiling: Tiling | None = None  # of a matrix product


@dataclass(frozen=True)
class Piece:
    """Some samples, or a band of rows of one sample."""

    sample: int
    samples: int
    row: int
    rows: int
    of_rows: int

    def span(self, sample_bytes: int) -> tuple[int, int]:
        """First byte and end of this piece in a map of `sample_bytes` a sample."""
        if self.rows == self.of_rows:
            return self.sample * sample_bytes, (self.sample + self.samples) * sample_bytes
        first = self.sample * sample_bytes
        return (
            first + sample_bytes * self.row // self.of_rows,
            first + sample_bytes * (self.row + self.rows) // self.of_rows,
        )


@dataclass(frozen=True)
class Weights:
    """The weights of an operation: what travels when they are loaded, and loaded once more.

    `first` and `again` are (operand, bytes read), of which nothing travels that is on chip;
    `stores` are written back with the first load.
    """

    first: tuple[tuple[Operand, int], ...]
    again: tuple[tuple[Operand, int], ...]
    stores: tuple[tuple[Tensor, int], ...] = ()
    blended_words: int = 0  # words of a blend as they arrive: one vector operation each
    blended_again_words: int = 0

    def slice(self, again: bool, low: int, high: int, of: int, buffer: str = "weight"):
        """Transfers, early stores and blended words of the parts `low` to `high` of `of`."""
        parts = self.again if again else self.first
        words = self.blended_again_words if again else self.blended_words
        loads = tuple(
            Transfer(
                operand.tensor, first, end - first, operand.needs_bytes(operand.size_bytes), buffer
            )
            for operand, size in parts
            for first, end in [(size * low // of, size * high // of)]
            if end > first and not operand.on_chip
        )
        stores = tuple(
            Transfer(tensor, first, end - first)
            for tensor, size in (() if again else self.stores)
            for first, end in [(size * low // of, size * high // of)]
        )
        return loads, stores, words * high // of - words * low // of


class Tally:
    """Bytes by tensor, counted while tiles are cut."""

    def __init__(self):
        self._reads: dict[Tensor, int] = {}
        self._writes: dict[Tensor, int] = {}

    def add(self, loads, early_stores, stores) -> None:
        for transfer in loads:
            self._reads[transfer.tensor] = self._reads.get(transfer.tensor, 0) + transfer.size_bytes
        for transfer in (*early_stores, *stores):
            self._writes[transfer.tensor] = (
                self._writes.get(transfer.tensor, 0) + transfer.size_bytes
            )

    def plan(
        self,
        tiles: list[Tile],
        slot_bytes: Mapping[str, int],
        in_order: bool = True,
        tiling: Tiling | None = None,
    ) -> Plan:
        """The plan of `tiles`, with what was counted."""
        reads, writes = tuple(self._reads.items()), tuple(self._writes.items())
        return Plan(tuple(tiles), reads, writes, slot_bytes, in_order, tiling)


def largest_slots(
    tiles: Sequence[Tile], registers: Sequence[Transfer] = (), sharing: int = 1
) -> dict[str, int]:
    """What the largest `sharing` of `tiles` in a row take of an input slot and of an output slot.

    Every transfer goes through a slot but the loads into `registers`.
    """
    aside = sum(load.size_bytes for load in registers)  # of the first tile
    loaded = [sum(load.size_bytes for load in tile.loads) for tile in tiles]
    stored = [sum(store.size_bytes for store in tile.stores) for tile in tiles]
    loaded[0] -= aside
    firsts = range(0, len(tiles), sharing)
    return {
        name: max(sum(sizes[first : first + sharing]) for first in firsts)
        for name, sizes in (("input", loaded), ("output", stored))
    }
