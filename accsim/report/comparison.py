"""Schedules of one workload side by side, and where their bytes differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from accsim.report.answer import percent, quantity
from accsim.report.folder import replaced_folder
from accsim.report.page import render, write_csv, write_json
from accsim.report.tables import in_order_of_passes

KEYS = (
    "schedule",
    "cycles",
    "seconds",
    "ddr_read_bytes",
    "ddr_write_bytes",
    "joules",
    "student_accuracy",
    "teacher_accuracy",
)


def compare_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Schedules side by side for the terminal; every row holds `KEYS`, an accuracy may be None."""
    check_rows(rows)
    table = Table()
    table.add_column("schedule")
    for head in ("cycles", "seconds", "DDR read", "DDR written", "joules", "student", "teacher"):
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*told(row).values())
    return table


def write_comparison(
    out: Path, rows: Sequence[Mapping[str, Any]], explanations: Mapping[str, str]
) -> Path:
    """Write compare.json, compare.csv, compare_bytes.csv and README.md into `out`; return `out`.

    Parameters
    ----------
    out : folder; an earlier comparison there is replaced once the new one is complete
    rows : one schedule each, holding `KEYS` and `tensors`, the table of `Tables.tensors`; the
        others are held against the first
    explanations : for each schedule's name one line on why its bytes differ

    Raises ValueError for rows that cannot be compared, OSError for a place that cannot be written.
    """
    check_rows(rows, "tensors")
    unexplained = [row["schedule"] for row in rows if row["schedule"] not in explanations]
    if unexplained:
        raise ValueError(f"explanations must name every schedule, missing: {unexplained}")
    plain = [{key: row[key] for key in KEYS} for row in rows]
    for row in plain:
        row["explanation"] = explanations[row["schedule"]]
    differences = byte_differences(rows)
    with replaced_folder(out, marker="compare.json") as folder:
        records = differences.to_dict("records")
        write_json(folder / "compare.json", {"schedules": plain, "byte_differences": records})
        write_csv(folder / "compare.csv", pd.DataFrame(plain))
        write_csv(folder / "compare_bytes.csv", differences)
        page = render(
            "comparison.md.j2",
            title=Path(out).name,
            rows=[told(row) for row in plain],
            explanations=[(row["schedule"], row["explanation"]) for row in plain],
            first=plain[0]["schedule"],
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


def told(row: Mapping[str, Any]) -> dict[str, str]:
    """One schedule's figures as a reader wants them."""
    accuracies = (row["student_accuracy"], row["teacher_accuracy"])
    student, teacher = ("none" if share is None else percent(share) for share in accuracies)
    return {
        "schedule": row["schedule"],
        "cycles": f"{row['cycles']:,}",
        "seconds": f"{row['seconds']:,.3f}",
        "read": quantity(row["ddr_read_bytes"], "B"),
        "written": quantity(row["ddr_write_bytes"], "B"),
        "joules": f"{row['joules']:,.3f}",
        "student": student,
        "teacher": teacher,
    }


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
