"""Schedules of one workload side by side, and where their cycles and their bytes differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from accsim.report import figures
from accsim.report.answer import percent, quantity
from accsim.report.folder import replaced_folder
from accsim.report.page import render, write_csv, write_json
from accsim.report.tables import in_order_of_passes

KEYS = (
    "schedule",
    "seeds",
    "cycles",
    "seconds",
    "ddr_read_bytes",
    "ddr_write_bytes",
    "peak_ddr_bytes",
    "peak_on_chip_bytes",
    "joules",
    "frames_dropped",
    "student_accuracy",
    "student_accuracy_std",
    "teacher_accuracy",
    "teacher_accuracy_std",
)
TOTALS = (
    figures.plot_compared_seconds,
    figures.plot_compared_joules,
    figures.plot_compared_last,
    figures.plot_compared_ddr,
    figures.plot_compared_on_chip,
    figures.plot_compared_equal,
)
CURVES = (figures.plot_compared_over_time, figures.plot_compared_over_energy)
MECHANISMS = {  # as the clock names them, and as a reader does
    "ddr_data": "DDR data",
    "ddr_rows": "DDR rows",
    "ddr_turnaround": "DDR turnaround",
    "ddr_refresh": "DDR refresh",
    "dma": "DMA",
    "pe_array": "PE array",
    "vector_unit": "vector unit",
    "idle": "no frames",
}
PLACES = {"simulated_seconds": "accuracy_at_equal_seconds", "joules": "accuracy_at_equal_joules"}


def compare_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Schedules side by side for the terminal; every row holds `KEYS`, an accuracy may be None."""
    check_rows(rows)
    table = Table()
    table.add_column("schedule", overflow="fold")
    heads = ("cycles", "seconds", "DDR read", "DDR written", "in DDR", "on chip", "joules")
    for head in (*heads, "dropped", "student", "teacher"):
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*told(row).values())
    return table


def write_comparison(
    out: Path, rows: Sequence[Mapping[str, Any]], explanations: Mapping[str, str]
) -> Path:
    """Write compare.json, figures and tables beside README.md into `out`; return `out`.

    Parameters
    ----------
    out : folder; an earlier comparison there is replaced once the new one is complete
    rows : one schedule each, holding `KEYS`, the table `tensors` of `Tables`, `critical_path`,
        `mechanism_cycles` and `dram_counts` of the clock's totals, and `curves`, those of
        `accuracy_curves` for every seed; the others are held against the first
    explanations : for each schedule's name one line on why its bytes differ

    Raises ValueError for rows that cannot be compared, OSError for a place that cannot be written.
    """
    check_rows(rows, "tensors", "critical_path", "mechanism_cycles", "dram_counts", "curves")
    unexplained = [row["schedule"] for row in rows if row["schedule"] not in explanations]
    if unexplained:
        raise ValueError(f"explanations must name every schedule, missing: {unexplained}")
    plain = [{key: row[key] for key in KEYS} for row in rows]
    for row, equal in zip(plain, equal_accuracies(rows), strict=True):
        row |= equal
        row["explanation"] = explanations[row["schedule"]]
    differences = byte_differences(rows)
    waits = cycle_differences(rows)
    with replaced_folder(out, marker="compare.json") as folder:
        records = differences.to_dict("records")
        found = {"byte_differences": records, "cycle_differences": waits.to_dict("records")}
        write_json(folder / "compare.json", {"schedules": plain, **found})
        write_csv(folder / "compare.csv", pd.DataFrame(plain))
        write_csv(folder / "compare_bytes.csv", differences)
        write_csv(folder / "compare_mechanisms.csv", waits)
        for name, data, panels, shape in (
            ("totals", totals(plain), TOTALS, {"rows": 2, "height_inches": 5.5}),
            ("cycles", waited_cycles(rows), (figures.plot_compared_cycles,), {}),
            ("ddr_traffic", traffic(rows), (figures.plot_compared_bytes,), {}),
            ("accuracy", mean_curves(rows), CURVES, {"legend_below": True}),
        ):
            write_csv(folder / f"compare_{name}.csv", data)
            figures.save_figure(folder / f"compare_{name}.png", data, panels, **shape)
        page = render(
            "comparison.md.j2",
            title=Path(out).name,
            rows=[told(row) for row in plain],
            equal=[
                {"schedule": row["schedule"], **{key: _share(row, key) for key in PLACES.values()}}
                for row in plain
            ],
            seeds=plain[0]["seeds"],
            explanations=[(row["schedule"], row["explanation"]) for row in plain],
            first=plain[0]["schedule"],
            mechanisms=list(MECHANISMS.values()),
            waits=[told_cycles(row, first=not at) for at, row in waits.iterrows()],
            differences={
                row["schedule"]: [at for at in records if at["schedule"] == row["schedule"]]
                for row in plain[1:]
            },
        )
        (folder / "README.md").write_text(page, encoding="utf-8")
    return out


