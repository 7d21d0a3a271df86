"""One workload in fixed point and in float32: the accuracy that rounding costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from accsim.report import figures
from accsim.report.answer import percent
from accsim.report.folder import replaced_folder
from accsim.report.page import render, write_csv, write_json

FIXED, FLOAT = "fixed point", "float32"
COST = ("seconds", "joules")
BESIDE = ("seed", "arithmetic", *COST, "curve")  # of a run, beside its measures


def summary(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a measure that the workload has: means over the seeds, and their difference.

    ``difference`` is fixed point minus float32, seed by seed; deviations are of the sample (n - 1),
    empty for one seed.

    Parameters
    ----------
    runs : one run each: `seed`, `arithmetic` (`FIXED` or `FLOAT`, one of either for every seed),
        and its measures by name: shares of one, None for what the workload does not have; `COST`
    """
    columns = ["measure", "fixed", "fixed_std", "float", "float_std", "difference"]
    rows = []
    for measure, of_measure in seed_by_seed(runs).groupby("measure", sort=False):
        numbers = of_measure[["fixed", "float", "difference"]]
        means_and_spreads = pd.concat([numbers.mean(), numbers.std(ddof=1)], axis=1).to_numpy()
        rows.append((measure, *means_and_spreads.ravel()))
    return pd.DataFrame(rows, columns=[*columns, "difference_std"])


def seed_by_seed(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a measure that the workload has and a seed: both arithmetics, and their difference.

    Columns measure, seed, fixed, float, difference; `runs` as of `summary`.
    """
    found = []
    for measure in (name for name in runs[0] if name not in BESIDE):
        table = pd.DataFrame(runs).pivot(index="seed", columns="arithmetic", values=measure)
        fixed, real = table[FIXED].astype("float64"), table[FLOAT].astype("float64")
        if not real.isna().all():
            pair = pd.DataFrame({"fixed": fixed, "float": real, "difference": fixed - real})
            found.append(pair.reset_index().assign(measure=measure))
    order = ["measure", "seed", "fixed", "float", "difference"]
    return pd.concat(found, ignore_index=True)[order]


def cost(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What a run takes on the simulated machine, mean and deviation over the seeds, to read."""
    table = pd.DataFrame(runs)
    told = []
    for name in (FIXED, FLOAT):
        spent = table[table["arithmetic"] == name][[*COST]]
        cells = {
            measure: _spread(f"{values.mean():,.1f}", values.std(ddof=1))
            for measure, values in spent.items()
        }
        told.append({"": name, **cells})
    return told


def write_twin(
    out: Path,
    runs: Sequence[Mapping[str, Any]],
    choices: Mapping[str, Any],
    minutes: Sequence[float],
) -> Path:
    """Write twin.json, runs.csv, accuracy.csv with its figure, host.json, README.md; return `out`.

    Parameters
    ----------
    out : folder; an earlier report of twins there is replaced once the new one is complete
    runs : as of `summary`, and the `curve` of each, of `accuracy_curves`
    choices : every choice of the workload, as of `describe`
    minutes : that each run took on this computer, into host.json

    Raises OSError for a place that cannot be written.
    """
    records = [{key: value for key, value in run.items() if key != "curve"} for run in runs]
    curves = mean_curves(runs)
    with replaced_folder(out, marker="twin.json") as folder:
        write_json(folder / "twin.json", {"workload": choices, "runs": records})
        write_csv(folder / "runs.csv", pd.DataFrame(records))
        host = [
            {"seed": run["seed"], "arithmetic": run["arithmetic"], "minutes": taken}
            for run, taken in zip(runs, minutes, strict=True)
        ]
        write_json(folder / "host.json", {"runs": host})
        write_csv(folder / "accuracy.csv", curves)
        figures.save_figure(folder / "accuracy.png", curves, (figures.plot_twin_accuracy,))
        page = render(
            "twin.md.j2",
            title=Path(out).name,
            rows=told(runs),
            seed_rows=told_by_seed(runs) if len(records) > 2 else [],
            cost=cost(runs),
            seeds=len(records) // 2,
            numerics=choices["numerics"],
        )
        (folder / "README.md").write_text(page, encoding="utf-8")
    return out


def mean_curves(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Accuracy over the steps of each arithmetic and network, mean over the seeds."""
    curves = [run["curve"].assign(arithmetic=run["arithmetic"]) for run in runs]
    keys = ["arithmetic", "network", "step"]
    return pd.concat(curves).groupby(keys)["accuracy"].mean().reset_index()


def twin_table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """The summary for the terminal."""
    table = Table("", *(head for head in (FIXED, FLOAT, "difference")))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in told(runs):
        table.add_row(*row.values())
    return table


def told(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The summary as a reader wants it."""
    return [
        {
            "measure": figures.words(row.measure),
            FIXED: _spread(percent(row.fixed), 100 * row.fixed_std),
            FLOAT: _spread(percent(row.float), 100 * row.float_std),
            "difference": _spread(_points(row.difference), 100 * row.difference_std) + " points",
        }
        for row in summary(runs).itertuples(index=False)
    ]


def told_by_seed(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The same of every seed."""
    return [
        {
            "measure": figures.words(row.measure),
            "seed": str(row.seed),
            FIXED: percent(row.fixed),
            FLOAT: percent(row.float),
            "difference": _points(row.difference) + " points",
        }
        for row in seed_by_seed(runs).itertuples(index=False)
    ]


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _spread(mean: str, deviation: float) -> str:
    return mean if pd.isna(deviation) else f"{mean} +- {deviation:.1f}"
