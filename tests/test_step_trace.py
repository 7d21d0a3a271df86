"""Request traces of a step: offers worked by hand, and every burst of the simulated step."""

import numpy as np
import pytest

from accsim import step_trace
from accsim.clock import StepClock
from accsim.hardware import boards
from accsim.hardware.dram_replay import read_trace
from accsim.passes import Passes
from accsim.replaced_file import replaced_file
from accsim.workload import WorkloadError, largest_passes, read_workload

READ, WRITE = 0, 1


def offered(machine, *transfers):
    trace = step_trace.requests_of(np.array(transfers, np.int64).reshape(-1, 5), machine)
    return [tuple(int(value) for value in request) for request in zip(*trace, strict=True)]


def test_a_transfer_becomes_the_blocks_that_it_touches_at_the_rate_of_its_port():
    # ZCU104: bursts of 64 B, clocks of 833 ps; 1666 ps a burst are two clocks
    assert offered(boards.ZCU104, (833, 100, 130, READ, 1666)) == [
        (1, 64, READ),
        (3, 128, READ),
        (5, 192, READ),
    ]


def test_an_offer_between_clocks_waits_for_the_next():
    assert offered(boards.ZCU104, (834, 0, 64, WRITE, 0)) == [(2, 0, WRITE)]


def test_transfers_are_merged_by_arrival_and_keep_their_order_within_a_clock():
    first, second = (0, 0, 128, READ, 1666), (1666, 4096, 128, WRITE, 0)
    assert offered(boards.ZCU104, first, second) == [
        (0, 0, READ),
        (2, 64, READ),
        (2, 4096, WRITE),
        (2, 4160, WRITE),
    ]


def test_four_short_bursts_are_one_request_of_64_bytes():
    # PYNQ-Z2: bursts of 16 B, clocks of 1905 ps; a request comes with the first of its bursts
    assert offered(boards.PYNQ_Z2, (0, 48, 96, READ, 1905)) == [
        (0, 0, READ),
        (1, 64, READ),
        (5, 128, READ),
    ]


def test_a_step_without_transfers_has_no_requests():
    assert offered(boards.ZCU104) == []


def test_every_burst_of_the_step_is_in_its_trace(write_workload):
    workload = read_workload(write_workload(accelerator="boards.ZCU104"))
    trace = step_trace.record(workload)
    clock = StepClock(
        workload.network,
        workload.numerics,
        workload.schedule,
        workload.accelerator,
        workload.dataflow,
    )
    timeline = clock.kind(Passes(8, 16, 16, ema=True), 1).timeline
    assert int((~trace.is_write).sum()) == timeline.dma_bursts["read"]
    assert int(trace.is_write.sum()) == timeline.dma_bursts["write"]
    assert (np.diff(trace.arrivals) >= 0).all()
    assert trace.arrivals[-1] * workload.accelerator.dram.tCK_ps < timeline.makespan_ps


def test_what_is_written_is_read_again(write_workload, tmp_path):
    workload = read_workload(write_workload(accelerator="boards.ZCU104"))
    trace = step_trace.record(workload)
    for name in ("step.trace", "step.trace.gz"):
        with replaced_file(tmp_path / name) as file:
            step_trace.write_requests(trace, file)
        again = read_trace(tmp_path / name, workload.accelerator.dram)
        for column, other in zip(trace, again, strict=True):
            assert (column == other).all()


def test_a_supervised_step_has_no_teacher(write_workload):
    workload = read_workload(write_workload(algorithm="Supervised()"))
    assert largest_passes(workload) == Passes(0, 8, 8, ema=False)


def test_a_workload_that_does_not_fit_is_told(write_workload):
    small = "replace(boards.PYNQ_Z2, buffers=replace(boards.PYNQ_Z2.buffers, input=BufferSpec(64)))"
    workload = read_workload(write_workload(accelerator=small))
    with pytest.raises(WorkloadError, match="input"):
        step_trace.record(workload)
