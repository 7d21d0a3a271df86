"""Tilings: tile sizes and loop order of a matrix product, chosen by their estimated time.

A product runs over five loops. From outside: blocks of `held` output channels, whose weights (or
sums of weight gradients) stay on chip; then samples, bands of rows, tiles of output channels and
tiles of input channels, in an order of their own. A tile of an operand is loaded when one of its
loops moves on, so sizes and order decide what travels.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil, prod

from accsim.dataflow.base import LOOPS, Dataflow, FixedTiling, Gemm
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.buffer import BufferSpec
from accsim.hardware.pe_array import PEArraySpec
from accsim.units import PS_PER_SECOND, ceil_div

ORDERS = {  # tried for maps, and for the gradients of weights
    False: (LOOPS,),
    True: (
        LOOPS,
        ("samples", "outputs", "inputs", "rows"),
        ("outputs", "inputs", "samples", "rows"),
    ),
}
SIGNIFICANT_BITS = 8  # of an estimate: it leaves out refresh, contention and neighbours


@dataclass(frozen=True)
class Window:
    """Which source rows a band of target rows needs: a convolution, or its transpose."""

    kernel: int
    stride: int = 1
    padding: int = 0
    transposed: bool = False

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return self.kernel**2

    def rows(self, first: int, count: int, source_rows: int) -> tuple[int, int]:
        """First source row and end for the target rows ``first`` to ``first + count - 1``."""
        last = first + count - 1
        if self.transposed:
            low = ceil_div(first + self.padding - self.kernel + 1, self.stride)
            high = (last + self.padding) // self.stride + 1
        else:
            low = first * self.stride - self.padding
            high = last * self.stride - self.padding + self.kernel
        low = min(max(low, 0), source_rows)
        return low, max(low, min(high, source_rows))


@dataclass(frozen=True, order=True)
class Tiling:
    """Sizes of a tile and the order of its loops."""

    samples: int
    rows: int  # of the map whose pixels are cut: the result's; of backward_weight the error's
    outputs: int  # output channels
    inputs: int  # input channels, of one group
    held: int  # output channels that stay on chip while samples and rows pass; 0: one tile's
    order: tuple[str, ...] = LOOPS  # from outside, within a block of held channels

    def __str__(self):
        sizes = "x".join(str(getattr(self, name)) for name in LOOPS)
        return f"{sizes} held {self.held} {'>'.join(name[0] for name in self.order)}"


@dataclass(frozen=True, kw_only=True)
class Nest:
    """The loops of one product and the bytes that they move: all that its tiling depends on.

    Pixels are those of the result, or of the error in backward_weight (`of_weights`). Bytes are
    of one sample, or of all weights.
    """

    label: str = field(compare=False)  # for messages: layer and pass
    samples: int
    rows: int
    width: int
    outputs: int
    inputs: int  # of one group
    groups: int
    window: Window
    source_rows: int
    source_bytes: int
    source_on_chip: bool
    map_bytes: int  # of the result in DDR; of backward_weight the error
    map_on_chip: bool
    weight_bytes: int = 0  # in DDR, loaded for the first time
    weight_again_bytes: int = 0  # ... and every other time
    sum_bytes: int  # a word of the result while its sum grows over tiles
    gradient_bytes: int = 0  # a word of the weight gradient in DDR; 0: it stays on chip
    of_weights: bool = False

    @property
    def channels_of_a_group(self) -> int:
        return self.outputs // self.groups

    def blocks(self, size: int) -> tuple[tuple[int, int], ...]:
        """First output channel and end of every tile of `size`.

        A tile holds whole groups, or a part of one group alone.
        """
        return _blocks(self.outputs, self.channels_of_a_group, size)

    def gemm(self, pixels: int, outputs: int, inputs: int) -> Gemm:
        """The product of a tile of `pixels`, output channels and input channels of a group."""
        each = self.channels_of_a_group
        n, groups = (each, outputs // each) if outputs > each else (outputs, 1)
        k = inputs * self.window.taps
        if self.of_weights:
            return Gemm(k, n, pixels, groups, self.window.taps, of_weights=True)
        return Gemm(pixels, n, k, groups, self.window.taps)

    def band_bytes(self, rows: int) -> int:
        """Bytes of the source that the neediest band of `rows` rows reads of a sample."""
        return max(_bands(self, rows)) * self.source_bytes // self.source_rows

    def swept_bytes(self, rows: int) -> int:
        """Bytes of the source that all bands of a sample read, halos counted."""
        return sum(_bands(self, rows)) * self.source_bytes // self.source_rows


@lru_cache(maxsize=4096)
def _blocks(channels: int, each: int, size: int) -> tuple[tuple[int, int], ...]:
    span = channels if size >= each else each
    return tuple(
        (first, min(first + size, start + span))
        for start in range(0, channels, span)
        for first in range(start, start + span, size)
    )


@lru_cache(maxsize=4096)
def _bands(nest: Nest, rows: int) -> tuple[int, ...]:
    """Source rows of every band of `rows` rows."""
    if rows == nest.rows:
        return (nest.source_rows,)
    spans = (
        nest.window.rows(first, min(rows, nest.rows - first), nest.source_rows)
        for first in range(0, nest.rows, rows)
    )
    return tuple(high - low for low, high in spans)


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
        results = buffers.gradient if gemm.of_weights else buffers.output
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
    cost a stream each. Only where a stream is shorter than a side can shorter skews be worth it.
    """

    def sizes(side: int, most: int, stream: int) -> list[int]:
        balanced = ceil_div(side, ceil_div(side, most))
        shorter = {ceil_div(side, ceil_div(side, size)) for size in range(stream, balanced)}
        return sorted({balanced} | shorter, reverse=True)

    down, across, stream = sides
    return [
        replace(array, rows=rows, columns=columns)
        for rows in sizes(down, array.rows, stream)
        for columns in sizes(across, array.columns, max(stream, rows))
    ]


