"""Files that appear whole or not at all, and what is said where the disk does not take them."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.types import BadInputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, the user's share of it, or the largest file that may be."""
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""safetensors has an error's number in its text alone."""


class NotWrittenError(BadInputError):
    """A file that could not be written: ``status`` is 507 where the disk is full, 422 where it is not."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is what an error, or one behind it, speaks of; SQLite has a number of its own for it."""
    seen: set[int] = set()
    # An error may stand behind itself.
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = _OS_ERROR.search(str(error))
        if (isinstance(error, OSError) and error.errno in _FULL) or (number and int(number[1]) in _FULL):
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def not_written(path: Path, error: BaseException) -> NotWrittenError:
    """What to say where ``error`` came while ``path`` was written."""
    status, remedy = (507, "free some space") if is_disk_full(error) else (422, "check the folder")
    return NotWrittenError(f"cannot write {path} ({getattr(error, 'strerror', None) or error}); {remedy}", status)


def require_writable(path: Path) -> None:
    """Raise ``NotWrittenError`` where no file can be made beside ``path``; folders that lack are made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Permissions alone do not tell: a file system may be read-only, or take no files at all.
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise not_written(path, error) from error


def require_other(target: Path, source: Path) -> None:
    """Raise ``BadInputError`` where an output would be written over its own input."""
    if target.exists() and source.exists() and target.samefile(source):
        raise BadInputError(f"{target} is the input itself; give the output another name")


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it; what is not there is no error, what stays is a ``BadInputError``."""

    def failed(_: object, place: str, how: tuple[type, BaseException, object]) -> None:
        error = how[1]
        if not isinstance(error, FileNotFoundError):
            reason = getattr(error, "strerror", None) or error
            raise BadInputError(f"cannot delete {place} ({reason}); do it as the user whose it is", 500) from error

    shutil.rmtree(folder, onerror=failed)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A place to write to that becomes ``path`` where the block ends well, and is gone where it does not."""
    # Two processes that write the same file do not write into each other's.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; raises ``NotWrittenError`` where that cannot be."""
    try:
        with beside(path) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise not_written(path, error) from error
