"""EF-Train's trainer (Tang et al., ACM TODAES 27(5), 2022) in accsim's terms, against its model.

The machine, as its HLS and its analytical model have it: Tm = Tn = 16 multiply-accumulate lanes
each way at 100 MHz; streams of four words a cycle for inputs, for weights (or output gradients) and
for results, each transfer 400 cycles after it is asked for; every buffer double. A tile is 16
output channels x 16 input channels x some rows, as many as 2,016 pixels of output and 2,486 of
input allow; weights stay on chip while the images of a batch pass, as far as they fit. Loads run
ahead within the innermost loop only. Its words are fp32; here they are 16 bits wide and so are the
lanes of its streams, which is the same number of cycles. Images have four words a pixel.

Nothing is fitted, per layer or at all: rows, held channels, and the order of backward_weight's
loops are accsim's own choice, as EF-Train's tool chooses its rows.
"""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from accsim import engine
from accsim.dataflow.base import FixedTiling
from accsim.dataflow.channel_broadcast import ChannelBroadcast
from accsim.dataflow.product import GradientProduct, Product
from accsim.dataflow.tile import Operand, Tensor, Weights
from accsim.dataflow.tiling import Window
from accsim.hardware import boards
from accsim.hardware.buffer import BufferSpec, BuffersSpec
from accsim.hardware.dma import DmaSpec
from accsim.hardware.pe_array import NO_REGISTERS, PEArraySpec
from accsim.network import Shape
from accsim.schedule.operation import Operation

GOLDEN = Path(__file__).parents[1] / "golden" / "eftrain.csv"
BATCH, WORD_BYTES, LANES = 16, 2, 16
STREAM = 4 * WORD_BYTES  # bytes a cycle
TAPS = 9
PASSES = ("forward", "backward_data", "backward_weight")
MACHINE = replace(
    boards.ZCU102,
    name="EF-Train",
    clock_mhz=100,
    pe_array=PEArraySpec(LANES, LANES, operand_bits=16, registers=NO_REGISTERS),
    buffers=BuffersSpec(
        input=BufferSpec(2 * 2486 * LANES * WORD_BYTES),
        weight=BufferSpec(2 * 55 * LANES * 2 * LANES * TAPS * WORD_BYTES),
        output=BufferSpec(2 * 2016 * LANES * 4),  # sums of four bytes
        gradient=BufferSpec(LANES * 512 * TAPS * 4, slots=1),
        resident_bytes=0,
    ),
    dma=DmaSpec(
        STREAM, STREAM, startup_cycles=400, outstanding=1, weight_channel=True, prefetch=False
    ),
)
DATAFLOW = ChannelBroadcast(
    tilings=(
        FixedTiling("*/backward_weight", samples=1, outputs=LANES, inputs=LANES),
        FixedTiling(
            samples=1,
            outputs=LANES,
            inputs=LANES,
            order=("samples", "outputs", "rows", "inputs"),
        ),
    )
)


@cache
def layers():
    with GOLDEN.open() as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def plan(inputs, outputs, rows, name):
    """Tiles of one pass of one layer over the batch."""
    if name == "backward_data":  # from the errors of the outputs to those of the inputs
        inputs, outputs = outputs, inputs
    source, target = (
        Tensor(label, "activations", max(channels, 4) * rows * rows * WORD_BYTES, BATCH, place)
        for label, channels, place in (("source", inputs, 0), ("target", outputs, 1 << 30))
    )
    weights = Tensor("weights", "weights", inputs * outputs * TAPS * WORD_BYTES, 1, 1 << 31)
    shapes = {"window": Window(3, 1, 1), "source_shape": Shape(rows, rows, inputs)}
    maps = Operand(source, BATCH, pending=False), Operand(target, BATCH, pending=False)
    if name == "backward_weight":
        product = GradientProduct(
            label=f"layer/{name}",
            samples=BATCH,
            source=maps[0],
            error=maps[1],
            error_shape=Shape(rows, rows, outputs),
            gradient=Operand(weights, 1),
            **shapes,
        )
    else:
        parts = ((Operand(weights, 1, pending=False), weights.size_bytes),)
        product = Product(
            label=f"layer/{name}",
            samples=BATCH,
            source=maps[0],
            target=maps[1],
            target_shape=Shape(rows, rows, outputs),
            weights=Weights(parts, parts),
            **shapes,
        )
    return product.plan(MACHINE, DATAFLOW)


@cache
def cycles(inputs, outputs, rows, name):
    """Cycles of one pass of one layer, simulated alone."""
    tiles = plan(inputs, outputs, rows, name)
    operation = Operation(
        "student", "layer", name, "pe_array", BATCH, None, 0, tiles.reads, tiles.writes, (),
        tiles.tiles,
    )  # fmt: skip
    return engine.simulate([operation], MACHINE).makespan_cycles


def sizes(row):
    return tuple(int(row[name]) for name in ("inputs", "outputs", "rows"))


def simulated(rows):
    """(cycles, cycles of the model) of every pass of the layers in `rows`."""
    return [
        (cycles(*sizes(row), name), float(row[name]) * 1e6)
        for row in rows
        for name in PASSES
        if row[name]
    ]


@pytest.mark.parametrize(
    "row", layers()[10:11] + layers()[7:8] + layers()[4:5], ids=lambda row: row["layer"]
)
def test_every_pass_takes_the_models_cycles(row):
    for ours, model in simulated([row]):
        assert ours == pytest.approx(model, rel=0.05)


@pytest.mark.scheduled
def test_vgg16_takes_the_models_cycles_and_the_published_rate():
    pairs = simulated(layers())
    for ours, model in pairs:
        assert ours == pytest.approx(model, rel=0.05)
    total = sum(ours for ours, _ in pairs)
    assert total == pytest.approx(sum(model for _, model in pairs), rel=0.02)
    macs = sum(
        inputs * outputs * TAPS * side**2 * BATCH * sum(bool(row[name]) for name in PASSES)
        for row in layers()
        for inputs, outputs, side in [sizes(row)]
    )
    assert 2 * macs / (total / 100e6) / 1e9 == pytest.approx(46.99, rel=0.05)
