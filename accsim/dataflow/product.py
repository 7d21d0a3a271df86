"""Matrix products of a layer's passes, cut into tiles for the PE array.

A map is cut over whole samples, or over bands of rows of one sample, which are read with the halo
that the kernel needs; channels of both sides are cut where buffers want it, and the sums of an
output tile stay on chip until they are whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

from accsim.dataflow.base import Dataflow, Gemm
from accsim.dataflow.planner import planner
from accsim.dataflow.tile import Operand, Piece, Plan, Tally, Tensor, Tile, Transfer, Weights
from accsim.dataflow.tiling import Nest, Tiling, Window, trips
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.network import Shape

SUM_BYTES = 4  # of a weight gradient while it is summed


class Step(NamedTuple):
    """Where the loops of a product stand: the parts of its operands that one tile works on."""

    held: int  # number of the block of held channels
    piece: Piece
    outputs: tuple[int, int]  # first output channel and end
    inputs: tuple[int, int]  # first input channel of a group and end
    restarts: bool  # the innermost loop begins anew


def steps(nest: Nest, tiling: Tiling) -> Iterator[Step]:
    """The loops of `nest`, one step a tile, in the order of `tiling`."""
    blocks = nest.blocks(tiling.outputs)
    loops = trips(nest, tiling)
    for held in range(loops["held"]):
        places = {
            "samples": _ranges(nest.samples, tiling.samples),
            "rows": _ranges(nest.rows, tiling.rows),
            "outputs": blocks[held * loops["outputs"] : (held + 1) * loops["outputs"]],
            "inputs": _ranges(nest.inputs, tiling.inputs),
        }
        for at in product(*(places[name] for name in tiling.order)):
            place = dict(zip(tiling.order, at, strict=True))
            (sample, last), (row, end) = place["samples"], place["rows"]
            yield Step(
                held,
                Piece(sample, last - sample, row, end - row, nest.rows),
                place["outputs"],
                place["inputs"],
                at[-1] == places[tiling.order[-1]][0],
            )


def _ranges(extent: int, size: int) -> tuple[tuple[int, int], ...]:
    """First and end of every tile of `extent`."""
    return tuple((first, min(first + size, extent)) for first in range(0, extent, size))


def neighbours(items: list[Step]) -> Iterator[tuple[Step | None, Step, Step | None]]:
    """Every item with the one before and the one after it."""
    return zip([None, *items[:-1]], items, [*items[1:], None], strict=True)


@dataclass(frozen=True, kw_only=True)
class LayerProduct:
    """What the matrix products of a layer's passes have in common.

    Of a grouped layer it is `groups` products, each on its own channels of both maps.
    """

    label: str  # for messages: layer and pass
    samples: int
    source: Operand
    source_shape: Shape
    window: Window
    groups: int = 1

    @property
    def inputs(self) -> int:
        """Input channels of one group."""
        return self.source_shape.channels // self.groups

    def _nest(self, pixels: Operand, shape: Shape, sum_bytes: int, **more) -> Nest:
        """The loops over the map whose pixels are cut, and what the pass adds to them."""
        return Nest(
            label=self.label,
            samples=self.samples,
            rows=shape.height,
            width=shape.width,
            outputs=shape.channels,
            inputs=self.inputs,
            groups=self.groups,
            window=self.window,
            source_rows=self.source_shape.height,
            source_bytes=self.source.tensor.sample_bytes,
            source_on_chip=self.source.on_chip,
            map_bytes=pixels.tensor.sample_bytes,
            map_on_chip=pixels.on_chip,
            sum_bytes=sum_bytes,
            **more,
        )


@dataclass(frozen=True, kw_only=True)
class Product(LayerProduct):
    """A matrix product on the PE array that writes a map: forward, or backward_data."""

    target: Operand
    target_shape: Shape
    weights: Weights

    def nest(self, machine: AcceleratorSpec) -> Nest:
        """What the tiling depends on."""
        return self._nest(
            self.target,
            self.target_shape,
            machine.pe_array.accumulator_bytes,
            weight_bytes=_travelling(self.weights.first),
            weight_again_bytes=_travelling(self.weights.again),
        )

    def plan(self, machine: AcceleratorSpec, dataflow: Dataflow) -> Plan:
        """Tiles of the tiling that is estimated fastest.

        Raises ValueError naming the buffer that cannot hold the smallest tile.
        """
        nest = self.nest(machine)
        planned = planner(machine, dataflow)
        tiling = planned.choose(nest)
        walk = list(steps(nest, tiling))
        tally = Tally()
        tiles: list[Tile] = []
        part = partial(_source_part, nest, self.source)
        loaded: set[tuple] = set()  # weights that have been on chip
        written = 0
        for before, here, after in neighbours(walk):
            weights = here.outputs, here.inputs
            arrives, leaves = _moves_on(tiling, before, here), _moves_on(tiling, here, after)
            parameters: tuple[Transfer, ...] = ()
            early: tuple[Transfer, ...] = ()
            blended = 0
            if weights not in loaded if tiling.held else arrives:
                parameters, early, blended = self._weights(here, weights in loaded)
                loaded.add(weights)
            source = _use(self.source, "input", part, before, here, after)
            loads = (*parameters, *source.loads)
            gemm = _gemm(nest, here)
            sums = (here.piece, here.outputs)
            first = before is None or sums != (before.piece, before.outputs)
            last = after is None or sums != (after.piece, after.outputs)
            words = gemm.m * gemm.n * gemm.groups
            size = words * (self.target.tensor.sample_bytes // self.target_shape.size)
            stores = (Transfer(self.target.tensor, written, size),) if last else ()
            written += size if last else 0
            array = planned.part(gemm)
            accesses = dataflow.accesses(array, gemm)
            sum_bytes = words * nest.sum_bytes
            whole_bytes = words * dataflow.output_word_bytes(array, gemm.k)
            travels = not self.target.on_chip
            tally.add(loads, early, stores if travels else ())
            tiles.append(
                Tile(
                    cycles=planned.cycles(gemm),
                    macs=gemm.macs,
                    vector_operations=blended,
                    buffer_read_bytes=accesses.read_bytes
                    + (0 if first else sum_bytes)
                    + sum(t.size_bytes for t in early)
                    + (size if last and travels else 0),
                    buffer_write_bytes=accesses.write_bytes
                    + (0 if last else sum_bytes - whole_bytes)
                    + sum(t.size_bytes for t in loads),
                    loads=loads,
                    early_stores=early,
                    stores=stores if travels else (),
                    needs=source.needs,
                    makes=((self.target.tensor, size),) if last and not travels else (),
                    restarts=here.restarts,
                    fills=(*("weight",) * arrives, *source.fills),
                    opens=("output",) if first and travels else (),
                    frees=(*("weight",) * leaves, *source.frees),
                    drains=("output",) if last and travels else (),
                )
            )
        in_order = trips(nest, tiling)["held"] == 1
        return tally.plan(tiles, planned.needs_bytes(nest, tiling), in_order, tiling)

    def _weights(self, step: Step, again: bool):
        """Transfers, early stores and blended words of a tile's weights."""
        (first, end), (low, high) = step.outputs, step.inputs
        start = first * self.inputs + (end - first) * low
        of = self.target_shape.channels * self.inputs
        return self.weights.slice(again, start, start + (end - first) * (high - low), of)


