"""Energy: actions counted by the hardware times joules an action, one sourced row each.

Energies are whole attojoules, so that the sum over components and the sum over passes agree to
the last one. FPGA energies are estimates from published numbers: a row carries its range.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.dram_energy import Price, prices
from accsim.ledger import Ledger
from accsim.units import joules, joules_to_aj, watts_to_aj_per_ps

HOROWITZ = "Horowitz, ISSCC 2014 (45 nm, 0.9 V)"
KUON_ROSE = "Kuon and Rose, IEEE TCAD 2007 (FPGA draws 14 times an ASIC's dynamic power)"
MICRON = "Micron TN-40-07 formulas with the part's IDD currents"


@dataclass(frozen=True)
class Action:
    """One thing that costs energy each time: a MAC, a byte, a command, a second.

    Raises ValueError where `joules` is outside its range.
    """

    name: str
    component: str  # pe_array, vector_unit, buffers, ddr, ddr_io, board
    unit: str  # of the count
    joules: float
    low: float
    high: float
    source: str

    def __post_init__(self):
        if not 0 <= self.low <= self.joules <= self.high:
            raise ValueError(
                f"joules of action {self.name!r} must be in its range {self.low} to {self.high}, "
                f"not {self.joules}"
            )


@dataclass(frozen=True)
class EnergyTable:
    """All actions of one accelerator; `name` goes beside every energy that a report prints."""

    name: str
    actions: tuple[Action, ...] = field(repr=False)

    def __getitem__(self, name: str) -> Action:
        for action in self.actions:
            if action.name == name:
                return action
        raise KeyError(f"action must be one of {[a.name for a in self.actions]}, not {name!r}")

    def frame(self) -> pd.DataFrame:
        """The table as it is printed."""
        return pd.DataFrame([vars(action) for action in self.actions])


def energy_table(accelerator: AcceleratorSpec) -> EnergyTable:
    """The actions of `accelerator`: its memory part's, its board's, and FPGA estimates.

    An FPGA estimate is the ASIC's energy of the same arithmetic times 14 (LUT-only fabric); its
    low end is the ASIC's own, its high end twice the estimate. Hard multipliers and block memory
    narrow the gap, clock and routing of a real design widen it.
    """
    dram, board = accelerator.dram, accelerator.board
    gap = 14

    def fpga(name: str, component: str, unit: str, asic_pj: float, what: str) -> Action:
        asic = asic_pj * 1e-12
        source = f"estimate: {what}, {HOROWITZ}, x {KUON_ROSE}"
        return Action(name, component, unit, gap * asic, asic, 2 * gap * asic, source)

    def part(price: Price) -> Action:
        low, high = price.joules * 0.8, price.joules * 1.2
        return Action(f"ddr_{price.name}", "ddr", price.unit, price.joules, low, high, MICRON)

    low, high = dram.io_phy_pj_per_byte_range
    least, most = board.static_watts_range
    return EnergyTable(
        f"{accelerator.name}, {dram.name}",
        (
            fpga("mac", "pe_array", "MAC", 0.3, "int8 multiply 0.2 pJ + int32 add 0.1 pJ"),
            fpga(
                "vector_operation", "vector_unit", "operation", 0.9,
                "int16 multiply as a quarter of int32's 3.1 pJ + int32 add 0.1 pJ",
            ),
            Action(
                "buffer_read", "buffers", "byte", 2.5e-12, 1.25e-12, 17.5e-12,
                f"estimate: 8 KB cache 1.25 pJ/byte, 32 KB 2.5 pJ/byte, {HOROWITZ}; block memory "
                f"is hard, high end x {KUON_ROSE}",
            ),
            Action(
                "buffer_write", "buffers", "byte", 2.5e-12, 1.25e-12, 17.5e-12,
                "as buffer_read",
            ),
            *(part(price) for price in prices(dram)),
            Action(
                "ddr_io_phy", "ddr_io", "byte", dram.io_phy_joules_per_byte,
                low * 1e-12, high * 1e-12,
                "estimate: driver and termination currents of the bus standard, and a PHY",
            ),
            Action(
                "static", "board", "second", board.static_watts, least, most,
                f"estimate for {board.name}; EF-Train (TODAES 2022) draws 7.72 W in all on ZCU102",
            ),
        ),
    )  # fmt: skip


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of `total` in proportion to `weights`; they sum to `total` exactly.

    A share is the difference of two running totals rounded down. Without any weight the last one
    takes all.
    """
    whole = sum(weights)
    shares, running, given = [], 0, 0
    for position, weight in enumerate(weights):
        running += weight
        upto = total * running // whole if whole else total * (position + 1 == len(weights))
        shares.append(upto - given)
        given = upto
    return shares


