"""Student and teacher in one pass of the vector unit, while the weight gradient drains."""

from dataclasses import dataclass

from accsim.schedule.base import Blend, Schedule, count_from_one


@dataclass(frozen=True)
class FusedUpdate(Schedule):
    """Update and ema on every word at once: student in and out, teacher in and out.

    With the next forward pass, which reads the teacher as in every schedule, 4 + 1 words a weight:
    the updated word goes to the average on the lanes. The values are those of SeparateEma, also
    where words draw from the lanes' registers: all updates of a step draw before its averages. A
    vector unit that is not `fused` runs the two steps one after the other, in 5 + 1.
    """

    def blend(self, step):
        count_from_one(step)
        return Blend(1, True)

    def explain(self):
        return "one read of the student less a weight: the ema joins the pass of the update"

    def order(self, program, passes, store):
        program.teacher_forward(passes.teacher_forward)
        program.student(passes, average=passes.ema)
        if passes.ema and not passes.backward:
            program.ema()
