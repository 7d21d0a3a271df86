"""Passes of the vector unit, cut over samples, bands of rows, or words."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt

from accsim.dataflow.base import Dataflow
from accsim.dataflow.planner import too_small
from accsim.dataflow.tile import (
    Operand,
    Piece,
    Plan,
    Tally,
    Tensor,
    Tile,
    Transfer,
    Weights,
    largest_slots,
)
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.buffer import BufferSpec
from accsim.units import ceil_div

TILES_AT_LEAST = 4  # cut so fine that load, compute and store of one operation overlap


def require(label: str, name: str, buffer: BufferSpec, needed_bytes: int) -> None:
    """Raise ValueError where `buffer` cannot hold the smallest tile of the pass `label`."""
    if needed_bytes > buffer.tile_bytes:
        raise ValueError(too_small(label, name, buffer, needed_bytes))


def cut(samples: int, rows: int, fits: Callable[[int, int], bool]) -> tuple[Piece, ...]:
    """Pieces of `samples` maps of `rows` rows, each so large that ``fits(samples, rows)`` holds.

    A fourth of the samples at most. Empty where not even one row fits.
    """
    group = ceil_div(samples, TILES_AT_LEAST)
    while group and not fits(group, rows):
        group -= 1
    if group:
        return tuple(
            Piece(first, min(group, samples - first), 0, rows, rows)
            for first in range(0, samples, group)
        )
    band = rows - 1
    while band and not fits(1, band):
        band -= 1
    if not band:
        return ()
    return tuple(
        Piece(sample, 1, first, min(band, rows - first), rows)
        for sample in range(samples)
        for first in range(0, rows, band)
    )


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One pass of the vector unit over maps, sample by sample, row by row."""

    label: str
    chain: tuple[str, ...]  # steps of the vector unit, one after the other
    samples: int
    rows: int  # of the smallest map: bands are cut along it
    words: int  # of one sample
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    parameters: Weights = field(default_factory=lambda: Weights((), ()))  # into the registers

    def plan(self, machine: AcceleratorSpec, dataflow: Dataflow) -> Plan:
        """Tiles over samples. Raises ValueError naming the buffer that cannot hold one row."""
        buffers, unit = machine.buffers, machine.vector_unit
        streamed = [operand for operand in self.reads if not operand.on_chip]
        stored = [operand for operand in self.writes if not operand.on_chip]
        read_bytes = sum(operand.tensor.sample_bytes for operand in streamed)
        write_bytes = sum(operand.tensor.sample_bytes for operand in stored)
        require(self.label, "input", buffers.input, ceil_div(read_bytes, self.rows))
        require(self.label, "output", buffers.output, ceil_div(write_bytes, self.rows))

        def fits(samples: int, rows: int) -> bool:
            return (
                samples * ceil_div(read_bytes * rows, self.rows) <= buffers.input.tile_bytes
                and samples * ceil_div(write_bytes * rows, self.rows) <= buffers.output.tile_bytes
            )

        tally = Tally()
        tiles: list[Tile] = []
        parameters, early, blended = self.parameters.slice(False, 0, 1, 1, "input")
        for piece in cut(self.samples, self.rows, fits):
            loads = [] if tiles else list(parameters)
            needs: list[tuple[Tensor, int]] = []
            stores: list[Transfer] = []
            makes: list[tuple[Tensor, int]] = []
            used = made = 0
            for operand in self.reads:
                low, high = piece.span(operand.tensor.sample_bytes)
                used += high - low
                needed = operand.needs_bytes(high)
                if operand.on_chip:
                    needs.append((operand.tensor, needed))
                elif high > low:
                    loads.append(Transfer(operand.tensor, low, high - low, needed))
            for operand in self.writes:
                low, high = piece.span(operand.tensor.sample_bytes)
                made += high - low
                if operand.on_chip:
                    makes.append((operand.tensor, high - low))
                elif high > low:
                    stores.append(Transfer(operand.tensor, low, high - low))
            low, high = piece.span(self.words)
            early_stores = () if tiles else early
            tally.add(loads, early_stores, stores)
            tiles.append(
                Tile(
                    cycles=unit.cycles(self.chain, high - low),
                    vector_operations=unit.operations(self.chain, high - low)
                    + (0 if tiles else blended),
                    buffer_read_bytes=used + sum(t.size_bytes for t in (*stores, *early_stores)),
                    buffer_write_bytes=made + sum(t.size_bytes for t in loads),
                    loads=tuple(loads),
                    stores=tuple(stores),
                    early_stores=early_stores,
                    needs=tuple(needs),
                    makes=tuple(makes),
                    fills=("input",) if streamed else (),
                    opens=("output",) if stores else (),
                    frees=("input",) if streamed else (),
                    drains=("output",) if stores else (),
                )
            )
        return tally.plan(tiles, largest_slots(tiles, parameters))


