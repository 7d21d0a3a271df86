"""The memory controller's clockwork: plain tables, advanced from command to command.

No state changes between commands and acceptances, so time jumps from one to the next; the cycles
are those that ticking every clock would give. What the controller does, and why, is told in
`dram_controller`.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from accsim.hardware.dram import AddressMapping, DramSpec

NEVER = 1 << 60  # cycle
STRETCH = 32  # bursts; a power of two
_FAR = 1 << 20  # longer than any wait between two commands
READ, WRITE = 0, 1  # queues and turns
COLUMN, ACT, PRE, PREA, REF = range(5)  # kinds of command, in order of preference
CYCLE, COMMAND, RANK, BANK_GROUP, BANK, ROW = range(6)  # trace; as in `dram_rules`

# Columns of the int64 tables of `Core`.
_SPEC_RULES = (
    "tCK_ps", "CL", "CWL", "nBL", "nRCD", "nRP", "nRAS", "nRC", "nCCD_S", "nCCD_L", "nRRD_S",
    "nRRD_L", "nFAW", "nWTR_S", "nWTR_L", "nWR", "nRTP", "nRTW", "nRFC", "nREFI",
    "bank_groups", "banks", "rows", "ranks", "channels",
)  # fmt: skip
_POLICY_RULES = ("queue_depth", "write_high", "write_low", "patience_cycles", "row_hits_cap")
(
    tCK, CL, CWL, nBL, nRCD, nRP, nRAS, nRC, nCCD_S, nCCD_L, nRRD_S,
    nRRD_L, nFAW, nWTR_S, nWTR_L, nWR, nRTP, nRTW, nRFC, nREFI,
    GROUPS, BANKS, ROWS, RANKS, CHANNELS, DEPTH, HIGH, LOW, PATIENCE, CAP,
    GROUP_SHIFT, BANK_SHIFT, ROW_SHIFT, RANK_SHIFT, CHANNEL_SHIFT, PAUSE, CHANNEL,
) = range(37)  # fmt: skip
# ranks, groups and banks, each counted through the levels above: earliest cycle of a command as far
# as this level rules it; COLUMN_AT + READ or + WRITE; a bank has one COLUMN_AT for both.
ACT_AT, COLUMN_AT, _WRITE_AT = range(3)
# ranks: next refresh; last refresh, from due to done; banks open, since when; the last four ACTs
REFRESH_AT, REFRESH_BEGIN, REFRESH_END, OPEN_BANKS, OPENED_AT, ACTS, WINDOW = range(3, 10)
PRE_AT, OPEN_ROW, HITS, IN_GROUP, IN_RANK = range(2, 7)  # banks; HITS passed an older request
# queues[2]; FREE: first of the unused slots
QUEUED, BLOCKED, FREE, ROOM_AT, OLDEST, YOUNGEST = range(6)
# chains[2, all banks]: a bank's requests by age, and the command that it proposes: its kind, the
# earliest cycle as far as the bank rules it (NEVER: no proposal), (kind << 40) + (age << 8) + slot
FIRST, LAST, PROPOSED, READY_AT, ORDER = range(5)
# requests[2, depth]; NEXT in the bank's chain, OLDER and YOUNGER in the queue; ended by -1
(
    BURST, IN_BANK, WANTED_ROW, STREAM, BLOCKERS, AGE, STARTED, SINCE, NEXT, OLDER, YOUNGER,
) = range(11)  # fmt: skip
KIND, NEXT_BURST, TO_OFFER, TO_MOVE, OFFER_PS, INTERVAL_PS, OFFER_AT = range(7)  # streams
# script; NEXT_RUN: the first line from here on that has STRETCH lines of the next bursts after it
ARRIVAL, SCRIPT_BURST, SCRIPT_KIND, NEXT_RUN = range(4)
(
    CLOCK,  # earliest cycle of the next command
    ACCEPT_AT,  # earliest cycle at which the next request may enter
    DUE_AT,  # next refresh of any rank
    DUE_RANK,
    TURN,
    OWED,  # bursts that this turn still serves before the other may have it
    LATE,  # the oldest request of all has waited so long that it goes alone
    ACCEPTED,  # requests so far: the age of the next
    PAUSE_AT,  # so many accepted, and `advance` returns
    OFFERING,  # streams with requests still to enter, listed in offering[]
    POINTER,  # next of them in the round
    ACTIVE,  # transfers with a burst still to move
    OPEN_CYCLES,  # with a row open, summed over the ranks; up to the last closing of each
    ACCOUNTED_TO,  # the data bus is accounted for up to here
    DATA_END,  # end of the last burst
    DATA_KIND,
    DATA_GROUP,
    READ_LATENCY,  # sum over reads, from acceptance to the last beat
    LONGEST,  # the same, greatest of reads and writes
    HELD,  # burst of the read that the script's next write waits for, or -1
    RECALLED,  # bursts that `dram_recall` took from memory
    FINISHED,  # rows of finished[]: transfer's stream, cycle of its end
    TRACED,  # rows of trace[]
) = range(23)
COUNTS = (
    "reads", "writes", "activates", "precharges", "refreshes",
    "row_hits", "row_misses", "row_conflicts",
)  # fmt: skip
(
    N_READS, N_WRITES, N_ACTIVATES, N_PRECHARGES, N_REFRESHES, N_HITS, N_MISSES, N_CONFLICTS,
    N_PRE_COMMANDS,
) = range(9)  # fmt: skip
CAUSES = ("busy", "refresh", "turnaround", "row", "wait")
BUSY, REFRESH, TURNAROUND, ROW_GAP, WAIT = range(5)
RETURNS = 16  # reads whose data may be on their way

STUCK = -1  # in place of the next cycle: requests wait and no command can ever serve them

# Nothing here allocates: without numba's counting of references to arrays (nrt) it is ten times as
# fast. What runs at every burst is inlined: a call would pass all tables, seven words each.
compiled = njit(cache=True, _nrt=False)
inlined = njit(cache=True, _nrt=False, forceinline=True)


class Core(NamedTuple):
    """All there is to know of a controller at one moment; int64 tables, columns named above."""

    rules: np.ndarray  # constants
    state: np.ndarray
    ranks: np.ndarray
    groups: np.ndarray
    banks: np.ndarray
    queues: np.ndarray
    chains: np.ndarray
    levels: np.ndarray  # groups x kinds of command: earliest cycle above the bank, when choosing
    requests: np.ndarray
    streams: np.ndarray
    offering: np.ndarray
    finished: np.ndarray
    counts: np.ndarray
    bus: np.ndarray
    trace: np.ndarray  # commands, if it has rows
    script: np.ndarray  # requests of a trace, if it has rows; stream 0 then follows it
    returns: np.ndarray  # burst and data's end of the last reads, for a script


def new_core(
    spec: DramSpec,
    mapping: AddressMapping,
    policy,
    channel: int = 0,
    trace_rows: int = 0,
    script: np.ndarray | None = None,
) -> Core:
    """A channel's controller at cycle 0 with nothing to do."""
    shifts = mapping.shifts(spec)
    group_count = spec.ranks * spec.bank_groups
    bank_count, depth = group_count * spec.banks, policy.queue_depth
    state = np.zeros(23, np.int64)
    state[DATA_KIND] = state[HELD] = state[PAUSE_AT] = -1
    ranks = np.zeros((spec.ranks, WINDOW + 4), np.int64)
    ranks[:, REFRESH_AT] = [spec.nREFI * (n + 1) // spec.ranks for n in range(spec.ranks)]
    ranks[:, WINDOW:] = -NEVER
    state[DUE_AT] = ranks[0, REFRESH_AT]
    banks = np.zeros((bank_count, 7), np.int64)
    banks[:, OPEN_ROW] = -1
    banks[:, IN_GROUP] = np.arange(bank_count) // spec.banks
    banks[:, IN_RANK] = banks[:, IN_GROUP] // spec.bank_groups
    queues = np.zeros((2, 6), np.int64)
    queues[:, OLDEST:] = -1
    requests = np.zeros((2, depth, 11), np.int64)
    requests[:, :, NEXT] = [*range(1, depth), -1]
    chains = np.zeros((2, bank_count, 5), np.int64)
    chains[:, :, FIRST] = -1
    chains[:, :, READY_AT] = NEVER
    pause = spec.nRTW + spec.CWL - spec.CL - spec.nBL  # of the data bus, as between RD and WR
    return Core(
        rules=np.array(
            [getattr(spec, name) for name in _SPEC_RULES]
            + [getattr(policy, name) for name in _POLICY_RULES]
            + [shifts.bank_group, shifts.bank, shifts.row, shifts.rank, shifts.channel]
            + [pause, channel]
        ),
        state=state,
        ranks=ranks,
        groups=np.zeros((group_count, 3), np.int64),
        banks=banks,
        queues=queues,
        chains=chains,
        levels=np.zeros((group_count, 3), np.int64),
        requests=requests,
        streams=np.zeros((16, 7), np.int64),
        offering=np.zeros(16, np.int64),
        finished=np.zeros((16, 2), np.int64),
        counts=np.zeros(9, np.int64),
        bus=np.zeros(len(CAUSES), np.int64),
        trace=np.zeros((trace_rows, 6), np.int64),
        script=np.zeros((0, 4), np.int64) if script is None else script,
        returns=np.full((RETURNS, 2), -1),
    )


@compiled
def fill_script(arrivals, addresses, is_write, burst_bytes, capacity_bytes, script):
    """Lines of the script of requests of one burst each; False if an arrival or address is wrong.

    Written from the last to the first, to know how many next bursts follow each.
    """
    next_run, ahead = NEVER, 0
    sound = len(script) > 0 and arrivals[0] >= 0
    for line in range(len(script) - 1, -1, -1):
        burst, kind = addresses[line] // burst_bytes, int(is_write[line])
        script[line, ARRIVAL] = arrivals[line]
        script[line, SCRIPT_BURST] = burst
        script[line, SCRIPT_KIND] = kind
        sound &= 0 <= addresses[line] < capacity_bytes
        last = line + 1 == len(script)
        sound &= last or arrivals[line] <= arrivals[line + 1]
        follows = not last and script[line + 1, SCRIPT_BURST] == burst + 1
        ahead = ahead + 1 if follows and script[line + 1, SCRIPT_KIND] == kind else 0
        if ahead >= STRETCH and burst % STRETCH == 0:
            next_run = line
        script[line, NEXT_RUN] = next_run
    return sound


def with_room(core: Core) -> Core:
    """The same controller, with room for twice as many streams."""
    return core._replace(
        streams=np.concatenate([core.streams, np.zeros_like(core.streams)]),
        offering=np.concatenate([core.offering, np.zeros_like(core.offering)]),
        finished=np.concatenate([core.finished, np.zeros_like(core.finished)]),
    )


@compiled
def advance_all(until, cores):
    """`advance` for the controllers of all channels, in step; `finished` holds completions.

    A command that is still to go ends no burst within CWL + nBL clocks, so each channel may play
    as far as that on its own before the others.
    """
    if len(cores) == 1:
        return advance(until, cores[0])
    while True:
        soonest = NEVER
        for core in cores:
            soonest = min(soonest, advance(0, core)[0])
        if soonest == STUCK or soonest >= until:
            return soonest, until
        rules = cores[0].rules
        for core in cores:
            advance(min(until, soonest + rules[CWL] + rules[nBL]), core)
        for core in cores:
            for row in range(core.state[FINISHED]):
                until = min(until, core.finished[row, 1])


@compiled
def advance(until, core):
    """Play commands and acceptances of all cycles below `until`; stop early at a completion.

    Returns (next cycle at which anything can happen or STUCK, `until` or the earlier end of the
    first transfer that completed). Chopping time into several calls never changes a cycle: what
    happens depends on the tables alone, and they change with events only. It stops short of `until`
    only when `trace` is full, and once PAUSE_AT requests have been accepted.
    """
    state, queues, requests, trace = core.state, core.queues, core.requests, core.trace
    command_at, kind, queue, slot = NEVER, REF, READ, 0
    stale = True  # the choice of the next command
    while True:
        if stale:
            command_at, kind, queue, slot = _choose(core)
            if command_at == NEVER and queues[READ, QUEUED] + queues[WRITE, QUEUED] > 0:
                return STUCK, until
            if command_at >= state[DUE_AT]:
                command_at, kind = _refresh(core)
        accept_at, place = _next_offer(core)
        following = min(command_at, accept_at)
        if following >= until or (len(trace) > 0 and state[TRACED] == len(trace)):
            return following, until
        if accept_at < command_at:
            stale = _accept(accept_at, place, core)
            stale |= _take_turn(core)
            if state[ACCEPTED] == state[PAUSE_AT]:
                return state[CLOCK], until
            continue
        stale = True
        state[CLOCK] = command_at + 1
        if len(trace) > 0:
            _write_down(command_at, kind, queue, slot, core)
        if kind == COLUMN:
            until = min(until, _column(command_at, slot, core))
        elif kind == ACT:
            _activate(command_at, requests[queue, slot], core)
        elif kind == PRE:
            _precharge_for(command_at, requests[queue, slot], core)
        elif kind == PREA:
            _precharge_all(command_at, core)
        else:
            _refreshed(command_at, core)
        _take_turn(core)


@compiled
def _write_down(at, kind, queue, slot, core):
    """Write a command into the next line of the trace."""
    state = core.state
    line = core.trace[state[TRACED]]
    state[TRACED] += 1
    line[CYCLE] = at
    line[COMMAND] = queue if kind == COLUMN else kind + 1
    line[RANK] = state[DUE_RANK]
    line[BANK_GROUP] = line[BANK] = line[ROW] = -1
    if kind < PREA:
        number = core.requests[queue, slot, IN_BANK]
        line[RANK] = core.banks[number, IN_RANK]
        line[BANK_GROUP] = core.banks[number, IN_GROUP] % core.rules[GROUPS]
        line[BANK] = number % core.rules[BANKS]
    if kind < PRE:
        line[ROW] = core.requests[queue, slot, WANTED_ROW]


@inlined
def _take_turn(core):
    """After an event: give the turn to the other queue if this one is empty or has had its share.

    If the oldest request of all is late, it has the turn. True if the choice may change.
    """
    rules, state, queues, requests = core.rules, core.state, core.queues, core.requests
    turn = state[TURN]
    mine, others = queues[turn, OLDEST], queues[1 - turn, OLDEST]
    if others < 0:
        if mine < 0 or state[CLOCK] - requests[turn, mine, SINCE] <= 2 * rules[PATIENCE]:
            was_late = state[LATE] > 0
            state[LATE] = 0
            return was_late
        state[LATE] = 1
        return True
    waited = state[CLOCK] - requests[1 - turn, others, SINCE]
    others_first = mine < 0 or requests[turn, mine, AGE] > requests[1 - turn, others, AGE]
    longest = waited if others_first else state[CLOCK] - requests[turn, mine, SINCE]
    if longest > 2 * rules[PATIENCE]:
        state[LATE] = 1
        if others_first:
            state[TURN] = 1 - turn
            state[OWED] = 0
        return True
    changed = state[LATE] > 0
    state[LATE] = 0
    ready = queues[turn, QUEUED] - queues[turn, BLOCKED]
    others_ready = queues[1 - turn, QUEUED] - queues[1 - turn, BLOCKED]
    if others_ready == 0 or (ready > 0 and state[OWED] > 0):
        return changed
    due = ready == 0
    due |= others_ready >= rules[HIGH] if turn == READ else ready <= rules[LOW]
    if due or waited > rules[PATIENCE]:
        state[TURN] = 1 - turn
        state[OWED] = 0 if due else others_ready
        return True
    return changed


@inlined
def propose(kind, bank, core):
    """Renew the command that a bank proposes to a queue: for the oldest request of its open row,
    else for its oldest request. Requests that wait for an older one do not count."""
    rules, banks, chains, requests = core.rules, core.banks, core.chains, core.requests
    slot = chains[kind, bank, FIRST]
    while slot >= 0 and requests[kind, slot, BLOCKERS] > 0:
        slot = requests[kind, slot, NEXT]
    if slot < 0:
        chains[kind, bank, READY_AT] = NEVER
        return
    row = banks[bank, OPEN_ROW]
    what, at = ACT, banks[bank, ACT_AT]
    if row >= 0:
        what, at = COLUMN, banks[bank, COLUMN_AT]
        if requests[kind, slot, WANTED_ROW] != row:
            hit = -1
            if banks[bank, HITS] < rules[CAP]:
                hit = requests[kind, slot, NEXT]
                while hit >= 0 and (
                    requests[kind, hit, WANTED_ROW] != row or requests[kind, hit, BLOCKERS] > 0
                ):
                    hit = requests[kind, hit, NEXT]
            if hit >= 0:
                slot = hit
            else:
                what, at = PRE, banks[bank, PRE_AT]
    chains[kind, bank, PROPOSED] = what
    chains[kind, bank, READY_AT] = at
    chains[kind, bank, ORDER] = (what << 40) + (requests[kind, slot, AGE] << 8) + slot


@compiled
def _propose_both(bank, core):
    """After a command other than RD and WR: what the bank proposes to both queues."""
    propose(READ, bank, core)
    propose(WRITE, bank, core)


@inlined
def _choose(core):
    """(earliest cycle, kind, queue, slot) of the next command; cycle NEVER if there is none.

    Of the proposals of the turn's queue the earliest wins, then the preferred kind, then the
    oldest. Before it, the other queue may open rows in banks that this one does not need.
    """
    state, ranks, groups, banks = core.state, core.ranks, core.groups, core.banks
    queues, chains, requests, levels = core.queues, core.chains, core.requests, core.levels
    turn, clock = state[TURN], state[CLOCK]
    if state[LATE] > 0:
        return _choose_late(core)
    group_count = len(groups) // len(ranks)
    for group in range(len(groups)):
        rank = group // group_count
        at = max(ranks[rank, COLUMN_AT + turn], groups[group, COLUMN_AT + turn])
        levels[group, COLUMN] = max(clock, at)
        levels[group, ACT] = max(clock, ranks[rank, ACT_AT], groups[group, ACT_AT])
        levels[group, PRE] = clock
    # One number orders them: cycles to wait, kind, age, and the slot for later; without a branch.
    oldest = requests[turn, max(0, queues[turn, OLDEST]), AGE] << 8
    best = NEVER << 1
    for bank in range(len(banks)):
        what = chains[turn, bank, PROPOSED]
        at = max(chains[turn, bank, READY_AT], levels[banks[bank, IN_GROUP], what])
        wait = min(at - clock, _FAR)
        best = min(best, (wait << 42) + chains[turn, bank, ORDER] - oldest)
    if queues[1 - turn, QUEUED] > 0:
        ahead = NEVER << 1
        oldest = requests[1 - turn, queues[1 - turn, OLDEST], AGE] << 8
        for bank in range(len(banks)):
            what = chains[1 - turn, bank, PROPOSED]
            if chains[turn, bank, READY_AT] == NEVER and what != COLUMN:
                at = max(chains[1 - turn, bank, READY_AT], levels[banks[bank, IN_GROUP], what])
                wait = min(at - clock, _FAR)
                ahead = min(ahead, (wait << 42) + chains[1 - turn, bank, ORDER] - oldest)
        if ahead >> 42 < best >> 42:
            turn = 1 - turn
            best = ahead
    slot = best & 255
    bank = requests[turn, slot, IN_BANK]
    what = chains[turn, bank, PROPOSED]
    at = max(chains[turn, bank, READY_AT], levels[banks[bank, IN_GROUP], what])
    return at, what, turn, slot


@compiled
def _choose_late(core):
    """The same for the oldest request alone."""
    turn = core.state[TURN]
    slot = core.queues[turn, OLDEST]
    bank = core.banks[core.requests[turn, slot, IN_BANK]]
    at, rank, group = core.state[CLOCK], core.ranks[bank[IN_RANK]], core.groups[bank[IN_GROUP]]
    if bank[OPEN_ROW] < 0:
        return max(at, bank[ACT_AT], rank[ACT_AT], group[ACT_AT]), ACT, turn, slot
    if bank[OPEN_ROW] != core.requests[turn, slot, WANTED_ROW]:
        return max(at, bank[PRE_AT]), PRE, turn, slot
    at = max(at, bank[COLUMN_AT], rank[COLUMN_AT + turn], group[COLUMN_AT + turn])
    return at, COLUMN, turn, slot


@compiled
def _refresh(core):
    """(cycle, kind) of the next step of the refresh that is due: close all rows, then REF."""
    state, banks = core.state, core.banks
    rank = state[DUE_RANK]
    at = max(state[CLOCK], state[DUE_AT])
    opened = core.ranks[rank, OPEN_BANKS] > 0
    for bank in range(len(banks)):
        if banks[bank, IN_RANK] == rank:
            if not opened:
                at = max(at, banks[bank, ACT_AT])
            elif banks[bank, OPEN_ROW] >= 0:
                at = max(at, banks[bank, PRE_AT])
    return at, PREA if opened else REF


@compiled
def _refreshed(at, core):
    """REF of the rank that was due; find the one that is due next."""
    rules, state, ranks, banks = core.rules, core.state, core.ranks, core.banks
    due = state[DUE_RANK]
    ranks[due, REFRESH_BEGIN] = state[DUE_AT]
    ranks[due, REFRESH_END] = at + rules[nRFC]
    ranks[due, REFRESH_AT] += rules[nREFI]
    for bank in range(len(banks)):
        if banks[bank, IN_RANK] == due:
            banks[bank, ACT_AT] = at + rules[nRFC]
            _propose_both(bank, core)
    core.counts[N_REFRESHES] += 1
    find_due(core)


@compiled
def find_due(core):
    """Note the rank whose refresh comes next."""
    state, ranks = core.state, core.ranks
    for rank in range(len(ranks)):
        if ranks[rank, REFRESH_AT] < ranks[state[DUE_RANK], REFRESH_AT]:
            state[DUE_RANK] = rank
    state[DUE_AT] = ranks[state[DUE_RANK], REFRESH_AT]


@inlined
def _next_offer(core):
    """(cycle, place in offering[]) of the next request to enter; the first in the round wins."""
    rules, state, queues, streams = core.rules, core.state, core.queues, core.streams
    offering = core.offering
    best = NEVER
    best_place = 0
    place = state[POINTER]
    for _ in range(state[OFFERING]):
        if place >= state[OFFERING]:
            place = 0
        stream = offering[place]
        kind = streams[stream, KIND]
        if queues[kind, QUEUED] < rules[DEPTH]:
            at = max(streams[stream, OFFER_AT], state[ACCEPT_AT], queues[kind, ROOM_AT])
            if at < best:
                best = at
                best_place = place
        place += 1
    return best, best_place


@inlined
def _accept(at, place, core):
    """Move a stream's next request to the end of its queue; True if that changes the choice."""
    rules, state, banks, queues = core.rules, core.state, core.banks, core.queues
    chains, requests, streams, offering = core.chains, core.requests, core.streams, core.offering
    bus, script = core.bus, core.script
    stream = offering[place]
    kind = streams[stream, KIND]
    if queues[READ, QUEUED] + queues[WRITE, QUEUED] == 0:
        soonest = at + 1 + (rules[CL] if kind == READ else rules[CWL])  # its data in an open row
        bus[WAIT] += max(0, soonest - state[ACCOUNTED_TO])
        state[ACCOUNTED_TO] = max(state[ACCOUNTED_TO], soonest)
    burst = streams[stream, NEXT_BURST]
    bank = bank_of(burst, core)
    blockers = 0
    older = chains[1 - kind, bank, FIRST]
    while older >= 0:
        blockers += requests[1 - kind, older, BURST] == burst
        older = requests[1 - kind, older, NEXT]
    slot = queues[kind, FREE]
    queues[kind, FREE] = requests[kind, slot, NEXT]
    row = (burst >> rules[ROW_SHIFT]) & (rules[ROWS] - 1)
    requests[kind, slot, BURST] = burst
    requests[kind, slot, IN_BANK] = bank
    requests[kind, slot, WANTED_ROW] = row
    requests[kind, slot, STREAM] = stream
    requests[kind, slot, BLOCKERS] = blockers
    requests[kind, slot, AGE] = state[ACCEPTED]
    requests[kind, slot, STARTED] = 0
    requests[kind, slot, SINCE] = at
    requests[kind, slot, NEXT] = -1
    youngest = queues[kind, YOUNGEST]
    requests[kind, slot, OLDER] = youngest
    requests[kind, slot, YOUNGER] = -1
    if youngest < 0:
        queues[kind, OLDEST] = slot
    else:
        requests[kind, youngest, YOUNGER] = slot
    queues[kind, YOUNGEST] = slot
    if chains[kind, bank, FIRST] < 0:
        chains[kind, bank, FIRST] = slot
    else:
        requests[kind, chains[kind, bank, LAST], NEXT] = slot
    chains[kind, bank, LAST] = slot
    # Its bank proposes another command only if it had none, or now has a burst of its open row.
    none = chains[kind, bank, READY_AT] == NEVER
    passes = chains[kind, bank, PROPOSED] == PRE and banks[bank, OPEN_ROW] == row
    changes = blockers == 0 and (none or passes)
    if changes:
        propose(kind, bank, core)
    queues[kind, QUEUED] += 1
    queues[kind, BLOCKED] += blockers > 0
    state[ACCEPTED] += 1
    state[ACCEPT_AT] = at + 1
    state[CLOCK] = max(state[CLOCK], at + 1)  # nothing could go before it came
    streams[stream, TO_OFFER] -= 1
    if streams[stream, TO_OFFER] > 0:
        if len(script) > 0:
            follow_script(core)
        else:
            following = in_channel(burst + 1, core)
            streams[stream, NEXT_BURST] = following
            streams[stream, OFFER_PS] += (following - burst) * streams[stream, INTERVAL_PS]
            streams[stream, OFFER_AT] = (streams[stream, OFFER_PS] + rules[tCK] - 1) // rules[tCK]
        state[POINTER] = place + 1
        return changes
    state[OFFERING] -= 1
    state[POINTER] = place
    for later in range(place, state[OFFERING]):
        offering[later] = offering[later + 1]
    return changes


@inlined
def bank_of(burst, core):
    """A burst's bank, counted through all bank groups and ranks."""
    rules = core.rules
    group = (burst >> rules[GROUP_SHIFT]) & (rules[GROUPS] - 1)
    group += ((burst >> rules[RANK_SHIFT]) & (rules[RANKS] - 1)) * rules[GROUPS]
    return group * rules[BANKS] + ((burst >> rules[BANK_SHIFT]) & (rules[BANKS] - 1))


@inlined
def in_channel(burst, core):
    """The first burst from `burst` on that lies in this channel."""
    rules = core.rules
    ahead = (rules[CHANNEL] - (burst >> rules[CHANNEL_SHIFT])) & (rules[CHANNELS] - 1)
    if ahead == 0:
        return burst
    return ((burst >> rules[CHANNEL_SHIFT]) + ahead) << rules[CHANNEL_SHIFT]


@inlined
def follow_script(core):
    """Stream 0 offers the script's next request; a write waits for all reads of its address."""
    state, chains, requests = core.state, core.chains, core.requests
    streams, script, returns = core.streams, core.script, core.returns
    line = state[ACCEPTED]
    burst = script[line, SCRIPT_BURST]
    streams[0, KIND] = script[line, SCRIPT_KIND]
    streams[0, NEXT_BURST] = burst
    streams[0, OFFER_AT] = script[line, ARRIVAL]
    if script[line, SCRIPT_KIND] == READ:
        return
    slot = chains[READ, bank_of(burst, core), FIRST]
    while slot >= 0:
        if requests[READ, slot, BURST] == burst:
            state[HELD] = burst
            streams[0, OFFER_AT] = NEVER
            return
        slot = requests[READ, slot, NEXT]
    for back in range(len(returns)):
        if returns[back, 0] == burst:
            streams[0, OFFER_AT] = max(streams[0, OFFER_AT], returns[back, 1])


@inlined
def _return_read(burst, bank, end, core):
    """A script's read has been issued: note its data's end, let the write go that waits for it."""
    state, chains, requests, streams = core.state, core.chains, core.requests, core.streams
    counts, script, returns = core.counts, core.script, core.returns
    place = counts[N_READS] % len(returns)
    returns[place, 0] = burst
    returns[place, 1] = end
    if state[HELD] != burst:
        return
    slot = chains[READ, bank, FIRST]
    while slot >= 0:
        if requests[READ, slot, BURST] == burst:
            return
        slot = requests[READ, slot, NEXT]
    state[HELD] = -1
    streams[0, OFFER_AT] = max(script[state[ACCEPTED], ARRIVAL], end)


@compiled
def _activate(at, request, core):
    """ACT: the bank opens the request's row; the rank's window of four ACTs moves on."""
    rules, counts = core.rules, core.counts
    if request[STARTED] == 0:
        request[STARTED] = 1
        counts[N_MISSES] += 1
    number = request[IN_BANK]
    bank = core.banks[number]
    rank = core.ranks[bank[IN_RANK]]
    bank[OPEN_ROW] = request[WANTED_ROW]
    bank[HITS] = 0
    bank[COLUMN_AT] = at + rules[nRCD]
    bank[PRE_AT] = at + rules[nRAS]
    bank[ACT_AT] = at + rules[nRC]
    core.groups[bank[IN_GROUP], ACT_AT] = at + rules[nRRD_L]
    place = rank[ACTS] % 4
    rank[WINDOW + place] = at
    rank[ACTS] += 1
    rank[ACT_AT] = max(at + rules[nRRD_S], rank[WINDOW + (place + 1) % 4] + rules[nFAW])
    if rank[OPEN_BANKS] == 0:
        rank[OPENED_AT] = at
    rank[OPEN_BANKS] += 1
    counts[N_ACTIVATES] += 1
    _propose_both(number, core)


@compiled
def _precharge_for(at, request, core):
    """PRE: the bank closes a row that is not the request's."""
    if request[STARTED] == 0:
        request[STARTED] = 1
        core.counts[N_CONFLICTS] += 1
    core.counts[N_PRE_COMMANDS] += 1
    _close(at, request[IN_BANK], core)


@compiled
def _precharge_all(at, core):
    """PREA: all banks of the rank that is due for refresh close their rows."""
    core.counts[N_PRE_COMMANDS] += 1
    for bank in range(len(core.banks)):
        if core.banks[bank, IN_RANK] == core.state[DUE_RANK] and core.banks[bank, OPEN_ROW] >= 0:
            _close(at, bank, core)


@compiled
def _close(at, number, core):
    """A bank closes its row."""
    bank = core.banks[number]
    rank = core.ranks[bank[IN_RANK]]
    bank[OPEN_ROW] = -1
    bank[ACT_AT] = max(bank[ACT_AT], at + core.rules[nRP])
    rank[OPEN_BANKS] -= 1
    if rank[OPEN_BANKS] == 0:
        core.state[OPEN_CYCLES] += at - rank[OPENED_AT]
    core.counts[N_PRECHARGES] += 1
    _propose_both(number, core)


@compiled
def _pause_others(free_at, rank, core):
    """The other ranks' data come no earlier than cycle `free_at`."""
    rules, ranks = core.rules, core.ranks
    for other in range(len(ranks)):
        if other != rank:
            at = ranks[other, COLUMN_AT + READ]
            ranks[other, COLUMN_AT + READ] = max(at, free_at - rules[CL])
            at = ranks[other, COLUMN_AT + WRITE]
            ranks[other, COLUMN_AT + WRITE] = max(at, free_at - rules[CWL])


@inlined
def _column(at, slot, core):
    """RD or WR of the request in `slot`; return its data's end if a transfer ends, or NEVER."""
    rules, state, ranks, groups = core.rules, core.state, core.ranks, core.groups
    banks, queues, chains, requests = core.banks, core.queues, core.chains, core.requests
    streams, finished, counts, bus = core.streams, core.finished, core.counts, core.bus
    script = core.script
    kind = state[TURN]
    burst = requests[kind, slot, BURST]
    stream = requests[kind, slot, STREAM]
    bank = requests[kind, slot, IN_BANK]
    group = banks[bank, IN_GROUP]
    rank = banks[bank, IN_RANK]
    if requests[kind, slot, STARTED] == 0:
        counts[N_HITS] += 1
    first = chains[kind, bank, FIRST]
    banks[bank, HITS] += first != slot and requests[kind, first, BLOCKERS] == 0
    counts[N_READS + kind] += 1

    # The bus: what kept this burst from following the one before.
    start = at + (rules[CL] if kind == READ else rules[CWL])
    gap = start - state[ACCOUNTED_TO]
    if gap > 0:
        from_cycle = max(state[ACCOUNTED_TO], ranks[rank, REFRESH_BEGIN])
        refresh = max(0, min(start, ranks[rank, REFRESH_END]) - from_cycle)
        turnaround = 0
        if state[DATA_KIND] >= 0:
            least = 0  # from the data of the burst before to that of this one
            if rank != state[DATA_GROUP] // rules[GROUPS] or kind > state[DATA_KIND]:
                least = rules[PAUSE]
            elif kind < state[DATA_KIND] and group == state[DATA_GROUP]:
                least = rules[nWTR_L] + rules[CL]
            elif kind < state[DATA_KIND]:
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
    ranks[rank, COLUMN_AT + kind] = at + rules[nCCD_S]
    latency = end - requests[kind, slot, SINCE]
    state[LONGEST] = max(state[LONGEST], latency)
    if kind == READ:
        state[READ_LATENCY] += latency
        ranks[rank, COLUMN_AT + WRITE] = max(ranks[rank, COLUMN_AT + WRITE], at + rules[nRTW])
        banks[bank, PRE_AT] = max(banks[bank, PRE_AT], at + rules[nRTP])
    else:
        groups[group, COLUMN_AT + READ] = max(groups[group, COLUMN_AT + READ], end + rules[nWTR_L])
        ranks[rank, COLUMN_AT + READ] = max(ranks[rank, COLUMN_AT + READ], end + rules[nWTR_S])
        banks[bank, PRE_AT] = max(banks[bank, PRE_AT], end + rules[nWR])
    if rules[RANKS] > 1:
        _pause_others(end + rules[PAUSE], rank, core)

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
    older = requests[kind, slot, OLDER]
    younger = requests[kind, slot, YOUNGER]
    if older < 0:
        queues[kind, OLDEST] = younger
    else:
        requests[kind, older, YOUNGER] = younger
    if younger < 0:
        queues[kind, YOUNGEST] = older
    else:
        requests[kind, younger, OLDER] = older
    requests[kind, slot, NEXT] = queues[kind, FREE]
    queues[kind, FREE] = slot
    if queues[kind, QUEUED] == rules[DEPTH]:
        queues[kind, ROOM_AT] = at + 1
    queues[kind, QUEUED] -= 1
    state[OWED] -= 1
    if queues[1 - kind, BLOCKED] > 0:
        waiting = chains[1 - kind, bank, FIRST]
        while waiting >= 0:
            if requests[1 - kind, waiting, BURST] == burst:
                requests[1 - kind, waiting, BLOCKERS] -= 1
                queues[1 - kind, BLOCKED] -= requests[1 - kind, waiting, BLOCKERS] == 0
            waiting = requests[1 - kind, waiting, NEXT]
    propose(kind, bank, core)
    if chains[1 - kind, bank, FIRST] >= 0:
        propose(1 - kind, bank, core)
    if len(script) > 0 and kind == READ:
        _return_read(burst, bank, end, core)

    streams[stream, TO_MOVE] -= 1
    if streams[stream, TO_MOVE] > 0:
        return NEVER
    finished[state[FINISHED], 0] = stream
    finished[state[FINISHED], 1] = end
    state[FINISHED] += 1
    state[ACTIVE] -= 1
    return end
