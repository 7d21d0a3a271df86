"""A batch in micro-batches, one after the other: their gradients are summed and applied once."""

from dataclasses import dataclass, replace

from accsim.schedule.base import Schedule, require_schedule, require_whole


@dataclass(frozen=True)
class GradientAccumulation(Schedule):
    """Any schedule with the student's passes of a step in `micro_batches` turns.

    The teacher labels the whole batch in one forward pass. Then each micro-batch, its share of the
    labelled and of the unlabelled samples, goes forward and back alone: its maps are smaller, and
    its batch norms see its own samples only. A pass over the words adds its gradient to the sum,
    which lies in the gradient buffer where there is room beside the slots, else in DDR (4 bytes a
    weight, written and read again m - 1 times); the last one's sum goes on to the update. The
    weights are read once more for every further micro-batch, unless they stay on chip.

    With two slots of the gradient buffer the next product sums while the last gradient is added.

    Raises ValueError for `micro_batches` below 1. Source: Huang et al., "GPipe", NeurIPS 2019,
    section 2.2 (gradients of micro-batches, statistics of batch norms by micro-batch).
    """

    schedule: Schedule
    micro_batches: int = 2

    def __post_init__(self):
        require_schedule(self.schedule)
        require_whole("micro_batches", self.micro_batches)

    def blend(self, step):
        return self.schedule.blend(step)

    def turn(self, step):
        inner = self.schedule.turn(step)
        return replace(inner, micro_batches=inner.micro_batches * self.micro_batches)

    def machine(self, accelerator):
        return self.schedule.machine(accelerator)

    def explain(self):
        return (
            f"{self.schedule.explain()}; the student's weights are read for each of "
            f"{self.micro_batches} micro-batches, whose maps are smaller"
        )

    def order(self, program, passes, store):
        self.schedule.order(program, passes, store)
