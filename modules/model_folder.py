"""A model is a folder: ``config.json``, ``weights.safetensors`` and ``card.md``; nothing in it is executed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from datamodules.types import BadInputError

CONFIG, WEIGHTS, CARD = "config.json", "weights.safetensors", "card.md"
_OWN_FILES = {CONFIG, WEIGHTS, CARD, "metrics.json"}
"""All that a model folder may hold; ``metrics.json`` is written by the stages that measure what they trained."""


@dataclass(frozen=True)
class ModelFolder:
    """A model read from disk."""

    config: dict[str, Any]
    """``kind`` names the architecture; ``generator_sha256`` the generator it belongs to, where there is one."""
    tensors: dict[str, Tensor]
    """Weights by name, on the CPU, in the precision they were saved in."""
    card: str
    """Markdown: data, metrics, licence."""
    config_sha256: str
    """Of the config's file, which says what the weights mean: units and bounds of edits, a network's heads."""

    @property
    def weights_sha256(self) -> str:
        """``weights_sha256`` of the tensors."""
        return weights_sha256(self.tensors)

    @property
    def identity(self) -> str:
        """Both hashes: what tells this model from every other."""
        return f"{self.weights_sha256} {self.config_sha256}"


def weights_sha256(tensors: dict[str, Tensor]) -> str:
    """Hex digest over the sorted names, shapes and float32 values, the same on every machine."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name].detach().to("cpu", torch.float32).numpy())
        digest.update(f"{name}{value.shape}".encode())
        digest.update(value.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def save_model(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], card: str) -> Path:
    """Write the folder beside its place and move it there whole; an old one is replaced.

    Raises ``BadInputError`` for a tensor that is not finite, before anything is written.
    """
    if "kind" not in config:
        raise ValueError("a model's config needs a 'kind'")
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise BadInputError(
                f"{folder} is not written: {name} of the model holds NaN or infinity; train it anew with a lower "
                "learning rate, or import it from a file that is whole"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        # The scratch is its owner's alone; who may read the model is for the umask to say.
        part = scratch / folder.name
        part.mkdir()
        # Written here, as safetensors hides the reason (a full disk) in an error of its own.
        weights = {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
        (part / WEIGHTS).write_bytes(save(weights))
        (part / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (part / CARD).write_text(card)
        if folder.exists():
            # Put aside whole, as removing it file by file could be stopped halfway.
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            os.replace(folder, aside)
            os.replace(part, folder)
            shutil.rmtree(aside)
        else:
            os.replace(part, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def require_replaceable(folder: Path, kind: str | None = None) -> None:
    """Refuse a place for a new model where something else lies, which ``save_model`` would remove.

    ``kind`` is that of the new model; None replaces any kind. Raises ``BadInputError`` unless there is nothing, an
    empty folder, or a folder of nothing but a model of that kind.
    """
    elsewhere = "name a folder of its own for the model"
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInputError(f"{folder} is there and no model folder; {elsewhere}")
    entries = sorted(folder.iterdir())
    if not entries:
        return
    others = [path.name for path in entries if path.name not in _OWN_FILES or not path.is_file()]
    if others:
        raise BadInputError(f"{folder} is there and no model folder, as it holds {others[0]}; {elsewhere}")
    found = _kind_of(folder)
    if found is None:
        raise BadInputError(f"{folder} is there and no model folder, as no {CONFIG} names its 'kind'; {elsewhere}")
    if kind is not None and found != kind:
        raise BadInputError(
            f"{folder} holds a model of kind {found}, not {kind}; name another folder, or remove it"
        )


def _kind_of(folder: Path) -> str | None:
    """What a folder's config says that it is; None where it says nothing."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return None
    kind = config.get("kind") if isinstance(config, dict) else None
    return kind if isinstance(kind, str) else None


def load_model(folder: Path, kind: str | None = None) -> ModelFolder:
    """Read a model folder; ``kind`` is checked where given. Raises ``BadInputError``."""
    missing = [name for name in (CONFIG, WEIGHTS, CARD) if not (folder / name).is_file()]
    if missing:
        raise BadInputError(f"{folder} is not a model folder: it has no {', '.join(missing)}")
    try:
        written = (folder / CONFIG).read_bytes()
        config = json.loads(written)
        tensors = load_file(folder / WEIGHTS)
    except MemoryError:  # says nothing of the folder, and may pass
        raise
    except Exception as error:  # safetensors and json raise many kinds; all mean a damaged folder
        raise BadInputError(f"{folder} is damaged ({error}); fetch or register the model again") from error
    if not isinstance(config, dict) or "kind" not in config:
        raise BadInputError(f"{folder / CONFIG} names no 'kind'; fetch or register the model again")
    if kind is not None and config["kind"] != kind:
        raise BadInputError(f"{folder} holds a {config['kind']!r}, a {kind!r} is needed")
    return ModelFolder(config, tensors, (folder / CARD).read_text(), hashlib.sha256(written).hexdigest())


def require_generator(config: dict[str, Any], generator_sha256: str, what: str) -> None:
    """Refuse a model that was made for another generator, with both hashes in the message."""
    made_for = config.get("generator_sha256")
    if made_for != generator_sha256:
        raise BadInputError(
            f"{what} belongs to generator {made_for}, but the one in use is {generator_sha256}; "
            "load the generator it was made for, or one made for this generator"
        )
