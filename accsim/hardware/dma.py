"""DMA engines: one reads DDR into buffers, one writes buffers back; both walk lists in order."""

from collections import deque
from dataclasses import dataclass

from accsim.hardware.occupancy import Occupancy
from accsim.units import ceil_div


@dataclass(frozen=True)
class DmaSpec:
    """Two engines, one for each direction, each with its own port.

    A transfer waits `startup_cycles` for its descriptor, which overlaps the transfers before it
    while fewer than `outstanding` are in flight. EF-Train (Tang et al., TODAES 2022) charges 400
    cycles at 100 MHz for a transfer that software starts; a descriptor list in hardware needs tens.

    Raises ValueError for a count below 1 (0 for startup_cycles).
    """

    read_bytes_per_cycle: int
    write_bytes_per_cycle: int
    startup_cycles: int = 40
    outstanding: int = 4  # transfers in flight
    weight_channel: bool = False  # what fills the weight buffer has a read engine of its own
    prefetch: bool = True  # False: loads do not run ahead of a product's innermost loop

    def __post_init__(self):
        for name in ("read_bytes_per_cycle", "write_bytes_per_cycle", "outstanding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the DMA must be at least 1, not {getattr(self, name)}")
        if self.startup_cycles < 0:
            raise ValueError(
                f"startup_cycles of the DMA must be 0 or more, not {self.startup_cycles}"
            )


def bursts(address: int, size_bytes: int, burst_bytes: int) -> int:
    """DDR bursts of `burst_bytes` that touch the `size_bytes` bytes from `address` on."""
    return (address + size_bytes - 1) // burst_bytes - address // burst_bytes + 1


class DmaEngine:
    """One direction: issues transfers in order, at its own rate; counts bytes and bursts.

    Its time is busy while a transfer starts or is in flight, else whatever cause its walker names
    with `wait_for`.
    """

    def __init__(self, env, spec: DmaSpec, period_ps: int, dram, burst_bytes: int, is_write: bool):
        self._env = env
        self._dram = dram
        self._burst_bytes = burst_bytes
        self._is_write = is_write
        bytes_per_cycle = spec.write_bytes_per_cycle if is_write else spec.read_bytes_per_cycle
        self._startup_ps = spec.startup_cycles * period_ps
        self._outstanding = spec.outstanding
        self._interval_ps = ceil_div(burst_bytes * period_ps, bytes_per_cycle)
        self._in_flight: deque = deque()
        self._free_ps = 0  # when the request port has sent the last burst of the transfer before
        self._room = None  # the event of a transfer that waits for one in flight to end
        self._starting = False
        self._cause = "idle"
        self.occupancy = Occupancy(env)
        self.size_bytes = 0
        self.bursts = 0

    def wait_for(self, cause: str) -> None:
        """Name the cause of the time from now on in which no transfer is in flight."""
        self._cause = cause
        if not self._in_flight:
            self.occupancy.enter(cause)

    def transfer(self, address: int, size_bytes: int, done):
        """Process step: issue one transfer; `done()` is called when it and all before it ended.

        Responses come in the order of issue, as on an AXI port with one transaction ID.
        """
        if not self._in_flight:
            self.occupancy.enter("busy")
        if len(self._in_flight) == self._outstanding:
            self._room = self._env.event()
            yield self._room
        start_ps = max(self._env.now + self._startup_ps, self._free_ps)
        self._starting = True
        if start_ps > self._env.now:
            yield self._env.timeout(start_ps - self._env.now)
        self._starting = False
        count = bursts(address, size_bytes, self._burst_bytes)
        self._free_ps = start_ps + count * self._interval_ps
        event = self._dram.transfer(address, size_bytes, self._is_write, self._interval_ps)
        self._in_flight.append((event, done))
        event.callbacks.append(self._finish)
        self.size_bytes += size_bytes
        self.bursts += count

    def _finish(self, _event) -> None:
        while self._in_flight and self._in_flight[0][0].processed:
            _, done = self._in_flight.popleft()
            done()
            if self._room is not None:
                self._room.succeed()
                self._room, self._starting = None, True
        if not self._in_flight and not self._starting:
            self.occupancy.enter(self._cause)
