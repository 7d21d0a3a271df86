"""In which order the passes of teacher and student run, what is fused, what is written back."""

from accsim.schedule.alternate_teacher import AlternateTeacher
from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.gradient_accumulation import GradientAccumulation
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.overlapped_ema import OverlappedEma
from accsim.schedule.separate_ema import SeparateEma
from accsim.schedule.spatial_split import SpatialSplit
from accsim.schedule.teacher_ahead import TeacherAhead

SCHEDULES = (
    SeparateEma,
    FusedUpdate,
    LayerwiseEma,
    DeferredWriteback,
    OverlappedEma,
    GradientAccumulation,
    AlternateTeacher,
    TeacherAhead,
    SpatialSplit,
)

__all__ = [kind.__name__ for kind in SCHEDULES]
