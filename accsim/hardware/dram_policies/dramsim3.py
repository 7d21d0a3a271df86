"""The controller of DRAMsim3, to the clock: a command queue a bank, served round robin.

Written from its behaviour (umd-memsys/DRAMsim3, commit 29817593, MIT) with open page, no
power-down. A read enters the read queue (32), a write the write buffer (32). One request a clock,
the oldest whose bank has room, moves on to its bank's command queue (8): a read, or, while the
buffer drains, a write. Draining starts when the buffer is full, or holds more than 8 while all
command queues are empty, and lasts for as many writes as it then holds. One command a clock: the
banks are visited round robin from the one after the last that went, and in each queue the first
entry whose next command may go does; a PRE only for the first entry, and only if no entry hits the
open row or it has served 4. A due refresh closes its rank's banks one by one, then goes, while the
rank's queues wait; several ranks are refreshed in turn, spread over nREFI.

A read of a buffered write's address returns after a clock; one of an address whose RD has yet to go
shares it; a write to a buffered address replaces it. Since the front end holds a write back until
earlier reads of its address have returned, the controller's own order of the two, which may lock it
up, never matters. Writes that are too few to start a drain go when nothing else is left to do.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from accsim.hardware.dram_policies.device import (
    LOGGED,
    OPEN,
    OWN,
    ROW,
    SERVED,
    command,
    device,
    longer,
    replayed,
)
from accsim.hardware.dram_replay import Policy, requests
from accsim.hardware.dram_rules import ACT, NEVER, PRE, RD, REF, WR, bank_ready, inlined

QUEUE = 32  # reads, and as many writes
BANK_QUEUE = 8
DRAIN_ABOVE = 8  # writes, once all command queues are empty
ENOUGH = 4  # after so many RD and WR an open row may close over waiting hits

# Columns of banks[]: entries in its queue; whether it may close for the first; places of the first
# read and write of the open row, or -1.
QUEUED, CLOSE, READ_HIT, WRITE_HIT = range(OWN, OWN + 4)


@dataclass(frozen=True)
class DramSim3(Policy):
    """The controller of DRAMsim3; see the module."""

    def replay(self, spec, mapping, arrivals, addresses, is_write, record=False):
        asked = requests(spec, mapping, arrivals, addresses, is_write)
        memory = device(spec, 4, record)
        outcome = _play(
            *memory, *asked, spec.nREFI // spec.ranks, spec.CL + spec.nBL, spec.CWL + spec.nBL
        )
        return replayed(spec, asked, memory, outcome)


@njit(cache=True)
def _play(
    constraints, nodes, ready, banks, ranks, counts, log,
    arrivals, is_write, bank_of, row_of, prior_read, prior_write,
    refresh_interval, read_cycles, write_cycles,
):  # fmt: skip
    """Play all requests; (log, row hits, cycle of the end, sum of read latencies).

    Each clock first issues a command, then moves a request on, then accepts one. Nothing changes
    between two clocks that do one of these, so time jumps from one to the next.
    """
    count = len(arrivals)
    queue = np.zeros((len(banks), BANK_QUEUE), np.int64)  # requests by age
    waiting = np.zeros((2, QUEUE), np.int64)  # reads, writes by age
    waits = np.zeros(2, np.int64)
    leader = np.arange(count)  # the request whose burst serves it
    done = np.full(count, NEVER)  # end of the data of a leader
    now = accepted = in_queues = draining = row_hits = end = latency = last_return = 0
    refresh_at, due, refreshed = refresh_interval, 0, 0
    refreshing = -1  # rank
    visited = len(banks) - 1
    stuck = False  # no waiting request can move on
    stale = True  # the choice of the next command
    command_at, code, bank, place = NEVER, REF, 0, 0
    while True:
        if now == refresh_at:
            due += 1
            refresh_at += refresh_interval
            refreshing = refreshed % len(ranks)
            stale = True
        if stale:
            command_at, code, bank, place = _choose(
                now, visited, refreshing, nodes, ready, banks, ranks
            )
            stale = False
        if command_at == now:
            stale = True
            request = queue[bank, place]
            if code <= WR:
                row_hits += banks[bank, SERVED] > 0
                if code == RD:
                    done[request] = last_return = now + read_cycles
                else:
                    done[request] = now + write_cycles
                end = max(end, done[request])
                stuck &= banks[bank, QUEUED] < BANK_QUEUE
                banks[bank, QUEUED] -= 1
                in_queues -= 1
                for later in range(place, banks[bank, QUEUED]):
                    queue[bank, later] = queue[bank, later + 1]
            command(
                constraints, nodes, ready, banks, ranks, counts, log, now, code, bank,
                row_of[request],
            )  # fmt: skip
            if len(log) > 0 and counts[LOGGED] == len(log):
                log = longer(log)
            if code == REF:
                refreshed += 1
                refreshing = refreshed % len(ranks) if due > refreshed else -1
            else:
                _look(bank, banks, queue, row_of, is_write)
                if nodes[bank, 0] != refreshing:
                    visited = bank

        if draining == 0 and (waits[1] == QUEUE or (waits[1] > DRAIN_ABOVE and in_queues == 0)):
            draining = waits[1]
            stuck = False
        changed = False
        if not stuck:
            stuck = True
            kind = 1 if draining > 0 else 0
            for oldest in range(waits[kind]):
                request = waiting[kind, oldest]
                to = bank_of[request]
                if banks[to, QUEUED] < BANK_QUEUE:
                    queue[to, banks[to, QUEUED]] = request
                    banks[to, QUEUED] += 1
                    in_queues += 1
                    _look(to, banks, queue, row_of, is_write)
                    waits[kind] -= 1
                    for later in range(oldest, waits[kind]):
                        waiting[kind, later] = waiting[kind, later + 1]
                    draining -= kind
                    stuck = False
                    changed = True
                    stale |= to == bank or _bank_at(to, nodes, ready, banks) <= command_at
                    break

        accept_at = _acceptable(now, accepted, waits, arrivals, is_write, prior_read, leader, done)
        if accept_at == now:
            kind = 1 if is_write[accepted] else 0
            write, read = prior_write[accepted], prior_read[accepted]
            if write >= 0 and done[leader[write]] == NEVER:
                if kind == 1:
                    leader[accepted] = leader[write]
                else:
                    done[accepted] = now + 2
            elif kind == 0 and read >= 0 and done[leader[read]] == NEVER:
                leader[accepted] = leader[read]
            else:
                waiting[kind, waits[kind]] = accepted
                waits[kind] += 1
            if kind == 0:
                latency -= now + 1
            accepted += 1
            stuck = False
            changed = True
        if accepted == count and waits[0] == 0 and in_queues == 0:
            if waits[1] == 0:
                if now >= last_return:
                    break
                accept_at = last_return  # only refresh may go on until then
            elif draining == 0:
                draining = waits[1]
                stuck = False
                changed = True
        if changed:
            now += 1
            continue
        if stale:
            command_at, code, bank, place = _choose(
                now + 1, visited, refreshing, nodes, ready, banks, ranks
            )
            stale = False
        now = min(command_at, accept_at, refresh_at)
    for request in range(count):
        if not is_write[request]:
            latency += done[leader[request]]
    return log, row_hits, end, latency


@inlined
def _choose(now, visited, refreshing, nodes, ready, banks, ranks):
    """(cycle, command, bank, place in its queue) of the next command, the cycle from `now` on.

    `refreshing` is the rank to be refreshed, or -1.
    """
    best, best_code, best_bank, best_place = NEVER, -1, 0, 0
    if refreshing >= 0:
        in_rank = len(banks) // len(ranks)
        if ranks[refreshing, OPEN] == 0:
            best, best_code = max(now, ready[refreshing, REF]), REF
            best_bank = refreshing * in_rank
        for bank in range(refreshing * in_rank, (refreshing + 1) * in_rank):
            if banks[bank, ROW] >= 0:
                at = max(now, bank_ready(nodes, ready, bank, PRE))
                if at < best:
                    best, best_code, best_bank = at, PRE, bank
    bank = visited
    for _ in range(len(banks)):
        if best == now:
            break
        bank = bank + 1 if bank + 1 < len(banks) else 0
        if banks[bank, QUEUED] == 0 or nodes[bank, 0] == refreshing:
            continue
        at = max(now, _bank_at(bank, nodes, ready, banks))
        if at < best:
            best, best_code, best_bank = at, -1, bank
    if best_code < 0 and best < NEVER:
        best_code, best_place = _first_ready(best, best_bank, nodes, ready, banks)
    return best, best_code, best_bank, best_place


@inlined
def _bank_at(bank, nodes, ready, banks):
    """Earliest cycle of a command for an entry of a bank's queue."""
    if banks[bank, ROW] < 0:
        return bank_ready(nodes, ready, bank, ACT)
    at = NEVER
    if banks[bank, CLOSE] > 0:
        at = bank_ready(nodes, ready, bank, PRE)
    if banks[bank, READ_HIT] >= 0:
        at = min(at, bank_ready(nodes, ready, bank, RD))
    if banks[bank, WRITE_HIT] >= 0:
        at = min(at, bank_ready(nodes, ready, bank, WR))
    return at


