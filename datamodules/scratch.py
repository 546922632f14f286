"""A folder beside a file for what leads to it: gone with the block, or after a kill at the next run."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MARK = ".stylereel-"
"""Between the file's name and what makes the folder's unique."""


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A hidden folder next to ``path``; first those go that killed processes left of the same path.

    A process holds its folder by a lock that the system takes back however the process ends. Where the file system
    has no such locks, nothing is known to be left, and only the own folder goes.
    """
    _sweep(path)
    folder = path.with_name(f".{path.name}{_MARK}{secrets.token_hex(4)}")
    try:  # named before it is made: an interrupt that comes with its making finds it
        folder.mkdir(mode=0o700)
        with _opened(folder) as number:
            with suppress(OSError):
                # A sweep that looks at the empty folder just now lets go of it at once.
                fcntl.flock(number, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(path: Path) -> None:
    ours = re.compile(re.escape(f".{path.name}{_MARK}") + r"[a-z0-9_]{8}")
    with suppress(OSError):  # what cannot be swept does no harm to what is to be done
        for left in [one for one in path.parent.iterdir() if ours.fullmatch(one.name)]:
            with suppress(OSError), _opened(left) as number:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any(left.iterdir()):  # an empty one may be that of a process that is about to lock it
                    shutil.rmtree(left)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """The number of an open folder, never of what a link leads to; closing it lets go of the lock."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield number
    finally:
        os.close(number)
