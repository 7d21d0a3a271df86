"""Timelines of hand-made tiles, whose cycles can be counted, and ledgers broken on purpose."""

import random
from dataclasses import replace

import pytest

from accsim.dataflow.base import FixedTiling
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.tile import Tensor, Tile, Transfer
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.engine import MECHANISMS, simulate
from accsim.hardware import boards
from accsim.hardware.buffer import BufferSpec, BuffersSpec
from accsim.hardware.dma import DmaSpec
from accsim.hardware.dram_controller import RecallCheck
from accsim.hardware.pe_array import PEArraySpec
from accsim.ledger import LedgerError, check
from accsim.network import RELU, BatchNorm, Conv2d, Linear, Network, Shape
from accsim.numerics import Numerics
from accsim.passes import Passes
from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.operation import Operation
from accsim.schedule.separate_ema import SeparateEma

MACHINE = boards.ZCU104  # 5,000 ps a cycle
STEP = Passes(teacher_forward=4, student_forward=8, backward=6, ema=True)


def operation(unit, *tiles):
    return Operation("student", unit, "made_up", unit, 1, None, 0, (), (), (), tiles)


def tensor(size_bytes, address=0):
    return Tensor("made_up", "activations", size_bytes, 1, address)


@pytest.fixture(scope="module")
def network():
    layers = (
        Conv2d("conv1", 16, 3, padding=1),
        BatchNorm("norm1", RELU, 2),
        Conv2d("conv2", 32, 3, padding=1),
        BatchNorm("norm2", RELU, 2),
        Linear("fc", 10),
    )
    return Network("small", Shape(16, 16, 3), layers)


SEPARABLE = Network(
    "separable",
    Shape(12, 12, 3),
    (
        Conv2d("conv", 24, 3, padding=1),
        Conv2d("depth", 24, 3, 2, 1, groups=24),
        BatchNorm("norm", RELU),
        Conv2d("grouped", 48, 3, padding=1, groups=2),
        BatchNorm("norm2", RELU, 2),
        Linear("fc", 10),
    ),
)


def step(network, machine=MACHINE, schedule=None, dataflow=None, passes=STEP):
    operations = (schedule or SeparateEma()).operations(
        network, Numerics(), machine, dataflow or OutputStationary(), passes
    )
    return simulate(operations, machine)


