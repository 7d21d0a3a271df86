"""One choice over several values: means and spreads, a figure, and gains seed by seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from accsim.report import figures
from accsim.report.answer import percent
from accsim.report.folder import replaced_folder
from accsim.report.page import render, write_csv, write_json

MEASURES = ("accuracy", "backward_share", "cycles", "joules")


def summary(name: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a value of `name`: mean and standard deviation of the measures over the seeds.

    ``accuracy`` is the teacher's, of the student where there is no teacher; ``gain`` is its mean
    difference from the first value, seed by seed, and ``gain_std`` that difference's deviation.
    Deviations are of the sample (n - 1), empty for one seed.
    """
    table = pd.DataFrame(rows)
    teacher = table["teacher_accuracy"].astype("float64")
    table["accuracy"] = teacher.fillna(table["student_accuracy"])
    first = table[table[name] == table[name].iloc[0]].set_index("seed")["accuracy"]
    table["gain"] = table["accuracy"] - table["seed"].map(first)
    grouped = table.groupby(name, sort=False)[[*MEASURES, "gain"]]
    means, spreads = grouped.mean(), grouped.std(ddof=1).add_suffix("_std")
    columns = [column for measure in (*MEASURES, "gain") for column in (measure, f"{measure}_std")]
    return means.join(spreads)[columns].reset_index().assign(seeds=table["seed"].nunique())


def write_ablation(out: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write ablation.json, ablation.csv, runs.csv, ablation.png and README.md; return `out`.

    Parameters
    ----------
    out : folder; an earlier ablation there is replaced once the new one is complete
    name : the choice; every row holds its value, `seed`, accuracies, backward_share, cycles, joules

    Raises OSError for a place that cannot be written.
    """
    found = summary(name, rows)
    with replaced_folder(out, marker="ablation.json") as folder:
        records = [dict(row) for row in rows]
        write_json(folder / "ablation.json", {"over": name, "runs": records})
        write_csv(folder / "runs.csv", pd.DataFrame(records))
        write_csv(folder / "ablation.csv", found)
        figures.save_figure(
            folder / "ablation.png",
            found.rename(columns={name: "value"}),
            (figures.plot_ablated_accuracy, figures.plot_ablated_joules),
            share_y=False,
        )
        page = render(
            "ablation.md.j2", title=Path(out).name, name=name, rows=told(name, found),
            seeds=int(found["seeds"].iloc[0]),
        )  # fmt: skip
        (folder / "README.md").write_text(page, encoding="utf-8")
    return out


def ablation_table(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The summary for the terminal."""
    table = Table()
    for place, row in enumerate(told(name, summary(name, rows))):
        if not place:
            for head in row:
                table.add_column(head, justify="left" if head == name else "right")
        table.add_row(*row.values())
    return table


def told(name: str, found: pd.DataFrame) -> list[dict[str, str]]:
    """The summary as a reader wants it: mean and spread in one cell."""
    return [
        {
            name: str(row[name]),
            "accuracy": _spread(row, "accuracy", 100, "%"),
            "gain": _spread(row, "gain", 100, "points") if place else "",
            "samples with a backward pass": percent(row["backward_share"]),
            "Mcycles": _spread(row, "cycles", 1e-6),
            "joules": _spread(row, "joules", 1),
        }
        for place, (_, row) in enumerate(found.iterrows())
    ]


def _spread(row: pd.Series, measure: str, scale: float, unit: str = "") -> str:
    mean, spread = row[measure] * scale, row[f"{measure}_std"] * scale
    text = f"{mean:,.2f}" if pd.isna(spread) else f"{mean:,.2f} +- {spread:,.2f}"
    return f"{text} {unit}".strip()
