"""The memory controller: every JEDEC rule on time and one clock early, order, accounts, oracles."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from accsim.hardware import dram_core
from accsim.hardware.dram import (
    DDR3L_1050_4GBIT_X16,
    DDR4_2400_8GBIT_X8,
    DDR4_2400_8GBIT_X16,
    RowBankColumn,
    RowColumnBank,
)
from accsim.hardware.dram_controller import DramController

X16 = DDR4_2400_8GBIT_X16
MAPPINGS = {"rbc": RowBankColumn(), "rcb": RowColumnBank()}
GOLDEN = Path(__file__).parents[1] / "golden" / "dram_cycles.csv"


def violations(spec, commands):
    """Names of the rules of JESD79-4 that a trace breaks: every pair of commands is looked at."""
    wtr = spec.CWL + spec.nBL
    pairs = [  # first, second, where both are, least distance
        ("ACT", "RD", "bank", spec.nRCD, "nRCD"),
        ("ACT", "WR", "bank", spec.nRCD, "nRCD"),
        ("ACT", "PRE", "bank", spec.nRAS, "nRAS"),
        ("ACT", "ACT", "bank", spec.nRC, "nRC"),
        ("PRE", "ACT", "bank", spec.nRP, "nRP"),
        ("RD", "PRE", "bank", spec.nRTP, "nRTP"),
        ("WR", "PRE", "bank", wtr + spec.nWR, "nWR"),
        ("ACT", "ACT", "group", spec.nRRD_L, "nRRD_L"),
        ("ACT", "ACT", "rank", spec.nRRD_S, "nRRD_S"),
        ("RD", "RD", "group", spec.nCCD_L, "nCCD_L"),
        ("RD", "RD", "rank", spec.nCCD_S, "nCCD_S"),
        ("WR", "WR", "group", spec.nCCD_L, "nCCD_L"),
        ("WR", "WR", "rank", spec.nCCD_S, "nCCD_S"),
        ("WR", "RD", "group", wtr + spec.nWTR_L, "nWTR_L"),
        ("WR", "RD", "rank", wtr + spec.nWTR_S, "nWTR_S"),
        ("RD", "WR", "rank", spec.nRTW, "nRTW"),
        ("PRE", "REF", "rank", spec.nRP, "nRP"),
        ("REF", "REF", "rank", spec.nRFC, "nRFC"),
        ("REF", "ACT", "rank", spec.nRFC, "nRFC"),
    ]
    broken, before, rows, activates, refreshes = [], [], {}, [], 0
    for now in commands:
        group, bank = now.bank_group, (now.bank_group, now.bank)
        kind = "PRE" if now.command == "PREA" else now.command
        if before and now.cycle <= before[-1].cycle:
            broken.append("one command a clock")
        for then in reversed(before):
            if now.cycle - then.cycle > spec.nRFC:
                break
            everywhere = now.bank == -1 or then.bank == -1
            places = {"rank"}
            if everywhere or group == then.bank_group:
                places.add("group")
            if everywhere or bank == (then.bank_group, then.bank):
                places.add("bank")
            first = "PRE" if then.command == "PREA" else then.command
            broken += [
                name
                for one, two, place, least, name in pairs
                if (one, two) == (first, kind)
                and place in places
                and now.cycle - then.cycle < least
            ]
        if kind == "ACT":
            if bank in rows:
                broken.append("ACT of an open bank")
            if len(activates) >= 4 and now.cycle - activates[-4] < spec.nFAW:
                broken.append("nFAW")
            activates.append(now.cycle)
            rows[bank] = now.row
        elif kind in ("RD", "WR"):
            if rows.get(bank) != now.row:
                broken.append("RD or WR of a closed row")
        elif now.command == "PREA":
            rows.clear()
        elif kind == "PRE":
            rows.pop(bank, None)
        elif kind == "REF":
            refreshes += 1
            if rows:
                broken.append("REF with an open row")
            late = now.cycle - refreshes * spec.nREFI
            if not 0 <= late < 9 * spec.nREFI:  # JESD79-4: at most 8 may be postponed
                broken.append("nREFI")
        before.append(now)
    return broken


def address_of(spec, mapping, bank_group, bank, row, column):
    shifts = mapping.shifts(spec)
    return spec.burst_bytes * (
        (bank_group << shifts.bank_group)
        + (bank << shifts.bank)
        + (row << shifts.row)
        + (column << shifts.column)
    )


def play(spec, transfers, mapping=MAPPINGS["rcb"], events_ps=(), until_ps=None):
    """Run (at_ps, address, size_bytes, is_write, interval_ps) rows; controller and their ends.

    `events_ps`: times of events that have nothing to do with the memory.
    """
    env = simpy.Environment()
    memory = DramController(env, spec, mapping, trace=True)
    ends = [None] * len(transfers)

    def one(index, at_ps, address, size_bytes, is_write, interval_ps):
        yield env.timeout(at_ps)
        yield memory.transfer(address, size_bytes, is_write, interval_ps)
        ends[index] = env.now

    for index, row in enumerate(transfers):
        env.process(one(index, *row))
    for at_ps in events_ps:
        env.timeout(at_ps)
    env.run(until_ps)
    memory.finish()
    return memory, ends


def probe(spec, *requests):
    """Commands for single bursts (clock, R or W, bank group, bank, row, column)."""
    rows = [
        (clock * spec.tCK_ps, address_of(spec, MAPPINGS["rcb"], *place), 1, kind == "W", 0)
        for clock, kind, *place in requests
    ]
    return play(spec, rows)[0].commands


OPEN_TWO = [(0, "R", 0, 0, 0, 0), (0, "R", 1, 0, 0, 0)]  # row 0 of bank 0 in both bank groups
DATA = X16.CWL + X16.nBL  # WR to the end of its data
REFI = X16.nREFI


@pytest.mark.parametrize(
    ("rule", "requests", "first", "second", "distance"),
    [  # the commands `first` and `second` (numbers in the trace) are bound by the rule alone
        ("nRCD", [(0, "R", 0, 0, 0, 0)], 0, 1, 17),
        ("nRAS", [(0, "R", 0, 0, 0, 0), (0, "R", 0, 0, 1, 0)], 0, 2, 39),
        ("nRP", [(0, "R", 0, 0, 0, 0), (200, "R", 0, 0, 1, 0)], 2, 3, 17),
        ("nRC", [(0, "R", 0, 0, 0, 0), (0, "R", 0, 0, 1, 0)], 0, 3, 60),
        ("nRRD_S", [(0, "R", 0, 0, 0, 0), (0, "R", 1, 0, 0, 0)], 0, 1, 7),
        ("nRRD_L", [(0, "R", 0, 0, 0, 0), (0, "R", 0, 1, 0, 0)], 0, 1, 8),
        ("nFAW", [(0, "R", n % 2, n // 2, 0, 0) for n in range(5)], 0, 7, 36),
        ("nCCD_S", [*OPEN_TWO, (200, "R", 0, 0, 0, 1), (200, "R", 1, 0, 0, 1)], 4, 5, 4),
        ("nCCD_L", [*OPEN_TWO, (200, "R", 0, 0, 0, 1), (200, "R", 0, 0, 0, 2)], 4, 5, 6),
        ("nCCD_S", [*OPEN_TWO, (200, "W", 0, 0, 0, 1), (200, "W", 1, 0, 0, 1)], 4, 5, 4),
        ("nCCD_L", [*OPEN_TWO, (200, "W", 0, 0, 0, 1), (200, "W", 0, 0, 0, 2)], 4, 5, 6),
        ("nWTR_S", [*OPEN_TWO, (200, "W", 0, 0, 0, 1), (202, "R", 1, 0, 0, 1)], 4, 5, DATA + 3),
        ("nWTR_L", [*OPEN_TWO, (200, "W", 0, 0, 0, 1), (202, "R", 0, 0, 0, 2)], 4, 5, DATA + 9),
        ("nRTW", [*OPEN_TWO, (200, "R", 0, 0, 0, 1), (202, "W", 1, 0, 0, 1)], 4, 5, 10),
        ("nWR", [*OPEN_TWO, (200, "W", 0, 0, 0, 1), (202, "R", 0, 0, 1, 0)], 4, 5, DATA + 18),
        ("nRTP", [*OPEN_TWO, (200, "R", 0, 0, 0, 1), (202, "R", 0, 0, 1, 0)], 4, 5, 9),
        ("nRFC", [(REFI, "R", 0, 0, 0, 0)], 0, 1, 421),
        ("nRP", [(REFI - 60, "R", 0, 0, 0, 0), (REFI, "R", 0, 0, 0, 1)], 2, 3, 17),
        ("nRTP", [(REFI - 60, "R", 0, 0, 0, 0), (REFI - 5, "R", 0, 0, 0, 1)], 2, 3, 9),
    ],
)
def test_command_waits_for_the_rule_and_no_longer(rule, requests, first, second, distance):
    spec = replace(X16, nRC=60) if rule == "nRC" else X16  # else nRAS + nRP already bind
    commands = probe(spec, *requests)
    assert commands[second].cycle - commands[first].cycle == distance
    assert violations(spec, commands) == []
    early = list(commands)
    early[second] = early[second]._replace(cycle=early[second].cycle - 1)
    assert rule in violations(spec, early)  # so the judge of the random tests below can see it


@pytest.mark.parametrize(("is_write", "latency"), [(False, X16.CL), (True, X16.CWL)])
def test_transfer_ends_with_its_last_data_beat(is_write, latency):
    """Accepted in clock 0: ACT in 1, column command nRCD on, then latency and four clocks."""
    _, ends = play(X16, [(0, 0, 64, is_write, 0)])
    assert ends == [(1 + X16.nRCD + latency + X16.nBL) * X16.tCK_ps]


def test_transfer_between_clocks_waits_for_the_next():
    _, ends = play(X16, [(1, 0, 64, False, 0)])
    assert ends == [(1 + 1 + X16.nRCD + X16.CL + X16.nBL) * X16.tCK_ps]


def test_bytes_are_rounded_out_to_bursts():
    memory, _ = play(X16, [(0, 63, 2, False, 0), (0, 4096, 1, True, 0)])
    assert (memory.counts["reads"], memory.counts["writes"]) == (2, 1)


def test_narrow_bus_moves_short_bursts():
    memory, _ = play(DDR3L_1050_4GBIT_X16, [(0, 0, 4096, False, 0)])
    assert memory.counts["reads"] == 4096 // 16
    assert violations(DDR3L_1050_4GBIT_X16, memory.commands) == []


def test_port_rate_bounds_the_transfer():
    """Burst i comes no earlier than i intervals; an idle memory then serves it at once."""
    spec, interval_ps = X16, 40_000
    memory, ends = play(spec, [(0, 0, 64 * 100, False, interval_ps)])
    last = -(-99 * interval_ps // spec.tCK_ps)
    assert ends == [(last + 1 + spec.CL + spec.nBL) * spec.tCK_ps]
    assert memory.bus_ps["row"] == 8 * X16.nRCD * X16.tCK_ps  # one first access a bank


def test_idle_memory_refreshes_on_time():
    memory, _ = play(X16, [], until_ps=10 * REFI * X16.tCK_ps + 1)
    assert [command.cycle for command in memory.commands] == [n * REFI for n in range(1, 11)]
    assert memory.bus_ps["idle"] == memory.precharged_ps == memory.env.now


def test_row_outcomes_are_counted_once_a_burst():
    rows = [(0, "R", 0, 0, 0, 0), (200, "R", 0, 0, 0, 1), (400, "R", 0, 0, 1, 0)]
    spec = X16
    memory, _ = play(
        spec,
        [
            (c * spec.tCK_ps, address_of(spec, MAPPINGS["rcb"], *p), 64, False, 0)
            for c, _, *p in rows
        ],
    )
    counts = memory.counts
    assert (counts["row_misses"], counts["row_hits"], counts["row_conflicts"]) == (1, 1, 1)
    assert (counts["activates"], counts["precharges"]) == (2, 1)


def test_open_time_is_from_activate_to_precharge():
    """One read opens a row in clock 1; the refresh closes it when it is due."""
    end_ps = 2 * REFI * X16.tCK_ps
    memory, _ = play(X16, [(0, 0, 64, False, 0)], until_ps=end_ps)
    assert memory.active_ps == (REFI - 1) * X16.tCK_ps
    assert memory.active_ps + memory.precharged_ps == end_ps


def test_bus_time_of_a_turnaround_is_named():
    """Data of the read, taken in in 202, could be at 202 + 1 + CL, is at WR's end + nWTR_L + CL."""
    rows = [(0, "R", 0, 0, 0, 0), (200, "W", 0, 0, 0, 1), (202, "R", 0, 0, 0, 2)]
    memory, _ = play(
        X16,
        [
            (c * X16.tCK_ps, address_of(X16, MAPPINGS["rcb"], *p), 64, kind == "W", 0)
            for c, kind, *p in rows
        ],
    )
    write_end = 201 + X16.CWL + X16.nBL
    late = write_end + X16.nWTR_L - (202 + 1)
    assert memory.bus_ps["turnaround"] == late * X16.tCK_ps
    assert memory.bus_ps["busy"] == 3 * X16.nBL * X16.tCK_ps


