"""The teacher labels one batch of `every`; between two of them it rests."""

from dataclasses import dataclass, replace

from accsim.schedule.base import Schedule, count_from_one, require_schedule, require_whole


@dataclass(frozen=True)
class AlternateTeacher(Schedule):
    """Any schedule, with a teacher in the steps 1, `every` + 1, 2 `every` + 1, ... only.

    The other steps learn from their labelled images alone; their frames are skipped, and neither
    the teacher nor its average moves a word. The teacher follows the student of the step before it
    labels again: its average is over one student in `every`, and `teacher_shift` counts those. A
    blend is charged to the first step of its turn.

    Raises ValueError for `every` below 1.
    """

    schedule: Schedule
    every: int = 2

    def __post_init__(self):
        require_schedule(self.schedule)
        require_whole("every", self.every)

    def blend(self, step):
        return self.schedule.blend(self._round(step))

    def turn(self, step):
        inner = self.schedule.turn(self._round(step))
        return replace(
            inner,
            blend=inner.blend if step % self.every == 0 else None,
            labels=inner.labels and (step - 1) % self.every == 0,
        )

    def explain(self):
        return (
            f"{self.schedule.explain()}; the teacher labels and is averaged in one step of "
            f"{self.every}"
        )

    def order(self, program, passes, store):
        self.schedule.order(program, passes, store)

    def _round(self, step: int) -> int:
        """Steps of the teacher up to and with this one's."""
        return (count_from_one(step) - 1) // self.every + 1
