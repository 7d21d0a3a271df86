"""The teacher's average as a pass of its own, each layer's in the shadow of the layer before."""

from dataclasses import dataclass

from accsim.schedule.base import Blend, Schedule, count_from_one


@dataclass(frozen=True)
class OverlappedEma(Schedule):
    """Update (2 words a weight), then ema (3) of each layer ahead of its next teacher forward.

    With that forward pass 5 + 1 words a weight, and the values, of SeparateEma. But the vector unit
    averages the next layer while the array labels with this one: the update of a batch ends in the
    shadow of the teacher's forward pass over the batch after it. What is left of it in the time of
    a step is the first layer's part, and what a short product does not hide of many words. The
    read engine takes loads in program order, so that a layer's average is loaded once the last
    tile of the product before is on its way.

    A step without a teacher forward pass has nothing to hide it under and runs the pass alone.
    """

    def blend(self, step):
        count_from_one(step)
        return Blend(1, True)

    def explain(self):
        return (
            "the words of SeparateEma: the ema of a layer runs on the vector unit while the array "
            "labels with the layer before"
        )

    def order(self, program, passes, store):
        program.teacher_forward(passes.teacher_forward, ema_ahead=passes.ema)
        program.student(passes)
        if passes.ema and not passes.teacher_forward:
            program.ema()
