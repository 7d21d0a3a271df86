"""Energy of a memory from the commands that it was given and the time its rows were open.

A command costs what its current draws above standby, at rank level, by the formulas of Micron
TN-40-07 in `DramSpec`: ACT with its PRE, RD, WR, REF. Background is the standby of every rank, by
state: a row open, or none. Power-down and self refresh are not modelled: an idle rank is charged
its precharged standby, an upper bound. All of this is the core of the chips, from VDD. The pump
supply (VPP, at most `DramSpec.pump_watts`) is left out, as no datasheet gives it by command; bus
drivers, termination and PHY are the separate estimate `io_phy_nj`.
"""

from dataclasses import dataclass
from typing import NamedTuple

from accsim.hardware.dram import DramSpec


class Price(NamedTuple):
    """What one command of a rank costs, or one second of its standby."""

    name: str
    unit: str
    joules: float


def prices(spec: DramSpec) -> tuple[Price, ...]:
    """Joules of all that the chips of a rank are charged for, in the order of `DramEnergy`."""
    return (
        Price("activate", "ACT + PRE", spec.activate_joules),
        Price("read", "RD", spec.read_joules),
        Price("write", "WR", spec.write_joules),
        Price("refresh", "REF", spec.refresh_joules),
        Price("active", "second", spec.active_watts),
        Price("precharged", "second", spec.precharged_watts),
    )


@dataclass(frozen=True)
class DramEnergy:
    """Nanojoules by what drew them."""

    act_pre: float
    read: float
    write: float
    refresh: float
    active: float  # standby with a row open
    precharged: float  # standby with all rows closed

    @property
    def background(self) -> float:
        return self.active + self.precharged

    @property
    def total(self) -> float:
        """Of the chips' core; without `io_phy_nj`."""
        return self.act_pre + self.read + self.write + self.refresh + self.background

    def terms(self) -> dict[str, float]:
        """The terms that make the total, and the total."""
        names = ("act_pre", "read", "write", "refresh", "background", "total")
        return {name: getattr(self, name) for name in names}


def energy_of(
    spec: DramSpec,
    *,
    acts: int,
    reads: int,
    writes: int,
    refreshes: int,
    active_cycles: int,
    precharged_cycles: int,
) -> DramEnergy:
    """Energy of counted commands and of cycles by state, each summed over ranks and channels.

    A PRE is part of its ACT, and a REF is one of one rank. Raises ValueError for a negative count.
    """
    counts = {
        "acts": acts,
        "reads": reads,
        "writes": writes,
        "refreshes": refreshes,
        "active_cycles": active_cycles,
        "precharged_cycles": precharged_cycles,
    }
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"{name} must be 0 or more, not {count}")
    seconds = spec.tCK_ps * 1e-12
    return DramEnergy(
        *(
            1e9 * count * price.joules * (seconds if price.unit == "second" else 1)
            for count, price in zip(counts.values(), prices(spec), strict=True)
        )
    )


def io_phy_nj(spec: DramSpec, bursts: int) -> tuple[float, tuple[float, float]]:
    """(estimate, (low, high)) of bus drivers, termination and PHY for so many bursts."""
    moved = bursts * spec.burst_bytes * 1e-3
    low, high = spec.io_phy_pj_per_byte_range
    return moved * spec.io_phy_pj_per_byte, (moved * low, moved * high)
