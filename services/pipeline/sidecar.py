"""The JSON beside every output: what went in, with which models and options, and what came out of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.disk import beside
from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from services.version import version

KIND = "stylereel-output"
INPUT_SHA256 = "input_sha256"
"""Of a job's request: the sha256 of its clip, which outlives the clip, so that a person is forgotten by it."""


def sidecar_path(output: Path) -> Path:
    """``clip.mp4`` has its sidecar in ``clip.mp4.json``."""
    return output.with_name(output.name + ".json")


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def described(path: Path) -> dict[str, Any]:
    """Name, sha256 and bytes of a file, for its sidecar; raises ``BadInputError`` where it cannot be read.

    An input is asked before it is used: by the end it may have another place, or be another file.
    """
    try:
        return {"name": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size}
    except OSError as error:
        raise BadInputError(
            f"{path.name} cannot be read ({error.strerror}); leave it in its place, readable, until all is done"
        ) from error


def write_sidecar(
    output: Path,
    source: Mapping[str, Any],
    requests: Sequence[EditRequest],
    options: Any,
    models: Mapping[str, str],
    params: Any,
    report: Any,
) -> Path:
    """Write ``OUTPUT.json`` whole; where that fails the output is removed too, as it is half without it.

    ``source`` is the input as ``described``; ``options``, ``params`` and ``report`` are dataclasses or plain
    values; ``models`` maps each model's name to its version or hash. Numbers that are not finite become null.
    """
    path = sidecar_path(output)
    try:
        content = {
            "kind": KIND,
            "stylereel": version(),
            "input": dict(source),
            "output": described(output),
            "edits": plain(list(requests)),
            "options": plain(options),
            "models": dict(models),
            "params": plain(params),
            "report": plain(report),
        }
        with beside(path) as part:
            part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    except BaseException:
        output.unlink(missing_ok=True)
        path.unlink(missing_ok=True)  # one of an earlier output says nothing of this one
        raise
    return path


def plain(value: Any) -> Any:
    """Dataclasses, arrays, paths and fractions as what JSON can hold; not finite is null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path | Fraction):
        return str(value)
    return value
