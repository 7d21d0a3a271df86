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

from accsim.hardware.dram_policies.device import LOGGED, command, power_up, replayed, with_room
from accsim.hardware.dram_replay import Policy, requests
from accsim.hardware.dram_rules import (
    ACT,
    NEVER,
    PRE,
    RD,
    REF,
    WR,
    bank_ready,
    inlined,
    timing,
)

QUEUE = 32  # reads, and as many writes
BANK_QUEUE = 8
DRAIN_ABOVE = 8  # writes, once all command queues are empty
SERVED = 4  # after so many an open row may close over waiting hits

CLOSE, READ_HIT, WRITE_HIT = range(3)  # columns of offers[]: may close; places of first hits or -1


@dataclass(frozen=True)
class DramSim3(Policy):
    """The controller of DRAMsim3; see the module."""

    def replay(self, spec, mapping, arrivals, addresses, is_write, record=False):
        asked = requests(spec, mapping, arrivals, addresses, is_write)
        device, *outcome = _play(
            power_up(timing(spec), spec.ranks, record), asked, spec.nREFI // spec.ranks,
            spec.CL + spec.nBL, spec.CWL + spec.nBL,
        )  # fmt: skip
        return replayed(spec, device, asked.is_write, outcome)


@njit(cache=True)
def _play(device, asked, refresh_interval, read_cycles, write_cycles):
    """Play all requests; (device, row hits, cycle of the end, sum of read latencies).

    Each clock first issues a command, then moves a request on, then accepts one. Nothing changes
    between two clocks that do one of these, so time jumps from one to the next.
    """
    count, banks, ranks = len(asked.bank), len(device.row), len(device.active)
    queue = np.zeros((banks, BANK_QUEUE), np.int64)  # requests by age
    queued = np.zeros(banks, np.int64)
    offers = np.zeros((banks, 3), np.int64)
    waiting = np.zeros((2, QUEUE), np.int64)  # reads, writes by age
    waits = np.zeros(2, np.int64)
    leader = np.arange(count)  # the request whose burst serves it
    done = np.full(count, NEVER)  # end of the data of a leader
    now = accepted = in_queues = draining = row_hits = end = latency = 0
    refresh_at, due, refreshed = refresh_interval, 0, 0
    visited = banks - 1
    stuck = False  # no waiting request can move on
    stale = True  # the choice of the next command
    command_at, code, bank, place = NEVER, REF, 0, 0
    while True:
        if now == refresh_at:
            due += 1
            refresh_at += refresh_interval
            stale = True
        refreshing = refreshed % ranks if due > refreshed else -1
        if stale:
            command_at, code, bank, place = _choose(
                now, visited, refreshing, device, queued, offers
            )
            stale = False
        if command_at == now:
            stale = True
            request = queue[bank, place]
            if code in (RD, WR):
                row_hits += device.served[bank] > 0
                done[request] = now + (read_cycles if code == RD else write_cycles)
                end = max(end, done[request])
                stuck &= queued[bank] < BANK_QUEUE
                queued[bank] -= 1
                in_queues -= 1
                for later in range(place, queued[bank]):
                    queue[bank, later] = queue[bank, later + 1]
            command(device, now, code, bank, asked.row[request])
            if len(device.log) > 0 and device.counts[LOGGED] == len(device.log):
                device = with_room(device)
            if code == REF:
                refreshed += 1
                refreshing = refreshed % ranks if due > refreshed else -1
            else:
                _look(bank, device, asked, queue, queued, offers)
                if device.timing.nodes[bank, 0] != refreshing:
                    visited = bank

        if draining == 0 and (waits[1] == QUEUE or (waits[1] > DRAIN_ABOVE and in_queues == 0)):
            draining = waits[1]
            stuck = False
        changed = False
        if not stuck:
            kind = 1 if draining > 0 else 0
            stuck = True
            for oldest in range(waits[kind]):
                request = waiting[kind, oldest]
                to = asked.bank[request]
                if queued[to] < BANK_QUEUE:
                    queue[to, queued[to]] = request
                    queued[to] += 1
                    in_queues += 1
                    _look(to, device, asked, queue, queued, offers)
                    waits[kind] -= 1
                    for later in range(oldest, waits[kind]):
                        waiting[kind, later] = waiting[kind, later + 1]
                    draining -= kind
                    stuck = False
                    changed = stale = True
                    break

        accept_at = NEVER
        if accepted < count:
            accept_at = _acceptable(now, accepted, asked, waits, leader, done)
            if accept_at == now:
                _accept(now, accepted, asked, waiting, waits, leader, done)
                if not asked.is_write[accepted]:
                    latency -= now + 1
                accepted += 1
                stuck = False
                changed = True
        if accepted == count and waits[0] == 0 and in_queues == 0:
            if waits[1] == 0:
                break
            if draining == 0:
                draining = waits[1]
                stuck = False
                changed = True

        if changed:
            now += 1
            continue
        if stale:
            command_at, code, bank, place = _choose(
                now + 1, visited, refreshing, device, queued, offers
            )
            stale = False
        now = min(command_at, accept_at, refresh_at)
    for request in range(count):
        if not asked.is_write[request]:
            latency += done[leader[request]]
    return device, row_hits, end, latency


