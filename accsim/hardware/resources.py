"""What a configuration takes of its device, part by part, and whether the board has it."""

from dataclasses import dataclass, fields
from itertools import product
from math import inf
from typing import TYPE_CHECKING

from accsim.hardware.buffer import BufferSpec, Memory

if TYPE_CHECKING:
    from accsim.hardware.accelerator import AcceleratorSpec

FIFO_WORDS = 512  # the depth of a block RAM 72 bits wide: the data that one DMA engine holds

ADVICE = {
    "dsp_slices": ("DSP slices", "fewer rows, columns or lanes"),
    "luts": ("LUTs", "fewer rows, columns or lanes"),
    "flip_flops": ("flip-flops", "fewer rows, columns or lanes"),
    "bram36": ("BRAM36 blocks", "smaller buffers or fewer banks"),
    "uram": ("URAM blocks", "smaller buffers or fewer banks"),
}


@dataclass(frozen=True)
class Resources:
    """Primitives of a device."""

    dsp_slices: int = 0
    luts: int = 0
    flip_flops: int = 0
    bram36: int = 0
    uram: int = 0

    def __add__(self, other: "Resources") -> "Resources":
        names = [field.name for field in fields(self)]
        return Resources(*(getattr(self, name) + getattr(other, name) for name in names))


def resources(accelerator: "AcceleratorSpec") -> dict[str, Resources]:
    """Resources by part: PE array, vector unit, each buffer, DMA.

    One DSP slice is one PE or one vector lane. The memory controller is hard (processor system).
    """
    buffers = accelerator.buffers.by_name
    return {
        "pe_array": Resources(dsp_slices=accelerator.pe_array.macs_per_cycle),
        "vector_unit": Resources(dsp_slices=accelerator.vector_unit.lanes),
        **{
            f"{name} buffer": _of_buffer(buffers[name], memory)
            for name, memory in placement(accelerator).items()
        },
        "dma": _dma_fifos(accelerator),
    }


def placement(accelerator: "AcceleratorSpec") -> dict[str, Memory]:
    """The memory of each buffer: of all ways, the one that leaves the board most room.

    Room is what the fullest kind of memory has left, as a share of it.
    """
    board, buffers = accelerator.board, accelerator.buffers.by_name
    fifos = _dma_fifos(accelerator)

    def fullest(memories) -> tuple[float, int, int]:
        parts = map(_of_buffer, buffers.values(), memories)
        used = sum(parts, start=fifos)
        uram_share = used.uram / board.uram if board.uram else inf if used.uram else 0
        share = max(used.bram36 / board.bram36, uram_share, used.luts / board.luts)
        return share, used.bram36, used.uram

    ways = product(*(buffer.memories for buffer in buffers.values()))
    return dict(zip(buffers, min(ways, key=fullest), strict=True))


def check(accelerator: "AcceleratorSpec") -> None:
    """Raise ValueError where the board has less of a resource than the accelerator needs."""
    needed = sum(resources(accelerator).values(), start=Resources())
    for name, (label, remedy) in ADVICE.items():
        need, have = getattr(needed, name), getattr(accelerator.board, name)
        if need > have:
            raise ValueError(
                f"{label} of the machine must be at most the {have} of {accelerator.board.name}, "
                f"not {need}; use {remedy}, or set check_board=False"
            )


def _of_buffer(buffer: BufferSpec, memory: Memory) -> Resources:
    blocks = buffer.blocks(memory)
    kinds = {Memory.LUT: "luts", Memory.BRAM: "bram36", Memory.URAM: "uram"}
    return Resources(**{kinds[memory]: blocks})


def _dma_fifos(accelerator: "AcceleratorSpec") -> Resources:
    """A FIFO in block RAM for each DMA engine, as wide as a cycle's bytes."""
    rates = accelerator.dma.read_bytes_per_cycle, accelerator.dma.write_bytes_per_cycle
    fifos = (BufferSpec(FIFO_WORDS * rate, 1, 1, 8 * rate, ports=1) for rate in rates)
    return sum((_of_buffer(fifo, Memory.BRAM) for fifo in fifos), start=Resources())
