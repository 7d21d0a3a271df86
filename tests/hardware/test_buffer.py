import pytest
import simpy

from accsim.hardware.buffer import Buffer, BufferSpec


def test_double_buffering_halves_what_a_tile_may_take():
    assert BufferSpec(1001).tile_bytes == 500
    assert BufferSpec(1001, double=False).tile_bytes == 1001


def test_a_buffer_must_hold_something():
    with pytest.raises(ValueError, match="capacity_bytes of a buffer must be at least 1, not 0"):
        BufferSpec(0)


@pytest.mark.parametrize(("double", "history"), [(True, [0, 0, 10]), (False, [0, 10, 20])])
def test_a_taker_waits_for_a_free_slot(double, history):
    env = simpy.Environment()
    buffer = Buffer(env, BufferSpec(64, double))
    taken = []

    def user():
        yield from buffer.take()
        taken.append(env.now)
        yield env.timeout(10)
        buffer.give()

    for _ in range(3):
        env.process(user())
    env.run()
    assert taken == history
    assert buffer.free == BufferSpec(64, double).slots