@inlined
def _first_ready(at, bank, nodes, ready, banks):
    """(command, place) of the first entry of a bank's queue whose next command may go at `at`."""
    if banks[bank, ROW] < 0:
        return ACT, 0
    if banks[bank, CLOSE] > 0 and bank_ready(nodes, ready, bank, PRE) <= at:
        return PRE, 0
    read, write = banks[bank, READ_HIT], banks[bank, WRITE_HIT]
    if read >= 0 and bank_ready(nodes, ready, bank, RD) > at:
        read = -1
    if write >= 0 and bank_ready(nodes, ready, bank, WR) > at:
        write = -1
    if write < 0 or 0 <= read < write:
        return RD, read
    return WR, write


@inlined
def _look(bank, banks, queue, row_of, is_write):
    """Find what the entries of a bank's queue may ask for."""
    row = banks[bank, ROW]
    read = write = -1
    for place in range(banks[bank, QUEUED] - 1, -1, -1):
        request = queue[bank, place]
        if row_of[request] == row:
            if is_write[request]:
                write = place
            else:
                read = place
    banks[bank, READ_HIT] = read
    banks[bank, WRITE_HIT] = write
    banks[bank, CLOSE] = (
        banks[bank, QUEUED] > 0
        and row_of[queue[bank, 0]] != row
        and ((read < 0 and write < 0) or banks[bank, SERVED] >= ENOUGH)
    )


@inlined
def _acceptable(now, request, waits, arrivals, is_write, prior_read, leader, done):
    """Earliest cycle from `now` on at which a request may be accepted, as far as is known."""
    if request == len(arrivals) or waits[1 if is_write[request] else 0] == QUEUE:
        return NEVER
    at = max(now, arrivals[request])
    read = prior_read[request]
    if is_write[request] and read >= 0:
        at = max(at, done[leader[read]])
    return at
