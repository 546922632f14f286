"""One call at a time learns in a work folder: who comes second waits, and finds what the first one made."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from datamodules.types import BadInputError
from services.progress import Cancelled, Meter, Report

LOCK = ".lock"
"""Ends the name of the file beside a work folder that is locked while a call works in it."""
_LOOK_EVERY = 0.5
"""Seconds between two looks at whether to go on waiting."""
_log = logging.getLogger("stylereel.adaptation")


@contextmanager
def alone_in(work: Path, report: Report, cancelled: Cancelled) -> Iterator[bool]:
    """Inside the ``with`` block no other call works in the folder; gives whether it had to be waited for.

    A call that was killed holds nothing. Raises ``CancelledError`` soon after ``cancelled`` says so.
    """
    work.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock_of(work)
    meter: Meter | None = None
    while True:
        try:
            lock.acquire(timeout=0 if meter is None else _LOOK_EVERY)
            break
        except Timeout:
            if meter is None:
                _log.warning("another call learns from this clip; waiting for it")
                meter = Meter("wait", 0, report, cancelled)
            meter.check()
    with _held(lock):
        yield meter is not None


@contextmanager
def alone_at_once(work: Path) -> Iterator[None]:
    """As ``alone_in``; raises ``BadInputError`` (409) where another call works in the folder."""
    lock = _lock_of(work)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadInputError(
            "a call is learning this face right now; stop it or let it end, then ask again", 409
        ) from error
    with _held(lock):
        yield


def _lock_of(work: Path) -> BaseFileLock:
    return FileLock(work.with_name(work.name + LOCK))


@contextmanager
def _held(lock: BaseFileLock) -> Iterator[None]:
    try:
        yield
    finally:
        # While it is still held: whoever waits for a file that lost its name makes a new one.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
