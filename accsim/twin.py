"""One workload in fixed point and in float32: what rounding costs in accuracy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from accsim.data import Dataset
from accsim.report.folder import require_place
from accsim.report.tables import accuracy_curves
from accsim.report.twin import FIXED, FLOAT, write_twin
from accsim.run import Result, misfits
from accsim.series import finished
from accsim.workload import Workload, WorkloadError, describe


def twin(
    workload: Workload,
    out: Path,
    dataset: Dataset,
    on_step=lambda status: None,
    seeds: int = 1,
    resume: bool = False,
    jobs: int = 1,
) -> list[dict[str, Any]]:
    """Run one workload in float32 and in fixed point and write them side by side; the runs written.

    With `seeds` above 1 each runs with so many seeds from the workload's own on; `jobs` run at a
    time. With `resume` runs that earlier twins finished before they were stopped are not run again.
    Raises WorkloadError for a rule or a schedule that has no twin and where torch is not installed.
    """
    out = require_place(out, "twin.json")
    with finished(twins(workload, seeds), out, dataset, on_step, resume, jobs) as results:
        runs = [run_of(result) for result in results]
        minutes = [result.host["total_seconds"] / 60 for result in results]
        write_twin(out, runs, describe(workload), minutes)
    return runs


def twins(workload: Workload, seeds: int) -> list[Workload]:
    """`workload` in float32 and as it is, in turn, with so many seeds from its own on."""
    in_float = _in_float(workload)
    return [
        replace(rival, seed=workload.seed + number)
        for number in range(seeds)
        for rival in (in_float, workload)
    ]


def run_of(result: Result) -> dict[str, Any]:
    """One run as the report wants it: its choices, its measures and its curve."""
    accuracy, steps = result.summary["accuracy"], result.tables.steps
    in_float = result.summary["workload"]["algorithm"]["class"] == "InFloat"
    frames = int(steps["unlabelled_samples"].sum())
    return {
        "seed": result.summary["seed"],
        "arithmetic": FLOAT if in_float else FIXED,
        "student_accuracy": accuracy["student"],
        "teacher_accuracy": accuracy["teacher"],
        "accepted_share": int(steps["accepted"].sum()) / frames if frames else None,
        **{
            f"{network}_accuracy_under {shift}": found.get(network)
            for shift, found in accuracy["shifted"].items()
            for network in ("student", "teacher")
        },
        **{name: result.summary["cost"][name] for name in ("seconds", "joules")},
        "curve": accuracy_curves(result.tables),
    }


def _in_float(workload: Workload) -> Workload:
    try:
        from accsim.training.float_learner import InFloat
    except ModuleNotFoundError as error:
        raise WorkloadError(
            "float32 needs torch, which is not installed: pip install -c constraints.txt "
            "-e '.[float]'"
        ) from error
    with misfits():
        return replace(workload, algorithm=InFloat(rule=workload.algorithm))  # type: ignore[arg-type]
