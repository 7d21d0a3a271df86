"""The memory as the core of a controller sees it: open rows, earliest cycles, what has happened.

Cores work on plain tables: passing a structure of tables would cost more than what they compute.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

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
    log: np.ndarray  # int64[size, 4]: cycle, command, bank, row; size 0 unless recorded


def device(spec: DramSpec, own_columns: int, record: bool) -> Device:
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
        np.zeros((4096 if record else 0, 4), np.int64),
    )


@inlined
def command(constraints, nodes, ready, banks, ranks, counts, log, at, code, bank, row):
    """Issue a command at cycle `at`; PREA, REF: any bank of the rank. Only ACT needs the row."""
    issue(constraints, nodes, ready, len(ranks), bank, code, at)
    counts[code] += 1
    rank = nodes[bank, 0]
    if code <= WR:
        banks[bank, SERVED] += 1
    elif code == ACT:
        banks[bank, ROW] = row
        banks[bank, SERVED] = 0
        if ranks[rank, OPEN] == 0:
            ranks[rank, OPENED_AT] = at
        ranks[rank, OPEN] += 1
    elif code == PRE:
        banks[bank, ROW] = -1
        ranks[rank, OPEN] -= 1
        if ranks[rank, OPEN] == 0:
            ranks[rank, ACTIVE] += at - ranks[rank, OPENED_AT]
    elif code == PREA:
        in_rank = len(banks) // len(ranks)
        for closed in range(rank * in_rank, (rank + 1) * in_rank):
            banks[closed, ROW] = -1
        ranks[rank, OPEN] = 0
        ranks[rank, ACTIVE] += at - ranks[rank, OPENED_AT]
    if len(log) > 0:
        line = counts[LOGGED]
        log[line, 0] = at
        log[line, 1] = code
        log[line, 2] = bank
        log[line, 3] = banks[bank, ROW]
        counts[LOGGED] += 1


@njit(cache=True)
def longer(log):
    """The same log with room for as many lines again."""
    twice = np.zeros((2 * len(log), 4), np.int64)
    twice[: len(log)] = log
    return twice


def replayed(spec: DramSpec, asked: Requests, device: Device, outcome) -> Replay:
    """Result of a core's run; `outcome`: log, row hits, end, sum of read latencies."""
    log, row_hits, end, latency = outcome
    reads = len(asked.is_write) - int(asked.is_write.sum())
    counts = device.counts.tolist()
    at, code, bank, row = log[: counts[LOGGED]].T
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
        total_cycles=end,
        row_hits=row_hits,
        act_commands=counts[ACT],
        pre_commands=counts[PRE] + counts[PREA],
        read_commands=counts[RD],
        write_commands=counts[WR],
        refresh_commands=counts[REF],
        active_cycles=int(device.ranks[:, ACTIVE].sum() + (end - still_open[:, OPENED_AT]).sum()),
        average_read_latency_cycles=latency / reads if reads else 0.0,
        bandwidth_GBps=len(asked.is_write) * spec.burst_bytes * 1000 / (end * spec.tCK_ps),
        commands=np.stack(commands, axis=1),
    )