def splits(extent: int) -> list[int]:
    """Every size that cuts `extent` into tiles of nearly the same size, the largest first."""
    return sorted({ceil_div(extent, parts) for parts in range(1, extent + 1)}, reverse=True)


def halves(extent: int) -> list[int]:
    """`extent` cut in 1, 2, 4, 8 ... tiles of nearly the same size."""
    return sorted({ceil_div(extent, 1 << n) for n in range(extent.bit_length() + 1)}, reverse=True)


def candidates(nest: Nest, fixed: FixedTiling) -> Iterator[Tiling]:
    """Tilings worth a look, in a fixed order; where `fixed` names a size only that one."""

    def sizes(name: str, found: list[int], most: int) -> list[int]:
        wanted = getattr(fixed, name)
        return found if wanted is None else [min(wanted, most)]

    each = nest.channels_of_a_group
    outputs = [each * count for count in halves(nest.groups)] if nest.groups > 1 else []
    outputs += [size for size in halves(each) if size not in outputs]
    pieces = [
        (samples, rows)
        for samples in sizes("samples", halves(nest.samples), nest.samples)
        for rows in sizes("rows", splits(nest.rows), nest.rows)
        if samples == 1 or rows == nest.rows
    ]
    for samples, rows in pieces:
        for output in sizes("outputs", outputs, nest.outputs):
            counts = halves(len(nest.blocks(output)))
            held = [0, *(min(output * count, nest.outputs) for count in counts)]
            inputs = halves(nest.inputs) if output <= each else [nest.inputs]
            for input in sizes("inputs", inputs, nest.inputs):
                for holding in sizes("held", held, nest.outputs):
                    for order in [fixed.order] if fixed.order else ORDERS[nest.of_weights]:
                        if _sums_stay(nest, holding, order):
                            yield Tiling(samples, rows, output, input, holding, order)


def _sums_stay(nest: Nest, held: int, order: tuple[str, ...]) -> bool:
    """True where no sum leaves the chip before it is whole."""
    if nest.of_weights:
        return held > 0 or {*order[2:]} == {"samples", "rows"}
    return order[-1] == "inputs"


def trips(nest: Nest, tiling: Tiling) -> dict[str, int]:
    """Iterations of every loop from outside; those of outputs within a block of held ones."""
    blocks = nest.blocks(tiling.outputs)
    tiles = len(blocks)
    within = max(1, sum(end <= tiling.held for _, end in blocks)) if tiling.held else tiles
    counts = {
        "samples": ceil_div(nest.samples, tiling.samples),
        "rows": ceil_div(nest.rows, tiling.rows),
        "outputs": within,
        "inputs": ceil_div(nest.inputs, tiling.inputs),
    }
    return {"held": ceil_div(tiles, within), **{name: counts[name] for name in tiling.order}}
