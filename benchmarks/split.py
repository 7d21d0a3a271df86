"""One array by turns, or cut in two: cycles of a step, and what makes them, for three networks.

Costs of a ZCU104 that labels 96 frames while it learns from 32 images and as many frames before,
of which the teacher accepted all, or half; nothing is trained. The whole array has 32 rows.

    python benchmarks/split.py [--rows 4,6,8]

Beside the cycles: what part of their peak the arrays do of multiply-accumulates, which part waits
at the end of a step, for what share of it, and by how much the slower part is slower than alone,
for the other one uses the DDR too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import click
from rich.console import Console
from rich.table import Table

from accsim import engine
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.network import Network
from accsim.numerics import Numerics
from accsim.passes import Passes
from accsim.schedule import LayerwiseEma, SeparateEma, SpatialSplit, TeacherAhead
from accsim.schedule.base import Schedule
from accsim.schedule.operation import Operation
from models import convnet, digits, mobilenet

BOARD = boards.ZCU104
NETWORKS = (convnet.network(width=16), digits.network(), mobilenet.network())
STEPS = {"all": Passes(96, 128, 128, True), "half": Passes(96, 128, 32 + 48, True)}
BY_TURNS = (LayerwiseEma(), TeacherAhead(SeparateEma()))


@dataclass(frozen=True)
class Cost:
    """A step of one network by one schedule."""

    cycles: int
    arrays: dict[str, float]  # share of the peak that each array does
    ends: dict[str, float]  # of each part's last operation, as a share of the step
    slowdown: float  # of the slower part, by the other's traffic; 1 where there is none

    @property
    def waiting(self) -> str:
        """The part that ends first, and for how much of the step it waits."""
        first = min(self.ends, key=lambda part: self.ends[part])
        return f"{first} {1 - self.ends[first]:.0%}" if first else ""


def cost(network: Network, schedule: Schedule, passes: Passes) -> Cost:
    """Simulate one step, and where the machine is cut the slower part of it once more, alone."""
    machine = schedule.machine(BOARD)
    operations = schedule.operations(network, Numerics(), machine, OutputStationary(), passes)
    timeline = engine.simulate(operations, machine)
    macs = dict.fromkeys(machine.parts, 0)
    ends = dict.fromkeys(machine.parts, 0)
    for record in timeline.records:
        part = record.operation.part
        macs[part] += record.macs
        ends[part] = max(ends[part], record.end_ps)
    last = max(ends, key=lambda part: ends[part])
    return Cost(
        timeline.makespan_cycles,
        {
            part: macs[part] / (spec.pe_array.macs_per_cycle * timeline.makespan_cycles)
            for part, spec in machine.parts.items()
        },
        {part: end / timeline.makespan_ps for part, end in ends.items()},
        ends[last] / alone_ps(operations, machine, last) if last else 1,
    )


def alone_ps(operations: tuple[Operation, ...], machine: AcceleratorSpec, part: str) -> int:
    """Time of one part's operations on that part, with the DDR to itself."""
    numbers = [number for number, one in enumerate(operations) if one.part == part]
    place = {number: at for at, number in enumerate(numbers)}
    own = [
        replace(one, part="", follows=tuple(place[earlier] for earlier in one.follows))
        for one in operations
        if one.part == part
    ]
    return engine.simulate(own, machine.parts[part]).makespan_ps


def rows(schedules: tuple[Schedule, ...]) -> Iterator[tuple[str, ...]]:
    """One line a network, share of frames that are accepted, and schedule."""
    for network in NETWORKS:
        for accepted, passes in STEPS.items():
            first = None
            for schedule in schedules:
                found = cost(network, schedule, passes)
                first = first or found.cycles
                yield (
                    network.name, accepted, str(schedule), f"{found.cycles:,}",
                    f"{found.cycles / first - 1:+.1%}",
                    " + ".join(f"{share:.0%}" for share in found.arrays.values()),
                    found.waiting,
                    f"{found.slowdown - 1:.1%}" if found.waiting else "",
                )  # fmt: skip


@click.command()
@click.option("--rows", "splits", default="4,6,8", show_default=True, help="Of the teacher's part.")
def main(splits):
    """Set splits of the array beside schedules that share it by turns."""
    schedules = (*BY_TURNS, *(SpatialSplit(int(count)) for count in splits.split(",")))
    table = Table(title=f"A step on {BOARD.name}, against {BY_TURNS[0]}")
    heads = ("network", "accepted", "schedule", "cycles", "change", "arrays", "waits", "DDR costs")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place > 2 else "left", no_wrap=True)
    for row in rows(schedules):
        table.add_row(*row)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
