"""Choices over several values: means and spreads, figures, and gains seed by seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from accsim.report import figures, online
from accsim.report.answer import percent
from accsim.report.folder import replaced_folder
from accsim.report.page import render, write_csv, write_json
from accsim.report.tables import KINDS

ACCEPTED = tuple(f"accepted_{kind}" for kind in KINDS)
EQUAL = {
    "accuracy_at_equal_seconds": "at equal time",
    "accuracy_at_equal_joules": "at equal energy",
}
LOST = ("unmoved", "teacher_unmoved", "underflowed", "saturated")
MEASURES = (
    *("accuracy", *EQUAL, "backward_share", "cycles", "joules", "ddr_bytes"),
    *LOST,
    *ACCEPTED,
)


def summary(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a combination of values: mean and standard deviation of the measures over the seeds.

    ``accuracy`` is the teacher's, of the student where there is no teacher; ``gain`` is its mean
    difference from the first value of the first choice, seed by seed and the other choices equal,
    and ``gain_std`` that difference's deviation. Deviations are of the sample (n - 1), empty for
    one seed.

    Parameters
    ----------
    names : the choices
    rows : one run each: a value of every choice, `seed`, `student_accuracy`, `teacher_accuracy` or
        None, and `MEASURES` but the first
    """
    texts = {name: [str(row[name]) for row in rows] for name in names}
    table = pd.DataFrame(rows).astype(dict.fromkeys(MEASURES[1:], "float64")).assign(**texts)
    teacher = table["teacher_accuracy"].astype("float64")
    table["accuracy"] = teacher.fillna(table["student_accuracy"])
    others = [*names[1:], "seed"]
    first = table[table[names[0]] == table[names[0]].iloc[0]].set_index(others)["accuracy"]
    table = table.join(first.rename("first"), on=others)
    table["gain"] = table["accuracy"] - table["first"]
    measures = [*MEASURES, "gain"]
    grouped = table.groupby(list(names), sort=False)[measures]
    means, spreads = grouped.mean(), grouped.std(ddof=1).add_suffix("_std")
    columns = [column for measure in measures for column in (measure, f"{measure}_std")]
    return means.join(spreads)[columns].reset_index().assign(seeds=table["seed"].nunique())


def write_ablation(
    out: Path,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    streams: Sequence[pd.DataFrame],
) -> Path:
    """Write ablation.json, ablation.csv, runs.csv, ablation.png and README.md; return `out`.

    Where a network was deployed online.csv has what adapting it gains, and stream.csv with its
    figure the accuracy on the stream.

    Parameters
    ----------
    out : folder; an earlier ablation there is replaced once the new one is complete
    names, rows : as of `summary`
    streams : `stream_curves` of every run

    Raises OSError for a place that cannot be written.
    """
    found = summary(names, rows)
    with replaced_folder(out, marker="ablation.json") as folder:
        records = [dict(row) for row in rows]
        write_json(folder / "ablation.json", {"over": list(names), "runs": records})
        write_csv(folder / "runs.csv", pd.DataFrame(records))
        write_csv(folder / "ablation.csv", found)
        figures.save_figure(
            folder / "ablation.png",
            drawn(names, found),
            (
                figures.plot_ablated_accuracy,
                figures.plot_ablated_gain,
                figures.plot_ablated_equal,
                figures.plot_ablated_backward,
                figures.plot_ablated_cycles,
                figures.plot_ablated_joules,
                figures.plot_ablated_bytes,
                figures.plot_ablated_unmoved,
                figures.plot_ablated_saturated,
            ),
            share_y=False,
            rows=3,
            height_inches=7.5,
            legend_below=True,
        )
        adapts = online.WORST in rows[0]
        if adapts:
            write_csv(folder / "online.csv", online.gains(names, rows))
            curves = online.curves(names, rows, streams)
            write_csv(folder / "stream.csv", curves)
            panels = (figures.plot_adapted,)
            figures.save_figure(folder / "stream.png", curves, panels, legend_below=True)
        page = render(
            "ablation.md.j2", title=Path(out).name, names=names, rows=told(names, found),
            seeds=int(found["seeds"].iloc[0]), gains=online.told(names, rows) if adapts else (),
            spared=online.spared(names, rows) if adapts else (),
        )  # fmt: skip
        (folder / "README.md").write_text(page, encoding="utf-8")
    return out


def drawn(names: Sequence[str], found: pd.DataFrame) -> pd.DataFrame:
    """The summary as the figure takes it: `choice`, its `value`, and the other choices' as `line`.

    Of one choice `line` is empty.
    """
    lines = [
        ", ".join(f"{name} {value}" for name, value in zip(names[1:], row, strict=True))
        for row in found[list(names[1:])].itertuples(index=False)
    ]
    return found.assign(choice=names[0], value=found[names[0]], line=lines)


def ablation_table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """The summary for the terminal."""
    table = Table()
    for place, row in enumerate(told(names, summary(names, rows))):
        if not place:
            for head in row:
                table.add_column(
                    head, justify="left" if head in names else "right", overflow="fold"
                )
        table.add_row(*row.values())
    return table


def told(names: Sequence[str], found: pd.DataFrame) -> list[dict[str, str]]:
    """The summary as a reader wants it: mean and spread in one cell, and kinds that came."""
    came = [name for name in ACCEPTED if found[name].notna().any()]
    if came == ["accepted_clean"]:
        came = []
    lost = [name for name in LOST if found[name].notna().any()]
    first = found[names[0]].iloc[0]
    return [
        {
            **{name: row[name] for name in names},
            "accuracy": _spread(row, "accuracy", 100, "%"),
            "gain": "" if row[names[0]] == first else _spread(row, "gain", 100, "points"),
            **{head: _spread(row, measure, 100, "%") for measure, head in EQUAL.items()},
            "samples with a backward pass": percent(row["backward_share"]),
            "Mcycles": _spread(row, "cycles", 1e-6),
            "joules": _spread(row, "joules", 1),
            "DDR MB": _spread(row, "ddr_bytes", 1e-6),
            **{name.replace("_", " "): f"{row[name]:.2%}" for name in lost},
            **{name.replace("_", " "): percent(row[name]) for name in came},
        }
        for _, row in found.iterrows()
    ]


def _spread(row: pd.Series, measure: str, scale: float, unit: str = "") -> str:
    mean, spread = row[measure] * scale, row[f"{measure}_std"] * scale
    text = f"{mean:,.2f}" if pd.isna(spread) else f"{mean:,.2f} +- {spread:,.2f}"
    return f"{text} {unit}".strip()
