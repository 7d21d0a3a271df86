"""Memory controller: open rows, first-ready scheduling, write drain and refresh, to the clock.

Requests (one burst each) of the active transfers enter a read and a write queue, one a clock, round
robin. Reads have the turn until none waits, or until many writes or old ones do; each turn first
serves what waited when it began, so neither starves. Each clock carries at most one command: of the
queue whose turn it is, the command that may go first; at a tie column commands before ACT before
PRE, then the oldest. A row stays open until a conflicting request or a refresh needs its bank. A
request never overtakes an older one of its address in the other queue; it waits for older requests
only, so the oldest can always go and nothing locks up. No state changes between commands, so
simulation jumps from one to the next; the cycles are those that ticking every clock would give.

Sources: Rixner et al., "Memory access scheduling", ISCA 2000 (first-ready, first-come); the
watermarks are those of Ramulator 2 (0.8 and 0.2 of the write queue); JESD79-4 (timing rules).
"""

from typing import NamedTuple

import numpy as np
import simpy
from numba import njit

from accsim.hardware.dram import AddressMapping, DramSpec, RowColumnBank

QUEUE_DEPTH = 32  # reads, and as many writes
WRITE_HIGH = 26  # so many waiting writes take the turn from waiting reads
WRITE_LOW = 6  # so many writes may be left when reads get it back
WRITE_PATIENCE_CYCLES = 2048  # writes that have waited longer take the turn
ROW_HITS_CAP = 16  # bursts of an open row, then an older request of another row goes first
NEVER = 1 << 60  # cycle

READ, WRITE = 0, 1  # queues and turns
COLUMN, ACT, PRE, PREA, REF = range(5)  # kinds of command, in order of preference
COMMANDS = ("RD", "WR", "ACT", "PRE", "PREA", "REF")  # codes in a trace

# Columns of the core's int64 tables.
_SPEC_RULES = (
    "tCK_ps", "CL", "CWL", "nBL", "nRCD", "nRP", "nRAS", "nRC", "nCCD_S", "nCCD_L", "nRRD_S",
    "nRRD_L", "nFAW", "nWTR_S", "nWTR_L", "nWR", "nRTP", "nRTW", "nRFC", "nREFI",
    "bank_groups", "banks", "rows",
)  # fmt: skip
(
    tCK, CL, CWL, nBL, nRCD, nRP, nRAS, nRC, nCCD_S, nCCD_L, nRRD_S,
    nRRD_L, nFAW, nWTR_S, nWTR_L, nWR, nRTP, nRTW, nRFC, nREFI,
    GROUPS, BANKS_IN_GROUP, ROWS, GROUP_SHIFT, BANK_SHIFT, ROW_SHIFT,
) = range(26)  # fmt: skip
# ranks[1], groups[bank groups], banks[all banks]: earliest cycle of a command as far as this
# level rules it; COLUMN_AT + READ or + WRITE; a bank has one COLUMN_AT for both.
ACT_AT, COLUMN_AT, _WRITE_AT = range(3)
PRE_AT, ROW, HITS = range(2, 5)  # banks: open row or -1, bursts of it
QUEUED, BLOCKED, FREE, ROOM_AT = range(4)  # queues[2]; FREE: first of the unused slots
FIRST, LAST = 0, 1  # chains[2, all banks]: a bank's requests by age, linked by NEXT, ended by -1
# requests[2, depth]
BURST, GROUP, BANK, WANTED_ROW, STREAM, BLOCKERS, AGE, STARTED, NEXT = range(9)
KIND, NEXT_BURST, TO_OFFER, TO_MOVE, OFFER_PS, INTERVAL_PS, OFFER_AT = range(7)  # streams
(
    CLOCK,  # earliest cycle of the next command
    ACCEPT_AT,  # earliest cycle at which the next request may enter
    REFRESH_AT,
    TURN,
    OWED,  # bursts that this turn still serves before the other may have it
    WRITES_WAIT_FROM,
    ACCEPTED,  # requests so far: the age of the next
    OFFERING,  # streams with requests still to enter, listed in offering[]
    POINTER,  # next of them in the round
    ACTIVE,  # transfers with a burst still to move
    OPEN_BANKS,
    OPENED_AT,  # since when a bank has been open
    OPEN_CYCLES,  # before that
    ACCOUNTED_TO,  # the data bus is accounted for up to here
    DATA_END,  # end of the last burst
    DATA_KIND,
    DATA_GROUP,
    REFRESH_BEGIN,  # last refresh: from due to done
    REFRESH_END,
    FINISHED,  # rows of finished[]: transfer's stream, cycle of its end
    TRACED,  # rows of trace[]
) = range(21)
COUNTS = (
    "reads", "writes", "activates", "precharges", "refreshes",
    "row_hits", "row_misses", "row_conflicts",
)  # fmt: skip
(
    N_READS, N_WRITES, N_ACTIVATES, N_PRECHARGES, N_REFRESHES, N_HITS, N_MISSES, N_CONFLICTS,
) = range(8)  # fmt: skip
CAUSES = ("busy", "refresh", "turnaround", "row", "wait")
BUSY, REFRESH, TURNAROUND, ROW_GAP, WAIT = range(5)