def byte_differences(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Bytes of every later schedule minus those of the first, by tensor class and pass.

    Columns schedule, pass, class, read_bytes, write_bytes; where neither differs there is no row.
    """
    first, *others = (
        row["tensors"].groupby(["pass", "class"])[["read_bytes", "write_bytes"]].sum()
        for row in rows
    )
    columns = ["schedule", "pass", "class", "read_bytes", "write_bytes"]
    found = [pd.DataFrame(columns=columns)]
    for row, moved in zip(rows[1:], others, strict=True):
        change = moved.sub(first, fill_value=0).astype("int64")
        change = change[(change != 0).any(axis=1)].reset_index()
        if not change.empty:
            ordered = in_order_of_passes(change, then=["class"])
            found.append(ordered.assign(schedule=row["schedule"])[columns])
    return pd.concat(found[1:] or found, ignore_index=True)


def cycle_differences(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Cycles by what the critical path waits for, of the first seed; then those less the first.

    Columns schedule, cycles, the keys of `MECHANISMS`, which sum to cycles, and row_hit_share: of
    the schedule's own bursts, those that found their row open.
    """
    first = rows[0]["mechanism_cycles"]
    table: list[dict[str, Any]] = []
    for row in rows:
        spent = {name: row["mechanism_cycles"][name] for name in MECHANISMS}
        if table:
            spent = {name: cycles - first[name] for name, cycles in spent.items()}
        counts = row["dram_counts"]
        table.append(
            {
                "schedule": row["schedule"],
                "cycles": sum(spent.values()),
                **spent,
                "row_hit_share": counts["row_hits"] / max(counts["reads"] + counts["writes"], 1),
            }
        )
    return pd.DataFrame(table)


def told_cycles(row: Mapping[str, Any], first: bool) -> dict[str, str]:
    """A row of `cycle_differences` as a reader wants it, and the mechanism that decides.

    It is a share of the cycles without those in which the machine waits for frames.
    """
    sign = "" if first else "+"
    cells = {name: f"{round(row[name]):{sign},}" for name in ("cycles", *MECHANISMS)}
    working = row["cycles"] - row["idle"]
    units = [name for name in MECHANISMS if name != "idle"]
    largest = max(units, key=lambda name: row[name] * (1 if working >= 0 else -1))
    most = f"{MECHANISMS[largest]}, {percent(row[largest] / working)}" if working else "none"
    return {
        "schedule": row["schedule"],
        **cells,
        "row hits": percent(row["row_hit_share"]),
        "most of it": most,
    }


def equal_accuracies(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float | None]]:
    """Accuracy of every schedule when the one that ends first in time, or in joules, has ended.

    On a straight line between two evaluations; that of the first one before it. The teacher's, of
    the student where there is no teacher; the mean over the seeds, and as ``_std`` the sample
    deviation, None for one seed.
    """
    found: list[dict[str, float | None]] = [{} for _ in rows]
    for place, name in PLACES.items():
        ends = [curve[place].max() for row in rows for curve in row["curves"]]
        for row, at in zip(rows, found, strict=True):
            accuracies = [reached(curve, place, min(ends)) for curve in row["curves"]]
            at[name] = float(np.mean(accuracies))
            at[f"{name}_std"] = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
    return found


def reached(curve: pd.DataFrame, place: str, at: float) -> float:
    """Accuracy of one run where its column `place` is `at`; see `equal_accuracies`."""
    best = _best(curve)
    return float(np.interp(at, best[place], best["accuracy"]))


