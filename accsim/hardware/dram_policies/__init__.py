"""Controllers of other simulators, under their own names: what they do is the reference."""

from accsim.hardware.dram_policies.dramsim3 import DramSim3
from accsim.hardware.dram_policies.ramulator2 import Ramulator2

__all__ = ["DramSim3", "Ramulator2"]
