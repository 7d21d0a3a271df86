"""Tilings: tile sizes and loop order of a matrix product, chosen by their estimated time.

A product runs over five loops. From outside: blocks of `held` output channels, whose weights (or
sums of weight gradients) stay on chip; then samples, bands of rows, tiles of output channels and
tiles of input channels, in an order of their own. A tile of an operand is loaded when one of its
loops moves on, so sizes and order decide what travels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from accsim.dataflow.base import LOOPS, FixedTiling, Gemm
from accsim.units import ceil_div

ORDERS = {  # tried for maps, and for the gradients of weights
    False: (LOOPS,),
    True: (
        LOOPS,
        ("samples", "outputs", "inputs", "rows"),
        ("outputs", "inputs", "samples", "rows"),
    ),
}


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
            inputs = sizes("inputs", halves(nest.inputs), nest.inputs)
            if output > each:  # groups lie side by side: a part of each would be no run of bytes
                inputs = [input for input in inputs if input == nest.inputs]
            for input in inputs:
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
