from dataclasses import replace

import pytest

from accsim.clock import StepClock
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.hardware.buffer import BufferSpec
from accsim.hardware.pe_array import PEArraySpec
from accsim.network import RELU, BatchNorm, Conv2d, Linear, Network, Shape
from accsim.numerics import Numerics
from accsim.passes import Passes
from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.separate_ema import SeparateEma
from accsim.units import joules

MACHINE = boards.ZCU104
NETWORK = Network(
    "small",
    Shape(8, 8, 3),
    (Conv2d("conv", 8, 3, padding=1), BatchNorm("norm", RELU, 2), Linear("fc", 10)),
)
FULL = Passes(12, 16, 16, True)


def clock(schedule=None, machine=MACHINE, numerics=None, network=NETWORK):
    return StepClock(
        network, numerics or Numerics(), schedule or SeparateEma(), machine, OutputStationary()
    )


def test_a_step_is_simulated_once_and_costs_the_same_again():
    watch = clock()
    first = watch.charge(FULL, 1)
    spent = watch.host_seconds
    assert watch.charge(FULL, 2) == first
    assert watch.host_seconds == spent > 0
    assert watch.now_ps == 2 * first.ps == 2 * first.cycles * 5000
    assert first.seconds == first.ps / 1e12


def test_backward_samples_are_rounded_up_to_the_granule():
    watch = clock()
    assert watch.charge(replace(FULL, backward=9), 1) == watch.charge(FULL, 2)
    assert watch.charge(replace(FULL, backward=8), 3).cycles < watch.charge(FULL, 4).cycles
    assert len(watch.totals().kinds) == 2


def test_the_commonest_kind_is_the_longest_of_those_that_ran_equally_often():
    watch = clock()
    with pytest.raises(ValueError, match="empty"):
        watch.commonest()
    short = replace(FULL, backward=8)
    for step, passes in enumerate((short, FULL, FULL, short), 1):
        watch.charge(passes, step)
    kind, often = watch.commonest()
    assert (kind.passes.backward, often) == (FULL.backward, 2)
    watch.charge(short, 5)
    assert watch.commonest()[1] == 3


def test_rounding_up_never_exceeds_the_samples_of_the_forward_pass():
    watch = clock()
    cost = watch.charge(Passes(0, 13, 12, False), 1)
    conv, fc = 64 * 27 * 8, 4 * 4 * 8 * 10
    assert cost.macs == 13 * (conv + fc) + 13 * (conv + 2 * fc)


def test_rejected_samples_cost_nothing_backward():
    watch = clock()
    nothing, all_ = watch.charge(replace(FULL, backward=0), 1), watch.charge(FULL, 2)
    assert nothing.macs == 28 * (64 * 27 * 8 + 4 * 4 * 8 * 10)
    assert nothing.joules < all_.joules
    assert nothing.cycles < all_.cycles


def test_a_deferred_write_back_makes_two_kinds_of_step():
    watch = clock(DeferredWriteback(3))
    writes = [watch.charge(FULL, step).ddr_write_bytes for step in range(1, 7)]
    words = NETWORK.parameters
    assert writes == [writes[0], writes[0], writes[0] + 2 * words] * 2
    assert watch.totals().kinds["steps"].tolist() == [4, 2]


def test_idle_time_passes_and_costs_static_power():
    watch = clock()
    watch.charge(FULL, 1)
    busy_joules, until = watch.joules, watch.now_ps + 10**10
    watch.wait_until(until)
    assert watch.now_ps == until
    assert watch.joules - busy_joules > 3.0 * 0.01  # 3 W for 10 ms, and the memory's standby
    watch.wait_until(5)  # has passed
    assert watch.now_ps == until


