"""What a card says of a trained encoder is what its training's curve says of the same weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conformance_cases import case, tensors

from modules.encoders.video_vit import VideoEncoderConfig, start_from_frame_encoder
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, w_statistics
from modules.generators.stylegan2 import StyleGAN2
from modules.lit.frame_encoder import (
    EncoderTraining,
    FrozenParts,
    LitFrameEncoder,
    PartsWithFrameEncoder,
    Phase,
)
from modules.lit.video_encoder import LitVideoEncoder, VideoEncoderTraining, VideoPhase
from services.training.validation import frame_encoder_psnr, metrics_section, video_encoder_psnr


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    small = case("stylegan2-64-small")
    return StyleGAN2.from_state(tensors(small), small.json["init"])


@pytest.fixture(scope="module")
def first(generator: StyleGAN2) -> FrameEncoder:
    torch.manual_seed(0)
    w = generator.map(torch.randn(500, generator.z_dim))[:, 0]
    network = FrameEncoderConfig(64, (16, 32), 32, 1, 2, 8, 0)
    encoder = FrameEncoder(network, generator.num_ws, *w_statistics(w)).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    return encoder


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """What validations log."""
    found: dict[str, list[float]] = {}

    def log(self: object, name: str, value: torch.Tensor, **how: object) -> None:
        found.setdefault(name, []).append(float(value))

    for kind in (LitFrameEncoder, LitVideoEncoder):
        monkeypatch.setattr(kind, "log", log)
    return found


def test_a_frame_encoders_is_the_mean_over_all_crops(
    generator: StyleGAN2, first: FrameEncoder, told: dict[str, list[float]]
) -> None:
    crops = torch.rand(6, 3, 64, 64) * 2 - 1  # six: the last batch is smaller
    plan = EncoderTraining(1, (Phase("codes", 1.0, 2, 1e-3, 1.0, 0, {"codes": 1.0}),), 0.9, 1.0, 1, 1.0)
    parts = FrozenParts(generator, {})
    lit = LitFrameEncoder(first, plan, parts)
    with torch.no_grad():
        for crop in torch.split(crops, 1):
            lit.validation_step({"images": crop, "targets": crop}, 0)
    values = told["val/psnr"]
    assert frame_encoder_psnr(first, parts, crops) == pytest.approx(sum(values) / 6, abs=1e-3)
    assert max(values) - min(values) > 1e-3


def test_a_video_encoders_is_of_the_last_frames(
    generator: StyleGAN2, first: FrameEncoder, told: dict[str, list[float]]
) -> None:
    sequences = torch.rand(3, 4, 3, 64, 64) * 2 - 1
    video = start_from_frame_encoder(first, 4, VideoEncoderConfig(8, 4)).eval()
    phase = VideoPhase("pairs", 1.0, 2, 1, 1, 0.0, 0.0, 0.0, 1e-3, {"l2": 1.0})
    parts = PartsWithFrameEncoder(generator, first, {})
    lit = LitVideoEncoder(video, VideoEncoderTraining(1, (phase,), 0.9, 1.0, 1, 1.0), parts)
    with torch.no_grad():
        for one in torch.split(sequences, 1):
            lit.validation_step({"frames": one}, 0)
    assert video_encoder_psnr(video, parts, sequences) == pytest.approx(sum(told["val/psnr"]) / 3, abs=1e-3)


@pytest.mark.parametrize(("split", "said"), [("val", "validation"), ("test", "test")])
def test_the_card_says_whose_crops_they_are(split: str, said: str) -> None:
    prepared: Any = SimpleNamespace(of=lambda asked: ["a clip"] if asked == split else [])
    text = metrics_section(18.254, "6 crops", prepared, "stylereel evaluate", "metrics/x.json")
    assert f"On 6 crops of {said} persons, after its training: PSNR 18.25 dB." in text
