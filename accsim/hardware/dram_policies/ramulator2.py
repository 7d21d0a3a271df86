"""The controller of Ramulator 2.1, to the clock: first-ready scheduling over whole buffers.

Written from its behaviour (CMU-SAFARI/ramulator2, commit c5b1c3a4, MIT): GenericDDR with open rows
and AllBank refresh. Reads and writes wait in a buffer (32) each; a request whose ACT has gone moves
to the active buffer. One command a clock: the oldest active request that is ready; else what a due
refresh needs, PREA or REF, while other requests wait; else the oldest request of the buffer in turn
whose next command is ready, whatever command that is. A PRE never closes a bank with an active
request; with FRFCFS-RowHit nor one with an older waiting hit. Writes have the turn from more than
0.8 of their buffer on, or when no read waits, until fewer than 0.2 are left and a read waits; this
is asked only in clocks in which no active request is ready and no refresh is due.

A read of the address of a write that still waits in its buffer returns after a clock, in order with
the data of other reads; a write to such an address is dropped. A write is over at its WR.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from accsim.hardware.dram_policies.device import (
    LOGGED,
    OPEN,
    OWN,
    ROW,
    command,
    device,
    longer,
    replayed,
)
from accsim.hardware.dram_replay import Policy, requests
from accsim.hardware.dram_rules import ACT, NEVER, PRE, PREA, RD, REF, WR, bank_ready, inlined

BUFFER = 32  # reads, and as many writes
WRITES_ABOVE = 25  # 0.8 x BUFFER: more take the turn
WRITES_BELOW = 7  # 0.2 x BUFFER: fewer give it back

# Columns of banks[]: its active request or -1; for reads, and 3 columns on for writes, how many are
# buffered, and the places of the oldest for the open row and for another row, or -1.
ACTIVE_REQUEST, QUEUED, HIT, OTHER = range(OWN, OWN + 4)
WRITES = 3


@dataclass(frozen=True)
class Ramulator2(Policy):
    """The controller of Ramulator 2.1, with its FRFCFS-RowHit or its FRFCFS scheduler."""

    row_hit: bool = True

    def replay(self, spec, mapping, arrivals, addresses, is_write, record=False):
        asked = requests(spec, mapping, arrivals, addresses, is_write)
        memory = device(spec, 7, record)
        outcome = _play(
            *memory, *asked, self.row_hit, spec.nREFI, spec.CL + spec.nBL, spec.CWL + spec.nBL
        )
        return replayed(spec, asked, memory, outcome)


@njit(cache=True)
def _play(
    constraints, nodes, ready, banks, ranks, counts, log,
    arrivals, is_write, bank_of, row_of, prior_read, prior_write,
    row_hit, refresh_interval, read_cycles, write_cycles,
):  # fmt: skip
    """Play all requests; (log, row hits, cycle of the end, sum of read latencies).

    Each clock accepts a request and then issues a command, of the clock after. Nothing changes
    between two clocks that do one of these, so time jumps from one to the next.
    """
    count = len(arrivals)
    queue = np.zeros((2, len(banks), BUFFER), np.int64)  # buffered reads, writes by age
    waits = np.zeros(2, np.int64)  # buffered reads, writes
    active_in = np.zeros(len(ranks), np.int64)  # active requests
    leader = np.arange(count)  # the write whose WR serves a write
    buffered = np.zeros(count, np.bool_)  # is a write that waits in its buffer
    started = np.zeros(count, np.bool_)
    returned = np.full(count, NEVER)  # when a read has its data
    now = accepted = actives = row_hits = end = latency = last_return = 0
    refresh_at, due, refreshed = refresh_interval, 0, 0
    refreshing = -1  # rank
    writing = False
    stale = True  # the choice of the next command
    command_at, code, bank, place = NEVER, REF, 0, 0
    banks[:, ACTIVE_REQUEST] = -1
    while True:
        accept_at = _acceptable(
            now, accepted, waits, arrivals, is_write, prior_read, prior_write, leader, buffered,
            returned,
        )  # fmt: skip
        if accept_at == now:
            kind = 1 if is_write[accepted] else 0
            write = prior_write[accepted]
            if write >= 0 and buffered[leader[write]]:
                if kind == 1:
                    leader[accepted] = leader[write]
                else:
                    last_return = max(last_return, now + 1)
                    returned[accepted] = last_return
                    latency += last_return - now
            else:
                to, own = bank_of[accepted], kind * WRITES
                queue[kind, to, banks[to, QUEUED + own]] = accepted
                banks[to, QUEUED + own] += 1
                waits[kind] += 1
                if kind == 1:
                    buffered[accepted] = True
                else:
                    latency -= now
                _look(kind, to, banks, queue, row_of)
                stale = True
            accepted += 1

        now += 1
        if now == refresh_at:
            due += len(ranks)
            refresh_at += refresh_interval
            refreshing = refreshed % len(ranks)
            stale = True
        if stale:
            writing, command_at, code, bank, place = _choose(
                now, writing, refreshing, row_hit, actives, nodes, ready, banks, ranks, queue,
                waits, active_in, is_write,
            )  # fmt: skip
            stale = False
        if command_at > now:
            accept_at = _acceptable(
                now, accepted, waits, arrivals, is_write, prior_read, prior_write, leader,
                buffered, returned,
            )  # fmt: skip
            if accepted == count and actives + waits[0] + waits[1] == 0:
                if now >= last_return:
                    break
                accept_at = last_return - 1  # only refresh may go on until then
            now = min(command_at - 1, refresh_at - 1, accept_at)
            continue

        stale = True
        rank = nodes[bank, 0]
        kind = 1 if writing else 0
        request = queue[kind, bank, place] if place >= 0 else banks[bank, ACTIVE_REQUEST]
        command(
            constraints, nodes, ready, banks, ranks, counts, log, now, code, bank, row_of[request]
        )
        if len(log) > 0 and counts[LOGGED] == len(log):
            log = longer(log)
        if code == REF:
            refreshed += 1
            refreshing = refreshed % len(ranks) if due > refreshed else -1
            continue
        if code == PREA:
            in_rank = len(banks) // len(ranks)
            for closed in range(rank * in_rank, (rank + 1) * in_rank):
                _look(0, closed, banks, queue, row_of)
                _look(1, closed, banks, queue, row_of)
            continue
        if code == RD:
            end = max(end, now + read_cycles)
            last_return = max(last_return, now + read_cycles)
            returned[request] = last_return
            latency += now + read_cycles
        elif code == WR:
            end = max(end, now + write_cycles)
        row_hits += code <= WR and not started[request]
        started[request] = True
        if place < 0:
            banks[bank, ACTIVE_REQUEST] = -1
            active_in[rank] -= 1
            actives -= 1
        elif code != PRE:
            own = kind * WRITES
            buffered[request] = False
            waits[kind] -= 1
            banks[bank, QUEUED + own] -= 1
            for later in range(place, banks[bank, QUEUED + own]):
                queue[kind, bank, later] = queue[kind, bank, later + 1]
            if code == ACT:
                banks[bank, ACTIVE_REQUEST] = request
                active_in[rank] += 1
                actives += 1
            else:
                _look(kind, bank, banks, queue, row_of)
        if code > WR:
            _look(0, bank, banks, queue, row_of)
            _look(1, bank, banks, queue, row_of)
    return log, row_hits, end, latency


@inlined
def _choose(
    now, writing, refreshing, row_hit, actives, nodes, ready, banks, ranks, queue, waits,
    active_in, is_write,
):  # fmt: skip
    """(whether writes have the turn, cycle, command, bank, place in its queue) of the next command.

    The cycle is from `now` on; the place is -1 for an active request and for a refresh.
    `refreshing` is the rank to be refreshed, or -1.
    """
    best, best_code, best_bank, best_place, oldest = NEVER, REF, 0, -1, NEVER
    if actives > 0:
        for bank in range(len(banks)):
            request = banks[bank, ACTIVE_REQUEST]
            if request >= 0:
                code = WR if is_write[request] else RD
                at = max(now, bank_ready(nodes, ready, bank, code))
                if at < best or (at == best and request < oldest):
                    best, best_code, best_bank, oldest = at, code, bank, request
    if best == now:
        return writing, best, best_code, best_bank, best_place
    if refreshing >= 0:
        code = PREA if ranks[refreshing, OPEN] > 0 else REF
        at = max(now, ready[refreshing, code])
        if active_in[refreshing] == 0 and at < best:
            best, best_code = at, code
            best_bank = refreshing * (len(banks) // len(ranks))
        return writing, best, best_code, best_bank, best_place

    if writing:
        writing = waits[1] >= WRITES_BELOW or waits[0] == 0
    else:
        writing = waits[1] > WRITES_ABOVE or waits[0] == 0
    kind, column = (1, WR) if writing else (0, RD)
    own = kind * WRITES
    oldest = -1  # an active request goes first at a tie
    for bank in range(len(banks)):
        if banks[bank, QUEUED + own] == 0:
            continue
        hit, other = banks[bank, HIT + own], banks[bank, OTHER + own]
        if banks[bank, ROW] < 0:
            at = max(now, bank_ready(nodes, ready, bank, ACT))
            if at < best or (at == best and queue[kind, bank, 0] < oldest):
                best, best_code, best_bank, best_place = at, ACT, bank, 0
                oldest = queue[kind, bank, 0]
            continue
        if hit >= 0:
            at = max(now, bank_ready(nodes, ready, bank, column))
            if at < best or (at == best and queue[kind, bank, hit] < oldest):
                best, best_code, best_bank, best_place = at, column, bank, hit
                oldest = queue[kind, bank, hit]
        if other >= 0 and banks[bank, ACTIVE_REQUEST] < 0 and not (row_hit and 0 <= hit < other):
            at = max(now, bank_ready(nodes, ready, bank, PRE))
            if at < best or (at == best and queue[kind, bank, other] < oldest):
                best, best_code, best_bank, best_place = at, PRE, bank, other
                oldest = queue[kind, bank, other]
    return writing, best, best_code, best_bank, best_place


@inlined
def _look(kind, bank, banks, queue, row_of):
    """Find the oldest buffered requests of a bank for its open row and for another."""
    row, own = banks[bank, ROW], kind * WRITES
    hit = other = -1
    for place in range(banks[bank, QUEUED + own]):
        if row_of[queue[kind, bank, place]] == row:
            if hit < 0:
                hit = place
        elif other < 0:
            other = place
        if hit >= 0 and other >= 0:
            break
    banks[bank, HIT + own] = hit
    banks[bank, OTHER + own] = other


@inlined
def _acceptable(
    now, request, waits, arrivals, is_write, prior_read, prior_write, leader, buffered, returned
):
    """Earliest cycle from `now` on at which a request may be accepted, as far as is known."""
    if request == len(arrivals):
        return NEVER
    if waits[1 if is_write[request] else 0] == BUFFER:
        write = prior_write[request]
        if write < 0 or not buffered[leader[write]]:
            return NEVER
    at = max(now, arrivals[request])
    read = prior_read[request]
    if is_write[request] and read >= 0:
        at = max(at, returned[read])
    return at