@inlined
def _choose(now, visited, refreshing, device, queued, offers):
    """(cycle, command, bank, place in its queue) of the next command, the cycle from `now` on.

    `refreshing` is the rank to be refreshed, or -1.
    """
    best, best_code, best_bank = NEVER, -1, 0
    banks, in_rank = len(queued), len(queued) // len(device.active)
    if refreshing >= 0:
        for bank in range(refreshing * in_rank, (refreshing + 1) * in_rank):
            if device.row[bank] >= 0:
                at = max(now, bank_ready(device.timing, device.ready, bank, PRE))
                if at < best:
                    best, best_code, best_bank = at, PRE, bank
        if device.open_banks[refreshing] == 0:
            best, best_code, best_bank = (
                max(now, device.ready[refreshing, REF]), REF, refreshing * in_rank,
            )  # fmt: skip
    bank = visited
    for _ in range(banks):
        if best == now:
            break
        bank = bank + 1 if bank + 1 < banks else 0
        if queued[bank] == 0 or device.timing.nodes[bank, 0] == refreshing:
            continue
        if device.row[bank] < 0:
            at = bank_ready(device.timing, device.ready, bank, ACT)
        else:
            at = NEVER
            if offers[bank, CLOSE] > 0:
                at = bank_ready(device.timing, device.ready, bank, PRE)
            if offers[bank, READ_HIT] >= 0:
                at = min(at, bank_ready(device.timing, device.ready, bank, RD))
            if offers[bank, WRITE_HIT] >= 0:
                at = min(at, bank_ready(device.timing, device.ready, bank, WR))
        at = max(now, at)
        if at < best:
            best, best_code, best_bank = at, -1, bank
    place = 0
    if best_code < 0 and best < NEVER:
        best_code, place = _first_ready(best, best_bank, device, offers)
    return best, best_code, best_bank, place


@inlined
def _first_ready(at, bank, device, offers):
    """(command, place) of the first entry of a bank's queue whose next command may go at `at`."""
    if device.row[bank] < 0:
        return ACT, 0
    if offers[bank, CLOSE] > 0 and bank_ready(device.timing, device.ready, bank, PRE) <= at:
        return PRE, 0
    read, write = offers[bank, READ_HIT], offers[bank, WRITE_HIT]
    if read >= 0 and bank_ready(device.timing, device.ready, bank, RD) > at:
        read = -1
    if write >= 0 and bank_ready(device.timing, device.ready, bank, WR) > at:
        write = -1
    if write < 0 or 0 <= read < write:
        return RD, read
    return WR, write


@inlined
def _look(bank, device, asked, queue, queued, offers):
    """Find what the entries of a bank's queue may ask for."""
    row = device.row[bank]
    read = write = -1
    for place in range(queued[bank] - 1, -1, -1):
        request = queue[bank, place]
        if asked.row[request] == row:
            if asked.is_write[request]:
                write = place
            else:
                read = place
    offers[bank, READ_HIT] = read
    offers[bank, WRITE_HIT] = write
    offers[bank, CLOSE] = (
        queued[bank] > 0
        and row >= 0
        and asked.row[queue[bank, 0]] != row
        and ((read < 0 and write < 0) or device.served[bank] >= SERVED)
    )


@inlined
def _acceptable(now, request, asked, waits, leader, done):
    """Earliest cycle from `now` on at which a request may be accepted, as far as is known."""
    is_write = asked.is_write[request]
    if waits[1 if is_write else 0] == QUEUE:
        return NEVER
    at = max(now, asked.arrivals[request])
    before = asked.prior_read[request]
    if is_write and before >= 0:
        at = max(at, done[leader[before]])
    return at


@inlined
def _accept(now, request, asked, waiting, waits, leader, done):
    """Put a request where it waits, or let an earlier one of its address serve it."""
    write = asked.prior_write[request]
    buffered = write >= 0 and done[leader[write]] == NEVER
    kind = 0
    if asked.is_write[request]:
        kind = 1
        if buffered:
            leader[request] = leader[write]
            return
    else:
        if buffered:
            done[request] = now + 2
            return
        read = asked.prior_read[request]
        if read >= 0 and done[leader[read]] == NEVER:
            leader[request] = leader[read]
            return
    waiting[kind, waits[kind]] = request
    waits[kind] += 1
