"""Passes over words: how long the runs are that take turns in DDR."""

from dataclasses import replace

import pytest

from accsim import engine
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.sweep import WordSweep, nearest_power_of_two
from accsim.dataflow.tile import Operand, Tensor
from accsim.hardware import boards
from accsim.hardware.buffer import BufferSpec
from accsim.schedule.operation import Operation
from accsim.units import KIB

BOARDS = (boards.ZCU104, boards.ZCU102, boards.KV260, boards.ULTRA96, boards.PYNQ_Z2)
ROLES = {
    ("ema",): (("weights", "teacher"), ("teacher",)),
    ("update", "ema"): (
        ("weights", "momentum", "gradient", "teacher"),
        ("weights", "momentum", "teacher"),
    ),
}


def word_sweep(words, chain=("ema",), word_bytes=2):
    """A pass over `words` words of tensors that lie one after the other, as those of a step do."""
    size = words * word_bytes
    pages = -(-size // 4096)
    operands = {
        kind: Operand(Tensor(kind, kind, size, 1, at * pages * 4096), 1, pending=False)
        for at, kind in enumerate(("weights", "momentum", "teacher", "gradient"))
    }
    reads, writes = (tuple(operands[kind] for kind in side) for side in ROLES[chain])
    return WordSweep(label="fc/ema", chain=chain, words=words, reads=reads, writes=writes)


def runs(plan):
    return [t.size_bytes for tile in plan.tiles for t in (*tile.loads, *tile.stores)]


def cycles(machine, sweep, dataflow):
    plan = sweep.plan(machine, dataflow)
    operation = Operation(
        "teacher", "fc", "ema", "vector_unit", 0, None, sweep.words, plan.reads, plan.writes, (),
        plan.tiles,
    )  # fmt: skip
    return engine.simulate((operation,), machine).makespan_cycles


@pytest.mark.parametrize("run_bytes", [256, 1024, 4096, 16384])
def test_runs_are_as_long_as_asked(run_bytes):
    plan = word_sweep(20_000).plan(boards.ZCU104, OutputStationary(run_bytes=run_bytes))
    assert max(runs(plan)) == run_bytes
    assert len(plan.tiles) == -(-40_000 // run_bytes)
    assert sum(runs(plan)) == 3 * 40_000


def test_runs_are_no_longer_than_the_buffers_have_room_for():
    """Two tensors share a slot of 8 KiB; by default four tiles do."""
    buffers = replace(boards.ZCU104.buffers, input=BufferSpec(16 * KIB))
    machine = replace(boards.ZCU104, buffers=buffers)
    plan = word_sweep(2**20).plan(machine, OutputStationary(run_bytes=2**20))
    assert max(runs(plan)) == 4 * KIB
    assert max(runs(word_sweep(2**20).plan(machine, OutputStationary()))) == KIB


def test_tiles_that_share_a_slot_are_read_ahead():
    """A slot of 512 KiB holds 64 pairs of runs of 4 KiB: the reader waits for the 129th."""
    plan = word_sweep(2**19).plan(boards.ZCU104, OutputStationary(run_bytes=4 * KIB))
    filling = [number for number, tile in enumerate(plan.tiles) if "input" in tile.fills]
    freeing = [number for number, tile in enumerate(plan.tiles) if "input" in tile.frees]
    assert filling == [0, 64, 128, 192]
    assert freeing == [63, 127, 191, 255]
    assert [n for n, tile in enumerate(plan.tiles) if "output" in tile.opens] == filling
    assert [n for n, tile in enumerate(plan.tiles) if "output" in tile.drains] == freeing


@pytest.mark.parametrize("words", [2**14, 2**16, 2**18, 2**20])
def test_runs_cost_as_little_as_any_number_of_them(words):
    """Of n tiles: n times three runs that open rows, and an n-th of what moves at each end."""
    machine = boards.ZCU104
    dram = machine.dram
    clocks = 3 * 2 * words // dram.burst_bytes * dram.nBL

    def cost(tiles):
        return tiles * 3 * (dram.nRP + dram.nRCD) + clocks / tiles

    taken = len(word_sweep(words).plan(machine, OutputStationary()).tiles)
    least = min(cost(tiles) for tiles in range(1, 1000))
    assert least <= cost(taken) < 1.07 * least  # a power of two: (sqrt 2 + 1 / sqrt 2) / 2 at worst


def test_a_run_is_no_shorter_than_the_start_of_the_next():
    slow = replace(boards.ZCU104, dma=replace(boards.ZCU104.dma, startup_cycles=400))
    plan = word_sweep(2**16).plan(slow, OutputStationary())
    assert max(runs(plan)) == 32 * KIB  # 400 cycles of 64 bytes are 25,600
    assert len(runs(word_sweep(400).plan(slow, OutputStationary()))) == 3  # not even cut


@pytest.mark.parametrize("chain", ROLES, ids="+".join)
@pytest.mark.parametrize("words", [256 * 257, 1024 * 1025])
@pytest.mark.parametrize("machine", BOARDS, ids=lambda machine: machine.name)
def test_the_runs_of_every_board_are_near_the_best(machine, words, chain):
    sweep = word_sweep(words, chain)
    tried = [OutputStationary(run_bytes=KIB << n) for n in range(7)]
    best = min(cycles(machine, sweep, dataflow) for dataflow in tried)
    assert cycles(machine, sweep, OutputStationary()) <= 1.05 * best


def test_nearest_power_of_two_has_the_least_ratio():
    for count in range(1, 200):
        powers = [1 << n for n in range(9)]
        best = min(powers, key=lambda power: max(power / count, count / power))
        assert nearest_power_of_two(count) == best


def test_a_run_of_nothing_is_refused():
    with pytest.raises(ValueError, match="run_bytes must be at least 1, not 0"):
        OutputStationary(run_bytes=0)
