"""A restoring encoder in training on the small conformance generator: resumed, averaged, FrEN's behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conformance_cases import case, tensors

from datamodules.samples import SampleDataset, SamplesConfig, draw_codes, write_samples
from datamodules.variation import SofteningConfig, VariationConfig
from modules.encoders.restoring import RestoringEncoder, Task, copy_of, degrade
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, w_statistics
from modules.generators.stylegan2 import StyleGAN2
from modules.lit.frame_encoder import LitFrameEncoder, PartsWithFrameEncoder, Phase, code_loss
from modules.lit.restoring import RestoringTraining
from services.stages.restorers import RestoringSettings, fit_restoring_encoder
from services.training.trainer import TrainerConfig

TRAINER = TrainerConfig(
    devices=1, precision="32-true", compile="never", workers=0, checkpoint_every=5, validate_every=10,
    validation_frames=4, seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    small = case("stylegan2-64-small")
    return StyleGAN2.from_state(tensors(small), small.json["init"])


@pytest.fixture(scope="module")
def samples(generator: StyleGAN2, tmp_path_factory: pytest.TempPathFactory) -> SampleDataset:
    config = SamplesConfig(
        count=60, shard_size=60, seed=1, resolution=64, jpeg_quality=95, render_batch=20, two_codes=0.0,
        three_codes=0.0, truncation_low=1.0, truncation_high=1.0, jitter=0.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("samples")

    def draw(n: int, seed: int) -> torch.Tensor:
        return draw_codes(generator.map, n, seed, config, generator.z_dim)

    write_samples(folder, draw, generator.synthesize, config)
    return SampleDataset(folder)


@pytest.fixture(scope="module")
def first(generator: StyleGAN2) -> FrameEncoder:
    torch.manual_seed(0)
    w = generator.map(torch.randn(500, generator.z_dim))[:, 0]
    network = FrameEncoderConfig(64, (16, 32), 32, 1, 2, 8, 0)
    encoder = FrameEncoder(network, generator.num_ws, *w_statistics(w)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return encoder


def train(
    generator: StyleGAN2, samples: SampleDataset, first: FrameEncoder, folder: Path, task: Task, codes: int
) -> RestoringEncoder:
    steps = codes + 10
    phases = (
        Phase("codes", codes / steps, 8, 3e-3, 0.5, 0, {"codes": 1.0}),
        Phase("images", 10 / steps, 4, 1e-3, 0.5, 2, {"codes": 1.0, "l2": 1.0}),
    )
    plan = RestoringTraining(
        steps, phases, ema_decay=0.5, gradient_clip=1.0, warmup_steps=2, trunk_rate=1.0, factors=(2.5, 6.0)
    )
    settings = RestoringSettings(
        frame_encoder="",
        training=plan,
        softening=SofteningConfig(0.0, 32, 0.0),
        variation=VariationConfig(0.0, 0.0, 0.0, 0.0, 0.0),
        trainer=TRAINER,
    )
    frames = [samples[i].image for i in range(20)]
    encoder, parts = RestoringEncoder(task, copy_of(first)), PartsWithFrameEncoder(generator, first, {})
    held_out = torch.stack(frames[:4])
    return fit_restoring_encoder(encoder, parts, samples, frames, held_out, settings, folder, accelerator="cpu")


def test_it_comes_nearer_to_frens_answers_and_the_averaged_trunk_is_frens_to_the_bit(
    generator, samples, first, tmp_path
) -> None:
    trained = train(generator, samples, first, tmp_path, "colourise", 60)
    images = torch.stack([samples[i].image for i in range(60)])
    less = degrade(images, "colourise")
    with torch.no_grad():
        wanted = first(images)[0]
        untaught, taught = (code_loss(net(less)[0], wanted, first.w_basis) for net in (first, trained))
    assert taught < 0.8 * untaught
    assert not trained.training
    own = trained.entry()
    for name, value in trained.net.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]) != (name in own), name


def test_a_killed_run_goes_on_where_it_was(generator, samples, first, tmp_path, monkeypatch) -> None:
    """Batches and factors are the same ones again: it ends where an undisturbed run ends."""
    whole = train(generator, samples, first, tmp_path / "whole", "enlarge", 10)
    steps: list[int] = []
    original = LitFrameEncoder.training_step

    def counted(self, batch, index):
        steps.append(self.global_step)
        if len(steps) == 13:
            raise RuntimeError("killed")
        return original(self, batch, index)

    monkeypatch.setattr(LitFrameEncoder, "training_step", counted)
    with pytest.raises(RuntimeError, match="killed"):
        train(generator, samples, first, tmp_path / "killed", "enlarge", 10)
    resumed = train(generator, samples, first, tmp_path / "killed", "enlarge", 10)
    assert steps[13] == 10
    for name, value in whole.entry().items():
        torch.testing.assert_close(resumed.entry()[name], value, rtol=1e-4, atol=1e-5, msg=name)