@dataclass(frozen=True, kw_only=True)
class WordSweep:
    """One pass of the vector unit over words, every operand in proportion: loss, update, ema.

    Several tiles share a slot of a buffer: the reads run ahead by as much as its slots hold, while
    the unit starts as soon as the first run of each operand is there.
    """

    label: str
    chain: tuple[str, ...]
    words: int
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    gradient: Operand | None = None  # read on chip; its slot is given back at the end

    def plan(self, machine: AcceleratorSpec, dataflow: Dataflow) -> Plan:
        """Tiles over words. Raises ValueError naming the buffer that cannot hold a few words."""
        buffers, unit = machine.buffers, machine.vector_unit
        read_bytes = sum(o.size_bytes for o in self.reads if not o.on_chip)
        write_bytes = sum(o.size_bytes for o in self.writes if not o.on_chip)
        read_more, write_more = (  # a tile's share may end within a sample that travels whole
            sum(o.tensor.sample_bytes for o in side if o.places)
            for side in (self.reads, self.writes)
        )
        grain = machine.dram.burst_bytes  # in words: then every word size keeps to whole bursts

        def share(size_bytes: int, words: int) -> int:
            return ceil_div(size_bytes * words, self.words)

        smallest = min(grain, self.words)
        require(self.label, "input", buffers.input, share(read_bytes, smallest) + read_more)
        require(self.label, "output", buffers.output, share(write_bytes, smallest) + write_more)
        chunk = ceil_div(self._tile_words(machine, dataflow), grain) * grain
        at_least = 1 if dataflow.run_bytes else TILES_AT_LEAST

        def sharing() -> int:
            """How many tiles share a slot."""
            tile = min(chunk, self.words)
            return min(
                (buffer.tile_bytes - more) // max(share(size, tile), 1)
                for buffer, size, more in (
                    (buffers.input, read_bytes, read_more),
                    (buffers.output, write_bytes, write_more),
                )
            )

        while chunk > grain and sharing() < at_least:
            chunk = ceil_div(chunk // 2, grain) * grain
        together = sharing()
        tally = Tally()
        tiles: list[Tile] = []
        for number, first in enumerate(range(0, self.words, chunk)):
            end = min(first + chunk, self.words)
            begins = number % together == 0
            ends = (number + 1) % together == 0 or end == self.words
            loads: list[Transfer] = []
            stores: list[Transfer] = []
            needs: list[tuple[Tensor, int]] = []
            makes: list[tuple[Tensor, int]] = []
            used = made = 0
            gradients = (self.gradient,) if self.gradient else ()
            for operand in (*self.reads, *gradients):
                size = operand.size_bytes
                low, high = size * first // self.words, size * end // self.words
                used += high - low
                if operand.on_chip:
                    needs.append((operand.tensor, operand.needs_bytes(size)))
                else:
                    loads += operand.runs(low, high, operand.needs_bytes(size))
            for operand in self.writes:
                size = operand.size_bytes
                low, high = size * first // self.words, size * end // self.words
                made += high - low
                if operand.on_chip:
                    makes.append((operand.tensor, high - low))
                else:
                    stores += operand.runs(low, high)
            tally.add(loads, (), stores)
            given = ("gradient",) if self.gradient and end == self.words else ()
            tiles.append(
                Tile(
                    cycles=unit.cycles(self.chain, end - first),
                    vector_operations=unit.operations(self.chain, end - first),
                    buffer_read_bytes=used + sum(t.size_bytes for t in stores),
                    buffer_write_bytes=made + sum(t.size_bytes for t in loads),
                    loads=tuple(loads),
                    stores=tuple(stores),
                    needs=tuple(needs),
                    makes=tuple(makes),
                    fills=("input",) if read_bytes and begins else (),
                    opens=("output",) if write_bytes and begins else (),
                    frees=(*(("input",) if read_bytes and ends else ()), *given),
                    drains=("output",) if write_bytes and ends else (),
                )
            )
        return tally.plan(tiles, largest_slots(tiles, sharing=together))

    def _tile_words(self, machine: AcceleratorSpec, dataflow: Dataflow) -> int:
        """Words of a tile where no slot limits it: how long the runs are that take turns.

        Each run opens rows anew, for nRP + nRCD: many short ones do so often. The loads of the
        first tile and the stores of the last overlap with nothing: of few long ones they take a
        great part. Of n tiles the one costs n times the runs of a tile, the other an n-th of all
        that moves; the sum is least where they are equal. There are `TILES_AT_LEAST` in the pass
        and in a slot, unless the runs would be shorter than the start of the next one takes. Of
        powers of two that which is nearest is taken: such runs begin where rows begin.
        """
        most = ceil_div(self.words, TILES_AT_LEAST)
        sizes = [o.size_bytes for o in (*self.reads, *self.writes) if not o.on_chip]
        if not sizes:
            return most
        if dataflow.run_bytes is not None:
            return dataflow.run_bytes * self.words // max(sizes)
        dram, dma = machine.dram, machine.dma
        reopening_bytes = (dram.nRP + dram.nRCD) * dram.channels * dram.burst_bytes // dram.nBL
        tile_bytes = isqrt(sum(sizes) * len(sizes) * reopening_bytes)
        start_bytes = dma.startup_cycles * dma.read_bytes_per_cycle
        words = max(
            min(tile_bytes * self.words // sum(sizes), most),
            start_bytes * self.words // max(sizes),
        )
        return nearest_power_of_two(words)


def nearest_power_of_two(count: int) -> int:
    """That whose ratio to `count`, at least 1, is least: 3 gives 4, 5 gives 4, 6 gives 8."""
    return 1 << ((2 * count * count).bit_length() - 1) // 2
