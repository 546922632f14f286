"""What is kept of one person, found and deleted everywhere: the registry, its cache, adaptations, jobs."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from modules.generators.adaptation import KIND
from modules.model_folder import CONFIG
from services.model_names import adaptation_of
from services.registry.store import ModelStore

ADAPTATIONS = "adaptations"
"""Folder of ``runtime.state`` for what ``edit --adapt`` and ``adapt`` learn."""
WHOSE = "subject.json"
"""In a folder in which an adaptation is under way: the person whose frames lie there."""


@dataclass(frozen=True)
class Forgotten:
    """What was deleted."""

    versions: int
    """Registered versions."""
    adaptations: int
    """Folders in ``runtime.state``."""
    jobs: int
    """Jobs that were edited with the person's adaptation."""


def forget_adaptations(subject: str, store: ModelStore, state: Path) -> tuple[int, int]:
    """Delete a person's registered versions, with their files and downloads, and the adaptations in ``state``.

    Returns how many of each there were. Raises ``BadInputError`` for a name that no subject can have, and
    ``RegistryUnavailableError`` before anything is deleted.
    """
    versions = store.forget(adaptation_of(subject))
    folders = [folder for folder in (state / ADAPTATIONS).glob("*") if subject_of(folder) == subject]
    for folder in folders:
        shutil.rmtree(folder)
    return versions, len(folders)


def subject_of(folder: Path) -> str | None:
    """Whose adaptation a folder holds, finished or under way; None where it is none, or does not say."""
    under_way = folder / WHOSE
    try:
        said = json.loads((under_way if under_way.is_file() else folder / CONFIG).read_text())
        if not under_way.is_file() and said["kind"] != KIND:
            return None
        return str(said["subject"]["name"]) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def jobs_of(subject: str, jobs: Path) -> list[str]:
    """Ids of the jobs in a folder of jobs that asked for a person's adaptation."""
    found = []
    for request in jobs.glob("*/request.json"):
        try:
            if json.loads(request.read_text()).get("subject") == subject:
                found.append(request.parent.name)
        except (OSError, ValueError):
            continue
    return found