STUCK = -1  # in place of the next cycle: requests wait and no command can ever serve them
_TRACE_ROWS = 4096

# For the parts that run at every burst: a call would pass a dozen tables of seven words each.
_inlined = njit(cache=True, forceinline=True)


class Command(NamedTuple):
    """One line of a trace; PREA and REF are for all banks (-1), only ACT, RD, WR have a row."""

    cycle: int
    command: str
    bank_group: int
    bank: int
    row: int


class _Wake(simpy.Event):
    """Calls the controller after all ordinary events of its picosecond."""

    AFTER_ALL = 2  # simpy's own priorities are 0 and 1

    def __init__(self, env, callback, delay_ps):
        super().__init__(env)
        self.callbacks.append(callback)
        self._ok, self._value = True, None
        env.schedule(self, self.AFTER_ALL, delay_ps)


class DramController:
    """One channel of memory behind its controller; time is the environment's picoseconds.

    Parameters
    ----------
    env : simulation whose ``now`` is a whole number of picoseconds
    spec : the memory
    mapping : which address bits choose bank group, bank, row and column
    trace : record every command in `commands`
    """

    def __init__(
        self,
        env: simpy.Environment,
        spec: DramSpec,
        mapping: AddressMapping = RowColumnBank(),  # noqa: B008 (frozen)
        trace: bool = False,
    ):
        self.env = env
        self.spec = spec
        self.mapping = mapping
        self.commands: list[Command] = []
        shifts = mapping.shifts(spec)
        banks = spec.bank_groups * spec.banks
        self._rules = np.array(
            [getattr(spec, name) for name in _SPEC_RULES]
            + [shifts.bank_group, shifts.bank, shifts.row]
        )
        self._state = np.zeros(21, np.int64)
        self._state[REFRESH_AT] = spec.nREFI
        self._state[DATA_KIND] = -1
        self._ranks = np.zeros((1, 3), np.int64)
        self._groups = np.zeros((spec.bank_groups, 3), np.int64)
        self._banks = np.zeros((banks, 5), np.int64)
        self._banks[:, ROW] = -1
        self._window = np.full(4, -NEVER)  # cycles of the last four ACTs
        self._queues = np.zeros((2, 4), np.int64)
        self._requests = np.zeros((2, QUEUE_DEPTH, 9), np.int64)
        self._requests[:, :, NEXT] = [*range(1, QUEUE_DEPTH), -1]
        self._chains = np.full((2, banks, 2), -1)
        self._streams = np.zeros((16, 7), np.int64)
        self._offering = np.zeros(16, np.int64)
        self._finished = np.zeros((16, 2), np.int64)
        self._counts = np.zeros(len(COUNTS), np.int64)
        self._bus = np.zeros(len(CAUSES), np.int64)
        self._trace = np.zeros((_TRACE_ROWS if trace else 0, 5), np.int64)
        self._free = list(range(15, -1, -1))
        self._done: list[simpy.Event | None] = [None] * 16
        self._wake: _Wake | None = None
        self._finished_ps = 0

    def transfer(
        self, address: int, size_bytes: int, is_write: bool, interval_ps: int = 0
    ) -> simpy.Event:
        """Move `size_bytes` from byte `address` on, rounded out to whole bursts.

        Burst i of ``spec.burst_bytes`` is offered no earlier than now + i x `interval_ps`, the
        rate of the port. The event comes at the picosecond at which the last data beat has
        passed; like a `simpy.Timeout` it counts as triggered, not as processed, before.
        Raises ValueError for a range outside the memory.
        """
        if size_bytes < 1:
            raise ValueError(f"size_bytes of a transfer must be 1 or more, not {size_bytes}")
        if interval_ps < 0:
            raise ValueError(f"interval_ps of a transfer must be 0 or more, not {interval_ps}")
        if address < 0 or address + size_bytes > self.spec.capacity_bytes:
            raise ValueError(
                f"a transfer must lie within the {self.spec.capacity_bytes} bytes of "
                f"{self.spec.name}, not at {address:#x} with {size_bytes} bytes"
            )
        if not self._free:
            self._grow()
        now = int(self.env.now)
        arrival_cycle = -(-now // self.spec.tCK_ps)
        first = address // self.spec.burst_bytes
        bursts = (address + size_bytes - 1) // self.spec.burst_bytes - first + 1
        state, stream = self._state, self._free.pop()
        self._streams[stream] = (
            is_write, first, bursts, bursts, now, interval_ps, arrival_cycle
        )  # fmt: skip
        self._offering[state[OFFERING]] = stream
        state[OFFERING] += 1
        if state[ACTIVE] == 0:  # the bus was idle until now
            state[ACCOUNTED_TO] = max(state[ACCOUNTED_TO], arrival_cycle)
        state[ACTIVE] += 1
        done = self._done[stream] = simpy.Event(self.env)
        self._wake_in(0)
        return done

    def finish(self) -> None:
        """Bring refresh and accounts up to now; RuntimeError if a transfer is still on its way."""
        now = int(self.env.now)
        self._advance(-(-now // self.spec.tCK_ps))
        if self._state[ACTIVE] or self._state[DATA_END] * self.spec.tCK_ps > now:
            raise RuntimeError(
                f"the memory must be idle to finish, not moving data at {now} ps; "
                f"wait for the events of all transfers"
            )
        self._finished_ps = now

    @property
    def counts(self) -> dict[str, int]:
        """Bursts, commands, and bursts by what they found: their row, none, or another one."""
        return dict(zip(COUNTS, self._counts.tolist(), strict=True))

    @property
    def bus_ps(self) -> dict[str, int]:
        """Time of the data bus by cause, from 0 to the last burst or `finish`.

        busy: data; refresh, turnaround (read to write and back): requests wait for it; row: they
        wait for ACT, PRE and bank-group gaps; wait: transfers are active, but none had a request
        in time, command latency included; idle: no transfer is active.
        """
        causes = dict(zip(CAUSES, (self._bus * self.spec.tCK_ps).tolist(), strict=True))
        causes["idle"] = self._until_ps - sum(causes.values())
        return causes

    @property
    def active_ps(self) -> int:
        """Time with at least one row open, up to the last burst or `finish`."""
        state, tck = self._state, self.spec.tCK_ps
        open_now = max(0, self._until_ps - int(state[OPENED_AT]) * tck) if state[OPEN_BANKS] else 0
        return int(state[OPEN_CYCLES]) * tck + open_now

    @property
    def precharged_ps(self) -> int:
        """Time with all rows closed; `active_ps` and this are all time."""
        return self._until_ps - self.active_ps

    @property
    def _until_ps(self) -> int:
        return max(self._finished_ps, int(self._state[ACCOUNTED_TO]) * self.spec.tCK_ps)

    def _grow(self):
        """Room for twice as many transfers at once."""
        size = len(self._done)
        self._streams = np.concatenate([self._streams, np.zeros_like(self._streams)])
        self._offering = np.concatenate([self._offering, np.zeros_like(self._offering)])
        self._finished = np.concatenate([self._finished, np.zeros_like(self._finished)])
        self._done += [None] * size
        self._free = list(range(2 * size - 1, size - 1, -1))

    def _wake_in(self, delay_ps: int):
        self._wake = _Wake(self.env, self._on_wake, delay_ps)

    def _on_wake(self, wake):
        """Simulate up to the next event of anyone, and return then if there is more to do."""
        if wake is not self._wake:
            return  # a newer wake replaced it
        now, tck = int(self.env.now), self.spec.tCK_ps
        peek = self.env.peek()
        until = NEVER if peek == float("inf") else max(-(-int(peek) // tck), now // tck + 1)
        following = self._advance(until)
        if self._state[ACTIVE]:
            self._wake_in(following * tck - now)

    def _advance(self, until: int) -> int:
        """Play all cycles below `until` or the first completion; return the next busy cycle."""
        state, tck = self._state, self.spec.tCK_ps
        while True:
            following, until = advance(
                until, self._rules, state, self._ranks, self._groups, self._banks, self._window,
                self._queues, self._chains, self._requests, self._streams, self._offering,
                self._finished, self._counts, self._bus, self._trace,
            )  # fmt: skip
            for stream, end in self._finished[: state[FINISHED]].tolist():
                done, self._done[stream] = self._done[stream], None
                done._ok, done._value = True, None  # as simpy.Timeout does
                self.env.schedule(done, delay=end * tck - int(self.env.now))
                self._free.append(stream)
            state[FINISHED] = 0
            if state[TRACED]:
                self._read_trace()
            if following == STUCK:
                raise RuntimeError(self._stuck())
            if following >= until:
                return following

    def _read_trace(self):
        per_group = self.spec.banks
        for cycle, code, group, bank, row in self._trace[: self._state[TRACED]].tolist():
            bank = bank % per_group if bank >= 0 else bank
            self.commands.append(Command(cycle, COMMANDS[code], group, bank, row))
        self._state[TRACED] = 0

    def _stuck(self) -> str:
        kind = READ if self._queues[READ, QUEUED] else WRITE
        heads = self._chains[kind, :, FIRST]
        request = min(self._requests[kind, heads[heads >= 0]], key=lambda line: line[AGE])
        return (
            f"the memory controller must be able to serve its oldest {('read', 'write')[kind]}, of "
            f"{int(request[BURST]) * self.spec.burst_bytes:#x}, but no command can ever be issued"
        )


@njit(cache=True)
def advance(
    until, rules, state, ranks, groups, banks, window, queues, chains, requests, streams, offering,
    finished, counts, bus, trace,
):  # fmt: skip
    """Play commands and acceptances of all cycles below `until`; stop early at a completion.

    Returns (next cycle at which anything can happen or STUCK, `until` or the earlier end of the
    first transfer that completed). Chopping time into several calls never changes a cycle: what
    happens depends on the tables alone. It stops short of `until` only when `trace` is full.
    """
    command_at, kind, slot = NEVER, REF, 0
    stale = True  # the choice of the next command
    while True:
        stale |= _take_turn(state, queues)
        if stale:
            command_at, kind, slot = _choose(state, ranks, groups, banks, chains, requests)
            if command_at == NEVER and queues[READ, QUEUED] + queues[WRITE, QUEUED] > 0:
                return STUCK, until
            if command_at >= state[REFRESH_AT]:
                command_at, kind = _refresh(state, banks)
        accept_at, place = _next_offer(state, queues, streams, offering)
        following = min(command_at, accept_at)
        if following >= until or (len(trace) > 0 and state[TRACED] == len(trace)):
            return following, until
        if accept_at < command_at:
            stale = _accept(
                accept_at, place, rules, state, banks, queues, chains, requests, streams, offering,
                bus,
            )  # fmt: skip
            continue
        stale = True
        turn = state[TURN]
        state[CLOCK] = command_at + 1
        if len(trace) > 0:
            _write_down(command_at, kind, turn, requests[turn, slot], trace[state[TRACED]])
            state[TRACED] += 1
        if kind == COLUMN:
            end = _column(
                command_at, slot, rules, state, ranks, groups, banks, queues, chains, requests,
                streams, finished, counts, bus,
            )  # fmt: skip
            until = min(until, end)
        elif kind == ACT:
            _activate(command_at, requests[turn, slot], rules, state, ranks, groups, banks,
                      window, counts)  # fmt: skip
        elif kind == PRE:
            if requests[turn, slot, STARTED] == 0:
                requests[turn, slot, STARTED] = 1
                counts[N_CONFLICTS] += 1
            _precharge(command_at, banks[requests[turn, slot, BANK]], rules, state, counts)
        elif kind == PREA:
            for bank in banks:
                if bank[ROW] >= 0:
                    _precharge(command_at, bank, rules, state, counts)
        else:
            state[REFRESH_BEGIN] = state[REFRESH_AT]
            state[REFRESH_END] = command_at + rules[nRFC]
            state[REFRESH_AT] += rules[nREFI]
            banks[:, ACT_AT] = state[REFRESH_END]
            counts[N_REFRESHES] += 1


@njit(cache=True)
def _write_down(at, kind, turn, request, line):
    """Write a command into a line of the trace."""
    line[0] = at
    line[1] = turn if kind == COLUMN else kind + 1
    line[2] = request[GROUP] if kind < PREA else -1
    line[3] = request[BANK] if kind < PREA else -1
    line[4] = request[WANTED_ROW] if kind < PRE else -1


@_inlined
def _take_turn(state, queues):
    """Give the turn to the other queue if this one is empty or has had its share; True if so."""
    reads = queues[READ, QUEUED] - queues[READ, BLOCKED]
    writes = queues[WRITE, QUEUED] - queues[WRITE, BLOCKED]
    if state[TURN] == READ:
        if writes == 0:
            return False
        many = writes >= WRITE_HIGH
        late = state[CLOCK] - state[WRITES_WAIT_FROM] > WRITE_PATIENCE_CYCLES
        if reads == 0 or (state[OWED] <= 0 and (many or late)):
            state[TURN] = WRITE
            state[OWED] = writes - WRITE_LOW if many and reads > 0 else writes
            return True
    elif reads > 0 and (writes == 0 or state[OWED] <= 0):
        state[TURN] = READ
        state[OWED] = reads
        state[WRITES_WAIT_FROM] = state[CLOCK]
        return True
    return False


@_inlined
def _choose(state, ranks, groups, banks, chains, requests):
    """(earliest cycle, kind, slot) of the next command of the turn's queue; cycle NEVER if none.

    Each bank proposes one command: for the oldest request of its open row, else for its oldest
    request. Of the proposals the earliest wins, then the preferred kind, then the oldest. Requests
    that wait for an older one of their address in the other queue do not count.
    """
    turn = state[TURN]
    column_at = max(state[CLOCK], ranks[0, COLUMN_AT + turn])
    act_at = max(state[CLOCK], ranks[0, ACT_AT])
    best = NEVER << 2
    best_age = 0
    best_slot = 0
    for bank in range(len(banks)):
        slot = chains[turn, bank, FIRST]
        while slot >= 0 and requests[turn, slot, BLOCKERS] > 0:
            slot = requests[turn, slot, NEXT]
        if slot < 0:
            continue
        row = banks[bank, ROW]
        if row < 0:
            at = max(act_at, banks[bank, ACT_AT], groups[requests[turn, slot, GROUP], ACT_AT])
            key = at << 2 | ACT
        else:
            hit = slot
            if row != requests[turn, slot, WANTED_ROW]:
                hit = -1
                if banks[bank, HITS] < ROW_HITS_CAP:
                    hit = requests[turn, slot, NEXT]
                    while hit >= 0 and (
                        requests[turn, hit, WANTED_ROW] != row or requests[turn, hit, BLOCKERS] > 0
                    ):
                        hit = requests[turn, hit, NEXT]
            if hit >= 0:
                slot = hit
                at = max(column_at, banks[bank, COLUMN_AT],
                         groups[requests[turn, slot, GROUP], COLUMN_AT + turn])  # fmt: skip
                key = at << 2 | COLUMN
            else:
                key = max(state[CLOCK], banks[bank, PRE_AT]) << 2 | PRE
        age = requests[turn, slot, AGE]
        if key < best or (key == best and age < best_age):
            best = key
            best_age = age
            best_slot = slot
    return best >> 2, best & 3, best_slot


@njit(cache=True)
def _refresh(state, banks):
    """(cycle, kind) of the next step of the refresh that is due: close all rows, then REF."""
    at = max(state[CLOCK], state[REFRESH_AT])
    if state[OPEN_BANKS] > 0:
        for bank in banks:
            if bank[ROW] >= 0:
                at = max(at, bank[PRE_AT])
        return at, PREA
    for bank in banks:
        at = max(at, bank[ACT_AT])
    return at, REF


@_inlined
def _next_offer(state, queues, streams, offering):
    """(cycle, place in offering[]) of the next request to enter; the first in the round wins."""
    best = NEVER
    best_place = 0
    place = state[POINTER]
    for _ in range(state[OFFERING]):
        if place >= state[OFFERING]:
            place = 0
        stream = offering[place]
        kind = streams[stream, KIND]
        if queues[kind, QUEUED] < QUEUE_DEPTH:
            at = max(streams[stream, OFFER_AT], state[ACCEPT_AT], queues[kind, ROOM_AT])
            if at < best:
                best = at
                best_place = place
        place += 1
    return best, best_place


@_inlined
def _accept(
    at, place, rules, state, banks, queues, chains, requests, streams, offering, bus
):  # fmt: skip
    """Move the next request of a stream to the end of its queue.

    Returns whether its bank may now propose another command: not if it stands behind a request
    that is first in any case.
    """
    stream = offering[place]
    kind = streams[stream, KIND]
    if queues[READ, QUEUED] + queues[WRITE, QUEUED] == 0:
        soonest = at + 1 + (rules[CL] if kind == READ else rules[CWL])  # its data in an open row
        bus[WAIT] += max(0, soonest - state[ACCOUNTED_TO])
        state[ACCOUNTED_TO] = max(state[ACCOUNTED_TO], soonest)
    burst = streams[stream, NEXT_BURST]
    group = (burst >> rules[GROUP_SHIFT]) & (rules[GROUPS] - 1)
    bank = (burst >> rules[BANK_SHIFT]) & (rules[BANKS_IN_GROUP] - 1)
    bank += group * rules[BANKS_IN_GROUP]
    blockers = 0
    older = chains[1 - kind, bank, FIRST]
    while older >= 0:
        blockers += requests[1 - kind, older, BURST] == burst
        older = requests[1 - kind, older, NEXT]
    slot = queues[kind, FREE]
    queues[kind, FREE] = requests[kind, slot, NEXT]
    requests[kind, slot, BURST] = burst
    requests[kind, slot, GROUP] = group
    requests[kind, slot, BANK] = bank
    requests[kind, slot, WANTED_ROW] = (burst >> rules[ROW_SHIFT]) & (rules[ROWS] - 1)
    requests[kind, slot, STREAM] = stream
    requests[kind, slot, BLOCKERS] = blockers
    requests[kind, slot, AGE] = state[ACCEPTED]
    requests[kind, slot, STARTED] = 0
    requests[kind, slot, NEXT] = -1
    first = chains[kind, bank, FIRST]
    changes = kind == state[TURN]
    if first < 0:
        chains[kind, bank, FIRST] = slot
    else:
        row = banks[bank, ROW]
        passes = requests[kind, first, WANTED_ROW] != row == requests[kind, slot, WANTED_ROW]
        changes &= requests[kind, first, BLOCKERS] > 0 or passes
        requests[kind, chains[kind, bank, LAST], NEXT] = slot
    chains[kind, bank, LAST] = slot
    if kind == WRITE and queues[kind, QUEUED] == 0:
        state[WRITES_WAIT_FROM] = at
    queues[kind, QUEUED] += 1
    queues[kind, BLOCKED] += blockers > 0
    state[ACCEPTED] += 1
    state[ACCEPT_AT] = at + 1
    state[CLOCK] = max(state[CLOCK], at + 1)  # nothing could go before it came
    streams[stream, NEXT_BURST] += 1
    streams[stream, TO_OFFER] -= 1
    streams[stream, OFFER_PS] += streams[stream, INTERVAL_PS]
    streams[stream, OFFER_AT] = (streams[stream, OFFER_PS] + rules[tCK] - 1) // rules[tCK]
    if streams[stream, TO_OFFER] > 0:
        state[POINTER] = place + 1
        return changes
    state[OFFERING] -= 1
    state[POINTER] = place
    for later in range(place, state[OFFERING]):
        offering[later] = offering[later + 1]
    return changes


@njit(cache=True)
def _activate(at, request, rules, state, ranks, groups, banks, window, counts):
    """ACT: the bank opens the request's row; the window of four ACTs moves on."""
    if request[STARTED] == 0:
        request[STARTED] = 1
        counts[N_MISSES] += 1
    bank = banks[request[BANK]]
    bank[ROW] = request[WANTED_ROW]
    bank[HITS] = 0
    bank[COLUMN_AT] = at + rules[nRCD]
    bank[PRE_AT] = at + rules[nRAS]
    bank[ACT_AT] = at + rules[nRC]
    groups[request[GROUP], ACT_AT] = at + rules[nRRD_L]
    place = counts[N_ACTIVATES] % 4
    window[place] = at
    ranks[0, ACT_AT] = max(at + rules[nRRD_S], window[(place + 1) % 4] + rules[nFAW])
    if state[OPEN_BANKS] == 0:
        state[OPENED_AT] = at
    state[OPEN_BANKS] += 1
    counts[N_ACTIVATES] += 1


@njit(cache=True)
def _precharge(at, bank, rules, state, counts):
    """PRE: the bank closes its row."""
    bank[ROW] = -1
    bank[ACT_AT] = max(bank[ACT_AT], at + rules[nRP])
    state[OPEN_BANKS] -= 1
    if state[OPEN_BANKS] == 0:
        state[OPEN_CYCLES] += at - state[OPENED_AT]
    counts[N_PRECHARGES] += 1


@_inlined
def _column(
    at, slot, rules, state, ranks, groups, banks, queues, chains, requests, streams, finished,
    counts, bus,
):  # fmt: skip
    """RD or WR of the request in `slot`; return its data's end if a transfer ends, or NEVER."""
    kind = state[TURN]
    burst = requests[kind, slot, BURST]
    stream = requests[kind, slot, STREAM]
    group = requests[kind, slot, GROUP]
    bank = requests[kind, slot, BANK]
    if requests[kind, slot, STARTED] == 0:
        counts[N_HITS] += 1
    banks[bank, HITS] += 1
    counts[N_READS + kind] += 1

    # The bus: what kept this burst from following the one before.
    start = at + (rules[CL] if kind == READ else rules[CWL])
    gap = start - state[ACCOUNTED_TO]
    if gap > 0:
        from_cycle = max(state[ACCOUNTED_TO], state[REFRESH_BEGIN])
        refresh = max(0, min(start, state[REFRESH_END]) - from_cycle)
        turnaround = 0
        if kind != state[DATA_KIND] and state[DATA_KIND] >= 0:
            if kind == WRITE:
                least = rules[nRTW] + rules[CWL] - rules[CL] - rules[nBL]
            elif group == state[DATA_GROUP]:
                least = rules[nWTR_L] + rules[CL]
            else:
                least = rules[nWTR_S] + rules[CL]
            free = state[DATA_END] + least - state[ACCOUNTED_TO]
            turnaround = max(0, min(free, gap - refresh))
        bus[REFRESH] += refresh
        bus[TURNAROUND] += turnaround
        bus[ROW_GAP] += gap - refresh - turnaround
    end = start + rules[nBL]
    bus[BUSY] += rules[nBL]
    state[ACCOUNTED_TO] = end
    state[DATA_END] = end
    state[DATA_KIND] = kind
    state[DATA_GROUP] = group

    groups[group, COLUMN_AT + kind] = at + rules[nCCD_L]
    ranks[0, COLUMN_AT + kind] = at + rules[nCCD_S]
    if kind == READ:
        ranks[0, COLUMN_AT + WRITE] = max(ranks[0, COLUMN_AT + WRITE], at + rules[nRTW])
        banks[bank, PRE_AT] = max(banks[bank, PRE_AT], at + rules[nRTP])
    else:
        groups[group, COLUMN_AT + READ] = max(groups[group, COLUMN_AT + READ], end + rules[nWTR_L])
        ranks[0, COLUMN_AT + READ] = max(ranks[0, COLUMN_AT + READ], end + rules[nWTR_S])
        banks[bank, PRE_AT] = max(banks[bank, PRE_AT], end + rules[nWR])

    # The queues: take it out of its chain, free younger ones of its address in the other queue.
    if chains[kind, bank, FIRST] == slot:
        chains[kind, bank, FIRST] = requests[kind, slot, NEXT]
    else:
        before = chains[kind, bank, FIRST]
        while requests[kind, before, NEXT] != slot:
            before = requests[kind, before, NEXT]
        requests[kind, before, NEXT] = requests[kind, slot, NEXT]
        if chains[kind, bank, LAST] == slot:
            chains[kind, bank, LAST] = before
    requests[kind, slot, NEXT] = queues[kind, FREE]
    queues[kind, FREE] = slot
    if queues[kind, QUEUED] == QUEUE_DEPTH:
        queues[kind, ROOM_AT] = at + 1
    queues[kind, QUEUED] -= 1
    state[OWED] -= 1
    if queues[1 - kind, BLOCKED] > 0:
        younger = chains[1 - kind, bank, FIRST]
        while younger >= 0:
            if requests[1 - kind, younger, BURST] == burst:
                requests[1 - kind, younger, BLOCKERS] -= 1
                queues[1 - kind, BLOCKED] -= requests[1 - kind, younger, BLOCKERS] == 0
            younger = requests[1 - kind, younger, NEXT]

    streams[stream, TO_MOVE] -= 1
    if streams[stream, TO_MOVE] > 0:
        return NEVER
    finished[state[FINISHED], 0] = stream
    finished[state[FINISHED], 1] = end
    state[FINISHED] += 1
    state[ACTIVE] -= 1
    return end
