from accsim import units


def test_a_200_mhz_clock_has_a_period_of_5000_ps():
    assert units.period_ps(200) == 5000


def test_a_period_is_rounded_to_the_nearest_ps():
    assert units.period_ps(300) == 3333
    assert units.period_ps(150) == 6667


def test_one_watt_is_a_million_attojoules_a_picosecond():
    assert units.watts_to_aj_per_ps(1.0) == 10**6
    assert units.joules(units.watts_to_aj_per_ps(2.5) * units.PS_PER_SECOND) == 2.5


def test_joules_and_seconds_return_unchanged():
    assert units.joules(units.joules_to_aj(8.243e-9)) == 8.243e-9
    assert units.seconds(units.seconds_to_ps(0.03)) == 0.03


def test_ceil_div_rounds_up_and_keeps_exact_quotients():
    assert [units.ceil_div(n, 4) for n in (0, 1, 4, 5, -5)] == [0, 1, 1, 2, -1]
