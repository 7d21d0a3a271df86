"""Random bits as the vector unit makes them: one shift register per lane."""

from dataclasses import dataclass

import numpy as np
from numba import njit

from accsim.kernels.fixed_point import random_key

LEAP = 16  # steps of a register per draw: after one step, draws would share all bits but one
MAX_LANES = 1024


@dataclass(frozen=True)
class LaneRegisters:
    """Galois shift registers of 16 or 32 bits, one per lane; drawing moves them on.

    Lane ``index % lanes`` rounds word `index` of a tensor. Lanes step together: a tensor's last,
    partly filled beat moves all of them. They go on from tensor to tensor, in stream order.
    """

    states: np.ndarray  # uint32[lanes], none of them 0
    bits: int

    def __post_init__(self):
        if self.bits not in (16, 32):
            raise ValueError(f"bits of a lane register must be 16 or 32, not {self.bits}")
        if self.states.dtype != np.uint32 or not 1 <= self.states.size <= MAX_LANES:
            raise ValueError(
                f"states of lane registers must be 1 to {MAX_LANES} uint32, "
                f"not {self.states.size} {self.states.dtype}"
            )
        if not self.states.all() or int(self.states.max()) >> self.bits:
            raise ValueError(
                f"states of lane registers must be 1 to {2**self.bits - 1}, "
                f"not {self.states.min()} to {self.states.max()}"
            )

    @classmethod
    def seeded(cls, lanes: int, bits: int, seed: int) -> "LaneRegisters":
        """Registers of `lanes` lanes, each with its own start."""
        mask = (1 << bits) - 1
        starts = [random_key(seed, lane) & mask or 1 for lane in range(lanes)]
        return cls(np.array(starts, np.uint32), bits)

    def copy(self) -> "LaneRegisters":
        """Registers that draw the same from here on, and move on their own."""
        return LaneRegisters(self.states.copy(), self.bits)


@njit(cache=True, inline="always")
def taps(bits):
    """Feedback of a maximal-length register that shifts right.

    x^16 + x^14 + x^13 + x^11 + 1 and x^32 + x^22 + x^2 + x + 1. Source: P. Alfke, "Efficient Shift
    Registers, LFSR Counters, and Long Pseudo-Random Sequence Generators", Xilinx XAPP052, 1996.
    """
    return np.uint32(0x80200003) if bits == 32 else np.uint32(0xB400)


@njit(cache=True, inline="always")
def leap(state, feedback):
    """A register's state after one draw."""
    for _ in range(LEAP):
        out = np.uint32(-np.int32(state & np.uint32(1)))  # all bits of the one that falls out
        state = np.uint32(np.uint32(state >> np.uint32(1)) ^ np.uint32(feedback & out))
    return state


@njit(cache=True)
def draw(states, bits, count, out):
    """Draws of `count` words that stream through: uint32[uses, count or more] in `out`.

    A word draws once per use, in the order of the rows; `states` is what `LaneRegisters` holds.
    """
    feedback = taps(bits)
    lanes = len(states)
    for first in range(0, count, lanes):
        for use in range(len(out)):
            for lane in range(min(lanes, count - first)):
                out[use, first + lane] = states[lane]
            for lane in range(lanes):
                states[lane] = leap(states[lane], feedback)
