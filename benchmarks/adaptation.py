"""Digits whose frames are of another domain than their labels: what bridges the gap, over seeds.

    python benchmarks/adaptation.py --out reports/adaptation [--seeds 3] [--steps N] [--data DIR]

MNIST to USPS, USPS to MNIST, printed digits to MNIST, each by the student alone (source only), by
the batch-norm statistics of the target's images alone (AdaBN), by the mean teacher with and without
its confidence threshold, and by that teacher in float32 (with torch). All settings but the domains
are those of `workloads/usps_to_mnist.py`. Prints a line a run, and writes runs.csv and table.csv:
mean and sample deviation of the accuracy on the target's test images, of the teacher if there is
one.
"""

from dataclasses import replace
from pathlib import Path

import click
import pandas as pd

from accsim.run import open_dataset, simulate
from accsim.training.fixed_network import Statistics
from accsim.training.float_learner import InFloat
from accsim.training.supervised import Supervised
from accsim.workload import Workload, read_workload

BASE = Path(__file__).parents[1] / "workloads" / "usps_to_mnist.py"
DOMAINS = {  # source, target, labelled images
    "MNIST to USPS": ("mnist", "usps", 50_000),
    "USPS to MNIST": ("usps", "mnist", 5_000),
    "printed to MNIST": ("synth_digits", "mnist", 50_000),
}


def rules(workload: Workload):
    """Every rule that is compared, by its name in the table."""
    taught = workload.algorithm
    alone = Supervised(optimizer=taught.optimizer)
    return {
        "source only": alone,
        "AdaBN": replace(alone, evaluation_statistics=Statistics.ADAPTED),
        "mean teacher": taught,
        "mean teacher, no threshold": replace(taught, confidence_threshold=0.0),
        "mean teacher in float32": InFloat(taught),
    }


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Of every run, instead of the workload's.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder that holds the data sets.")
def main(out, seeds, steps, data):
    """Run every rule on every pair of domains with every seed."""
    base = read_workload(BASE)
    base = replace(base, steps=steps or base.steps)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for domains, (source, target, labels) in DOMAINS.items():
        stream = replace(base.data, dataset=source, frames_dataset=target, labels=labels)
        adapted = replace(base, data=stream)
        dataset = open_dataset(adapted, data)
        for rule, algorithm in rules(adapted).items():
            for seed in range(seeds):
                chosen = replace(adapted, algorithm=algorithm, seed=seed)
                accuracy = simulate(chosen, dataset).summary["accuracy"]
                got = accuracy["student"] if accuracy["teacher"] is None else accuracy["teacher"]
                rows.append({"domains": domains, "rule": rule, "seed": seed, "accuracy": got})
                click.echo(f"{domains}, {rule}, seed {seed}: {100 * got:.2f} %")
                runs = pd.DataFrame(rows)
                runs.to_csv(out / "runs.csv", index=False)
    groups = runs.groupby(["domains", "rule"], sort=False)["accuracy"]
    table = groups.agg(["mean", "std"]).reset_index()
    table.to_csv(out / "table.csv", index=False)
    click.echo(table.to_string(index=False))


if __name__ == "__main__":
    main()
