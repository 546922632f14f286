"""Folders that hold what is known of persons: their clips, their faces, and ids that are as good as passwords."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("stylereel.files")

_OWNER_ALONE = 0o700


def private_folder(folder: Path) -> Path:
    """Make a folder, where it is not there, and close it to the machine's other users; returns it.

    A folder that is somebody else's stays as open as it is, which is logged.
    """
    folder.mkdir(mode=_OWNER_ALONE, parents=True, exist_ok=True)
    try:
        folder.chmod(_OWNER_ALONE)
    except OSError as error:
        log.warning("cannot close %s to other users of this machine: %s", folder, error.strerror)
    return folder
