"""Seconds of wall time from the import to the end of a run's first training step, cold and warm.

Each start is a process of its own: the first with an empty folder of compiled kernels, so that it
compiles them as `accsim.compile_ahead` arranges, the others with what it left there.

    python benchmarks/cold_start.py [--workload FILE] [--warm 3] [--json FILE]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
START = """
import sys, time
started = time.perf_counter()
from dataclasses import replace
from pathlib import Path
from accsim.run import open_dataset, simulate
from accsim.workload import read_workload
workload = read_workload(Path(sys.argv[1]))
dataset = open_dataset(workload, None)
class Stepped(Exception): pass
def stop(status): raise Stepped
try:
    simulate(replace(workload, evaluate_every=workload.steps), dataset, stop)
except Stepped:
    print(time.perf_counter() - started)
"""


def seconds(workload: Path, cache: str) -> float:
    """Time of the first step of `workload` in a new process that keeps its kernels in `cache`."""
    ran = subprocess.run(
        [sys.executable, "-c", START, str(workload)],
        cwd=ROOT,
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(ran.stdout.split()[-1])


@click.command()
@click.option(
    "--workload",
    default=ROOT / "workloads" / "cifar_semi.py",
    type=click.Path(exists=True, path_type=Path),
    help="The experiment that starts.",
)
@click.option("--warm", default=3, show_default=True, help="Starts with compiled kernels.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where to write the figures.")
def main(workload, warm, path):
    """Clock the first training step of fresh processes."""
    workload = workload.resolve()
    with tempfile.TemporaryDirectory() as cache:
        cold_seconds = seconds(workload, cache)
        warm_seconds = [seconds(workload, cache) for _ in range(warm)]
    print(f"cold: {cold_seconds:.1f} s to the end of the first step, kernels compiled")
    print(f"warm: {statistics.median(warm_seconds):.1f} s, the median of {warm} starts")
    if path:
        rows = {"cold_seconds": cold_seconds, "warm_seconds": warm_seconds}
        path.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