def causes(timeline, unit):
    return {cause: ps // 5000 for cause, ps in timeline.unit_ps[unit].items() if ps}


def test_units_work_side_by_side_where_nothing_binds_them():
    timeline = simulate(
        [operation("pe_array", Tile(cycles=10)), operation("vector_unit", Tile(cycles=7))], MACHINE
    )
    assert timeline.makespan_cycles == 10
    assert causes(timeline, "pe_array") == {"busy": 10}
    assert causes(timeline, "vector_unit") == {"busy": 7, "idle": 3}


def test_parts_work_side_by_side_each_with_its_own_units():
    tiles = {"student": Tile(cycles=10), "teacher": Tile(cycles=7)}
    timeline = simulate(
        [replace(operation("pe_array", tile), part=part) for part, tile in tiles.items()],
        MACHINE.split(8),
    )
    assert timeline.makespan_cycles == 10
    assert causes(timeline, "student_pe_array") == {"busy": 10}
    assert causes(timeline, "teacher_pe_array") == {"busy": 7, "idle": 3}
    assert timeline.passes()["unit"].tolist() == ["student_pe_array", "teacher_pe_array"]
    shares = [record.share_ps // 5000 for record in timeline.records]
    assert shares == [3, 7]  # the teacher's ends first


def test_parts_share_one_channel():
    """Ports of 64 bytes a cycle each are 128 of a DDR that has 96."""
    wide = replace(MACHINE, dma=DmaSpec(128, 128), check_board=False).split(16)

    def read(part, address):
        load = Transfer(tensor(2**18, address), 0, 2**18)
        tile = Tile(cycles=1, loads=(load,), fills=("input",), frees=("input",))
        return replace(operation("pe_array", tile), part=part)

    alone = simulate([read("student", 0)], wide)
    together = simulate([read("student", 0), read("teacher", 2**20)], wide)
    assert alone.makespan_cycles >= 2**18 // 64
    assert together.makespan_cycles >= 2**19 / 96.02 > alone.makespan_cycles
    assert together.makespan_cycles < 2 * alone.makespan_cycles
    ends = [record.end_ps for record in together.records]
    assert max(ends) < 1.01 * min(ends)  # the channel favours neither


def test_operations_of_a_part_that_the_machine_has_not_are_refused():
    stray = replace(operation("pe_array", Tile(cycles=1)), part="teacher")
    with pytest.raises(ValueError, match=r"parts \[''\] of ZCU104, not of \['teacher'\]"):
        simulate([stray], MACHINE)


def test_a_tile_waits_for_what_another_unit_makes_on_chip():
    made = tensor(64)
    timeline = simulate(
        [
            operation("pe_array", Tile(cycles=10, makes=((made, 64),))),
            operation("vector_unit", Tile(cycles=7, needs=((made, 64),))),
        ],
        MACHINE,
    )
    assert timeline.makespan_cycles == 17
    assert causes(timeline, "vector_unit") == {"dependency": 10, "busy": 7}


def test_a_tile_waits_for_its_operands():
    loaded = Tile(
        cycles=5, loads=(Transfer(tensor(64), 0, 64),), fills=("input",), frees=("input",)
    )
    timeline = simulate([operation("pe_array", loaded)], MACHINE)
    dram = MACHINE.dram
    # start-up, then one read of a closed row: ACT, RD, data; a clock or two to enter the queue
    read_ps = 40 * 5000 + (dram.nRCD + dram.CL + dram.nBL) * dram.tCK_ps
    waited_ps = timeline.unit_ps["pe_array"]["operand"]
    assert read_ps <= waited_ps <= read_ps + 5000 + 3 * dram.tCK_ps
    assert timeline.makespan_ps == waited_ps + 5 * 5000
    assert timeline.dram_counts["reads"] == 1


def test_a_single_slot_makes_load_and_compute_take_turns():
    def tiles(count):
        return [
            Tile(
                cycles=200,
                loads=(Transfer(tensor(65536, 65536 * i), 0, 6400),),
                fills=("input",),
                frees=("input",),
            )
            for i in range(count)
        ]

    single = replace(MACHINE, buffers=replace(MACHINE.buffers, input=BufferSpec(1 << 16, slots=1)))
    twice = simulate([operation("pe_array", *tiles(4))], MACHINE)
    alone = simulate([operation("pe_array", *tiles(4))], single)
    # 6,400 bytes take 100 cycles at least: hidden behind the 200 of the tile before, or not
    assert twice.makespan_cycles < 4 * 200 + 2 * (40 + 100)
    assert alone.makespan_cycles >= 4 * (200 + 40 + 100)


def test_without_prefetch_loads_stop_where_a_loop_begins_anew():
    """Tiles of 200 cycles whose loads take 140: hidden, but for the first of each loop of two."""
    tiles = [
        Tile(
            cycles=200,
            loads=(Transfer(tensor(65536, 65536 * i), 0, 6400),),
            restarts=i % 2 == 0,
            fills=("input",),
            frees=("input",),
        )
        for i in range(6)
    ]
    held_back = replace(MACHINE, dma=replace(MACHINE.dma, prefetch=False))
    ahead, stopped = (
        simulate([operation("pe_array", *tiles)], machine).makespan_cycles
        for machine in (MACHINE, held_back)
    )
    assert 6 * 200 + 140 <= ahead < 6 * 200 + 2 * 140
    assert 6 * 200 + 3 * 140 <= stopped < 6 * 200 + 4 * 140


def test_a_unit_waits_for_the_write_engine_when_its_output_is_full():
    def tile(number):
        store = Transfer(tensor(65536, 65536 * number), 0, 65536)
        return Tile(cycles=10, stores=(store,), opens=("output",), drains=("output",))

    timeline = simulate([operation("pe_array", *(tile(i) for i in range(3)))], MACHINE)
    waits = causes(timeline, "pe_array")
    assert waits["busy"] == 30
    assert waits["output"] >= 65536 // 64  # the third tile waits for the first one's bytes
    assert timeline.ddr_write_bytes == 3 * 65536


def test_a_load_waits_until_the_bytes_it_needs_have_been_written():
    data = tensor(6400)
    store = Tile(
        cycles=10, stores=(Transfer(data, 0, 6400),), opens=("output",), drains=("output",)
    )
    load = Tile(
        cycles=10, loads=(Transfer(data, 0, 6400, 6400),), fills=("input",), frees=("input",)
    )
    timeline = simulate([operation("pe_array", store), operation("vector_unit", load)], MACHINE)
    written_ps = timeline.records[0].end_ps
    assert timeline.unit_ps["dma_read"]["dependency"] == written_ps
    assert timeline.unit_ps["vector_unit"]["dependency"] >= written_ps
    assert timeline.makespan_ps > written_ps + 100 * 5000


def test_weights_blended_on_arrival_leave_while_the_unit_works():
    weights = tensor(64)
    tile = Tile(
        cycles=1000,
        loads=(Transfer(weights, 0, 64),),
        early_stores=(Transfer(weights, 0, 64),),
        fills=("weight",),
        frees=("weight",),
    )
    timeline = simulate([operation("pe_array", tile)], MACHINE)
    assert timeline.ddr_write_bytes == 64
    waited = timeline.unit_ps["pe_array"]["operand"] // 5000
    assert timeline.makespan_cycles == waited + 1000  # the write does not lengthen the step


def test_a_step_without_passes_takes_no_time(network):
    timeline = step(network, passes=Passes(0, 0, 0, False))
    assert timeline.makespan_ps == 0
    check(timeline.ledgers(network, Passes(0, 0, 0, False)))
    assert timeline.passes().empty


@pytest.mark.parametrize("schedule", [SeparateEma(), LayerwiseEma(), DeferredWriteback(3)])
@pytest.mark.parametrize("dataflow", [OutputStationary(), WeightStationary()])
@pytest.mark.parametrize("machine", [boards.ZCU104, boards.PYNQ_Z2], ids=lambda m: m.name)
def test_all_books_of_a_training_step_balance(network, machine, dataflow, schedule):
    timeline = step(network, machine, schedule, dataflow)
    books = timeline.ledgers(network, STEP)
    assert set(books) == {"ddr_bytes", "ddr_bursts", "macs", "time", "bound", "ddr_recall"}
    check(books)
    tensors, passes = timeline.tensors(), timeline.passes()
    for side in ("read_bytes", "write_bytes"):
        assert tensors[side].sum() == passes[f"ddr_{side}"].sum()
    burst = machine.dram.burst_bytes
    moved = timeline.ddr_read_bytes + timeline.ddr_write_bytes + timeline.padding_bytes
    assert moved == burst * (timeline.dram_counts["reads"] + timeline.dram_counts["writes"])
    for _, causes_ in timeline.units().groupby("unit"):
        assert causes_["ps"].sum() == timeline.makespan_ps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dma_bytes": {"read": 1, "write": 0}},
            r"ledger 'ddr_bytes' does not close: tensors says \d+ bytes, DMA says 1; row all",
        ),
        (
            {"dram_counts": {"reads": 1, "writes": 1}},
            r"ledger 'ddr_bursts' does not close: DMA says \d+ bytes, DDR commands says 64",
        ),
        ({"array_macs": 5}, r"ledger 'macs' does not close: PE array says 5 MACs, network says"),
        (
            {"unit_ps": {"pe_array": {"busy": 5}}},
            r"ledger 'time' does not close: causes says 5 ps, makespan says \d+; row pe_array",
        ),
        (
            {"makespan_ps": 5000},
            r"ledger '(time|bound)' does not close",
        ),
        (
            {"recall": RecallCheck(1, 2, 2, 99, 98, 0)},
            r"ledger 'ddr_recall' does not close: sampled transfers, recalled says 99 cycles",
        ),
        (
            {"recall": RecallCheck(1, 2, 2, 98, 98, 1)},
            r"ledger 'ddr_recall' does not close: .* says 1 .* row ends that differ",
        ),
    ],
)
def test_a_book_that_does_not_balance_stops_the_run_and_names_its_row(network, change, message):
    timeline = replace(step(network), **change)
    with pytest.raises(LedgerError, match=message):
        check(timeline.ledgers(network, STEP))


