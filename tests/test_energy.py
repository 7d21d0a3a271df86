from dataclasses import replace

import pytest

from accsim import energy
from accsim.dataflow.output_stationary import OutputStationary
from accsim.engine import simulate
from accsim.hardware import boards
from accsim.ledger import LedgerError
from accsim.network import RELU, BatchNorm, Conv2d, Linear, Network, Shape
from accsim.numerics import Numerics
from accsim.passes import Passes
from accsim.schedule.separate_ema import SeparateEma
from accsim.units import AJ_PER_JOULE

MACHINE = boards.ZCU104
TABLE = energy.energy_table(MACHINE)


@pytest.fixture(scope="module")
def timeline():
    network = Network(
        "small",
        Shape(8, 8, 3),
        (Conv2d("conv", 8, 3, padding=1), BatchNorm("norm", RELU, 2), Linear("fc", 10)),
    )
    operations = SeparateEma().operations(
        network, Numerics(), MACHINE, OutputStationary(), Passes(4, 8, 8, True)
    )
    return simulate(operations, MACHINE)


def test_every_action_has_a_source_and_lies_in_its_range():
    for action in TABLE.actions:
        assert action.source
        assert action.low <= action.joules <= action.high


def test_a_value_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"joules of action 'mac' must be in its range 1 to 2"):
        energy.Action("mac", "pe_array", "MAC", 3, 1, 2, "nowhere")


def test_an_unknown_action_is_named_with_those_that_exist():
    with pytest.raises(KeyError, match=r"action must be one of .*'mac'.* not 'mul'"):
        TABLE["mul"]


def test_an_int8_mac_is_fourteen_times_the_asic():
    # Horowitz: 0.2 pJ multiply + 0.1 pJ add at 45 nm; Kuon and Rose: 14 times
    assert TABLE["mac"].joules == pytest.approx(4.2e-12)
    assert TABLE["mac"].low == pytest.approx(0.3e-12)


@pytest.mark.parametrize(
    ("total", "weights"), [(10, [1, 1, 1]), (7, [0, 5, 0]), (0, [1, 2]), (5, [0, 0]), (1, [3] * 7)]
)
def test_shares_sum_to_the_whole_and_differ_from_proportion_by_less_than_one(total, weights):
    shares = energy.apportion(total, weights)
    assert sum(shares) == total
    if sum(weights):
        for share, weight in zip(shares, weights, strict=True):
            assert abs(share - total * weight / sum(weights)) < 1


def test_joules_are_counts_times_the_table(timeline):
    account = energy.account(timeline, TABLE)
    macs = timeline.array_macs
    assert account.by_action["mac"] == macs * round(TABLE["mac"].joules * AJ_PER_JOULE)
    assert account.by_action["static"] == timeline.makespan_ps * 3 * 10**6  # 3 W
    counts = timeline.dram_counts
    assert account.by_action["ddr_read"] == counts["reads"] * round(
        MACHINE.dram.read_joules * AJ_PER_JOULE
    )
    moved = 64 * (counts["reads"] + counts["writes"])
    assert account.by_action["ddr_io_phy"] == moved * 50 * 10**6  # 50 pJ a byte
    assert account.total_aj == sum(account.by_action.values())


def test_components_and_passes_agree_to_the_attojoule(timeline):
    account = energy.account(timeline, TABLE)
    account.ledger().check()
    by_pass = sum(sum(parts.values()) for parts in account.by_operation)
    assert by_pass == account.total_aj


def test_an_operation_that_counts_one_mac_too_many_opens_the_ledger(timeline):
    timeline.records[0].macs += 1
    try:
        with pytest.raises(LedgerError, match=r"ledger 'energy' does not close.*row pe_array"):
            energy.account(timeline, TABLE).ledger().check()
    finally:
        timeline.records[0].macs -= 1


def test_an_idle_second_costs_static_power_standby_and_refresh():
    account = energy.idle_account(10**12, MACHINE, TABLE)
    dram = MACHINE.dram
    refreshes = 10**12 // (dram.nREFI * dram.tCK_ps)
    assert account["static"] == 3 * AJ_PER_JOULE
    assert account["ddr_refresh"] == refreshes * round(dram.refresh_joules * AJ_PER_JOULE)
    assert account["ddr_precharged"] / AJ_PER_JOULE == pytest.approx(dram.precharged_watts)


def test_every_idle_rank_stands_by_and_is_refreshed():
    many = replace(MACHINE, dram=replace(MACHINE.dram, ranks=2, channels=2))
    one, four = (energy.idle_account(10**12, machine, TABLE) for machine in (MACHINE, many))
    assert four == {
        "static": one["static"],
        "ddr_precharged": 4 * one["ddr_precharged"],
        "ddr_refresh": 4 * one["ddr_refresh"],
    }
