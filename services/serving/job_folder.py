"""What lies in a job's folder: the clip, what its editor goes on from, what was asked, how far it is."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from datamodules.disk import beside
from datamodules.types import BadInputError
from services.pipeline.sidecar import INPUT_SHA256, file_sha256

JOB_ID = re.compile(r"[0-9a-f]{32}")
"""The name of a job's folder."""
CLIP = "input"
"""What was sent; gone when the job is over."""
WORK = "work"
"""Folder of a job in which its editor leaves what it goes on from; gone when the job is over."""
STARTS = "starts.json"
"""How often the step that is under way was begun; gone when it ended or the server stopped in good order."""
MOST_STARTS = 5
"""A step during which the server was killed so often is not begun again: it may be what kills the server.

No setting: whatever kills a server five times kills it the sixth time too, and orderly stops do not count.
"""


def count_start(folder: Path) -> None:
    """Note that a step begins; raises ``BadInputError`` where the server was killed in it too often."""
    starts = (read_json(folder / STARTS) or {"starts": 0})["starts"]
    if starts >= MOST_STARTS:
        message = f"the server was killed {starts} times while it worked on this"
        raise BadInputError(f"{message}; send smaller frames or a shorter section", 500)
    write_json(folder / STARTS, {"starts": starts + 1})


def forget_starts(folder: Path) -> None:
    """What comes next is not held against the step that was under way."""
    (folder / STARTS).unlink(missing_ok=True)


def write_request(folder: Path, request: dict[str, Any]) -> None:
    """Keep what was asked of its clip, and when; raises ``OSError``."""
    noted = {"created": time.time(), INPUT_SHA256: file_sha256(folder / CLIP)}
    write_json(folder / "request.json", request | noted)


def note_progress(folder: Path, stage: str, progress: float) -> None:
    """Keep how far a job is, unless it was deleted; ``progress`` is of its stage, in [0, 1]."""
    if folder.exists():
        write_json(folder / "progress.json", {"stage": stage, "progress": round(progress, 4)})


def is_cancelled(folder: Path) -> bool:
    """Whether somebody cancelled the job, or deleted it."""
    return (folder / "cancelled").exists() or not folder.exists()


def remove_rest(folder: Path) -> None:
    """What a job that is over no longer needs; whose clip it was stays known by its hash."""
    (folder / CLIP).unlink(missing_ok=True)
    shutil.rmtree(folder / WORK, ignore_errors=True)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a file whole or not at all; raises ``OSError`` where that cannot be."""
    with beside(path) as part:
        part.write_text(json.dumps(value, allow_nan=False))


def read_json(path: Path) -> dict[str, Any] | None:
    """None where the file is not there, or was cut short when the power went."""
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value
