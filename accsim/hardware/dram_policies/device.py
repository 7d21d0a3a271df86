"""The memory as the core of a controller sees it: open rows, earliest cycles, what has happened."""

from typing import NamedTuple

import numpy as np
from numba import njit

from accsim.hardware.dram import DramSpec
from accsim.hardware.dram_replay import Replay
from accsim.hardware.dram_rules import (
    ACT,
    COMMANDS,
    PRE,
    PREA,
    RD,
    REF,
    WR,
    Timing,
    inlined,
    issue,
    open_tables,
)

LOGGED = len(COMMANDS)  # place in `counts` of the rows used of `log`


class Device(NamedTuple):
    """A memory of one channel; banks are counted through all ranks."""

    timing: Timing
    ready: np.ndarray  # int64[nodes, 6], see `dram_rules`
    history: np.ndarray  # int64[nodes, 5]
    row: np.ndarray  # int64[banks], open row or -1
    served: np.ndarray  # int64[banks], RD and WR of the open row
    open_banks: np.ndarray  # int64[ranks]
    opened_at: np.ndarray  # int64[ranks], when the first of them opened
    active: np.ndarray  # int64[ranks], cycles before that with a row open
    counts: np.ndarray  # int64[7], commands, and rows of the log
    log: np.ndarray  # int64[size, 4]: cycle, command, bank, row; size 0 unless recorded


@njit(cache=True)
def power_up(timing, ranks, record):
    """A memory with all rows closed."""
    banks = len(timing.nodes)
    ready, history = open_tables(timing)
    return Device(
        timing,
        ready,
        history,
        np.full(banks, -1),
        np.zeros(banks, np.int64),
        np.zeros(ranks, np.int64),
        np.zeros(ranks, np.int64),
        np.zeros(ranks, np.int64),
        np.zeros(LOGGED + 1, np.int64),
        np.zeros((4096 if record else 0, 4), np.int64),
    )


@inlined
def command(device, at, code, bank, row):
    """Issue a command at cycle `at`; PREA, REF: any bank of the rank. Only ACT needs the row."""
    rank = device.timing.nodes[bank, 0]
    issue(device.timing, device.ready, device.history, len(device.active), bank, code, at)
    device.counts[code] += 1
    if code in (RD, WR):
        device.served[bank] += 1
    elif code == ACT:
        device.row[bank] = row
        device.served[bank] = 0
        if device.open_banks[rank] == 0:
            device.opened_at[rank] = at
        device.open_banks[rank] += 1
    elif code == PRE:
        device.row[bank] = -1
        device.open_banks[rank] -= 1
        if device.open_banks[rank] == 0:
            device.active[rank] += at - device.opened_at[rank]
    elif code == PREA:
        in_rank = len(device.row) // len(device.active)
        device.row[rank * in_rank : (rank + 1) * in_rank] = -1
        device.open_banks[rank] = 0
        device.active[rank] += at - device.opened_at[rank]
    if len(device.log) > 0:
        line = device.log[device.counts[LOGGED]]
        line[0] = at
        line[1] = code
        line[2] = bank
        line[3] = device.row[bank]
        device.counts[LOGGED] += 1


@njit(cache=True)
def with_room(device):
    """The same memory, with room in its log for another command."""
    log = np.zeros((2 * len(device.log), 4), np.int64)
    log[: len(device.log)] = device.log
    return Device(
        device.timing, device.ready, device.history, device.row, device.served, device.open_banks,
        device.opened_at, device.active, device.counts, log,
    )  # fmt: skip


def replayed(spec: DramSpec, device: Device, is_write, outcome) -> Replay:
    """Result of a core's run; `outcome`: row hits, cycle of the end, sum of read latencies."""
    row_hits, end, latency = outcome
    reads = len(is_write) - int(is_write.sum())
    still_open = device.open_banks > 0
    active = int(device.active.sum() + (end - device.opened_at)[still_open].sum())
    at, code, bank, row = device.log[: device.counts[LOGGED]].T
    group, bank = np.divmod(bank, spec.banks)
    rank, group = np.divmod(group, spec.bank_groups)
    for_rank = (code == PREA) | (code == REF)
    commands = np.stack(
        [at, code, rank, np.where(for_rank, -1, group), np.where(for_rank, -1, bank),
         np.where(for_rank | (code == PRE), -1, row)], axis=1,
    )  # fmt: skip
    counts = device.counts.tolist()
    return Replay(
        requests=len(is_write),
        total_cycles=end,
        row_hits=row_hits,
        act_commands=counts[ACT],
        pre_commands=counts[PRE] + counts[PREA],
        read_commands=counts[RD],
        write_commands=counts[WR],
        refresh_commands=counts[REF],
        active_cycles=active,
        average_read_latency_cycles=latency / reads if reads else 0.0,
        bandwidth_GBps=len(is_write) * spec.burst_bytes * 1000 / (end * spec.tCK_ps),
        commands=commands,
    )
