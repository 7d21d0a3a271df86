"""Schedules of one workload side by side: what they learn, and what each costs."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from accsim.data import Dataset
from accsim.report.comparison import write_comparison
from accsim.report.folder import require_place
from accsim.report.tables import accuracy_curves
from accsim.run import misfits
from accsim.schedule.base import Schedule
from accsim.series import finished
from accsim.workload import Workload

WHOLE = ("cycles", "ddr_read_bytes", "ddr_write_bytes", "frames_dropped")
PEAKS = ("peak_ddr_bytes", "peak_on_chip_bytes")


def compare(
    workload: Workload,
    schedules: Sequence[Schedule],
    out: Path,
    dataset: Dataset,
    on_step=lambda status: None,
    seeds: int = 1,
    resume: bool = False,
    jobs: int = 1,
) -> list[dict[str, Any]]:
    """Run one workload under several schedules and write them side by side; the rows written.

    With `seeds` above 1 each runs with so many seeds from the workload's own on: figures are means,
    accuracies have standard deviations, and bytes are told apart for the first seed; `jobs` run at
    a time. With `resume` runs that an earlier comparison finished before it was stopped are not run
    again. Raises WorkloadError as `run` does.
    """
    out = require_place(out, "compare.json")
    with misfits():
        rivals = [
            replace(workload, schedule=schedule, seed=workload.seed + number)
            for schedule in schedules
            for number in range(seeds)
        ]
    rows = []
    with finished(rivals, out, dataset, on_step, resume, jobs) as runs:
        for place, schedule in enumerate(schedules):
            results = runs[place * seeds : (place + 1) * seeds]
            accuracies = pd.DataFrame([result.summary["accuracy"] for result in results])
            costs = pd.DataFrame([result.summary["cost"] for result in results])
            rows.append(
                {
                    "schedule": told(schedule),
                    "explanation": schedule.explain(),
                    "seeds": seeds,
                    **_mean_and_spread("student_accuracy", accuracies["student"]),
                    **_mean_and_spread("teacher_accuracy", accuracies["teacher"]),
                    "tensors": results[0].tables.tensors,
                    "critical_path": pd.DataFrame(results[0].summary["critical_path"]),
                    **{key: results[0].summary[key] for key in ("mechanism_cycles", "dram_counts")},
                    "curves": [accuracy_curves(result.tables) for result in results],
                    **{key: round(costs[key].mean()) for key in WHOLE},
                    **{key: int(costs[key].max()) for key in PEAKS},
                    **{key: float(costs[key].mean()) for key in ("seconds", "joules")},
                }
            )
        write_comparison(out, rows, {row["schedule"]: row["explanation"] for row in rows})
    return rows


def _mean_and_spread(name: str, values: pd.Series) -> dict[str, float | None]:
    """Mean and sample deviation, None where there is none: no teacher, one seed."""
    numbers = values.astype("float64")
    found = {name: numbers.mean(), f"{name}_std": numbers.std(ddof=1)}
    return {key: None if pd.isna(value) else float(value) for key, value in found.items()}


def told(schedule: Schedule) -> str:
    """A schedule as the command line names it: ``AlternateTeacher(LayerwiseEma, every=2)``."""
    settings = {f.name: getattr(schedule, f.name) for f in fields(schedule)}
    choices = ", ".join(
        told(value) if isinstance(value, Schedule) else f"{name}={value}"
        for name, value in settings.items()
    )
    return schedule.name + (f"({choices})" if choices else "")
