"""What a schedule decides: the order of a step's passes, how the teacher follows the student."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from accsim.dataflow.base import Dataflow
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.network import Network
from accsim.numerics import Numerics
from accsim.passes import Blend, Passes, Turn
from accsim.schedule.operation import Operation
from accsim.schedule.program import Program


@dataclass(frozen=True)
class Schedule(ABC):
    """The order of a step's passes on one accelerator."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def blend(self, step: int) -> Blend:
        """The teacher of the forward pass after `step` updates of the student, `step` from 1."""

    def turn(self, step: int) -> Turn:
        """What the values of `step`, from 1, take from this schedule."""
        return Turn(self.blend(step))

    def machine(self, accelerator: AcceleratorSpec) -> AcceleratorSpec:
        """`accelerator` as this schedule uses it: whole, or cut in parts that work side by side."""
        return accelerator

    @abstractmethod
    def explain(self) -> str:
        """One line: why its bytes differ from those of SeparateEma."""

    @abstractmethod
    def order(self, program: Program, passes: Passes, store: bool) -> None:
        """Write the passes of one step into `program`, in order of execution."""

    def operations(
        self,
        network: Network,
        numerics: Numerics,
        accelerator: AcceleratorSpec,
        dataflow: Dataflow,
        passes: Passes,
        store: bool = True,
    ) -> tuple[Operation, ...]:
        """Operations of one step, cut into tiles; `store`: the blended teacher is written back.

        `accelerator` is what `machine` makes of the board's.

        Raises ValueError for a buffer too small for one tile and for tensors beyond the DDR.
        """
        program = Program(
            network,
            numerics,
            accelerator,
            dataflow,
            passes.own_labels,
            passes.frozen,
            passes.predictions,
            passes.kept,
        )
        self.order(program, passes, store)
        program.keep()
        return program.operations()


def require_whole(name: str, count: int) -> None:
    """Raise ValueError unless `count` is a whole number from 1."""
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {count}")


def require_schedule(schedule: Schedule) -> None:
    """Raise ValueError for anything but a schedule."""
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule must be a Schedule such as SeparateEma(), not {schedule!r}")


def count_from_one(step: int) -> int:
    """`step`, or ValueError where it is below 1."""
    if step < 1:
        raise ValueError(f"step must be at least 1 (updates of the student so far), not {step}")
    return step
