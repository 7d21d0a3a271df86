"""DRAMsim3's and Ramulator 2.1's controllers: cycles that those simulators gave, and by hand."""

import csv
import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accsim.hardware.dram import Permutation, RowBankColumn, RowColumnBank
from accsim.hardware.dram_controller import Frfcfs
from accsim.hardware.dram_legality import first_violation
from accsim.hardware.dram_parts import part
from accsim.hardware.dram_policies.dramsim3 import DramSim3
from accsim.hardware.dram_policies.ramulator2 import Ramulator2
from accsim.hardware.dram_rules import COMMAND, CYCLE, RD, WR

GOLDEN = Path(__file__).parents[1] / "golden" / "dram_replays.csv"
UPDATES = GOLDEN.with_name("update_stream.csv")
ORACLES = Path(__file__).parents[3] / "shared" / "oracles"  # whole results, where there are any
MAPPINGS = {"rbc": RowBankColumn(), "rcb": RowColumnBank()}
CONFIGURATIONS = {  # policy, and how the part is named
    "dramsim3": (DramSim3(), "DDR4_2400_8Gb"),
    "2400R-frfcfs": (Ramulator2(row_hit=False), "DDR4_2400R_8Gb"),
    "2400R-rowhit": (Ramulator2(row_hit=True), "DDR4_2400R_8Gb"),
    "ds3timing-frfcfs": (Ramulator2(row_hit=False), "DDR4_2400_8Gb"),
    "ds3timing-rowhit": (Ramulator2(row_hit=True), "DDR4_2400_8Gb"),
}
POLICIES = [DramSim3(), Ramulator2(), Ramulator2(row_hit=False)]
ALL = [*POLICIES, Frfcfs()]
X16 = part("DDR4_2400_8Gb_x16")
KIB, MIB = 1024, 1024 * 1024


def requests(addresses, is_write=0, arrivals=0):
    """(arrivals, addresses, is_write), each from a row of values or one value."""
    addresses = np.atleast_1d(np.asarray(addresses, np.int64))
    shape = addresses.shape
    return (
        np.broadcast_to(np.asarray(arrivals, np.int64), shape),
        addresses,
        np.broadcast_to(np.asarray(is_write, bool), shape),
    )


def strided(count, stride=64, base=0):
    return base + np.arange(count, dtype=np.int64) * stride


