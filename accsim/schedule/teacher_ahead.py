"""The teacher labels for the next step, beside a student that learns from the last labels."""

from dataclasses import dataclass, replace

from accsim.schedule.base import Schedule, require_schedule


@dataclass(frozen=True)
class TeacherAhead(Schedule):
    """Any schedule, with labels that are one step old.

    In every step the teacher labels the frames that came, while the student learns from those that
    the teacher labelled a step before, and from this step's labelled images. A frame's labels so
    come from the teacher that has not yet seen the student's last step. In the first step the
    student has its labelled images alone; nobody learns from the frames of the last.

    Neither pass waits for the other. On the one array the teacher's layers run between the
    student's, so that the array works on one while the vector unit works on the other: over the
    whole step where the average follows in a pass of its own (SeparateEma), else up to the first
    update, for what the teacher's pass reads must not change under it.

    Raises ValueError for a `schedule` that labels ahead itself.
    """

    schedule: Schedule

    def __post_init__(self):
        require_schedule(self.schedule)
        if self.schedule.turn(1).ahead:
            raise ValueError(
                f"schedule of a TeacherAhead must not label ahead itself, "
                f"but {self.schedule!r} does"
            )

    def blend(self, step):
        return self.schedule.blend(step)

    def turn(self, step):
        return replace(self.schedule.turn(step), ahead=True)

    def explain(self):
        return f"{self.schedule.explain()}; the teacher labels for the next step"

    def order(self, program, passes, store):
        self.schedule.order(program, replace(passes, ahead=True), store)
        program.interleave()
