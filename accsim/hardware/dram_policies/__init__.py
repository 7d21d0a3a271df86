"""Controllers of other simulators, under their own names: what they do is the reference."""

from accsim.hardware.dram_policies.dramsim3 import DramSim3

__all__ = ["DramSim3"]
