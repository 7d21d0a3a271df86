"""Stored predictions of frames in place of a teacher's labels: what they move, where they lie."""

from dataclasses import replace

import pytest
from memory_twin import STORED, check_transfers

from accsim import engine, ledger
from accsim.network import Linear, Network, Shape
from accsim.passes import Passes
from accsim.schedule import (
    DeferredWriteback,
    FusedUpdate,
    GradientAccumulation,
    LayerwiseEma,
    OverlappedEma,
    SeparateEma,
)
from accsim.schedule.program import scattered

STEP = Passes(0, 5, 4, ema=False, queued=-3, own_labels=True, predictions=1000)
RECORD = (3 + 1) * 2  # bytes: logits of 3 classes and a count, 16 bits each


def transfers(operations):
    """(place, size) of what is read of the predictions, and of what is written, tile by tile."""
    return tuple(
        [
            (transfer.offset_bytes // RECORD, transfer.size_bytes)
            for operation in operations
            for tile in operation.tiles
            for transfer in getattr(tile, side)
            if transfer.tensor.kind == "predictions"
        ]
        for side in ("loads", "stores")
    )


def test_a_prediction_is_read_and_written_for_every_frame(lower, machine, travelled):
    """Beside the loss of 5 samples of which 3 are frames; no teacher's byte moves."""
    counts = travelled(lower(SeparateEma(), machine, STEP))
    assert {key: count for key, count in counts.items() if key[0] == "loss"} == {
        ("loss", "activations"): (5 * 3, 0),
        ("loss", "predictions"): (3 * RECORD, 3 * RECORD),
        ("loss", "labels"): (5, 0),
        ("loss", "error"): (0, 4 * 3),
    }
    assert not {"teacher"} & {kind for _, kind in counts}
    supervised = travelled(lower(SeparateEma(), machine, Passes(0, 5, 4, False)))
    assert counts.pop(("loss", "predictions"))
    assert counts == supervised


def test_each_travels_alone_to_a_place_of_its_own(lower, machine):
    """A burst of 64 bytes for 8, six times."""
    operations = lower(SeparateEma(), machine, STEP)
    read, written = transfers(operations)
    assert read == written
    assert [size for _, size in read] == [RECORD] * 3
    places = [place for place, _ in read]
    assert sorted(places) == [0, 333, 666]
    alone = engine.simulate(operations, machine)
    plain = engine.simulate(lower(SeparateEma(), machine, Passes(0, 5, 4, False)), machine)
    for side in ("read", "write"):
        assert alone.dma_bursts[side] - plain.dma_bursts[side] == 3
    assert alone.padding_bytes - plain.padding_bytes == 6 * (64 - RECORD)


@pytest.mark.parametrize(("count", "places"), [(0, 9), (1, 1), (2, 2), (96, 50_000), (60, 61)])
def test_scattered_places_are_apart(count, places):
    found = list(scattered(count, places))
    assert len(set(found)) == count
    assert all(0 <= place < places for place in found)


def test_the_store_lies_in_ddr_for_the_whole_step(lower, machine):
    operations = lower(SeparateEma(), machine, STEP)
    (one,) = (a for o in operations for a in o.takes if a.tensor.kind == "predictions")
    assert (one.memory, one.size_bytes) == ("ddr", 1000 * RECORD)
    assert (one.first, one.last) == (0, len(operations) - 1)
    without = replace(STEP, queued=0, predictions=0)  # own labels: no room for a teacher either
    ends = [
        max(a.end for o in lower(SeparateEma(), machine, passes) for a in o.takes)
        for passes in (STEP, without)
    ]
    assert ends[0] - ends[1] >= 1000 * RECORD


def test_what_is_stored_lies_at_the_same_place_in_every_step(lower, machine):
    """Of frames that are all new, all accepted, and fewer."""
    steps = (replace(STEP, backward=2), STEP, replace(STEP, student_forward=4, queued=-2))
    places = [
        {
            one.tensor.name: one.address
            for operation in lower(SeparateEma(), machine, passes)
            for one in operation.takes
            if one.tensor.kind in STORED
        }
        for passes in steps
    ]
    assert places[0] == places[1] == places[2]
    assert len(places[0]) == 2 * 3 + 1  # weights and momentum of three layers, predictions


@pytest.mark.parametrize("separate", [False, True])
def test_micro_batches_take_their_own_frames(separate, network, lower, machine):
    """4 images and 6 frames in two parts: 3 frames each, none of them twice."""
    parts = ((3, 2), (2, 2), (3, 0), (2, 2)) if separate else ((5, 4), (5, 4))
    passes = Passes(
        0, 10, sum(b for _, b in parts), False, parts, queued=-6, own_labels=True,
        predictions=1000, separate_domains=separate,
    )  # fmt: skip
    schedule = GradientAccumulation(LayerwiseEma(), micro_batches=2)
    operations = lower(schedule, machine, passes)
    read, written = transfers(operations)
    assert read == written
    assert len({place for place, _ in read}) == 6
    losses = [o for o in operations if o.pass_name == "loss"]
    kept = [sum(t.kind == "predictions" for t, _ in o.reads) for o in losses]
    assert kept == ([1, 0, 1, 0] if separate else [1, 1])
    moved = []
    timeline = engine.simulate(
        operations, machine, listen=lambda w: moved.append(w) if "dma" in w.unit else None
    )
    check_transfers(operations, moved)
    ledger.check(timeline.ledgers(network, passes))


@pytest.mark.parametrize(
    "schedule", [LayerwiseEma(), FusedUpdate(), OverlappedEma(), DeferredWriteback(3)]
)
def test_every_schedule_without_a_teacher_is_one(schedule, lower, machine, travelled):
    counts = [travelled(lower(s, machine, STEP)) for s in (SeparateEma(), schedule)]
    assert counts[0] == counts[1]


def test_a_record_that_is_longer_than_a_tile_s_share_has_room(lower, small_machine):
    """1,000 classes: 2,002 bytes of a slot of 4 KiB for a frame, whatever tiles are cut."""
    network = Network("wide", Shape(1, 1, 8), (Linear("fc", 1000),))
    operations = lower(SeparateEma(), small_machine, STEP, network=network)
    (loss,) = (o for o in operations if o.pass_name == "loss")
    buffers = small_machine.buffers
    for name in ("input", "output"):
        assert 2002 <= loss.slot_bytes[name] <= getattr(buffers, name).tile_bytes
    engine.simulate(operations, small_machine)


def test_passes_with_two_kinds_of_labels_are_refused():
    with pytest.raises(ValueError, match="teacher_forward must be 0 where predictions are stored"):
        Passes(3, 5, 4, False, own_labels=True, predictions=1000)
