"""Freed memory kept for the next tensor: glibc gives every large one back to the system and takes new pages."""

from __future__ import annotations

import ctypes
import os

MIB = 1 << 20
MAPPED_FROM = 96 * MIB
"""Bytes: blocks from this size on still come and go by themselves. 64 channels of 512 px are 64 MiB in float32."""
MAPPED_FROM_BEFORE_2_35 = 32 * MIB
"""The most that older versions of glibc take; they refuse a larger number."""
KEPT = 512 * MIB
"""Bytes of free memory at the end of the heap that are kept."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""glibc's numbers, of malloc.h."""


def keep_freed_memory() -> bool:
    """Let glibc's malloc reuse what was freed instead of asking for fresh, zeroed pages; whether it does now.

    A render with its gradient allocates and frees hundreds of blocks of 1 to 32 MiB: without this a third of its
    time goes into page faults. All threads share one arena, as blocks that one thread freed are of no use to
    another otherwise; so call it before other threads begin. Nothing is done where the C library is another
    one, and where ``MALLOC_MMAP_THRESHOLD_`` says that somebody has chosen already.
    """
    if not _is_glibc() or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    if not any(mallopt(_MMAP_THRESHOLD, size) for size in (MAPPED_FROM, MAPPED_FROM_BEFORE_2_35)):
        # The other settings alone would stop glibc from raising this one by itself, and make it slower.
        return False
    taken = [bool(mallopt(name, value)) for name, value in ((_TRIM_THRESHOLD, KEPT), (_ARENA_MAX, 1))]
    return all(taken)


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):
        return False
