"""Tilings: complete, within their buffers, as fast as estimated; more of anything never hurts."""

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accsim import engine
from accsim.dataflow.base import FixedTiling, Gemm
from accsim.dataflow.channel_broadcast import ChannelBroadcast
from accsim.dataflow.input_stationary import InputStationary
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.planner import Planner, parts_of
from accsim.dataflow.product import GradientProduct, Product, steps
from accsim.dataflow.tile import Operand, Tensor, Weights
from accsim.dataflow.tiling import Window, candidates, trips
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.hardware import boards
from accsim.hardware.buffer import BufferSpec
from accsim.hardware.dma import DmaSpec
from accsim.hardware.pe_array import PEArraySpec
from accsim.network import Shape
from accsim.schedule.operation import Operation

DATAFLOWS = (OutputStationary(), WeightStationary(), InputStationary(), ChannelBroadcast())
BUFFERS = ("input", "weight", "output", "gradient")


def machine(kib=64, rows=8, columns=8, rate=16, slots=2, **dma):
    """An accelerator with buffers of `kib` KiB, and of room for one word more: odd sizes too."""
    buffers = {
        name: BufferSpec(int(kib * 1024), 1 if name == "gradient" else slots) for name in BUFFERS
    }
    return replace(
        boards.ZCU104,
        pe_array=PEArraySpec(rows, columns),
        buffers=replace(boards.ZCU104.buffers, resident_bytes=0, **buffers),
        dma=DmaSpec(rate, rate, **dma),
        check_board=False,
    )


