"""Recurring stretches of a stream: played once by the controller's core, then taken from memory.

While one stream has the memory to itself and is ahead of it, all that its next bursts do follows
from the controller's tables relative to the clock, to the next burst and to its row. A stretch goes
from the acceptance of an aligned burst to that `STRETCH` bursts on, so that no address bit above
the lowest changes on the way. If its start has been seen before, if it leads to the same banks, and
if no refresh comes due and nothing else happens in the simulation meanwhile, it ends as it ended
then: clock, tables and counts move on by as much. If a refresh comes due, it must be due as many
cycles after the start as it was then. So the results are those of the core, to the cycle.

Source: Schnarr and Larus, "Fast out-of-order processor simulation using memoization", ASPLOS 1998.
"""

from typing import NamedTuple

import numpy as np

from accsim.hardware import dram_core as c
from accsim.hardware.dram_core import (
    ACCEPTED,
    ACT_AT,
    CLOCK,
    COLUMN_AT,
    DUE_AT,
    NEVER,
    NEXT_BURST,
    OLDEST,
    OPEN_ROW,
    QUEUED,
    REFRESH_AT,
    STRETCH,
    TO_OFFER,
    WINDOW,
    Core,
    advance,
    bank_of,
    compiled,
    inlined,
)

_STATES, _MOVES = 4096, 16384  # remembered at most; then all is forgotten

# Columns of `moves`: the state at the start, where the next stretch goes, cycles to a refresh that
# comes due or NEVER; the state at the end, cycles to the last event and to the end, the longest
# latency; increments, at last those of `counts` and `bus`
(
    FROM, WAY, DUE_IN, TO, LAST_EVENT, CYCLES, LONGEST, OPEN, LATENCY, REFRESHED, _REFRESHED_1,
    COUNTED,
) = range(12)  # fmt: skip
_NO_ROW = 1 << 40


class Recall(NamedTuple):
    """Remembered states, relative to their clock, and what followed; int64 tables."""

    states: np.ndarray
    state_buckets: np.ndarray  # by hash: number + 1
    moves: np.ndarray
    move_buckets: np.ndarray  # by hash: number + 1
    usual: np.ndarray  # of states: the last move without a refresh + 1
    used: np.ndarray  # rows of states, of moves; number + 1 of the state just learnt
    scratch: np.ndarray  # a state


def new_recall(core: Core) -> Recall:
    """Nothing remembered yet, for controllers of the shape of `core`."""
    words = 9 + 3 * core.requests.shape[1] + 5 * len(core.banks) + 3 * len(core.groups)
    words += 10 * len(core.ranks) + 2 * len(core.returns)
    return Recall(
        states=np.zeros((_STATES, words), np.int64),
        state_buckets=np.zeros(2 * _STATES, np.int64),
        moves=np.zeros((_MOVES, COUNTED + len(core.counts) + len(core.bus)), np.int64),
        move_buckets=np.zeros(2 * _MOVES, np.int64),
        usual=np.zeros(_STATES, np.int64),
        used=np.zeros(3, np.int64),
        scratch=np.zeros(words, np.int64),
    )


@compiled
def advance_recalling(until, core, recall):
    """`advance`, with recurring stretches from memory: the same cycles, counts and tables.

    For a memory of one channel, without a trace. Returns what `advance` returns.
    """
    state = core.state
    while True:
        unknown = _may_start(core) and _walk(until, core, recall)
        recall.used[2] = 0
        if unknown:
            state[c.PAUSE_AT] = state[ACCEPTED] + STRETCH
        else:
            state[c.PAUSE_AT] = _next_start(core)
        following, end = advance(until, core)
        paused = state[ACCEPTED] == state[c.PAUSE_AT]
        state[c.PAUSE_AT] = -1
        if unknown:
            _learn(paused, core, recall)
        if not paused:
            return following, end


