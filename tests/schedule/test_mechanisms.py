"""Why a fused average is faster than a separate one: by what the memory does, counted twice."""

from dataclasses import replace

import pytest

from accsim import engine
from accsim.engine import MECHANISMS
from accsim.hardware import boards
from accsim.hardware.dma import DmaSpec
from accsim.hardware.dram_controller import DramController
from accsim.network import Linear, Network, Shape
from accsim.passes import Passes
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.separate_ema import SeparateEma

# 2.1 GB/s, and DMA engines that are twice as fast and start at once: what moves waits for it alone.
BOARD = replace(
    boards.PYNQ_Z2,
    dma=DmaSpec(read_bytes_per_cycle=32, write_bytes_per_cycle=32, startup_cycles=0),
    check_board=False,
)
STEP = Passes(teacher_forward=8, student_forward=8, backward=8, ema=True)
DDR = tuple(MECHANISMS)


def fully_connected(size, layers=1):
    hidden = tuple(Linear(f"hidden{n}", size) for n in range(layers))
    return Network("fully connected", Shape(1, 1, size), (*hidden, Linear("last", 10)))


def bus_clocks(spec, commands):
    """Clocks that a sequence of commands must take of the bus, from the part's timings alone.

    Every burst moves for nBL. A burst of the other direction than the one before comes later by
    what the part asks of the bus; one that is sent as soon as its row allows waits nRCD, and nRP
    where the row before was closed for it; one that is sent as soon as a refresh allows waits from
    the closing of all rows to its end. None is longer than the gap that there is.
    """
    clocks = dict.fromkeys(DDR, 0)
    opened, closed = {}, {}
    end = drained = refreshed = 0
    before = None
    for cycle, name, _, group, bank, _ in commands:
        place = group, bank
        if name == "ACT":
            opened[place] = cycle
        elif name == "PRE":
            closed[place] = cycle
        elif name == "PREA":
            drained = cycle
        elif name == "REF":
            refreshed = cycle + spec.nRFC
        else:
            start = cycle + (spec.CL if name == "RD" else spec.CWL)
            turn = {
                ("RD", "WR"): spec.nRTW + spec.CWL - spec.CL - spec.nBL,
                ("WR", "RD"): spec.nWTR_L + spec.CL,
            }.get((before, name), 0)
            waited = cycle <= refreshed + spec.nRCD + 1
            refresh = max(refreshed - max(end, drained), 0) if waited else 0
            turn = min(turn, start - end - refresh)
            row = spec.nRCD if cycle - opened[place] <= spec.nRCD + 1 else 0
            if row and closed.get(place, -spec.nRP) + spec.nRP == opened[place]:
                row += spec.nRP
            clocks["ddr_data"] += spec.nBL
            clocks["ddr_rows"] += min(row, start - end - refresh - turn)
            clocks["ddr_turnaround"] += turn
            clocks["ddr_refresh"] += refresh
            end, before = start + spec.nBL, name
    return clocks


def test_commands_and_timings_foretell_what_a_fused_average_saves(lower):
    """A read less of every student's word: all but 2 % of the cycles is what the memory does."""
    network = fully_connected(640)
    foretold, cycles, reads = {}, {}, {}
    for schedule in (SeparateEma(), FusedUpdate()):
        memories = []

        class Written(DramController):
            """Writes down its commands."""

            def __init__(self, *args, memories=memories):
                super().__init__(*args, trace=True)
                memories.append(self)

        timeline = engine.simulate(lower(schedule, BOARD, STEP, network=network), BOARD, Written)
        clocks = bus_clocks(BOARD.dram, memories[0].commands)
        foretold[schedule] = {
            name: count * BOARD.dram.tCK_ps / BOARD.period_ps for name, count in clocks.items()
        }
        cycles[schedule] = timeline.makespan_cycles
        reads[schedule] = timeline.dram_counts["reads"]
    separate, fused = cycles
    assert reads[separate] - reads[fused] == pytest.approx(network.parameters * 2 / 16, rel=0.01)
    saved = {name: foretold[separate][name] - foretold[fused][name] for name in DDR}
    assert sum(saved.values()) == pytest.approx(cycles[separate] - cycles[fused], rel=0.02)
    assert saved["ddr_data"] > 0.9 * sum(saved.values())


@pytest.mark.parametrize("layers", [1, 2])
def test_the_memory_accounts_for_what_a_fused_average_saves(lower, layers):
    """Bytes, rows, turnaround and refresh of the whole step, within 2 %."""
    network = fully_connected(1024, layers)
    separate, fused = (
        engine.simulate(lower(schedule, BOARD, STEP, network=network), BOARD)
        for schedule in (SeparateEma(), FusedUpdate())
    )
    saved = separate.makespan_ps - fused.makespan_ps
    bus = {name: ps - fused.unit_ps["ddr"][name] for name, ps in separate.unit_ps["ddr"].items()}
    assert sum(bus.values()) == saved
    assert sum(bus[MECHANISMS[name]] for name in DDR) == pytest.approx(saved, rel=0.02)
    path = {name: ps - fused.mechanism_ps[name] for name, ps in separate.mechanism_ps.items()}
    assert sum(path.values()) == saved
    assert sum(path[name] for name in DDR) == pytest.approx(saved, rel=0.05)
    assert path["dma"] == pytest.approx(0, abs=0.01 * saved)
    assert path["ddr_rows"] < 0 < path["ddr_data"]  # more arrays take turns, and open more rows


def test_lanes_that_are_slower_than_the_memory_are_named(lower):
    """One lane takes a cycle a word in either pass: no byte less saves any."""
    board = replace(BOARD, vector_unit=replace(BOARD.vector_unit, lanes=1))
    network = fully_connected(256)
    separate, fused = (
        engine.simulate(lower(schedule, board, STEP, network=network), board).mechanism_ps
        for schedule in (SeparateEma(), FusedUpdate())
    )
    saved = {name: separate[name] - fused[name] for name in separate}
    assert saved["vector_unit"] > 0.95 * sum(saved.values())
    assert saved["vector_unit"] / board.period_ps == pytest.approx(network.parameters, rel=0.02)
