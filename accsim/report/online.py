"""A network that adapts beside the deployed one that it started as: paired gains, and the floor."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from accsim.report.rows import paired

PLACES = ("deployed", "adapted")  # whose accuracies are set side by side
WORST = "worst stretch of the stream"
SPARED = {  # shares of a run that accepts all
    "rejected_share": "samples without backward work",
    "spared_cycles_share": "cycles spared",
    "spared_joules_share": "joules spared",
}
ROLL_BACKS = "roll_backs"


def measures(result: Mapping[str, Any]) -> dict[str, float | int | None]:
    """What the summary of a run says of both networks; nothing where none was deployed.

    ``deployed: PLACE`` and ``adapted: PLACE`` are accuracies, the latter the teacher's, or the
    student's where there is no teacher; `WORST` is the least gain of a stretch of the stream, as of
    `accsim.report.tables.floor`; and the keys of `SPARED`.
    """
    accuracy, stream = result["accuracy"], result["stream"]
    if not stream:
        return {}
    adapted = "student" if accuracy["teacher"] is None else "teacher"
    places = {"test images": accuracy} | {
        f"test images under {shift}": found for shift, found in accuracy["shifted"].items()
    }
    places["frames of the stream"] = {name: of["accuracy"] for name, of in stream.items()}
    rejected, guard = result["rejected"] or {}, result["guard"] or {}
    share = rejected["rejected"] / rejected["samples"] if rejected else 0.0
    return {
        **{
            f"{network}: {place}": found[adapted if network == "adapted" else network]
            for place, found in places.items()
            for network in PLACES
        },
        WORST: result["floor"][adapted]["least_gain"],
        **{key: rejected.get(key, 0.0) for key in SPARED},
        "rejected_share": share,
        ROLL_BACKS: guard.get("roll_backs"),
    }


def gains(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a combination of values and place: both accuracies, and what adapting gains there.

    Columns of the gain are those of `accsim.report.rows.paired`, seed by seed; `least_gain` is that
    of the worst seed. Of `WORST`, a gain itself, the accuracies are empty. Deviations are of the
    sample (n - 1).

    Parameters
    ----------
    names : the choices
    rows : one run each: a value of every choice, `seed` and `measures`
    """
    found = []
    for choice, runs in _by_choice(names, rows):
        for place in [key.removeprefix("adapted: ") for key in runs if key.startswith("adapted: ")]:
            row, pair = {**choice, "place": place}, [runs[f"{one}: {place}"] for one in PLACES]
            for one, accuracy in zip(PLACES, pair, strict=True):
                row |= {one: accuracy.mean(), f"{one}_std": accuracy.std(ddof=1)}
            least = (pair[1] - pair[0]).min()
            found.append(row | paired(pair[1], pair[0]) | {"least_gain": least})
        worst = paired(runs[WORST], 0 * runs[WORST]) | {"least_gain": runs[WORST].min()}
        found.append({**choice, "place": WORST, **worst})
    return pd.DataFrame(found).assign(seeds=pd.DataFrame(rows)["seed"].nunique())


def told(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """`gains` as a reader wants them."""
    return [
        {
            **{name: row[name] for name in names},
            "accuracy on": row["place"],
            **{one: _spread(row[one], row[f"{one}_std"], " %") for one in PLACES},
            "gain": _spread(row["gain"], row["gain_std"], " points", "+"),
            "95 % confidence": ""
            if pd.isna(row["gain_p"])
            else f"{100 * row['gain_low']:+.1f} to {100 * row['gain_high']:+.1f}",
            "worst seed": f"{100 * row['least_gain']:+.1f}",
        }
        for row in gains(names, rows).to_dict("records")
    ]


def _spread(mean: float, deviation: float, unit: str, sign: str = "") -> str:
    if pd.isna(mean):
        return ""
    return (
        f"{100 * mean:{sign}.1f}{'' if pd.isna(deviation) else f' +- {100 * deviation:.1f}'}{unit}"
    )


def _by_choice(names: Sequence[str], rows: Sequence[Mapping[str, Any]]):
    """Values of the choices, as text, and the runs that have them."""
    table = pd.DataFrame(rows).assign(**{name: [str(row[name]) for row in rows] for name in names})
    for values, runs in table.groupby(list(names), sort=False):
        yield dict(zip(names, values, strict=True)), runs


def spared(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What rejected samples spare and what a guard did, mean and deviation over the seeds."""
    found = []
    for row, runs in _by_choice(names, rows):
        for key, head in SPARED.items():
            row[head] = _spread(runs[key].mean(), runs[key].std(ddof=1), " %")
        checks = "no guard" if runs[ROLL_BACKS].isna().any() else f"{runs[ROLL_BACKS].sum():.0f}"
        found.append({**row, "roll-backs of the guard": checks})
    return found


def curves(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], streams: Sequence[pd.DataFrame]
) -> pd.DataFrame:
    """Accuracy on the stream, stretch by stretch, for the figure: mean and span over the seeds.

    Parameters
    ----------
    names, rows : as of `gains`
    streams : `stream_curves` of every run

    Returns
    -------
    A row a stretch and `line`: the deployed network, and the adapted one of every combination.
    """
    parts = []
    for row, stream in zip(rows, streams, strict=True):
        adapted = "student" if row["teacher_accuracy"] is None else "teacher"
        choice = ", ".join(f"{name.rpartition('.')[2]} {row[name]}" for name in names)
        lines = {"deployed": "deployed", adapted: f"adapted, {choice}"}
        shown = stream[stream["network"].isin(lines)]
        parts.append(shown.assign(line=shown["network"].map(lines)))
    grouped = pd.concat(parts).groupby(["line", "step"], sort=False)["accuracy"]
    return grouped.agg(["mean", "min", "max"]).reset_index()


def online_table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """The gains for the terminal."""
    lines = told(names, rows)
    table = Table()
    for head in lines[0]:
        table.add_column(head, justify="left" if head in (*names, "accuracy on") else "right")
    for line in lines:
        table.add_row(*line.values())
    return table
