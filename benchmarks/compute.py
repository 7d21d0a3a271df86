"""Speed of the simulated machine: the PE array against SCALE-Sim, and a whole training step.

The products are those of ConvNet-13, of every layer and pass; both simulate each of them from
nothing, without stalls, and must find the same cycles. SCALE-Sim is quoted in CPU seconds of its
own process, start and traces left out. It needs an older numpy, so an interpreter of its own:

    python3.11 -m venv scalesim && scalesim/bin/pip install scalesim==3.0.0 numpy==1.26.4
    python benchmarks/compute.py --scalesim scalesim/bin/python [--batch 1] [--width 128]
        [--dataflow os] [--json FILE]

At width 128 SCALE-Sim takes minutes; without it accsim is measured alone. A training step is
simulated tile by tile with DDR: at batch 32 student, teacher, backward passes, update and average;
and the student's alone at the batch of the products. The first of a kind takes the time, the ones
after it are remembered.
"""

import csv
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from accsim.clock import StepClock
from accsim.dataflow.base import RESULTS, Dataflow, Gemm
from accsim.dataflow.input_stationary import InputStationary
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.hardware import boards
from accsim.hardware.pe_array import NO_REGISTERS, PEArraySpec, Reservations
from accsim.network import Network
from accsim.numerics import Numerics
from accsim.passes import Passes
from accsim.schedule.base import Schedule
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.separate_ema import SeparateEma
from models import convnet

FULL = Passes(teacher_forward=32, student_forward=32, backward=32, ema=True)
SIZE = 32  # rows and columns of the array
DATAFLOWS = {"os": OutputStationary(), "ws": WeightStationary(), "is": InputStationary()}
TARGETS = {"ratio": 100, "first_s": 3.0, "remembered_s": 0.05}

SCALESIM = """
import sys, time
from scalesim.scale_sim import scalesim
begun = time.process_time()
simulator = scalesim(
    save_disk_space=True, verbose=False, config="machine.cfg", topology="products.csv",
    layout="layout.csv", input_type_gemm=True)
simulator.run_scale(top_path="out")
print(time.process_time() - begun, file=open("seconds", "w"))
"""
MACHINE = """
[general]
run_name = products
[architecture_presets]
ArrayHeight = {size}
ArrayWidth = {size}
IfmapSramSzkB = 1024
FilterSramSzkB = 1024
OfmapSramSzkB = 1024
IfmapOffset = 0
FilterOffset = 100000000
OfmapOffset = 200000000
Dataflow = {dataflow}
ReadRequestBuffer = 32
WriteRequestBuffer = 32
[layout]
IfmapCustomLayout = False
FilterCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = false
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
"""


@dataclass(frozen=True)
class Job:
    """One product of one layer and pass."""

    name: str
    gemm: Gemm


def jobs_of(network: Network, batch: int) -> Iterator[Job]:
    """Products of every pass; nothing is propagated below the first layer."""
    for node in network.nodes:
        if not node.weights:
            continue
        height, width, channels, out = node.weight_shape
        taps = height * width
        inputs = batch * node.input.size // channels
        outputs = batch * node.output.size // out
        yield Job(f"{node.name}/forward", Gemm(outputs, out, taps * channels))
        if node.index:
            yield Job(f"{node.name}/backward_data", Gemm(inputs, channels, taps * out))
        yield Job(f"{node.name}/backward_weight", Gemm(taps * channels, out, outputs))


def simulate(dataflow: Dataflow, jobs: list[Job]) -> tuple[float, list[int]]:
    """CPU seconds and the cycles of each job, in the conventions of SCALE-Sim."""
    array = PEArraySpec(SIZE, SIZE, overlap=False, registers=NO_REGISTERS)
    begun = time.process_time()
    cycles = []
    for job in jobs:
        reservations = Reservations()
        dataflow.play(reservations, array, job.gemm)
        dataflow.accesses(array, job.gemm)
        cycles.append(reservations.free_at[RESULTS])
    return time.process_time() - begun, cycles


