"""One choice of a workload over several values and seeds: what it gains, what it costs."""

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from accsim.data import Dataset
from accsim.report.ablation import write_ablation
from accsim.report.folder import require_place
from accsim.run import Status, simulate
from accsim.workload import Workload, WorkloadError


@dataclass(frozen=True)
class Choice:
    """A field of a workload, or of a part of it, and the values that it takes."""

    name: str
    path: tuple[str, ...]  # from the workload to the field
    values: tuple[Any, ...]

    def on(self, workload: Workload, value: Any) -> Workload:
        """`workload` with this field at `value`; WorkloadError for one that it cannot have."""
        try:
            return _replaced(workload, self.path, value)
        except (TypeError, ValueError) as error:
            raise WorkloadError(f"--over {self.name}={value}: {error}") from error


def choice(workload: Workload, text: str) -> Choice:
    """The choice of ``name=value,value,...``; a name may be dotted, such as optimizer.momentum.

    Raises WorkloadError for a text of another form, fewer than two values, and a name that the
    workload has not, or has more than once.
    """
    name, _, listed = text.partition("=")
    try:
        values = ast.literal_eval(f"({listed},)")
    except (SyntaxError, ValueError) as error:
        raise WorkloadError(
            f"--over must be a name and its values, such as confidence_threshold=0,0.5,0.8, "
            f"not {text!r}"
        ) from error
    if len(set(values)) < 2 or len(set(values)) < len(values):
        raise WorkloadError(f"--over {name} must have two different values or more, not {listed!r}")
    wanted = tuple(name.strip().split("."))
    places = list(_places(workload))
    found = [place for place in places if place[-len(wanted) :] == wanted]
    if len(found) != 1:
        known = sorted(".".join(place) for place in found or places)
        many = "one of" if found else "a field of the workload, one of"
        raise WorkloadError(f"--over must name {many} {', '.join(known)}, not {name!r}")
    return Choice(name, found[0], values)


def _places(part: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a workload keeps plain numbers, names and switches."""
    for field in fields(part):
        value, place = getattr(part, field.name), (*above, field.name)
        if is_dataclass(value):
            if place not in (("network",), ("accelerator", "dram")):
                yield from _places(value, place)
        elif isinstance(value, bool | int | float | str):
            yield place


def _replaced(part: Any, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    return replace(part, **{name: _replaced(getattr(part, name), rest, value) if rest else value})


def ablate(
    workload: Workload,
    over: Choice,
    seeds: int,
    out: Path,
    dataset: Dataset,
    on_step: Callable[[Status], None] = lambda status: None,
) -> list[dict[str, Any]]:
    """Run `workload` with every value of `over` and seeds 0, 1 ... after its own; the rows written.

    Runs of one seed differ in nothing but the value, so gains are told seed by seed. Raises
    WorkloadError for a value that cannot be, before the first run, and as `run` does.
    """
    require_place(out, "ablation.json")
    variants = [
        (value, replace(over.on(workload, value), seed=workload.seed + number))
        for value in over.values
        for number in range(seeds)
    ]
    rows = []
    for value, variant in variants:
        result = simulate(variant, dataset, on_step)
        cost, accuracy = result.summary["cost"], result.summary["accuracy"]
        steps = result.tables.steps
        taken = int((steps["labelled_samples"] + steps["unlabelled_samples"]).sum())
        rows.append(
            {
                over.name: value,
                "seed": variant.seed,
                "student_accuracy": accuracy["student"],
                "teacher_accuracy": accuracy["teacher"],
                "backward_share": int(steps["backward_samples"].sum()) / taken,
                "cycles": cost["cycles"],
                "seconds": cost["seconds"],
                "joules": cost["joules"],
                "ddr_bytes": cost["ddr_read_bytes"] + cost["ddr_write_bytes"],
                "frames_dropped": cost["frames_dropped"],
            }
        )
    write_ablation(out, over.name, rows)
    return rows
