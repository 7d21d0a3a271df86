"""Memory that a step frees is there for the next one: no page is asked for again."""

import platform
import subprocess
import sys

import pytest

from accsim.training import freed_memory

STEPS = """\
import resource
import numpy as np
from accsim.training.freed_memory import keep_freed_memory

def faults_of_a_step():
    "Of two maps of 64 MiB, made and freed, as torch does it."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    one = np.empty(2**26, np.uint8)
    one[::4096] = 1
    two = np.empty(2**26, np.uint8)
    two[::4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

freed = [faults_of_a_step() for _ in range(3)]
assert keep_freed_memory()
kept = [faults_of_a_step() for _ in range(3)]
print(freed[2], kept[2])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_pages_are_asked_for_once():
    """64 MiB is above the 32 MiB up to which glibc learns to keep blocks by itself."""
    ran = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, timeout=120
    )
    freed, kept = map(int, ran.stdout.split())
    huge_pages = 2 * 2**26 // 2**21  # where the system gives them
    assert freed >= huge_pages
    assert kept < freed / 10


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", None)
    assert not freed_memory.keep_freed_memory()
