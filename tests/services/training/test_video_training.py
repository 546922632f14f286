"""ViEN's training end to end on the small conformance generator: it learns, and it goes on where it was."""

from pathlib import Path

import pytest
import torch
from conformance_cases import case, tensors

from datamodules.episodes import Stretch
from datamodules.variation import Unsteadiness
from modules.encoders.video_vit import VideoEncoder, VideoEncoderConfig, VideoTransformer, start_from_frame_encoder
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, w_statistics
from modules.generators.stylegan2 import StyleGAN2
from modules.lit.frame_encoder import PartsWithFrameEncoder
from modules.lit.video_encoder import LitVideoEncoder, VideoEncoderTraining, VideoPhase
from modules.losses.pixels import rms_distance
from services.training.trainer import TrainerConfig, VideoEncoderSettings, fit_video_encoder

TRAINER = TrainerConfig(
    devices=1,
    precision="32-true",
    compile="never",
    workers=0,
    checkpoint_every=5,
    validate_every=10,
    validation_frames=6,
    seed=3,
)
NETWORK = VideoEncoderConfig(8, 4)
COARSE = 4


def settings(pairs: int, rolls: int) -> VideoEncoderSettings:
    steps = pairs + rolls
    phases = (
        VideoPhase("pairs", pairs / steps, 2, 1, 1, 0.5, 0.0, 0.0, 2e-3, {"l2": 1.0}),
        VideoPhase("rolls", rolls / steps, 2, 3, 2, 0.5, 0.0, 0.0, 2e-3, {"l2": 1.0, "change": 1.0}),
    )
    plan = VideoEncoderTraining(steps, phases, 0.5, 1.0, 2, 1.0)
    return VideoEncoderSettings("", "", NETWORK, plan, Unsteadiness(0.0, 0.0, 0.0), TRAINER, 1)


class Pictures(Stretch):
    """A stretch whose pictures are at hand."""

    def images(self, rows):
        return self.shard[list(rows)]


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    small = case("stylegan2-64-small")
    return StyleGAN2.from_state(tensors(small), small.json["init"])


@pytest.fixture(scope="module")
def clip(generator) -> torch.Tensor:
    """Twenty frames on the way from one face to another."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        a, b = generator.map(torch.randn(2, generator.z_dim, generator=random))
        ways = torch.linspace(0, 1, 20)[:, None, None]
        return generator.synthesize((1 - ways) * a + ways * b).clamp(-1, 1)


@pytest.fixture(scope="module")
def first(generator) -> FrameEncoder:
    torch.manual_seed(0)
    w = generator.map(torch.randn(500, generator.z_dim))[:, 0]
    network = FrameEncoderConfig(64, (16, 32), 32, 1, 2, 8, 0)
    return FrameEncoder(network, generator.num_ws, *w_statistics(w)).eval().requires_grad_(False)


def train(generator, first, clip, folder: Path, pairs: int, rolls: int) -> VideoTransformer:
    torch.manual_seed(1)
    encoder = start_from_frame_encoder(first, COARSE, NETWORK)
    clips = [[Pictures(clip, 0, len(clip))]]  # type: ignore[arg-type]
    parts = PartsWithFrameEncoder(generator, first, {})
    return fit_video_encoder(encoder, parts, clips, [], clip[None, :6], settings(pairs, rolls), folder)


def error(generator, encoder: VideoEncoder, clip: torch.Tensor) -> float:
    with torch.no_grad():
        return float(rms_distance(generator.synthesize(encoder(clip)[0]), clip)[1:].mean())


def test_it_comes_nearer_than_what_it_started_from(generator, first, clip, tmp_path) -> None:
    before = error(generator, VideoEncoder(first, start_from_frame_encoder(first, COARSE, NETWORK)), clip)
    trained = VideoEncoder(first, train(generator, first, clip, tmp_path, 40, 40))
    assert error(generator, trained, clip) < 0.95 * before


def test_a_killed_run_goes_on_where_it_was(generator, first, clip, tmp_path, monkeypatch) -> None:
    whole = train(generator, first, clip, tmp_path / "whole", 10, 10)
    steps = []
    original = LitVideoEncoder.training_step

    def counted(self, batch, index):
        steps.append(self.global_step)
        if len(steps) == 13:
            raise RuntimeError("killed")
        return original(self, batch, index)

    monkeypatch.setattr(LitVideoEncoder, "training_step", counted)
    with pytest.raises(RuntimeError, match="killed"):
        train(generator, first, clip, tmp_path / "killed", 10, 10)
    resumed = train(generator, first, clip, tmp_path / "killed", 10, 10)
    assert steps[13] == 10, "it began again from the checkpoint, not from the start"
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_validation_tells_the_frame_encoder_beside_it(generator, first, clip, tmp_path, monkeypatch) -> None:
    """Untrained, ViEN's last frames are FrEN's coarse rows with the first frame's fine ones."""
    told = {}
    monkeypatch.setattr(LitVideoEncoder, "log", lambda self, name, value, **how: told.update({name: float(value)}))
    lit = LitVideoEncoder(
        start_from_frame_encoder(first, COARSE, NETWORK),
        settings(1, 1).training,
        PartsWithFrameEncoder(generator, first, {}),
    )
    with torch.no_grad():
        shown = lit.validation_step({"frames": clip[None, :6]}, 0)
        known = first(clip[:6])[0]
        mixed = torch.cat([known[5:, :COARSE], known[:1, COARSE:]], 1)
        expected = generator.synthesize(mixed).clamp(-1, 1)
        alone = generator.synthesize(known[5:]).clamp(-1, 1)
    torch.testing.assert_close(shown, expected, rtol=1e-3, atol=1e-3)
    for name, images in (("val/psnr", expected), ("val/psnr_frame", alone)):
        mse = (images - clip[5:6]).square().mean()
        assert told[name] == pytest.approx(float(10 * torch.log10(4 / mse)), abs=0.01)
    assert {"val/change", "val/change_frame"} <= set(told)
