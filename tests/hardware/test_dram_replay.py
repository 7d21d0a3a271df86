"""The front end of replays: trace files, rules of offering, and what is refused with a reason."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accsim.hardware.dram import RowBankColumn, RowColumnBank
from accsim.hardware.dram_controller import Frfcfs
from accsim.hardware.dram_parts import part
from accsim.hardware.dram_policies.dramsim3 import DramSim3
from accsim.hardware.dram_policies.ramulator2 import Ramulator2
from accsim.hardware.dram_replay import read_trace, requests
from accsim.hardware.dram_rules import COMMAND, CYCLE, RD, ROW, WR

X16, DDR3 = part("DDR4_2400_8Gb_x16"), part("DDR3_1050_4Gb_x16")
POLICIES = [DramSim3(), Ramulator2(), Ramulator2(row_hit=False)]
MIB = 2**20


def replay(policy, addresses, is_write, arrivals=None, **choices):
    arrivals = [0] * len(addresses) if arrivals is None else arrivals
    trace = np.array(arrivals), np.array(addresses), np.array(is_write, bool)
    return policy.replay(X16, RowBankColumn(), *trace, **choices)


@pytest.fixture
def write(tmp_path):
    """Write a trace file of lines and return its path."""

    def write(*lines, name="trace.txt"):
        path = tmp_path / name
        text = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
        return path

    return write


@pytest.mark.parametrize("name", ["trace.txt", "trace.gz"])
def test_trace_has_a_request_a_line(write, name):
    path = write("0 0x0 R", "3 1F40 W", "3  0X80   R ", "17 0xffffffc0 R", name=name)
    arrivals, addresses, is_write = read_trace(path, X16)
    assert arrivals.tolist() == [0, 3, 3, 17]
    assert addresses.tolist() == [0, 0x1F40, 0x80, 2**32 - 64]
    assert is_write.tolist() == [False, True, False, False]
    assert (arrivals.dtype, addresses.dtype, is_write.dtype) == (np.int64, np.int64, np.bool_)


def test_last_line_may_lack_its_end(tmp_path):
    path = tmp_path / "trace"
    path.write_text("0 0 R\r\n5 40 W")
    assert read_trace(path, X16).addresses.tolist() == [0, 64]


def test_request_of_64_bytes_takes_several_short_bursts(write):
    assert DDR3.burst_bytes == 16
    arrivals, addresses, is_write = read_trace(write("5 0x40 W", "6 0x0 R"), DDR3)
    assert arrivals.tolist() == [5] * 4 + [6] * 4
    assert addresses.tolist() == [64, 80, 96, 112, 0, 16, 32, 48]
    assert is_write.tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    "line",
    ["", "0 0x40", "0 0x40 R 5", "0 0x40 r", "0 0x4g R", "-1 0x40 R", "1.5 0x40 R", "0 -40 R",
     "0x5 0x40 R", "# trace", "0, 0x40, R", "1_0 40 R", "9999999999999999999 40 R", "°"],
)  # fmt: skip
def test_malformed_line_is_named(write, line):
    with pytest.raises(ValueError, match=r"line 2: a request must be a decimal arrival, a hexa"):
        read_trace(write("0 0x0 R", line, "0 0x0 R"), X16)


def test_lines_that_do_not_fit_are_named(write):
    with pytest.raises(ValueError, match=r"line 2: the arrival must be at least that of the line"):
        read_trace(write("7 0x0 R", "6 0x0 R"), X16)
    last = X16.capacity_bytes - 64
    assert len(read_trace(write(f"0 {last:x} R"), X16).addresses) == 1
    with pytest.raises(ValueError, match=r"line 1: the request must lie within the 4294967296 byt"):
        read_trace(write(f"0 {last + 64:x} R"), X16)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:12] + b"\0" * 9, lambda b: b"0"])
def test_broken_gzip_is_named(tmp_path, damage):
    path = tmp_path / "trace.gz"
    path.write_bytes(damage(gzip.compress(b"0 0x0 R\n" * 1000)))
    with pytest.raises(ValueError, match="must be a whole gzip file"):
        read_trace(path, X16)


@pytest.mark.parametrize("policy", [*POLICIES, Frfcfs()])
@pytest.mark.parametrize(
    ("arrivals", "addresses", "is_write", "sentence"),
    [
        ([], [], [], "a trace must hold at least one request"),
        ([0, 0], [0], [False, False], "must be equally long rows"),
        ([5, 4], [0, 0], [False, False], "never decrease, not 4 at request 1"),
        ([-1, 4], [0, 0], [False, False], "start at 0 or later"),
        ([0], [X16.capacity_bytes], [False], "must lie within the 4294967296 bytes"),
        ([0], [-64], [False], "must lie within"),
    ],
)
def test_requests_that_cannot_be_are_refused(policy, arrivals, addresses, is_write, sentence):
    with pytest.raises(ValueError, match=sentence):
        policy.replay(X16, RowBankColumn(), arrivals, addresses, is_write)


@pytest.mark.parametrize("policy", POLICIES)
def test_replay_is_of_one_channel(policy):
    with pytest.raises(ValueError, match="plays the requests of one channel, not of the 2"):
        policy.replay(replace(X16, channels=2), RowBankColumn(), [0], [0], [False])


@pytest.mark.parametrize(("policy", "first"), list(zip(POLICIES, [2, 1, 1], strict=True)))
def test_write_is_held_until_the_read_of_its_address_has_returned(policy, first):
    done = replay(policy, [0, 0], [0, 1], record=True)
    returned = first + 17 + 17 + 4
    column = done.commands[done.commands[:, COMMAND] <= WR]
    assert column[:, COMMAND].tolist() == [RD, WR]
    # accepted when the data is there, as if it were the first request of a memory
    assert column[1, CYCLE] == returned + first
    assert done.total_cycles == returned + first + 12 + 4


@pytest.mark.parametrize("policy", POLICIES)
def test_held_write_blocks_all_later_requests(policy):
    free = replay(policy, [0, 128, 64], [0, 1, 0])
    blocked = replay(policy, [0, 0, 64], [0, 1, 0])
    assert free.total_cycles < blocked.total_cycles
    assert replay(policy, [0, 64, 0], [0, 0, 1]).total_cycles < blocked.total_cycles


@pytest.mark.parametrize(("policy", "room"), list(zip(POLICIES, [40, 33, 33], strict=True)))
def test_full_queue_blocks_what_comes_behind(policy, room):
    # all reads go to rows of one bank, then one to another bank, which is quick once it enters
    def last_read(count):
        rows = [*((i + 1) * MIB for i in range(count)), 8192]
        done = replay(policy, rows, [0] * (count + 1), record=True)
        commands = done.commands[(done.commands[:, COMMAND] == RD) & (done.commands[:, ROW] == 0)]
        return commands[0, CYCLE]

    assert last_read(room - 2) < room + 40
    assert last_read(room + 1) > room + 40


@pytest.mark.parametrize("policy", POLICIES)
def test_one_request_a_clock_enters_and_none_before_its_arrival(policy):
    apart = [i * 64 * 1024 + i * 8192 for i in range(2)]  # other banks, no common timing but nRRD_L
    together = replay(policy, apart, [0, 0], [100, 100])
    staggered = replay(policy, apart, [0, 0], [100, 101])
    assert together == staggered
    alone = replay(policy, [0], [0])
    late = replay(policy, [0], [0], [100])
    assert late.total_cycles == alone.total_cycles + 100
    assert late.average_read_latency_cycles == alone.average_read_latency_cycles


@pytest.mark.parametrize("policy", POLICIES)
def test_bandwidth_is_requested_bytes_over_time(policy):
    done = replay(policy, list(range(0, 64 * 1000, 64)), [0] * 1000)
    seconds = done.total_cycles * 833e-12
    assert done.bandwidth_GBps == pytest.approx(64 * 1000 / seconds / 1e9)
    assert done.read_commands == done.requests == 1000


@given(
    st.lists(st.tuples(st.integers(0, 12) | st.integers(0, 2**26 - 1), st.booleans()), min_size=1)
)
def test_prior_requests_of_a_burst_are_the_last_ones(stream):
    bursts, writes = map(list, zip(*stream, strict=True))
    at = np.zeros(len(stream), np.int64)
    asked = requests(X16, RowColumnBank(), at, np.array(bursts) * 64 + 63, np.array(writes))
    for now, burst in enumerate(bursts):
        before = [i for i in range(now) if bursts[i] == burst]
        reads, written = [i for i in before if not writes[i]], [i for i in before if writes[i]]
        assert asked.prior_read[now] == (reads[-1] if reads else -1)
        assert asked.prior_write[now] == (written[-1] if written else -1)
        place = RowColumnBank().locate(X16, burst * 64)
        assert asked.bank[now] == place.bank_group * 4 + place.bank
        assert asked.row[now] == place.row
