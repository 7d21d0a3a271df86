"""The tidy tables of a run: what their columns mean, and the shapes that the figures plot."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd

from accsim.units import seconds

KINDS = {  # of unlabelled frames: the truth, which the learner does not see
    "clean": "frames as the data set has them",
    "other_domain": "frames of another data set with the same classes",
    "corrupted": "frames that a corruption spoilt",
    "out_of_distribution": "frames that show none of the classes",
}

COLUMNS: dict[str, dict[str, str]] = {
    "steps": {
        "step": "training step, counted from 1",
        "simulated_seconds": "simulated time at the end of the step",
        "joules": "energy of the machine from the start to the end of the step",
        "step_cycles": "accelerator cycles that the step took",
        "step_joules": "energy of this step alone",
        "spared_cycles": "accelerator cycles that it would have taken more, had every frame been "
        "accepted",
        "spared_joules": "the same in energy, beyond that of a machine which idles in those cycles",
        "learning_rate": "learning rate of the update",
        "labelled_correct": "labelled samples that the student classified as their label says",
        "labelled_samples": "labelled samples of the batch",
        "labelled_error": "length of the error that the labelled images give the logits",
        "frame_error": "the same of the unlabelled samples: 0 where they teach nothing",
        "accepted": "unlabelled samples whose teacher was confident enough to teach",
        "unlabelled_samples": "unlabelled samples of the batch",
        "backward_samples": "samples that had a backward pass",
        "teacher_changed": "share of the teacher's words that the step moved",
        "unmoved": "share of the student's words with a gradient whose step rounded to nothing",
        "underflowed": "share of the student's words with a gradient below its momentum's last bit",
        "saturations": "values clipped to their format, and sums that outgrew the accumulator",
        "frames_seen": "frames that the learner took, from the start to this step",
        "frames_dropped": "frames lost, the machine busy or the teacher at rest, from the start",
        "frames_waiting": "frames in the ring buffer as the step began, its own among them",
        "mean_latency_seconds": "simulated time from the arrival of a frame to the end of the step "
        "that learned from it, mean over the step; empty where it learned from none",
        "worst_latency_seconds": "the same of the oldest frame of the step",
        **{
            f"{fate}_{kind}": f"{fate} unlabelled samples that were {meaning}"
            for kind, meaning in KINDS.items()
            for fate in ("accepted", "rejected")
        },
        "student_accuracy": "share of the test images that the student gets right; "
        "empty where not evaluated",
        "teacher_accuracy": "the same for the teacher",
    },
    "pseudo_labels": {
        "step": "last training step of those counted together",
        "class": "class of the data set",
        "accepted": "accepted unlabelled samples that were labelled as this class",
    },
    "counters": {
        "step": "training step, counted from 1",
        "network": "student, teacher or probe",
        "class": "what the tensor holds: activations, error, gradient; weights, teacher or "
        "predictions as they are stored",
        "tensor": "name of the tensor",
        "words": "words that were made; of a stored tensor, those that were updated",
        "saturated": "words that were clipped to their format",
        "overflowed": "sums that outgrew the accumulator and wrapped",
        "moved": "stored words that the update changed; of predictions, of frames seen before",
        "unmoved": "stored words that had a reason to change, and rounded to where they were",
        "underflowed": "gradients below half the last bit of their word's momentum",
    },
    "passes": {
        "network": "student or teacher, or probe: the student on frames moved against its labels",
        "layer": "layer of the network",
        "pass": "part of the training step",
        "unit": "block of the machine that computed it",
        "samples": "samples that went through",
        "cycles_busy": "cycles in which the unit computed",
        "cycles_wait_operand": "cycles in which it waited for data from DDR",
        "cycles_wait_output": "cycles in which it waited for room to put its results",
        "macs": "multiply-accumulates",
        "ddr_read_bytes": "bytes read from DDR",
        "ddr_write_bytes": "bytes written to DDR",
        "joules": "energy",
    },
    "tensors": {
        "tensor": "name of the tensor",
        "class": "what it holds: weights, activations, error, gradient, ...",
        "pass": "part of the training step that moved it",
        "read_bytes": "bytes read from DDR",
        "write_bytes": "bytes written to DDR",
    },
    "units": {
        "unit": "block of the machine",
        "cause": "what it did with the time: busy, idle, or what it waited for",
        "cycles": "accelerator cycles",
    },
    "energy": {
        "component": "block of the machine that spent it",
        "pass": "part of the training step it was spent on",
        "joules": "energy",
    },
    "critical_path": {
        "layer": "layer of the network",
        "pass": "part of the training step",
        "unit": "block of the machine that everything after it waited for",
        "cycles": "accelerator cycles by which it moved the end of the step on; they sum to the "
        "step",
    },
    "on_stream": {
        "step": "last step of a stretch between evaluations",
        "network": "student and teacher as they learn, or deployed: as it was, frozen",
        "frames": "frames of the stretch that show one of the classes, as they came",
        "correct": "of these, the ones it told right before anything was learned from them",
    },
}

PASSES = (
    "teacher_forward",
    "perturb",
    "probe_forward",
    "probe_loss",
    "probe_backward_data",
    "student_forward",
    "balance",
    "loss",
    "backward_data",
    "backward_weight",
    "accumulate",
    "update",
    "ema",
    "keep",
)


@dataclass(frozen=True)
class Tables:
    """The tables of one run; their columns are those of `COLUMNS`, in any order.

    Raises ValueError for a missing or an unknown column and for a run without steps.
    """

    steps: pd.DataFrame  # a row a step
    counters: pd.DataFrame  # a row a step, network and tensor
    passes: pd.DataFrame  # a row a layer and pass, summed over the run
    tensors: pd.DataFrame  # a row a tensor and pass, summed over the run
    units: pd.DataFrame  # a row a unit and cause, summed over the run
    energy: pd.DataFrame  # a row a component and pass, summed over the run
    critical_path: pd.DataFrame  # a row an operation and unit, of the kind of step that ran most
    pseudo_labels: pd.DataFrame  # a row a class and stretch of steps between evaluations
    on_stream: pd.DataFrame = field(  # a row a network and such stretch; empty: none was deployed
        default_factory=lambda: pd.DataFrame(columns=[*COLUMNS["on_stream"]])
    )

    def __post_init__(self):
        for spec in fields(self):
            wanted, present = set(COLUMNS[spec.name]), set(getattr(self, spec.name).columns)
            if wanted != present:
                raise ValueError(
                    f"table {spec.name!r} must have the columns of accsim.report.tables.COLUMNS; "
                    f"missing: {', '.join(sorted(wanted - present)) or 'none'}; "
                    f"unknown: {', '.join(sorted(present - wanted)) or 'none'}"
                )
        if self.steps.empty:
            raise ValueError("table 'steps' must have at least one row, not none: nothing was run")

    def ordered(self, name: str) -> pd.DataFrame:
        """Table `name` with its columns in the order of `COLUMNS`."""
        return getattr(self, name)[list(COLUMNS[name])]


def accuracy_curves(tables: Tables) -> pd.DataFrame:
    """Test accuracy of each network wherever it was evaluated, one row a network and step."""
    places = ["step", "simulated_seconds", "joules"]
    curves = [
        tables.steps[places].assign(network=network, accuracy=tables.steps[f"{network}_accuracy"])
        for network in ("student", "teacher")
    ]
    return pd.concat(curves).dropna(subset="accuracy").reset_index(drop=True)


def stream_curves(tables: Tables) -> pd.DataFrame:
    """Accuracy of each network on the frames of every stretch, one row a network and stretch."""
    stretches = tables.on_stream
    accuracy = stretches["correct"] / stretches["frames"]
    return stretches[["step", "network"]].assign(accuracy=accuracy)


def stream_accuracy(tables: Tables) -> dict[str, Any] | None:
    """What each network tells right of the whole stream, and of the stretch where it is lowest.

    None where no network was deployed. Source: test each frame, then train on it (Gama, Sebastião
    and Rodrigues, "On evaluating stream learning algorithms", Machine Learning 90, 2013).
    """
    found = {}
    for network, stretches in tables.on_stream.groupby("network", sort=False):
        shares = stretches["correct"] / stretches["frames"]
        lowest = stretches.loc[shares.idxmin()]
        found[str(network)] = {
            "frames": int(stretches["frames"].sum()),
            "accuracy": float(stretches["correct"].sum() / stretches["frames"].sum()),
            "lowest": float(shares.min()),
            "lowest_step": int(lowest["step"]),
        }
    return found or None


def floor(tables: Tables) -> dict[str, dict[str, float | int]] | None:
    """How far each network that learns fell: against the deployed one, and on the test images.

    `least_gain` is its accuracy on the frames of a stretch less that of the deployed network, in
    the stretch where that is least; None where no network was deployed.
    """
    accuracy = stream_curves(tables).pivot(index="step", columns="network", values="accuracy")
    found = {}
    for network in accuracy.columns.drop("deployed", errors="ignore"):
        gain = accuracy[network] - accuracy["deployed"]
        tested = tables.steps.set_index("step")[f"{network}_accuracy"]
        found[str(network)] = {
            "least_gain": float(gain.min()),
            "least_gain_step": int(gain.idxmin()),
            "lowest_test": float(tested.min()),
            "lowest_test_step": int(tested.idxmin()),
        }
    return found or None


def rejected(steps: pd.DataFrame) -> dict[str, float | int] | None:
    """Samples without backward work, and the share of a run that accepts all which they spare.

    None where that is nothing; `steps` is the table of that name.
    """
    if not steps["spared_cycles"].any():
        return None
    samples = int(steps["unlabelled_samples"].sum())
    count = samples - int(steps["accepted"].sum())
    spared = {
        f"spared_{name}": float(steps[f"spared_{name}"].sum()) for name in ("cycles", "joules")
    }
    shares = {
        f"{name}_share": amount / (amount + float(steps[name.replace("spared", "step")].sum()))
        for name, amount in spared.items()
    }
    whole = int((steps["labelled_samples"] == 0).sum())
    return {"samples": samples, "rejected": count, "whole_batches": whole, **spared, **shares}


def real_time(
    steps: pd.DataFrame, deadline_ps: int | None, period_ps: int
) -> dict[str, float | int | None] | None:
    """How a run kept up with its camera: deadlines, latencies, and what waited in the ring buffer.

    Parameters
    ----------
    steps : the table of that name
    deadline_ps : longest step in which as many frames are learned from as arrive, picoseconds
    period_ps : of one accelerator cycle

    A step that takes longer than the deadline lets the ring buffer fill up. A latency is None where
    no step learned from a frame, the whole is None where no frame arrives.
    """
    if deadline_ps is None:
        return None
    learned = steps[steps["mean_latency_seconds"].notna()]
    samples = learned["unlabelled_samples"]
    mean = (
        (learned["mean_latency_seconds"] * samples).sum() / samples.sum() if len(learned) else None
    )
    worst = learned["worst_latency_seconds"].max() if len(learned) else None
    return {
        "deadline_seconds": seconds(deadline_ps),
        "deadlines_met": float((steps["step_cycles"] * period_ps <= deadline_ps).mean()),
        "mean_latency_seconds": None if mean is None else float(mean),
        "worst_latency_seconds": None if worst is None else float(worst),
        "mean_frames_waiting": float(steps["frames_waiting"].mean()),
        "max_frames_waiting": int(steps["frames_waiting"].max()),
    }


def frames_waiting(tables: Tables, points: int = 200) -> pd.DataFrame:
    """Frames in the ring buffer over simulated time, none for a run without a camera.

    Steps are taken together in at most `points` groups of equal length, each with its mean and its
    fullest step, at the end of its last.
    """
    steps = tables.steps
    if not steps["frames_waiting"].any():
        return pd.DataFrame(columns=["simulated_seconds", "mean", "most"])
    groups = steps.groupby(np.arange(len(steps)) // -(-len(steps) // points))
    return pd.DataFrame(
        {
            "simulated_seconds": groups["simulated_seconds"].last(),
            "mean": groups["frames_waiting"].mean(),
            "most": groups["frames_waiting"].max(),
        }
    )


def accepted_shares(tables: Tables, points: int = 200) -> pd.DataFrame:
    """Share of the unlabelled samples that the teacher was confident about.

    Steps are taken together in at most `points` groups of equal length, each named by its last
    step; groups without unlabelled samples are left out.
    """
    steps = tables.steps
    return _shares(steps["step"], steps["accepted"], steps["unlabelled_samples"], points)


def accepted_by_kind(tables: Tables, points: int = 100) -> pd.DataFrame:
    """The same for each kind of frame, one row a kind and group; none if all frames are clean."""
    steps = tables.steps
    shares = []
    for kind in KINDS:
        accepted, rejected = steps[f"accepted_{kind}"], steps[f"rejected_{kind}"]
        share = _shares(steps["step"], accepted, accepted + rejected, points)
        shares.append(share.assign(kind=kind))
    all_kinds = pd.concat(shares, ignore_index=True)[["step", "kind", "accepted_share"]]
    return all_kinds if (all_kinds["kind"] != "clean").any() else all_kinds[:0]


def _shares(step: pd.Series, accepted: pd.Series, samples: pd.Series, points: int) -> pd.DataFrame:
    """Accepted share of the samples of `points` groups of steps at most; see `accepted_shares`."""
    steps = pd.DataFrame({"step": step, "accepted": accepted, "samples": samples})
    groups = steps.groupby(np.arange(len(steps)) // -(-len(steps) // points)).agg(
        {"step": "last", "accepted": "sum", "samples": "sum"}
    )
    groups = groups[groups["samples"] > 0]
    shares = groups.assign(accepted_share=groups["accepted"] / groups["samples"])
    return shares[["step", "accepted_share"]].reset_index(drop=True)


def pseudo_label_shares(tables: Tables) -> pd.DataFrame:
    """Share of each class in the accepted samples of every stretch that has any."""
    labels = tables.pseudo_labels
    whole = labels.groupby("step")["accepted"].transform("sum")
    shares = labels.assign(share=labels["accepted"] / whole.where(whole > 0))
    return shares.dropna().reset_index(drop=True)


def ddr_traffic(tables: Tables) -> pd.DataFrame:
    """Bytes by pass, tensor class and direction; passes in the order in which they run."""
    moved = tables.tensors.rename(columns={"read_bytes": "read", "write_bytes": "write"}).melt(
        id_vars=["pass", "class"],
        value_vars=["read", "write"],
        var_name="direction",
        value_name="bytes",
    )
    total = moved.groupby(["pass", "class", "direction"], as_index=False)["bytes"].sum()
    return in_order_of_passes(total, then=["class", "direction"])


def cycle_shares(tables: Tables) -> pd.DataFrame:
    """Share of every unit's cycles by cause; units as they come, busy first and idle last."""
    units = tables.units.groupby(["unit", "cause"], as_index=False, sort=False)["cycles"].sum()
    makespan = units.groupby("unit")["cycles"].transform("sum")
    units["share"] = np.where(makespan > 0, units["cycles"] / makespan.clip(lower=1), 0.0)
    rank = units["cause"].map({"busy": -1, "idle": 1}).fillna(0)
    place = units["unit"].map({unit: at for at, unit in enumerate(units["unit"].unique())})
    order = pd.DataFrame({"place": place, "rank": rank, "cause": units["cause"]})
    return units.loc[order.sort_values(["rank", "cause", "place"]).index].reset_index(drop=True)