@inlined
def _may_start(core):
    """Whether a stretch begins here: one stream alone, aligned, with all its bursts on offer."""
    state, streams, script, rules = core.state, core.streams, core.script, core.rules
    if state[c.ACTIVE] != 1 or state[c.OFFERING] != 1:
        return False
    stream = core.offering[0]
    kind = streams[stream, c.KIND]
    if (
        streams[stream, TO_OFFER] <= STRETCH
        or streams[stream, NEXT_BURST] % STRETCH > 0
        or state[c.TURN] != kind
        or core.queues[1 - kind, QUEUED] > 0
    ):
        return False
    if len(script) > 0:
        line = state[ACCEPTED]
        return (
            script[line, c.NEXT_RUN] == line
            and script[line + STRETCH - 1, c.ARRIVAL] <= state[CLOCK]
            and state[c.HELD] < 0
        )
    last_ps = streams[stream, c.OFFER_PS] + (STRETCH - 1) * streams[stream, c.INTERVAL_PS]
    return last_ps <= state[CLOCK] * rules[c.tCK]


@inlined
def _next_start(core):
    """How many requests will have been accepted when the next stretch may begin, or -1."""
    state, streams, script = core.state, core.streams, core.script
    if state[c.ACTIVE] != 1 or state[c.OFFERING] != 1:
        return -1
    if len(script) > 0:
        line = state[ACCEPTED] + 1
        if line >= len(script) or script[line, c.NEXT_RUN] == NEVER:
            return -1
        return script[line, c.NEXT_RUN]
    stream = core.offering[0]
    ahead = STRETCH - streams[stream, NEXT_BURST] % STRETCH
    if streams[stream, TO_OFFER] <= ahead + STRETCH:
        return -1
    return state[ACCEPTED] + ahead


@compiled
def _walk(until, core, recall):
    """Go from stretch to stretch while they are known and end before `until`.

    True if it stands before one that is not known: the next row of `moves` then holds its start.
    """
    state, moves = core.state, recall.moves
    here = recall.used[2] - 1
    if here < 0:
        here = _remember(core, recall)
    moved = False  # the tables still hold the first state
    unknown = False
    while _may_start(core):
        way = _way(core)
        due_in = state[DUE_AT] - state[CLOCK]
        move = recall.usual[here] - 1
        if move < 0 or moves[move, WAY] != way or moves[move, LAST_EVENT] >= due_in:
            move = _find_move(here, way, due_in, recall)
        unknown = move < 0
        if unknown or moves[move, LAST_EVENT] >= until - state[CLOCK]:
            break
        _apply(move, core, recall)
        here = moves[move, TO]
        moved = True
    if moved:
        _restore(here, core, recall)
    if unknown:
        line = moves[recall.used[1]]
        line[:] = 0
        line[FROM] = here
        line[WAY] = _way(core)
        line[DUE_IN] = state[DUE_AT] - state[CLOCK]
        line[CYCLES] = -state[CLOCK]
        line[LONGEST] = state[c.LONGEST]
        state[c.LONGEST] = 0
        _count(-1, core, line)
    return unknown


@inlined
def _way(core):
    """The bank of the burst after this stretch, and its row from that of its first."""
    shift = core.rules[c.ROW_SHIFT]
    first = core.streams[core.offering[0], NEXT_BURST]
    after = first + STRETCH
    return ((after >> shift) - (first >> shift)) << 8 | bank_of(after, core)


@inlined
def _find_move(here, way, due_in, recall):
    """The remembered move of a state, without a refresh if none comes due, or -1."""
    moves, buckets = recall.moves, recall.move_buckets
    for wanted in (NEVER, due_in):
        bucket = _bucket(here, way, wanted, recall)
        while buckets[bucket] > 0:
            move = buckets[bucket] - 1
            if (
                moves[move, FROM] == here
                and moves[move, WAY] == way
                and moves[move, DUE_IN] == wanted
            ):
                if wanted == due_in or moves[move, LAST_EVENT] < due_in:
                    return move
                break
            bucket = (bucket + 1) & (len(buckets) - 1)
    return -1


@inlined
def _bucket(here, way, due_in, recall):
    """Where to look for a move."""
    return _mix(_mix(_mix(0, here), way), due_in) & (len(recall.move_buckets) - 1)


