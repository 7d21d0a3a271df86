"""The seam between values and cost: what one training step did, and which teacher it saw."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Passes:
    """The work of one training step; the learner reports it, the clock charges it.

    A count of zero means that the pass did not happen: its cycles and its DDR traffic are not
    charged. ``backward`` may be smaller than ``student_forward``: samples that the confidence
    threshold rejects have no backward work.
    """

    teacher_forward: int  # samples
    student_forward: int  # samples
    backward: int  # samples, both backward_data and backward_weight
    ema: bool  # the teacher takes part in this step and follows the student

    def __post_init__(self):
        if min(self.teacher_forward, self.student_forward, self.backward) < 0:
            raise ValueError(f"samples of a pass must be 0 or more, not {self}")
        if self.backward > self.student_forward:
            raise ValueError(
                f"backward must be at most student_forward ({self.student_forward} samples), "
                f"not {self.backward}"
            )


@dataclass(frozen=True)
class Blend:
    """The teacher that a step's forward pass sees, from the stored one and the student.

    ``stored + ((student - stored) * numerator >> teacher_shift)``; `store`: it is written back.
    """

    numerator: int
    store: bool
