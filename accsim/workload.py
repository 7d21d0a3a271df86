"""Workload: everything that one experiment chooses, read from a Python file of plain objects."""

import runpy
import traceback
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from accsim.data.stream import SemiSupervisedStream, Stream
from accsim.dataflow.base import Dataflow
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.network import Network
from accsim.numerics import Numerics
from accsim.passes import Passes, shares
from accsim.schedule.base import Schedule
from accsim.schedule.operation import Operation
from accsim.training.base import Algorithm
from accsim.training.guard import Guarded


class WorkloadError(Exception):
    """A workload file cannot be used; the message is one sentence for its author."""


@dataclass(frozen=True)
class Pretraining:
    """What a network learns at the factory, before it is deployed; the device is not charged."""

    algorithm: Algorithm
    data: Stream  # of the workload's data set
    steps: int

    def __post_init__(self):
        for name, kind in (("algorithm", Algorithm), ("data", Stream)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"{name} of a pretraining must be a {kind.__name__} object, "
                    f"not {getattr(self, name)!r}"
                )
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(
                f"steps of a pretraining must be a whole number of at least 1, not {self.steps}"
            )
        self.algorithm.require(self.data)


@dataclass(frozen=True)
class Workload:
    """One experiment: what learns, by which rule, from what, on which machine, for how long."""

    network: Network
    accelerator: AcceleratorSpec
    dataflow: Dataflow
    schedule: Schedule
    algorithm: Algorithm
    data: Stream
    steps: int
    numerics: Numerics = Numerics()
    seed: int = 0
    evaluate_every: int = 300  # steps between evaluations on the test images; the last step always
    start: Path | Pretraining | None = None  # deployed: network.npz of a run; None: a random start
    fresh: tuple[str, ...] = ()  # patterns of layers that start at random on a deployed network

    def __post_init__(self):
        kinds = {
            "network": Network,
            "accelerator": AcceleratorSpec,
            "dataflow": Dataflow,
            "schedule": Schedule,
            "algorithm": Algorithm,
            "data": Stream,
            "numerics": Numerics,
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(
                    f"{name} of a workload must be a {kind.__name__} object, "
                    f"not {getattr(self, name)!r}"
                )
        if isinstance(self.data, SemiSupervisedStream):
            parts = self.schedule.turn(1).micro_batches
            if parts > self.data.labelled_per_batch:
                raise ValueError(
                    f"micro_batches of the schedule must be at most the "
                    f"{self.data.labelled_per_batch} labelled images of a batch, not {parts}"
                )
            images, frames = self.data.labelled_per_batch, self.data.unlabelled_per_batch
            one_frame, rule = (
                self.algorithm.largest_passes(images, 1),
                type(self.algorithm).__name__,
            )
            if not frames and one_frame.frames:
                raise ValueError(
                    f"unlabelled_per_batch must be at least 1 for {rule}, which learns from "
                    "frames, not 0"
                )
            for name, plain in (("label_views", 1), ("mixup", None)):
                if one_frame.predictions and getattr(self.data, name) != plain:
                    raise ValueError(
                        f"{name} of the stream must be {plain} for {rule}, whose labels are what "
                        f"it said of each frame itself, not {getattr(self.data, name)}"
                    )
            for name, plain in (
                ("label_views", 1),
                ("mixup", None),
                ("student_augmentation", None),
            ):
                if one_frame.probes and getattr(self.data, name) != plain:
                    raise ValueError(
                        f"{name} of the stream must be {plain} for {rule}, which moves each frame "
                        f"in the view that was labelled, not {getattr(self.data, name)}"
                    )
            batches = self.schedule.turn(1).labels
            if batches * frames > self.data.buffer_frames:
                raise ValueError(
                    f"buffer_frames must be at least the {batches * frames} frames of the "
                    f"{batches} batches that the teacher labels at once, "
                    f"not {self.data.buffer_frames}"
                )
        if not isinstance(self.start, Path | Pretraining | None):
            raise ValueError(
                "start must be the Path of a network.npz, a Pretraining or None, "
                f"not {self.start!r}"
            )
        if isinstance(self.start, Pretraining):
            for name in ("dataset", "resize"):
                mine, factory = getattr(self.data, name), getattr(self.start.data, name)
                if mine != factory:
                    raise ValueError(
                        f"{name} of the pretraining's stream must be {mine!r} as of the "
                        f"workload's, not {factory!r}"
                    )
            self.start.algorithm.optimizer.frozen(self.network)  # its rates name layers
        if isinstance(self.algorithm, Guarded) and not self.data.held_out:
            raise ValueError("held_out of the stream must be at least 1 for a rule that is Guarded")
        for name, least in (("steps", 1), ("seed", 0), ("evaluate_every", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {value}")
        self.algorithm.optimizer.frozen(self.network)
        self.algorithm.require(self.data)
        if self.fresh_layers and self.start is None:
            raise ValueError(
                f"fresh must be () without a start, where every layer is, not {self.fresh!r}"
            )
        _ = self.machine  # the schedule can use the accelerator

    @property
    def fresh_layers(self) -> tuple[str, ...]:
        """Layers that start at random: of a deployed network, such as a new classifier."""
        return tuple(name for at in self.fresh for name in self.network.trainable(at, "fresh"))

    @property
    def other_datasets(self) -> tuple[str | Path, ...]:
        """Names or folders of sets that some frames are taken from, in the field or before."""
        before = self.start.data.other_datasets if isinstance(self.start, Pretraining) else ()
        return tuple(dict.fromkeys((*self.data.other_datasets, *before)))

    @property
    def machine(self) -> AcceleratorSpec:
        """The accelerator as the schedule uses it."""
        return self.schedule.machine(self.accelerator)


def read_workload(path: Path) -> Workload:
    """The object named ``workload`` of a Python file; errors as of `read_file`."""
    return read_file(path)["workload"]


def read_file(path: Path) -> dict[str, Any]:
    """The objects of a workload's Python file by name; ``workload`` is one of them.

    Raises WorkloadError for a file that is not there, does not run, or defines no workload.
    """
    names = names_of(path, "workload")
    if not isinstance(names.get("workload"), Workload):
        found = names.get("workload", "nothing of that name")
        raise WorkloadError(
            f"workload {path} must define `workload = Workload(...)`, but defines {found!r}"
        )
    return names


def names_of(path: Path, what: str) -> dict[str, Any]:
    """The objects of a Python file by name; WorkloadError, which says `what` the file should be."""
    if not path.is_file():
        raise WorkloadError(f"{what} {path} must be a Python file, but there is no such file")
    try:
        return runpy.run_path(str(path))
    except SyntaxError as error:
        raise WorkloadError(
            f"{what} {path} must be valid Python, but line {error.lineno} is not: {error.msg}"
        ) from error
    except Exception as error:
        inside = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path)
        ]
        line = f" in line {inside[-1].lineno}" if inside else ""
        raise WorkloadError(f"{what} {path} fails{line}: {error}") from error


def describe(choice: Any) -> Any:
    """Every choice of a workload as plain values: objects become dicts with their class's name."""
    if isinstance(choice, Network):
        layers = [describe(layer) for layer in choice.layers]
        return {
            "class": "Network",
            "name": choice.name,
            "image": str(choice.image),
            "parameters": choice.parameters,
            "macs": choice.macs,
            "layers": layers,
        }
    if isinstance(choice, Enum):
        return choice.name
    if is_dataclass(choice):
        values = {field.name: describe(getattr(choice, field.name)) for field in fields(choice)}
        return {"class": type(choice).__name__, **values}
    if isinstance(choice, dict):
        return {str(key): describe(value) for key, value in choice.items()}
    if isinstance(choice, list | tuple):
        return [describe(value) for value in choice]
    if isinstance(choice, int | float | str | bool) or choice is None:
        return choice
    return str(choice)


def largest_passes(workload: Workload) -> Passes:
    """The largest step of a workload: the teacher accepts every unlabelled sample.

    Raises WorkloadError where the stream does not say how large its batches are.
    """
    stream = workload.data
    if not isinstance(stream, SemiSupervisedStream):
        raise WorkloadError(
            f"data of the workload must be a SemiSupervisedStream, which has a fixed batch, not a "
            f"{type(stream).__name__}"
        )
    largest = whole_batch(workload, stream.labelled_per_batch, stream.unlabelled_per_batch)
    labels = largest.teacher_forward * stream.label_views
    waiting = labels * (workload.schedule.turn(1).labels - 1)
    return replace(largest, teacher_forward=labels + waiting, queued=largest.queued + waiting)


def whole_batch(workload: Workload, labelled: int, frames: int) -> Passes:
    """A step of so many images whose frames are all accepted, one view of each labelled in it."""
    whole = workload.algorithm.largest_passes(labelled, frames)
    count = workload.schedule.turn(1).micro_batches
    seen = whole.student_forward - labelled
    sizes = [
        own.stop - own.start + of_frames.stop - of_frames.start
        for own, of_frames in shares(labelled, seen, count, whole.separate_domains)
    ]
    return replace(
        whole,
        micro_batches=tuple((size, size) for size in sizes) if len(sizes) > 1 else (),
        frozen=workload.algorithm.optimizer.frozen(workload.network),
    )


def all_accepted(workload: Workload, ran: Passes, labelled: int, frames: int) -> Passes:
    """What `ran` would have been, were every frame of its batch of so many images accepted."""
    if ran.rejected and ran.kept is None:
        labels = {name: getattr(ran, name) for name in ("teacher_forward", "queued", "ahead")}
        return replace(whole_batch(workload, labelled, frames), **labels)
    parts = tuple((forward, forward) for forward, _ in ran.micro_batches)
    return replace(ran, backward=ran.student_forward, micro_batches=parts)


def largest_step(workload: Workload) -> tuple[Operation, ...]:
    """The operations of the largest step of a workload, cut into tiles.

    Raises WorkloadError for a workload whose tiles or tensors do not fit.
    """
    try:
        return workload.schedule.operations(
            workload.network,
            workload.numerics,
            workload.machine,
            workload.dataflow,
            largest_passes(workload),
        )
    except ValueError as error:
        raise WorkloadError(str(error)) from error