def random_bursts(seed, count, span):
    rng = np.random.Generator(np.random.PCG64(seed))
    return (rng.integers(0, span // 64, count, dtype=np.uint64) * np.uint64(64)).astype(np.int64)


def in_turn(count, burst, *streams):
    """Streams (base, is write) of `count` requests each, `burst` of each a turn."""
    turns = [
        (strided(burst, base=base + turn * burst * 64), is_write)
        for turn in range(-(-count // burst))
        for base, is_write in streams
    ]
    turns = [(a[: max(0, count - i // len(streams) * burst)], w) for i, (a, w) in enumerate(turns)]
    return requests(
        np.concatenate([a for a, _ in turns]),
        np.concatenate([np.full(len(a), w) for a, w in turns]),
    )


def bank_0_rows(seed):
    return random_bursts(seed, 2048, 512 * 64) // 64 * MIB


# DMA traffic in small: names and formulas of the traces that the two simulators were run on.
TRACES = {
    "u_read_one": lambda: requests(0),
    "u_write_one": lambda: requests(0, 1),
    "u_read_hit": lambda: requests([0, 4 * KIB], 0, [0, 200]),
    "u_read_conflict_now": lambda: requests([0, MIB]),
    "u_read_16_seq": lambda: requests(strided(16)),
    "u_write_16_seq": lambda: requests(strided(16), 1),
    "u_write8_read8": lambda: requests(strided(16), [1] * 8 + [0] * 8, [0] * 8 + [200] * 8),
    "u_write_read_same": lambda: requests([0, 0], [1, 0]),
    "seq_read": lambda: requests(strided(8192)),
    "seq_write": lambda: requests(strided(8192), 1),
    "seq_read_paced8": lambda: requests(strided(8192), 0, strided(8192, 8)),
    "stride_read_4096": lambda: requests(strided(4096, 4 * KIB)),
    "stride_read_65536": lambda: requests(strided(4096, 64 * KIB)),
    "stride_write_8192": lambda: requests(strided(4096, 8 * KIB), 1),
    "pp2_read_write_1024": lambda: in_turn(4096, 16, (0, 0), (16 * MIB, 1)),
    "pp2_read_write_64": lambda: in_turn(4096, 1, (0, 0), (16 * MIB, 1)),
    "pp3_64": lambda: in_turn(2730, 1, (0, 0), (16 * MIB, 0), (32 * MIB, 1)),
    "rand_read": lambda: requests(random_bursts(1, 8192, 256 * MIB)),
    "hot_bank_mix": lambda: requests(bank_0_rows(13), np.arange(2048) % 2),
    "ema_64": lambda: in_turn(2048, 1, (0, 0), (16 * MIB, 0), (0, 1), (16 * MIB, 1)),
    "ema_4096": lambda: in_turn(2048, 64, (0, 0), (16 * MIB, 0), (0, 1), (16 * MIB, 1)),
}


def rows_of(path):
    return list(csv.DictReader(line for line in path.open() if not line.startswith("#")))


def replay(row, trace):
    policy, name = CONFIGURATIONS[row["configuration"]]
    spec = part(f"{name}_{row['device']}")
    if row["configuration"] == "dramsim3":
        spec = replace(spec, tCK_ps=830)  # of its file; only the bandwidth knows
    return policy.replay(spec, MAPPINGS[row["mapping"]], *trace)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("trace", TRACES)
def test_replays_equal_the_simulators_clock_for_clock(trace, configuration):
    rows = [
        row
        for row in rows_of(GOLDEN)
        if (row["trace"], row["configuration"]) == (trace, configuration)
    ]
    assert len(rows) == 4  # devices x mappings
    for row in rows:
        done = replay(row, TRACES[trace]())
        for name in (
            "total_cycles", "row_hits", "act_commands", "pre_commands", "read_commands",
            "write_commands", "refresh_commands",
        ):  # fmt: skip
            assert getattr(done, name) == int(row[name]), name
        latency = float(row["average_read_latency_cycles"] or 0)  # rounded to 0.01
        assert done.average_read_latency_cycles == pytest.approx(latency, abs=0.0051)
        assert done.bandwidth_GBps == pytest.approx(float(row["bandwidth_GBps"]), abs=0.00051)


@pytest.mark.skipif(not ORACLES.is_dir(), reason="needs the simulators' whole results")
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_replays_agree_with_all_results_of_the_simulators(configuration, monkeypatch):
    file = "dramsim3.csv" if configuration == "dramsim3" else "ramulator2.csv"
    monkeypatch.syspath_prepend(ORACLES)
    traces = importlib.import_module("dram_traces")
    rows = [
        {**row, "configuration": row.get("config", "dramsim3")} for row in rows_of(ORACLES / file)
    ]
    rows = [row for row in rows if row["configuration"] == configuration]
    assert len(rows) == 156
    built = {}
    for row in rows:
        if row["trace"] not in built:
            trace = traces.build(row["trace"])
            built[row["trace"]] = requests(trace["addr"], trace["write"], trace["arrival"])
        done = replay(row, built[row["trace"]])
        assert done.total_cycles == int(row["total_cycles"]), row
        assert done.act_commands == int(row["act_cmds"]), row
        assert done.row_hits == int(row["row_hits"]), row


# By hand, 17-17-17 x16: DRAMsim3's first command goes at 2, Ramulator 2.1's at 1.


@pytest.mark.parametrize(
    ("policy", "first"), [(POLICIES[0], 2), (POLICIES[1], 1), (POLICIES[2], 1)]
)
def test_lone_and_conflicting_reads_take_what_the_rules_say(policy, first):
    def cycles(trace):
        return policy.replay(X16, RowBankColumn(), *trace).total_cycles

    assert cycles(requests(0)) == first + 17 + 17 + 4
    assert cycles(requests(0, 1)) == first + 17 + 12 + 4
    assert cycles(requests(strided(16))) == first + 17 + 15 * 6 + 17 + 4  # nCCD_L
    assert cycles(requests([0, MIB])) == first + 39 + 17 + 17 + 17 + 4  # nRAS, nRP


@pytest.mark.parametrize("policy", POLICIES)
def test_first_refresh_comes_at_nrefi_and_needs_the_row_closed(policy):
    done = policy.replay(X16, RowBankColumn(), *requests([0, 64], 0, [0, 9360]), record=True)
    at = done.commands[:, CYCLE]
    assert done.refresh_commands == 1
    # RD of the first row; PRE when due, REF, then ACT and RD again
    assert at[2] == 9360
    assert at[3:].tolist() == [9360 + 17, 9360 + 17 + 420, 9360 + 17 + 420 + 17]
    assert done.average_read_latency_cycles > 39


@pytest.mark.parametrize("policy", POLICIES)
def test_active_cycles_are_those_with_any_row_open(policy):
    done = policy.replay(X16, RowBankColumn(), *requests([0, 8 * KIB]), record=True)
    assert done.active_cycles == done.total_cycles - done.commands[0, CYCLE]
    done = policy.replay(X16, RowBankColumn(), *requests([0, MIB]), record=True)  # a conflict
    act, _, pre, act_again, _ = done.commands[:, CYCLE]
    assert done.active_cycles == pre - act + done.total_cycles - act_again
    done = policy.replay(X16, RowBankColumn(), *requests([0, 8 * KIB, 64], 0, [0, 0, 9500]))
    assert done.total_cycles - done.active_cycles > 420  # closed, refreshed


@pytest.mark.parametrize("policy", POLICIES)
def test_refresh_goes_on_until_the_last_data_has_returned(policy):
    done = policy.replay(X16, RowBankColumn(), *requests([0, 64], 0, [0, 9340]), record=True)
    assert 9360 < done.total_cycles < 9370
    assert done.commands[-1, CYCLE] == 9360
    assert (done.pre_commands, done.refresh_commands) == (1, 0)


@pytest.mark.parametrize(
    ("policy", "reads"), [(POLICIES[0], 1), (POLICIES[1], 2), (POLICIES[2], 2)]
)
def test_dramsim3_shares_the_burst_of_an_outstanding_read(policy, reads):
    done = policy.replay(X16, RowBankColumn(), *requests([0, 0]))
    assert (done.requests, done.read_commands) == (2, reads)


def test_dramsim3_answers_a_read_from_its_write_buffer():
    done = DramSim3().replay(X16, RowBankColumn(), *requests([0, 0], [1, 0]))
    assert (done.read_commands, done.write_commands) == (0, 1)
    assert done.average_read_latency_cycles == 1


def test_dramsim3_keeps_eight_writes_until_nothing_else_is_left():
    writes = requests(strided(9), [1] * 8 + [0], [0] * 8 + [1000])
    done = DramSim3().replay(X16, RowBankColumn(), *writes, record=True)
    order = done.commands[done.commands[:, COMMAND] <= WR, COMMAND]
    assert order.tolist() == [RD] + [WR] * 8
    done = Ramulator2().replay(X16, RowBankColumn(), *writes, record=True)
    order = done.commands[done.commands[:, COMMAND] <= WR, COMMAND]
    assert order.tolist() == [WR] * 8 + [RD]


def test_dramsim3_closes_a_row_over_waiting_hits_after_four_bursts():
    conflict_then_hits = requests([0, MIB, *strided(7, 64, 64)])
    quick = replace(X16, nRTP=5)  # below nCCD_L: a PRE may come before the next hit
    done = DramSim3().replay(quick, RowBankColumn(), *conflict_then_hits, record=True)
    kinds = "".join("RWAPQF"[code] for code in done.commands[:, COMMAND])
    assert kinds == "ARRRRPARPARRRR"


def test_row_hit_scheduling_spares_a_row_with_older_hits():
    quick = replace(X16, nRTP=5)
    hits_then_conflict = requests([*strided(8), MIB])
    for policy, acts in ((Ramulator2(row_hit=True), 2), (Ramulator2(row_hit=False), 3)):
        done = policy.replay(quick, RowBankColumn(), *hits_then_conflict)
        assert done.act_commands == acts


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("mapping", MAPPINGS.values())
@pytest.mark.parametrize("device", ["x8", "x16"])
def test_recorded_commands_are_legal_and_complete(policy, ranks, mapping, device):
    spec = replace(part(f"DDR4_2400_8Gb_{device}"), ranks=ranks)
    for trace in TRACES.values():
        done = policy.replay(spec, mapping, *trace(), record=True)
        assert first_violation(spec, done.commands) is None
        counts = np.bincount(done.commands[:, COMMAND], minlength=6)
        assert counts[RD] == done.read_commands
        assert counts[WR] == done.write_commands
        assert counts.sum() == len(done.commands) == (
            done.read_commands + done.write_commands + done.act_commands + done.pre_commands
            + done.refresh_commands
        )  # fmt: skip
        assert 0 < done.active_cycles <= ranks * done.total_cycles


@pytest.mark.parametrize("policy", POLICIES)
def test_recording_changes_nothing(policy):
    trace = TRACES["pp3_64"]()
    done = policy.replay(X16, RowColumnBank(), *trace)
    assert done == policy.replay(X16, RowColumnBank(), *trace, record=True)
    assert len(done.commands) == 0


streams = st.lists(
    st.tuples(
        st.integers(0, 40),  # clocks after the one before
        st.sampled_from([0, MIB, 3 * MIB, 8 * KIB]) | st.integers(0, 2**32 - 1),
        st.integers(0, 3),  # bursts on
        st.booleans(),
    ),
    min_size=1,
    max_size=150,
)


@settings(max_examples=150)
@given(stream=streams, policy=st.sampled_from(POLICIES), ranks=st.sampled_from([1, 2]),
       mapping=st.sampled_from(list(MAPPINGS.values())), rush=st.booleans())  # fmt: skip
def test_random_streams_end_in_legal_order(stream, policy, ranks, mapping, rush):
    gaps, bases, ons, writes = zip(*stream, strict=True)
    addresses = [min(base // 64 + on, 2**26 - 1) * 64 for base, on in zip(bases, ons, strict=True)]
    trace = requests(addresses, writes, np.cumsum(gaps) * (not rush))
    spec = replace(X16, ranks=ranks, nREFI=1000)  # many refreshes
    done = policy.replay(spec, mapping, *trace, record=True)
    assert first_violation(spec, done.commands) is None
    # a write is written or replaced by a younger one of its address, a read is read or answered
    assert len({a for a, w in zip(addresses, writes, strict=True) if w}) <= done.write_commands
    assert done.write_commands <= sum(writes)
    assert done.read_commands <= len(writes) - sum(writes)
    assert done.total_cycles > trace[0][-1]


def update_stream(policy, device, mapping, run_bytes):
    """GB/s of 3 MiB in runs: one array is read, another is read, a third is written."""
    trace = in_turn(MIB // 64, run_bytes // 64, (0, 0), (16 * MIB, 0), (32 * MIB, 1))
    spec = part(f"DDR4_2400_8Gb_{device}")
    return policy.replay(spec, Permutation(mapping), *trace).bandwidth_GBps


@pytest.mark.parametrize("policy", [Frfcfs(), DramSim3()], ids=str)
@pytest.mark.parametrize("row", rows_of(UPDATES), ids=lambda row: "-".join(row.values()))
def test_update_streams_run_as_fast_as_in_dramsim3(row, policy):
    """To a tenth: the simulator's figures hold a warm-up, and its write drain is its own."""
    bandwidth = update_stream(policy, row["device"], row["mapping"], int(row["run_bytes"]))
    assert bandwidth == pytest.approx(float(row["GBps"]), rel=0.1)


@pytest.mark.parametrize("device", ["x8", "x16"])
def test_the_length_of_runs_alone_decides_over_the_bandwidth_of_an_update(device):
    """Long runs are 1.3 to 2.0 times as fast as short ones: of the map with whole rows in a bank
    alone, and with the choice of the map."""
    linear, interleaved = (
        [update_stream(Frfcfs(), device, mapping, run) for run in (256, 1024, 4096, 16384)]
        for mapping in ("rochrababgco", "rochrabacobg")
    )
    assert linear == sorted(linear)
    assert 1.3 < linear[-1] / linear[0] < 2.0
    assert 1.2 < max(interleaved) / min(interleaved) < 2.0
    assert linear[-1] / linear[0] < max(interleaved) / min(linear) < 2.0
