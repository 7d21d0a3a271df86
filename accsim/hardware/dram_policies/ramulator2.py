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
    OPEN,
    OWN,
    ROW,
    close_row,
    command,
    open_row,
    run,
)
from accsim.hardware.dram_replay import Policy, requests
from accsim.hardware.dram_rules import ACT, NEVER, PRE, PREA, RD, REF, WR, bank_ready, inlined

BUFFER = 32  # reads, and as many writes
WRITES_ABOVE = 25  # 0.8 x BUFFER: more take the turn
WRITES_BELOW = 7  # 0.2 x BUFFER: fewer give it back

# Columns of banks[]: its active request, whether that is a write, its buffered reads and writes.
REQUEST, KIND, QUEUED = range(OWN, OWN + 3)


@dataclass(frozen=True)
class Ramulator2(Policy):
    """The controller of Ramulator 2.1, with its FRFCFS-RowHit or its FRFCFS scheduler."""

    row_hit: bool = True

    def replay(self, spec, mapping, arrivals, addresses, is_write, record=False):
        asked = requests(spec, mapping, arrivals, addresses, is_write)

        def play(memory):
            return _play(
                *memory, *asked, self.row_hit, spec.nREFI, spec.CL + spec.nBL, spec.CWL + spec.nBL
            )

        return run(spec, asked, play, 4, record)


@njit(cache=True)
def _play(
    constraints, nodes, ready, banks, ranks, counts, log,
    arrivals, is_write, bank_of, row_of, prior_read, prior_write,
    row_hit, refresh_interval, read_cycles, write_cycles,
):  # fmt: skip
    """Play all requests; (row hits, cycle of the end, sum of read latencies).

    Each clock accepts a request and then issues a command, of the clock after. Nothing changes
    between two clocks that do one of these, so time jumps from one to the next.
    """
    count, in_rank = len(arrivals), len(banks) // len(ranks)
    queue = np.zeros((2, len(banks), BUFFER), np.int64)  # buffered reads, writes of a bank by age
    place_of = np.zeros((2, len(banks), 4), np.int64)  # the oldest whose next command is RD, WR ...
    unasked = np.full((2, len(banks), 4), NEVER)  # 0 where there is one, and it may go
    waits = np.zeros(2, np.int64)  # buffered reads, writes
    active_in = np.zeros(len(ranks), np.int64)  # active requests
    leader = np.arange(count)  # the write whose WR serves a write
    buffered = np.zeros(count, np.bool_)  # is a write that waits in its buffer
    started = np.zeros(count, np.bool_)
    returned = np.full(count, NEVER)  # when a read has its data
    now = accepted = actives = row_hits = end = latency = last_return = 0
    refresh_at, due, refreshed = refresh_interval, 0, 0
    refreshing = -1  # rank
    writing = 0  # kind that has the turn
    stale = True  # the choice of the next command
    of_active = False
    command_at, code, bank = NEVER, REF, 0
    banks[:, REQUEST] = -1
    while True:
        accept_at = NEVER
        if accepted < count:
            kind = 1 if is_write[accepted] else 0
            read, write = prior_read[accepted], prior_write[accepted]
            shares = write >= 0 and buffered[leader[write]]
            if shares or waits[kind] < BUFFER:
                accept_at = max(now, arrivals[accepted])
                if kind == 1 and read >= 0:
                    accept_at = max(accept_at, returned[read])
            if accept_at == now:
                if shares and kind == 1:
                    leader[accepted] = leader[write]
                elif shares:
                    last_return = max(last_return, now + 1)
                    returned[accepted] = last_return
                    latency += last_return - now
                else:
                    to = bank_of[accepted]
                    queue[kind, to, banks[to, QUEUED + kind]] = accepted
                    banks[to, QUEUED + kind] += 1
                    waits[kind] += 1
                    buffered[accepted] = kind == 1
                    latency -= 0 if kind == 1 else now
                    _look(kind, to, row_hit, banks, queue, row_of, unasked, place_of)
                    stale = True
                accepted += 1
                accept_at = now + 1 if accepted < count else NEVER

        now += 1
        if now == refresh_at:
            due += len(ranks)
            refresh_at += refresh_interval
            refreshing = refreshed % len(ranks)
            stale = True
        if stale:
            stale = False
            command_at, bank = _choose_active(now, actives, nodes, ready, banks)
            of_active = True
            if command_at > now and refreshing >= 0:
                step = PREA if ranks[refreshing, OPEN] > 0 else REF
                at = max(now, ready[refreshing, step])
                if active_in[refreshing] == 0 and at < command_at:
                    command_at, code, bank, of_active = at, step, refreshing * in_rank, False
            elif command_at > now:
                if writing == 1:
                    writing = 1 if waits[1] >= WRITES_BELOW or waits[0] == 0 else 0
                else:
                    writing = 1 if waits[1] > WRITES_ABOVE or waits[0] == 0 else 0
                at, its_code, its_bank = _choose(
                    now, writing, nodes, ready, queue, unasked, place_of
                )
                if at < command_at:
                    command_at, code, bank, of_active = at, its_code, its_bank, False
        if command_at > now:
            if accepted == count and actives + waits[0] + waits[1] == 0:
                if now >= last_return:
                    break
                accept_at = last_return - 1  # only refresh may go on until then
            now = min(command_at - 1, refresh_at - 1, max(now, accept_at))
            continue

        stale = True
        rank = nodes[bank, 0]
        kind, place = writing, 0
        if of_active:
            kind = code = banks[bank, KIND]
            request = banks[bank, REQUEST]
        else:
            place = place_of[kind, bank, code] if code < PREA else 0
            request = queue[kind, bank, place]
        row = row_of[request]
        command(constraints, nodes, ready, ranks, counts, log, now, code, bank, row)
        if code == REF:
            refreshed += 1
            refreshing = refreshed % len(ranks) if due > refreshed else -1
            continue
        if code == PREA:
            for closed in range(rank * in_rank, (rank + 1) * in_rank):
                if banks[closed, ROW] >= 0:
                    close_row(nodes, banks, ranks, now, closed)
                _look(0, closed, row_hit, banks, queue, row_of, unasked, place_of)
                _look(1, closed, row_hit, banks, queue, row_of, unasked, place_of)
            continue
        if code == RD:
            end = max(end, now + read_cycles)
            last_return = max(last_return, now + read_cycles)
            returned[request] = last_return
            latency += now + read_cycles
        elif code == WR:
            end = max(end, now + write_cycles)
        elif code == ACT:
            open_row(nodes, banks, ranks, now, bank, row)
            banks[bank, REQUEST] = request
            banks[bank, KIND] = kind
            active_in[rank] += 1
            actives += 1
        else:
            close_row(nodes, banks, ranks, now, bank)
        row_hits += code <= WR and not started[request]
        started[request] = True
        if of_active:
            banks[bank, REQUEST] = -1
            active_in[rank] -= 1
            actives -= 1
        elif code != PRE:
            buffered[request] = False
            waits[kind] -= 1
            banks[bank, QUEUED + kind] -= 1
            for later in range(place, banks[bank, QUEUED + kind]):
                queue[kind, bank, later] = queue[kind, bank, later + 1]
        _look(0, bank, row_hit, banks, queue, row_of, unasked, place_of)
        _look(1, bank, row_hit, banks, queue, row_of, unasked, place_of)
    return row_hits, end, latency


