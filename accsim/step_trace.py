"""The request trace of one training step: what its DMA engines ask of the memory, and when."""

from typing import IO

import numpy as np

from accsim import engine
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.dram_controller import DramController
from accsim.hardware.dram_replay import REQUEST_BYTES, Trace
from accsim.workload import Workload, largest_step


def record(workload: Workload) -> Trace:
    """Simulate the largest step once and write down its requests, in the order of their offers.

    A request is `REQUEST_BYTES` of one transfer, offered when the port of its DMA engine offers the
    first of its bursts; arrivals are clocks of the accelerator's memory. Raises WorkloadError for a
    workload whose tiles or tensors do not fit.
    """
    accelerator = workload.machine
    operations = largest_step(workload)
    heard: list[tuple[int, ...]] = []

    class Overheard(DramController):
        """Writes down every transfer before it is served."""

        def transfer(self, address, size_bytes, is_write, interval_ps=0):
            heard.append((int(self.env.now), address, size_bytes, is_write, interval_ps))
            return super().transfer(address, size_bytes, is_write, interval_ps)

    engine.simulate(operations, accelerator, Overheard)
    return requests_of(np.array(heard, np.int64).reshape(-1, 5), accelerator)


def requests_of(transfers: np.ndarray, accelerator: AcceleratorSpec) -> Trace:
    """Requests of transfers int64[n, 5]: start in ps, address, bytes, is_write, interval in ps."""
    dram = accelerator.dram
    start_ps, address, size_bytes, is_write, interval_ps = transfers.T
    first = address // REQUEST_BYTES
    counts = (address + size_bytes - 1) // REQUEST_BYTES - first + 1
    ends = np.cumsum(counts)
    within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    addresses = (np.repeat(first, counts) + within) * REQUEST_BYTES
    before = addresses - np.repeat(address // dram.burst_bytes * dram.burst_bytes, counts)
    bursts = np.maximum(before, 0) // dram.burst_bytes
    offers_ps = np.repeat(start_ps, counts) + bursts * np.repeat(interval_ps, counts)
    arrivals = -(-offers_ps // dram.tCK_ps)
    order = np.argsort(arrivals, kind="stable")
    writes = np.repeat(is_write != 0, counts)
    return Trace(arrivals[order], addresses[order], writes[order])


def write_requests(trace: Trace, file: IO[bytes]) -> None:
    """Write ``arrival address R|W`` a request: decimal cycle, hexadecimal address."""
    lines = (
        f"{arrival} {address:#x} {'RW'[is_write]}\n"
        for arrival, address, is_write in zip(*(column.tolist() for column in trace), strict=True)
    )
    file.write("".join(lines).encode())