def _best(curve: pd.DataFrame) -> pd.DataFrame:
    """The teacher's part of a curve, or the student's where the teacher was left behind."""
    last = curve.loc[curve["step"] == curve["step"].max(), "network"]
    network = "teacher" if "teacher" in set(last) else "student"
    return curve[curve["network"] == network]


def totals(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What a run of every schedule took, and the accuracy of its teacher, or of its student.

    The rows hold `KEYS`, and what `equal_accuracies` found.
    """
    table = pd.DataFrame(rows)
    for name in ("accuracy", "accuracy_std"):
        teacher, student = (table[f"{network}_{name}"] for network in ("teacher", "student"))
        table[name] = teacher.astype("float64").where(table["teacher_accuracy"].notna(), student)
    costs = ["seconds", "joules", "peak_ddr_bytes", "peak_on_chip_bytes"]
    accuracies = [f"{name}{end}" for name in ("accuracy", *PLACES.values()) for end in ("", "_std")]
    return table[["schedule", *costs, *accuracies]]


def mean_curves(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Accuracy over simulated time of every schedule, mean over the seeds at each evaluation."""
    curves = [
        _best(curve).assign(schedule=row["schedule"]) for row in rows for curve in row["curves"]
    ]
    columns = ["simulated_seconds", "joules", "accuracy"]
    return pd.concat(curves).groupby(["schedule", "step"], sort=False)[columns].mean().reset_index()


def waited_cycles(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What the run of every schedule waited for: cycles by pass and unit, of the first seed.

    The units of a machine that is cut in two go by one name: the pass says whose they are.
    """
    tables = []
    for row in rows:
        path = row["critical_path"]
        units = path["unit"].str.removeprefix("student_").str.removeprefix("teacher_")
        path = path.assign(unit=units).groupby(["pass", "unit"], as_index=False)["cycles"].sum()
        tables.append(in_order_of_passes(path, ["unit"]).assign(schedule=row["schedule"]))
    return pd.concat(tables, ignore_index=True)[["schedule", "pass", "unit", "cycles"]]


def traffic(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Bytes over DDR of every schedule by tensor class, of the first seed."""
    tables = [
        row["tensors"]
        .assign(bytes=row["tensors"]["read_bytes"] + row["tensors"]["write_bytes"])
        .groupby("class", as_index=False)["bytes"]
        .sum()
        .assign(schedule=row["schedule"])
        for row in rows
    ]
    return pd.concat(tables, ignore_index=True)[["schedule", "class", "bytes"]]


def told(row: Mapping[str, Any]) -> dict[str, str]:
    """One schedule's figures as a reader wants them."""
    student, teacher = (_share(row, f"{network}_accuracy") for network in ("student", "teacher"))
    return {
        "schedule": row["schedule"],
        "cycles": f"{row['cycles']:,}",
        "seconds": f"{row['seconds']:,.3f}",
        "read": quantity(row["ddr_read_bytes"], "B"),
        "written": quantity(row["ddr_write_bytes"], "B"),
        "in_ddr": quantity(row["peak_ddr_bytes"], "B"),
        "on_chip": quantity(row["peak_on_chip_bytes"], "B"),
        "joules": f"{row['joules']:,.3f}",
        "dropped": f"{row['frames_dropped']:,}",
        "student": student,
        "teacher": teacher,
    }


def _share(row: Mapping[str, Any], name: str) -> str:
    """An accuracy with its spread, where it has them."""
    mean, spread = row[name], row[f"{name}_std"]
    if mean is None:
        return "none"
    return percent(mean) if spread is None else f"{percent(mean)} +- {percent(spread)}"


def check_rows(rows: Sequence[Mapping[str, Any]], *more: str) -> None:
    """Raise ValueError unless there are rows, each whole and of a name of its own."""
    if not rows:
        raise ValueError("a comparison must have at least one schedule, not none")
    for row in rows:
        missing = [key for key in (*KEYS, *more) if key not in row]
        if missing:
            raise ValueError(f"a compared schedule must hold {', '.join(missing)}; it does not")
    names = [row["schedule"] for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"compared schedules must have different names, not {names}")
