"""The teacher labels one batch of `every`, or all of them at once; then it rests."""

from dataclasses import dataclass, replace

from accsim.schedule.base import Schedule, count_from_one, require_schedule, require_whole


@dataclass(frozen=True)
class AlternateTeacher(Schedule):
    """Any schedule, with a teacher in the steps 1, `every` + 1, 2 `every` + 1, ... only.

    The other steps learn from their labelled images alone; their frames are skipped, and neither
    the teacher nor its average moves a word. The teacher follows the student of the step before it
    labels again: its average is over one student in `every`, and `teacher_shift` counts those. A
    blend is charged to the first step of its turn.

    With `queue` no frame is skipped: in its step the teacher labels the frames of all `every`
    batches in one forward pass, which reads its weights once; its batch norms see them all
    together. The labels of the later batches wait in DDR, as their frames do, and are up to
    `every` - 1 steps old when the student comes to them. The step begins when so many frames have
    come; the ring buffer must hold them.

    Raises ValueError for `every` below 1 and for a `schedule` that has a queue itself.
    """

    schedule: Schedule
    every: int = 2
    queue: bool = False

    def __post_init__(self):
        require_schedule(self.schedule)
        require_whole("every", self.every)
        if not isinstance(self.queue, bool):
            raise ValueError(f"queue must be True or False, not {self.queue!r}")
        if self.schedule.turn(1).labels > 1:
            raise ValueError(
                f"schedule of an AlternateTeacher must not queue labels itself, but "
                f"{self.schedule!r} does"
            )

    def blend(self, step):
        return self.schedule.blend(self._round(step))

    def turn(self, step):
        inner = self.schedule.turn(self._round(step))
        batches = self.every if self.queue else 1
        return replace(
            inner,
            blend=inner.blend if step % self.every == 0 else None,
            labels=inner.labels * batches if (step - 1) % self.every == 0 else 0,
        )

    def machine(self, accelerator):
        return self.schedule.machine(accelerator)

    def explain(self):
        labels = f"labels {self.every} batches at once" if self.queue else "labels"
        return (
            f"{self.schedule.explain()}; the teacher {labels} and is averaged in one step of "
            f"{self.every}"
        )

    def order(self, program, passes, store):
        self.schedule.order(program, passes, store)

    def _round(self, step: int) -> int:
        """Steps of the teacher up to and with this one's."""
        return (count_from_one(step) - 1) // self.every + 1
