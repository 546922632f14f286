"""Which download of a model answered last, noted beside it for the times in which the registry is down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from datamodules.disk import write_whole
from services.registry.store import RegisteredVersion, is_intact

_NOTE = "last-good.json"


class NothingGoodError(RuntimeError):
    """The local cache has nothing to fall back on; the message is one line that says why."""


class Cached(NamedTuple):
    """A version in the local cache."""

    folder: Path
    version: str
    """The registry's number."""
    identity: str
    """Hashes of its weights and of its config."""


def remember(version: RegisteredVersion, folder: Path) -> Cached:
    """Note that the version, downloaded to ``folder``, is what its model answers with."""
    note = {
        "folder": folder.name,
        "version": version.version,
        "sha256": version.sha256,
        "config_sha256": version.config_sha256,
    }
    write_whole(folder.parent / _NOTE, json.dumps(note))
    return Cached(folder, version.version, version.identity)


def last_good(cache: Path) -> Cached:
    """What was remembered last in a model's folder of the local cache; raises ``NothingGoodError``."""
    try:
        note = json.loads((cache / _NOTE).read_text())
    except FileNotFoundError as error:
        raise NothingGoodError("there is no earlier model in the local cache") from error
    folder = cache / note["folder"]
    if not is_intact(folder, note["sha256"], note["config_sha256"]):
        raise NothingGoodError(f"the last good model in {folder} is damaged")
    return Cached(folder, note["version"], f"{note['sha256']} {note['config_sha256']}")


def forget_last(cache: Path) -> None:
    """Have a model's folder of the local cache be fallen back on no more."""
    (cache / _NOTE).unlink(missing_ok=True)
