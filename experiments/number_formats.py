"""How few bits each class of tensors takes, and what its rounding is worth, over seeds.

    python experiments/number_formats.py [--out reports/numerics/formats] [--seeds 3] [--data DIR]

One class at a time, the others as in `workloads/number_formats.py`. Writes runs.csv, a row a run,
and accuracy.csv with its figure: means and sample deviations of the accuracy on the test images,
and means of what was lost.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import click
import pandas as pd

from accsim.numerics import Numerics, Rounding
from accsim.report.ablation import LOST
from accsim.report.figures import plot_ablated_accuracy, save_figure
from accsim.run import open_dataset, simulate
from accsim.workload import read_workload

ROOT = Path(__file__).parents[1]
BASE = ROOT / "workloads" / "number_formats.py"
OUT = ROOT / "reports" / "numerics" / "formats"
ROUNDINGS = (Rounding.STOCHASTIC, Rounding.HALF_UP, Rounding.TRUNCATE)
BITS = {
    "weight": (2, 3, 4, 6, 8),
    "activation": (3, 4, 6),
    "error": (3, 4, 6),
    "gradient": (2, 4, 8),
    "master": (6, 8, 12),
    "momentum": (4, 6, 8),
    "teacher": (8, 10, 12),
    "accumulator": (14, 16, 18),
}
NETWORKS = ("student", "teacher")


def formats():
    """Class of tensors, bits, name of the rounding, and the format of all; the first is as it is.

    Sums are not rounded, but wrap.
    """
    yield "default", 0, "", Numerics()
    for tensors, widths in BITS.items():
        for bits in widths:
            if tensors == "accumulator":
                yield tensors, bits, "WRAP", Numerics(accumulator_bits=bits)
                continue
            for rounding in ROUNDINGS:
                chosen = {f"{tensors}_bits": bits, f"{tensors}_rounding": rounding}
                yield tensors, bits, rounding.name, replace(Numerics(), **chosen)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=OUT)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Of every run, instead of the workload's.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder that holds the data sets.")
def main(out, seeds, steps, data):
    """Run every format of every class of tensors with every seed."""
    base = read_workload(BASE)
    base = replace(base, steps=steps or base.steps)
    dataset = open_dataset(base, data)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for (tensors, bits, rounding, numerics), seed in product(formats(), range(seeds)):
        row = {"tensors": tensors, "bits": bits, "rounding": rounding, "seed": seed}
        result = simulate(replace(base, numerics=numerics, seed=seed), dataset)
        accuracy = result.summary["accuracy"]
        rows.append(row | {name: accuracy[name] for name in NETWORKS} | result.summary["lost"])
        click.echo(", ".join(f"{name} {value}" for name, value in rows[-1].items()))
        runs = pd.DataFrame(rows)
        runs.to_csv(out / "runs.csv", index=False, float_format="%.5g")
    found = summary(runs)
    found.to_csv(out / "accuracy.csv", index=False, float_format="%.4g")
    draw(out / "accuracy.png", found)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a format: means, and sample deviations of the accuracies."""
    groups = runs.groupby(["tensors", "bits", "rounding"], sort=False)
    spreads = groups[[*NETWORKS]].std(ddof=1).add_suffix("_std")
    return groups[[*NETWORKS, *LOST]].mean().join(spreads).reset_index()


def draw(path: Path, found: pd.DataFrame) -> None:
    """The teacher's accuracy over bits: a panel a class of tensors, a line a rounding.

    Dashed is the accuracy of the default.
    """
    table = found.rename(columns={"teacher": "accuracy", "teacher_std": "accuracy_std"}).assign(
        choice=found["tensors"] + "_bits", value=found["bits"].astype(str), line=found["rounding"]
    )
    default = table.loc[table["tensors"] == "default", "accuracy"].item()

    def panel(ax, table, tensors):
        plot_ablated_accuracy(ax, table[table["tensors"] == tensors])
        ax.axhline(default, color="0.5", linestyle="--", linewidth=0.8)

    panels = [partial(panel, tensors=tensors) for tensors in BITS]
    save_figure(path, table, panels, rows=2, height_inches=4.5, legend_below=True)


if __name__ == "__main__":
    main()