def test_a_transfer_of_the_wrong_size_is_found_in_its_row(network):
    timeline = step(network)
    timeline.records[0].ddr_read_bytes -= 1
    with pytest.raises(LedgerError, match=r"row conv1/teacher_forward read"):
        check(timeline.ledgers(network, STEP))


def test_no_step_is_faster_than_peak_rates_allow(network):
    timeline = replace(step(network), makespan_ps=5000)
    with pytest.raises(LedgerError, match="peak rates"):
        timeline.ledgers(network, STEP)["bound"].check()


def test_a_narrower_dma_never_helps(network):
    spans = [
        step(network, replace(MACHINE, dma=DmaSpec(width, width))).makespan_cycles
        for width in (4, 16, 64)
    ]
    assert spans == sorted(spans, reverse=True)
    assert spans[0] > spans[-1]


def test_a_resident_buffer_saves_the_bytes_that_it_says(network):
    none = replace(MACHINE, buffers=replace(MACHINE.buffers, resident_bytes=0))
    travelling, kept = step(network, none), step(network)
    saved = sum(
        size
        for record in kept.records
        for tensor_, size in record.operation.on_chip
        if tensor_.kind != "gradient"
    )
    assert saved > 0
    assert kept.ddr_read_bytes + kept.ddr_write_bytes + saved == (
        travelling.ddr_read_bytes + travelling.ddr_write_bytes
    )


