from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from services.memory import KEPT, MAPPED_FROM, MAPPED_FROM_BEFORE_2_35, keep_freed_memory
from services.settings import ROOT

BLOCK = 65 << 20
"""What 64 channels of 512 px take in float32, and a little."""
ROUNDS, AT_ONCE = 6, 5
COUNT_FAULTS = f"""
import resource
from services.memory import keep_freed_memory
kept = {{call}}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    blocks = [bytearray({BLOCK}) for _ in range({AT_ONCE})]
    del blocks
pages = {BLOCK} // resource.getpagesize()
print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / pages)
"""


def blocks_of_fresh_pages(call: str, **environment: str) -> tuple[str, float]:
    """How many of the blocks that a new process filled and freed came as fresh pages from the system."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS.format(call=call)],
        cwd=ROOT, env=clean | environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    kept, blocks = run.stdout.split()
    return kept, float(blocks)


def test_what_was_freed_is_used_again() -> None:
    assert blocks_of_fresh_pages("False")[1] > ROUNDS * AT_ONCE - 2
    kept, blocks = blocks_of_fresh_pages("keep_freed_memory()")
    assert kept == "True"
    assert blocks < 2 * AT_ONCE
    assert BLOCK < MAPPED_FROM and AT_ONCE * BLOCK < KEPT


def test_a_choice_of_the_user_stands() -> None:
    assert blocks_of_fresh_pages("keep_freed_memory()", MALLOC_MMAP_THRESHOLD_="1000000")[0] == "False"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr(os, "confstr", lambda name: None)
    assert keep_freed_memory() is False


@pytest.mark.parametrize("most", [MAPPED_FROM, MAPPED_FROM_BEFORE_2_35, 0])
def test_what_an_older_glibc_refuses_is_asked_for_less(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    taken: dict[int, int] = {}

    def mallopt(name: int, value: int) -> int:
        if name == -3 and value > most:
            return 0
        taken[name] = value
        return 1

    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.31")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory() is (most > 0)
    # -1 and -8 are M_TRIM_THRESHOLD and M_ARENA_MAX: without -3, M_MMAP_THRESHOLD, they are left alone.
    assert taken == ({-3: most, -1: KEPT, -8: 1} if most else {})
