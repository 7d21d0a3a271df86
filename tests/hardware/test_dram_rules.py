"""Every rule one clock early and on time: for the legality checker and for the compiled tables."""

from dataclasses import replace

import numpy as np
import pytest

from accsim.hardware.dram_legality import (
    BUS,
    LATE_REFRESH,
    NO_PLACE,
    NO_ROW,
    OPEN_BANK,
    OPEN_BANKS,
    OTHER_ROW,
    STATES,
    first_violation,
)
from accsim.hardware.dram_parts import part
from accsim.hardware.dram_rules import (
    COMMANDS,
    Command,
    bank_ready,
    decode,
    encode,
    issue,
    power_up,
    rules,
    timing,
)

# 17-17-17: CL 17, CWL 12, nBL 4; 2 bank groups of 4 banks; a pause of 1 clock between bus owners.
X16 = replace(part("DDR4_2400_8Gb_x16"), ranks=2)
SLOW_CYCLE = replace(X16, nRC=60)  # so that nRC waits longer than nRAS + nRP
SHORT_READ = replace(X16, CL=12, nRTW=5)  # so that a read of another rank waits for a write's data


def act(cycle, bank=0, group=0, rank=0, row=3):
    return Command(cycle, "ACT", rank, group, bank, row)


def rd(cycle, bank=0, group=0, rank=0, row=3):
    return Command(cycle, "RD", rank, group, bank, row)


def wr(cycle, bank=0, group=0, rank=0, row=3):
    return Command(cycle, "WR", rank, group, bank, row)


def pre(cycle, bank=0, group=0, rank=0):
    return Command(cycle, "PRE", rank, group, bank, -1)


def prea(cycle, rank=0):
    return Command(cycle, "PREA", rank, -1, -1, -1)


def ref(cycle, rank=0):
    return Command(cycle, "REF", rank, -1, -1, -1)


# Rule, its level, its two commands; a legal trace whose last command comes as early as it may.
ON_TIME = [
    ("nRCD", "bank", "ACT", "RD", [act(0), rd(17)]),
    ("nRCD", "bank", "ACT", "WR", [act(0), wr(17)]),
    ("nRAS", "bank", "ACT", "PRE", [act(0), pre(39)]),
    ("nRC", "bank", "ACT", "ACT", [act(0), pre(39), act(60)], SLOW_CYCLE),
    ("nRP", "bank", "PRE", "ACT", [act(0), pre(50), act(67)]),
    ("nRTP", "bank", "RD", "PRE", [act(0), rd(40), pre(49)]),
    ("nWR", "bank", "WR", "PRE", [act(0), wr(17), pre(17 + 12 + 4 + 18)]),
    ("nCCD_L", "bank_group", "RD", "RD", [act(0), act(8, 1), rd(60), rd(66, 1)]),
    ("nCCD_L", "bank_group", "WR", "WR", [act(0), act(8, 1), wr(60), wr(66, 1)]),
    ("nWTR_L", "bank_group", "WR", "RD", [act(0), act(8, 1), wr(60), rd(60 + 16 + 9, 1)]),
    ("nRRD_L", "bank_group", "ACT", "ACT", [act(0), act(8, 1)]),
    ("nCCD_S", "rank", "RD", "RD", [act(0), act(7, 0, 1), rd(60), rd(64, 0, 1)]),
    ("nCCD_S", "rank", "WR", "WR", [act(0), act(7, 0, 1), wr(60), wr(64, 0, 1)]),
    ("nWTR_S", "rank", "WR", "RD", [act(0), act(7, 0, 1), wr(60), rd(60 + 16 + 3, 0, 1)]),
    ("nRTW", "rank", "RD", "WR", [act(0), act(7, 0, 1), rd(60), wr(70, 0, 1)]),
    ("nRRD_S", "rank", "ACT", "ACT", [act(0), act(7, 0, 1)]),
    ("nFAW", "rank", "ACT", "ACT",
     [act(1), act(8, 0, 1), act(15, 1), act(22, 1, 1), act(1 + 36, 2)]),
    ("nRAS", "rank", "ACT", "PREA", [act(0), prea(39)]),
    ("nRTP", "rank", "RD", "PREA", [act(0), rd(40), prea(49)]),
    ("nWR", "rank", "WR", "PREA", [act(0), wr(17), prea(17 + 12 + 4 + 18)]),
    ("nRP", "rank", "PREA", "ACT", [act(0), prea(50), act(67)]),
    ("nRP", "rank", "PRE", "REF", [act(0), pre(50), ref(67)]),
    ("nRP", "rank", "PREA", "REF", [act(0), prea(50), ref(67)]),
    ("nRC", "rank", "ACT", "REF", [act(0), pre(39), ref(60)], SLOW_CYCLE),
    ("nRFC", "rank", "REF", "ACT", [ref(5), act(5 + 420)]),
    ("nRFC", "rank", "REF", "PRE", [ref(5), pre(5 + 420)]),
    ("nRFC", "rank", "REF", "PREA", [ref(5), prea(5 + 420)]),
    ("nRFC", "rank", "REF", "REF", [ref(5), ref(5 + 420)]),
    ("nRTRS", "rank", "RD", "RD", [act(0), act(1, rank=1), rd(60), rd(60 + 4 + 1, rank=1)]),
    ("nRTRS", "rank", "WR", "WR", [act(0), act(1, rank=1), wr(60), wr(60 + 4 + 1, rank=1)]),
    ("nRTRS", "rank", "RD", "WR",
     [act(0), act(1, rank=1), rd(60), wr(60 + 17 + 4 + 1 - 12, rank=1)]),
    ("nRTRS", "rank", "WR", "RD",
     [act(0), act(1, rank=1), wr(60), rd(60 + 12 + 4 + 1 - 12, rank=1)], SHORT_READ),
]  # fmt: skip
CASES = [
    pytest.param(name, trace, spec[0] if spec else X16, id=f"{name}-{level}-{first}-{then}")
    for name, level, first, then, trace, *spec in ON_TIME
]


