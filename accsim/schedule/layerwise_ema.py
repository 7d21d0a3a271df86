"""The teacher's average layer by layer, formed while the weights stream in for its forward pass."""

from dataclasses import dataclass

from accsim.schedule.base import Blend, Schedule, count_from_one


@dataclass(frozen=True)
class LayerwiseEma(Schedule):
    """Update (2 words a weight), then 2 beside the forward's own read: student in, teacher out.

    The blend works at the rate of the stream and the write goes out under the layer's products. A
    step without a teacher forward pass has nothing to hide it under and runs a pass of its own.
    """

    def blend(self, step):
        count_from_one(step)
        return Blend(1, True)

    def explain(self):
        return "one read of the teacher less a weight: the forward pass and the ema share theirs"

    def order(self, program, passes, store):
        program.teacher_forward(passes.teacher_forward, blend=passes.ema, store=True)
        program.student(passes)
        if passes.ema and not passes.teacher_forward:
            program.ema()
