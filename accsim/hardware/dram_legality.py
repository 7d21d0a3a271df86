"""Legality of a trace of commands: replays it against the rules and names the first violation.

Written from the rules alone (`dram_rules.rules`, and what a bank's state allows), not from any
controller, and with other bookkeeping: for each rule it remembers when the preceding commands came.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from accsim.hardware.dram import DramSpec
from accsim.hardware.dram_rules import (
    ACT,
    BANK,
    BANK_GROUP,
    COMMAND,
    COMMANDS,
    CYCLE,
    LEVELS,
    NEVER,
    PRE,
    PREA,
    RANK,
    REF,
    ROW,
    WR,
    Command,
    decode,
    rules,
)

POSTPONED_REFRESHES = 8  # at most (JESD79-4, "Refresh command")

STATES = (
    "the memory has no such rank, bank or row",
    "the bus carries one command a clock, in order",
    "RD and WR need an open row",
    "RD and WR need their own row open",
    "ACT needs a closed bank",
    "REF needs all banks of its rank closed",
    f"a rank may postpone {POSTPONED_REFRESHES} refreshes, so REF comes every "
    f"{POSTPONED_REFRESHES + 1} nREFI at the latest",
)
NO_PLACE, BUS, NO_ROW, OTHER_ROW, OPEN_BANK, OPEN_BANKS, LATE_REFRESH = range(len(STATES))


class Violation(NamedTuple):
    """The first command of a trace that breaks a rule."""

    number: int  # its place in the trace
    command: Command
    rule: str  # name of a timing rule, or one of STATES
    earliest: int | None  # cycle, for a timing rule

    def __str__(self):
        when = "" if self.earliest is None else f": not before cycle {self.earliest}"
        return f"command {self.number}, {self.command}, breaks {self.rule}{when}"


def first_violation(spec: DramSpec, commands: np.ndarray) -> Violation | None:
    """The first violation of the rules of `spec`, or None.

    Parameters
    ----------
    spec : the memory, of one channel
    commands : int64[m, 6], as `dram_rules.encode` makes them

    Of several rules that one command breaks, the one that it would have had to wait for longest.
    """
    table = rules(spec)
    index, broken, earliest = _check(
        np.ascontiguousarray(commands, np.int64),
        np.array(
            [
                (LEVELS.index(rule.level), _set(rule.preceding), _set(rule.following),
                 rule.latency, rule.window, rule.others)
                for rule in table
            ]
        ),
        (spec.ranks, spec.bank_groups, spec.banks, spec.rows),
        (POSTPONED_REFRESHES + 1) * spec.nREFI,
    )  # fmt: skip
    if index == len(commands):
        return None
    (command,) = decode(commands[index : index + 1])
    if broken < 0:
        return Violation(index, command, STATES[-1 - broken], None)
    return Violation(index, command, table[broken].name, earliest)


def _set(names: tuple[str, ...]) -> int:
    """Commands as bits."""
    return sum(1 << COMMANDS.index(name) for name in names)


@njit(cache=True)
def _check(commands, table, shape, longest_without_refresh):
    """(index, row of `table` or -1 - place in STATES, earliest cycle); all legal: index m."""
    ranks, groups, banks, rows = shape
    open_row = np.full(ranks * groups * banks, -1)
    refreshed = np.zeros(ranks, np.int64)
    past = np.full((len(table), len(open_row), 4), -NEVER)  # by rule and node, a ring
    turn = np.zeros((len(table), len(open_row)), np.int64)  # the oldest of its window
    node = np.zeros(3, np.int64)  # by level
    before = -1
    for index in range(len(commands)):
        at, code = commands[index, CYCLE], commands[index, COMMAND]
        rank, group, bank = (
            commands[index, RANK], commands[index, BANK_GROUP], commands[index, BANK],
        )  # fmt: skip
        row = commands[index, ROW]
        for_rank = code in (PREA, REF)
        if not 0 <= rank < ranks or not (for_rank or (0 <= group < groups and 0 <= bank < banks)):
            return index, -1 - NO_PLACE, 0
        if code <= ACT and not 0 <= row < rows:
            return index, -1 - NO_PLACE, 0
        if at <= before:
            return index, -1 - BUS, 0
        before = at
        node[0] = rank
        node[1] = rank * groups + group
        node[2] = (rank * groups + group) * banks + bank
        first, last = rank * groups * banks, (rank + 1) * groups * banks

        if code <= WR and open_row[node[2]] < 0:
            return index, -1 - NO_ROW, 0
        if code <= WR and open_row[node[2]] != row:
            return index, -1 - OTHER_ROW, 0
        if code == ACT and open_row[node[2]] >= 0:
            return index, -1 - OPEN_BANK, 0
        if code == REF and open_row[first:last].max() >= 0:
            return index, -1 - OPEN_BANKS, 0
        if (at - refreshed).max() > longest_without_refresh:
            return index, -1 - LATE_REFRESH, 0

        broken, earliest = -1, at
        for rule in range(len(table)):
            level, preceding, following, latency, window, others = table[rule]
            if following >> code & 1:
                for other in range(ranks if others else 1):
                    seen = other if others else node[level]
                    if not (others and other == rank):
                        after = past[rule, seen, turn[rule, seen]] + latency
                        if after > earliest:
                            broken, earliest = rule, after
            if preceding >> code & 1:
                place = turn[rule, node[level]]
                past[rule, node[level], place] = at
                turn[rule, node[level]] = (place + 1) % window
        if broken >= 0:
            return index, broken, earliest

        if code == ACT:
            open_row[node[2]] = row
        elif code == PRE:
            open_row[node[2]] = -1
        elif code == PREA:
            open_row[first:last] = -1
        elif code == REF:
            refreshed[rank] = at
    return len(commands), 0, 0