@dataclass(frozen=True)
class EnergyAccount:
    """Attojoules of one step by component, by action and by operation."""

    by_action: dict[str, int]
    by_component: dict[str, int]
    by_operation: tuple[dict[str, int], ...]  # component -> attojoules, in program order

    @property
    def total_aj(self) -> int:
        return sum(self.by_component.values())

    @property
    def joules(self) -> float:
        return joules(self.total_aj)

    def ledger(self) -> Ledger:
        """Energy by component against energy by pass, row by component."""
        by_pass = dict.fromkeys(self.by_component, 0)
        for operation in self.by_operation:
            for component, amount in operation.items():
                by_pass[component] = by_pass.get(component, 0) + amount
        return Ledger("energy", "aJ", "components", "passes", self.by_component, by_pass)


def account(timeline, table: EnergyTable) -> EnergyAccount:
    """Energy of one simulated step.

    By component from the counters of the units; by operation from the operation's own counts. What
    no operation owns alone is split: ACT by the bursts of an operation; refresh, standby and static
    power by its share of the makespan, that is the time by which its end moves on the end of all
    operations before it.

    Parameters
    ----------
    timeline : `accsim.engine.Timeline` of the step
    table : joules of the accelerator's actions
    """
    records = timeline.records
    counts = timeline.dram_counts
    burst_bytes = timeline.accelerator.dram.burst_bytes
    per_count = {action.name: joules_to_aj(action.joules) for action in table.actions}
    per_ps = {
        action.name: watts_to_aj_per_ps(action.joules)
        for action in table.actions
        if action.unit == "second"
    }
    by_action = {
        "mac": timeline.array_macs * per_count["mac"],
        "vector_operation": timeline.vector_operations * per_count["vector_operation"],
        "buffer_read": timeline.buffer_bytes["read"] * per_count["buffer_read"],
        "buffer_write": timeline.buffer_bytes["write"] * per_count["buffer_write"],
        "ddr_activate": counts["activates"] * per_count["ddr_activate"],
        "ddr_read": counts["reads"] * per_count["ddr_read"],
        "ddr_write": counts["writes"] * per_count["ddr_write"],
        "ddr_refresh": counts["refreshes"] * per_count["ddr_refresh"],
        "ddr_active": timeline.dram_active_ps * per_ps["ddr_active"],
        "ddr_precharged": timeline.dram_precharged_ps * per_ps["ddr_precharged"],
        "ddr_io_phy": (counts["reads"] + counts["writes"]) * burst_bytes * per_count["ddr_io_phy"],
        "static": timeline.makespan_ps * per_ps["static"],
    }
    by_component: dict[str, int] = {}
    for action in table.actions:
        amount = by_action[action.name]
        by_component[action.component] = by_component.get(action.component, 0) + amount

    bursts = [record.ddr_read_bursts + record.ddr_write_bursts for record in records]
    shares_ps = [record.share_ps for record in records]
    activates = apportion(by_action["ddr_activate"], bursts)
    standing = by_action["ddr_refresh"] + by_action["ddr_active"] + by_action["ddr_precharged"]
    standby = apportion(standing, shares_ps)
    by_operation = tuple(
        {
            "pe_array": record.macs * per_count["mac"],
            "vector_unit": record.vector_operations * per_count["vector_operation"],
            "buffers": record.buffer_read_bytes * per_count["buffer_read"]
            + record.buffer_write_bytes * per_count["buffer_write"],
            "ddr": record.ddr_read_bursts * per_count["ddr_read"]
            + record.ddr_write_bursts * per_count["ddr_write"]
            + activate
            + standing_share,
            "ddr_io": burst * burst_bytes * per_count["ddr_io_phy"],
            "board": record.share_ps * per_ps["static"],
        }
        for record, burst, activate, standing_share in zip(
            records, bursts, activates, standby, strict=True
        )
    )
    return EnergyAccount(by_action, by_component, by_operation)


def idle_account(idle_ps: int, accelerator: AcceleratorSpec, table: EnergyTable) -> dict[str, int]:
    """Attojoules by action of an idle machine: static power, precharged standby, refresh."""
    dram = accelerator.dram
    ranks = dram.channels * dram.ranks
    refreshes = ranks * (idle_ps // (dram.nREFI * dram.tCK_ps))
    return {
        "static": idle_ps * watts_to_aj_per_ps(table["static"].joules),
        "ddr_precharged": ranks * idle_ps * watts_to_aj_per_ps(table["ddr_precharged"].joules),
        "ddr_refresh": refreshes * joules_to_aj(table["ddr_refresh"].joules),
    }
