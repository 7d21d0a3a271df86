"""One memory, chosen by name: its part and mapping, and what a replay of requests says of it."""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Group
from rich.table import Table

from accsim.hardware.dram import AddressMapping, DramSpec, RowColumnBank, mapping
from accsim.hardware.dram_controller import Frfcfs
from accsim.hardware.dram_energy import DramEnergy, energy_of, io_phy_nj
from accsim.hardware.dram_ini import read_ini
from accsim.hardware.dram_parts import PARTS, part
from accsim.hardware.dram_policies.dramsim3 import DramSim3
from accsim.hardware.dram_policies.ramulator2 import Ramulator2
from accsim.hardware.dram_replay import REQUEST_BYTES, Policy, Replay, read_trace
from accsim.hardware.dram_rules import COMMANDS

POLICIES: dict[str, Policy] = {
    "frfcfs": Frfcfs(),
    "dramsim3": DramSim3(),
    "ramulator2": Ramulator2(),
    "ramulator2_frfcfs": Ramulator2(row_hit=False),
}


class MemoryChoiceError(Exception):
    """A memory or a trace cannot be used; the message is one sentence for its user."""


def chosen(name: str, order: str | None, ranks: int | None) -> tuple[DramSpec, AddressMapping]:
    """The memory of that name, or of that DRAMsim3 preset, and its mapping.

    `order` and `ranks` stand in place of those of the preset, or of `RowColumnBank` and one rank.
    Raises MemoryChoiceError, and OSError for a preset that cannot be read.
    """
    try:
        spec, preset = read_ini(Path(name)) if name.endswith(".ini") else (part(name), None)
        spec = spec if ranks is None else replace(spec, ranks=ranks)
        return spec, mapping(order) if order is not None else preset or RowColumnBank()
    except ValueError as error:
        raise MemoryChoiceError(str(error)) from error


def policy(name: str) -> Policy:
    """The controller of that name; raises MemoryChoiceError if there is none."""
    if name not in POLICIES:
        raise MemoryChoiceError(f"policy must be one of {', '.join(POLICIES)}, not {name!r}")
    return POLICIES[name]


def replay(
    trace: Path, spec: DramSpec, order: AddressMapping, controller: Policy, record: bool = False
) -> Replay:
    """Replay a trace file; raises MemoryChoiceError, and OSError for one that cannot be read."""
    try:
        return controller.replay(spec, order, *read_trace(trace, spec), record=record)
    except ValueError as error:
        raise MemoryChoiceError(str(error)) from error
    except zlib.error as error:
        raise MemoryChoiceError(f"{trace} must be a whole gzip file, not a damaged one") from error


def energy(spec: DramSpec, done: Replay) -> DramEnergy:
    """Energy of what a replay did."""
    return energy_of(
        spec,
        acts=done.act_commands,
        reads=done.read_commands,
        writes=done.write_commands,
        refreshes=done.refresh_commands,
        active_cycles=done.active_cycles,
        precharged_cycles=spec.ranks * done.total_cycles - done.active_cycles,
    )


def document(spec: DramSpec, done: Replay) -> dict[str, Any]:
    """A replay as plain values: what ``--json`` prints."""
    names = (
        *("total_cycles", "row_hits"),
        *("act_commands", "pre_commands", "read_commands", "write_commands", "refresh_commands"),
        *("average_read_latency_cycles", "bandwidth_GBps"),
    )
    return {
        "requests": requests(spec, done),
        **{name: getattr(done, name) for name in names},
        "energy_nJ": energy(spec, done).terms(),
    }


def requests(spec: DramSpec, done: Replay) -> int:
    """Requests of the trace: one, or several short bursts each."""
    return done.requests // max(1, REQUEST_BYTES // spec.burst_bytes)


def replay_table(spec: DramSpec, done: Replay) -> Table:
    """A replay as it is printed."""
    bursts = done.read_commands + done.write_commands
    spent, (bus, (low, high)) = energy(spec, done), io_phy_nj(spec, bursts)
    seconds = done.total_cycles * spec.tCK_ps * 1e-12
    pump = spec.ranks * spec.pump_watts * seconds * 1e6
    peak = spec.peak_bytes_per_second / 1e9
    table = Table(title=spec.name, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, value, note in (
        ("requests", f"{requests(spec, done):,}", f"{done.row_hits:,} row hits"),
        ("time", f"{done.total_cycles:,}", f"cycles of {spec.tCK_ps} ps: {seconds * 1e3:.4g} ms"),
        ("bandwidth", f"{done.bandwidth_GBps:.2f}", f"GB/s of {peak:.2f} at most"),
        ("read latency", f"{done.average_read_latency_cycles:.1f}", "cycles, on average"),
        ("ACT", f"{done.act_commands:,}", f"and {done.pre_commands:,} PRE"),
        ("RD", f"{done.read_commands:,}", ""),
        ("WR", f"{done.write_commands:,}", ""),
        ("REF", f"{done.refresh_commands:,}", ""),
        *(
            (f"{name.replace('act_pre', 'ACT + PRE')} energy", f"{nj / 1e3:,.3f}", "µJ")
            for name, nj in spent.terms().items()
        ),
        ("pump supply", f"{pump:,.3f}", "µJ at most beside the total: VPP x IPP0"),
        ("I/O + PHY", f"{bus / 1e3:,.3f}", f"µJ beside the total, {low / 1e3:,.3f} to "
         f"{high / 1e3:,.3f}: estimate from the bus standard"),
    ):  # fmt: skip
        table.add_row(name, value, note)
    return table


def write_commands(commands: np.ndarray, file: IO[bytes]) -> None:
    """Write recorded commands as CSV; -1 where a command names no bank or no row."""
    rows = (
        f"{cycle},{COMMANDS[code]},{rank},{group},{bank},{row}\n"
        for cycle, code, rank, group, bank, row in commands.tolist()
    )
    file.write(("cycle,command,rank,bank_group,bank,row\n" + "".join(rows)).encode())


def parts_table() -> Group:
    """All parts: what they are, clocks with their nanoseconds, energies, and their sources."""
    table = Table(
        box=None,
        padding=(0, 2, 0, 0),
        caption="nXXX: clocks (nanoseconds). ACT, RD, WR, REF: nanojoules of a whole rank.",
        caption_justify="left",
    )
    clocks = ("CL-nRCD-nRP", "nRAS", "nFAW", "nRFC", "nREFI")
    for heading in ("part", "GiB", "GB/s", *clocks, "ACT", "RD", "WR", "REF", "from"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "part" else "right")
    sources: dict[str, int] = {}
    for spec in PARTS.values():
        timed = (
            f"{clocks} ({clocks * spec.tCK_ps / 1e3:.0f})"
            for clocks in (spec.nRAS, spec.nFAW, spec.nRFC)
        )
        table.add_row(
            spec.name,
            f"{spec.capacity_bytes / 2**30:g}",
            f"{spec.peak_bytes_per_second / 1e9:.1f}",
            f"{spec.CL}-{spec.nRCD}-{spec.nRP}",
            *timed,
            f"{spec.nREFI}",
            f"{spec.activate_joules * 1e9:.2f}",
            f"{spec.read_joules * 1e9:.2f}",
            f"{spec.write_joules * 1e9:.2f}",
            f"{spec.refresh_joules * 1e9:.0f}",
            f"{sources.setdefault(spec.source, len(sources) + 1)}",
        )
    return Group(table, "", *(f"{number}  {source}" for source, number in sources.items()))