@st.composite
def products(draw):
    """A matrix product of a layer: any pass, kernel, stride and number of groups."""
    kernel, stride = draw(st.sampled_from([(1, 1), (3, 1), (3, 2), (5, 1)]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    inputs, outputs = (groups * draw(st.integers(1, 20)) for _ in range(2))
    if draw(st.integers(0, 4)) == 0:
        inputs = outputs = groups = draw(st.integers(1, 12))  # depthwise
    height = draw(st.integers(kernel, 12))
    down = (height + 2 * (kernel // 2) - kernel) // stride + 1
    samples = draw(st.integers(1, 6))
    image, result = Shape(height, height, inputs), Shape(down, down, outputs)
    window = Window(kernel, stride, kernel // 2)
    return product(
        draw(st.sampled_from(["forward", "backward_data", "backward_weight"])),
        samples, image, result, window, groups,
    )  # fmt: skip


def product(name, samples, image, result, window, groups=1):
    """The pass `name` of a convolution from `image` to `result`; words of one byte."""
    if name == "backward_data":
        image, result, window = result, image, replace(window, transposed=True)
    source = Tensor("source", "activations", image.size, samples, 0)
    target = Tensor("target", "activations", result.size, samples, 1 << 24)
    words = image.channels * result.channels // groups * window.taps
    weights = Tensor("weights", "weights", words, 1, 1 << 25)
    maps = Operand(source, samples, pending=False), Operand(target, samples, pending=False)
    common = {"label": f"layer/{name}", "samples": samples, "window": window, "groups": groups}
    if name == "backward_weight":
        return GradientProduct(
            source=maps[0], source_shape=image, error=maps[1], error_shape=result,
            gradient=Operand(weights, 1), **common,
        )  # fmt: skip
    parts = ((Operand(weights, 1, pending=False), words),)
    return Product(
        source=maps[0], source_shape=image, target=maps[1], target_shape=result,
        weights=Weights(parts, parts), **common,
    )  # fmt: skip


def nest_of(job, spec):
    return job.nest() if isinstance(job, GradientProduct) else job.nest(spec)


def simulated(job, spec, dataflow):
    """The step of this one product."""
    plan = job.plan(spec, dataflow)
    operation = Operation(
        "student", "layer", "pass", "pe_array", 1, None, 0, plan.reads, plan.writes, (),
        plan.tiles,
    )  # fmt: skip
    return engine.simulate([operation], spec)


@settings(max_examples=150)
@given(products(), st.sampled_from(DATAFLOWS), st.data())
def test_every_tiling_multiplies_each_word_by_each_once_and_moves_each_byte(job, dataflow, data):
    spec = machine(4096)  # room for any
    nest = nest_of(job, spec)
    tiling = data.draw(st.sampled_from(list(candidates(nest, FixedTiling()))))
    fixed = FixedTiling(**{name: getattr(tiling, name) for name in tiling.__dataclass_fields__})
    dataflow = replace(dataflow, tilings=(fixed,))
    walk = list(steps(nest, tiling))
    assert len(walk) == len(set(walk))
    for held in {step.held for step in walk}:  # a block of held channels passes once
        places = [index for index, step in enumerate(walk) if step.held == held]
        assert places == list(range(places[0], places[-1] + 1))
    counts = trips(nest, tiling)
    assert (
        len(walk)
        <= counts["held"]
        * counts["samples"]
        * counts["rows"]
        * counts["outputs"]
        * (counts["inputs"])
    )
    plan = job.plan(spec, dataflow)
    assert plan.tiling == tiling
    pixels = nest.samples * nest.rows * nest.width
    macs = pixels * nest.outputs * nest.inputs * nest.window.taps
    assert sum(tile.macs for tile in plan.tiles) == macs
    results = job.gradient if nest.of_weights else job.target
    (stored,) = (transfers for transfers in [_covered(plan, results.tensor, "stores")])
    assert stored == list(range(results.size_bytes))  # each byte of the result once
    if not nest.of_weights:
        weights = job.weights.first[0][0]
        assert set(_covered(plan, weights.tensor, "loads")) == set(range(weights.size_bytes))


def _covered(plan, tensor, side):
    """Every byte of `tensor` that travels, sorted."""
    return sorted(
        place
        for tile in plan.tiles
        for transfer in getattr(tile, side)
        if transfer.tensor is tensor
        for place in range(transfer.offset_bytes, transfer.offset_bytes + transfer.size_bytes)
    )


@settings(max_examples=60)
@given(products(), st.sampled_from(DATAFLOWS), st.sampled_from([0.5, 2, 64]))
def test_a_chosen_tiling_fits_its_buffers_slot_by_slot(job, dataflow, kib):
    spec = machine(kib)
    planner = Planner(spec, dataflow)
    nest = nest_of(job, spec)
    tiling = planner.choose(nest)
    for name, size in planner.needs_bytes(nest, tiling).items():
        assert size <= getattr(spec.buffers, name).tile_bytes
    plan = job.plan(spec, dataflow)
    buffers = ("input", "weight", *(("gradient",) if nest.of_weights else ("output",)))
    for name in buffers:  # what a slot is given by loads stays within it
        held = 0
        for tile in plan.tiles:
            held = 0 if name in tile.fills else held
            held += sum(load.size_bytes for load in tile.loads if load.buffer == name)
            assert held <= getattr(spec.buffers, name).tile_bytes
        taken = sum((name in tile.fills) + (name in tile.opens) for tile in plan.tiles)
        given_back = sum((name in tile.frees) + (name in tile.drains) for tile in plan.tiles)
        assert taken == given_back


@settings(max_examples=60)
@given(products(), st.sampled_from(DATAFLOWS), st.sampled_from([1, 4, 64]))
def test_the_chosen_tiling_has_the_least_estimate_of_all(job, dataflow, rate):
    spec = machine(2, rate=rate)
    planner, nest = Planner(spec, dataflow), nest_of(job, spec)
    chosen = planner.estimate(nest, planner.choose(nest))
    fitting = [
        planner.estimate(nest, tiling)
        for tiling in candidates(nest, FixedTiling())
        if all(
            size <= getattr(spec.buffers, name).tile_bytes
            for name, size in planner.needs_bytes(nest, tiling).items()
        )
    ]
    assert chosen == min(fitting)


@settings(max_examples=200)
@given(
    products(),
    st.sampled_from(DATAFLOWS),
    st.sampled_from([0.5, 1, 2, 5, 16]),
    *[st.integers(1, 12)] * 2,
    st.sampled_from([1, 3, 8, 40]),
    st.data(),
)
def test_more_of_anything_never_makes_the_chosen_tiling_slower(
    job, dataflow, kib, rows, columns, rate, data
):
    """Of buffers, bandwidth and processing elements, by the estimate that chooses."""
    spec = machine(kib, rows, columns, rate)
    more = data.draw(st.sampled_from(["kib", "rows", "columns", "rate", "all"]))
    sizes = {"kib": kib, "rows": rows, "columns": columns, "rate": rate}
    for name in sizes:
        if more in (name, "all"):
            sizes[name] += data.draw(st.integers(0, 9))
    larger = machine(**sizes)

    def estimated(spec):
        planner, nest = Planner(spec, dataflow), nest_of(job, spec)
        return planner.estimate(nest, planner.choose(nest)).cycles

    assert estimated(larger) <= estimated(spec)


@settings(max_examples=300)
@given(
    st.sampled_from(DATAFLOWS),
    *[st.integers(1, 40)] * 4,
    *[st.integers(1, 200)] * 3,
    st.booleans(),
)
def test_more_processing_elements_never_make_a_product_slower(
    dataflow, rows, columns, more_rows, more_columns, m, n, k, overlap
):
    small = PEArraySpec(rows, columns, overlap=overlap)
    large = replace(small, rows=rows + more_rows, columns=columns + more_columns)
    gemm = Gemm(m, n, k)

    def fastest(array):
        return min(dataflow.cycles(part, gemm) for part in parts_of(array, dataflow.sides(gemm)))

    assert fastest(large) <= fastest(small) <= dataflow.cycles(small, gemm)


@settings(max_examples=60)
@given(
    st.sampled_from(DATAFLOWS[:3]),
    *[st.integers(1, 9)] * 2,
    *[st.integers(1, 40)] * 3,
    st.sampled_from([1, 3]),
    st.booleans(),
)
@example(OutputStationary(), 9, 9, 1, 9, 1, 1, True)  # two folds of 5 columns skew less than one
@example(WeightStationary(), 9, 9, 1, 9, 1, 1, True)
def test_the_parts_tried_hold_the_fastest_of_all_parts(
    dataflow, rows, columns, m, n, k, groups, overlap
):
    array, gemm = PEArraySpec(rows, columns, overlap=overlap), Gemm(m, n, k, groups)
    every = (
        dataflow.cycles(replace(array, rows=down + 1, columns=across + 1), gemm)
        for down in range(rows)
        for across in range(columns)
    )
    tried = (dataflow.cycles(part, gemm) for part in parts_of(array, dataflow.sides(gemm)))
    assert min(tried) == min(every)


@pytest.mark.parametrize("name", ["forward", "backward_data", "backward_weight"])
@pytest.mark.parametrize("dataflow", [OutputStationary(), WeightStationary()], ids=str)
@pytest.mark.parametrize("rate", [2, 16, 128])
def test_the_estimate_is_near_what_the_machine_takes(name, dataflow, rate):
    """Alone on the machine, with refresh, banks and descriptors: within an eighth."""
    spec = machine(64, 16, 16, rate)
    job = product(name, 8, Shape(16, 16, 32), Shape(16, 16, 64), Window(3, 1, 1))
    planner, nest = Planner(spec, dataflow), nest_of(job, spec)
    estimate = planner.estimate(nest, planner.choose(nest)).exact_cycles
    assert simulated(job, spec, dataflow).makespan_cycles == pytest.approx(estimate, rel=0.125)


@pytest.mark.parametrize("name", ["forward", "backward_data", "backward_weight"])
@pytest.mark.parametrize("grown", ["kib", "rows", "columns", "rate"])
def test_more_of_anything_does_not_make_the_simulated_product_slower(name, grown):
    """Within 2 %: refresh and row conflicts fall differently, and estimates have eight bits."""
    job = product(name, 8, Shape(16, 16, 32), Shape(16, 16, 64), Window(3, 1, 1))
    sizes = {"kib": 4, "rows": 8, "columns": 8, "rate": 4}
    before = None
    for _ in range(4):
        now = simulated(job, machine(**sizes), OutputStationary()).makespan_cycles
        assert before is None or now <= before * 1.02
        before = now
        sizes[grown] *= 2


def test_a_fixed_tiling_is_taken_and_one_that_cannot_be_is_told():
    job = product("forward", 4, Shape(8, 8, 16), Shape(8, 8, 32), Window(3, 1, 1))
    fixed = FixedTiling("layer/forw*", samples=2, outputs=16, inputs=8, held=32)
    tiling = job.plan(machine(), OutputStationary(tilings=(fixed,))).tiling
    assert (tiling.samples, tiling.rows, tiling.outputs, tiling.inputs, tiling.held) == (
        *(2, 8, 16, 8, 32),
    )
    other = FixedTiling("other/*", samples=2, outputs=16, inputs=8, held=32)
    free = job.plan(machine(), OutputStationary()).tiling
    assert job.plan(machine(), OutputStationary(tilings=(other,))).tiling == free != tiling
    impossible = FixedTiling(samples=2, rows=3)
    with pytest.raises(ValueError, match=r"tiling of layer/forward must be one that its loops"):
        job.plan(machine(), OutputStationary(tilings=(impossible,)))
    large = FixedTiling(samples=4, outputs=32, held=32, inputs=16)
    with pytest.raises(ValueError, match=r"buffer must hold one tile of layer/forward"):
        job.plan(machine(1), OutputStationary(tilings=(large,)))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"samples": 0}, "samples of a tiling must be at least 1, not 0"),
        ({"held": -1}, "held of a tiling must be at least 0, not -1"),
        ({"order": ("rows", "samples")}, "order of a tiling must name samples, rows, outputs"),
    ],
)
def test_a_tiling_that_cannot_be_is_refused_at_birth(choice, message):
    with pytest.raises(ValueError, match=message):
        FixedTiling(**choice)


def test_one_slot_makes_loads_and_products_take_turns():
    job = product("forward", 8, Shape(16, 16, 16), Shape(16, 16, 16), Window(3, 1, 1))
    double, single = (
        simulated(job, machine(8 * slots, rate=1, slots=slots), OutputStationary())
        for slots in (2, 1)
    )
    in_turn = single.records[0].busy_ps // single.period_ps + single.ddr_read_bytes  # one a cycle
    assert double.makespan_cycles < in_turn <= single.makespan_cycles


def test_narrow_ports_hold_the_array_up():
    """8 rows and 8 columns read 16 operands a cycle; through ports of 2 bytes, a half of them."""
    job = product("forward", 1, Shape(8, 8, 64), Shape(8, 8, 8), Window(1))
    wide = machine()
    narrow = replace(
        wide,
        buffers=replace(
            wide.buffers,
            input=replace(wide.buffers.input, banks=1, width_bits=32),
            weight=replace(wide.buffers.weight, banks=1, width_bits=32),
        ),
    )
    gemm = Gemm(64, 8, 64)
    assert Planner(wide, OutputStationary()).cycles(gemm) == OutputStationary().cycles(
        wide.pe_array, gemm
    )
    # 64 x 64 inputs once through 4 bytes a cycle; a fold of 8 x 8 streams 64 cycles, 8 times
    assert Planner(narrow, OutputStationary()).cycles(gemm) == 64 * 64 // 4
    assert (
        simulated(job, narrow, OutputStationary()).makespan_cycles
        > simulated(job, wide, OutputStationary()).makespan_cycles
    )