@dataclass(frozen=True, kw_only=True)
class GradientProduct(LayerProduct):
    """backward_weight on the PE array: ``source^T @ error``, summed over samples on chip.

    `source` is the input of the forward pass.
    """

    error: Operand
    error_shape: Shape
    gradient: Operand

    @property
    def word_bytes(self) -> int:
        """Bytes of a gradient's word in DDR."""
        words = self.window.taps * self.inputs * self.error_shape.channels
        return self.gradient.tensor.size_bytes // words

    def nest(self) -> Nest:
        """What the tiling depends on."""
        return self._nest(
            self.error,
            self.error_shape,
            max(self.word_bytes, SUM_BYTES),
            gradient_bytes=0 if self.gradient.on_chip else self.word_bytes,
            of_weights=True,
        )

    def plan(self, machine: AcceleratorSpec, dataflow: Dataflow) -> Plan:
        """Tiles of the tiling that is estimated fastest.

        Raises ValueError naming the buffer that cannot hold the smallest tile.
        """
        nest = self.nest()
        planned = planner(machine, dataflow)
        tiling = planned.choose(nest)
        walk = list(steps(nest, tiling))
        source_part = partial(_source_part, nest, self.source)
        error_part = partial(_error_part, nest, self.error)
        begun: set[tuple] = set()
        ends = {(here.outputs, here.inputs): number for number, here in enumerate(walk)}
        tally = Tally()
        tiles: list[Tile] = []
        stored = 0
        for number, (before, here, after) in enumerate(neighbours(walk)):
            source = _use(self.source, "input", source_part, before, here, after)
            error = _use(self.error, "weight", error_part, before, here, after)
            loads = (*source.loads, *error.loads)
            gemm = _gemm(nest, here)
            weights = here.outputs, here.inputs
            first, last = weights not in begun, ends[weights] == number
            begun.add(weights)
            words = gemm.m * gemm.n * gemm.groups
            size, sums = words * self.word_bytes, words * nest.sum_bytes
            spills = last and not self.gradient.on_chip
            stores = (Transfer(self.gradient.tensor, stored, size),) if spills else ()
            stored += size if spills else 0
            opens, drains = _moves_on(tiling, before, here), _moves_on(tiling, here, after)
            if self.gradient.on_chip:
                opens, drains = before is None, False
            accesses = dataflow.accesses(planned.part(gemm), gemm)
            tally.add(loads, (), stores)
            tiles.append(
                Tile(
                    cycles=planned.cycles(gemm),
                    macs=gemm.macs,
                    buffer_read_bytes=accesses.read_bytes
                    + (0 if first else sums)
                    + (size if spills else 0),
                    buffer_write_bytes=(size if last else sums) + sum(t.size_bytes for t in loads),
                    loads=loads,
                    stores=stores,
                    needs=(*source.needs, *error.needs),
                    makes=((self.gradient.tensor, size),) if last and not spills else (),
                    restarts=here.restarts,
                    fills=(*source.fills, *error.fills),
                    opens=("gradient",) if opens else (),
                    frees=(*source.frees, *error.frees),
                    drains=("gradient",) if drains else (),
                )
            )
        return tally.plan(tiles, planned.needs_bytes(nest, tiling), tiling=tiling)


