"""Digits whose frames are of another domain than their labels: what bridges the gap, over seeds.

    python experiments/adaptation.py [--out reports/adaptation] [--seeds 3] [--steps N] [--data DIR]

Each of `workloads/mnist_to_usps.py`, `usps_to_mnist.py` and `synth_to_mnist.py` by the student
alone (source only), by the batch-norm statistics of the target's images alone (AdaBN), by its mean
teacher with and without the confidence threshold, and by that teacher in float32 (with torch). A
row's rules differ in nothing else: views, batches, optimiser, steps and seeds are the workload's.
But AdaBN stands there twice, for distorting the labelled images, which helps the teacher, may harm
it.

Writes a line a run to runs.csv, and from those table.csv, adaptation.png and README.md. A run that
runs.csv has, of the same settings, is not repeated: delete the file after a change of the code. In
the end it holds the runs of the table alone.
"""

from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path

import click
import pandas as pd
from matplotlib.axes import Axes

from accsim.report.figures import save_figure
from accsim.report.page import write_csv
from accsim.run import open_dataset, simulate
from accsim.training.fixed_network import Statistics
from accsim.training.float_learner import InFloat
from accsim.training.supervised import Supervised
from accsim.workload import Workload, read_workload

ROOT = Path(__file__).parents[1]
DOMAINS = {
    "MNIST to USPS": "mnist_to_usps.py",
    "USPS to MNIST": "usps_to_mnist.py",
    "printed to MNIST": "synth_to_mnist.py",
}
SOURCE, ADABN, PLAIN = "source only", "AdaBN", "AdaBN, labels undistorted"
TAUGHT, UNGATED, FLOAT = "mean teacher", "without threshold", "in float32"
RULES = (SOURCE, ADABN, PLAIN, TAUGHT, UNGATED, FLOAT)
COLUMNS = ("domains", "rule", "seed", "accuracy", "settings")


def by_rule(workload: Workload, rule: str) -> Workload:
    """The workload as one of `RULES` learns it."""
    taught = workload.algorithm
    alone = Supervised(optimizer=taught.optimizer)
    adapted = replace(alone, evaluation_statistics=Statistics.ADAPTED)
    if rule == PLAIN:
        workload = replace(workload, data=replace(workload.data, labelled_augmentation=None))
    algorithm = {
        SOURCE: alone,
        ADABN: adapted,
        PLAIN: adapted,
        TAUGHT: taught,
        UNGATED: replace(taught, confidence_threshold=0.0),
        FLOAT: InFloat(taught),
    }[rule]
    return replace(workload, algorithm=algorithm)


def settings_of(workload: Workload) -> str:
    """A digest of every choice of a run that is not its class's default."""
    return sha256(_chosen(workload).encode()).hexdigest()[:16]


def _chosen(part: object) -> str:
    if not is_dataclass(part):
        return repr(part)
    own = [(field.name, getattr(part, field.name), field.default) for field in fields(part)]
    told = [f"{name}={_chosen(value)}" for name, value, default in own if value != default]
    return f"{type(part).__name__}({', '.join(told)})"