def test_row_hits_cannot_keep_an_older_request_waiting_for_ever():
    """4,000 hits of one row stream past one request of another row of that bank: it gets in."""
    mapping, hits = MAPPINGS["rbc"], 4000
    rows = [(n * 6 * X16.tCK_ps, n % 128 * 64, 64, False, 0) for n in range(hits)]
    other = address_of(X16, mapping, 0, 0, 1, 0)
    _, ends = play(X16, [*rows, (100 * X16.tCK_ps, other, 64, False, 0)], mapping)
    assert ends[-1] < 1000 * X16.tCK_ps


def test_reads_and_writes_cannot_starve_each_other():
    """A short transfer against an endless one of the other kind ends long before it."""
    for is_write in (False, True):
        rows = [(0, 0, 2**20, not is_write, 0), (0, 2**24, 256, is_write, 0)]
        _, ends = play(X16, rows)
        assert ends[1] < 0.3 * ends[0]


def test_streams_of_one_kind_share_the_memory():
    _, ends = play(X16, [(0, n << 24, 2**16, False, 0) for n in range(4)])
    assert max(ends) - min(ends) < 0.02 * max(ends)


bursts = st.tuples(
    st.integers(0, 40_000),  # ps
    st.one_of(st.integers(0, 15), st.integers(0, 2**16)).map(lambda n: n * 4096 + n % 7 * 64),
    st.integers(1, 3000),  # bytes
    st.booleans(),
    st.sampled_from([0, 0, 5000, 33_333]),  # ps
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(bursts, min_size=1, max_size=24),
    part=st.sampled_from([X16, DDR4_2400_8GBIT_X8, DDR3L_1050_4GBIT_X16]),
    mapping=st.sampled_from(list(MAPPINGS.values())),
    refresh_often=st.booleans(),
)
def test_random_streams_complete_within_every_rule(rows, part, mapping, refresh_often):
    spec = replace(part, nREFI=2 * part.nRFC) if refresh_often else part
    memory, ends = play(spec, rows, mapping)
    assert violations(spec, memory.commands) == []
    counts = memory.counts
    moved = sum((a + s - 1) // spec.burst_bytes - a // spec.burst_bytes + 1 for _, a, s, *_ in rows)
    columns = [command for command in memory.commands if command.command in ("RD", "WR")]
    assert moved == counts["reads"] + counts["writes"] == len(columns)
    assert moved == counts["row_hits"] + counts["row_misses"] + counts["row_conflicts"]
    assert sum(memory.bus_ps.values()) == memory.env.now == max(ends)
    assert memory.bus_ps["busy"] == moved * spec.nBL * spec.tCK_ps
    assert min(memory.bus_ps.values()) >= 0
    assert memory.active_ps + memory.precharged_ps == memory.env.now


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(bursts, min_size=1, max_size=24),
    events_ps=st.lists(st.integers(0, 2_000_000), max_size=60),
)
def test_chopping_time_changes_no_cycle(rows, events_ps):
    memory, ends = play(X16, rows)
    chopped, chopped_ends = play(X16, rows, events_ps=events_ps)
    assert chopped_ends == ends
    played = len(memory.commands)
    assert chopped.commands[:played] == memory.commands
    assert all(command.command in ("PREA", "REF") for command in chopped.commands[played:])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=30),
    spread=st.sampled_from([0, 64, 2**20]),
)
def test_requests_of_one_address_keep_their_order(rows, spread):
    """Unless both read: any other order would give or leave wrong data."""
    transfers = [(0, n * 2**20 + n * spread, 64, is_write, 0) for n, is_write in rows]
    _, ends = play(X16, transfers)
    for later, (_, address, _, is_write, _) in enumerate(transfers):
        for earlier in range(later):
            if transfers[earlier][1] == address and (is_write or transfers[earlier][3]):
                assert ends[earlier] < ends[later]


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("chunk", [64, 256, 4096])
def test_read_modify_write_never_locks_up(mapping, chunk):
    """The update of two arrays in place, all requests pending at once."""
    rows = []
    for start in range(0, 32768, chunk):
        for is_write in (False, True):
            rows += [(0, base + start, chunk, is_write, 0) for base in (0, 2**24)]
    memory, ends = play(X16, rows, MAPPINGS[mapping])
    assert None not in ends
    assert violations(X16, memory.commands) == []