def test_every_rule_has_a_case():
    rows = {
        (rule.name, rule.level, first, then)
        for rule in rules(X16)
        for first in rule.preceding
        for then in rule.following
    }
    assert rows == {case[:4] for case in ON_TIME}


@pytest.mark.parametrize(("name", "trace", "spec"), CASES)
def test_checker_lets_a_command_pass_on_time_and_not_a_clock_early(name, trace, spec):
    assert first_violation(spec, encode(trace)) is None
    last = trace[-1]
    early = [*trace[:-1], last._replace(cycle=last.cycle - 1)]
    violation = first_violation(spec, encode(early))
    assert (violation.number, violation.rule) == (len(trace) - 1, name)
    assert violation.earliest == last.cycle
    assert f"breaks {name}: not before cycle {last.cycle}" in str(violation)


@pytest.mark.parametrize(("name", "trace", "spec"), CASES)
def test_compiled_tables_know_the_earliest_cycle(name, trace, spec):
    constraints, nodes = timing(spec)
    ready = power_up(timing(spec))
    for command in trace[:-1]:
        bank = (command.rank * 2 + max(0, command.bank_group)) * 4 + max(0, command.bank)
        issue(constraints, nodes, ready, 2, bank, COMMANDS.index(command.command), command.cycle)
    last, code = trace[-1], COMMANDS.index(trace[-1].command)
    if last.bank < 0:
        assert ready[last.rank, code] == last.cycle
    else:
        bank = (last.rank * 2 + last.bank_group) * 4 + last.bank
        assert bank_ready(nodes, ready, bank, code) == last.cycle


@pytest.mark.parametrize(
    ("state", "trace", "legal"),
    [
        (NO_ROW, [rd(5)], [act(0), rd(17)]),
        (NO_ROW, [act(0), pre(39), wr(80)], [act(0), wr(80)]),
        (NO_ROW, [act(0), prea(39), wr(80)], [act(0), prea(39, rank=1), wr(80)]),
        (OTHER_ROW, [act(0), rd(17, row=4)], [act(0, row=4), rd(17, row=4)]),
        (OPEN_BANK, [act(0), act(60)], [act(0), act(60, 1)]),
        (OPEN_BANKS, [act(0), ref(60)], [act(0), ref(60, rank=1)]),
        (BUS, [act(9), act(9, rank=1)], [act(9), act(10, rank=1)]),
        (BUS, [act(9), act(8, rank=1)], [act(9), act(10, rank=1)]),
        (LATE_REFRESH, [ref(9 * 9360 + 1)], [ref(9 * 9360)]),
        (
            LATE_REFRESH,
            [ref(9), ref(10, 1), act(9 * 9360 + 10)],
            [ref(9), ref(10, 1), act(9 * 9360 + 9)],
        ),
        (NO_PLACE, [act(0, bank=4)], [act(0, bank=3)]),
        (NO_PLACE, [act(0, group=2)], [act(0, group=1)]),
        (NO_PLACE, [act(0, rank=2)], [act(0, rank=1)]),
        (NO_PLACE, [act(0, row=65536)], [act(0, row=65535)]),
        (NO_PLACE, [act(0, bank=-1)], [act(0)]),
    ],
)
def test_checker_knows_what_the_state_of_a_bank_allows(state, trace, legal):
    violation = first_violation(X16, encode(trace))
    assert (violation.number, violation.rule) == (len(trace) - 1, STATES[state])
    assert violation.command == trace[-1]
    assert STATES[state] in str(violation)
    assert first_violation(X16, encode(legal)) is None


def test_checker_names_the_first_violation_and_the_longest_wait():
    trace = [act(0), rd(17), pre(18), act(19)]
    violation = first_violation(X16, encode(trace))
    assert (violation.number, violation.rule, violation.earliest) == (2, "nRAS", 39)


def test_ranks_keep_their_own_timing():
    both = [act(0), act(1, rank=1), act(8, 1), act(9, 1, rank=1)]
    assert first_violation(X16, encode(both)) is None


def test_encode_and_decode_are_inverse():
    trace = [act(0), rd(17), pre(50, 1, 1, 1), prea(60), ref(80, 1)]
    table = encode(trace)
    assert table.shape == (5, 6)
    assert table.dtype == np.int64
    assert decode(table) == trace
    assert encode([]).shape == (0, 6)