def energy_shares(tables: Tables) -> pd.DataFrame:
    """Joules by component and pass; the component that spends most comes first."""
    joules = tables.energy.groupby(["component", "pass"], as_index=False)["joules"].sum()
    joules = in_order_of_passes(joules, then=["component"])
    total = joules.groupby("component")["joules"].transform("sum")
    order = joules.assign(total=total).sort_values("total", ascending=False, kind="stable").index
    return joules.loc[order].reset_index(drop=True)


def busiest_passes(tables: Tables, rows: int = 10) -> pd.DataFrame:
    """The layers and passes that kept their unit busy longest, their share, and their waits."""
    passes = tables.ordered("passes").assign(
        waiting=tables.passes["cycles_wait_operand"] + tables.passes["cycles_wait_output"],
        share=tables.passes["cycles_busy"] / max(tables.passes["cycles_busy"].sum(), 1),
    )
    return passes.sort_values("cycles_busy", ascending=False, kind="stable").head(rows)


def longest_waits(tables: Tables, rows: int = 10) -> pd.DataFrame:
    """The operations that a step of the commonest kind waits for longest, and their share of it."""
    path = tables.ordered("critical_path")
    shares = path.assign(share=path["cycles"] / path["cycles"].sum())
    return shares.sort_values("cycles", ascending=False, kind="stable").head(rows)