def test_two_channels_do_not_disturb_each_other():
    env = simpy.Environment()
    memories = [DramController(env, X16), DramController(env, DDR3L_1050_4GBIT_X16)]
    ends = []

    def one(memory):
        yield memory.transfer(0, 4096, False)
        ends.append(env.now)

    for memory in memories:
        env.process(one(memory))
    env.run()
    alone = [play(memory.spec, [(0, 0, 4096, False, 0)])[1][0] for memory in memories]
    assert sorted(ends) == sorted(alone)


def traces():
    """The oracle's request streams: (address, is_write) in order, all offered at once."""
    random = np.random.Generator(np.random.PCG64(1)).integers(0, 2**22, 8192, dtype=np.uint64)
    return {
        "u_read_one": ([0], False),
        "u_write_one": ([0], True),
        "u_read_conflict_now": ([0, 2**20], False),
        "u_read_16_seq": (range(0, 16 * 64, 64), False),
        "seq_read": (range(0, 8192 * 64, 64), False),
        "seq_write": (range(0, 8192 * 64, 64), True),
        "stride_read_4096": (range(0, 4096 * 4096, 4096), False),
        "stride_read_65536": (range(0, 4096 * 65536, 65536), False),
        "rand_read": ((random * 64).tolist(), False),
    }