def _travelling(parts: tuple[tuple[Operand, int], ...]) -> int:
    """Bytes of `parts` that are not on chip."""
    return sum(size for operand, size in parts if not operand.on_chip)


def _gemm(nest: Nest, step: Step) -> Gemm:
    """The product of one tile."""
    pixels = step.piece.samples * step.piece.rows * nest.width
    (first, end), (low, high) = step.outputs, step.inputs
    return nest.gemm(pixels, end - first, high - low)


class Part(NamedTuple):
    """Bytes of an operand that one tile reads, and how many must have been written by then."""

    low: int
    high: int
    needed: int


def _source_part(nest: Nest, source: Operand, step: Step) -> Part:
    """The piece's rows with their halo, of the input channels of the tile's groups."""
    piece, sample_bytes = step.piece, source.tensor.sample_bytes
    low, high = piece.span(sample_bytes)
    if piece.rows != piece.of_rows:
        first, end = nest.window.rows(piece.row, piece.rows, nest.source_rows)
        start = piece.sample * sample_bytes
        low = start + first * sample_bytes // nest.source_rows
        high = start + end * sample_bytes // nest.source_rows
    needed = source.needs_bytes(high)
    each, (first, end) = nest.channels_of_a_group, step.inputs
    first += step.outputs[0] // each * nest.inputs
    end += (step.outputs[1] - 1) // each * nest.inputs
    return _channels(low, high, first, end, nest.groups * nest.inputs, needed)


def _error_part(nest: Nest, error: Operand, step: Step) -> Part:
    """The piece's rows of the tile's output channels."""
    low, high = step.piece.span(error.tensor.sample_bytes)
    return _channels(low, high, *step.outputs, nest.outputs, error.needs_bytes(high))


def _channels(low: int, high: int, first: int, end: int, of: int, needed: int) -> Part:
    """The channels `first` to `end` of the bytes from `low` to `high`, which lie together."""
    size = high - low
    return Part(low + size * first // of, low + size * end // of, needed)


class Use(NamedTuple):
    """What a tile does to bring an operand on chip and to let it go."""

    loads: tuple[Transfer, ...] = ()
    needs: tuple[tuple[Tensor, int], ...] = ()
    fills: tuple[str, ...] = ()
    frees: tuple[str, ...] = ()


def _use(operand: Operand, buffer: str, part_of, before, here, after) -> Use:
    """The part of `operand` at step `here` stays in its slot while the steps want the same one."""
    part = part_of(here)
    if operand.on_chip:
        return Use(needs=((operand.tensor, part.needed),))
    arrives = before is None or part_of(before) != part
    leaves = after is None or part_of(after) != part
    load = Transfer(operand.tensor, part.low, part.high - part.low, part.needed, buffer)
    return Use(
        loads=(load,) if arrives and load.size_bytes else (),
        fills=(buffer,) if arrives else (),
        frees=(buffer,) if leaves else (),
    )


def _moves_on(tiling: Tiling, before: Step | None, after: Step | None) -> bool:
    """True where the weights of one step, or their sums, are not those of the next."""
    if before is None or after is None:
        return True
    if tiling.held:
        return before.held != after.held
    return (before.outputs, before.inputs) != (after.outputs, after.inputs)
