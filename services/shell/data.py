"""Videos of the user's own, versioned with DVC."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from datamodules.clips import find_videos
from datamodules.scratch import scratch_beside
from datamodules.types import BadInputError
from services.settings import ROOT


def add_videos(folder: Path, name: str | None = None, root: Path = ROOT) -> Path:
    """Copy the videos of ``folder`` to ``data/NAME`` and run ``dvc add`` on it; returns the path from ``root``.

    They are those that ``prepare`` finds there, and keep their folders. A folder that is under ``data/`` already
    is versioned where it is. Raises ``BadInputError`` for a folder without videos, for a name that is taken, and
    where DVC refuses.
    """
    root = root.resolve()
    videos = find_videos(folder)
    if not videos:
        raise BadInputError(f"{folder} holds no videos; give a folder of videos")
    data = root / "data"
    if folder.resolve().parent == data:
        target, copied = folder.resolve(), False
    else:
        called = name or folder.resolve().name
        if not re.fullmatch(r"\w[\w.-]*", called):
            raise BadInputError(f"{called!r} is no name for a data folder; give another --name")
        target, copied = data / called, True
        if target.exists():
            raise BadInputError(f"{target.relative_to(root)} exists already; give another --name, or remove it")
        data.mkdir(exist_ok=True)
        _copy(videos, folder, target)
    place = target.relative_to(root)
    # DVC reports to its makers unless told not to.
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", "add", str(place)]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        if copied:
            shutil.rmtree(target, ignore_errors=True)
        lines = [line for line in run.stderr.strip().splitlines() if line.strip()]
        raise BadInputError(f"dvc add {place} failed: {lines[-1] if lines else 'no message'}")
    return place


def _copy(videos: list[Path], folder: Path, target: Path) -> None:
    with scratch_beside(target) as scratch:
        # The scratch is its owner's alone; who may see the folder is for the umask to say.
        part = scratch / target.name
        for video in videos:
            place = part / video.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(video, place)
        os.replace(part, target)
