"""The whole pipeline, top to bottom: values and cost of one workload meet here and nowhere else."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from accsim import __version__, compile_ahead, ledger, units
from accsim.checkpoint import RecordedLearner, checkpoint_of
from accsim.clock import Kind, StepClock
from accsim.data import Dataset, load, load_folder
from accsim.data.base import DataError, Progress
from accsim.data.disturbance import FrameKind
from accsim.data.foreign import resized
from accsim.data.stream import Batch
from accsim.kernels import norm
from accsim.kernels.augment import IMAGE_BITS, PixelScale
from accsim.kernels.fixed_point import random_key
from accsim.network import Network
from accsim.report.folder import require_place
from accsim.report.page import write_report
from accsim.report.suspicion import suspicions
from accsim.report.tables import (
    COLUMNS,
    Tables,
    floor,
    lost_shares,
    real_time,
    rejected,
    stream_accuracy,
)
from accsim.schedule import SeparateEma
from accsim.training.base import Check, Learner, Outcome
from accsim.training.counters import KINDS, Counters
from accsim.training.deployed import Deployed
from accsim.training.parameters import Map
from accsim.training.supervised import STUDENT
from accsim.workload import Workload, WorkloadError, all_accepted, describe


@dataclass(frozen=True)
class Status:
    """Where a run stands, for a progress display."""

    step: int
    steps: int
    accuracy: float | None  # of the teacher, or of the student where there is no teacher
    simulated_seconds: float
    joules: float


@dataclass(frozen=True)
class Result:
    """One finished run: the contents of result.json, the tables, and the host's own times."""

    summary: dict[str, Any]
    tables: Tables
    host: dict[str, float]
    network: Deployed | None  # as it was trained; None: not in integers


def run(
    workload: Workload,
    out: Path,
    dataset: Dataset,
    on_step=lambda status: None,
    resume: bool = False,
) -> Result:
    """Train one workload in fixed point, charge every step to the machine, write the report.

    `on_step` is called with a `Status` after every step. Every evaluation writes a checkpoint
    beside `out`, until the report is written; `resume` goes on from it, to the same result. Raises
    WorkloadError for choices that do not fit each other or the checkpoint, OSError for a place that
    cannot be written, LedgerError if the books of the simulated machine do not close.
    """
    checkpoint = checkpoint_of(require_place(out, "result.json"))
    result = simulate(workload, dataset, on_step, checkpoint, resume)
    write_report(out, result.summary, result.tables, result.host, result.network)
    checkpoint.unlink(missing_ok=True)
    return result


