import pytest
from hypothesis import given
from hypothesis import strategies as st

from accsim.hardware.pe_array import NO_REGISTERS, PEArraySpec, RegistersSpec, Reservations


def test_accumulator_must_hold_a_product():
    with pytest.raises(ValueError, match=r"accumulator_bits must be at least 16 .* not 15"):
        PEArraySpec(4, 4, operand_bits=8, accumulator_bits=15)


@pytest.mark.parametrize("name", ["rows", "columns", "multiplier_latency", "adder_latency"])
def test_an_array_without_units_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} of a PE array must be at least 1, not 0"):
        PEArraySpec(**{"rows": 4, "columns": 4, name: 0})


@pytest.mark.parametrize("bits", [1, 17])
def test_operands_have_2_to_16_bits(bits):
    with pytest.raises(ValueError, match=f"operand_bits of a PE array must be 2 to 16, not {bits}"):
        PEArraySpec(4, 4, operand_bits=bits, accumulator_bits=48)


def test_registers_take_no_negative_cycles():
    with pytest.raises(ValueError, match="sum_cycles of a PE array must be at least 0, not -1"):
        RegistersSpec(sum_cycles=-1)


def test_words_of_part_bytes_take_whole_bytes():
    array = PEArraySpec(2, 3, operand_bits=6, accumulator_bits=20)
    assert (array.macs_per_cycle, array.operand_bytes, array.accumulator_bytes) == (6, 1, 3)


def test_a_product_passes_memory_operand_and_multiplier_registers():
    assert PEArraySpec(1, 1, multiplier_latency=3).product_cycles == 1 + 1 + 3
    assert PEArraySpec(1, 1, registers=NO_REGISTERS).product_cycles == 1


def test_an_event_waits_for_the_last_of_what_it_takes():
    time = Reservations()
    time.take({"port": (0, 1), "adder": (2, 5)})
    assert time.free_at == {"port": 1, "adder": 5}
    time.take({"port": (0, 1), "adder": (2, 5)})  # the adder is needed 2 cycles after the issue
    assert time.free_at == {"port": 4, "adder": 8}
    time.take({"port": (0, 1)})
    assert time.free_at == {"port": 5, "adder": 8}


def test_the_only_event_of_a_stream_is_first_and_last():
    time = Reservations()
    time.stream(1, each={"port": (0, 1)}, first={"array": (0, 0)}, last={"array": (7, 7)})
    time.stream(1, each={"port": (0, 1)}, first={"array": (0, 0)}, last={"array": (7, 7)})
    assert time.free_at == {"port": 8, "array": 14}


offsets = st.integers(0, 6)
holds = st.tuples(offsets, offsets).map(sorted).map(tuple)
events = st.dictionaries(st.sampled_from("abcd"), holds).map(lambda held: {**held, "port": (0, 1)})


@given(st.lists(events, min_size=1, max_size=3), st.lists(events, max_size=3), st.integers(1, 40))
def test_repeated_work_takes_the_time_that_doing_it_takes(before, work, count):
    """... also where the repeated work repeats something itself, and with something before it."""
    short, long = Reservations(), Reservations()

    def body(time, repeat):
        for event in work:
            repeat(4, lambda event=event: time.take(event))
        time.take({"port": (0, 2)})

    def one_by_one(count, work):
        for _ in range(count):
            work()

    for time, repeat in ((short, short.repeat), (long, one_by_one)):
        for event in before:
            time.take(event)
        repeat(count, lambda time=time, repeat=repeat: body(time, repeat))
    assert short.free_at == long.free_at
