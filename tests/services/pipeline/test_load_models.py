"""Which models are loaded: what is shipped where it fits, and folders of edits beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_toys import small_models
from conformance_cases import FOLDER

import services.pipeline.models
from datamodules.images import read_image
from datamodules.types import BadInputError
from modules.editing.directions import Direction, EditRequest, EditSet, save_directions
from modules.editing.placement import NAMES
from modules.encoders.restoring import RestoringEncoder
from modules.encoders.video_vit import VideoEncoder, VideoEncoderConfig, start_from_frame_encoder
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig
from modules.generators.adaptation import save_adaptation
from modules.model_folder import load_model
from services.pipeline.crops import crop_synthesis_size
from services.pipeline.edit import edit_image
from services.pipeline.models import SHIPPED_DIRECTIONS, Models, load_models, looks_at, with_adaptation
from services.pipeline.options import EditOptions
from services.settings import load_params

__all__ = ["small_models"]


def test_folders_join_the_shipped_edits_and_the_later_one_wins(tmp_path: Path) -> None:
    sha256 = str(load_model(SHIPPED_DIRECTIONS).config["generator_sha256"])
    for folder, size in (("first", 1.0), ("second", 2.0)):
        made = EditSet(
            Direction(name, "steps", torch.full((16, 512), size), -1, 1, sha256) for name in ("beard", "age")
        )
        save_directions(tmp_path / folder, made, "card")
    models = load_models(load_params(), beside=[tmp_path / "first", tmp_path / "second"])
    assert {"yaw", "smile", "beard"} <= set(models.edits)
    assert models.edits["beard"].vector.unique().tolist() == [2.0]
    assert models.edits["age"].unit == "steps"
    assert models.versions["directions 1: first"] == load_model(tmp_path / "first").identity
    assert {"stylereel-directions", "directions 2: second"} <= set(models.versions)


def test_what_is_shipped_is_left_out_for_another_generator(tmp_path: Path) -> None:
    network = str(FOLDER / "stylegan2-64-small.pkl")
    models = load_models(load_params(), generator=network)
    assert models.encoder is None and list(models.edits) == list(NAMES), (
        "heads are moved in any generator's pictures"
    )
    assert list(models.versions) == ["stylereel-generator"]
    with pytest.raises(BadInputError, match=models.generator.sha256):
        load_models(load_params(), generator=network, beside=[SHIPPED_DIRECTIONS])


def test_the_numbers_say_what_was_asked_of_judges_and_device() -> None:
    params = load_params(
        overrides=[
            "detection.min_score=0.7",
            "parsing.bisenet_weights=x.pth",
            "shots.recent=9",
            "landmark_flow.weight=0.25",
        ],
        environment={"STYLEREEL_PRECISION": "bfloat16", "STYLEREEL_DEVICE": "cpu"},
    )
    numbers: Any = load_models(params).numbers()
    assert numbers["detection"] == params.raw["detection"] and numbers["detection"]["min_score"] == 0.7
    assert numbers["parsing"] == {"net": "selfie", "bisenet_weights": "x.pth"}
    assert numbers["landmark_flow"] == {**params.raw["landmark_flow"], "weight": 0.25}
    assert numbers["shots"]["recent"] == 9 and numbers["pipeline"]["crop_size"] == 256
    assert numbers["runtime"] == {"device": "cpu", "precision": "bfloat16"}
    plain = load_params(environment={"STYLEREEL_PRECISION": "float32", "STYLEREEL_DEVICE": "cpu"})
    assert load_models(plain).precision == "float32"


@pytest.mark.parametrize(("name", "called"), [("anna", "anna"), ("", "1-0123456789ab")])
def test_a_consent_that_ran_out_is_the_persons_not_the_folders(
    small_models: Models, tmp_path: Path, name: str, called: str
) -> None:
    about = {"subject": {"name": name, "consent": "form 17", "expires": "2026-01-01"}}
    folder = save_adaptation(tmp_path / "1-0123456789ab", {}, small_models.generator.sha256, "# Toy\n", about)
    with pytest.raises(BadInputError, match=f"the consent for {called} ran out"):
        with_adaptation(small_models, folder)


def test_an_encoder_may_be_somebodys_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it answers is tested with the encoders; here, that the file reaches them and is named by its hash."""
    asked: list[tuple[object, ...]] = []

    def load(*words: object) -> str:
        asked.append(words)
        return "e4e"

    monkeypatch.setattr(services.pipeline.models, "load_published_encoder", load)
    file = tmp_path / "e4e.pt"
    file.write_bytes(b"weights")
    models = load_models(load_params(), encoder=file, generator=str(FOLDER / "stylegan2-64-small.pkl"))
    assert models.encoder == "e4e"  # type: ignore[comparison-overlap]
    assert asked == [(file, models.generator, 5, models.device)]
    assert models.versions["encoder e4e.pt"] == hashlib.sha256(b"weights").hexdigest()


def test_a_generator_of_small_pictures_edits_at_its_own_size(picture: Path) -> None:
    models = load_models(load_params(), generator=str(FOLDER / "stylegan2-64-small.pkl"))
    assert models.config.crop_size == 64, "the sidecar says at which size crops were compared"
    edited = edit_image(read_image(picture, 10**7), [EditRequest("pose.right", 5.0)], models, EditOptions())
    (inversion,) = edited.inversions
    assert inversion.size == 64 and inversion.metrics["lpips"] > 0
    assert crop_synthesis_size(inversion.crop_to_frame, 64, models, EditOptions(preview=True)) == 64


def test_crops_that_the_encoder_does_not_take_are_refused_before_any_is_cut() -> None:
    said = r"encoder looks at crops of 256 px, pipeline\.crop_size is 64: set it to 256"
    with pytest.raises(BadInputError, match=said):
        load_models(load_params(overrides=["pipeline.crop_size=64"]))


def test_which_crops_an_encoder_takes() -> None:
    first = FrameEncoder(FrameEncoderConfig(128, (4, 4), 8, 1, 2, 4, 0), 3, torch.zeros(4), torch.eye(4))
    video = VideoEncoder(first, start_from_frame_encoder(first, 2, VideoEncoderConfig(8, 2)))
    assert [looks_at(one) for one in (first, video, RestoringEncoder("colourise", first))] == [128] * 3
    assert looks_at(None) is None
    assert looks_at(lambda frames, state=None: (frames, state)) is None, "somebody's checkpoint takes any"
