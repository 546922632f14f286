"""Where the training of the encoder begins, and what trainings are known by."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.face_video import FaceVideoConfig, FaceVideoDataModule
from datamodules.samples import SampleDataset
from datamodules.shards import encode_jpeg, save_shard
from datamodules.types import BadInputError
from modules.encoders.vit import FrameEncoder, load_frame_encoder, save_frame_encoder
from modules.generators import load_generator
from services.direction_settings import DirectionSettings
from services.edits import directions, face_meshes, pose_editor
from services.edits.face_meshes import ShardMeshes
from services.edits.pose_settings import PoseEditorSettings
from services.settings import Params, load_params
from services.stages import encoder as encoder_stage
from services.stages import video_encoder
from services.stages.encoder import FRAME_ENCODER, crops_to_learn_from, first_encoder
from services.training import parts
from services.training.trainer import FrameEncoderSettings, VideoEncoderSettings


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
    return encoder_stage.fingerprint(params, settings, clips, made, generator)  # type: ignore[arg-type]


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
    "frame_encoder": (encoder_name, encoder_stage, [
        "frame_encoder.training.ema_decay=0.9", "frame_encoder.training.steps=1500",
        "frame_encoder.start_from=assets/frame-encoder", "face_video.stills=7", "frame_encoder.trainer.seed=7",
    ]),
    "video_encoder": (video_encoder_name, video_encoder, [
        "video_encoder.training.ema_decay=0.9", "video_encoder.training.steps=700",
        "video_encoder.start_from=assets/video-encoder",
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


FREE = ["compile=never", "workers=3", "checkpoint_every=7", "validate_every=7", "validation_frames=7"]
"""Of a trainer."""


@pytest.mark.parametrize(
    ("training", "other"),
    [
        *((name, f"{name}.trainer.{key}") for name in ("frame_encoder", "video_encoder") for key in FREE),
        ("frame_encoder", "face_video.batch_size=3"), ("frame_encoder", "face_video.workers=3"),
        ("video_encoder", "video_encoder.validation_clips=1"), ("pose_editor", "pose_editor.checkpoint_every=7"),
    ],
)  # fmt: skip
def test_a_run_is_gone_on_with_under_what_changes_no_weight(training: str, other: str) -> None:
    name = TRAININGS[training][0]
    first, changed = (load_params(overrides=said, environment={}) for said in ((), (other,)))
    assert first.raw != changed.raw
    assert name(first, "g", "d", "s") == name(changed, "g", "d", "s")


@pytest.mark.parametrize("training", TRAININGS)
def test_a_run_is_gone_on_with_only_on_what_it_began_with(training: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another network, other data, other samples (ViEN: another FrEN), other code."""
    name, module, _ = TRAININGS[training]
    params = load_params(environment={})
    names = [name(params, *made) for made in (("g", "d", "s"), ("x", "d", "s"), ("g", "x", "s"), ("g", "d", "x"))]
    monkeypatch.setattr(module, "code_sha256", lambda stage: f"other code of {stage}")
    names.append(name(params, "g", "d", "s"))
    assert len(set(names)) == 5


def prepared(length: int, train: int, size: int) -> FaceVideoDataModule:
    crop = SimpleNamespace(images=torch.zeros(3, size, size))
    return SimpleNamespace(
        config=FaceVideoConfig(length, 1, 0, 0, 1, 0),
        prepared=SimpleNamespace(of=lambda split: [None] * train),
        dataset=lambda split: [crop] * train,
    )  # type: ignore[return-value]


def test_what_does_not_fit_together_is_said_before_anything_is_solved() -> None:
    samples: SampleDataset = [SimpleNamespace(image=torch.zeros(3, 64, 64))]  # type: ignore[assignment]
    assert len(crops_to_learn_from(prepared(1, 2, 64), samples, 64)) == 2
    assert len(crops_to_learn_from(prepared(1, 0, 64), samples, 64, needed=False)) == 0
    for data, size, said in (
        (prepared(2, 2, 64), 64, "set face_video.length to 1, not 2"),
        (prepared(1, 0, 64), 64, "no training person"),
        (prepared(1, 2, 32), 64, "takes pictures of 64 px, clips.size made some of 32"),
        (prepared(1, 2, 64), 128, "takes pictures of 128 px, samples.resolution made some of 64"),
    ):
        with pytest.raises(BadInputError, match=said):
            crops_to_learn_from(data, samples, size)


def test_too_few_filmed_frames_and_samples_are_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_params(environment={}).section("pose_editor", PoseEditorSettings)
    enough = settings.expression_components + 1

    def filmed(sure: int, unsure: int) -> list[ShardMeshes]:
        score = np.array([1.0] * sure + [settings.least_score / 2] * unsure, np.float32)
        return [SimpleNamespace(score=score)]  # type: ignore[list-item]

    pose_editor.check_filmed(filmed(enough, 0), settings)
    for clips in (filmed(enough - 1, 9), []):
        with pytest.raises(BadInputError, match="show how a face moves, more than"):
            pose_editor.check_filmed(clips, settings)
    monkeypatch.setattr(directions, "SampleDataset", lambda *_: [None] * 5)
    wanted = load_params(environment={}).section("directions", DirectionSettings)
    tools = SimpleNamespace(generator=SimpleNamespace(sha256="g"))
    with pytest.raises(BadInputError, match="5 samples are labelled"):
        directions._learn(wanted, None, tools, None, None, print)  # type: ignore[arg-type]


def test_other_weights_behind_the_losses_are_another_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "2DFAN4.pth.tar"
    weights.write_bytes(b"one")
    params = load_params(overrides=[f"face_judge.fan_weights={weights}"], environment={})
    first = parts.judged_by(params)
    weights.write_bytes(b"two")
    named = parts.judged_by(params)
    monkeypatch.setattr(parts, "nets_sha256", lambda *_: "others")
    assert first != named != parts.judged_by(params)


def test_meshes_by_another_network_are_found_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, looked = tmp_path / "samples-00000.safetensors", []
    save_shard(
        path, {"ws": np.zeros((2, 4, 8), np.float16)}, [encode_jpeg(np.zeros((16, 16, 3), np.uint8), 90)] * 2, {}
    )

    class Mesh(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(1))

        def forward(self, images: torch.Tensor) -> SimpleNamespace:
            looked.append(len(images))
            return SimpleNamespace(points=torch.zeros(len(images), 468, 3), score=torch.ones(len(images)))

    for judges in ("one", "one", "two"):
        monkeypatch.setattr(face_meshes, "judges_sha256", lambda *_, judges=judges: judges)
        face_meshes.sample_meshes([path], Mesh(), tmp_path / "meshes")  # type: ignore[arg-type]
    assert looked == [2, 2]