def simulate(
    workload: Workload,
    dataset: Dataset,
    on_step=lambda status: None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Result:
    """One run without its report; arguments and errors as of `run`."""
    with compile_ahead.beside():
        return _simulate(workload, dataset, on_step, checkpoint, resume)


def _simulate(workload, dataset, on_step, checkpoint, resume) -> Result:
    started = time.perf_counter()
    with misfits():
        _check_fit(workload, dataset)
        clock = StepClock(
            workload.network,
            workload.numerics,
            workload.schedule,
            workload.accelerator,
            workload.dataflow,
        )
        deployed = _deployed(workload, dataset)
        if deployed and workload.fresh:
            key = random_key(workload.seed, STUDENT)
            deployed = deployed.renewed(workload.fresh_layers, key)
        learner = workload.algorithm.start(
            workload.network,
            workload.numerics,
            workload.schedule.turn,
            workload.steps,
            workload.seed,
            deployed,
        )
    if checkpoint:
        learner = RecordedLearner(learner, workload, dataset, checkpoint, resume)
    scale = PixelScale.of(dataset.train_images)
    test_images, test_labels = workload.data.test(dataset)
    test = Map(scale.apply(test_images), -IMAGE_BITS)
    log: list[dict[str, Any]] = []
    counters: list[tuple[int, str, Counters]] = []
    accuracy: dict[str, float] = {}
    skipped = 0  # frames that the schedule did not have labelled
    at_once = max(workload.schedule.turn(1).labels, 1)  # steps whose frames the teacher labels
    before: Batch | None = None
    batches = workload.data.batches(
        dataset, clock, workload.steps, workload.seed, at_once,
        lambda step: workload.algorithm.looks(step, workload.steps),
    )  # fmt: skip
    updates = 0
    pseudo_labels = np.zeros(len(dataset.classes), np.int64)  # since the last evaluation
    by_class: list[tuple[int, str, int]] = []
    right: Counter[str] = Counter()  # frames, and those told right by each network; since then
    on_stream: list[tuple[int, str, int, int]] = []
    checks: list[Check] = []
    phases: list[str | None] = []  # of every step
    for step, batch in enumerate(batches, 1):  # frames arrive while the machine works
        if deployed:  # test, then train
            right.update(_right_on_frames(batch, (learner, deployed)))
        with misfits(norm.DivergedError, f"step {step}: "):
            outcome = learner.step(batch)  # values: which passes ran, on how many samples
        updates += not outcome.passes.rejected
        sizes = len(batch.labels), len(batch.student_view)
        whole = all_accepted(workload, outcome.passes, *sizes)
        with misfits():
            cost = clock.charge(outcome.passes, max(updates, 1))  # cycles, joules; advances time
            spared = clock.spared(outcome.passes, whole, max(updates, 1))
        if outcome.check:
            cost += clock.charge(outcome.check.passes, max(updates, 1))
            checks.append(outcome.check)
        phases.append(outcome.phase)
        skipped += outcome.skipped_frames
        learned = before if before and outcome.passes.ahead else batch  # its frames
        row = _row(step, batch, learned, skipped, outcome, cost, spared, clock)
        before = batch
        pseudo_labels += outcome.pseudo_labels(len(dataset.classes))
        if step % workload.evaluate_every == 0 or step == workload.steps:
            by_class += [
                (step, name, count)
                for name, count in zip(dataset.classes, pseudo_labels.tolist(), strict=True)
            ]
            pseudo_labels[:] = 0
            frames = right.pop("frames", 0)
            on_stream += [(step, network, frames, count) for network, count in right.items()]
            right.clear()
            accuracy = _accuracy(learner, test, test_labels)
            row |= {f"{network}_accuracy": value for network, value in accuracy.items()}
            if checkpoint:
                learner.save()
        log.append(row)
        counters += [(step, network, counted) for network, counted in outcome.counters.items()]
        best = accuracy.get("teacher", accuracy.get("student"))
        on_step(Status(step, workload.steps, best, row["simulated_seconds"], row["joules"]))

    def accuracies(images: Map, labels: np.ndarray) -> dict[str, float]:
        found = _accuracy(learner, images, labels)
        return found | _accuracy(deployed, images, labels) if deployed else found

    shifted = {
        name: accuracies(Map(scale.apply(images), -IMAGE_BITS), labels)
        | {"test_images": len(labels)}
        for name, (images, labels) in workload.data.shifted_tests(dataset).items()
    }
    if deployed:
        accuracy |= _accuracy(deployed, test, test_labels)
    totals = clock.totals()
    ledger.check(totals.ledgers)
    tested = len(test_labels)
    summary = _summary(workload, dataset, accuracy, tested, shifted, clock, totals, log)
    steps = pd.DataFrame(log)
    deadline_ps, period_ps = workload.data.deadline_ps, workload.accelerator.period_ps
    summary["real_time"] = real_time(steps, deadline_ps, period_ps)
    kind, often = clock.commonest()
    summary["commonest_step"] = _told_kind(kind, often)
    if kind.passes.frozen:
        summary["frozen"] = _saved(kind, clock.unfrozen(kind), workload.network)
    tables = Tables(
        steps,
        _counters(counters),
        totals.passes,
        totals.tensors,
        totals.units,
        totals.energy,
        kind.timeline.critical_path(),
        pd.DataFrame(by_class, columns=["step", "class", "accepted"]),
        pd.DataFrame(on_stream, columns=[*COLUMNS["on_stream"]]),
    )
    summary["stream"] = stream_accuracy(tables)
    summary["lost"] = lost_shares(tables)
    summary["floor"] = floor(tables)
    summary["rejected"] = rejected(steps)
    summary["guard"] = _guarded(checks)
    if any(phases):
        summary["phases"] = _phases(phases, steps)
    summary["suspicions"] = suspicions(tables)
    host = {
        "total_seconds": time.perf_counter() - started,
        "timing_simulation_seconds": clock.host_seconds,
    }
    return Result(summary, tables, host, learner.trained())


def open_dataset(
    workload: Workload, folder: Path | None, on_progress: Progress | None = None
) -> Dataset:
    """The workload's data set, with the others that some of its stream's frames are taken from.

    Each is a known name, or the folder of a user's own images.
    """

    def opened(wanted: str | Path) -> Dataset:
        if isinstance(wanted, Path):
            image = workload.network.image
            if image.height != image.width:
                raise DataError(
                    f"images of a folder are made square, but the network reads {image}"
                )
            return load_folder(wanted, image.height, on_progress=on_progress)
        return load(wanted, folder, on_progress=on_progress)

    others = {wanted: opened(wanted) for wanted in workload.other_datasets}
    labelled = opened(workload.data.dataset)
    if workload.data.resize:
        labelled = resized(labelled, workload.network.image)
    return replace(labelled, others=others)


@contextmanager
def misfits(kind: type[Exception] = ValueError, where: str = "") -> Iterator[None]:
    """Choices that do not fit each other are the workload's author's to mend."""
    try:
        yield
    except kind as error:
        raise WorkloadError(f"{where}{error}") from error


def _check_fit(workload: Workload, dataset: Dataset) -> None:
    image = workload.network.image
    shape = (image.height, image.width, image.channels)
    if dataset.train_images.shape[1:] != shape:
        have = "x".join(map(str, dataset.train_images.shape[1:]))
        raise ValueError(f"images of network {workload.network.name} must be {image}, not {have}")
    numerics, lanes = workload.numerics, workload.machine.vector_unit.lanes
    if numerics.uses_lfsr and numerics.lfsr_lanes != lanes:
        raise ValueError(
            f"lfsr_lanes must be the {lanes} lanes of the vector unit of "
            f"{workload.accelerator.name}, not {numerics.lfsr_lanes}"
        )
    if workload.network.classes != len(dataset.classes):
        raise ValueError(
            f"classes of network {workload.network.name} must be {len(dataset.classes)}, as in "
            f"{dataset.name}, not {workload.network.classes}"
        )


def _frames_of(workload: Workload, dataset: Dataset) -> Dataset:
    """The set that frames and test images are of."""
    other = workload.data.frames_dataset
    return dataset if other is None else dataset.others[other]


def _deployed(workload: Workload, dataset: Dataset) -> Deployed | None:
    """The network that the device starts with, pretrained now or read; None: a random one."""
    start = workload.start
    if start is None:
        return None
    if isinstance(start, Path):
        return Deployed.read(start, workload.network, workload.numerics)
    whole_steps = SeparateEma().turn
    learner = start.algorithm.start(
        workload.network, workload.numerics, whole_steps, start.steps, workload.seed
    )
    batches = start.data.batches(
        dataset, FactoryClock(), start.steps, workload.seed,
        looks=lambda step: start.algorithm.looks(step, start.steps),
    )  # fmt: skip
    for batch in batches:
        learner.step(batch)
    trained = learner.trained()
    if trained is None:
        raise ValueError(f"algorithm of a pretraining must be in integers, not {start.algorithm!r}")
    return trained


@dataclass
class FactoryClock:
    """Time at the factory: it passes only while frames are waited for, and no device is charged."""

    now_ps: int = 0

    def wait_until(self, ps: int) -> None:
        """Let frames arrive until `ps`."""
        self.now_ps = max(self.now_ps, ps)


def _right_on_frames(batch: Batch, networks: Sequence[Learner | Deployed]) -> dict[str, int]:
    """Frames that have a class, as `frames`, and how many of them each network tells right."""
    if batch.frames is None or batch.truth is None:
        return {}
    known = batch.truth >= 0
    frames, truth = Map(batch.frames[known], batch.exponent), batch.truth[known]
    if not len(truth):
        return {}
    right = {"frames": len(truth)}
    for each in networks:
        right |= each.correct(frames, truth)
    return right


def _guarded(checks: Sequence[Check]) -> dict[str, int] | None:
    """How often a guard checked and rolled back, and what it saw; None: there is none."""
    if not checks:
        return None
    return {
        "images": checks[0].passes.teacher_forward,
        "checks": len(checks),
        "roll_backs": sum(check.failed for check in checks),
        "least_right": checks[0].least,
        "lowest_right": min(check.right for check in checks),
    }


def _phases(phases: Sequence[str | None], steps: pd.DataFrame) -> list[dict[str, Any]]:
    """What each phase of the rule took: steps, time, energy and frames; and what it got right."""
    changes = np.cumsum([now != before for before, now in pairwise([None, *phases])])
    ended = dict.fromkeys(("simulated_seconds", "joules"), 0.0)  # where the phase before did
    rows = []
    for _, of_phase in steps.groupby(changes):
        first, last = of_phase.iloc[0], of_phase.iloc[-1]
        right = of_phase["teacher_accuracy"].fillna(of_phase["student_accuracy"]).dropna()
        rows.append(
            {
                "phase": phases[int(first["step"]) - 1],
                "first_step": int(first["step"]),
                "last_step": int(last["step"]),
                "seconds": float(last["simulated_seconds"] - ended["simulated_seconds"]),
                "joules": float(last["joules"] - ended["joules"]),
                "labelled": int(of_phase["unlabelled_samples"].sum()),
                "kept": int(of_phase["accepted"].sum()),
                "accuracy": None if right.empty else float(right.iloc[-1]),
            }
        )
        ended = last
    return rows


def _accuracy(learner: Learner | Deployed, test: Map, labels: np.ndarray) -> dict[str, float]:
    correct = learner.correct(test, labels)
    return {network: count / len(labels) for network, count in correct.items()}


def _row(step, batch, learned, skipped, outcome: Outcome, cost, spared, clock) -> dict[str, Any]:
    """One step for the log; it learned from the frames of the batch `learned`."""
    return {
        "step": step,
        "simulated_seconds": clock.seconds,
        "joules": clock.joules,
        "step_cycles": cost.cycles,
        "step_joules": cost.joules,
        "spared_cycles": spared[0],
        "spared_joules": spared[1],
        "learning_rate": outcome.learning_rate,
        "labelled_correct": outcome.labelled_correct,
        "labelled_samples": outcome.labelled_samples,
        "labelled_error": outcome.labelled_error,
        "frame_error": outcome.frame_error,
        "accepted": outcome.accepted,
        "unlabelled_samples": outcome.unlabelled_samples,
        "backward_samples": outcome.passes.backward,
        "teacher_changed": outcome.teacher_changed,
        "unmoved": outcome.unmoved,
        "underflowed": outcome.underflowed,
        "saturations": outcome.saturated,
        "frames_seen": batch.frames_seen - skipped,
        "frames_dropped": batch.frames_dropped + skipped,
        "frames_waiting": batch.frames_waiting,
        **_latency(learned, outcome, clock),
        **_by_kind(learned, outcome),
        "student_accuracy": float("nan"),
        "teacher_accuracy": float("nan"),
    }


def _latency(batch: Batch, outcome: Outcome, clock: StepClock) -> dict[str, float]:
    """From the arrival of the frames that the step learned from to its end."""
    mean = worst = float("nan")
    if outcome.unlabelled_samples and batch.arrived_ps is not None:
        latency_ps = clock.now_ps - batch.arrived_ps[: outcome.unlabelled_samples]
        mean = units.seconds(int(latency_ps.sum())) / len(latency_ps)
        worst = units.seconds(int(latency_ps.max()))
    return {"mean_latency_seconds": mean, "worst_latency_seconds": worst}


def _by_kind(batch: Batch, outcome: Outcome) -> dict[str, int]:
    """Accepted and rejected samples of each kind of frame: the truth that no learner sees."""
    kinds = np.zeros(outcome.unlabelled_samples) if batch.kinds is None else batch.kinds
    counts = {}
    for kind in FrameKind:
        of_kind = outcome.taught[kinds[: outcome.unlabelled_samples] == kind]
        counts[f"accepted_{kind.name.lower()}"] = int(of_kind.sum())
        counts[f"rejected_{kind.name.lower()}"] = int((~of_kind).sum())
    return counts


def _gate(log: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Accepted and rejected samples of the run, for the kinds of frames that came."""
    totals = {
        kind.name.lower(): {
            fate: sum(row[f"{fate}_{kind.name.lower()}"] for row in log)
            for fate in ("accepted", "rejected")
        }
        for kind in FrameKind
    }
    return {kind: counts for kind, counts in totals.items() if any(counts.values())}


def _saved(kind: Kind, whole: Kind, network: Network) -> dict[str, float]:
    """Shares of the `whole` network's step that its frozen layers save."""
    costs = [
        {
            "cycles": one.timeline.makespan_cycles,
            "macs": one.timeline.array_macs,
            "ddr_bytes": one.timeline.ddr_read_bytes + one.timeline.ddr_write_bytes,
            "joules": one.account.joules,
        }
        for one in (kind, whole)
    ]
    return {
        "layers": len(kind.passes.frozen),
        "layers_with_parameters": sum(node.trains(()) for node in network.nodes),
        **{f"saved_{name}": 1 - costs[0][name] / costs[1][name] for name in costs[1]},
    }


def _told_kind(kind: Kind, often: int) -> dict[str, int]:
    """One kind of step: how often it ran, its samples, and its cycles."""
    return {
        "steps": often,
        "teacher_forward": kind.passes.teacher_forward,
        "student_forward": kind.passes.student_forward,
        "backward": kind.passes.backward,
        "cycles": kind.timeline.makespan_cycles,
    }


def _ring_buffer(workload: Workload) -> dict[str, Any]:
    """The camera's frames in DDR, a byte a pixel and channel, beside the tensors of a step."""
    stream = workload.data
    frames = stream.buffer_frames if stream.deadline_ps is not None else 0
    size = frames * workload.network.image.size
    return {
        "memory": "ring_buffer",
        **dict.fromkeys(("peak_bytes", "least_bytes", "capacity_bytes"), size),
    }


def _counters(log: Sequence[tuple[int, str, Counters]]) -> pd.DataFrame:
    """One row a step, network and tensor; (step, network, counters of the step) in `log`."""
    lengths = [len(counted.tensors) for _, _, counted in log]
    places = {
        "step": np.repeat([step for step, _, _ in log], lengths),
        "network": pd.Categorical(np.repeat([network for _, network, _ in log], lengths)),
        "class": pd.Categorical([kind for _, _, c in log for kind, _ in c.tensors]),
        "tensor": pd.Categorical([tensor for _, _, c in log for _, tensor in c.tensors]),
    }
    counts = np.concatenate([counted.counts for _, _, counted in log])
    return pd.DataFrame(places | dict(zip(KINDS, counts.T, strict=True)))


def _summary(
    workload, dataset, accuracy, test_images, shifted, clock, totals, log
) -> dict[str, Any]:
    accelerator = workload.accelerator
    last = log[-1]
    memory = [_ring_buffer(workload), *totals.memory.to_dict("records")]
    ring, in_ddr, *on_chip = (row["peak_bytes"] for row in memory)
    working_cycles = totals.cycles - totals.idle_ps // accelerator.period_ps
    return {
        "workload": describe(workload),
        "version": __version__,
        "seed": workload.seed,
        "data": {
            "name": dataset.name,
            "source": dataset.source,
            "stand_in": dataset.stand_in,
            "images": len(dataset.train_images),
            "frames_of": _frames_of(workload, dataset).name,
            "others": [
                {"name": other.name, "source": other.source, "stand_in": other.stand_in}
                for other in dataset.others.values()
            ],
        },
        "gate": _gate(log),
        "accuracy": {
            "student": accuracy["student"],
            "teacher": accuracy.get("teacher"),
            "deployed": accuracy.get("deployed"),
            "test_images": test_images,
            "shifted": shifted,
        },
        "cost": {
            "cycles": totals.cycles,
            "seconds": clock.seconds,
            "joules": clock.joules,
            "ddr_read_bytes": totals.ddr_read_bytes,
            "ddr_write_bytes": totals.ddr_write_bytes,
            "peak_ddr_bytes": ring + in_ddr,
            "peak_on_chip_bytes": sum(on_chip),
            "macs": totals.macs,
            "pe_utilization": totals.macs / (accelerator.macs_per_cycle * working_cycles),
            "ddr_peak_bytes_per_second": accelerator.dram.peak_bytes_per_second,
            "idle_seconds": units.seconds(totals.idle_ps),
            "frames_seen": last["frames_seen"],
            "frames_dropped": last["frames_dropped"],
        },
        "memory": memory,
        "critical_path": totals.critical_path.to_dict("records"),
        "mechanism_cycles": totals.mechanism_cycles,
        "dram_counts": totals.dram_counts,
        "ledgers": {
            name: {
                "left": book.left,
                "right": book.right,
                "closed": book.closed,
                "unit": book.unit,
                "sides": f"{book.left_name}, {book.right_name}",
            }
            for name, book in totals.ledgers.items()
        },
        "energy_table": totals.energy_table,
    }