def clipped_tensors(tables: Tables, rows: int = 8) -> pd.DataFrame:
    """The tensors that lost the largest share of their words to their format, over the run."""
    totals = _counters_of_run(tables)
    lost = (totals["saturated"] + totals["overflowed"]) / totals["words"]
    return _worst(totals.assign(share=lost), rows)


def still_tensors(tables: Tables, rows: int = 8) -> pd.DataFrame:
    """The stored tensors whose words most often rounded to where they were, over the run."""
    totals = _counters_of_run(tables)
    return _worst(totals.assign(share=totals["unmoved"] / totals["words"]), rows)


def lost_shares(tables: Tables) -> dict[str, float | None]:
    """What fixed point lost over the run, as shares; None where there is nothing to lose.

    ``unmoved`` of the student's updates and ``teacher_unmoved`` of the teacher's rounded to
    nothing; ``underflowed`` of the student's gradients lay below half the last bit of their
    momentum; ``saturated`` of all words that were made outgrew their format or the accumulator.
    """
    totals = _counters_of_run(tables)
    totals = totals.assign(saturated=totals["saturated"] + totals["overflowed"])

    def share(column: str, kind: str | None = None) -> float | None:
        rows = totals if kind is None else totals[totals["class"] == kind]
        words = int(rows["words"].sum())
        return int(rows[column].sum()) / words if words else None

    return {
        "unmoved": share("unmoved", "weights"),
        "teacher_unmoved": share("unmoved", "teacher"),
        "underflowed": share("underflowed", "weights"),
        "saturated": share("saturated"),
    }


def _counters_of_run(tables: Tables) -> pd.DataFrame:
    keys = ["network", "class", "tensor"]
    counted = tables.ordered("counters").drop(columns="step")
    return counted.groupby(keys, as_index=False, sort=False, observed=True).sum()


def _worst(totals: pd.DataFrame, rows: int) -> pd.DataFrame:
    """The first `rows` by share; those without any are left out."""
    worst = totals[totals["share"] > 0].sort_values("share", ascending=False, kind="stable")
    return worst.head(rows)


def in_order_of_passes(table: pd.DataFrame, then: list[str]) -> pd.DataFrame:
    """Rows sorted by pass as a step runs them (unknown passes last, by name), then by `then`."""
    place = {name: at for at, name in enumerate(PASSES)}
    keyed = table.assign(place=table["pass"].map(place).fillna(len(PASSES)))
    order = keyed.sort_values(["place", "pass", *then], kind="stable").index
    return table.loc[order].reset_index(drop=True)
