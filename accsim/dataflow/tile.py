"""Tiles: an operation cut over samples, row bands and output channels so that it fits on chip.

A tensor lies in DDR in the order in which its producer writes it, so every transfer is one
contiguous run (EF-Train reshapes its maps to the same end). A map is cut over whole samples where
one fits, else over bands of rows, which are read with the halo that the kernel needs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from accsim.dataflow.base import Dataflow, Gemm
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.buffer import BufferSpec
from accsim.network import Shape
from accsim.units import ceil_div

SUM_BYTES = 4  # of a weight gradient while it is summed
TILES_AT_LEAST = 4  # cut so fine that load, compute and store of one operation overlap


@dataclass(frozen=True, eq=False)
class Tensor:
    """Samples of one kind of data with a home in DDR; two tensors are never equal."""

    name: str
    kind: str  # weights, activations, error, gradient, momentum, teacher, residual, exponents, ...
    sample_bytes: int
    samples: int
    address: int  # first byte, a multiple of 4 KiB

    @property
    def size_bytes(self) -> int:
        return self.sample_bytes * self.samples


@dataclass(frozen=True)
class Operand:
    """A tensor as one operation uses it: the first `samples` of it.

    `on_chip`: it is in the resident buffer (or the gradient buffer) and causes no DDR traffic.
    `pending`: an earlier operation of the step writes it, so a reader must wait for its bytes;
    `whole`: for all of them, before the first tile (sums over the batch, another order).
    """

    tensor: Tensor
    samples: int
    on_chip: bool = False
    pending: bool = True
    whole: bool = False

    @property
    def size_bytes(self) -> int:
        return self.tensor.sample_bytes * self.samples

    def needs_bytes(self, end_bytes: int) -> int:
        """Bytes that must have been written before the first `end_bytes` can be used."""
        if not self.pending:
            return 0
        return self.tensor.size_bytes if self.whole else end_bytes


@dataclass(frozen=True, slots=True)
class Transfer:
    """One contiguous run between DDR and a buffer."""

    tensor: Tensor
    offset_bytes: int
    size_bytes: int
    needs_bytes: int = 0  # of the tensor, written before the transfer may start

    @property
    def address(self) -> int:
        return self.tensor.address + self.offset_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What one command of a compute unit does, and the buffer slots it holds meanwhile."""

    cycles: int
    macs: int = 0
    vector_operations: int = 0
    buffer_read_bytes: int = 0
    buffer_write_bytes: int = 0
    loads: tuple[Transfer, ...] = ()  # in order, before the unit starts
    stores: tuple[Transfer, ...] = ()  # when it ends
    early_stores: tuple[Transfer, ...] = ()  # when it starts: weights blended as they arrived
    needs: tuple[tuple[Tensor, int], ...] = ()  # on-chip data: bytes that must be there
    makes: tuple[tuple[Tensor, int], ...] = ()  # on-chip data: bytes that are there at the end
    fills: tuple[str, ...] = ()  # buffers of which the loads take a slot
    opens: tuple[str, ...] = ()  # buffers of which the unit takes a slot when it starts
    frees: tuple[str, ...] = ()  # buffers of which a slot is given back when the unit ends
    drains: tuple[str, ...] = ()  # ... when the stores have ended


@dataclass(frozen=True)
class Plan:
    """The tiles of one operation, and the bytes of its tensors that they move, counted apart."""

    tiles: tuple[Tile, ...]
    reads: tuple[tuple[Tensor, int], ...]
    writes: tuple[tuple[Tensor, int], ...]
    in_order: bool = True  # the samples of the result are whole one after the other


@dataclass(frozen=True)
class Piece:
    """Some samples, or a band of rows of one sample."""

    sample: int
    samples: int
    row: int
    rows: int
    of_rows: int

    def span(self, sample_bytes: int) -> tuple[int, int]:
        """First byte and end of this piece in a map of `sample_bytes` a sample."""
        if self.rows == self.of_rows:
            return self.sample * sample_bytes, (self.sample + self.samples) * sample_bytes
        first = self.sample * sample_bytes
        return (
            first + sample_bytes * self.row // self.of_rows,
            first + sample_bytes * (self.row + self.rows) // self.of_rows,
        )


def cut(
    samples: int, rows: int, fits: Callable[[int, int], bool], at_least: int = 1
) -> tuple[Piece, ...]:
    """Pieces of `samples` maps of `rows` rows, each so large that ``fits(samples, rows)`` holds.

    A fourth of the samples at most, or the `at_least` samples that a unit needs to be full. Empty
    where not even one row fits.
    """
    group = min(samples, max(at_least, ceil_div(samples, TILES_AT_LEAST)))
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


