"""Which videos are prepared, and where the training of the encoder begins."""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules.clips import Prepared
from datamodules.face_video import FaceVideoConfig
from datamodules.types import BadInputError
from modules.assets import asset_path, manifest
from modules.encoders.vit import FrameEncoder, load_frame_encoder, save_frame_encoder
from modules.generators import load_generator
from modules.perception import detection, identity, mesh
from services import pose_editor, stages, video_encoder
from services.cli import run
from services.pose_settings import PoseEditorSettings
from services.runs import code_sha256
from services.settings import Params, load_params
from services.stages import FRAME_ENCODER, first_encoder, video_sources
from services.training import FrameEncoderSettings, VideoEncoderSettings

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


def test_shards_are_known_by_all_that_finds_faces_and_by_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nets whose hashes count are those that are opened; the rest of what is given is what is there."""
    opened: dict[str, str] = {}
    given: dict[str, Any] = {}

    def path(name: str, file: str) -> Path:
        opened[name] = file
        return asset_path(name, file)

    def prepare_clips(*args: object, **how: object) -> Prepared:
        given.update(how)
        raise BadInputError("enough")

    for module in (detection, identity, mesh):
        monkeypatch.setattr(module, "asset_path", path)
    monkeypatch.setattr(stages, "asset_path", lambda name, file: made(tmp_path / "a.mp4", b"a"))
    monkeypatch.setattr(stages, "prepare_clips", prepare_clips)
    monkeypatch.setattr(stages, "stage_run", lambda stage, params: nullcontext())

    def named(**changed: float) -> tuple[str, str]:
        with pytest.raises(BadInputError, match="enough"):
            overrides = [f"detection.{key}={value}" for key, value in changed.items()]
            stages.prepare(load_params(overrides=["runtime.device=cpu", *overrides], environment={}))
        return given["made_by"], given["code"]

    first = made_by, code = named()
    assert opened == stages.CLIP_NETS
    assert all(manifest()[name].files[file].sha256 in made_by for name, file in opened.items())
    assert code == code_sha256("prepare") and code not in made_by
    assert named() == named(batch=1) == first, "how many faces are looked at at once changes none"
    assert len({first, named(mesh_score=0.9), named(min_score=0.9), named(long_side=320)}) == 4


def test_training_goes_on_from_the_folder_it_is_given(tmp_path: Path) -> None:
    generator = load_generator()
    settings = load_params().section("frame_encoder", FrameEncoderSettings)
    encoder, used = first_encoder(replace(settings, start_from="assets/frame-encoder"), generator)
    shipped = load_frame_encoder(FRAME_ENCODER, generator.sha256)
    for name, value in shipped.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value), name
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert used.training.linear_start == used.training.told_start == 0, "a solved start would overwrite it"
    fresh, same = first_encoder(replace(settings, start_from=""), generator)
    assert same.training.linear_start == settings.training.linear_start > 0
    assert not torch.equal(fresh.head.weight, shipped.head.weight)
    blind = FrameEncoder(replace(settings.network, told_width=0), generator.num_ws, fresh.w_mean, fresh.w_basis)
    folder = save_frame_encoder(tmp_path / "blind", blind, generator.sha256, "A card.")
    begun, used = first_encoder(replace(settings, start_from=str(folder)), generator)
    assert begun.face_nets is not None and begun.config == used.network == settings.network
    assert used.training.linear_start == 0 and used.training.told_start == settings.training.told_start > 0
    torch.testing.assert_close(begun.head.weight, blind.head.weight, rtol=1e-3, atol=1e-3)


def encoder_name(params: Params, generator: str, data: str, samples: str) -> str:
    settings = params.section("frame_encoder", FrameEncoderSettings)
    prepared = SimpleNamespace(data_hash=lambda split: data)
    clips = SimpleNamespace(config=params.section("face_video", FaceVideoConfig), prepared=prepared)
    made = SimpleNamespace(fingerprints=("a", samples))
    return stages.fingerprint(params, settings, clips, made, generator)  # type: ignore[arg-type]


def video_encoder_name(params: Params, generator: str, data: str, frame_encoder: str) -> str:
    settings = params.section("video_encoder", VideoEncoderSettings)
    return video_encoder._fingerprint(params, settings, frame_encoder, data, generator)


def pose_editor_name(params: Params, encoder: str, data: str, samples: str) -> str:
    settings = params.section("pose_editor", PoseEditorSettings)
    prepared = SimpleNamespace(data_hash=lambda split: data)
    # It is known by the encoder's weights, which belong to one generator.
    net = SimpleNamespace(state_dict=lambda: {"weight": torch.tensor(list(encoder.encode()))})
    made = SimpleNamespace(fingerprints=("a", samples))
    return pose_editor._fingerprint(params, settings, prepared, net, made)  # type: ignore[arg-type]


TRAININGS: dict[str, tuple[Callable[[Params, str, str, str], str], ModuleType, list[str]]] = {
    "frame_encoder": (encoder_name, stages, [
        "frame_encoder.training.ema_decay=0.9", "frame_encoder.start_from=assets/frame-encoder",
        "face_video.stills=7",
    ]),
    "video_encoder": (video_encoder_name, video_encoder, [
        "video_encoder.validation_clips=1", "video_encoder.start_from=assets/video-encoder",
    ]),
    "pose_editor": (pose_editor_name, pose_editor, ["pose_editor.training.steps=7"]),
}  # fmt: skip
JUDGES = ["face_judge.min_score=0.9", "identity_loss.net=arcface"]
"""Of all three."""


@pytest.mark.parametrize(
    ("training", "other"),
    [(name, other) for name, (_, _, settings) in TRAININGS.items() for other in (*settings, *JUDGES)],
)
def test_a_run_is_gone_on_with_only_under_what_it_began_with(training: str, other: str) -> None:
    name = TRAININGS[training][0]
    first, again, changed = (load_params(overrides=said, environment={}) for said in ((), (), (other,)))
    assert name(first, "g", "d", "s") == name(again, "g", "d", "s") != name(changed, "g", "d", "s")


@pytest.mark.parametrize("training", TRAININGS)
def test_a_run_is_gone_on_with_only_on_what_it_began_with(training: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another network, other data, other samples (ViEN: another FrEN), other code."""
    name, module, _ = TRAININGS[training]
    params = load_params(environment={})
    names = [name(params, *made) for made in (("g", "d", "s"), ("x", "d", "s"), ("g", "x", "s"), ("g", "d", "x"))]
    monkeypatch.setattr(module, "code_sha256", lambda stage: f"other code of {stage}")
    names.append(name(params, "g", "d", "s"))
    assert len(set(names)) == 5
