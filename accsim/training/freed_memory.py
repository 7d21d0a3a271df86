"""Freed memory is kept for the next step: torch allocates and frees the same large maps in each.

glibc gives large blocks back to the system as they are freed, and takes new ones that the system
has to clear, page by page. Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
NEVER, NONE = -1, 0


def keep_freed_memory() -> bool:
    """Have this process keep what it frees, until it ends; False where there is no glibc.

    Changes no value; the process goes on to hold the most that it ever needed. Elsewhere nothing
    happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    kept = libc.mallopt(M_TRIM_THRESHOLD, NEVER) and libc.mallopt(M_MMAP_MAX, NONE)
    return bool(kept)
