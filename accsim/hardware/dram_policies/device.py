"""The memory as the core of a controller sees it: open rows, earliest cycles, what has happened.

Cores work on plain tables: passing a structure of tables would cost more than what they compute.
"""

from typing import NamedTuple

import numpy as np

from accsim.hardware.dram import DramSpec
from accsim.hardware.dram_replay import Replay, Requests
from accsim.hardware.dram_rules import (
    ACT,
    COMMANDS,
    PRE,
    PREA,
    RD,
    REF,
    WR,
    inlined,
    issue,
    power_up,
    timing,
)

ROW, SERVED, OWN = range(3)  # columns of banks[]: open row or -1, its RD and WR, a core's own
OPEN, OPENED_AT, ACTIVE = range(3)  # ranks[]: open banks, since when, cycles with one before that
LOGGED = len(COMMANDS)  # place in counts[], after the commands, of the used lines of log[]


class Device(NamedTuple):
    """Tables of a memory of one channel; banks are counted through all ranks."""

    constraints: np.ndarray  # see `dram_rules.Timing`
    nodes: np.ndarray
    ready: np.ndarray  # see `dram_rules.power_up`
    banks: np.ndarray  # int64[banks, OWN + columns of the core]
    ranks: np.ndarray  # int64[ranks, 3]
    counts: np.ndarray  # int64[7]
    log: np.ndarray  # int64[size, 4]: cycle, command, bank, row; of one line: not recorded


def device(spec: DramSpec, own_columns: int, log_lines: int = 1) -> Device:
    """A memory with all rows closed."""
    rules = timing(spec)
    banks = np.zeros((len(rules.nodes), OWN + own_columns), np.int64)
    banks[:, ROW] = -1
    return Device(
        *rules,
        power_up(rules),
        banks,
        np.zeros((spec.ranks, 3), np.int64),
        np.zeros(LOGGED + 1, np.int64),
        np.zeros((log_lines, 4), np.int64),
    )


# These have no branch around the last use of a table: numba then counts no references, which would
# cost more than all else.


@inlined
def command(constraints, nodes, ready, ranks, counts, log, at, code, bank, row):
    """Issue a command at cycle `at`; PREA, REF: any bank of the rank."""
    issue(constraints, nodes, ready, len(ranks), bank, code, at)
    counts[code] += 1
    line = counts[LOGGED]
    log[line, 0] = at
    log[line, 1] = code
    log[line, 2] = bank
    log[line, 3] = row
    counts[LOGGED] += len(log) > 1


@inlined
def open_row(nodes, banks, ranks, at, bank, row):
    """What an ACT does."""
    rank = nodes[bank, 0]
    banks[bank, ROW] = row
    banks[bank, SERVED] = 0
    ranks[rank, OPENED_AT] = ranks[rank, OPENED_AT] if ranks[rank, OPEN] > 0 else at
    ranks[rank, OPEN] += 1


@inlined
def close_row(nodes, banks, ranks, at, bank):
    """What a PRE, or for one of its banks a PREA, does."""
    rank = nodes[bank, 0]
    banks[bank, ROW] = -1
    ranks[rank, OPEN] -= 1
    ranks[rank, ACTIVE] += 0 if ranks[rank, OPEN] > 0 else at - ranks[rank, OPENED_AT]


def run(spec: DramSpec, asked: Requests, play, own_columns: int, record: bool) -> Replay:
    """Run a core and gather its result; to record, once more with a log of the right length.

    play(memory) : (row hits, cycle of the end, sum of read latencies)
    """
    memory = device(spec, own_columns)
    outcome = play(memory)
    if record:
        memory = device(spec, own_columns, log_lines=int(memory.counts[:LOGGED].sum()) + 1)
        outcome = play(memory)
    return _result(spec, asked, memory, *outcome)


def _result(spec: DramSpec, asked: Requests, device: Device, row_hits, end, latency) -> Replay:
    """What `device` did by cycle `end`."""
    reads = len(asked.is_write) - int(asked.is_write.sum())
    counts = device.counts.tolist()
    at, code, bank, row = device.log[: counts[LOGGED]].T
    group, bank = np.divmod(bank, spec.banks)
    rank, group = np.divmod(group, spec.bank_groups)
    whole_rank = (code == PREA) | (code == REF)
    commands = [
        at,
        code,
        rank,
        np.where(whole_rank, -1, group),
        np.where(whole_rank, -1, bank),
        np.where(whole_rank | (code == PRE), -1, row),
    ]
    still_open = device.ranks[device.ranks[:, OPEN] > 0]
    return Replay(
        requests=len(asked.is_write),
        total_cycles=int(end),
        row_hits=int(row_hits),
        act_commands=counts[ACT],
        pre_commands=counts[PRE] + counts[PREA],
        read_commands=counts[RD],
        write_commands=counts[WR],
        refresh_commands=counts[REF],
        active_cycles=int(device.ranks[:, ACTIVE].sum() + (end - still_open[:, OPENED_AT]).sum()),
        average_read_latency_cycles=float(latency / reads) if reads else 0.0,
        bandwidth_GBps=float(len(asked.is_write) * spec.burst_bytes * 1000 / (end * spec.tCK_ps)),
        commands=np.stack(commands, axis=1),
    )
