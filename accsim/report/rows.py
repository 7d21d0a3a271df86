"""A table of results: accuracy over seeds in both arithmetics, gains with their test, and cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from accsim.report.answer import percent
from accsim.report.folder import replaced_folder
from accsim.report.page import render, write_csv
from accsim.report.twin import FIXED, FLOAT

KEY = ["row", "data", "labels", "steps"]  # what tells one row from another
MINUTES = ["fixed_minutes", "float_minutes"]  # of the computer: they differ from time to time
COLUMNS = [
    *(*KEY, "seeds", "fixed", "fixed_std", "float", "float_std", "difference", "difference_std"),
    *("over", "gain", "gain_std", "gain_p", "gain_low", "gain_high"),
    *("accepted_share", "seconds", "joules", *MINUTES, "command"),
]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A line a row: accuracies, `difference` (fixed point minus float32), `gain` and cost.

    The gain is that in fixed point over the row `over` of as much data, labels and steps, seed by
    seed; ``gain_p`` is of a two-sided paired t-test and ``gain_low``, ``gain_high`` bound its mean
    with 95 % confidence. Deviations are of the sample (n - 1). Shares, seconds, joules and minutes
    are means over the seeds, those of cost in fixed point.

    Parameters
    ----------
    runs : one run each: `KEY`, `over` ("" for none), `arithmetic` (`FIXED`, `FLOAT`), `seed`,
        `accuracy` and `accepted_share` (None where nobody labels frames) as shares of one,
        `seconds`, `joules`, `minutes` of the computer, `command`
    """
    lines = []
    for key, of_row in runs.groupby(KEY, sort=False):
        fixed, real = (_by_seed(of_row, arithmetic) for arithmetic in (FIXED, FLOAT))
        over = str(of_row["over"].iloc[0])
        line: dict[str, Any] = dict(zip(KEY, key, strict=True))
        line |= {"seeds": len(fixed), "over": over}
        line |= _mean_and_spread("fixed", fixed["accuracy"])
        line |= _mean_and_spread("float", real["accuracy"])
        line |= _mean_and_spread("difference", fixed["accuracy"] - real["accuracy"])
        if over:
            equal = (runs[KEY] == [over, *key[1:]]).all(axis=1)
            base = _by_seed(runs[equal], FIXED).loc[fixed.index]
            line |= paired(fixed["accuracy"], base["accuracy"])
        line["accepted_share"] = fixed["accepted_share"].astype("float64").mean()
        line |= {name: fixed[name].mean() for name in ("seconds", "joules")}
        line |= {"fixed_minutes": fixed["minutes"].mean(), "float_minutes": real["minutes"].mean()}
        lines.append({**line, "command": of_row["command"].iloc[0]})
    return pd.DataFrame(lines, columns=COLUMNS)


def paired(values: pd.Series, base: pd.Series) -> dict[str, float | None]:
    """Mean gain of `values` over `base`, its deviation, and a two-sided paired t-test of it.

    The test needs two seeds whose gains differ; without them it has no result.
    """
    from scipy import stats  # half a second that no other command needs

    gains = values - base
    found: dict[str, float | None] = _mean_and_spread("gain", gains)
    if gains.nunique() < 2:
        return found | dict.fromkeys(("gain_p", "gain_low", "gain_high"))
    test = stats.ttest_rel(values, base)
    low, high = test.confidence_interval(0.95)
    return found | {"gain_p": float(test.pvalue), "gain_low": float(low), "gain_high": float(high)}


def write_rows(
    out: Path,
    runs: Sequence[Mapping[str, Any]],
    missing: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> pd.DataFrame:
    """Write README.md, table.csv, runs.csv and host.csv into `out`; the summary.

    Parameters
    ----------
    out : folder; an earlier table there is replaced once the new one is complete
    runs : as of `summary`, and `sources`: which state of the package kept it
    missing : names of rows that are not told, for they have not been run
    warnings : sentences on data that are not what they seem

    Raises OSError for a place that cannot be written.
    """
    table = pd.DataFrame(runs)
    found = summary(table)
    with replaced_folder(out, marker="table.csv") as folder:
        write_csv(folder / "table.csv", found.drop(columns=MINUTES))
        write_csv(folder / "runs.csv", table.drop(columns=["over", "command", "minutes"]))
        write_csv(folder / "host.csv", table[[*KEY, "arithmetic", "seed", "minutes"]])
        page = render(
            "rows.md.j2",
            title=Path(out).name,
            rows=told(found),
            commands=found[["row", "labels", "command"]].to_dict("records"),
            missing=missing,
            warnings=warnings,
            sources=sorted(table["sources"].unique()),
        )
        (folder / "README.md").write_text(page, encoding="utf-8")
    return found


def rows_table(found: pd.DataFrame) -> Table:
    """The summary for the terminal."""
    rows = told(found)
    table = Table(*rows[0])
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row.values())
    return table


def told(found: pd.DataFrame) -> list[dict[str, str]]:
    """The summary as a reader wants it: mean and deviation in one cell."""
    return [
        {
            "row": row.row,
            "data": row.data,
            "labels": f"{row.labels:,}",
            "steps": f"{row.steps:,}",
            "seeds": str(row.seeds),
            FIXED: _spread(percent(row.fixed), row.fixed_std),
            FLOAT: _spread(percent(row.float), row.float_std),
            "fixed - float": _spread(f"{100 * row.difference:+.1f}", row.difference_std),
            "gain": _gain(row),
            "accepted": "" if pd.isna(row.accepted_share) else percent(row.accepted_share),
            "seconds": f"{row.seconds:,.0f}",
            "joules": f"{row.joules:,.0f}",
            "host minutes": f"{row.fixed_minutes:.1f}, {row.float_minutes:.1f}",
        }
        for row in found.itertuples(index=False)
    ]


def _gain(row: Any) -> str:
    if pd.isna(row.gain):
        return ""
    gain = _spread(f"{100 * row.gain:+.1f}", row.gain_std)
    if pd.isna(row.gain_p):
        return gain
    return f"{gain} ({100 * row.gain_low:+.1f} to {100 * row.gain_high:+.1f}, p = {row.gain_p:.2g})"


def _spread(mean: str, deviation: float) -> str:
    return mean if pd.isna(deviation) else f"{mean} +- {100 * deviation:.1f}"


def _by_seed(runs: pd.DataFrame, arithmetic: str) -> pd.DataFrame:
    return runs[runs["arithmetic"] == arithmetic].set_index("seed")


def _mean_and_spread(name: str, values: pd.Series) -> dict[str, float | None]:
    return {name: values.mean(), f"{name}_std": values.std(ddof=1)}
