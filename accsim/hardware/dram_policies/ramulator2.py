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

from accsim.hardware.dram_policies.device import LOGGED, command, power_up, replayed, with_room
from accsim.hardware.dram_replay import Policy, requests
from accsim.hardware.dram_rules import (
    ACT,
    NEVER,
    PRE,
    PREA,
    RD,
    REF,
    WR,
    bank_ready,
    inlined,
    timing,
)

BUFFER = 32  # reads, and as many writes
WRITES_ABOVE = 25  # 0.8 x BUFFER: more take the turn
WRITES_BELOW = 7  # 0.2 x BUFFER: fewer give it back

HIT, OTHER = range(
    2
)  # columns of offers[]: place of the oldest request of the open row, of another


@dataclass(frozen=True)
class Ramulator2(Policy):
    """The controller of Ramulator 2.1, with its FRFCFS-RowHit or its FRFCFS scheduler."""

    row_hit: bool = True

    def replay(self, spec, mapping, arrivals, addresses, is_write, record=False):
        asked = requests(spec, mapping, arrivals, addresses, is_write)
        device, *outcome = _play(
            power_up(timing(spec), spec.ranks, record), asked, self.row_hit, spec.nREFI,
            spec.CL + spec.nBL, spec.CWL + spec.nBL,
        )  # fmt: skip
        return replayed(spec, device, asked.is_write, outcome)


