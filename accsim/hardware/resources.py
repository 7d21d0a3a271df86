"""What a configuration takes of its device, part by part, and whether the board has it.

Blocks of memory follow from the device's shapes. DSP slices, LUTs and flip-flops are sums of a few
terms whose weights were fitted to what yosys makes of the register-transfer code in ``tests/rtl``
(`tests/golden/yosys.csv`, written by `tests/rtl/synthesise.py`); the fit is repeated, and its error
stated, in `tests/hardware/test_resources.py`. They are estimates: the DMA's control, the
vector unit's tables, registers of deeper pipelines and what placement adds are not in them; arrays
are those that can work on a part, and take fewer LUTs without. The sums that wait beside a
weight-stationary array lie in the output buffer. The memory controller is hard (processor system).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from math import inf
from typing import Protocol

from accsim.hardware.board import BoardSpec
from accsim.hardware.buffer import BufferSpec, Memory
from accsim.hardware.dma import DmaSpec
from accsim.hardware.part import Whole
from accsim.hardware.pe_array import PEArraySpec
from accsim.hardware.vector_unit import VectorUnitSpec
from accsim.units import ceil_div

FIFO_WORDS = 512  # the depth of a block RAM 72 bits wide: the data that one DMA engine holds
PACKED_MAC_LUTS = 40  # the sum that leaves the slice, and what parts the two products: AMD WP486

ADVICE = {
    "dsp_slices": ("DSP slices", "fewer rows, columns or lanes, or dsp_packing"),
    "luts": ("LUTs", "fewer rows, columns or lanes"),
    "flip_flops": ("flip-flops", "fewer rows, columns or lanes"),
    "bram36": ("BRAM36 blocks", "smaller buffers or fewer banks"),
    "uram": ("URAM blocks", "smaller buffers or fewer banks"),
}


class Machine(Protocol):
    """What resources are counted of: an accelerator, by its parts."""

    @property
    def board(self) -> BoardSpec: ...

    @property
    def parts(self) -> Mapping[str, Whole]: ...


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


@dataclass(frozen=True)
class Fit:
    """Weights of `lut_terms` and of `flip_flop_terms`."""

    luts: tuple[float, ...]
    flip_flops: tuple[float, ...]


OUTPUT_STATIONARY = Fit((1.51, 6.26, 0.3, 247), (1.09, 1.27, 1.18, 0.27, 222))
WEIGHT_STATIONARY = Fit((0.484, 8.59, 0.241, 402), (0.0, 1.56, 1.2, 3.8, 290))
# of the vector unit: words and lengths, and a lane that updates and averages words of 16 bits
CONTROL = Resources(luts=245, flip_flops=77)
LANE = Resources(dsp_slices=7, luts=2040, flip_flops=447)


def resources(accelerator: Machine) -> dict[str, Resources]:
    """Resources by part: PE array, vector unit, each buffer, DMA; by owner where there are two."""
    found = {}
    memories = placement(accelerator)
    for owner, part in accelerator.parts.items():
        whose = f"{owner}'s " if owner else ""
        found[f"{whose}PE array"] = _of_array(part.pe_array)
        found[f"{whose}vector unit"] = _of_vector_unit(part.vector_unit, part.pe_array)
        for name, buffer in part.buffers.by_name.items():
            found[f"{whose}{name} buffer"] = _of_buffer(buffer, memories[owner, name])
        found[f"{whose}DMA"] = _dma_fifos(part.dma)
    return found


def check(accelerator: Machine) -> None:
    """Raise ValueError where the board has less of a resource than the accelerator needs."""
    needed = sum(resources(accelerator).values(), start=Resources())
    for name, (label, remedy) in ADVICE.items():
        need, have = getattr(needed, name), getattr(accelerator.board, name)
        if need > have:
            raise ValueError(
                f"{label} of the machine must be at most the {have} of {accelerator.board.name}, "
                f"not {need}; use {remedy}, or set check_board=False"
            )


def placement(accelerator: Machine) -> dict[tuple[str, str], Memory]:
    """The memory of each owner's buffers: of all ways, the one that leaves the board most room.

    Room is what the fullest kind of memory has left, as a share of it.
    """
    board, parts = accelerator.board, accelerator.parts
    buffers = {
        (owner, name): buffer
        for owner, part in parts.items()
        for name, buffer in part.buffers.by_name.items()
    }
    fifos = sum((_dma_fifos(part.dma) for part in parts.values()), start=Resources())

    def fullest(memories) -> tuple[float, int, int]:
        used = sum(map(_of_buffer, buffers.values(), memories), start=fifos)
        uram_share = used.uram / board.uram if board.uram else inf if used.uram else 0
        share = max(used.bram36 / board.bram36, uram_share, used.luts / board.luts)
        return share, used.bram36, used.uram

    ways = product(*(buffer.memories for buffer in buffers.values()))
    return dict(zip(buffers, min(ways, key=fullest), strict=True))


def lut_terms(array: PEArraySpec) -> tuple[int, ...]:
    """What takes LUTs: bits of the PEs' sums, of a row of sums, of their skew, the sequencer.

    A part of the array can work alone, so each row can be the one that a column's sums leave, and
    each length of skew the one that makes a row of them: both are multiplexers.
    """
    row = array.columns * array.accumulator_bits
    return array.rows * row, row, (array.columns - 1) * row // 2, 1


def flip_flop_terms(array: PEArraySpec) -> tuple[int, ...]:
    """What takes flip-flops: bits of PEs' sums, operands, skew, a row of sums; the sequencer.

    Operands of row r come r cycles later, those of column c and its sums c cycles: triangles.
    """
    rows, columns = array.rows, array.columns
    down, across = rows * (rows - 1) // 2, columns * (columns - 1) // 2
    return (
        rows * columns * array.accumulator_bits,
        rows * columns * array.operand_bits,
        down * array.operand_bits + across * (array.operand_bits + array.accumulator_bits),
        columns * array.accumulator_bits,
        1,
    )


def dot(weights: tuple[float, ...], terms: tuple[int, ...]) -> float:
    """Sum of products."""
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


def _of_array(array: PEArraySpec) -> Resources:
    """The dearer of the output- and the weight-stationary array: the machine may be either."""
    fits = OUTPUT_STATIONARY, WEIGHT_STATIONARY
    luts = max(dot(fit.luts, lut_terms(array)) for fit in fits)
    flip_flops = max(dot(fit.flip_flops, flip_flop_terms(array)) for fit in fits)
    macs, slices = array.macs_per_cycle, array.macs_per_cycle
    if array.dsp_packing:
        slices = ceil_div(macs, 2)
        luts += PACKED_MAC_LUTS * macs
        flip_flops += array.accumulator_bits * macs
    return Resources(slices, round(luts), round(flip_flops))


def _of_vector_unit(unit: VectorUnitSpec, array: PEArraySpec) -> Resources:
    """Lanes, and at the foot of each column a square with its sum (a slice) and a plain sum."""
    parts = [CONTROL, *[LANE] * unit.lanes]
    if unit.sums_on_arrival:
        parts += [Resources(1, array.accumulator_bits, array.accumulator_bits)] * array.columns
    return sum(parts, start=Resources())


def _of_buffer(buffer: BufferSpec, memory: Memory) -> Resources:
    blocks = buffer.blocks(memory)
    kinds = {Memory.LUT: "luts", Memory.BRAM: "bram36", Memory.URAM: "uram"}
    return Resources(**{kinds[memory]: blocks})


def _dma_fifos(dma: DmaSpec) -> Resources:
    """A FIFO in block RAM for each DMA engine, as wide as a cycle's bytes."""
    rates = dma.read_bytes_per_cycle, dma.write_bytes_per_cycle
    fifos = (BufferSpec(FIFO_WORDS * rate, 1, 1, 8 * rate, ports=1) for rate in rates)
    return sum((_of_buffer(fifo, Memory.BRAM) for fifo in fifos), start=Resources())
