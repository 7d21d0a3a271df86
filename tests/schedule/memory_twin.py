"""What a step's memory holds, byte by byte: in program order, and as the machine moved it.

Knows nothing of allocators or waits: addresses, transfers and times only. Bytes that are always
moved together are one cell.
"""

from dataclasses import dataclass

import numpy as np

STORED = ("weights", "momentum", "teacher", "residual", "exponents", "predictions")


class MemoryFault(AssertionError):
    """A transfer that finds other bytes than it should, or an operation other contents."""


@dataclass(frozen=True)
class Move:
    transfer: object
    is_write: bool
    label: str


def moves(operations):
    """All transfers in program order: a tile's loads, then its stores."""
    found = [
        Move(transfer, is_write, operation.label)
        for operation in operations
        for tile in operation.tiles
        for is_write, side in (
            (False, tile.loads),
            (True, (*tile.early_stores, *tile.stores)),
        )
        for transfer in side
    ]
    assert len({id(move.transfer) for move in found}) == len(found)
    return found


class Cells:
    """Addresses cut at every end of a transfer."""

    def __init__(self, found):
        spans = [(m.transfer.address, m.transfer.address + m.transfer.size_bytes) for m in found]
        self.bounds = np.unique(np.array(spans or [(0, 0)]))

    def of(self, transfer) -> slice:
        ends = np.searchsorted(
            self.bounds, [transfer.address, transfer.address + transfer.size_bytes]
        )
        return slice(*ends)


def meant(operations):
    """Of each load by identity: the writes, 0 for none, whose bytes it finds in program order.

    Raises MemoryFault where they are those of another tensor, where a tensor of the step is read
    before it is whole, and where a stored tensor is lost.
    """
    found = moves(operations)
    cells = Cells(found)
    holds = np.zeros(len(cells.bounds), np.int64)
    written = set()
    expected = {}
    for number, move in enumerate(found, 1):
        tensor, span = move.transfer.tensor, cells.of(move.transfer)
        if move.is_write:
            holds[span] = number
            written.add(tensor)
            continue
        for writer in np.unique(holds[span]):
            held = found[writer - 1].transfer.tensor if writer else None
            if writer and (held.name, held.address) != (tensor.name, tensor.address):
                raise MemoryFault(f"{move.label} reads {held.name} where {tensor.name} should be")
            if not writer and tensor in written and tensor.kind not in STORED:
                raise MemoryFault(
                    f"{move.label} reads bytes of {tensor.name} that none has written"
                )
        expected[id(move.transfer)] = holds[span].copy()
    for move in found:
        tensor = move.transfer.tensor
        if tensor.kind in STORED:
            for writer in np.unique(holds[cells.of(move.transfer)]):
                if writer and found[writer - 1].transfer.tensor is not tensor:
                    raise MemoryFault(f"{tensor.name} is lost")
    return expected


def check_transfers(operations, works):
    """Every load finds, from its start to its end, the bytes that it finds in program order.

    `works` are those of the transfers that the machine made, with start and end.
    """
    expected = meant(operations)
    found = moves(operations)
    numbers = {id(move.transfer): number for number, move in enumerate(found, 1)}
    times = {id(work.what): work for work in works}
    assert times.keys() == numbers.keys()
    cells = Cells(found)
    holds = np.zeros(len(cells.bounds), np.int64)
    reading, writing = np.zeros_like(holds), np.zeros_like(holds)
    events = sorted(
        (time, begins, number)
        for number, move in enumerate(found, 1)
        for work in [times[id(move.transfer)]]
        for begins, time in ((True, work.start_ps), (False, work.end_ps))
    )  # at one time ends come first
    for _, begins, number in events:
        move = found[number - 1]
        span = cells.of(move.transfer)
        name = f"{move.label} of {move.transfer.tensor.name}"
        if begins and writing[span].any():
            raise MemoryFault(f"a write is under way where {name} begins")
        if begins and move.is_write and reading[span].any():
            raise MemoryFault(f"the write by {name} overtakes a read")
        if begins and not move.is_write and (holds[span] != expected[id(move.transfer)]).any():
            raise MemoryFault(f"the read by {name} finds other bytes than in program order")
        if not begins and move.is_write:
            holds[span] = number
        (writing if move.is_write else reading)[span] += 1 if begins else -1


def check_on_chip(operations, works):
    """No operation uses bytes on chip while one that had them before is at work.

    And a copy is whole when it is read, and that of what lies in DDR.
    """
    takes = [one for operation in operations for one in operation.takes if one.memory != "ddr"]
    spans = {}
    for work in works:
        start, end = spans.get(work.record.number, (work.start_ps, work.end_ps))
        spans[work.record.number] = min(start, work.start_ps), max(end, work.end_ps)
    used = {}
    for number, operation in enumerate(operations):
        for one in operation.takes:
            if one.memory != "ddr":
                used[one] = {number}
        names = {tensor.name for tensor, _ in operation.on_chip if tensor.kind == "gradient_sum"}
        on_chip = {tensor for tensor, _ in operation.on_chip}
        for one in takes:
            live = one in used and one.first <= number <= one.last
            if live and (one.tensor in on_chip or one.tensor.name in names):
                used[one].add(number)
    for one, numbers in used.items():
        if one.copy:
            maker, *readers = sorted(numbers)
            if any(spans[reader][0] < spans[maker][1] for reader in readers):
                raise MemoryFault(f"a copy of {one.tensor.name} is read before it is whole")
            for number in range(one.first, one.last + 1):
                if one.tensor in dict(operations[number].writes):
                    raise MemoryFault(f"a copy of {one.tensor.name} is not what is written")
        for other, others in used.items():
            apart = other.end <= one.address or one.end <= other.address
            if one is other or one.memory != other.memory or apart or min(others) < min(numbers):
                continue
            if max(spans[n][1] for n in numbers) > min(spans[n][0] for n in others):
                raise MemoryFault(f"{other.tensor.name} comes on chip over {one.tensor.name}")