@njit(cache=True)
def _play(device, asked, row_hit, refresh_interval, read_cycles, write_cycles):
    """Play all requests; (device, row hits, cycle of the end, sum of read latencies).

    Each clock accepts a request and then issues a command, of the clock after. Nothing changes
    between two clocks that do one of these, so time jumps from one to the next.
    """
    count, banks, ranks = len(asked.bank), len(device.row), len(device.active)
    queue = np.zeros((2, banks, BUFFER), np.int64)  # buffered reads, writes of a bank by age
    queued = np.zeros((2, banks), np.int64)
    offers = np.full((2, banks, 2), -1)
    waits = np.zeros(2, np.int64)  # buffered reads, writes
    active = np.full(banks, -1)  # request that opened the bank and is not served yet
    active_in = np.zeros(ranks, np.int64)
    leader = np.arange(count)  # the write whose WR serves a write
    buffered = np.zeros(count, np.bool_)  # is a write that waits in its buffer
    started = np.zeros(count, np.bool_)
    returned = np.full(count, NEVER)  # when a read has its data
    now = accepted = row_hits = end = latency = last_return = 0
    refresh_at, due, refreshed = refresh_interval, 0, 0
    writing = False
    stale = True  # the choice of the next command
    command_at, code, bank, place = NEVER, REF, 0, 0
    while True:
        if _acceptable(now, accepted, asked, waits, leader, buffered, returned) == now:
            kind = 1 if asked.is_write[accepted] else 0
            before = asked.prior_write[accepted]
            if before >= 0 and buffered[leader[before]]:
                if kind == 1:
                    leader[accepted] = leader[before]
                else:
                    last_return = max(last_return, now + 1)
                    returned[accepted] = last_return
                    latency += 1
            else:
                bank_asked = asked.bank[accepted]
                queue[kind, bank_asked, queued[kind, bank_asked]] = accepted
                queued[kind, bank_asked] += 1
                waits[kind] += 1
                buffered[accepted] = kind == 1
                _look(kind, bank_asked, device, asked, queue, queued, offers)
                if kind == 0:
                    latency -= now
            accepted += 1
            stale = True

        now += 1
        if now == refresh_at:
            due += ranks
            refresh_at += refresh_interval
            stale = True
        if stale:
            refreshing = refreshed % ranks if due > refreshed else -1
            writing, command_at, code, bank, place = _choose(
                now, writing, refreshing, row_hit, device, asked, queue, queued, offers, waits,
                active, active_in,
            )  # fmt: skip
            stale = False
        if command_at > now:
            if accepted == count and waits[0] + waits[1] + active_in.sum() == 0:
                break
            at = _acceptable(now, accepted, asked, waits, leader, buffered, returned)
            now = min(command_at - 1, refresh_at - 1, at)
            continue
        stale = True
        kind = 1 if writing else 0
        request = active[bank] if place < 0 else queue[kind, bank, place]
        command(device, now, code, bank, asked.row[request])
        if len(device.log) > 0 and device.counts[LOGGED] == len(device.log):
            device = with_room(device)
        if code == REF:
            refreshed += 1
        elif code == PREA:
            rank = device.timing.nodes[bank, 0]
            for closed in range(rank * banks // ranks, (rank + 1) * banks // ranks):
                _look(0, closed, device, asked, queue, queued, offers)
                _look(1, closed, device, asked, queue, queued, offers)
        else:
            if code in (RD, WR):
                row_hits += not started[request]
                if code == RD:
                    end = max(end, now + read_cycles)
                    last_return = max(last_return, now + read_cycles)
                    returned[request] = last_return
                    latency += now + read_cycles
                else:
                    end = max(end, now + write_cycles)
            started[request] = True
            rank = device.timing.nodes[bank, 0]
            if place < 0:
                active[bank] = -1
                active_in[rank] -= 1
            elif code != PRE:
                buffered[request] = False
                waits[kind] -= 1
                queued[kind, bank] -= 1
                for later in range(place, queued[kind, bank]):
                    queue[kind, bank, later] = queue[kind, bank, later + 1]
                if code == ACT:
                    active[bank] = request
                    active_in[rank] += 1
            _look(0, bank, device, asked, queue, queued, offers)
            _look(1, bank, device, asked, queue, queued, offers)
    return device, row_hits, end, latency


@inlined
def _acceptable(now, request, asked, waits, leader, buffered, returned):
    """Earliest cycle from `now` on at which a request may be accepted, as far as is known."""
    if request == len(asked.bank):
        return NEVER
    kind = 1 if asked.is_write[request] else 0
    if waits[kind] == BUFFER:
        before = asked.prior_write[request]
        if before < 0 or not buffered[leader[before]]:
            return NEVER
    at = max(now, asked.arrivals[request])
    before = asked.prior_read[request]
    if kind == 1 and before >= 0:
        at = max(at, returned[before])
    return at


@inlined
def _choose(
    now, writing, refreshing, row_hit, device, asked, queue, queued, offers, waits, active, active_in
):  # fmt: skip
    """(whether writes have the turn, cycle, command, bank, place in its queue) of the next command.

    The cycle is from `now` on; the place is -1 for an active request and for a refresh.
    `refreshing` is the rank to be refreshed, or -1.
    """
    best, best_code, best_bank, best_place, oldest = NEVER, REF, 0, -1, NEVER
    banks, ranks = len(active), len(active_in)
    if active_in.sum() > 0:
        for bank in range(banks):
            request = active[bank]
            if request >= 0:
                code = WR if asked.is_write[request] else RD
                at = max(now, bank_ready(device.timing, device.ready, bank, code))
                if at < best or (at == best and request < oldest):
                    best, best_code, best_bank, oldest = at, code, bank, request
    if best == now:
        return writing, best, best_code, best_bank, best_place
    if refreshing >= 0:
        code = PREA if device.open_banks[refreshing] > 0 else REF
        at = max(now, device.ready[refreshing, code])
        if active_in[refreshing] == 0 and at < best:
            best, best_code, best_bank = at, code, refreshing * banks // ranks
        return writing, best, best_code, best_bank, best_place

    if writing:
        writing = waits[1] >= WRITES_BELOW or waits[0] == 0
    else:
        writing = waits[1] > WRITES_ABOVE or waits[0] == 0
    kind = 1 if writing else 0
    oldest = -1  # an active request goes first at a tie
    for bank in range(banks):
        if queued[kind, bank] == 0:
            continue
        if device.row[bank] < 0:
            request = queue[kind, bank, 0]
            at = max(now, bank_ready(device.timing, device.ready, bank, ACT))
            if at < best or (at == best and request < oldest):
                best, best_code, best_bank, best_place, oldest = at, ACT, bank, 0, request
            continue
        hit, other = offers[kind, bank, HIT], offers[kind, bank, OTHER]
        if hit >= 0:
            code = WR if writing else RD
            request = queue[kind, bank, hit]
            at = max(now, bank_ready(device.timing, device.ready, bank, code))
            if at < best or (at == best and request < oldest):
                best, best_code, best_bank, best_place, oldest = at, code, bank, hit, request
        if other >= 0 and active[bank] < 0 and not (row_hit and 0 <= hit < other):
            request = queue[kind, bank, other]
            at = max(now, bank_ready(device.timing, device.ready, bank, PRE))
            if at < best or (at == best and request < oldest):
                best, best_code, best_bank, best_place, oldest = at, PRE, bank, other, request
    return writing, best, best_code, best_bank, best_place


@inlined
def _look(kind, bank, device, asked, queue, queued, offers):
    """Find the oldest requests of a bank's queue for its open row and for another."""
    row = device.row[bank]
    hit = other = -1
    for place in range(queued[kind, bank]):
        if asked.row[queue[kind, bank, place]] == row:
            if hit < 0:
                hit = place
                if other >= 0:
                    break
        elif other < 0:
            other = place
            if hit >= 0:
                break
    offers[kind, bank, HIT] = hit
    offers[kind, bank, OTHER] = other
