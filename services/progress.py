"""How long work tells its caller where it stands, and how the caller stops it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


class CancelledError(RuntimeError):
    """The caller asked the work to stop; nothing half-written is left."""

    def __init__(self) -> None:
        super().__init__("cancelled")


@dataclass(frozen=True)
class Progress:
    """Where the work stands."""

    stage: str
    """What is being done, e.g. ``find faces`` or ``edit``."""
    done: int
    """Steps of the stage that are behind."""
    total: int
    """Steps of the stage; 0 where it is not known."""
    eta: float | None
    """Seconds until the stage ends, by its pace so far; None while that is not known."""


Report = Callable[[Progress], None]
Cancelled = Callable[[], bool]


def silent(progress: Progress) -> None:
    """Tell nobody."""


def never() -> bool:
    """Go on."""
    return False


class Meter:
    """Counts the steps of one stage, tells about each, and raises ``CancelledError`` when asked to stop."""

    def __init__(self, stage: str, total: int, report: Report, cancelled: Cancelled) -> None:
        self.stage, self.total, self.report, self.cancelled = stage, total, report, cancelled
        self.done = 0
        self.started = time.monotonic()
        self.check()
        report(Progress(stage, 0, total, None))

    def check(self) -> None:
        """Raise ``CancelledError`` if the caller asked to stop."""
        if self.cancelled():
            raise CancelledError

    def advance(self, steps: int = 1) -> None:
        """Note that ``steps`` more are done."""
        self.done += steps
        left = self.total - self.done
        elapsed = time.monotonic() - self.started
        eta = elapsed / self.done * left if self.done and left >= 0 and self.total else None
        self.report(Progress(self.stage, self.done, max(self.total, self.done) if self.total else 0, eta))
        self.check()
