"""Tables of results: rows of workloads over seeds, in fixed point and float32, kept run by run."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from accsim.data import Dataset
from accsim.data.stream import SemiSupervisedStream
from accsim.report.answer import stand_in_warnings
from accsim.report.folder import require_place
from accsim.report.rows import write_rows
from accsim.run import Result
from accsim.series import OnStep, Place, places_of, run_missing, runs_of
from accsim.setting import with_settings
from accsim.twin import run_of, twins
from accsim.workload import Workload, WorkloadError, names_of, read_workload


@dataclass(frozen=True)
class Row:
    """One line of a table: a workload with some of its fields replaced, over so many seeds."""

    name: str
    file: str  # the workload's
    settings: tuple[str, ...] = ()  # each ``name=value``, as of --set
    network: str = "teacher"  # whose accuracy is told, or student
    over: str = ""  # name of the row that it should gain over; it has as many labels and steps
    seeds: int = 3  # from the workload's own on

    def __post_init__(self):
        if self.network not in ("student", "teacher"):
            raise ValueError(f"network must be student or teacher, not {self.network!r}")
        if not isinstance(self.seeds, int) or self.seeds < 1:
            raise ValueError(f"seeds must be a whole number of at least 1, not {self.seeds}")

    @property
    def command(self) -> str:
        """What runs this row alone."""
        settings = [word for text in self.settings for word in ("--set", text)]
        words = ["python", "-m", "accsim", "twin", self.file, *settings, "--seeds", str(self.seeds)]
        return shlex.join(words)

    @cached_property
    def workload(self) -> Workload:
        """The workload of the first seed; WorkloadError as of `read_workload`, `with_settings`."""
        workload = with_settings(read_workload(Path(self.file)), self.settings)
        if not isinstance(workload.data, SemiSupervisedStream):
            raise WorkloadError(
                f"data of row {self.name!r} must be a SemiSupervisedStream, which says how many "
                f"labels it has, not a {type(workload.data).__name__}"
            )
        return workload

    @cached_property
    def runs(self) -> list[Workload]:
        """In float32 and in fixed point in turn, seed by seed."""
        return twins(self.workload, self.seeds)

    @property
    def budget(self) -> dict[str, Any]:
        """What two rows must share to be compared."""
        data = self.workload.data
        assert isinstance(data, SemiSupervisedStream)
        sets = (
            [data.dataset] if data.frames_dataset is None else [data.dataset, data.frames_dataset]
        )
        names = " to ".join(Path(one).name for one in sets)
        return {"data": names, "labels": data.labels, "steps": self.workload.steps}

    def base(self, rows: Sequence["Row"]) -> "Row | None":
        """The row of `rows` that it should gain over; WorkloadError where there is none."""
        if not self.over:
            return None
        equal = [row for row in rows if row.budget == self.budget and row.seeds >= self.seeds]
        found = [row for row in equal if row.name == self.over]
        if len(found) != 1:
            names = ", ".join(row.name for row in equal)
            raise WorkloadError(
                f"over of row {self.name!r} must name one row of as many labels, steps and seeds, "
                f"of {names}, not {self.over!r}"
            )
        return found[0]


def read_rows(path: Path) -> tuple[Row, ...]:
    """The tuple named ``rows`` of a Python file; WorkloadError for a file without."""
    rows = names_of(path, "table").get("rows")
    if not isinstance(rows, tuple) or not rows or not all(isinstance(row, Row) for row in rows):
        raise WorkloadError(f"table {path} must define `rows`, a tuple of Row objects")
    names = [(row.name, *row.budget.values()) for row in rows]
    for row, name in zip(rows, names, strict=True):
        if names.count(name) > 1:
            raise WorkloadError(f"name of row {row.name!r} must be its own among rows like it")
        if row.network == "teacher" and not row.workload.algorithm.largest_passes(1, 1).ema:
            raise WorkloadError(f"network of row {row.name!r} must be student: there is no teacher")
        row.base(rows)
    return rows


def different_runs(rows: Sequence[Row]) -> list[Workload]:
    """The runs that the rows need, each once."""
    runs: list[Workload] = []
    for row in rows:
        runs += [one for one in row.runs if one not in runs]
    return runs


def tabulate(
    rows: Sequence[Row],
    out: Path,
    opened: Callable[[Workload], Dataset],
    on_step: OnStep = lambda status: None,
    only_kept: bool = False,
    jobs: int = 1,
) -> pd.DataFrame:
    """Run what is missing of the rows and write their table to `out`; what it tells, a line a row.

    Runs are kept beside `out` for the next time, and taken from there if they are of the same
    workload, seed, data set and version; `jobs` run at a time. With `only_kept` nothing is run, and
    rows that miss a run are left out. `opened` gives the data set of a workload. Raises
    WorkloadError as `run_missing`, and where no row is left.
    """
    out = require_place(out, "table.csv")
    runs = different_runs(rows)
    places: dict[int, Place] = {}  # by the number of the run
    for data in dict.fromkeys(map(_data, runs)):
        same = [number for number, run in enumerate(runs) if _data(run) == data]
        of_data = [runs[number] for number in same]
        dataset = opened(of_data[0])
        found = places_of(of_data, runs_of(out), dataset, any_code=True)
        if not only_kept:
            run_missing(found, dataset, on_step, jobs=jobs)
        places |= dict(zip(same, found, strict=True))

    results = {at: place.read() for at, place in places.items() if place.path.exists()}
    numbers = {row: [runs.index(run) for run in row.runs] for row in rows}
    complete = [row for row in rows if all(number in results for number in numbers[row])]
    if not complete:
        raise WorkloadError(f"{runs_of(out)} must hold every run of some row, but holds none")
    records = [
        {
            "row": row.name,
            **row.budget,
            "over": row.over if row.base(rows) in complete else "",
            "command": row.command,
            **_told_run(results[number], row.network),
            "sources": places[number].sources(),
        }
        for row in complete
        for number in numbers[row]
    ]
    missing = [
        f"{row.name}, {row.budget['labels']:,} labels" for row in rows if row not in complete
    ]
    told = [line for run in results.values() for line in stand_in_warnings(run.summary["data"])]
    return write_rows(out, records, missing, list(dict.fromkeys(told)))


def _told_run(result: Result, network: str) -> dict[str, Any]:
    """One run by the accuracy of `network`, its cost and the computer's time."""
    run = run_of(result)
    return {
        "seed": run["seed"],
        "arithmetic": run["arithmetic"],
        "network": network,
        "accuracy": run[f"{network}_accuracy"],
        **{name: run[name] for name in ("accepted_share", "seconds", "joules")},
        "minutes": result.host["total_seconds"] / 60,
    }


def _data(workload: Workload) -> tuple[Any, ...]:
    """What its data set follows from."""
    stream = workload.data
    return stream.dataset, stream.resize, workload.other_datasets, workload.network.image
