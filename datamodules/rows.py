"""Arrays of one shape, one after the other in a file: what a long clip leaves on disk and not in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from datamodules.disk import not_written

Kind = TypeVar("Kind", bound=np.generic)


class Rows(Generic[Kind]):
    """Rows ``(n, *shape)`` of one kind in one file, written at its end and read anywhere.

    Read with ordinary calls, not mapped: mapped pages would count as memory. A row that a killed writer left
    unfinished is not there, and is written over.
    """

    def __init__(self, path: Path, shape: Sequence[int], kind: type[Kind]) -> None:
        """The file is made when the first rows are added."""
        self.path, self.shape, self.kind = path, tuple(shape), np.dtype(kind)
        self._bytes = math.prod(self.shape) * self.kind.itemsize

    def __len__(self) -> int:
        return self.path.stat().st_size // self._bytes if self.path.is_file() else 0

    def append(self, rows: NDArray[Kind]) -> None:
        """Add ``(n, *shape)``; raises ``ValueError`` for another shape and ``NotWrittenError`` for a full disk."""
        if rows.shape[1:] != self.shape:
            raise ValueError(f"{self.path.name} takes rows {self.shape}, got {rows.shape[1:]}")
        try:
            with self.path.open("r+b" if self.path.exists() else "w+b") as stream:
                stream.seek(len(self) * self._bytes)
                stream.write(np.ascontiguousarray(rows, self.kind).tobytes())
                stream.truncate()
        except OSError as error:
            raise not_written(self.path, error) from error

    def cut(self, count: int) -> None:
        """Drop all rows but the first ``count``."""
        if len(self) > count:
            os.truncate(self.path, count * self._bytes)

    def read(self, first: int, last: int) -> NDArray[Kind]:
        """Rows ``[first, last)``; raises ``IndexError`` where they are not all there."""
        if not 0 <= first <= last <= len(self):
            raise IndexError(f"{self.path.name} has {len(self)} rows, {first} to {last} were asked for")
        if first == last:
            return np.empty((0, *self.shape), self.kind)
        with self.path.open("rb") as stream:
            data = os.pread(stream.fileno(), (last - first) * self._bytes, first * self._bytes)
        rows: NDArray[Any] = np.frombuffer(data, self.kind).reshape(-1, *self.shape).copy()
        return rows
