"""Replay of a trace of memory requests through a controller: the front end and its result.

The front end, the same for every controller: requests are offered strictly in the trace's order, at
most one a clock, none before its arrival, and one that is refused blocks all later ones. A write
to an address with an outstanding read (accepted, data not yet returned) is held back until the read
has returned: a read-modify-write stream means it so.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from accsim.hardware.dram import AddressMapping, DramSpec


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a memory did with a trace; a cycle is a memory clock."""

    requests: int
    total_cycles: int  # cycle of the last data beat; 0 is the first cycle
    row_hits: int  # RD and WR that are not the first after their ACT
    act_commands: int
    pre_commands: int  # PRE, and PREA as one
    read_commands: int
    write_commands: int
    refresh_commands: int
    active_cycles: int  # with a row open, up to total_cycles, summed over the ranks
    average_read_latency_cycles: float  # acceptance to last data beat; 0 without reads
    bandwidth_GBps: float  # requested bytes / total time
    commands: np.ndarray = field(repr=False)  # int64[m, 6], columns of dram_rules; m = 0 unrecorded


class Policy(ABC):
    """A controller's way to order commands; an object without state, the same at every replay."""

    @abstractmethod
    def replay(
        self,
        spec: DramSpec,
        mapping: AddressMapping,
        arrivals: np.ndarray,
        addresses: np.ndarray,
        is_write: np.ndarray,
        record: bool = False,
    ) -> Replay:
        """Play requests of one burst each behind the front end.

        Parameters
        ----------
        spec, mapping : the memory, and which address bits choose its banks
        arrivals : int64[n], cycle before which a request is not offered; never decreases
        addresses : int64[n], byte addresses within the capacity
        is_write : bool[n]
        record : return the commands too
        """
