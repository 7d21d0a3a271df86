"""Every pass of every layer alone on its machine: tiling, cycles, what bounds it, utilization."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import pandas as pd
from rich.table import Table

from accsim import engine
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.schedule.operation import Operation
from accsim.units import PS_PER_SECOND
from accsim.workload import Workload, largest_step

LONGEST = 12  # parts of the critical path that are shown


@dataclass(frozen=True)
class Row:
    """One pass of one layer, simulated alone from its first load to its last store."""

    network: str
    layer: str
    pass_name: str
    unit: str
    product: str  # m x n x k of the whole pass; empty for the vector unit
    tiling: str  # samples x rows x outputs x inputs of a tile, channels held, order of the loops
    tiles: int
    cycles: int
    compute_cycles: int  # of the unit
    ddr_cycles: int  # that the bytes take at the peak of the slowest: read port, write port, DDR
    ddr_bytes: int
    work: int  # multiply-accumulates; of the vector unit the cycles in which it works
    peak: int  # of them that the unit could do in `cycles`

    @property
    def bound(self) -> str:
        """What takes longest: compute, DDR, or the latency that neither explains."""
        rest = self.cycles - max(self.compute_cycles, self.ddr_cycles)
        times = {"compute": self.compute_cycles, "DDR": self.ddr_cycles, "latency": rest}
        return max(times, key=lambda cause: times[cause])

    @property
    def utilization(self) -> float:
        """Share of the work that the unit could have done."""
        return self.work / self.peak


@dataclass(frozen=True)
class Layers:
    """The passes of one step, each alone, and what the whole step waits for."""

    rows: list[Row]  # in the order of the schedule
    step_cycles: int
    critical_path: pd.DataFrame  # cycles by layer, pass and unit, in order of time
    memory: pd.DataFrame  # bytes at the fullest, by memory


def layers(workload: Workload) -> Layers:
    """The largest step of `workload`, pass by pass and as a whole.

    Raises WorkloadError for a workload whose tiles or tensors do not fit.
    """
    operations, machine = largest_step(workload), workload.machine
    timeline = engine.simulate(operations, machine)
    return Layers(
        [row(operation, machine) for operation in operations],
        timeline.makespan_cycles,
        timeline.critical_path(),
        timeline.memory(),
    )


def row(operation: Operation, machine: AcceleratorSpec) -> Row:
    """Simulate `operation` with everything that it reads in place."""
    tiles = tuple(
        replace(tile, needs=(), loads=tuple(replace(load, needs_bytes=0) for load in tile.loads))
        for tile in operation.tiles
    )
    machine = machine.parts[operation.part]
    timeline = engine.simulate([replace(operation, part="", tiles=tiles, follows=())], machine)
    (record,) = timeline.records
    on_array = operation.unit == "pe_array"
    compute = record.busy_ps // machine.period_ps
    ddr_rate = machine.dram.peak_bytes_per_second * machine.period_ps / PS_PER_SECOND
    read, written = timeline.ddr_read_bytes, timeline.ddr_write_bytes
    return Row(
        network=operation.network,
        layer=operation.layer,
        pass_name=operation.pass_name,
        unit=operation.unit,
        product="x".join(map(str, operation.gemm or ())),
        tiling=str(operation.tiling or ""),
        tiles=len(tiles),
        cycles=timeline.makespan_cycles,
        compute_cycles=compute,
        ddr_cycles=round(
            max(
                read / machine.dma.read_bytes_per_cycle,
                written / machine.dma.write_bytes_per_cycle,
                (read + written) / ddr_rate,
            )
        ),
        ddr_bytes=read + written,
        work=record.macs if on_array else compute,
        peak=timeline.makespan_cycles * (machine.pe_array.macs_per_cycle if on_array else 1),
    )


def totals(rows: Iterable[Row]) -> dict[str, tuple[int, float]]:
    """Cycles and utilization of the PE array by pass, all layers together."""
    sums: dict[str, list[int]] = {}
    for one in rows:
        if one.unit == "pe_array":
            parts = sums.setdefault(one.pass_name, [0, 0, 0])
            parts[0] += one.cycles
            parts[1] += one.work
            parts[2] += one.peak
    return {name: (cycles, work / peak) for name, (cycles, work, peak) in sums.items()}


def document(found: Layers) -> dict:
    """What the tables show, for programs."""
    return {
        "passes": [
            {**asdict(one), "bound": one.bound, "utilization": one.utilization}
            for one in found.rows
        ],
        "pe_array": {
            name: {"cycles": cycles, "utilization": share}
            for name, (cycles, share) in totals(found.rows).items()
        },
        "step_cycles": found.step_cycles,
        "critical_path": found.critical_path.to_dict("records"),
        "memory": found.memory.to_dict("records"),
    }


def path_table(found: Layers) -> Table:
    """The longest parts of a step's critical path, and what it spends on each unit."""
    table = Table(caption=f"Critical path of a step of {found.step_cycles:,} cycles")
    for heading in ("layer", "pass", "unit", "cycles", "share"):
        table.add_column(heading, justify="right" if heading in ("cycles", "share") else "left")

    def add(rows: pd.DataFrame) -> None:
        for _, one in rows.iterrows():
            share = one["cycles"] / found.step_cycles
            names = (str(one.get(name, "")) for name in ("layer", "pass", "unit"))
            table.add_row(*names, f"{one['cycles']:,.0f}", f"{share:.1%}")

    path = found.critical_path.sort_values("cycles", ascending=False, kind="stable")
    add(path.head(LONGEST))
    table.add_section()
    units = path.groupby("unit", sort=False, as_index=False)["cycles"].sum()
    add(units.assign(layer="whole step"))
    return table


def memory_table(memory: pd.DataFrame) -> Table:
    """What a step takes of the DDR and of every on-chip buffer."""
    table = Table(caption="Bytes of a step at the fullest; addresses need no less than is in use")
    for heading in ("memory", "at most", "in use at one time", "capacity"):
        table.add_column(heading, justify="left" if heading == "memory" else "right")
    for name, *sizes in memory.itertuples(index=False):
        table.add_row(name, *(f"{size:,}" for size in sizes))
    return table


def layers_table(rows: list[Row]) -> Table:
    """One line a pass, and one for each pass of all layers."""
    table = Table(caption="Each pass alone; tiling: samples x rows x outputs x inputs")
    for heading in ("layer", "pass", "m x n x k", "tiling", "tiles", "cycles", "MB", "bound"):
        number = heading in ("tiles", "cycles", "MB")
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    table.add_column("util.", justify="right")
    for one in rows:
        table.add_row(
            one.layer,
            one.pass_name,
            one.product,
            one.tiling,
            f"{one.tiles:,}",
            f"{one.cycles:,}",
            f"{one.ddr_bytes / 1e6:.2f}",
            one.bound,
            f"{one.utilization:.1%}",
        )
    table.add_section()
    for name, (cycles, share) in totals(rows).items():
        table.add_row("PE array", name, "", "", "", f"{cycles:,}", "", "", f"{share:.1%}")
    return table
