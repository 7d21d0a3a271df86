"""Speed of the DRAM model: million requests a second of CPU time on one core, paired in a process.

Rivals take turns, so that a change of the machine's speed meets all; each figure is a median of
rounds. Beside them stand the controllers of two C++ simulators as modelled here, the speed of those
simulators themselves (quoted), and what numpy needs for a mere lower bound of the cycles.

    python benchmarks/dram.py [--requests 1048576] [--rounds 5] [--json FILE]
"""

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import simpy
from rich.console import Console
from rich.table import Table

from accsim.hardware.dram import MAPPINGS, AddressMapping, DramSpec
from accsim.hardware.dram_controller import DramController, Frfcfs
from accsim.hardware.dram_parts import part
from accsim.hardware.dram_policies.dramsim3 import DramSim3
from accsim.hardware.dram_policies.ramulator2 import Ramulator2

# Million requests a second: 2**20 requests, DDR4-2400 8 Gb x16, best of 3, one core, without the
# reading of traces. DRAMsim3 commit 29817593; Ramulator 2.1 commit c5b1c3a4, 2400R, FRFCFS with
# row_bank_column and FRFCFS-RowHit with row_column_bank; gcc 12.2 -O3 -march=native. Quoted: they
# were measured on another day, and are no part of this run.
QUOTED = {
    ("sequential", "row_bank_column"): {"DRAMsim3": 0.406, "Ramulator 2.1": 0.384},
    ("sequential", "row_column_bank"): {"DRAMsim3": 0.411, "Ramulator 2.1": 0.331},
    ("random", "row_bank_column"): {"DRAMsim3": 0.149, "Ramulator 2.1": 0.151},
    ("random", "row_column_bank"): {"DRAMsim3": 0.153, "Ramulator 2.1": 0.117},
}


def lower_bound_cycles(spec: DramSpec, mapping: AddressMapping, addresses: np.ndarray) -> int:
    """Cycles that no controller can go below: the data bus, or one ACT for each row touched.

    With the share of time that refresh takes; in numpy alone.
    """
    place = mapping.locate(spec, addresses)
    banks = place.bank_group * spec.banks + place.bank
    acts = len(np.unique(place.row * (spec.bank_groups * spec.banks) + banks))
    cycles = max(len(addresses) * spec.nBL, acts * max(spec.nRRD_S, spec.nFAW // 4))
    return cycles * spec.nREFI // (spec.nREFI - spec.nRFC)


def transfer_cycles(spec: DramSpec, mapping: AddressMapping, size_bytes: int) -> int:
    """Cycles of one transfer through the SimPy component."""
    env = simpy.Environment()
    DramController(env, spec, mapping).transfer(0, size_bytes, is_write=False)
    env.run()
    return int(env.now) // spec.tCK_ps


def paired(rivals: dict[str, Callable[[], int]], rounds: int) -> dict[str, tuple[float, int]]:
    """Median CPU seconds and the cycles of each rival; they take turns, after one unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    cycles = {}
    for number in range(rounds + 1):
        for name, work in rivals.items():
            cpu = time.process_time()
            cycles[name] = work()
            if number:
                times[name].append(time.process_time() - cpu)
    return {name: (statistics.median(taken), cycles[name]) for name, taken in times.items()}


def rows_of(pattern: str, name: str, device: str, count: int, rounds: int) -> list[dict]:
    """A row a rival: million requests a second, cycles, and cycles from those of the exact mode."""
    spec, mapping = part(f"DDR4_2400_8Gb_{device}"), MAPPINGS[name]
    addresses = np.arange(count) * 64
    if pattern == "random":
        addresses = np.random.default_rng(99).integers(0, 2**24, count) * 64  # 1 GiB
    trace = spec, mapping, np.zeros(count, np.int64), addresses, np.zeros(count, bool)

    def replay(policy) -> int:
        return policy.replay(*trace).total_cycles

    rivals: dict[str, Callable[[], int]] = {
        "exact": partial(replay, Frfcfs(exact=True)),
        "fast path": partial(replay, Frfcfs()),
        "dramsim3 policy": partial(replay, DramSim3()),
        "ramulator2 policy": partial(replay, Ramulator2()),
        "numpy lower bound": partial(lower_bound_cycles, spec, mapping, addresses),
    }
    if pattern == "sequential":
        rivals["fast path in SimPy"] = partial(transfer_cycles, spec, mapping, count * 64)
    spent = paired(rivals, rounds)
    case = {"pattern": pattern, "mapping": name, "device": device}
    exact_cycles = spent["exact"][1]
    rows = [
        {
            **case,
            "simulator": rival,
            "million_requests_per_s": count / seconds / 1e6,
            "cycles_per_request": cycles / count,
            "cycles_to_exact": cycles / exact_cycles,
        }
        for rival, (seconds, cycles) in spent.items()
    ]
    quoted = QUOTED[pattern, name].items() if device == "x16" else ()
    return rows + [
        {**case, "simulator": f"{rival} (quoted)", "million_requests_per_s": speed}
        for rival, speed in quoted
    ]


def show(rows: list[dict]) -> None:
    """A table for the terminal."""
    table = Table(title="DRAM model, CPU time, one core")
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        cells = (row.get(heading, "") for heading in rows[0])
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in cells))
    Console(width=150).print(table)


@click.command()
@click.option("--requests", default=2**20, show_default=True, help="Requests of 64 bytes.")
@click.option("--rounds", default=5, show_default=True, help="Rounds that a median is taken of.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where to write the rows.")
def main(requests, rounds, path):
    """Count the requests that the DRAM model plays in a second."""
    rows = [
        row
        for pattern in ("sequential", "random")
        for name in MAPPINGS
        for device in ("x16", "x8")
        for row in rows_of(pattern, name, device, requests, rounds)
    ]
    show(rows)
    if path:
        path.write_text(json.dumps({"requests": requests, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