def largest_block(channels: int, groups: int, most: int, columns: int) -> int:
    """Output channels of a tile, `most` at most: whole groups, or whole folds of one group."""
    each = channels // groups
    if most >= each:
        return min(most // each * each, channels)
    return most // columns * columns


def channel_blocks(channels: int, groups: int, block: int) -> tuple[tuple[int, int], ...]:
    """First output channel and end of every tile; none has a part of a group and of another."""
    span = channels // groups if groups > 1 and block < channels // groups else channels
    return tuple(
        (first, min(first + block, start + span))
        for start in range(0, channels, span)
        for first in range(start, start + span, block)
    )


def products(channels: int, groups: int, block: tuple[int, int]) -> tuple[int, int]:
    """Output channels of one product, and how many products `block` holds."""
    width, each = block[1] - block[0], channels // groups
    return (each, width // each) if width > each else (width, 1)


@dataclass(frozen=True)
class Window:
    """Which source rows a band of target rows needs: a convolution, or its transpose."""

    kernel: int
    stride: int = 1
    padding: int = 0
    transposed: bool = False

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


@dataclass(frozen=True)
class Weights:
    """The weights of an operation: what travels when they are loaded, and loaded once more.

    `first` and `again` are (operand, bytes read); `stores` are written back with the first load.
    """

    first: tuple[tuple[Operand, int], ...]
    again: tuple[tuple[Operand, int], ...]
    stores: tuple[tuple[Tensor, int], ...] = ()
    blended_words: int = 0  # words of a blend as they arrive: one vector operation each
    blended_again_words: int = 0

    def slice(self, load: int, block: tuple[int, int], channels: int):
        """Transfers, early stores and blended words of the channels of `block`, on load `load`."""
        first, end = block
        parts, words = self.first, self.blended_words
        stores: tuple[Transfer, ...] = ()
        if load:
            parts, words = self.again, self.blended_again_words
        loads = tuple(
            Transfer(operand.tensor, low, high - low, operand.needs_bytes(operand.size_bytes))
            for operand, size in parts
            for low, high in [(size * first // channels, size * end // channels)]
            if high > low
        )
        if not load:
            stores = tuple(
                Transfer(tensor, low, high - low)
                for tensor, size in self.stores
                for low, high in [(size * first // channels, size * end // channels)]
            )
        return loads, stores, words * end // channels - words * first // channels


@dataclass(frozen=True, kw_only=True)
class Product:
    """A matrix product on the PE array that writes a map: forward, or backward_data.

    Of a grouped layer it is `groups` products, each on its own channels of both maps.
    """

    label: str  # for messages: layer and pass
    samples: int
    source: Operand
    source_shape: Shape
    target: Operand
    target_shape: Shape
    window: Window
    k: int
    weights: Weights
    groups: int = 1

    def plan(self, machine: AcceleratorSpec, dataflow: Dataflow) -> Plan:
        """Tiles in the loop order that moves the fewest bytes.

        Raises ValueError naming the buffer that cannot hold one output row of one fold.
        """
        array, buffers = machine.pe_array, machine.buffers
        channels, groups = self.target_shape.channels, self.groups
        fold = min(channels // groups, array.columns)
        source_row = self.source.tensor.sample_bytes // self.source_shape.height
        word = dataflow.output_word_bytes(array, self.k)

        def source_bytes(samples: int, rows: int) -> int:
            if rows == self.target_shape.height:
                return samples * self.source.tensor.sample_bytes
            # the band in the middle of the map has the largest halo
            most = max(
                high - low
                for first in range(0, self.target_shape.height, rows)
                for low, high in [
                    self.window.rows(
                        first,
                        min(rows, self.target_shape.height - first),
                        self.source_shape.height,
                    )
                ]
            )
            return most * source_row

        def target_bytes(samples: int, rows: int, width: int) -> int:
            return samples * rows * self.target_shape.width * width * word

        require(self.label, "weight", buffers.weight, self.k * fold * array.operand_bytes)
        if not self.source.on_chip:
            require(self.label, "input", buffers.input, source_bytes(1, 1))
        require(self.label, "output", buffers.output, target_bytes(1, 1, fold))

        def pieces(width: int) -> tuple[Piece, ...]:
            def fits(samples: int, rows: int) -> bool:
                return (
                    self.source.on_chip or source_bytes(samples, rows) <= buffers.input.tile_bytes
                ) and target_bytes(samples, rows, width) <= buffers.output.tile_bytes

            pixels = self.target_shape.height * self.target_shape.width
            return cut(self.samples, self.target_shape.height, fits, ceil_div(array.rows, pixels))

        most = buffers.weight.tile_bytes // (self.k * array.operand_bytes)
        block = largest_block(channels, groups, most, array.columns)
        cuts = {block: pieces(block)}
        while not cuts[block]:  # the output buffer wants a narrower block
            block = max(fold, largest_block(channels, groups, block // 2, array.columns))
            cuts[block] = pieces(block)
        blocks = channel_blocks(channels, groups, block)

        first_bytes = sum(size for _, size in self.weights.first)
        again_bytes = sum(size for _, size in self.weights.again)
        inputs = 0 if self.source.on_chip else self.source.size_bytes
        weights_again = first_bytes + (len(cuts[block]) - 1) * again_bytes + inputs
        inputs_again = first_bytes + len(blocks) * inputs
        in_order = len(blocks) == 1 or weights_again < inputs_again
        if in_order:
            order = [(p, b) for p in cuts[block] for b in blocks]
        else:
            order = [(p, b) for b in blocks for p in cuts[block]]
        plan = self._walk(order, machine, dataflow, source_row)
        return replace(plan, in_order=in_order)

    def _walk(self, order, machine: AcceleratorSpec, dataflow: Dataflow, source_row: int) -> Plan:
        array = machine.pe_array
        channels = self.target_shape.channels
        tally = _Tally()
        tiles: list[Tile] = []
        loads_of_block: dict[tuple[int, int], int] = {}
        written = 0
        for position, (piece, block) in enumerate(order):
            before = order[position - 1] if position else (None, None)
            after = order[position + 1] if position + 1 < len(order) else (None, None)
            loads: list[Transfer] = []
            fills: list[str] = []
            frees: list[str] = []
            early: tuple[Transfer, ...] = ()
            blended = 0
            if block != before[1]:
                count = loads_of_block.get(block, 0)
                loads_of_block[block] = count + 1
                weight_loads, early, blended = self.weights.slice(count, block, channels)
                loads += weight_loads
                fills.append("weight")
            if block != after[1]:
                frees.append("weight")
            low, high = piece.span(self.source.tensor.sample_bytes)
            if piece.rows != piece.of_rows:
                rows = self.window.rows(piece.row, piece.rows, self.source_shape.height)
                low = piece.sample * self.source.tensor.sample_bytes
                low, high = low + rows[0] * source_row, low + rows[1] * source_row
            needed = self.source.needs_bytes(high)
            needs: tuple[tuple[Tensor, int], ...] = ()
            if self.source.on_chip:
                needs = ((self.source.tensor, needed),)
            else:
                if piece != before[0] and high > low:
                    loads.append(Transfer(self.source.tensor, low, high - low, needed))
                if piece != before[0]:
                    fills.append("input")
                if piece != after[0]:
                    frees.append("input")
            m = piece.samples * piece.rows * self.target_shape.width
            n, groups = products(channels, self.groups, block)
            gemm = Gemm(m, n, self.k, groups, self.window.kernel**2)
            target = m * n * groups * (self.target.tensor.sample_bytes // self.target_shape.size)
            stores = (Transfer(self.target.tensor, written, target),)
            written += target
            tally.add(loads, early, () if self.target.on_chip else stores)
            tiles.append(
                Tile(
                    cycles=dataflow.cycles(array, gemm),
                    macs=gemm.macs,
                    vector_operations=blended,
                    buffer_read_bytes=dataflow.accesses(array, gemm).read_bytes
                    + sum(t.size_bytes for t in early)
                    + (0 if self.target.on_chip else target),
                    buffer_write_bytes=dataflow.accesses(array, gemm).write_bytes
                    + sum(t.size_bytes for t in loads),
                    loads=tuple(loads),
                    early_stores=early,
                    stores=() if self.target.on_chip else stores,
                    needs=needs,
                    makes=((self.target.tensor, target),) if self.target.on_chip else (),
                    fills=tuple(fills),
                    opens=() if self.target.on_chip else ("output",),
                    frees=tuple(frees),
                    drains=() if self.target.on_chip else ("output",),
                )
            )
        return tally.plan(tiles)


@dataclass(frozen=True, kw_only=True)
class GradientProduct:
    """backward_weight on the PE array: ``source^T @ error``, summed over samples on chip."""

    label: str
    samples: int
    source: Operand  # the input of the forward pass
    source_shape: Shape
    error: Operand
    error_shape: Shape
    window: Window
    m: int  # kernel * kernel * input channels of one group
    gradient: Operand
    groups: int = 1

    def plan(self, machine: AcceleratorSpec, dataflow: Dataflow) -> Plan:
        """Tiles over samples for one block of output channels after the other.

        Raises ValueError naming the buffer that cannot hold one row, or one fold of the gradient.
        """
        array, buffers = machine.pe_array, machine.buffers
        channels = self.error_shape.channels
        word = self.gradient.tensor.size_bytes // (self.m * channels)
        total = max(word, SUM_BYTES)  # a word while it is summed, on chip
        fold = min(channels // self.groups, array.columns)
        rows = self.error_shape.height
        error_row = self.error.tensor.sample_bytes // rows
        source_row = self.source.tensor.sample_bytes // self.source_shape.height

        def source_rows(first: int, count: int) -> tuple[int, int]:
            return self.window.rows(first, count, self.source_shape.height)

        def source_bytes(samples: int, count: int) -> int:
            if count == rows:
                return samples * self.source.tensor.sample_bytes
            spans = [source_rows(r, min(count, rows - r)) for r in range(0, rows, count)]
            return max(high - low for low, high in spans) * source_row

        require(self.label, "gradient", buffers.gradient, self.m * fold * total)
        if not self.source.on_chip:
            require(self.label, "input", buffers.input, source_bytes(1, 1))
        if not self.error.on_chip:
            require(self.label, "weight", buffers.weight, ceil_div(error_row * fold, channels))

        most = buffers.gradient.tile_bytes // (self.m * total)
        if not self.error.on_chip:
            most = min(most, buffers.weight.tile_bytes * channels // error_row)
        block = largest_block(channels, self.groups, most, array.columns)

        def fits(samples: int, count: int) -> bool:
            return (
                self.source.on_chip or source_bytes(samples, count) <= buffers.input.tile_bytes
            ) and (
                self.error.on_chip
                or samples * ceil_div(count * error_row * block, channels)
                <= buffers.weight.tile_bytes
            )

        pieces = cut(self.samples, rows, fits, ceil_div(array.rows, rows * self.error_shape.width))
        tally = _Tally()
        tiles: list[Tile] = []
        for first, beyond in channel_blocks(channels, self.groups, block):
            n, groups = products(channels, self.groups, (first, beyond))
            size, sums = self.m * n * groups * word, self.m * n * groups * total
            for piece in pieces:
                low, high = piece.span(self.source.tensor.sample_bytes)
                if piece.rows != piece.of_rows:
                    span = source_rows(piece.row, piece.rows)
                    low = piece.sample * self.source.tensor.sample_bytes
                    low, high = low + span[0] * source_row, low + span[1] * source_row
                start, end = piece.span(self.error.tensor.sample_bytes)
                start, part = (
                    start + (end - start) * first // channels,
                    (end - start) * beyond // channels - (end - start) * first // channels,
                )
                loads, needs, held = [], [], []
                for operand, offset, length, upto, buffer in (
                    (self.source, low, high - low, high, "input"),
                    (self.error, start, part, end, "weight"),
                ):
                    if operand.on_chip:
                        needs.append((operand.tensor, operand.needs_bytes(upto)))
                    else:
                        held.append(buffer)
                        if length:
                            needed = operand.needs_bytes(upto)
                            loads.append(Transfer(operand.tensor, offset, length, needed))
                last = piece is pieces[-1]
                opens = piece is pieces[0] and (first == 0 or not self.gradient.on_chip)
                spill = last and not self.gradient.on_chip
                stores = (
                    (Transfer(self.gradient.tensor, self.m * first * word, size),) if spill else ()
                )
                tally.add(loads, (), stores)
                k = piece.samples * piece.rows * self.error_shape.width
                gemm = Gemm(self.m, n, k, groups, self.window.kernel**2, of_weights=True)
                moved = sum(t.size_bytes for t in loads)
                grown = 0 if piece is pieces[0] else sums  # partial sums read back
                tiles.append(
                    Tile(
                        cycles=dataflow.cycles(array, gemm),
                        macs=gemm.macs,
                        buffer_read_bytes=dataflow.accesses(array, gemm).read_bytes
                        + grown
                        + (size if spill else 0),
                        buffer_write_bytes=moved + (size if last else sums),
                        loads=tuple(loads),
                        stores=stores,
                        needs=tuple(needs),
                        makes=((self.gradient.tensor, size),)
                        if last and self.gradient.on_chip
                        else (),
                        fills=tuple(held),
                        opens=("gradient",) if opens else (),
                        frees=tuple(held),
                        drains=("gradient",) if spill else (),
                    )
                )
        return tally.plan(tiles)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One pass of the vector unit over maps, sample by sample, row by row."""

    label: str
    kind: tuple[str, ...]  # steps of the vector unit, one after the other
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

        tally = _Tally()
        tiles: list[Tile] = []
        parameters, early, blended = self.parameters.slice(0, (0, 1), 1)
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
                    cycles=unit.cycles(self.kind, high - low),
                    vector_operations=unit.operations(self.kind, high - low)
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
        return tally.plan(tiles)


@dataclass(frozen=True, kw_only=True)
class WordSweep:
    """One pass of the vector unit over words, every operand in proportion: loss, update, ema."""

    label: str
    kind: tuple[str, ...]
    words: int
    reads: tuple[Operand, ...]
    writes: tuple[Operand, ...]
    gradient: Operand | None = None  # read on chip; its slot is given back at the end

    def plan(self, machine: AcceleratorSpec, dataflow: Dataflow) -> Plan:
        """Tiles over words. Raises ValueError naming the buffer that cannot hold a few words."""
        buffers, unit = machine.buffers, machine.vector_unit
        read_bytes = sum(o.size_bytes for o in self.reads if not o.on_chip)
        write_bytes = sum(o.size_bytes for o in self.writes if not o.on_chip)
        grain = machine.dram.burst_bytes  # in words: then every word size keeps to whole bursts

        def share(size_bytes: int, words: int) -> int:
            return ceil_div(size_bytes * words, self.words)

        smallest = min(grain, self.words)
        require(self.label, "input", buffers.input, share(read_bytes, smallest))
        require(self.label, "output", buffers.output, share(write_bytes, smallest))
        chunk = max(grain, ceil_div(ceil_div(self.words, TILES_AT_LEAST), grain) * grain)
        while chunk > grain and (
            share(read_bytes, chunk) > buffers.input.tile_bytes
            or share(write_bytes, chunk) > buffers.output.tile_bytes
        ):
            chunk -= grain
        tally = _Tally()
        tiles: list[Tile] = []
        for first in range(0, self.words, chunk):
            end = min(first + chunk, self.words)
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
                elif high > low:
                    needed = operand.needs_bytes(size)
                    loads.append(Transfer(operand.tensor, low, high - low, needed))
            for operand in self.writes:
                size = operand.size_bytes
                low, high = size * first // self.words, size * end // self.words
                made += high - low
                if operand.on_chip:
                    makes.append((operand.tensor, high - low))
                elif high > low:
                    stores.append(Transfer(operand.tensor, low, high - low))
            tally.add(loads, (), stores)
            filled = ("input",) if loads else ()
            given = ("gradient",) if self.gradient and end == self.words else ()
            tiles.append(
                Tile(
                    cycles=unit.cycles(self.kind, end - first),
                    vector_operations=unit.operations(self.kind, end - first),
                    buffer_read_bytes=used + sum(t.size_bytes for t in stores),
                    buffer_write_bytes=made + sum(t.size_bytes for t in loads),
                    loads=tuple(loads),
                    stores=tuple(stores),
                    needs=tuple(needs),
                    makes=tuple(makes),
                    fills=filled,
                    opens=("output",) if stores else (),
                    frees=(*filled, *given),
                    drains=("output",) if stores else (),
                )
            )
        return tally.plan(tiles)


def require(label: str, name: str, buffer: BufferSpec, needed_bytes: int) -> None:
    """Raise ValueError where `buffer` cannot hold the smallest tile of operation `label`."""
    if needed_bytes > buffer.tile_bytes:
        share = f" (1 of its {buffer.slots} slots)" if buffer.slots > 1 else ""
        raise ValueError(
            f"{name} buffer must hold one tile of {label}, {needed_bytes} bytes, "
            f"not {buffer.tile_bytes}{share}; enlarge it or narrow the layer"
        )


class _Tally:
    """Bytes by tensor, counted while tiles are cut."""

    def __init__(self):
        self._reads: dict[Tensor, int] = {}
        self._writes: dict[Tensor, int] = {}

    def add(self, loads, early_stores, stores) -> None:
        for transfer in loads:
            self._reads[transfer.tensor] = self._reads.get(transfer.tensor, 0) + transfer.size_bytes
        for transfer in (*early_stores, *stores):
            self._writes[transfer.tensor] = (
                self._writes.get(transfer.tensor, 0) + transfer.size_bytes
            )

    def plan(self, tiles: list[Tile]) -> Plan:
        return Plan(tuple(tiles), tuple(self._reads.items()), tuple(self._writes.items()))