def test_fusing_the_average_takes_the_student_out_of_the_traffic(network):
    words = network.parameters
    none = replace(MACHINE, buffers=replace(MACHINE.buffers, resident_bytes=0))
    once = OutputStationary(tilings=(FixedTiling("*_forward", held=10**6),))  # loads of weights
    separate, fused = (
        step(network, none, schedule, once) for schedule in (SeparateEma(), LayerwiseEma())
    )
    assert separate.ddr_read_bytes - fused.ddr_read_bytes == 2 * words  # one 16-bit word each
    assert separate.ddr_write_bytes == fused.ddr_write_bytes
    assert fused.makespan_cycles < separate.makespan_cycles


def test_the_critical_path_adds_up_to_the_makespan(network):
    for dma in (MACHINE.dma, DmaSpec(2, 2), replace(MACHINE.dma, prefetch=False)):
        timeline = step(network, replace(MACHINE, dma=dma), LayerwiseEma())
        spent = sum(ps for _, ps in timeline.path)
        assert timeline.makespan_ps - timeline.period_ps < spent <= timeline.makespan_ps
        told = timeline.critical_path()["cycles"].sum()  # with the rest of the last cycle
        assert told * timeline.period_ps == pytest.approx(timeline.makespan_ps, abs=1)
        assert all(ps >= 0 for _, ps in timeline.path)
        ends = [work.end_ps for work, _ in timeline.path]
        assert ends == sorted(ends)


