"""Runs of several workloads: each is kept as it ends, so that what was stopped goes on.

A folder holds a file for every finished run, named by its seed and a digest of all choices of its
workload, and the checkpoint of every run that has begun. Results are read back from these files,
whether they were just written or long ago.

The files are pickles: resume from your own alone.
"""

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from accsim.checkpoint import (
    digest_of_data,
    origin_of,
    read_sealed,
    require_same,
    write_sealed,
)
from accsim.data import Dataset
from accsim.processes import run_in_processes
from accsim.run import Result, Status, simulate
from accsim.workload import Workload, WorkloadError

OnStep = Callable[[Status], None]


def runs_of(out: Path) -> Path:
    """The folder beside report folder `out` that its runs are kept in."""
    return out.with_name(f"{out.name}.runs")


@contextmanager
def finished(
    workloads: Sequence[Workload],
    out: Path,
    dataset: Dataset,
    on_step: OnStep,
    resume: bool,
    jobs: int,
) -> Iterator[list[Result]]:
    """The results of runs that one report is made of; the block writes it to `out`.

    When the block ends well these runs go. With `resume` those that are there are not run again.
    Raises WorkloadError where none are, and as `run_missing`.
    """
    folder = runs_of(out)
    if resume and not folder.is_dir():
        raise WorkloadError(
            f"--resume needs finished runs in {folder}, but there is no such folder"
        )
    places = places_of(workloads, folder, dataset)
    run_missing(places, dataset, on_step, resume, jobs)
    yield [place.read() for place in places]
    for place in places:
        place.path.unlink()
    with suppress(OSError):  # runs of something else are kept on
        folder.rmdir()


def places_of(
    workloads: Sequence[Workload], folder: Path, dataset: Dataset, any_code: bool = False
) -> list["Place"]:
    """Where the run of each workload on this data set is kept."""
    data = digest_of_data(dataset)
    return [Place(folder, one, origin_of(one, data), any_code) for one in workloads]


def run_missing(
    places: Sequence["Place"],
    dataset: Dataset,
    on_step: OnStep = lambda status: None,
    resume: bool = True,
    jobs: int = 1,
) -> None:
    """Run what is not kept, and keep it, `jobs` runs at a time; all of it without `resume`.

    Results of fixed-point runs are the same with any `jobs`; those in float32 repeat with as many
    threads, of which each process has its share. `on_step` is called once for every step of every
    run, of those that are kept too. Raises WorkloadError as `Place.read`, `simulate` and
    `run_in_processes`.
    """
    kept = [place for place in places if resume and place.path.exists()]
    for place in kept:
        place.repeat(on_step)
    places[0].folder.mkdir(exist_ok=True)
    try:
        tasks = [partial(place.run, resume=resume) for place in places if place not in kept]
        if min(jobs, len(tasks)) > 1:
            run_in_processes(tasks, dataset, on_step, min(jobs, len(tasks)))
        else:
            for task in tasks:
                task(dataset, on_step)
    finally:
        with suppress(OSError):  # nothing came of it: nothing is left
            places[0].folder.rmdir()


@dataclass(frozen=True)
class Place:
    """Where one run is kept, without counters and trained network, and what it follows from."""

    folder: Path
    workload: Workload
    origin: dict[str, Any]
    any_code: bool = False  # may have been kept by other sources of the same version

    @property
    def path(self) -> Path:
        """The file, such as ``seed0-25d83c5c1f6ad60a.run``."""
        choices = json.dumps(self.origin["workload"], sort_keys=True).encode()
        name = f"seed{self.workload.seed}-{hashlib.sha256(choices).hexdigest()[:16]}.run"
        return self.folder / name

    def run(self, dataset: Dataset, on_step: OnStep, resume: bool) -> None:
        """Simulate it, from its checkpoint if there is one and `resume`, and keep the result."""
        checkpoint = self.path.with_suffix(".checkpoint")
        resume = resume and checkpoint.exists()
        self.keep(simulate(self.workload, dataset, on_step, checkpoint, resume))
        checkpoint.unlink(missing_ok=True)

    def keep(self, result: Result) -> None:
        """Write what reports of several runs are made of; OSError for a full disk."""
        counters = result.tables.counters
        tables = replace(result.tables, counters=counters[:0])
        write_sealed(self.path, self.origin, pickle.dumps((result.summary, tables, result.host)))

    def read(self) -> Result:
        """What was kept; WorkloadError for a damaged file, and for one of another origin."""
        its, payload = read_sealed(self.path)
        mine = self.origin
        if self.any_code:
            mine = {**mine, "version": [mine["version"][0], its["version"][1]]}
        require_same(self.path, mine, its)
        summary, tables, host = pickle.loads(payload)
        return Result(summary, tables, host, network=None)

    def sources(self) -> str:
        """The first digits of the digest of the sources that kept it."""
        its, _ = read_sealed(self.path)
        return its["version"][1][:12]

    def repeat(self, on_step: OnStep) -> None:
        """Tell every step of a kept run again."""
        result = self.read()
        accuracy, cost = result.summary["accuracy"], result.summary["cost"]
        best = accuracy["student"] if accuracy["teacher"] is None else accuracy["teacher"]
        steps = self.workload.steps
        for step in range(1, steps + 1):
            on_step(Status(step, steps, best, cost["seconds"], cost["joules"]))
