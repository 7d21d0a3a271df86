"""In which order the passes of teacher and student run, what is fused, what is written back."""

from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.separate_ema import SeparateEma

SCHEDULES = (SeparateEma, LayerwiseEma, DeferredWriteback)

__all__ = ["SCHEDULES", "DeferredWriteback", "LayerwiseEma", "SeparateEma"]
