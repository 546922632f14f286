"""Encoders that learnt nothing are refused by the gate of params.yaml, by real judges on real frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.alignment import SmoothingConfig, align, crop_frame
from datamodules.video import read_frames
from modules.assets import asset_path
from modules.encoders.vit import FrameEncoder, load_frame_encoder, w_statistics
from modules.generators import load_generator
from modules.perception.detection import DetectionConfig, to_landmarks
from services.evaluation.frames import HeldOutFrames
from services.evaluation.reconstruction import EvaluationConfig, evaluate_frame_encoder
from services.pipeline.models import Judges
from services.places import FRAME_ENCODER
from services.registry.gate import Evaluation, GateConfig, Gates, Verdict, judge
from services.settings import computes_bfloat16, load_params
from services.training.trainer import FrameEncoderSettings

NAME = "stylereel-frame-encoder"
CLIPS = {"WolfgangLanger_Pexels.mp4": "clips", "single_face.mp4": "clips", "franck.mp4": "franck"}
PER_CLIP = 1
PARAMS = load_params()


@pytest.fixture(scope="module")
def generator():
    made = load_generator()
    if computes_bfloat16("cpu"):  # three times as fast there, and far from where the gate decides
        made.compute_dtype = torch.bfloat16
    return made


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges(PARAMS.section("detection", DetectionConfig), "alex", "cpu")


@pytest.fixture(scope="module")
def real_frames(judges: Judges) -> HeldOutFrames:
    """The first frames of three clips of three persons."""
    smoothing = PARAMS.section("smoothing", SmoothingConfig)
    crops = []
    for file, asset in CLIPS.items():
        frames = next(read_frames(asset_path(asset, file), chunk=PER_CLIP)).frames
        found = align(to_landmarks([faces[0] for faces in judges.find(frames)]), 256, smoothing)
        crops += [crop_frame(f, m, 256) for f, m in zip(frames, found.crop_to_frame, strict=True)]
    return frames_of(crops)


def frames_of(crops: list[np.ndarray]) -> HeldOutFrames:
    people = tuple(number for number in range(len(CLIPS)) for _ in range(PER_CLIP))
    return HeldOutFrames(np.stack(crops), tuple(list(CLIPS)[p] for p in people), people, "data")


def new_encoder(generator) -> FrameEncoder:
    torch.manual_seed(0)
    statistics = w_statistics(generator.map(torch.randn(1000, generator.z_dim))[:, 0])
    network = PARAMS.section("frame_encoder", FrameEncoderSettings).network
    encoder = FrameEncoder(network, generator.num_ws, *statistics)
    nn.init.normal_(encoder.head.weight, std=0.2)
    return encoder.eval()


def encoder_with_weights(generator) -> FrameEncoder:
    """The shipped encoder, or one with codes of the spread of W where none is shipped."""
    shipped = FRAME_ENCODER.is_dir()
    return load_frame_encoder(FRAME_ENCODER, generator.sha256) if shipped else new_encoder(generator)


@torch.no_grad()
def shuffled(encoder: FrameEncoder) -> FrameEncoder:
    """Every tensor keeps its values and loses their order."""
    random = torch.Generator().manual_seed(1)
    for weights in encoder.parameters():
        weights.copy_(weights.flatten()[torch.randperm(weights.numel(), generator=random)].view_as(weights))
    return encoder


@torch.no_grad()
def mean_face(encoder: FrameEncoder) -> FrameEncoder:
    encoder.head.weight.zero_()
    encoder.head.bias.zero_()
    return encoder


class Remembers(nn.Module):
    """Answers the codes of the remembered picture that is nearest."""

    def __init__(self, pictures: Tensor, ws: Tensor) -> None:
        super().__init__()
        self.register_buffer("pictures", pictures.flatten(1))
        self.register_buffer("ws", ws)

    def forward(self, frames: Tensor, state: None = None) -> tuple[Tensor, None]:
        return self.ws[torch.cdist(frames.flatten(1), self.pictures).argmin(1)], None


def verdict_of(encoder, generator, frames: HeldOutFrames, judges: Judges) -> tuple[Verdict, Evaluation]:
    config = PARAMS.section("evaluation", EvaluationConfig)
    evaluation, rows = evaluate_frame_encoder(encoder, "c" * 64, generator, frames, judges, config)
    assert evaluation.metrics == rows.all_frames[1].metrics
    return judge(evaluation, None, gate()), evaluation


def gate() -> GateConfig:
    """The shipped floors; only the number of frames is what a test can afford."""
    return replace(PARAMS.section("gate", Gates).of(NAME), min_frames=PER_CLIP * len(CLIPS), min_clips=len(CLIPS))


@pytest.mark.parametrize("spoil", [shuffled, mean_face])
def test_an_encoder_that_learnt_nothing_is_refused(spoil, generator, judges, real_frames) -> None:
    encoder = spoil(encoder_with_weights(generator))
    verdict, evaluation = verdict_of(encoder, generator, real_frames, judges)
    assert not verdict.passed
    assert "identity" in verdict.text, "whoever it shows, it is not the person"
    assert evaluation.metrics["retrieval"] <= 1 / len(CLIPS) + 1e-6, "a constant answer finds one person only"


def test_an_encoder_that_knows_the_codes_passes(generator, judges) -> None:
    random = torch.Generator().manual_seed(3)
    persons = generator.map(torch.randn(len(CLIPS), generator.z_dim, generator=random), truncation_psi=0.7)
    ws = persons.repeat_interleave(PER_CLIP, 0)
    ws = ws + 0.02 * torch.randn(ws.shape, generator=random)
    with torch.no_grad():
        shown = generator.synthesize(ws, resolution=256).clamp(-1, 1)
    crops = ((shown + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    pictures = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 127.5 - 1
    verdict, evaluation = verdict_of(Remembers(pictures, ws), generator, frames_of(list(crops)), judges)
    assert verdict.passed, verdict.text
    assert evaluation.metrics["retrieval"] == 1.0
