"""What servers that were killed left in the folder of the jobs: no job, but a person's clip."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from services.serving.job_folder import JOB_ID, read_json

log = logging.getLogger("stylereel.jobs")

UPLOAD = ".upload-"
"""Begins the name of a clip on its way in."""
DELETED = ".deleted-"
"""Begins the name of a job's folder on its way out."""


def is_torn(path: Path) -> bool:
    """Whether an entry is an upload that came to no job, or a job that was half deleted."""
    return path.name.startswith((UPLOAD, DELETED))


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it; raises ``OSError``."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Clear the folder of the jobs before the first one runs; what cannot be removed is logged.

    Nothing finds a clip that has no request beside it, nor whose it is: ``forget`` could not delete it.
    """
    for path in sorted(folder.iterdir()):
        try:
            unasked = JOB_ID.fullmatch(path.name) and read_json(path / "request.json") is None
            if is_torn(path) or unasked:
                remove(path)
        except OSError:
            log.exception("cannot remove %s, which a killed server left", path.name)
