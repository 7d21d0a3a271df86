"""Conversions between the units of the machine, the data sheet and the reader; nowhere else.

Simulated time is whole picoseconds, energy whole attojoules: sums of either close exactly.
"""

KIB = 1024
MIB = 1024 * KIB
PS_PER_SECOND = 10**12
AJ_PER_JOULE = 10**18
AJ_PER_PS_PER_WATT = AJ_PER_JOULE // PS_PER_SECOND


def period_ps(clock_mhz: int) -> int:
    """Whole picoseconds of one clock cycle, rounded to the nearest."""
    return (2 * 10**6 + clock_mhz) // (2 * clock_mhz)


def seconds(ps: int) -> float:
    """Seconds of `ps` picoseconds."""
    return ps / PS_PER_SECOND


def seconds_to_ps(seconds: float) -> int:
    """Whole picoseconds nearest to `seconds`."""
    return round(seconds * PS_PER_SECOND)


def joules(attojoules: int) -> float:
    """Joules of `attojoules`."""
    return attojoules / AJ_PER_JOULE


def joules_to_aj(joules: float) -> int:
    """Whole attojoules nearest to `joules`."""
    return round(joules * AJ_PER_JOULE)


def watts_to_aj_per_ps(watts: float) -> int:
    """Whole attojoules a picosecond nearest to `watts`."""
    return round(watts * AJ_PER_PS_PER_WATT)


def ceil_div(a: int, b: int) -> int:
    """Smallest whole number not below ``a / b``."""
    return -(-a // b)