@inlined
def _choose_active(now, actives, nodes, ready, banks):
    """(cycle, bank) of the next command for an active request, the cycle from `now` on."""
    best, best_bank, oldest = NEVER, 0, NEVER
    for bank in range(len(banks) if actives > 0 else 0):
        request = banks[bank, REQUEST]
        at = max(now, bank_ready(nodes, ready, bank, banks[bank, KIND]))
        at = NEVER if request < 0 else at
        better = (at < best) | ((at == best) & (request < oldest))
        best = at if better else best
        best_bank = bank if better else best_bank
        oldest = request if better else oldest
    return best, best_bank


@inlined
def _choose(now, kind, nodes, ready, queue, unasked, place_of):
    """(cycle, command, bank) of the next command for a buffered request, the cycle from `now` on.

    The earliest command goes, at a tie that of the oldest request.
    """
    best, best_code, best_bank, oldest = NEVER, RD, 0, NEVER
    for bank in range(len(nodes)):
        for code in range(4):
            at = max(now, unasked[kind, bank, code] + bank_ready(nodes, ready, bank, code))
            request = queue[kind, bank, place_of[kind, bank, code]]
            better = (at < best) | ((at == best) & (request < oldest))
            best = at if better else best
            best_code = code if better else best_code
            best_bank = bank if better else best_bank
            oldest = request if better else oldest
    return best, best_code, best_bank


@inlined
def _look(kind, bank, row_hit, banks, queue, row_of, unasked, place_of):
    """Find what a bank's buffered requests ask for, and which is the oldest for each command."""
    row, queued = banks[bank, ROW], banks[bank, QUEUED + kind]
    hit = other = BUFFER
    for place in range(queued - 1, -1, -1):
        hits = row_of[queue[kind, bank, place]] == row
        hit = place if hits else hit
        other = other if hits else place
    closes = (row >= 0) & (other < BUFFER) & (banks[bank, REQUEST] < 0)
    closes &= (other < hit) | (not row_hit)
    place_of[kind, bank, kind] = min(hit, BUFFER - 1)
    place_of[kind, bank, PRE] = min(other, BUFFER - 1)
    unasked[kind, bank, kind] = 0 if hit < BUFFER else NEVER
    unasked[kind, bank, PRE] = 0 if closes else NEVER
    unasked[kind, bank, ACT] = 0 if (row < 0) & (queued > 0) else NEVER
