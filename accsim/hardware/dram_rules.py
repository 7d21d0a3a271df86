"""Rules of a memory's commands as a table of constraints, and their form for compiled code.

A rule says: at one node of a level (a bank, a bank group, a rank), a `following` command comes at
least `latency` clocks after the `window`-th last `preceding` command. `others` rules hold between a
node and its siblings: ranks that take turns on one data bus. PREA and REF concern a whole rank; the
other commands name a bank, and so its group and its rank.

Source: JESD79-4 (DDR4) and JESD79-3 (DDR3), and for the form Ramulator 2.1, whose standards are
tables of this kind.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numba import njit

from accsim.hardware.dram import DramSpec

COMMANDS = ("RD", "WR", "ACT", "PRE", "PREA", "REF")
RD, WR, ACT, PRE, PREA, REF = range(6)
LEVELS = ("rank", "bank_group", "bank")
CYCLE, COMMAND, RANK, BANK_GROUP, BANK, ROW = range(6)  # columns of a table of commands

NEVER = 1 << 60  # cycle


class Command(NamedTuple):
    """A command on the bus; -1 where it names no bank (PREA, REF) or no row (those and PRE)."""

    cycle: int
    command: str
    rank: int
    bank_group: int
    bank: int  # in its bank group
    row: int


def encode(commands: Iterable[Command]) -> np.ndarray:
    """Commands as int64[m, 6], a row each, `command` by its place in COMMANDS."""
    rows = [(c[0], COMMANDS.index(c[1]), *c[2:]) for c in commands]
    return np.array(rows, np.int64).reshape(-1, 6)


def decode(commands: np.ndarray) -> list[Command]:
    """Inverse of `encode`."""
    return [Command(c[0], COMMANDS[c[1]], *c[2:]) for c in commands.tolist()]


class Rule(NamedTuple):
    """A constraint between commands; see the module."""

    name: str
    level: str
    preceding: tuple[str, ...]
    following: tuple[str, ...]
    latency: int  # clocks
    window: int = 1
    others: bool = False


def rules(spec: DramSpec) -> tuple[Rule, ...]:
    """All rules of a memory.

    Between ranks the data bus needs the pause that it needs between a read and a write of one rank,
    nRTW - (CL + nBL - CWL): tRTRS of DRAMsim3, nCS of Ramulator 2.1.
    """
    pause = spec.nRTW - (spec.CL + spec.nBL - spec.CWL)
    written = spec.CWL + spec.nBL  # WR to the end of its data
    column = ("RD", "WR")
    return (
        Rule("nRCD", "bank", ("ACT",), column, spec.nRCD),
        Rule("nRAS", "bank", ("ACT",), ("PRE",), spec.nRAS),
        Rule("nRC", "bank", ("ACT",), ("ACT",), spec.nRC),
        Rule("nRP", "bank", ("PRE",), ("ACT",), spec.nRP),
        Rule("nRTP", "bank", ("RD",), ("PRE",), spec.nRTP),
        Rule("nWR", "bank", ("WR",), ("PRE",), written + spec.nWR),
        Rule("nCCD_L", "bank_group", ("RD",), ("RD",), spec.nCCD_L),
        Rule("nCCD_L", "bank_group", ("WR",), ("WR",), spec.nCCD_L),
        Rule("nWTR_L", "bank_group", ("WR",), ("RD",), written + spec.nWTR_L),
        Rule("nRRD_L", "bank_group", ("ACT",), ("ACT",), spec.nRRD_L),
        Rule("nCCD_S", "rank", ("RD",), ("RD",), spec.nCCD_S),
        Rule("nCCD_S", "rank", ("WR",), ("WR",), spec.nCCD_S),
        Rule("nWTR_S", "rank", ("WR",), ("RD",), written + spec.nWTR_S),
        Rule("nRTW", "rank", ("RD",), ("WR",), spec.nRTW),
        Rule("nRRD_S", "rank", ("ACT",), ("ACT",), spec.nRRD_S),
        Rule("nFAW", "rank", ("ACT",), ("ACT",), spec.nFAW, window=4),
        Rule("nRAS", "rank", ("ACT",), ("PREA",), spec.nRAS),
        Rule("nRTP", "rank", ("RD",), ("PREA",), spec.nRTP),
        Rule("nWR", "rank", ("WR",), ("PREA",), written + spec.nWR),
        Rule("nRP", "rank", ("PREA",), ("ACT",), spec.nRP),
        Rule("nRP", "rank", ("PRE", "PREA"), ("REF",), spec.nRP),
        Rule("nRC", "rank", ("ACT",), ("REF",), spec.nRC),
        Rule("nRFC", "rank", ("REF",), ("ACT", "PRE", "PREA", "REF"), spec.nRFC),
        Rule("nRTRS", "rank", ("RD",), ("RD",), spec.nBL + pause, others=True),
        Rule("nRTRS", "rank", ("WR",), ("WR",), spec.nBL + pause, others=True),
        Rule("nRTRS", "rank", ("RD",), ("WR",), spec.nRTW, others=True),
        Rule("nRTRS", "rank", ("WR",), ("RD",), written + pause - spec.CL, others=True),
    )


class Timing(NamedTuple):
    """Rules and nodes for compiled code; a node is a row of a `ready` table."""

    constraints: np.ndarray  # int64[6, k, 5], by preceding command, ended by FOLLOWING = -1
    nodes: np.ndarray  # int64[all banks, 3], the nodes of a bank's rank, bank group, and its own


LEVEL, FOLLOWING, LATENCY, WINDOW, OTHERS = range(5)  # columns of constraints[]
LAST_ACTS, TURN = 6, 10  # columns of ready[], after the commands: a ring of four ACTs, its place


def timing(spec: DramSpec) -> Timing:
    """The rules of a memory by their preceding command, and its tree of nodes.

    Banks are counted through all ranks: bank group x banks of a group, then rank by rank.
    """
    follow: list[list[tuple[int, ...]]] = [[] for _ in COMMANDS]
    for rule in rules(spec):
        for first in rule.preceding if spec.ranks > 1 or not rule.others else ():
            follow[COMMANDS.index(first)] += [
                (LEVELS.index(rule.level), COMMANDS.index(then), rule.latency, rule.window,
                 rule.others)
                for then in rule.following
            ]  # fmt: skip
    constraints = np.full((len(COMMANDS), max(map(len, follow)) + 1, 5), -1)
    for code, rows in enumerate(follow):
        constraints[code, : len(rows)] = rows
    groups = spec.ranks * spec.bank_groups
    bank = np.arange(groups * spec.banks)
    group = bank // spec.banks
    nodes = (group // spec.bank_groups, spec.ranks + group, spec.ranks + groups + bank)
    return Timing(constraints, np.stack(nodes, axis=1))


def power_up(timing: Timing) -> np.ndarray:
    """int64[nodes, 11], before the first command.

    Earliest cycle of each command as far as a node rules it, and the node's last ACTs.
    """
    ready = np.zeros((timing.nodes[-1, 2] + 1, TURN + 1), np.int64)
    ready[:, LAST_ACTS:TURN] = -NEVER
    return ready


# For the parts that run at every command: a call would pass the tables again and again.
inlined = njit(cache=True, forceinline=True)


@inlined
def bank_ready(nodes, ready, bank, command):
    """Earliest cycle of a command that names a bank."""
    at = ready[nodes[bank, 0], command]
    at = max(at, ready[nodes[bank, 1], command])
    return max(at, ready[nodes[bank, 2], command])


@inlined
def issue(constraints, nodes, ready, ranks, bank, command, at):
    """Note a command at cycle `at`: what may follow, and when. PREA, REF: any bank of the rank."""
    place = 0
    while True:
        following = constraints[command, place, FOLLOWING]
        if following < 0:
            break
        latency = constraints[command, place, LATENCY]
        node = nodes[bank, constraints[command, place, LEVEL]]
        if constraints[command, place, OTHERS]:
            for sibling in range(ranks):
                if sibling != node:
                    ready[sibling, following] = max(ready[sibling, following], at + latency)
        else:
            first = at
            window = constraints[command, place, WINDOW]
            if window > 1:
                turn = ready[node, TURN]
                ready[node, LAST_ACTS + turn] = at
                turn = turn + 1 if turn + 1 < window else 0
                ready[node, TURN] = turn
                first = ready[node, LAST_ACTS + turn]
            ready[node, following] = max(ready[node, following], first + latency)
        place += 1
