import pytest
import simpy

from accsim.hardware.buffer import Buffer, BufferSpec, Memory


@pytest.mark.parametrize(("slots", "tile_bytes"), [(1, 1001), (2, 500), (3, 333)])
def test_slots_share_the_capacity(slots, tile_bytes):
    assert BufferSpec(1001, slots).tile_bytes == tile_bytes


def test_banks_work_in_parallel():
    assert BufferSpec(4096, banks=32, width_bits=64).bytes_per_cycle == 256
    assert BufferSpec(4096, banks=3, width_bits=8, ports=1).bytes_per_cycle == 3


@pytest.mark.parametrize("name", ["capacity_bytes", "slots", "banks", "width_bits"])
@pytest.mark.parametrize("value", [0, 1.5, True])
def test_a_buffer_must_hold_something(name, value):
    message = f"{name} of a buffer must be a whole number of at least 1, not {value}"
    with pytest.raises(ValueError, match=message):
        BufferSpec(**{"capacity_bytes": 4096, name: value})


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"width_bits": 12}, "width_bits of a buffer must be a multiple of 8, not 12"),
        ({"ports": 3}, "ports of a buffer must be 1 or 2, not 3"),
        ({"banks": 1, "memory": Memory.LUT}, "must have at most 64 words, not 512; use block RAM"),
    ],
)
def test_a_memory_that_cannot_be_built_is_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        BufferSpec(4096, **choices)


@pytest.mark.parametrize(
    ("words", "width_bits", "blocks"),
    [
        (1024, 32, 1),  # 1K x 36
        (1025, 32, 2),  # 1K x 36 twice, or 2K x 18 twice
        (1024, 64, 2),
        (2048, 16, 1),  # 2K x 18
        (4096, 8, 1),  # 4K x 9
        (4096, 64, 8),
        (65, 8, 1),  # a block is never shared
        (512, 72, 2),  # true dual port: no word of 72 bits
    ],
)
def test_block_ram_with_two_ports_comes_in_the_shapes_of_the_device(words, width_bits, blocks):
    spec = BufferSpec(words * width_bits // 8, banks=1, width_bits=width_bits)
    assert spec.blocks(Memory.BRAM) == blocks
    assert BufferSpec(8 * spec.capacity_bytes, banks=8, width_bits=width_bits).blocks(
        Memory.BRAM
    ) == (8 * blocks)


def test_with_one_port_words_are_wider_and_slots_stand_apart():
    wide = BufferSpec(2 * 512 * 9, slots=2, banks=1, width_bits=72, ports=1)
    assert wide.blocks(Memory.BRAM) == 2
    half = BufferSpec(2 * 256 * 9, slots=2, banks=1, width_bits=72, ports=1)
    assert half.blocks(Memory.BRAM) == 2  # two halves that one block cannot hold


@pytest.mark.parametrize(
    ("words", "width_bits", "blocks"), [(4096, 72, 1), (4097, 72, 2), (4096, 80, 2), (100, 8, 1)]
)
def test_ultraram_is_4k_words_of_72_bits(words, width_bits, blocks):
    spec = BufferSpec(words * width_bits // 8, banks=1, width_bits=width_bits)
    assert spec.blocks(Memory.URAM) == blocks


def test_a_shallow_bank_is_made_of_luts():
    shallow = BufferSpec(64 * 4, banks=2, width_bits=16)
    assert shallow.memories == (Memory.LUT,)
    assert shallow.blocks(Memory.LUT) == 2 * 16 * 2  # 64 x 1 with two ports: two LUTs
    assert BufferSpec(65 * 4, banks=2, width_bits=16).memories == (Memory.BRAM, Memory.URAM)
    assert BufferSpec(64 * 4, memory=Memory.BRAM).memories == (Memory.BRAM,)


@pytest.mark.parametrize(
    ("slots", "history"), [(1, [0, 10, 20, 30]), (2, [0, 0, 10, 10]), (3, [0, 0, 0, 10])]
)
def test_a_taker_waits_for_a_free_slot(slots, history):
    env = simpy.Environment()
    buffer = Buffer(env, BufferSpec(64, slots))
    taken = []

    def user():
        yield from buffer.take()
        taken.append(env.now)
        yield env.timeout(10)
        buffer.give()

    for _ in range(4):
        env.process(user())
    env.run()
    assert taken == history
    assert buffer.free == slots
