"""Which folder restores, with which FrEN, and what is said where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import services.pipeline.encoders
import services.pipeline.restorers
from datamodules.types import BadInputError
from modules.encoders.restoring import RestoringEncoder, Task, copy_of, save_restoring_encoder
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, load_frame_encoder, save_frame_encoder
from modules.model_folder import load_model, weights_sha256
from services.model_names import NAMES, RESTORERS
from services.pipeline.models import Models
from services.pipeline.restorers import (
    load_restorer,
    load_restoring_models,
    restoring,
    shipped_restorer,
)
from services.settings import load_params

SMALL = FrameEncoderConfig(
    image_size=32, stem_channels=(16, 32), width=32, depth=1, heads=2, thumbnail=4, told_width=0
)
TASKS: tuple[Task, ...] = ("colourise", "enlarge")


class Named:
    """As much of a generator as an encoder asks for."""

    sha256 = "a" * 64


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """FrEN and what was made of it, shipped."""
    torch.manual_seed(0)
    frame = save_frame_encoder(
        tmp_path / "frame", FrameEncoder(SMALL, 6, torch.randn(8), torch.eye(8)), Named.sha256, ""
    )
    first = load_frame_encoder(frame, None)
    made: dict[str, Path] = {"frame": frame}
    for number, task in enumerate(TASKS):
        encoder = RestoringEncoder(task, copy_of(first))
        with torch.no_grad():
            for value in encoder.entry().values():
                value.add_(0.1 * (number + 1))
        made[task] = save_restoring_encoder(tmp_path / task, encoder, first, Named.sha256, "")
    monkeypatch.setattr(services.pipeline.encoders, "SHIPPED", {"frame": frame, "video": tmp_path / "none"})
    monkeypatch.setattr(services.pipeline.restorers, "SHIPPED", {task: made[task] for task in TASKS})
    return made


def hash_of(folder: Path) -> str:
    return weights_sha256(load_model(folder).tensors)


@pytest.mark.parametrize("task", TASKS)
def test_each_is_loaded_joined_and_named(folders, task) -> None:
    encoder, versions = load_restorer(folders[task], task, Named(), "cpu")  # type: ignore[arg-type]
    assert encoder.task == task and not any(p.requires_grad for p in encoder.parameters())
    known = {name: load_model(folders[name]).identity for name in (task, "frame")}
    assert versions == {RESTORERS[task]: known[task], "stylereel-frame-encoder": known["frame"]}
    assert RESTORERS[task] in NAMES
    frames = torch.rand(2, 3, 32, 32) * 2 - 1
    ws, state = encoder(frames)
    assert ws.shape == (2, 6, 8) and state is None
    assert (ws - load_frame_encoder(folders["frame"], None)(frames)[0]).abs().max() > 1e-3


def test_one_task_is_not_done_by_what_learned_the_other(folders) -> None:
    with pytest.raises(BadInputError, match="trained to enlarge, not to colourise"):
        load_restorer(folders["enlarge"], "colourise", Named(), "cpu")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="restoring-encoder"):
        load_restorer(folders["frame"], "colourise", Named(), "cpu")  # type: ignore[arg-type]


def test_it_finds_the_frame_encoder_it_was_trained_with_and_takes_no_other(folders, tmp_path) -> None:
    trained_with = hash_of(folders["frame"])
    kept = save_frame_encoder(tmp_path / "kept", load_frame_encoder(folders["frame"], None), Named.sha256, "")
    another = FrameEncoder(SMALL, 6, torch.randn(8), torch.eye(8))
    save_frame_encoder(folders["frame"], another, Named.sha256, "a new one")
    with pytest.raises(BadInputError, match=rf"{trained_with}.*{hash_of(folders['frame'])}"):
        load_restorer(folders["colourise"], "colourise", Named(), "cpu")  # type: ignore[arg-type]
    find = {trained_with: kept}.get
    encoder, _ = load_restorer(folders["colourise"], "colourise", Named(), "cpu", find)  # type: ignore[arg-type]
    old = load_frame_encoder(kept, None).state_dict()
    own = encoder.entry().keys()
    assert own and all(torch.equal(v, old[k]) for k, v in encoder.net.state_dict().items() if k not in own)


def test_what_is_shipped_is_for_its_generator(folders) -> None:
    assert shipped_restorer("colourise", "a" * 64) == folders["colourise"]
    assert shipped_restorer("colourise", "b" * 64) is None


@pytest.mark.parametrize(("task", "stage"), [("colourise", "colouriser"), ("enlarge", "enlarger")])
def test_without_a_folder_the_training_that_makes_it_is_named(folders, monkeypatch, tmp_path, task, stage) -> None:
    monkeypatch.setattr(services.pipeline.restorers, "SHIPPED", {task: tmp_path / "none"})
    monkeypatch.setattr(services.pipeline.restorers, "load_bare_models", None)  # said before anything is loaded
    with pytest.raises(BadInputError, match=rf"no assets/{stage}: 'stylereel train {stage}' makes it"):
        load_restoring_models(load_params(), task)
    with pytest.raises(BadInputError, match=rf"none is not a model folder; 'stylereel train {stage}'"):
        load_restorer(tmp_path / "none", task, Named(), "cpu")  # type: ignore[arg-type]


def test_the_models_of_a_task_edit_nothing_and_say_what_they_are(folders, toy_models: Models, monkeypatch) -> None:
    config = replace(toy_models.config, crop_size=SMALL.image_size)
    bare = replace(toy_models, config=config, versions={"stylereel-generator": "toy"})
    bare.generator.sha256 = Named.sha256  # type: ignore[misc]
    object.__setattr__(bare, "edits", type(bare.edits)(()))
    monkeypatch.setattr(services.pipeline.restorers, "load_bare_models", lambda _: bare)
    models = load_restoring_models(load_params(), "enlarge")
    assert models.task == "enlarge" and not models.edits and isinstance(models.encoder, RestoringEncoder)
    assert set(models.versions) == {"stylereel-generator", "stylereel-enlarger", "stylereel-frame-encoder"}
    assert models.config.chunk == 1, "a frame of 16 times the pixels is held one at a time"
    encoder, _ = load_restorer(folders["colourise"], "colourise", Named(), "cpu")  # type: ignore[arg-type]
    assert restoring(bare, "colourise", encoder, {}).config == bare.config
