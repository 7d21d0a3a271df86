"""Replay of a trace of memory requests through a controller: the front end and its result.

The front end, the same for every controller: requests are offered strictly in the trace's order, at
most one a clock, none before its arrival, and one that is refused blocks all later ones. A write
to an address with an outstanding read (accepted, data not yet returned) is held back until the read
has returned: a stream of reads, modifications and writes means it so.
"""

import gzip
import re
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from accsim.hardware.dram import AddressMapping, DramSpec

REQUEST_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a memory did with a trace; a cycle is a memory clock."""

    requests: int
    total_cycles: int  # to the end of the last data beat; the first cycle is 0
    row_hits: int  # RD and WR that found their row open, as the controller counts them
    act_commands: int
    pre_commands: int  # PRE, and PREA as one
    read_commands: int
    write_commands: int
    refresh_commands: int
    active_cycles: int  # with a row open, up to total_cycles, summed over the ranks
    average_read_latency_cycles: float  # acceptance to last data beat; 0 without reads
    bandwidth_GBps: float  # requested bytes / total time
    commands: np.ndarray = field(repr=False, compare=False)  # as `dram_rules.encode`; asked for


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
        spec, mapping : a memory of one channel, and which address bits choose its banks
        arrivals : int64[n], cycle before which a request is not offered; never decreases
        addresses : int64[n], byte addresses within the capacity
        is_write : bool[n]
        record : return the commands too

        Raises ValueError for requests that are not so.
        """


class Requests(NamedTuple):
    """Requests as the controllers' cores read them, an entry each."""

    arrivals: np.ndarray  # int64[n]
    is_write: np.ndarray  # bool[n]
    bank: np.ndarray  # int64[n], counted through groups and ranks as in `dram_rules.timing`
    row: np.ndarray  # int64[n]
    prior_read: np.ndarray  # int64[n], the last earlier read of the same burst, or -1
    prior_write: np.ndarray  # int64[n]


def requests(
    spec: DramSpec,
    mapping: AddressMapping,
    arrivals: np.ndarray,
    addresses: np.ndarray,
    is_write: np.ndarray,
) -> Requests:
    """Check requests (see `Policy.replay`) and find where they go."""
    arrivals = np.ascontiguousarray(arrivals, np.int64)
    addresses = np.ascontiguousarray(addresses, np.int64)
    is_write = np.ascontiguousarray(is_write, np.bool_)
    if not arrivals.shape == addresses.shape == is_write.shape == (len(arrivals),):
        raise ValueError(
            f"arrivals, addresses and is_write must be equally long rows of values, not of shapes "
            f"{arrivals.shape}, {addresses.shape} and {is_write.shape}"
        )
    if len(arrivals) == 0:
        raise ValueError("a trace must hold at least one request, not none")
    if spec.channels != 1:
        raise ValueError(
            f"a replay plays the requests of one channel, not of the {spec.channels} of "
            f"{spec.name}; give each channel its own"
        )
    if arrivals[0] < 0 or (np.diff(arrivals) < 0).any():
        first = int(np.argmax(np.diff(arrivals, prepend=0) < 0))
        raise ValueError(
            f"arrivals must start at 0 or later and never decrease, not {arrivals[first]} at "
            f"request {first}"
        )
    if addresses.min() < 0 or addresses.max() >= spec.capacity_bytes:
        beyond = (addresses < 0) | (addresses >= spec.capacity_bytes)
        raise ValueError(
            f"addresses must lie within the {spec.capacity_bytes} bytes of {spec.name}, "
            f"not at {addresses[np.argmax(beyond)]:#x}"
        )
    place = mapping.locate(spec, addresses)
    bank = (place.rank * spec.bank_groups + place.bank_group) * spec.banks + place.bank
    prior_read, prior_write = _priors(addresses // spec.burst_bytes, is_write)
    return Requests(arrivals, is_write, bank, place.row, prior_read, prior_write)


@njit(cache=True)
def _priors(bursts, is_write):
    """For each request the last earlier read and the last earlier write of its burst, or -1."""
    count = len(bursts)
    bits = 1
    while 1 << bits < 2 * count:
        bits += 1
    buckets = np.full(1 << bits, -1)  # the last request of a burst
    read = np.empty(count, np.int64)
    write = np.empty(count, np.int64)
    for now in range(count):
        bucket = (bursts[now] * 2654435761 & 0xFFFFFFFF) >> (32 - bits)
        while buckets[bucket] >= 0 and bursts[buckets[bucket]] != bursts[now]:
            bucket = (bucket + 1) & ((1 << bits) - 1)
        last = buckets[bucket]
        buckets[bucket] = now
        read[now] = write[now] = -1
        if last >= 0:
            read[now] = read[last] if is_write[last] else last
            write[now] = last if is_write[last] else write[last]
    return read, write


class Trace(NamedTuple):
    """Requests of one burst each: what a `Policy` replays."""

    arrivals: np.ndarray  # int64[n]
    addresses: np.ndarray  # int64[n]
    is_write: np.ndarray  # bool[n]


_LINE = re.compile(rb"\s*(\d{1,18})\s+(?:0[xX])?([0-9a-fA-F]{1,16})\s+([RW])\s*")


def read_trace(path: Path | str, spec: DramSpec) -> Trace:
    """Read a trace file: ``arrival address R|W`` a line and request, gzipped if named ``.gz``.

    The arrival is a decimal cycle, the address hexadecimal; a request is 64 bytes, several bursts
    where bursts are shorter. Raises ValueError with the line that is not so, or beyond `spec`.
    """
    arrivals, addresses, writes = [], [], []
    last = 0
    number = 0
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                match = _LINE.fullmatch(line)
                if match is None:
                    text = line.decode(errors="replace").rstrip("\n")
                    raise ValueError(
                        f"{path}, line {number}: a request must be a decimal arrival, a "
                        f"hexadecimal address and R or W, such as 120 0x1f40 R, not {text!r}"
                    )
                arrival, address = int(match[1]), int(match[2], 16)
                if arrival < last:
                    raise ValueError(
                        f"{path}, line {number}: the arrival must be at least that of the line "
                        f"before ({last}), not {arrival}"
                    )
                if address + REQUEST_BYTES > spec.capacity_bytes:
                    raise ValueError(
                        f"{path}, line {number}: the request must lie within the "
                        f"{spec.capacity_bytes} bytes of {spec.name}, not at {address:#x}"
                    )
                last = arrival
                arrivals.append(arrival)
                addresses.append(address)
                writes.append(match[3] == b"W")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} must be a whole gzip file, not broken after line {number}"
        ) from error
    bursts = max(1, REQUEST_BYTES // spec.burst_bytes)
    within = np.arange(bursts) * spec.burst_bytes
    return Trace(
        np.repeat(np.array(arrivals, np.int64), bursts),
        (np.array(addresses, np.int64)[:, None] + within).reshape(-1),
        np.repeat(np.array(writes, np.bool_), bursts),
    )