@inlined
def _mix(hashed, word):
    """A step of a hash of 64-bit words."""
    hashed = (hashed ^ word) * -7046029254386353131
    return hashed ^ ((hashed >> 29) & 0x7FFFFFFFF)


@inlined
def _apply(move, core, recall):
    """Move clock, counts and stream on; the tables follow when they are needed."""
    state, streams, stream, ranks = core.state, core.streams, core.offering[0], core.ranks
    line = recall.moves[move]
    state[CLOCK] += line[CYCLES]
    state[c.OPEN_CYCLES] += line[OPEN]
    state[c.READ_LATENCY] += line[LATENCY]
    state[c.LONGEST] = max(state[c.LONGEST], line[LONGEST])
    for n in range(len(core.counts)):
        core.counts[n] += line[COUNTED + n]
    for n in range(len(core.bus)):
        core.bus[n] += line[COUNTED + len(core.counts) + n]
    bursts = line[COUNTED + c.N_READS] + line[COUNTED + c.N_WRITES]
    state[c.OWED] -= bursts
    state[ACCEPTED] += STRETCH
    state[c.RECALLED] += STRETCH
    streams[stream, c.TO_MOVE] -= bursts
    streams[stream, TO_OFFER] -= STRETCH
    streams[stream, NEXT_BURST] += STRETCH
    streams[stream, c.OFFER_PS] += STRETCH * streams[stream, c.INTERVAL_PS]
    if line[DUE_IN] != NEVER:
        for rank in range(len(ranks)):
            ranks[rank, REFRESH_AT] += line[REFRESHED + rank] * core.rules[c.nREFI]
        c.find_due(core)


@compiled
def _learn(whole, core, recall):
    """Complete the move that `_walk` began, after a stretch that was played to its end or not."""
    state, used = core.state, recall.used
    line = recall.moves[used[1]]
    longest = state[c.LONGEST]
    state[c.LONGEST] = max(longest, line[LONGEST])
    if not whole:
        return
    states = used[0]
    there = _remember(core, recall)
    used[2] = there + 1
    if used[0] < states:  # all has been forgotten: the start too
        return
    line[TO] = there
    line[LONGEST] = longest
    line[CYCLES] += state[CLOCK]
    line[LAST_EVENT] = line[CYCLES] - 1  # the acceptance that ended it
    _count(1, core, line)
    move = used[1]
    used[1] += 1
    if line[LAST_EVENT] < line[DUE_IN]:
        line[DUE_IN] = NEVER
        recall.usual[line[FROM]] = move + 1
    bucket = _bucket(line[FROM], line[WAY], line[DUE_IN], recall)
    while recall.move_buckets[bucket] > 0:
        bucket = (bucket + 1) & (len(recall.move_buckets) - 1)
    recall.move_buckets[bucket] = move + 1


