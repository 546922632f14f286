"""What is kept of one person, found and deleted everywhere: registry, its cache, adaptations, jobs, latents."""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.disk import remove_tree
from modules.generators.adaptation import KIND
from modules.model_folder import CONFIG
from services.adaptation.alone import alone_at_once
from services.model_names import adaptation_of
from services.pipeline.sidecar import INPUT_SHA256, file_sha256
from services.registry.forgetting import clips_behind, forget_model
from services.registry.store import ModelStore

ADAPTATIONS = "adaptations"
"""Folder of ``runtime.state`` for what ``edit --adapt`` and ``adapt`` learn."""
LATENTS = "latents"
"""Folder of ``runtime.state`` for images that a server inverted."""
WHOSE = "subject.json"
"""In a folder in which an adaptation is under way: the person whose frames lie there, and the clip they are of."""


@dataclass(frozen=True)
class Forgotten:
    """What was deleted."""

    versions: int
    """Registered versions."""
    adaptations: int
    """Folders in ``runtime.state``."""
    jobs: int
    """Jobs that asked for the person's adaptation, or whose clip one was learned from."""
    latents: int = 0
    """Inversions that a server keeps of such a clip, or of an image that was named."""


def forget_adaptations(
    subject: str,
    store: ModelStore,
    state: Path,
    delete_jobs: Callable[[frozenset[str]], int],
    more_clips: Set[str] = frozenset(),
) -> Forgotten:
    """Delete a person's jobs, adaptations and latents in ``state``, and the registered versions with all files.

    What ``edit --adapt`` learned names nobody: it is the person's where it was learned from one of ``clips_of`` or
    of ``more_clips``, sha256 too. ``delete_jobs`` gets these clips, and says how many jobs there were. What knows
    the clips goes last, so that a call which was interrupted can be repeated. Raises ``BadInputError`` for a name
    that no subject can have and (409) where a call is learning the face right now, and
    ``RegistryUnavailableError`` where the registry cannot be asked: nothing is deleted then. It is raised too
    where the registry goes away later; the rest is gone then.
    """
    clips = clips_of(subject, store, state) | more_clips
    folders = [
        folder
        for folder, said in _kept(state).items()
        if _name(said) == subject or (_name(said) is None and _clip(said) in clips)
    ]
    with ExitStack() as alone:
        for folder in folders:
            if (folder / WHOSE).is_file():
                alone.enter_context(alone_at_once(folder))
        jobs = delete_jobs(clips)
        latents = latents_of(state / LATENTS, clips)
        for latent in latents:
            remove_tree(latent)
        for folder in sorted(folders, key=lambda one: subject_of(one) is not None):
            remove_tree(folder)
        return Forgotten(forget_model(store, adaptation_of(subject)), len(folders), jobs, len(latents))


def clips_of(subject: str, store: ModelStore, state: Path) -> frozenset[str]:
    """Sha256 of the clips that a person's adaptations were learned from: registered ones, and those in ``state``.

    Raises ``BadInputError`` for a name that no subject can have, and ``RegistryUnavailableError``.
    """
    here = [_clip(said) for said in _kept(state).values() if _name(said) == subject]
    return clips_behind(store, adaptation_of(subject)) | {clip for clip in here if clip is not None}


def subject_of(folder: Path) -> str | None:
    """Whose adaptation a folder holds, finished or under way; None where it is none, or does not say."""
    said = _said_in(folder)
    return None if said is None else _name(said)


def jobs_of(subject: str, jobs: Path, clips: Set[str] = frozenset()) -> list[str]:
    """Ids of the jobs in a folder of jobs that asked for a person's adaptation, or were given one of ``clips``.

    ``clips`` are sha256 of files.
    """
    found = []
    for request in jobs.glob("*/request.json"):
        try:
            said = json.loads(request.read_text())
            if said.get("subject") == subject or (clips and _given(said, request.parent) in clips):
                found.append(request.parent.name)
        except (OSError, ValueError):
            continue
    return found


def latents_of(latents: Path, clips: Set[str]) -> list[Path]:
    """What a folder of latents keeps of files with one of these sha256, also where a server was killed over it."""
    found = []
    for noted in latents.glob(f"*/{INPUT_SHA256}"):
        try:
            if noted.read_text() in clips:
                found.append(noted.parent)
        except OSError:  # its time came in between
            continue
    return found


def _given(request: dict[str, Any], folder: Path) -> str | None:
    """Sha256 of a job's clip; None where a server of before did not note it, and the job is over."""
    noted = request.get(INPUT_SHA256)
    clip = folder / "input"  # ``CLIP`` of services.serving.job_folder, a room above
    return str(noted) if noted else file_sha256(clip) if clip.is_file() else None


def _kept(state: Path) -> dict[Path, dict[str, Any]]:
    """All adaptations, finished and under way, with what they say."""
    said = {folder: _said_in(folder) for folder in (state / ADAPTATIONS).glob("*")}
    return {folder: one for folder, one in said.items() if one is not None}


def _said_in(folder: Path) -> dict[str, Any] | None:
    """What the folder of an adaptation, finished or under way, says of person and clip; None where it is none."""
    under_way = folder / WHOSE
    try:
        said = json.loads((under_way if under_way.is_file() else folder / CONFIG).read_text())
        if not isinstance(said, dict) or (not under_way.is_file() and said["kind"] != KIND):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return said


def _name(said: dict[str, Any]) -> str | None:
    return _word(said, "subject", "name")


def _clip(said: dict[str, Any]) -> str | None:
    return _word(said, "source", "sha256")


def _word(said: dict[str, Any], section: str, key: str) -> str | None:
    known = said.get(section)
    return str(known.get(key) or "") or None if isinstance(known, dict) else None
