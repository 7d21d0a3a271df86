"""On-chip buffers: memory cut into one slot, or into two that are filled and used in turn."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class BufferSpec:
    """Memory of `capacity_bytes`; double buffering halves what one tile may take.

    Raises ValueError for a capacity below 1 byte.
    """

    capacity_bytes: int
    double: bool = True

    def __post_init__(self):
        if self.capacity_bytes < 1:
            raise ValueError(
                f"capacity_bytes of a buffer must be at least 1, not {self.capacity_bytes}"
            )

    @property
    def slots(self) -> int:
        """Tiles that the buffer holds at a time."""
        return 2 if self.double else 1

    @property
    def tile_bytes(self) -> int:
        """Bytes that one tile may take."""
        return self.capacity_bytes // self.slots


class Buffer:
    """The slots of one buffer: taken in the order of asking, freed by the last user."""

    def __init__(self, env, spec: BufferSpec):
        self._env = env
        self._waiting: deque = deque()
        self.free = spec.slots

    def take(self):
        """Process step: wait until a slot is free and hold it."""
        if self.free:
            self.free -= 1
            return
        turn = self._env.event()
        self._waiting.append(turn)
        yield turn

    def give(self) -> None:
        """Give a slot back; the longest waiting process gets it."""
        if self._waiting:
            self._waiting.popleft().succeed()
        else:
            self.free += 1