@compiled
def _count(sign, core, line):
    """Take from a line (-1), or add to it (1), what grows."""
    state, ranks = core.state, core.ranks
    line[OPEN] += sign * state[c.OPEN_CYCLES]
    line[LATENCY] += sign * state[c.READ_LATENCY]
    for rank in range(len(ranks)):
        line[REFRESHED + rank] += sign * (ranks[rank, REFRESH_AT] // core.rules[c.nREFI])
    for n in range(len(core.counts)):
        line[COUNTED + n] += sign * core.counts[n]
    for n in range(len(core.bus)):
        line[COUNTED + len(core.counts) + n] += sign * core.bus[n]


@compiled
def _remember(core, recall):
    """The number of the core's state among those remembered, new or not."""
    states, buckets, used = recall.states, recall.state_buckets, recall.used
    if used[0] == len(states) or used[1] == len(recall.moves):
        used[:2] = 0
        buckets[:] = 0
        recall.move_buckets[:] = 0
        recall.usual[:] = 0
    for rank in core.ranks:
        if rank[c.OPEN_BANKS] > 0:  # account for the open time up to here
            core.state[c.OPEN_CYCLES] += core.state[CLOCK] - rank[c.OPENED_AT]
            rank[c.OPENED_AT] = core.state[CLOCK]
    words = recall.scratch
    _take_down(core, words)
    hashed = 0
    for word in words:
        hashed = _mix(hashed, word)
    bucket = hashed & (len(buckets) - 1)
    while buckets[bucket] > 0:
        number = buckets[bucket] - 1
        same = True
        for word in range(len(words)):
            same &= states[number, word] == words[word]
        if same:
            return number
        bucket = (bucket + 1) & (len(buckets) - 1)
    number = used[0]
    used[0] += 1
    buckets[bucket] = number + 1
    for word in range(len(words)):
        states[number, word] = words[word]
    return number


@compiled
def _take_down(core, words):
    """Write what decides the future into words: times from the clock on, rows from the next on."""
    rules, state, requests = core.rules, core.state, core.requests
    stream, clock = core.offering[0], core.state[CLOCK]
    kind = core.streams[stream, c.KIND]
    burst = core.streams[stream, NEXT_BURST]
    row = (burst >> rules[c.ROW_SHIFT]) & (rules[c.ROWS] - 1)
    words[:] = 0
    words[0] = core.queues[kind, QUEUED]
    words[1] = kind
    words[2] = bank_of(burst, core)
    words[3] = state[c.ACCOUNTED_TO] - clock
    words[4] = max(state[c.DATA_END] - clock, -NEVER)
    words[5] = state[c.DATA_KIND]
    words[6] = state[c.DATA_GROUP]
    words[7] = state[c.DUE_RANK]
    words[8] = state[c.LATE]
    at = 9
    slot = core.queues[kind, OLDEST]
    while slot >= 0:
        request = requests[kind, slot]
        words[at] = (burst - request[c.BURST]) << 8 | request[c.IN_BANK] << 1 | request[c.STARTED]
        words[at + 1] = (request[c.WANTED_ROW] - row) & (rules[c.ROWS] - 1)
        words[at + 2] = clock - request[c.SINCE]
        at += 3
        slot = request[c.YOUNGER]
    at = 9 + 3 * rules[c.DEPTH]
    for bank in core.banks:
        words[at] = _NO_ROW
        words[at + 3] = max(bank[ACT_AT] - clock, 0)
        if bank[OPEN_ROW] >= 0:
            words[at] = (bank[OPEN_ROW] - row) & (rules[c.ROWS] - 1)
            words[at + 1] = min(bank[c.HITS], rules[c.CAP])
            words[at + 2] = max(bank[COLUMN_AT] - clock, 0)
            words[at + 4] = max(bank[c.PRE_AT] - clock, 0)
        at += 5
    for group in core.groups:
        for n in range(3):
            words[at + n] = max(group[n] - clock, 0)
        at += 3
    for rank in core.ranks:
        for n in range(3):
            words[at + n] = max(rank[n] - clock, 0)
        words[at + 3] = rank[REFRESH_AT] - state[DUE_AT]
        if rank[c.REFRESH_END] > state[c.ACCOUNTED_TO]:  # it still explains idle time of the bus
            words[at + 4] = rank[c.REFRESH_BEGIN] - clock
            words[at + 5] = rank[c.REFRESH_END] - clock
        for n in range(4):
            words[at + 6 + n] = max(rank[WINDOW + (rank[c.ACTS] + n) % 4] - clock, -rules[c.nFAW])
        at += 10
    returns, last = core.returns, core.counts[c.N_READS]
    for n in range(len(returns)):
        place = (last + 1 + n) % len(returns)
        if returns[place, 1] > clock:
            words[at + 2 * n] = burst - returns[place, 0]
            words[at + 2 * n + 1] = returns[place, 1] - clock


@compiled
def _restore(number, core, recall):
    """Fill the core's tables with a remembered state, at its clock and its stream's next burst."""
    rules, state, requests, queues = core.rules, core.state, core.requests, core.queues
    chains, words, streams = core.chains, recall.states[number], core.streams
    stream, clock, kind = core.offering[0], core.state[CLOCK], recall.states[number, 1]
    burst = streams[stream, NEXT_BURST]
    row = (burst >> rules[c.ROW_SHIFT]) & (rules[c.ROWS] - 1)
    count = words[0]
    state[c.ACCEPT_AT] = clock
    state[c.ACCOUNTED_TO] = words[3] + clock
    state[c.DATA_END] = words[4] + clock
    state[c.DATA_KIND] = words[5]
    state[c.DATA_GROUP] = words[6]
    state[c.LATE] = words[8]
    state[c.POINTER] = 1
    queues[kind, QUEUED] = count
    queues[kind, c.ROOM_AT] = clock
    queues[kind, OLDEST] = 0 if count > 0 else -1
    queues[kind, c.YOUNGEST] = count - 1
    queues[kind, c.FREE] = count if count < rules[c.DEPTH] else -1
    for bank in range(len(core.banks)):
        chains[kind, bank, c.FIRST] = -1
    at = 9
    for slot in range(rules[c.DEPTH]):
        request = requests[kind, slot]
        request[c.NEXT] = slot + 1 if slot + 1 < rules[c.DEPTH] else -1
        if slot < count:
            bank = (words[at] & 255) >> 1
            request[c.BURST] = burst - (words[at] >> 8)
            request[c.IN_BANK] = bank
            request[c.STARTED] = words[at] & 1
            request[c.WANTED_ROW] = (row + words[at + 1]) & (rules[c.ROWS] - 1)
            request[c.SINCE] = clock - words[at + 2]
            request[c.STREAM] = stream
            request[c.BLOCKERS] = 0
            request[c.AGE] = state[ACCEPTED] - count + slot
            request[c.NEXT] = -1
            request[c.OLDER] = slot - 1
            request[c.YOUNGER] = slot + 1 if slot + 1 < count else -1
            if chains[kind, bank, c.FIRST] < 0:
                chains[kind, bank, c.FIRST] = slot
            else:
                requests[kind, chains[kind, bank, c.LAST], c.NEXT] = slot
            chains[kind, bank, c.LAST] = slot
        at += 3
    for rank in core.ranks:
        rank[c.OPEN_BANKS] = 0
        rank[c.OPENED_AT] = clock
    for bank in core.banks:
        bank[OPEN_ROW] = -1
        if words[at] != _NO_ROW:
            bank[OPEN_ROW] = (row + words[at]) & (rules[c.ROWS] - 1)
        core.ranks[bank[c.IN_RANK], c.OPEN_BANKS] += words[at] != _NO_ROW
        bank[c.HITS] = words[at + 1]
        bank[COLUMN_AT] = words[at + 2] + clock
        bank[ACT_AT] = words[at + 3] + clock
        bank[c.PRE_AT] = words[at + 4] + clock
        at += 5
    for group in core.groups:
        for n in range(3):
            group[n] = words[at + n] + clock
        at += 3
    for rank in core.ranks:
        for n in range(3):
            rank[n] = words[at + n] + clock
        rank[c.REFRESH_BEGIN] = rank[c.REFRESH_END] = 0
        if words[at + 5] != 0:
            rank[c.REFRESH_BEGIN] = words[at + 4] + clock
            rank[c.REFRESH_END] = words[at + 5] + clock
        rank[c.ACTS] = 0
        for n in range(4):
            rank[WINDOW + n] = words[at + 6 + n] + clock
        at += 10
    for bank in range(len(core.banks)):
        c.propose(kind, bank, core)
    returns, last = core.returns, core.counts[c.N_READS]
    for n in range(len(returns)):
        place = (last + 1 + n) % len(returns)
        returns[place, 0] = burst - words[at + 2 * n]
        returns[place, 1] = words[at + 2 * n + 1] + clock
    if len(core.script) > 0:
        c.follow_script(core)
    else:
        ps = streams[stream, c.OFFER_PS] + rules[c.tCK] - 1
        streams[stream, c.OFFER_AT] = ps // rules[c.tCK]
