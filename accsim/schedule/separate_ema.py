"""The teacher's average in a pass of its own, after the update: plain, and the yardstick."""

from dataclasses import dataclass

from accsim.schedule.base import Blend, Schedule, count_from_one


@dataclass(frozen=True)
class SeparateEma(Schedule):
    """Update (2 words a weight: master read, written), then ema (3: student, teacher, teacher).

    With the next forward pass, which reads the teacher as in every schedule, 5 + 1.
    """

    def blend(self, step):
        count_from_one(step)
        return Blend(1, True)

    def explain(self):
        return "the yardstick: 2 words a weight in the update, 3 in an ema pass of its own"

    def order(self, program, passes, store):
        program.teacher_forward(passes.teacher_forward)
        program.student(passes)
        if passes.ema:
            program.ema()
