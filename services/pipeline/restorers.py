"""Which encoders restore: what colourises and what enlarges, each joined to the FrEN it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from datamodules.types import BadInputError
from modules.editing.directions import EditSet
from modules.encoders.restoring import (
    FACTOR,
    KIND,
    STAGES,
    RestoringEncoder,
    Task,
    load_restoring_encoder,
)
from modules.encoders.vit import load_frame_encoder
from modules.generators.protocol import Generator
from modules.model_folder import load_model
from services.model_names import FRAME_ENCODER, RESTORERS
from services.pipeline.encoders import FindFrameEncoder, shipped_frame_encoder, trained_with
from services.pipeline.models import Models, fitting, load_bare_models
from services.settings import ROOT, Params

SHIPPED: dict[Task, Path] = {task: ROOT / "assets" / stage for task, stage in STAGES.items()}


def load_restorer(
    folder: Path, task: Task, generator: Generator, device: str, find: FindFrameEncoder = shipped_frame_encoder
) -> tuple[RestoringEncoder, dict[str, str]]:
    """What does ``task`` in a model folder, and its and its FrEN's identities by registered name.

    ``find`` says where its FrEN is. Raises ``BadInputError`` for a folder that does another task, that belongs to
    another generator, or whose own FrEN is not there.
    """
    if not folder.is_dir():
        raise BadInputError(f"{folder} is not a model folder; 'stylereel train {STAGES[task]}' makes one")
    model = load_model(folder, KIND)
    does = model.config.get("task")
    if does != task:
        raise BadInputError(f"{folder} was trained to {does}, not to {task}; name another folder")
    place = trained_with(folder, find, f"'stylereel train {STAGES[task]}' makes another")
    first = load_frame_encoder(place, generator.sha256)
    encoder = load_restoring_encoder(folder, first, generator.sha256).to(torch.device(device))
    versions = {RESTORERS[task]: model.identity, FRAME_ENCODER: load_model(place).identity}
    return encoder, versions


def shipped_restorer(task: Task, generator_sha256: str) -> Path | None:
    """The shipped folder that does a task, None where none is shipped for the generator."""
    return fitting(SHIPPED[task], generator_sha256)


def restoring(base: Models, task: Task, encoder: RestoringEncoder, versions: Mapping[str, str]) -> Models:
    """``base`` with what does a task in the place of its encoder and its edits."""
    # A frame that is enlarged takes the memory of 16.
    chunk = max(1, base.config.chunk // FACTOR**2) if task == "enlarge" else base.config.chunk
    config = replace(base.config, chunk=chunk)
    return replace(base, encoder=encoder, edits=EditSet(()), config=config, versions=dict(versions), task=task)


def load_restoring_models(params: Params, task: Task, folder: Path | None = None) -> Models:
    """The default generator, the judges and what does ``task``: in ``folder``, or the shipped one.

    Raises ``BadInputError`` where there is none, and for what ``load_restorer`` refuses.
    """
    if folder is None and not SHIPPED[task].is_dir():
        raise BadInputError(
            f"there is no assets/{STAGES[task]}: 'stylereel train {STAGES[task]}' makes it, --encoder names "
            "another folder"
        )
    base = load_bare_models(params)
    encoder, versions = load_restorer(folder or SHIPPED[task], task, base.generator, base.device)
    return restoring(base, task, encoder, {**base.versions, **versions})
