"""Addresses by hand, traces replayed, and every transfer held against what it should have found."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_twin import STORED, MemoryFault, check_on_chip, check_transfers, meant

from accsim import engine
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.tile import Tensor, Tile, Transfer
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.hardware import boards
from accsim.hardware.buffer import Buffer, BufferSpec, BuffersSpec
from accsim.hardware.dma import DmaSpec
from accsim.network import Shape
from accsim.numerics import Numerics, Scaling, WeightScaling
from accsim.passes import Passes
from accsim.schedule import (
    AlternateTeacher,
    DeferredWriteback,
    FusedUpdate,
    GradientAccumulation,
    LayerwiseEma,
    OverlappedEma,
    SeparateEma,
    TeacherAhead,
    placement,
)
from accsim.schedule.allocation import Allocation, Arena, Life, Uses, follows, largest_first
from accsim.schedule.operation import Operation
from models import convnet, digits, mobilenet, resnet

PAGE = 4096
STEP = Passes(6, 9, 7, True)
PARTS = replace(STEP, micro_batches=((5, 4), (4, 3)))
SCHEDULES = {
    "SeparateEma": (SeparateEma(), STEP),
    "LayerwiseEma": (LayerwiseEma(), STEP),
    "DeferredWriteback": (DeferredWriteback(2), STEP),
    "FusedUpdate": (FusedUpdate(), STEP),
    "GradientAccumulation": (GradientAccumulation(LayerwiseEma(), 2), PARTS),
    "OverlappedEma": (OverlappedEma(), STEP),
    "TeacherAhead": (TeacherAhead(LayerwiseEma()), replace(STEP, ahead=True)),
    "queued labels": (LayerwiseEma(), replace(STEP, teacher_forward=9, queued=3)),
    "AlternateTeacher": (AlternateTeacher(SeparateEma()), replace(STEP, teacher_forward=0)),
}
NETWORKS = {
    "convnet": convnet.network(width=4),
    "resnet": resnet.network(width=4),  # residual branches: maps with two readers
    "mobilenet": mobilenet.network(width=4),
    "digits": digits.network(width=8),
}
MACHINE = boards.ZCU104
SMALL = replace(  # some maps and some sums stay on chip, most travel
    MACHINE,
    buffers=replace(MACHINE.buffers, gradient=BufferSpec(9000, 1), resident_bytes=40_000),
)


def tensor(size_bytes, address=None, name="made_up", kind="activations"):
    return Tensor(name, kind, size_bytes, 1, address)


def lowered(name, network, machine=SMALL, dataflow=None, numerics=None, store=True):
    schedule, passes = SCHEDULES[name]
    return schedule.operations(
        network, numerics or Numerics(), machine, dataflow or OutputStationary(), passes, store
    )


def heard(operations, machine):
    """The timeline, its transfers and its tiles."""
    works = []
    timeline = engine.simulate(operations, machine, listen=works.append)
    transfers = [work for work in works if isinstance(work.what, Transfer)]
    return timeline, transfers, [work for work in works if isinstance(work.what, Tile)]


# Addresses


def test_a_tensor_takes_the_smallest_gap_that_is_free_for_all_its_life():
    arena = Arena(1000)
    for size, first, last, address in (
        (100, 0, 9, 0),
        (300, 0, 4, 100),
        (100, 0, 9, 400),
        (200, 0, 4, 500),
        (50, 0, 9, 700),
        (150, 5, 9, 500),  # the gaps from 5 on: 300 at 100, 200 at 500; behind 750 only 250
        (300, 5, 9, 100),
        (250, 5, 9, 750),
        (60, 5, 9, None),  # 650 to 700 is left
        (60, 4, 4, 750),
    ):
        assert arena.take(size, first, last) == address


def test_of_equal_gaps_the_lowest_and_without_any_the_end():
    arena = Arena(grain_bytes=64)
    assert [arena.take(64, 0, at) for at in (9, 2, 9, 2, 9)] == [0, 64, 128, 192, 256]
    assert arena.take(1, 3, 3) == 64
    assert arena.take(65, 3, 3) == 320  # two grains: no gap of two


def test_the_largest_is_placed_first_and_what_finds_no_gap_is_left_out():
    lives = [
        Life(tensor(size), size, *span) for size, *span in ((40, 0, 1), (60, 1, 2), (90, 2, 3))
    ]
    places = largest_first("resident", lives, Arena(100))
    assert [(one.size_bytes, one.address) for one in places] == [(90, 0), (40, 0)]
    places = largest_first("resident", lives, Arena(150))
    assert [(one.size_bytes, one.address) for one in places] == [(90, 0), (60, 90), (40, 0)]


@given(
    st.lists(
        st.tuples(st.integers(1, 9 * PAGE), st.integers(0, 20), st.integers(0, 8)), max_size=30
    ),
    st.sampled_from([None, 20 * PAGE]),
)
def test_no_two_tensors_that_live_at_the_same_time_share_a_byte(wanted, room):
    lives = [Life(tensor(size), size, first, first + more) for size, first, more in wanted]
    places = largest_first("ddr", lives, Arena(room, PAGE))
    assert len(places) == len(lives) or room
    for number, one in enumerate(places):
        assert one.address % PAGE == 0
        assert room is None or one.end <= room
        for other in places[:number]:
            together = one.first <= other.last and other.first <= one.last
            assert not together or one.end <= other.address or other.end <= one.address


# Who waits for whom


def test_a_write_waits_for_the_other_unit_that_used_the_bytes_and_its_own_stores():
    old = Allocation("ddr", 0, tensor(100), 100, 0, 2)
    new = Allocation("ddr", 60, tensor(50), 50, 3, 4)
    beside = Allocation("ddr", 110, tensor(50), 50, 0, 2)

    def uses(unit, reads=(), writes=()):
        return Uses(unit, frozenset(reads), frozenset(writes))

    steps = [
        uses("vector_unit", writes=[old, beside]),
        uses("pe_array", reads=[old]),
        uses("vector_unit", reads=[old, beside]),
        uses("pe_array", writes=[new]),
        uses("vector_unit", reads=[new]),
    ]
    assert follows(steps, [old, new, beside]) == [(), (), (), (2,), ()]
    steps[3] = uses("vector_unit", writes=[new])  # its own stores of operation 0, the array's reads
    assert follows(steps, [old, new, beside])[3] == (0, 1)
    steps[1] = uses("vector_unit", reads=[old])
    assert follows(steps, [old, new, beside])[3] == (0,)


def test_a_tensor_in_place_waits_for_its_readers_and_a_copy_for_its_maker():
    stored = Allocation("ddr", 0, tensor(100), 100, 0, 9)
    copy = Allocation("resident", 0, stored.tensor, 100, 0, 2, copy=True)
    steps = [
        Uses("pe_array", frozenset([stored]), frozenset([copy])),
        Uses("pe_array", frozenset([stored]), frozenset()),
        Uses("vector_unit", frozenset([copy]), frozenset()),
        Uses("vector_unit", frozenset([stored]), frozenset([stored])),
    ]
    assert follows(steps, [stored, copy]) == [(), (), (0,), (1,)]


def operation(unit, *tiles, follows=()):
    return Operation(
        "student", unit, "made_up", unit, 1, None, 0, (), (), (), tiles, follows=follows
    )


def slow_reader_and_quick_writer(follows):
    """The vector unit takes 4 tiles of 500 cycles of what the array writes over at once."""
    old, new = tensor(4 * 64, 0, "old"), tensor(64, 192, "new")
    slots = {"fills": ("input",), "frees": ("input",)}
    reads = [Tile(cycles=500, loads=(Transfer(old, 64 * i, 64),), **slots) for i in range(4)]
    write = Tile(cycles=1, stores=(Transfer(new, 0, 64),), opens=("output",), drains=("output",))
    return [operation("vector_unit", *reads), operation("pe_array", write, follows=follows)]


def test_an_operation_begins_when_those_that_it_follows_are_over():
    timeline, transfers, tiles = heard(slow_reader_and_quick_writer((0,)), MACHINE)
    check_transfers([record.operation for record in timeline.records], transfers)
    ends = [work.end_ps for work in tiles]
    assert tiles[-1].start_ps == ends[-2] == max(ends[:-1])
    waited = timeline.records[1].wait_dependency_ps
    assert waited == tiles[-1].start_ps
    assert [work.unit for work, _ in timeline.path][-3:] == ["vector_unit", "pe_array", "dma_write"]


def test_an_operation_is_over_when_its_stores_have_landed():
    store = Transfer(tensor(6400, 0), 0, 6400)
    first = Tile(cycles=10, stores=(store,), opens=("output",), drains=("output",))
    _, transfers, tiles = heard(
        [operation("pe_array", first), operation("vector_unit", Tile(cycles=1), follows=(0,))],
        MACHINE,
    )
    assert tiles[0].end_ps < transfers[0].end_ps <= tiles[1].start_ps
    assert tiles[1].start_ps - transfers[0].end_ps < MACHINE.period_ps


# Faults that the twin must find


def test_a_removed_wait_is_found():
    operations = slow_reader_and_quick_writer(())
    with pytest.raises(MemoryFault, match=r"finds other bytes|overtakes a read|is under way"):
        check_transfers(operations, heard(operations, MACHINE)[1])


def test_a_tile_in_place_that_writes_what_the_next_one_reads_is_found():
    stored = tensor(128, 0, kind="weights")

    def in_place(order):
        return [
            Tile(
                cycles=100,
                loads=(Transfer(stored, 64 * i, 64),),
                stores=(Transfer(stored, 64 * j, 64),),
                fills=("input",), frees=("input",), opens=("output",), drains=("output",),
            )
            for i, j in enumerate(order)
        ]  # fmt: skip

    legal = [operation("vector_unit", *in_place((0, 1)))]
    check_transfers(legal, heard(legal, MACHINE)[1])
    crossed = [operation("vector_unit", *in_place((1, 0)))]  # the second load runs ahead
    with pytest.raises(MemoryFault):
        check_transfers(crossed, heard(crossed, MACHINE)[1])


def test_a_shortened_life_is_found(monkeypatch):
    def cut(memory, wanted, arena):
        short = [life._replace(last=(life.first + life.last) // 2) for life in wanted]
        return largest_first(memory, short, arena)

    monkeypatch.setattr(placement, "largest_first", cut)
    with pytest.raises(MemoryFault, match=r"where .* should be"):
        meant(lowered("SeparateEma", NETWORKS["convnet"]))


@pytest.mark.parametrize("follows", [(), (1,)])
def test_a_map_that_comes_on_chip_over_one_in_use_is_found(follows):
    """The array makes a map in 10 cycles where another lies that the vector unit reads for 500."""
    old, new = tensor(64, name="old"), tensor(64, name="new")
    places = [
        Allocation("resident", 0, old, 64, 0, 1),
        Allocation("resident", 32, new, 64, 2, 2),
    ]
    makes = (Tile(cycles=10, makes=((one, 64),)) for one in (old, new))
    operations = [
        replace(operation("pe_array", next(makes)), takes=(places[0],)),
        operation("vector_unit", Tile(cycles=500, needs=((old, 64),))),
        replace(operation("pe_array", next(makes), follows=follows), takes=(places[1],)),
    ]
    operations = [
        replace(one, on_chip=((data, 64),))
        for one, data in zip(operations, (old, old, new), strict=True)
    ]
    tiles = heard(operations, MACHINE)[2]
    if follows:
        check_on_chip(operations, tiles)
        return
    with pytest.raises(MemoryFault, match="new comes on chip over old"):
        check_on_chip(operations, tiles)


def test_without_waits_a_residual_network_would_lose_a_map():
    operations = [replace(one, follows=()) for one in lowered("SeparateEma", NETWORKS["resnet"])]
    with pytest.raises(MemoryFault, match="stage2a_conv1/output comes on chip over"):
        check_on_chip(operations, heard(operations, SMALL)[2])


def test_what_is_stored_lies_at_the_same_place_in_every_step():
    def places(name):
        made = lowered(name, NETWORKS["resnet"])
        takes = (one for operation in made for one in operation.takes if not one.copy)
        return {t.tensor.name: t.address for t in takes if t.tensor.kind in STORED}

    expected = places("SeparateEma")
    layers = [node for node in NETWORKS["resnet"].nodes if node.weights + node.vector_words]
    assert len(expected) == 3 * len(layers)  # weights, momentum, teacher
    assert all(places(name) == expected for name in SCHEDULES)


def test_a_student_that_is_its_own_teacher_stores_none():
    def end(own_labels):
        passes = Passes(6, 9, 7, False, own_labels=own_labels)
        made = SeparateEma().operations(
            NETWORKS["digits"], Numerics(), SMALL, OutputStationary(), passes
        )
        takes = [one for operation in made for one in operation.takes if not one.copy]
        return {one.tensor.kind for one in takes}, max(one.end for one in takes)

    (kinds, alone), (others, taught) = end(True), end(False)
    assert others - kinds == {"teacher"}
    assert alone < taught


# Every schedule


@pytest.fixture(scope="module")
def steps():
    """Steps of all networks by all schedules as the machine made them, each made once."""
    made = {}

    def step(network, schedule):
        key = network, schedule
        if key not in made:
            operations = lowered(schedule, NETWORKS[network])
            made[key] = operations, *heard(operations, SMALL)
        return made[key]

    return step


every_step = pytest.mark.parametrize(
    ("network", "schedule"), [(n, s) for n in NETWORKS for s in SCHEDULES]
)


@every_step
def test_every_transfer_finds_the_bytes_that_it_finds_in_program_order(network, schedule, steps):
    operations, _, transfers, tiles = steps(network, schedule)
    check_transfers(operations, transfers)
    check_on_chip(operations, tiles)


@every_step
def test_the_peaks_are_those_of_the_trace_of_allocations(network, schedule, steps):
    operations, timeline, transfers, _ = steps(network, schedule)
    live, ends, sums = {}, {}, {}
    for row in timeline.allocations().itertuples():
        held = live.setdefault(row.memory, set())
        place = row.address, row.address + row.bytes, row.tensor
        if row.event == "give":
            held.remove(place)
            continue
        assert all(place[1] <= address or end <= place[0] for address, end, _ in held)
        held.add(place)
        ends[row.memory] = max(ends.get(row.memory, 0), place[1])
        total = sum(end - address for address, end, _ in held)
        sums[row.memory] = max(sums.get(row.memory, 0), total)
    assert not any(live.values())
    memory = timeline.memory().set_index("memory")
    for name in ("ddr", "resident"):
        peak_bytes, least_bytes, capacity_bytes = memory.loc[name]
        assert peak_bytes == ends[name] <= capacity_bytes
        assert least_bytes == sums[name] <= peak_bytes
    assert ends.get("gradient", 0) <= SMALL.buffers.gradient.capacity_bytes
    touched = max(move.what.address + move.what.size_bytes for move in transfers)
    assert touched <= ends["ddr"]
    if schedule in ("SeparateEma", "FusedUpdate"):  # they touch all that they store
        assert touched == ends["ddr"]
    pages = [-(-one.size_bytes // PAGE) for o in operations for one in o.takes if not one.copy]
    assert ends["ddr"] < PAGE * sum(pages)  # what it would be without reuse


@every_step
def test_slots_are_held_as_a_replay_of_takes_and_gives_says(network, schedule, monkeypatch):
    held, most = {}, {}
    names = iter(("input", "weight", "output", "gradient"))

    class Overheard(Buffer):
        def __init__(self, env, spec):
            super().__init__(env, spec)
            self.name = next(names)

        def take(self):
            giver = yield from super().take()
            held[self.name] = held.get(self.name, 0) + 1
            most[self.name] = max(most.get(self.name, 0), held[self.name])
            return giver

        def give(self, by=None):
            held[self.name] -= 1
            super().give(by)

    monkeypatch.setattr(engine, "Buffer", Overheard)
    operations = lowered(schedule, NETWORKS[network])
    timeline = engine.simulate(operations, SMALL)
    assert timeline.slots_held == {name: most.get(name, 0) for name in timeline.slots_held}
    assert not any(held.values())
    memory = timeline.memory().set_index("memory")
    assert (memory["peak_bytes"] <= memory["capacity_bytes"]).all()
    largest = {"input": 0, "output": 0}
    for made in operations:
        words = made.pass_name in ("update", "ema", "accumulate")  # which stream parameters too
        for tile in made.tiles:
            loads = [t for t in tile.loads if t.buffer == "input"]
            for name, moved in (("input", loads), ("output", tile.stores)):
                streams = [t.size_bytes for t in moved if words or t.tensor.kind not in STORED]
                if name in (*tile.fills, *tile.opens):
                    largest[name] = max(largest[name], sum(streams))
    for name, size in largest.items():
        assert timeline.slots_held[name] * size <= memory.loc[name, "peak_bytes"]


@pytest.mark.parametrize("seed", range(16))
def test_no_machine_moves_bytes_that_are_still_wanted(seed):
    rng = random.Random(seed)

    def buffer(least=20_000):
        return BufferSpec(rng.randrange(least, 90_000), rng.choice([1, 2, 3]))

    machine = replace(
        MACHINE,
        vector_unit=replace(
            MACHINE.vector_unit,
            lanes=rng.choice([1, 8, 32]),
            fused=rng.random() < 0.7,
            sums_on_arrival=rng.random() < 0.7,
        ),
        buffers=BuffersSpec(
            buffer(), buffer(), buffer(), buffer(), rng.choice([0, 999, 9_000, 60_000])
        ),
        dma=DmaSpec(
            rng.choice([1, 8, 64]),
            rng.choice([1, 8, 64]),
            rng.choice([0, 40]),
            rng.choice([1, 4]),
            weight_channel=rng.random() < 0.5,
            prefetch=rng.random() < 0.5,
        ),
        check_board=False,
    )
    network = digits.network(width=4) if seed % 2 else resnet.network(width=2, image=Shape(8, 8, 3))
    operations = lowered(
        rng.choice(list(SCHEDULES)),
        network,
        machine,
        rng.choice([OutputStationary(), WeightStationary()]),
        Numerics(
            error_feedback=True,
            weight_scaling=rng.choice(list(WeightScaling)),
            scaling=Scaling.CURRENT if seed % 3 == 0 else Scaling.DELAYED,
        ),
        rng.random() < 0.5,
    )
    _, transfers, tiles = heard(operations, machine)
    check_transfers(operations, transfers)
    check_on_chip(operations, tiles)
