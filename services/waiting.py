"""Threads that wait for one another let go of their core soon; spinning takes it from who shares the machine."""

from __future__ import annotations

import os
import sys

SPINS = 1000
"""Rounds that a thread of libgomp spins before it sleeps; by itself about 300,000 (`benchmarks/waiting.py`)."""


def wait_briefly() -> bool:
    """Have torch's threads sleep where they would spin on; whether they will. Before torch is imported.

    Nothing is done where ``OMP_WAIT_POLICY`` or ``GOMP_SPINCOUNT`` says that somebody has chosen already.
    """
    if "torch" in sys.modules or not os.environ.keys().isdisjoint(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        return False
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    return True
