"""Which encoder inverts, and that one with a memory remembers one face of one shot, no more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import services.pipeline.encoders
from datamodules.types import Alignment, BadInputError
from modules.encoders.video_vit import (
    VideoEncoder,
    VideoEncoderConfig,
    save_video_encoder,
    start_from_frame_encoder,
)
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, load_frame_encoder, save_frame_encoder
from modules.model_folder import load_model, weights_sha256
from services.pipeline.encoders import asked_for, load_encoder, name_of, shipped_encoder, shipped_frame_encoder
from services.pipeline.faces import Presence
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, FacePlan
from services.pipeline.stream import Lane

SMALL = FrameEncoderConfig(
    image_size=32, stem_channels=(16, 32), width=32, depth=1, heads=2, thumbnail=4, told_width=0
)


@dataclass
class Named:
    """As much of a generator as an encoder asks for."""

    sha256: str = "a" * 64


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """FrEN and the ViEN that was trained with it, shipped."""
    torch.manual_seed(0)
    frame = save_frame_encoder(
        tmp_path / "frame", FrameEncoder(SMALL, 6, torch.randn(8), torch.eye(8)), "a" * 64, ""
    )
    first = load_frame_encoder(frame, "a" * 64)
    video = start_from_frame_encoder(first, 4, VideoEncoderConfig(32, 4))
    shipped = {"frame": frame, "video": save_video_encoder(tmp_path / "video", video, first, "a" * 64, "")}
    monkeypatch.setattr(services.pipeline.encoders, "SHIPPED", shipped)
    return frame, shipped["video"]


def hash_of(folder: Path) -> str:
    return weights_sha256(load_model(folder).tensors)


def test_each_kind_is_loaded_and_named(folders) -> None:
    frame, video = folders
    for folder, kind, name in (
        (frame, FrameEncoder, "stylereel-frame-encoder"),
        (video, VideoEncoder, "stylereel-video-encoder"),
    ):
        encoder, identity = load_encoder(folder, Named(), "cpu")  # type: ignore[arg-type]
        assert isinstance(encoder, kind) and identity == load_model(folder).identity and name_of(folder) == name


def test_a_user_names_a_kind_or_a_place(tmp_path: Path) -> None:
    assert asked_for(None, "video") == (None, "video")
    assert asked_for(Path("frame"), "video") == (None, "frame")
    assert asked_for(Path("video"), "frame") == (None, "video")
    assert asked_for(tmp_path, "frame") == (tmp_path, "frame")


def test_a_video_encoder_that_is_missing_is_not_replaced_in_silence(folders, monkeypatch) -> None:
    frame, video = folders
    assert shipped_encoder("video", "a" * 64) == video and shipped_encoder("frame", "a" * 64) == frame
    assert shipped_encoder("video", "b" * 64) is None
    monkeypatch.setattr(services.pipeline.encoders, "SHIPPED", {"frame": frame, "video": frame.parent / "none"})
    with pytest.raises(BadInputError, match="stylereel train video-encoder"):
        shipped_encoder("video", "a" * 64)


def test_vien_finds_the_frame_encoder_it_was_trained_with(folders, tmp_path) -> None:
    frame, video = folders
    trained_with = hash_of(frame)
    kept = save_frame_encoder(tmp_path / "kept", load_frame_encoder(frame, None), "a" * 64, "")
    save_frame_encoder(frame, FrameEncoder(SMALL, 6, torch.randn(8), torch.eye(8)), "a" * 64, "a new one")
    assert shipped_frame_encoder(trained_with) is None
    with pytest.raises(BadInputError, match=rf"{trained_with}.*{hash_of(frame)}"):
        load_encoder(video, Named(), "cpu")  # type: ignore[arg-type]
    found, _ = load_encoder(video, Named(), "cpu", {trained_with: kept}.get)  # type: ignore[arg-type]
    assert isinstance(found, VideoEncoder) and weights_sha256(found.first.state_dict()) == trained_with


def test_without_any_frame_encoder_the_one_needed_is_named(folders, monkeypatch) -> None:
    frame, video = folders
    gone = {"frame": frame.parent / "nowhere", "video": video}
    monkeypatch.setattr(services.pipeline.encoders, "SHIPPED", gone)
    with pytest.raises(BadInputError, match=rf"{hash_of(frame)}, which is neither shipped nor registered"):
        load_encoder(video, Named(), "cpu")  # type: ignore[arg-type]


def counted(frames, state=None):
    """Codes say how many frames of this memory came before."""
    start = int(state) if state is not None else 0
    ws = torch.arange(start, start + len(frames)).float().view(-1, 1, 1).expand(-1, 4, 8)
    return ws, torch.tensor(start + len(frames))


@pytest.mark.parametrize("chunk", [1, 3, 9])
def test_memory_ends_at_cuts_and_where_the_face_is_lost(toy_models, chunk) -> None:
    valid = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1], bool)
    matrices = np.tile(np.eye(3), (9, 1, 1))
    presence = Presence(np.zeros(9, np.float32), tuple("face" if v else "none" for v in valid))
    face = FacePlan(Alignment(matrices, 256, valid), presence, 256)
    plan = ClipPlan(None, tuple(range(9)), (6,), (), (face,))  # type: ignore[arg-type]
    models = replace(toy_models, encoder=counted)
    lane = Lane(face, plan, (), models, EditOptions(refine=0))
    frames = np.zeros((9, 256, 256, 3), np.uint8)
    codes: list[torch.Tensor] = []
    for place in range(0, 9, chunk):
        codes += lane.codes(frames[place : place + chunk], place, lambda: None)
    assert torch.cat(codes)[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
