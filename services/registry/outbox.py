"""Records of runs that the registry could not take, kept on the disk and sent in order once it answers again."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

Kind = Literal["params", "metrics", "file", "model", "end"]
_RECORD, _CONTENT = "record.json", "content"
_PART = ".part-"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One thing that a run has to say."""

    kind: Kind
    data: Any
    """As JSON holds it."""
    path: Path | None = None
    """The file or folder that it is about."""


class Outbox:
    """A folder with a folder per run, and in it one per record, numbered; processes take turns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def waits(self, run_id: str) -> bool:
        """Whether something of this run is still to be sent."""
        return bool(self._places(run_id))

    def put(self, run_id: str, record: Record) -> None:
        """Keep a record, with a copy of its file or folder. Raises ``OSError``."""
        with self._alone():
            place = self.folder / run_id
            place.mkdir(exist_ok=True)
            taken = self._places(run_id)
            part = Path(tempfile.mkdtemp(prefix=_PART, dir=place))
            try:
                if record.path is not None:
                    copy = part / _CONTENT / record.path.name
                    copy.parent.mkdir()
                    (shutil.copytree if record.path.is_dir() else shutil.copyfile)(record.path, copy)
                (part / _RECORD).write_text(json.dumps([record.kind, record.data]))
                os.replace(part, place / f"{int(taken[-1].name) + 1 if taken else 0:08d}")
            finally:
                shutil.rmtree(part, ignore_errors=True)

    def deliver(self, send: Callable[[str, Record], None]) -> None:
        """Hand every record to ``send(run_id, record)``, run by run in order, and drop it when that returns.

        A record that a crash of the machine damaged is dropped with a warning, so as not to hold up the others.
        """
        if not self.folder.is_dir():
            return
        with self._alone():
            for run in sorted(path for path in self.folder.iterdir() if path.is_dir()):
                for place in self._places(run.name):
                    record = _read(place)
                    if record is not None:
                        send(run.name, record)
                    # Taken away under another name first: a kill amid the removal must not leave half a record.
                    gone = place.with_name(f"{_PART}{place.name}")
                    os.replace(place, gone)
                    shutil.rmtree(gone)
                shutil.rmtree(run)

    def _places(self, run_id: str) -> list[Path]:
        place = self.folder / run_id
        return sorted(path for path in place.iterdir() if path.name.isdecimal()) if place.is_dir() else []

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            yield


def _read(place: Path) -> Record | None:
    try:
        kind, data = json.loads((place / _RECORD).read_text())
    except (FileNotFoundError, ValueError) as error:
        _log.warning("the record %s is damaged (%s) and dropped", place, error)
        return None
    content = place / _CONTENT
    return Record(kind, data, next(content.iterdir()) if content.is_dir() else None)