def test_the_makespan_is_told_by_what_the_critical_path_waits_for(network):
    for dma in (MACHINE.dma, DmaSpec(2, 2)):
        timeline = step(network, replace(MACHINE, dma=dma), LayerwiseEma())
        spent = timeline.mechanism_ps
        assert sum(spent.values()) == timeline.makespan_ps
        for unit in ("pe_array", "vector_unit"):
            assert spent[unit] == sum(ps for work, ps in timeline.path if work.unit == unit)
        for name, cause in MECHANISMS.items():
            assert 0 <= spent[name] <= timeline.unit_ps["ddr"][cause]
    assert spent["dma"] > spent["ddr_data"]  # ports of 2 bytes a cycle


def test_the_critical_path_goes_through_what_is_waited_for():
    """The vector unit's second tile needs what the array makes in 90 cycles; its own take 7."""
    made = Tensor("made", "activations", 64, 1, 0)
    timeline = simulate(
        [
            operation("vector_unit", Tile(cycles=5)),
            operation("pe_array", Tile(cycles=90, makes=((made, 64),))),
            operation("vector_unit", Tile(cycles=7, needs=((made, 64),))),
        ],
        MACHINE,
    )
    assert [(work.unit, ps // MACHINE.period_ps) for work, ps in timeline.path] == [
        ("pe_array", 90),
        ("vector_unit", 7),
    ]


def test_the_same_step_takes_the_same_time_twice(network):
    first, second = step(network), step(network)
    assert first.makespan_ps == second.makespan_ps
    assert first.unit_ps == second.unit_ps


@pytest.mark.parametrize("seed", range(12))
def test_small_and_odd_machines_neither_stall_for_ever_nor_lose_a_byte(network, seed):
    rng = random.Random(seed)

    def buffer():
        return BufferSpec(rng.randrange(41_000, 90_000), 1 + (rng.random() < 0.5))

    machine = replace(
        MACHINE,
        pe_array=PEArraySpec(rng.choice([2, 8, 32]), rng.choice([4, 16]), overlap=seed % 2 == 0),
        buffers=BuffersSpec(buffer(), buffer(), buffer(), buffer(), rng.choice([0, 999, 50_000])),
        dma=DmaSpec(
            rng.choice([8, 64]), rng.choice([8, 64]), rng.choice([0, 40]), rng.choice([1, 4])
        ),
    )
    dataflow = rng.choice([OutputStationary(), WeightStationary()])
    schedule = rng.choice([SeparateEma(), LayerwiseEma(), DeferredWriteback(2)])
    passes = Passes(rng.choice([0, 3]), 5, rng.choice([0, 2, 5]), rng.random() < 0.8)
    for trained in (network, SEPARABLE):
        check(step(trained, machine, schedule, dataflow, passes).ledgers(trained, passes))


def test_the_waits_of_operations_are_those_of_their_units(network):
    buffers = replace(MACHINE.buffers, resident_bytes=0)  # every result leaves, slowly
    timeline = step(network, replace(MACHINE, buffers=buffers, dma=DmaSpec(8, 1)))
    for unit in ("pe_array", "vector_unit"):
        records = [record for record in timeline.records if record.operation.unit == unit]
        by_cause = timeline.unit_ps[unit]
        assert by_cause["busy"] == sum(record.busy_ps for record in records)
        assert by_cause["operand"] == sum(record.wait_operand_ps for record in records)
        assert by_cause["dependency"] == sum(record.wait_dependency_ps for record in records)
        assert by_cause["output"] == sum(record.wait_output_ps for record in records) > 0
        assert by_cause["busy"] == 5000 * sum(
            tile.cycles for record in records for tile in record.operation.tiles
        )


def test_a_tile_waits_for_the_last_byte_that_it_needs():
    made = tensor(64)
    half = Tile(cycles=10, makes=((made, 32),))
    needs_all = Tile(cycles=7, needs=((made, 64),))
    timeline = simulate(
        [operation("pe_array", half, half), operation("vector_unit", needs_all)], MACHINE
    )
    assert timeline.makespan_cycles == 27
