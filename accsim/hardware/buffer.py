"""On-chip buffers: banks of block memory, cut into slots that are filled and used in turn."""

from collections import deque
from dataclasses import dataclass, replace
from enum import Enum

from accsim.units import ceil_div

DISTRIBUTED_WORDS = 64  # the depth to which a LUT is a memory


class Memory(Enum):
    """What a buffer is made of."""

    LUT = "distributed RAM"
    BRAM = "BRAM36"
    URAM = "URAM"


@dataclass(frozen=True)
class BufferSpec:
    """Memory of `capacity_bytes` in `banks` that work in parallel; a tile takes one of `slots`.

    The DMA fills or empties one slot while a unit works on another. With two ports all slots share
    the banks, and the DMA has a port of its own; with one port each slot is a memory by itself,
    which either the DMA or the unit has. In both a unit moves `bytes_per_cycle`.

    Block RAM has words of up to 36 bits with two ports and of 72 bits with one (AMD UG473, 7
    series, and UG573, UltraScale: 1K x 36, 2K x 18, 4K x 9, 8K x 4, 16K x 2, 32K x 1; 512 x 72 as a
    simple dual port); UltraRAM is 4K x 72 (UG573); a bank of 64 words at most is LUTs, two a bit
    for 64 x 1 with two ports (UG474, RAM64X1D).

    Raises ValueError for a count below 1, more ports than two, and part bytes.
    """

    capacity_bytes: int
    slots: int = 2  # 1: one tile at a time; 2: double, 3: triple buffering
    banks: int = 16  # with 64 bits: 4 bytes a cycle for each of 32 columns or lanes
    width_bits: int = 64  # of a bank's port
    memory: Memory | None = None  # None: whichever leaves the board most room
    ports: int = 2

    def __post_init__(self):
        for name in ("capacity_bytes", "slots", "banks", "width_bits"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"{name} of a buffer must be a whole number of at least 1, not {value}"
                )
        if self.width_bits % 8:
            raise ValueError(
                f"width_bits of a buffer must be a multiple of 8, not {self.width_bits}"
            )
        if self.ports not in (1, 2):
            raise ValueError(f"ports of a buffer must be 1 or 2, not {self.ports}")
        if self.memory is Memory.LUT and self._words > DISTRIBUTED_WORDS:
            raise ValueError(
                f"a bank of a buffer in distributed RAM must have at most {DISTRIBUTED_WORDS} "
                f"words, not {self._words}; use block RAM or more banks"
            )

    @property
    def tile_bytes(self) -> int:
        """Bytes that one tile may take."""
        return self.capacity_bytes // self.slots

    @property
    def bytes_per_cycle(self) -> int:
        """Bytes that a unit can read or write a cycle, beside what the DMA moves."""
        return self.banks * self.width_bits // 8

    @property
    def memories(self) -> tuple[Memory, ...]:
        """What the buffer can be made of: its `memory`, or what suits the depth of its banks."""
        if self.memory is not None:
            return (self.memory,)
        return (Memory.LUT,) if self._words <= DISTRIBUTED_WORDS else (Memory.BRAM, Memory.URAM)

    def blocks(self, memory: Memory) -> int:
        """Blocks of `memory` (LUTs for distributed RAM) that the buffer takes."""
        apart = self.slots if self.ports == 1 else 1
        if memory is Memory.LUT:
            bank = 2 * self.width_bits
        elif memory is Memory.URAM:
            bank = tiled(self.width_bits, self._words, ((72, 4096),))
        else:
            shapes = [(36, 1024), (18, 2048), (9, 4096), (4, 8192), (2, 16384), (1, 32768)]
            shapes += [(72, 512)] * (self.ports == 1)
            bank = tiled(self.width_bits, self._words, shapes)
        return apart * self.banks * bank

    @property
    def _words(self) -> int:
        """Words of one bank, of one slot where slots are apart."""
        held = self.capacity_bytes if self.ports == 2 else ceil_div(self.capacity_bytes, self.slots)
        return ceil_div(held, self.bytes_per_cycle)


def tiled(width_bits: int, words: int, shapes) -> int:
    """Fewest blocks of one of `shapes`, (bits, words), that cover a memory."""
    return min(ceil_div(width_bits, bits) * ceil_div(words, depth) for bits, depth in shapes)


@dataclass(frozen=True)
class BuffersSpec:
    """The on-chip memories by what they hold."""

    input: BufferSpec  # maps that stream through a unit
    weight: BufferSpec  # weights in operand_bits; the second operand of backward_weight
    output: BufferSpec  # results on their way to DDR
    gradient: BufferSpec | None  # weight gradients, accumulated over the batch; None: none is made
    resident_bytes: int  # whole maps that need not travel; 0: none

    def __post_init__(self):
        if self.resident_bytes < 0:
            raise ValueError(f"resident_bytes must be 0 or more, not {self.resident_bytes}")

    @property
    def by_name(self) -> dict[str, BufferSpec]:
        """All buffers; the resident maps lie in banks like those of the input buffer."""
        names = ("input", "weight", "output", "gradient")
        named = {name: getattr(self, name) for name in names if getattr(self, name)}
        if self.resident_bytes:
            named["resident"] = replace(
                self.input, capacity_bytes=self.resident_bytes, slots=1, memory=None
            )
        return named

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.capacity_bytes for buffer in self.by_name.values())


class Buffer:
    """The slots of one buffer: taken in the order of asking, freed by the last user."""

    def __init__(self, env, spec: BufferSpec):
        self._env = env
        self._waiting: deque = deque()
        self._slots = spec.slots
        self.free = spec.slots
        self.most_held = 0  # slots at one time

    def take(self):
        """Process step: wait until a slot is free and hold it; who gave it, if there was a wait."""
        if self.free:
            self.free -= 1
            self.most_held = max(self.most_held, self._slots - self.free)
            return None
        turn = self._env.event()
        self._waiting.append(turn)
        return (yield turn)

    def give(self, by=None) -> None:
        """Give a slot back; the longest waiting process gets it, and is told `by` whom."""
        if self._waiting:
            self._waiting.popleft().succeed(by)
        else:
            self.free += 1
