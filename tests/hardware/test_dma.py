"""DMA engines in front of a memory of known latency; one cycle is 1000 ps."""

import pytest
import simpy

from accsim.hardware.dma import DmaEngine, DmaSpec, bursts

LATENCY_PS = 50_000


class KnownMemory:
    """Ends a transfer a fixed time after the last burst was asked for."""

    def __init__(self, env):
        self.env = env
        self.asked = []

    def transfer(self, address, size_bytes, is_write, interval_ps=0):
        self.asked.append((self.env.now, address, size_bytes, is_write))
        count = bursts(address, size_bytes, 64)
        return self.env.timeout(count * interval_ps + LATENCY_PS)


class ReversingMemory(KnownMemory):
    """Ends the first of two transfers last."""

    def transfer(self, address, size_bytes, is_write, interval_ps=0):
        self.asked.append(address)
        return self.env.timeout(LATENCY_PS // len(self.asked))


def walk(spec, transfers, is_write=False, memory_class=KnownMemory):
    env = simpy.Environment()
    memory = memory_class(env)
    engine = DmaEngine(env, spec, 1000, memory, 64, is_write)
    ends = []

    def walker():
        for address, size_bytes in transfers:
            yield from engine.transfer(address, size_bytes, lambda: ends.append(env.now))
        engine.wait_for("idle")

    env.process(walker())
    env.run()
    engine.occupancy.enter("idle")
    return memory.asked, ends, engine


@pytest.mark.parametrize(
    ("address", "size", "count"), [(0, 64, 1), (0, 65, 2), (63, 2, 2), (64, 1, 1), (10, 118, 2)]
)
def test_bursts_are_those_that_a_run_touches(address, size, count):
    assert bursts(address, size, 64) == count


def test_start_up_overlaps_the_transfers_before():
    spec = DmaSpec(64, 64, startup_cycles=3, outstanding=2)
    asked, ends, _ = walk(spec, [(0, 640), (640, 640)])
    # 3 cycles of start-up; the second waits only for the port: 10 bursts of 1 cycle
    assert [time for time, *_ in asked] == [3_000, 13_000]
    assert ends == [63_000, 73_000]


def test_responses_come_in_the_order_of_issue():
    spec = DmaSpec(64, 64, startup_cycles=0)
    _, ends, engine = walk(spec, [(0, 64), (64, 64)], memory_class=ReversingMemory)
    # the second ends in the memory after 1,000 + 25,000 ps, and waits for the first
    assert ends == [LATENCY_PS, LATENCY_PS]
    assert engine.occupancy.ps_by_cause == {"idle": 0, "busy": LATENCY_PS}


def test_one_outstanding_transfer_waits_for_the_end_and_starts_up_anew():
    spec = DmaSpec(64, 64, startup_cycles=3, outstanding=1)
    asked, ends, _ = walk(spec, [(0, 640), (640, 640)])
    assert [time for time, *_ in asked] == [3_000, 66_000]
    assert ends == [63_000, 126_000]


def test_a_narrow_port_spaces_the_bursts():
    _, ends, _ = walk(DmaSpec(16, 64, startup_cycles=0), [(0, 640)])
    assert ends == [10 * 4_000 + LATENCY_PS]


def test_each_direction_has_its_own_width():
    asked, ends, _ = walk(DmaSpec(16, 64, startup_cycles=0), [(0, 640)], is_write=True)
    assert ends == [10 * 1_000 + LATENCY_PS]
    assert asked == [(0, 0, 640, True)]


def test_bytes_and_bursts_are_counted_apart():
    _, _, engine = walk(DmaSpec(64, 64), [(10, 100), (4096, 64)])
    assert (engine.size_bytes, engine.bursts) == (164, 3)


def test_time_in_flight_is_busy_and_all_time_has_a_cause():
    _, ends, engine = walk(DmaSpec(64, 64, startup_cycles=3), [(0, 64)])
    assert engine.occupancy.ps_by_cause == {"idle": 0, "busy": ends[-1]}


def test_widths_must_be_positive():
    with pytest.raises(ValueError, match="read_bytes_per_cycle of the DMA must be at least 1"):
        DmaSpec(0, 64)
    with pytest.raises(ValueError, match="startup_cycles of the DMA must be 0 or more, not -1"):
        DmaSpec(64, 64, startup_cycles=-1)
