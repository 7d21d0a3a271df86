"""Choices of a workload over several values and seeds: what they gain, what they cost."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Any

from accsim.data import Dataset
from accsim.report import online
from accsim.report.ablation import write_ablation
from accsim.report.comparison import PLACES, reached
from accsim.report.folder import require_place
from accsim.report.tables import KINDS, accuracy_curves, stream_curves
from accsim.run import Result
from accsim.series import OnStep, finished
from accsim.setting import changed, place_of
from accsim.workload import Workload, WorkloadError


@dataclass(frozen=True)
class Choice:
    """A field of a workload, or of a part of it, and the values that it takes."""

    name: str
    path: tuple[str, ...]  # from the workload to the field
    values: tuple[Any, ...]  # members of an enumeration by their names

    def on(self, workload: Workload, value: Any) -> Workload:
        """`workload` with this field at `value`; WorkloadError for one that it cannot have."""
        return changed(workload, self.path, value, f"--over {self.name}={value}")


def choice(workload: Workload, name: str, values: Sequence[Any]) -> Choice:
    """The choice called `name`, as of `place_of`.

    Raises WorkloadError for fewer than two values, and for a name that the workload has not, or has
    more than once.
    """
    if len(values) < 2 or any(value in values[:place] for place, value in enumerate(values)):
        listed = ",".join(map(str, values))
        raise WorkloadError(f"--over {name} must have two different values or more, not {listed!r}")
    plain = tuple(value.name if isinstance(value, Enum) else value for value in values)
    return Choice(name, place_of(workload, name, "--over"), plain)


def parsed(text: str) -> tuple[str, tuple[Any, ...]]:
    """Name and values of ``name=value,value,...``; WorkloadError for a text of another form.

    Values are literals of Python, or words, which need no quotes.
    """
    name, _, listed = text.partition("=")
    try:
        values = _Quoted().visit(ast.parse(f"({listed},)", mode="eval"))
        return name.strip(), ast.literal_eval(values)
    except (SyntaxError, ValueError) as error:
        raise WorkloadError(
            f"--over must be a name and its values, such as confidence_threshold=0,0.5,0.8, "
            f"not {text!r}"
        ) from error


class _Quoted(ast.NodeTransformer):
    """Puts the text of a word in its place."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.Constant(node.id)


def ablate(
    workload: Workload,
    over: Sequence[Choice],
    seeds: int,
    out: Path,
    dataset: Dataset,
    on_step: OnStep = lambda status: None,
    resume: bool = False,
    jobs: int = 1,
) -> list[dict[str, Any]]:
    """Run `workload` with every combination of the choices' values and every seed; the rows.

    Seeds are the workload's own and those after it. Runs of one seed differ in nothing but the
    choices, so gains are told seed by seed; `jobs` run at a time. With `resume` runs that an
    earlier ablation finished before it was stopped are not run again. Raises WorkloadError for a
    value that cannot be, before the first run, and as `run` does. Accuracies at equal time and
    energy are those when the run that ends first has ended.
    """
    out = require_place(out, "ablation.json")
    variants = []
    for values in product(*(one.values for one in over)):
        changed = workload
        for one, value in zip(over, values, strict=True):
            changed = one.on(changed, value)
        variants += [(values, replace(changed, seed=workload.seed + n)) for n in range(seeds)]
    names = [one.name for one in over]
    with finished([one for _, one in variants], out, dataset, on_step, resume, jobs) as results:
        rows = [
            dict(zip(names, values, strict=True)) | _run_of(result)
            for (values, _), result in zip(variants, results, strict=True)
        ]
        curves = [accuracy_curves(result.tables) for result in results]
        for place, name in PLACES.items():
            first_end = min(curve[place].max() for curve in curves)
            for row, curve in zip(rows, curves, strict=True):
                row[name] = reached(curve, place, first_end)
        write_ablation(out, names, rows, [stream_curves(result.tables) for result in results])
    return rows


def _run_of(result: Result) -> dict[str, Any]:
    """One run's seed and measures."""
    cost, accuracy = result.summary["cost"], result.summary["accuracy"]
    steps = result.tables.steps
    taken = steps["labelled_samples"] + steps["unlabelled_samples"]
    taken = int(taken.clip(lower=steps["backward_samples"]).sum())  # with frames kept from earlier
    return {
        "seed": result.summary["seed"],
        "student_accuracy": accuracy["student"],
        "teacher_accuracy": accuracy["teacher"],
        "backward_share": int(steps["backward_samples"].sum()) / taken,
        "cycles": cost["cycles"],
        "seconds": cost["seconds"],
        "joules": cost["joules"],
        "ddr_bytes": cost["ddr_read_bytes"] + cost["ddr_write_bytes"],
        "frames_dropped": cost["frames_dropped"],
        **result.summary["lost"],
        **_accepted_shares(result.summary["gate"]),
        **online.measures(result.summary),
    }


def _accepted_shares(gate: dict[str, dict[str, int]]) -> dict[str, float | None]:
    """Accepted share of the samples of each kind of frame, None of a kind that did not come."""
    shares: dict[str, float | None] = {f"accepted_{kind}": None for kind in KINDS}
    for kind, counts in gate.items():
        shares[f"accepted_{kind}"] = counts["accepted"] / sum(counts.values())
    return shares