def test_totals_are_the_sum_of_the_steps():
    watch = clock()
    costs = [watch.charge(FULL, 1), watch.charge(FULL, 2), watch.charge(Passes(0, 8, 8, False), 3)]
    watch.wait_until(watch.now_ps + 7 * 5000)
    totals = watch.totals()
    assert totals.steps == 3
    assert totals.cycles == sum(cost.cycles for cost in costs) + 7
    assert totals.macs == sum(cost.macs for cost in costs) == totals.passes["macs"].sum()
    for side in ("read", "write"):
        moved = sum(getattr(cost, f"ddr_{side}_bytes") for cost in costs)
        assert getattr(totals, f"ddr_{side}_bytes") == moved
        assert totals.tensors[f"{side}_bytes"].sum() == moved
        assert totals.passes[f"ddr_{side}_bytes"].sum() == moved
    idle = totals.energy.loc[totals.energy["pass"] == "idle", "joules"].sum()
    assert totals.joules == pytest.approx(sum(cost.joules for cost in costs) + idle)
    assert totals.energy["joules"].sum() == pytest.approx(totals.joules)
    for _, causes in totals.units.groupby("unit"):
        assert causes["cycles"].sum() == pytest.approx(totals.cycles)
    assert totals.critical_path["cycles"].sum() == pytest.approx(totals.cycles)
    waited = totals.critical_path.set_index(["pass", "unit"])["cycles"]
    assert waited["idle", "idle"] == 7
    assert sum(totals.mechanism_cycles.values()) == pytest.approx(totals.cycles)
    assert totals.mechanism_cycles["idle"] == 7
    assert all(book.closed for book in totals.ledgers.values())
    assert totals.ledgers["time"].right_rows["pe_array"] == watch.now_ps
    energy = totals.ledgers["energy"]
    assert joules(energy.left) == pytest.approx(totals.joules)


def test_memory_is_the_most_that_any_charged_step_takes():
    def memory(*charged):
        watch = clock()
        for passes in charged:
            watch.charge(passes, 1)
        return watch.totals().memory.set_index("memory")["peak_bytes"]

    small = Passes(0, 9, 0, False)
    assert (memory(FULL, small) == memory(FULL)).all()
    assert memory(FULL)["ddr"] > memory(small)["ddr"]
    assert memory(FULL)["gradient"] > memory(small)["gradient"] == 0


def test_a_step_is_held_against_the_one_in_which_every_layer_trains():
    watch, other = clock(), clock()
    some = watch.kind(replace(FULL, frozen=("conv",)), 1)
    whole = watch.unfrozen(some)
    assert whole.passes == FULL
    assert whole.timeline.makespan_ps == other.charge(FULL, 1).ps > some.timeline.makespan_ps
    assert watch.now_ps == 0
    assert watch.totals().steps == 0


def test_a_clock_that_charged_nothing_has_empty_tables():
    totals = clock().totals()
    assert totals.steps == totals.cycles == totals.joules == 0
    assert totals.passes.empty
    assert totals.memory.empty


def test_a_buffer_too_small_for_one_tile_is_found_before_time_starts():
    buffers = replace(MACHINE.buffers, gradient=BufferSpec(3, slots=1))
    with pytest.raises(ValueError, match=r"gradient buffer must hold one tile of fc/backward_weig"):
        clock(machine=replace(MACHINE, buffers=buffers))


def test_operands_must_fit_the_array():
    narrow = replace(MACHINE, pe_array=PEArraySpec(8, 8, operand_bits=4))
    with pytest.raises(
        ValueError, match=r"weight_bits must be at most operand_bits .*\(4\), not 8"
    ):
        clock(machine=narrow)
    short = replace(MACHINE, pe_array=PEArraySpec(8, 8, accumulator_bits=24))
    with pytest.raises(ValueError, match=r"accumulator_bits must be at most .*\(24\), not 32"):
        clock(machine=short)


def test_wider_stores_move_more_bytes():
    narrow = Numerics(master_bits=8, teacher_bits=8, momentum_bits=8)
    wide = clock().charge(FULL, 1)
    assert clock(numerics=narrow).charge(FULL, 1).ddr_read_bytes < wide.ddr_read_bytes
