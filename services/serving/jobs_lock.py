"""The folder of the jobs is one server's: two would run the same jobs."""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from datamodules.types import BadInputError


def lock_jobs(folder: Path) -> BaseFileLock:
    """Hold the folder; raises ``BadInputError`` where another server holds it. A killed server holds nothing."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadInputError(f"another server works on {folder}; stop it, or give STYLEREEL_STATE") from error
    return lock
