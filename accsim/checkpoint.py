"""A long run that was interrupted goes on from its last evaluation, to the same bits.

The file holds what the learner said in every step and evaluation, and the learner itself. A run
that is resumed goes through its steps again: frames arrive, the clock is charged and rows are
logged by the same lines as before, but what the learner said is read, not calculated.

The learner is stored by Python's pickle: resume from your own files alone.
"""

import hashlib
import io
import json
import pickle
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np

from accsim import __version__
from accsim.data import Dataset
from accsim.replaced_file import replaced_file
from accsim.training.base import Learner
from accsim.workload import Workload, WorkloadError, describe

CHOICES = ("network", "numerics", "schedule", "algorithm")  # that a learner refers to


def checkpoint_of(out: Path) -> Path:
    """The file beside report folder `out` that its run can be resumed from."""
    return out.with_name(f"{out.name}.checkpoint")


@final
class RecordedLearner(Learner):
    """A learner whose answers are written down, and given again where the run is resumed.

    `learner` is at its random start. With `resume` it gets the state that file `path` holds; raises
    WorkloadError for a file that is not there, is damaged, or is of another workload, data set or
    version.
    """

    def __init__(
        self, learner: Learner, workload: Workload, dataset: Dataset, path: Path, resume: bool
    ):
        self.learner, self.workload, self.path = learner, workload, path
        self.origin = origin_of(workload, digest_of_data(dataset))
        self.stretches: list[bytes] = []  # answers between one checkpoint and the next, pickled
        self.answers: list[Any] = []  # since the last
        self.told: deque[Any] = deque()  # answers of the run that is resumed, not yet given again
        if resume:
            self._load()

    def step(self, batch):
        return self._answer(lambda: self.learner.step(batch))

    def correct(self, images, labels):
        return self._answer(lambda: self.learner.correct(images, labels))

    def trained(self):
        return self.learner.trained()

    def save(self) -> None:
        """Write the checkpoint, whole or not at all, unless this part of the run was read from it.

        Raises WorkloadError for a learner that cannot be stored, OSError for a full disk.
        """
        if not self.answers:
            return
        self.stretches.append(pickle.dumps(self.answers))
        self.answers = []
        write_sealed(self.path, self.origin, pickle.dumps((self.stretches, self._packed())))

    def _answer(self, ask: Callable[[], Any]) -> Any:
        if self.told:
            return self.told.popleft()
        self.answers.append(ask())
        return self.answers[-1]

    def _packed(self) -> bytes:
        """The learner's attributes; what the workload chose is referred to by name."""
        file = io.BytesIO()
        pickler = pickle.Pickler(file)
        names = {id(getattr(self.workload, name)): name for name in CHOICES}
        pickler.persistent_id = lambda thing: names.get(id(thing))  # type: ignore[method-assign]
        try:
            pickler.dump(vars(self.learner))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise WorkloadError(
                f"learner of {type(self.workload.algorithm).__name__} must have attributes that "
                f"pickle can store: {error}"
            ) from error
        return file.getvalue()

    def _load(self) -> None:
        if not self.path.exists():
            raise WorkloadError(f"--resume needs checkpoint {self.path}, but there is no such file")
        origin, payload = read_sealed(self.path)
        require_same(self.path, self.origin, origin)
        self.stretches, packed = pickle.loads(payload)
        unpickler = pickle.Unpickler(io.BytesIO(packed))
        unpickler.persistent_load = lambda name: getattr(self.workload, name)  # type: ignore[method-assign]
        vars(self.learner).update(unpickler.load())
        for stretch in self.stretches:
            self.told.extend(pickle.loads(stretch))


def origin_of(workload: Workload, data: str) -> dict[str, Any]:
    """What a run's results follow from; `data` is the digest of its data set."""
    return {
        "version": [__version__, _digest_of_code()],
        "data": data,
        "start": _digest_of_start(workload),
        "workload": json.loads(json.dumps(describe(workload))),
    }


def write_sealed(path: Path, origin: dict[str, Any], payload: bytes) -> None:
    """Write file `path`, whole or not at all: `origin` in a line of JSON, then the payload."""
    header = {**origin, "sha256": hashlib.sha256(payload).hexdigest()}
    with replaced_file(path) as file:
        file.write(json.dumps(header).encode() + b"\n")
        file.write(payload)


def read_sealed(path: Path) -> tuple[dict[str, Any], bytes]:
    """Origin and payload of such a file; WorkloadError for one that is damaged."""
    try:
        header, payload = path.read_bytes().split(b"\n", 1)
        origin = json.loads(header)
        whole = origin.pop("sha256") == hashlib.sha256(payload).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise WorkloadError(f"{path} must be whole, but is damaged; delete it to start anew")
    return origin, payload


def require_same(path: Path, mine: dict[str, Any], its: dict[str, Any]) -> None:
    """Raise WorkloadError unless file `path` is of the same origin as this run."""
    if mine != its:
        raise WorkloadError(
            f"{path} must be of the same {_difference(mine, its)} as this run; delete it to start "
            "anew"
        )


def _difference(mine: dict[str, Any], its: dict[str, Any]) -> str:
    """What of two origins is not the same, in words."""
    names = [name for name in ("version", "data", "start") if mine[name] != its[name]]
    choices = mine["workload"]
    names += [name for name in choices if choices[name] != its["workload"].get(name)]
    return " and ".join(dict.fromkeys(names))


def _digest_of_code() -> str:
    """Of the package's sources: other lines may give other bits."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(root.rglob("*.py")):
        digest.update(f"{source.relative_to(root)}\n".encode() + source.read_bytes())
    return digest.hexdigest()


def digest_of_data(dataset: Dataset) -> str:
    """Of every image and label."""
    digest = hashlib.sha256()
    for each in (dataset, *dataset.others.values()):
        for array in (each.train_images, each.train_labels, each.test_images, each.test_labels):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _digest_of_start(workload: Workload) -> str:
    """Of the file that the deployed network is read from, if it is."""
    start = workload.start
    return hashlib.sha256(start.read_bytes()).hexdigest() if isinstance(start, Path) else ""
