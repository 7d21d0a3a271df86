"""The teacher's average on the fly in every forward pass, written back in one step of `every`."""

from dataclasses import dataclass

from accsim.schedule.base import Blend, Schedule, count_from_one, require_whole


@dataclass(frozen=True)
class DeferredWriteback(Schedule):
    """Update (2 words a weight), then 1 + 1/`every` beside the forward pass's own read.

    Between write-backs the forward pass sees the stored teacher moved 1, 2, ... `every` shares
    towards the student of now: a straight line in place of the geometric average.

    Raises ValueError for `every` below 1.
    """

    every: int = 8

    def __post_init__(self):
        require_whole("every", self.every)

    def blend(self, step):
        numerator = (count_from_one(step) - 1) % self.every + 1
        return Blend(numerator, numerator == self.every)

    def explain(self):
        return (
            f"one read of the teacher less a weight, and its write in one step of {self.every} only"
        )

    def order(self, program, passes, store):
        unsaved = passes.rejected and not store  # the teacher of the step before, formed anew
        program.teacher_forward(
            passes.teacher_forward, blend=passes.ema or unsaved, store=passes.ema and store
        )
        program.student(passes)
        if passes.ema and store and not passes.teacher_forward:
            program.ema()