def simulate_with_scalesim(
    interpreter: Path, dataflow: str, jobs: list[Job]
) -> tuple[float, list[int]]:
    """The same of SCALE-Sim; raises ClickException where it does not run."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "machine.cfg").write_text(MACHINE.format(size=SIZE, dataflow=dataflow))
        rows = (f"{job.name},{job.gemm.m},{job.gemm.n},{job.gemm.k},1:1," for job in jobs)
        (place / "products.csv").write_text("\n".join(["Layer,M,N,K,Sparsity,", *rows, ""]))
        (place / "layout.csv").write_text("Layer,\n")
        ran = subprocess.run(
            [interpreter.absolute(), "-c", SCALESIM],
            cwd=place,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise click.ClickException(f"{interpreter} does not run scalesim: {ran.stderr[-300:]}")
        seconds = float((place / "seconds").read_text())
        with (place / "out" / "products" / "COMPUTE_REPORT.csv").open() as report:
            found = list(csv.DictReader(report, skipinitialspace=True))
    return seconds, [int(float(row["Total Cycles"])) + 1 for row in found]  # its first cycle is 0


def time_step(schedule: Schedule, width: int, passes: Passes) -> dict[str, object]:
    """CPU seconds of one training step: the first, and those after it."""
    clock = StepClock(
        convnet.network(width), Numerics(), schedule, boards.ZCU104, OutputStationary()
    )
    spent = []
    for _ in range(6):
        begun = time.process_time()
        cost = clock.charge(passes, step=1)
        spent.append(time.process_time() - begun)
    return {
        "schedule": schedule.name,
        "teacher": passes.ema,
        "width": width,
        "batch": passes.student_forward,
        "cycles": cost.cycles,
        "first_s": spent[0],
        "remembered_s": statistics.median(spent[1:]),
    }


def show(title: str, rows: list[dict[str, object]]) -> None:
    """A table for the terminal."""
    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=150).print(table)


@click.command()
@click.option(
    "--scalesim",
    type=click.Path(path_type=Path, exists=True),
    envvar="SCALESIM_PYTHON",
    help="Interpreter that has scalesim; else $SCALESIM_PYTHON.",
)
@click.option("--width", default=128, show_default=True, help="Of ConvNet-13.")
@click.option("--batch", default=1, show_default=True, help="Images of the products.")
@click.option("--dataflow", type=click.Choice(list(DATAFLOWS)), default="os", show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where to write the rows.")
def main(scalesim, width, batch, dataflow, path):
    """Time the simulated machine, and SCALE-Sim on the same products."""
    time_step(SeparateEma(), 4, FULL)  # compiles
    steps = [time_step(schedule, width, FULL) for schedule in (SeparateEma(), LayerwiseEma())]
    steps.append(time_step(SeparateEma(), width, Passes(0, batch, batch, ema=False)))
    show("a training step, CPU seconds", steps)

    jobs = list(jobs_of(convnet.network(width), batch))
    seconds, cycles = simulate(DATAFLOWS[dataflow], jobs)
    case = {"width": width, "batch": batch, "dataflow": dataflow, "products": len(jobs)}
    rows = [{"simulator": "accsim", **case, "cycles": sum(cycles), "cpu_s": seconds}]
    if scalesim:
        theirs_seconds, theirs = simulate_with_scalesim(scalesim, dataflow, jobs)
        different = [
            f"{job.name} {ours} and {their}"
            for job, ours, their in zip(jobs, cycles, theirs, strict=True)
            if ours != their
        ]
        if different:
            raise click.ClickException(f"cycles differ from SCALE-Sim's: {'; '.join(different)}")
        rows.append(
            {"simulator": "SCALE-Sim", **case, "cycles": sum(theirs), "cpu_s": theirs_seconds}
        )
    for row in rows:
        row["cycles_per_s"] = row["cycles"] / row["cpu_s"]
    show("products on the PE array, CPU seconds", rows)
    if scalesim:
        click.echo(
            f"SCALE-Sim takes {theirs_seconds / seconds:,.0f} times the CPU seconds, and "
            f"{theirs_seconds / steps[-1]['first_s']:,.0f} times those of the student's whole step "
            "of these products, with buffers and DDR"
        )
    else:
        click.echo("SCALE-Sim is not measured: --scalesim says how")
    if path:
        found = {"targets": TARGETS, "steps": steps, "products": rows}
        path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
