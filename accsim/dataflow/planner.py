"""What tilings cost: cycles estimated, DDR bytes counted, and the choice between them."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod

from accsim.dataflow.base import Dataflow, FixedTiling, Gemm
from accsim.dataflow.tiling import Nest, Tiling, candidates, trips
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.buffer import BufferSpec
from accsim.hardware.pe_array import PEArraySpec
from accsim.units import PS_PER_SECOND, ceil_div

SIGNIFICANT_BITS = 8  # of an estimate: it leaves out refresh, contention and neighbours


@dataclass(frozen=True, order=True)
class Cost:
    """What a tiling is chosen by: the first that is smaller decides."""

    cycles: int  # to `SIGNIFICANT_BITS`
    ddr_bytes: int
    exact_cycles: int


@lru_cache(maxsize=64)
def planner(machine: AcceleratorSpec, dataflow: Dataflow) -> "Planner":
    """The one planner of a machine and a dataflow; it remembers."""
    return Planner(machine, dataflow)


class Planner:
    """What tilings need and cost on one machine."""

    def __init__(self, machine: AcceleratorSpec, dataflow: Dataflow):
        self.machine = machine
        self.dataflow = dataflow
        self._parts: dict[Gemm, tuple[int, PEArraySpec]] = {}
        self._chosen: dict[tuple[Nest, FixedTiling], Tiling] = {}
        dram, dma = machine.dram, machine.dma
        self._ddr_rate = dram.peak_bytes_per_second * machine.period_ps / PS_PER_SECOND
        self._read_rate = min(dma.read_bytes_per_cycle, self._ddr_rate)
        self._write_rate = min(dma.write_bytes_per_cycle, self._ddr_rate)

    def choose(self, nest: Nest) -> Tiling:
        """The tiling of `nest` that is estimated fastest; of equals that which moves fewer bytes.

        The tilings tried depend on the product alone, so a machine with more of anything has every
        choice that a smaller one has. Raises ValueError naming the buffer that no tiling fits.
        """
        key = nest, self.dataflow.fixed(nest.label)
        if key not in self._chosen:
            self._chosen[key] = self._search(*key)
        return self._chosen[key]

    def _search(self, nest: Nest, fixed: FixedTiling) -> Tiling:
        tilings = list(candidates(nest, fixed))
        if not tilings:
            raise ValueError(
                f"tiling of {nest.label} must be one that its loops allow, not {fixed}; samples "
                f"above 1 want all {nest.rows} rows, and sums are whole before they leave"
            )
        best: tuple[Cost, Tiling] | None = None
        compute: dict[tuple[int, ...], int] = {}
        for tiling in tilings:
            if not self._fits(nest, tiling):
                continue
            sizes = tiling.samples, tiling.rows, tiling.outputs, tiling.inputs
            if sizes not in compute:
                gemms = self._gemms(nest, tiling)
                least = sum(count * self._least_cycles(gemm) for gemm, count in gemms)
                if not best or least <= best[0].cycles:
                    least = self._compute_cycles(gemms)
                compute[sizes] = least
            if best and compute[sizes] > best[0].cycles:
                continue
            found = self._estimate(nest, tiling, compute[sizes]), tiling
            best = min(best, found) if best else found
        if best is None:
            raise ValueError(self._refusal(nest, tilings))
        return best[1]

    def cycles(self, gemm: Gemm) -> int:
        """Cycles of one tile on its part of the PE array."""
        return self._fastest(gemm)[0]

    def part(self, gemm: Gemm) -> PEArraySpec:
        """The part of the PE array that is fastest for one tile."""
        return self._fastest(gemm)[1]

    def _fastest(self, gemm: Gemm) -> tuple[int, PEArraySpec]:
        if gemm not in self._parts:
            array = self.machine.pe_array
            parts = parts_of(array, self.dataflow.sides(gemm)) if array.parts else [array]
            timed = [(self._cycles_on(part, gemm), part) for part in parts]
            self._parts[gemm] = min(timed, key=lambda pair: pair[0])
        return self._parts[gemm]

    def _cycles_on(self, array: PEArraySpec, gemm: Gemm) -> int:
        """Cycles of the array, or of its buffers' ports where they are slower."""
        accesses, buffers = self.dataflow.accesses(array, gemm), self.machine.buffers
        results = self._buffer("gradient" if gemm.of_weights else "output")
        return max(
            self.dataflow.cycles(array, gemm),
            ceil_div(accesses.input_read_bytes, buffers.input.bytes_per_cycle),
            ceil_div(accesses.weight_read_bytes, buffers.weight.bytes_per_cycle),
            ceil_div(accesses.output_read_bytes, results.bytes_per_cycle),
            ceil_div(accesses.output_write_bytes, results.bytes_per_cycle),
        )

    def _fits(self, nest: Nest, tiling: Tiling) -> bool:
        needs = self.needs_bytes(nest, tiling).items()
        return all(size <= self._buffer(name).tile_bytes for name, size in needs)

    def needs_bytes(self, nest: Nest, tiling: Tiling) -> dict[str, int]:
        """Bytes of one tile in every buffer that a tiling uses."""
        whole_rows = tiling.rows == nest.rows
        groups = max(1, tiling.outputs // nest.channels_of_a_group)  # each reads its own inputs
        source = nest.source_bytes if whole_rows else nest.band_bytes(tiling.rows)
        source = ceil_div(
            tiling.samples * source * tiling.inputs * groups, nest.inputs * nest.groups
        )
        pixels = tiling.samples * tiling.rows * nest.width
        kept = max(tiling.held, tiling.outputs)
        needs = {} if nest.source_on_chip else {"input": source}
        if nest.of_weights:
            error = tiling.samples * ceil_div(
                nest.map_bytes * tiling.rows * tiling.outputs, nest.rows * nest.outputs
            )
            if not nest.map_on_chip:
                needs["weight"] = error
            sums = nest.window.taps * nest.sum_bytes
            if not nest.gradient_bytes:
                needs["gradient"] = nest.outputs * nest.inputs * sums
            elif tiling.held:
                needs["gradient"] = kept * nest.inputs * sums
            else:
                needs["gradient"] = tiling.outputs * tiling.inputs * sums
            return needs
        depth = nest.inputs if tiling.held else tiling.inputs
        needs["weight"] = kept * depth * nest.window.taps * self.machine.pe_array.operand_bytes
        word = nest.sum_bytes
        if tiling.inputs == nest.inputs:
            depth = nest.inputs * nest.window.taps
            word = self.dataflow.output_word_bytes(self.machine.pe_array, depth)
        needs["output"] = pixels * tiling.outputs * word
        return needs

    def _refusal(self, nest: Nest, tilings: list[Tiling]) -> str:
        """One sentence on the buffer that even the tiling that lacks least overflows."""

        def shortage(tiling: Tiling) -> tuple[float, str, int]:
            needs = self.needs_bytes(nest, tiling).items()
            return max((size / self._buffer(name).tile_bytes, name, size) for name, size in needs)

        _, name, size = min(map(shortage, tilings))
        return too_small(nest.label, name, self._buffer(name), size)

    def _buffer(self, name: str) -> BufferSpec:
        return getattr(self.machine.buffers, name)

    def estimate(self, nest: Nest, tiling: Tiling) -> Cost:
        """Cycles that the loops take, to eight significant bits, and DDR bytes that they move."""
        return self._estimate(nest, tiling, self._compute_cycles(self._gemms(nest, tiling)))

    def _estimate(self, nest: Nest, tiling: Tiling, compute: int) -> Cost:
        """Cycles of the loops and DDR bytes that they move.

        A tile takes the longer of its product and the loads of the next one; loads into a buffer
        of one slot, and those behind a loop that the DMA does not look past, come before it, and
        so do stores from one slot. The first load and the last store stand alone. Never faster
        than reads, writes, or the DDR.
        """
        loops = trips(nest, tiling)
        streams = self._streams(nest, tiling, loops)
        levels = [name for name, count in loops.items() if count > 1]
        product = compute / prod(loops.values())
        serial, beside = self._load_cycles(streams)
        cycles = serial + beside + product
        begun = 1
        for position, name in enumerate(levels):
            moved = frozenset(levels[position:])
            serial, beside = self._load_cycles([s for s in streams if s.loops & moved])
            ahead = self.machine.dma.prefetch or name == tiling.order[-1]
            busy = max(beside, product) if ahead else beside + product
            cycles += (loops[name] - 1) * begun * (serial + busy)
            begun *= loops[name]
        read = {
            stream.channel: sum(
                _times(other, loops) * other.cycles
                for other in streams
                if other.channel == stream.channel
            )
            for stream in streams
        }
        stores, stored = self._stores(nest, loops)
        write = stored / self._write_rate
        if self._buffer("gradient" if nest.of_weights else "output").slots == 1:
            cycles += write * (stores - 1) / stores  # the next sums wait until these have left
        once: float = nest.weight_bytes - nest.weight_again_bytes if not tiling.held else 0
        moved_bytes = stored + once + sum(_times(stream, loops) * stream.size for stream in streams)
        slowest = max(cycles, write, moved_bytes / self._ddr_rate, *read.values())
        last = ceil(slowest + write / stores)
        return Cost(_rounded(last), ceil(moved_bytes), last)

    def _gemms(self, nest: Nest, tiling: Tiling) -> list[tuple[Gemm, int]]:
        """The products of all tiles, edges as they are, each with how often it is made."""
        widths = Counter(end - first for first, end in nest.blocks(tiling.outputs))
        return [
            (nest.gemm(samples * rows * nest.width, width, inputs), s * r * w * i)
            for samples, s in _runs(nest.samples, tiling.samples)
            for rows, r in _runs(nest.rows, tiling.rows)
            for width, w in widths.items()
            for inputs, i in _runs(nest.inputs, tiling.inputs)
        ]

    def _compute_cycles(self, gemms: list[tuple[Gemm, int]]) -> int:
        return sum(count * self.cycles(gemm) for gemm, count in gemms)

    def _least_cycles(self, gemm: Gemm) -> int:
        """Cycles that no part of the array is below: as few folds as can be, of one stream each."""
        *_, stream = self.dataflow.sides(gemm)
        return self.dataflow.folds(self.machine.pe_array, gemm) * stream

    def _streams(self, nest: Nest, tiling: Tiling, loops: dict[str, int]) -> list["_Stream"]:
        """What is loaded, and with which loops."""
        pieces = loops["samples"] * loops["rows"]
        blocks = loops["held"] * loops["outputs"]
        streams = []
        if not nest.source_on_chip:
            size = nest.samples * nest.swept_bytes(tiling.rows) / (pieces * loops["inputs"])
            names = {"samples", "rows", "inputs"}
            if nest.groups > 1:
                size /= blocks
                names |= {"held", "outputs"}
            streams.append(self._stream("input", names, size))
        if nest.of_weights:
            if not nest.map_on_chip:
                size = nest.samples * nest.map_bytes / (pieces * blocks)
                names = {"held", "samples", "rows", "outputs"}
                streams.append(self._stream("weight", names, size))
        elif tiling.held and nest.weight_bytes:
            streams.append(self._stream("weight", {"held"}, nest.weight_bytes / loops["held"]))
        elif nest.weight_bytes:
            size = nest.weight_again_bytes / (blocks * loops["inputs"])
            streams.append(self._stream("weight", {"outputs", "inputs"}, size))
        return streams

    def _stream(self, buffer: str, loops: set[str], size: float) -> "_Stream":
        dma, burst = self.machine.dma, self.machine.dram.burst_bytes
        touched = size if size % burst == 0 else size + burst - 1  # whole bursts, on average
        transfer = touched / self._read_rate
        if dma.outstanding == 1:
            cycles = dma.startup_cycles + transfer
        else:  # a descriptor is fetched while the transfer before it is under way
            cycles = max(dma.startup_cycles, transfer)
        channel = buffer if dma.weight_channel else "all"
        single = self._buffer(buffer).slots == 1
        return _Stream(channel, single, frozenset(loops), size, cycles)

    def _load_cycles(self, streams: list["_Stream"]) -> tuple[float, float]:
        """Cycles of one load of each of `streams`: before the product, and beside another."""
        serial, beside = (
            [
                sum(s.cycles for s in streams if s.channel == channel and s.single == single)
                for channel in {stream.channel for stream in streams}
            ]
            for single in (True, False)
        )
        return max(serial, default=0.0), max(beside, default=0.0)

    def _stores(self, nest: Nest, loops: dict[str, int]) -> tuple[int, int]:
        """Stores of the whole product, and their bytes."""
        blocks = loops["held"] * loops["outputs"]
        if nest.of_weights:
            words = nest.outputs * nest.inputs * nest.window.taps
            return blocks * loops["inputs"], words * nest.gradient_bytes
        pieces = loops["samples"] * loops["rows"]
        return blocks * pieces, 0 if nest.map_on_chip else nest.samples * nest.map_bytes


def too_small(label: str, name: str, buffer: BufferSpec, needed_bytes: int) -> str:
    """One sentence on a `buffer` that cannot hold the smallest tile of the pass `label`."""
    share = f" (1 of its {buffer.slots} slots)" if buffer.slots > 1 else ""
    return (
        f"{name} buffer must hold one tile of {label}, {needed_bytes} bytes, "
        f"not {buffer.tile_bytes}{share}; enlarge it or narrow the layer"
    )


@dataclass(frozen=True, slots=True)
class _Stream:
    """An operand on its way in: loaded whenever one of its loops moves on."""

    channel: str  # of the DMA
    single: bool  # into a buffer of one slot
    loops: frozenset[str]
    size: float  # bytes of one load
    cycles: float  # ... and its time


def _rounded(cycles: int) -> int:
    """`cycles` rounded up to `SIGNIFICANT_BITS`, beyond which an estimate says nothing."""
    grain = 1 << max(cycles.bit_length() - SIGNIFICANT_BITS, 0)
    return ceil_div(cycles, grain) * grain


def _times(stream: _Stream, loops: dict[str, int]) -> int:
    """How often `stream` is loaded: once for every round of its innermost loop that moves."""
    count = times = 1
    for name, rounds in loops.items():
        count *= rounds
        if name in stream.loops and rounds > 1:
            times = count
    return times


def _runs(extent: int, size: int) -> list[tuple[int, int]]:
    """Sizes of the tiles of `extent`, each with how many there are."""
    whole, rest = divmod(extent, size)
    return [(size, whole)] * (whole > 0) + [(rest, 1)] * (rest > 0)


def parts_of(array: PEArraySpec, sides: tuple[int, int, int]) -> list[PEArraySpec]:
    """Parts of `array` that may be faster than others for a product of `sides`.

    As few folds as the array allows are best, of as few rows and columns as they need: more folds
    cost a stream each. Only where a stream is shorter than a side can shorter skews be worth it. A
    column less saves one cycle, once or without overlap in every fold.
    """

    def sizes(side: int, most: int, stream: int) -> list[int]:
        balanced = ceil_div(side, ceil_div(side, most))
        shorter = {ceil_div(side, ceil_div(side, size)) for size in range(stream, balanced)}
        return sorted({balanced} | shorter, reverse=True)

    down, across, stream = sides
    parts = []
    for rows in sizes(down, array.rows, stream):
        folds, (widest, *narrower) = ceil_div(down, rows), sizes(across, array.columns, stream)
        parts.append(replace(array, rows=rows, columns=widest))
        for columns in narrower:
            more = folds * (ceil_div(across, columns) - ceil_div(across, widest))
            skews = 1 if array.overlap else folds * ceil_div(across, widest)
            if more * stream < (widest - columns) * skews:
                parts.append(replace(array, rows=rows, columns=columns))
    return parts
