"""Which videos are prepared, and where the training of the encoder begins."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.clips import Prepared
from datamodules.face_video import FaceVideoConfig
from datamodules.types import BadInputError
from modules.encoders.vit import load_frame_encoder
from modules.generators import load_generator
from services import stages
from services.cli import run
from services.settings import Params, load_params
from services.stages import FRAME_ENCODER, first_encoder, video_sources
from services.training import FrameEncoderSettings

MP4 = b"\0\0\0\x18ftypisom"


def made(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(MP4 + content)
    return path


def test_the_registry_clips_that_are_tested_on_join_a_folder_of_own_videos(tmp_path: Path) -> None:
    registry = [made(tmp_path / "registry" / f"{name}.mp4", name.encode()) for name in ("a", "b", "c")]
    tested = [hashlib.sha256(path.read_bytes()).hexdigest() for path in registry[:2]]
    assert video_sources(None, registry, tested) == registry
    own = [made(tmp_path / "own" / name, name.encode()) for name in ("one.mp4", "two.mov")]
    assert video_sources(tmp_path / "own", registry, tested) == [*own, *registry[:2]]
    assert video_sources(tmp_path / "own", registry, []) == own
    copy = made(tmp_path / "own" / "below" / "mine.mp4", b"b")
    assert video_sources(tmp_path / "own", registry, tested) == [copy, *own, registry[0]]
    with pytest.raises(BadInputError, match="not a folder"):
        video_sources(tmp_path / "none", registry, tested)


def test_a_video_that_cannot_be_read_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, own = made(tmp_path / "registry" / "a.mp4", b"a"), made(tmp_path / "own" / "a.mp4", b"a")

    def refuse(*paths: Path, shallow: bool) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stages.filecmp, "cmp", refuse)
    tested = [hashlib.sha256(clip.read_bytes()).hexdigest()]
    assert video_sources(tmp_path / "own", [clip], tested) == [own, clip]


def test_a_folder_without_videos_is_said_though_registry_clips_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = made(tmp_path / "registry" / "a.mp4", b"a")
    tested = {hashlib.sha256(clip.read_bytes()).hexdigest(): "a"}
    monkeypatch.setattr(stages, "asset_path", lambda name, file: clip)
    monkeypatch.setattr(stages, "read_test_list", lambda: tested)
    (tmp_path / "own").mkdir()
    with pytest.raises(BadInputError, match="holds no videos"):
        stages.prepare(load_params(overrides=[f"data.root={tmp_path / 'own'}"], environment={}))


def test_prepare_says_what_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(params: Params, report: Callable[[int, int, str], None]) -> Prepared:
        report(2, 2, "b.mp4")
        return Prepared(tmp_path, (), (("a.mp4", "it is empty"), ("b.mp4", "the same file is there twice")))

    monkeypatch.setattr(stages, "prepare", prepare)
    assert run(["train", "prepare"]) == 0
    expected = "left out a.mp4: it is empty\nleft out b.mp4: the same file is there twice\n"
    assert capsys.readouterr().out == expected


def test_training_goes_on_from_the_folder_it_is_given() -> None:
    generator = load_generator()
    settings = load_params().section("frame_encoder", FrameEncoderSettings)
    encoder, used = first_encoder(replace(settings, start_from="assets/frame-encoder"), generator)
    shipped = load_frame_encoder(FRAME_ENCODER, generator.sha256)
    for name, value in shipped.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert used.training.linear_start == 0, "a solved start would overwrite what was learned"
    fresh, same = first_encoder(replace(settings, start_from=""), generator)
    assert same.training.linear_start == settings.training.linear_start > 0
    assert not torch.equal(fresh.head.weight, shipped.head.weight)


@pytest.mark.parametrize(
    "other",
    [
        "frame_encoder.training.ema_decay=0.9", "face_video.stills=7", "face_judge.min_score=0.9",
        "identity_loss.net=arcface", "frame_encoder.start_from=assets/frame-encoder",
    ],
)  # fmt: skip
def test_a_run_is_gone_on_with_only_under_what_it_began_with(other: str) -> None:
    def name(*overrides: str) -> str:
        params = load_params(overrides=overrides, environment={})
        settings = params.section("frame_encoder", FrameEncoderSettings)
        prepared = SimpleNamespace(data_hash=lambda split: "d")
        data = SimpleNamespace(config=params.section("face_video", FaceVideoConfig), prepared=prepared)
        samples = SimpleNamespace(fingerprints=("a", "b"))
        return stages._fingerprint(params, settings, data, samples, "g")  # type: ignore[arg-type]

    assert name() == name() != name(other)