def table_of(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a pair of domains: points right by each rule, and gains in them, seed by seed.

    Means and sample deviations. The columns of `runs` are `COLUMNS`.
    """
    points = 100 * runs.pivot(index=["domains", "seed"], columns="rule", values="accuracy")
    points = points.reindex(columns=RULES)
    points["over the better AdaBN"] = points[TAUGHT] - points[[ADABN, PLAIN]].max(axis=1)
    points["by the threshold"] = points[TAUGHT] - points[UNGATED]
    points["over float32"] = points[TAUGHT] - points[FLOAT]
    groups = points.groupby("domains")
    table = groups.mean().join(groups.std().add_suffix("_std"))
    table.insert(0, "seeds", groups[TAUGHT].count())
    return table.reindex([domains for domains in DOMAINS if domains in table.index])


def plot_rules(ax: Axes, runs: pd.DataFrame) -> None:
    """A dot a run: accuracy over the pair of domains, rules side by side."""
    for place, rule in enumerate(RULES):
        of_rule = runs[runs["rule"] == rule]
        x = of_rule["domains"].map(list(DOMAINS).index) + 0.13 * (place - (len(RULES) - 1) / 2)
        ax.plot(x, 100 * of_rule["accuracy"], "o", label=rule, alpha=0.7)
    ax.set_xticks(range(len(DOMAINS)), labels=list(DOMAINS))
    ax.set(ylabel="test images of the target right, %")


def page_of(table: pd.DataFrame, steps: dict[str, int]) -> str:
    """README.md: the table, with what a reader needs to trust it."""
    measures = [name for name in table.columns[1:] if not name.endswith("_std")]
    lines = [
        f"| domains | steps | seeds | {' | '.join(measures)} |",
        f"|---|{'--:|' * (len(measures) + 2)}",
    ]
    for domains, row in table.iterrows():
        cells = [_told(row, measure, place >= len(RULES)) for place, measure in enumerate(measures)]
        counts = f"{steps[str(domains)]:,} | {row['seeds']:.0f}"
        lines.append(f"| {domains} | {counts} | {' | '.join(cells)} |")
    rows = "\n".join(lines)
    suffers = table["by the threshold"].idxmax()
    return f"""# adaptation

Labels of one domain, frames of another: percent of the target's whole test set that is right in the
end, of the teacher where there is one. Mean +- sample deviation over the seeds; the last three
columns are differences in points, seed by seed: of the mean teacher over the AdaBN that is better
with that seed, over itself without a threshold, and over its float32 twin.

{rows}

Without its threshold {suffers} suffers most, by {table["by the threshold"].max():.1f} points.

![a dot a run](adaptation.png)

`python experiments/adaptation.py`, which begins by saying what the rules are, with the settings of
`workloads/mnist_to_usps.py`, `usps_to_mnist.py` and `synth_to_mnist.py`. Every run:
[runs.csv](runs.csv); this table: [table.csv](table.csv).
"""


def _told(row: pd.Series, measure: str, signed: bool) -> str:
    mean = f"{row[measure]:{'+' if signed else ''}.1f}"
    return mean if pd.isna(row[f"{measure}_std"]) else f"{mean} +- {row[f'{measure}_std']:.1f}"


def write_report(out: Path, runs: pd.DataFrame, steps: dict[str, int]) -> None:
    """Write table.csv, adaptation.png and README.md into the folder `out`."""
    table = table_of(runs)
    write_csv(out / "table.csv", table.reset_index())
    save_figure(out / "adaptation.png", runs, (plot_rules,))
    (out / "README.md").write_text(page_of(table, steps), encoding="utf-8")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "reports" / "adaptation")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Of every run, instead of the workload's.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder that holds the data sets.")
def main(out, seeds, steps, data):
    """Run every rule on every pair of domains with every seed."""
    workloads = {
        domains: read_workload(ROOT / "workloads" / name) for domains, name in DOMAINS.items()
    }
    if steps:
        workloads = {name: replace(workload, steps=steps) for name, workload in workloads.items()}
    out.mkdir(parents=True, exist_ok=True)
    path = out / "runs.csv"
    done = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)
    known = dict(zip(done["settings"], done["accuracy"], strict=True))
    before, rows = list(done.itertuples(index=False, name=None)), []
    for seed in range(seeds):  # what has been stopped leaves whole seeds behind
        for domains, workload in workloads.items():
            dataset = open_dataset(workload, data)
            for rule in RULES:
                chosen = replace(by_rule(workload, rule), seed=seed)
                settings = settings_of(chosen)
                if settings not in known:
                    accuracy = simulate(chosen, dataset).summary["accuracy"]
                    network = "student" if accuracy["teacher"] is None else "teacher"
                    known[settings] = accuracy[network]
                    click.echo(f"{domains}, {rule}, seed {seed}: {100 * known[settings]:.2f} %")
                rows.append((domains, rule, seed, known[settings], settings))
                kept = pd.DataFrame([*rows, *before], columns=COLUMNS)
                write_csv(path, kept.drop_duplicates(["domains", "rule", "settings"]))
    runs = pd.DataFrame(rows, columns=COLUMNS)
    write_csv(path, runs)
    steps_of = {domains: workload.steps for domains, workload in workloads.items()}
    write_report(out, runs, steps_of)
    click.echo(out / "README.md")


if __name__ == "__main__":
    main()
