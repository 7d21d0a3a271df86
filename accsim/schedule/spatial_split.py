"""Teacher and student at the same time, on two parts of the machine that share its memory."""

from dataclasses import dataclass, replace

from accsim.hardware.accelerator import AcceleratorSpec
from accsim.schedule.base import Blend, Schedule, count_from_one
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.teacher_ahead import TeacherAhead


@dataclass(frozen=True)
class SpatialSplit(Schedule):
    """`teacher_rows` of the PE array label the next step's frames while the rest trains.

    The rival of sharing one array by turns: the array is cut between two rows, and with it the
    lanes, the buffers and the ports of the DMA (`accsim.hardware.part`). Each part takes its own
    passes in order; they meet in the DDR, whose one channel serves both. A step ends when both have
    ended; the part that is done first waits.

    The values are those of ``TeacherAhead(FusedUpdate())``: labels are one step old, and the
    student's part averages every word as it updates it, 4 + 1 words a weight. So that no pass waits
    for the other part, the teacher lies in DDR twice: the teacher's part labels with the words of
    one copy while the averages of the same words go to the other, and the step after finds them
    changed over. In place, the average of the last layer, which the student updates first, would
    overwrite what the teacher's part reads last.

    Source of the cut: Kim et al., "DaCapo: Accelerating continuous learning in autonomous systems
    for video analytics", ISCA 2024 (rows of one systolic array as two sub-accelerators, there
    inference beside labelling and retraining). `machine` raises ValueError where a part would be
    left without something or the board has no room for what a cut doubles.
    """

    teacher_rows: int

    def blend(self, step):
        count_from_one(step)
        return Blend(1, True)

    def turn(self, step):
        return TeacherAhead(FusedUpdate()).turn(step)

    def machine(self, accelerator: AcceleratorSpec) -> AcceleratorSpec:
        return accelerator.split(self.teacher_rows)

    def explain(self):
        return (
            f"one read of the student less a weight, as in FusedUpdate; {self.teacher_rows} rows "
            "label for the next step while the others train"
        )

    def order(self, program, passes, store):
        if len(program.parts) < 2:
            raise ValueError("accelerator of a SpatialSplit must be what its `machine` returns")
        program.keep_teacher_twice()
        FusedUpdate().order(program, replace(passes, ahead=True), store)
