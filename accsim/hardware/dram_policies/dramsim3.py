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
    OPEN,
    OWN,
    ROW,
    SERVED,
    close_row,
    command,
    open_row,
    run,
)
from accsim.hardware.dram_replay import Policy, requests
from accsim.hardware.dram_rules import ACT, NEVER, PRE, RD, REF, WR, bank_ready, inlined

QUEUE = 32  # reads, and as many writes
BANK_QUEUE = 8
DRAIN_ABOVE = 8  # writes, once all command queues are empty
ENOUGH = 4  # after so many RD and WR an open row may close over waiting hits

QUEUED = OWN  # column of banks[]: entries in its queue


@dataclass(frozen=True)
class DramSim3(Policy):
    """The controller of DRAMsim3; see the module."""

    def replay(self, spec, mapping, arrivals, addresses, is_write, record=False):
        asked = requests(spec, mapping, arrivals, addresses, is_write)

        def play(memory):
            return _play(
                *memory, *asked, spec.nREFI // spec.ranks, spec.CL + spec.nBL, spec.CWL + spec.nBL
            )

        return run(spec, asked, play, 1, record)


@njit(cache=True)
def _play(
    constraints, nodes, ready, banks, ranks, counts, log,
    arrivals, is_write, bank_of, row_of, prior_read, prior_write,
    refresh_interval, read_cycles, write_cycles,
):  # fmt: skip
    """Play all requests; (row hits, cycle of the end, sum of read latencies).

    Each clock first issues a command, then moves a request on, then accepts one. Nothing changes
    between two clocks that do one of these, so time jumps from one to the next.
    """
    count = len(arrivals)
    queue = np.zeros((len(banks), BANK_QUEUE), np.int64)  # requests by age
    place_of = np.zeros((len(banks), 4), np.int64)  # first entry whose next command is RD, WR ...
    unasked = np.full((len(banks), 4), NEVER)  # 0 where there is one, and it may go
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
    command_at, code, bank = NEVER, REF, 0
    while True:
        if now == refresh_at:
            due += 1
            refresh_at += refresh_interval
            refreshing = refreshed % len(ranks)
            stale = True
        if stale:
            command_at, bank = _choose(now, visited, refreshing, nodes, ready, unasked)
            code = -1
            if refreshing >= 0:
                at, of_refresh, its_bank = _refresh(now, refreshing, nodes, ready, banks, ranks)
                if at <= command_at:
                    command_at, code, bank = at, of_refresh, its_bank
            stale = False
        if command_at == now:
            stale = True
            if code < 0:
                visited = bank
                code = _first_ready(now, bank, nodes, ready, unasked, place_of)
            place = place_of[bank, code] if code < REF else 0
            request = queue[bank, place]
            row = row_of[request]
            command(constraints, nodes, ready, ranks, counts, log, now, code, bank, row)
            if code <= WR:
                row_hits += banks[bank, SERVED] > 0
                banks[bank, SERVED] += 1
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
            elif code == ACT:
                open_row(nodes, banks, ranks, now, bank, row)
            elif code == PRE:
                close_row(nodes, banks, ranks, now, bank)
            else:
                refreshed += 1
                refreshing = refreshed % len(ranks) if due > refreshed else -1
            _look(bank, banks, queue, row_of, is_write, unasked, place_of)

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
                    _look(to, banks, queue, row_of, is_write, unasked, place_of)
                    waits[kind] -= 1
                    for later in range(oldest, waits[kind]):
                        waiting[kind, later] = waiting[kind, later + 1]
                    draining -= kind
                    stuck = False
                    changed = True
                    stale |= to == bank or _bank_at(to, nodes, ready, unasked) <= command_at
                    break

        accept_at = NEVER
        if accepted < count:
            kind = 1 if is_write[accepted] else 0
            read, write = prior_read[accepted], prior_write[accepted]
            if waits[kind] < QUEUE:
                accept_at = max(now, arrivals[accepted])
                if kind == 1 and read >= 0:
                    accept_at = max(accept_at, done[leader[read]])
            if accept_at == now:
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
        if changed or stale:
            now += 1
        else:
            now = min(command_at, accept_at, refresh_at)
    for request in range(count):
        if not is_write[request]:
            latency += done[leader[request]]
    return row_hits, end, latency


@inlined
def _bank_at(bank, nodes, ready, unasked):
    """Earliest cycle of a command for an entry of a bank's queue."""
    at = NEVER
    for code in range(4):
        at = min(at, unasked[bank, code] + bank_ready(nodes, ready, bank, code))
    return at


@inlined
def _choose(now, visited, refreshing, nodes, ready, unasked):
    """(cycle, bank) of the next command for an entry of a queue, the cycle from `now` on."""
    best, best_bank = NEVER, 0
    bank = visited
    for _ in range(len(unasked)):
        bank = bank + 1 if bank + 1 < len(unasked) else 0
        at = max(now, _bank_at(bank, nodes, ready, unasked))
        at = NEVER if nodes[bank, 0] == refreshing else at
        best_bank = bank if at < best else best_bank
        best = min(best, at)
    return best, best_bank


@njit(cache=True)
def _refresh(now, rank, nodes, ready, banks, ranks):
    """(cycle, command, bank) of the next step of a rank's refresh, the cycle from `now` on."""
    in_rank = len(banks) // len(ranks)
    if ranks[rank, OPEN] == 0:
        return max(now, ready[rank, REF]), REF, rank * in_rank
    best, best_bank = NEVER, 0
    for bank in range(rank * in_rank, (rank + 1) * in_rank):
        if banks[bank, ROW] >= 0:
            at = max(now, bank_ready(nodes, ready, bank, PRE))
            if at < best:
                best, best_bank = at, bank
    return best, PRE, best_bank


@inlined
def _first_ready(now, bank, nodes, ready, unasked, place_of):
    """Command of the first entry of a bank's queue whose next command may go at `now`."""
    first, first_place = -1, BANK_QUEUE
    for code in range(4):
        at = unasked[bank, code] + bank_ready(nodes, ready, bank, code)
        if at <= now and place_of[bank, code] < first_place:
            first, first_place = code, place_of[bank, code]
    return first


@inlined
def _look(bank, banks, queue, row_of, is_write, unasked, place_of):
    """Find what the entries of a bank's queue ask for, and which is the first for each command."""
    row, queued = banks[bank, ROW], banks[bank, QUEUED]
    for code in range(4):
        unasked[bank, code] = NEVER
        place_of[bank, code] = 0
    for place in range(queued - 1, -1, -1):
        request = queue[bank, place]
        if row_of[request] == row:
            code = WR if is_write[request] else RD
            unasked[bank, code] = 0
            place_of[bank, code] = place
    closes = (row >= 0) & (queued > 0) & (row_of[queue[bank, 0]] != row)
    missed = (unasked[bank, RD] > 0) & (unasked[bank, WR] > 0)
    closes &= missed | (banks[bank, SERVED] >= ENOUGH)
    unasked[bank, PRE] = 0 if closes else NEVER
    unasked[bank, ACT] = 0 if (row < 0) & (queued > 0) else NEVER