# DRAMsim3 starts one clock later and looks further ahead than 32 requests (8 a bank besides),
# which shows where a stream stays in one bank group (rbc).
TOLERANCE = {
    ("seq_read", "rbc"): (0.06, 0.01),
    ("seq_write", "rbc"): (0.06, 0.01),
    ("stride_read_4096", "rbc"): (0.08, 0.01),
    ("rand_read", "rbc"): (0.02, 0.02),
    ("rand_read", "rcb"): (0.02, 0.02),
}


@pytest.mark.parametrize(
    "row",
    list(csv.DictReader(line for line in GOLDEN.open() if not line.startswith("#"))),
    ids=lambda row: f"{row['trace']}-{row['device']}-{row['mapping']}",
)
def test_cycles_agree_with_two_other_simulators(row):
    part = {"x16": X16, "x8": DDR4_2400_8GBIT_X8}[row["device"]]
    spec = replace(part, nRFC=420, nREFI=9360)  # as they round it
    addresses, is_write = traces()[row["trace"]]
    transfers = [(0, address, 64, is_write, 0) for address in addresses]
    _, ends = play(spec, transfers, MAPPINGS[row["mapping"]])
    cycles = max(ends) // spec.tCK_ps
    dramsim3, ramulator2 = int(row["dramsim3_cycles"]), int(row["ramulator2_cycles"])
    by_dramsim3, by_ramulator2 = TOLERANCE.get((row["trace"], row["mapping"]), (0.01, 0.01))
    assert cycles == pytest.approx(dramsim3, rel=by_dramsim3, abs=2)
    assert cycles == pytest.approx(ramulator2, rel=by_ramulator2, abs=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((0, 0, False), "size_bytes of a transfer must be 1 or more, not 0"),
        ((0, 64, False, -1), "interval_ps of a transfer must be 0 or more, not -1"),
        ((-64, 64, False), "must lie within the 4294967296 bytes"),
        ((2**32 - 32, 64, True), "must lie within the 4294967296 bytes .* not at 0xffffffe0"),
    ],
)
def test_a_transfer_outside_the_memory_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        DramController(simpy.Environment(), X16).transfer(*arguments)


def test_finish_before_the_end_is_refused():
    env = simpy.Environment()
    memory = DramController(env, X16)
    memory.transfer(0, 64, False)
    env.run(until=20_000)
    with pytest.raises(RuntimeError, match="must be idle to finish, not moving data at 20000 ps"):
        memory.finish()


def test_a_stuck_request_is_named():
    env = simpy.Environment()
    memory = DramController(env, X16)
    memory.transfer(0x1000, 64, True)
    env.timeout(1000)
    env.run(until=1000)
    memory._cores[0].requests[dram_core.WRITE, :, dram_core.BLOCKERS] = 1  # by nobody
    memory._cores[0].queues[dram_core.WRITE, dram_core.BLOCKED] = 1
    memory._cores[0].chains[dram_core.WRITE, :, dram_core.READY_AT] = dram_core.NEVER
    with pytest.raises(RuntimeError, match="oldest write, of 0x1000, but no command"):
        env.run()
