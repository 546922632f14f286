"""Where the training of the encoder begins."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from datamodules.face_video import FaceVideoConfig
from modules.encoders.vit import load_frame_encoder
from modules.generators import load_generator
from services import stages
from services.settings import load_params
from services.stages import FRAME_ENCODER, first_encoder
from services.training import FrameEncoderSettings


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
        return stages._fingerprint(params, settings, data, [1, 2], "g")  # type: ignore[arg-type]

    assert name() == name() != name(other)
