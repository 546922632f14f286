"""Training end to end on the small conformance generator: it learns, it resumes, it ships averaged weights."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance_cases import case, tensors

from datamodules.samples import SampleDataset, SamplesConfig, draw_codes, write_samples
from datamodules.types import BadInputError
from datamodules.variation import SofteningConfig, VariationConfig
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, w_statistics
from modules.generators.stylegan2 import StyleGAN2
from modules.lit.frame_encoder import FrameEncoderTraining, FrozenParts, LitFrameEncoder, Phase, code_loss
from modules.perception.identity import FaceSight
from services.settings import ROOT
from services.training.trainer import FrameEncoderSettings, TrainerConfig, fit_frame_encoder

NETWORK = FrameEncoderConfig(64, (16, 32), 32, 1, 2, 8, 0)
TRAINER = TrainerConfig(
    devices=1,
    precision="32-true",
    compile="never",
    workers=0,
    checkpoint_every=5,
    validate_every=10,
    validation_frames=4,
    seed=3,
)


def settings(codes: int, images: int, linear_start: int = 0) -> FrameEncoderSettings:
    steps = codes + images
    phases = (
        Phase("codes", codes / steps, 8, 2e-3, 1.0, 0, {"codes": 1.0}),
        Phase("images", images / steps, 4, 1e-3, 0.5, 2, {"codes": 1.0, "l2": 1.0}),
    )
    plan = FrameEncoderTraining(
        steps, phases, ema_decay=0.5, gradient_clip=1.0, warmup_steps=2, trunk_rate=1.0,
        linear_start=linear_start, linear_ridge=0.02, told_start=40, told_ridge=0.05,
    )  # fmt: skip
    return FrameEncoderSettings(
        NETWORK, plan, SofteningConfig(0.0, 32, 0.0), VariationConfig(0.0, 0.0, 0.0, 0.0, 0.0), TRAINER, ""
    )


def conformance_generator() -> StyleGAN2:
    small = case("stylegan2-64-small")
    return StyleGAN2.from_state(tensors(small), small.json["init"])


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return conformance_generator()


@pytest.fixture(scope="module")
def samples_folder(generator, tmp_path_factory) -> Path:
    config = SamplesConfig(
        count=150, shard_size=150, seed=1, resolution=64, jpeg_quality=95, render_batch=25, two_codes=0.0,
        three_codes=0.0, truncation_low=1.0, truncation_high=1.0, jitter=0.0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("samples")

    def draw(n: int, seed: int) -> torch.Tensor:
        return draw_codes(generator.map, n, seed, config, generator.z_dim)

    write_samples(folder, draw, generator.synthesize, config)
    return folder


@pytest.fixture(scope="module")
def samples(samples_folder) -> SampleDataset:
    return SampleDataset(samples_folder)


def new_encoder(generator: StyleGAN2) -> FrameEncoder:
    torch.manual_seed(0)
    w = generator.map(torch.randn(500, generator.z_dim))[:, 0]
    return FrameEncoder(NETWORK, generator.num_ws, *w_statistics(w))


def train(generator, samples, folder, codes, images, linear_start=0, trainer=TRAINER) -> FrameEncoder:
    frames = [samples[i].image for i in range(20)]
    held_out = torch.stack([samples[i].image for i in range(4)])
    frozen, plan = FrozenParts(generator, {}), replace(settings(codes, images, linear_start), trainer=trainer)
    return fit_frame_encoder(new_encoder(generator), frozen, samples, frames, held_out, plan, folder)


class Tells:
    """Stands for the face nets: says of an image what its four quarters look like."""

    def look(self, frames: torch.Tensor) -> FaceSight:
        coarse = torch.nn.functional.adaptive_avg_pool2d(frames, 4).flatten(1)
        embedding = torch.nn.functional.pad(coarse, (0, 512 - coarse.shape[1]))
        landmarks = coarse.new_zeros(len(frames), 68, 3)
        return FaceSight(embedding, landmarks, torch.ones(len(frames), dtype=torch.bool))

    def __deepcopy__(self, memo: object) -> "Tells":
        return self


def test_what_the_face_nets_tell_is_solved_at_the_start_and_not_when_a_run_goes_on(
    generator, samples, tmp_path, monkeypatch
) -> None:
    solved: list[int] = []
    solve = FrameEncoder.start_told

    def counted(self, frames, ws, ridge, real=()) -> None:
        solved.append(len(ws))
        solve(self, frames, ws, ridge, list(real))

    monkeypatch.setattr(FrameEncoder, "start_told", counted)
    blind = error(new_encoder(generator), samples)
    w = generator.map(torch.randn(500, generator.z_dim))[:, 0]
    tells: Any = Tells()
    frozen, crops = FrozenParts(generator, {}), [samples[i].image for i in range(20)]
    errors = []
    for steps in (1, 2):
        config = replace(NETWORK, told_width=8)
        encoder = FrameEncoder(config, generator.num_ws, *w_statistics(w), tells)
        plan = settings(steps, 1, 0)
        trained = fit_frame_encoder(encoder, frozen, samples, crops, torch.stack(crops[:4]), plan, tmp_path)
        errors.append(error(trained, samples))
    assert solved == [40], "once, and never again over what was learned"
    assert max(errors) < 0.95 * blind


def error(encoder: FrameEncoder, samples: SampleDataset) -> float:
    drawn = [samples[i] for i in range(100)]
    with torch.no_grad():
        ws, _ = encoder(torch.stack([sample.image for sample in drawn]))
    return float(code_loss(ws, torch.stack([sample.ws for sample in drawn]), encoder.w_basis))


def test_it_trains_on_the_device_that_it_is_told(generator, samples, tmp_path) -> None:
    frozen, crops = FrozenParts(generator, {}), [samples[0].image]
    with pytest.raises(Exception, match="nowhere"):
        fit_frame_encoder(
            new_encoder(generator), frozen, samples, crops, torch.stack(crops), settings(1, 1, 0), tmp_path,
            accelerator="nowhere",
        )  # fmt: skip


def test_it_learns_the_codes_of_its_samples(generator, samples, tmp_path) -> None:
    before = error(new_encoder(generator), samples)
    after = error(train(generator, samples, tmp_path, 150, 5), samples)
    print(before, after)
    assert after < 0.9 * before


def test_the_solved_start_is_already_near(generator, samples, tmp_path) -> None:
    """One step from the linear start beats none."""
    solved = error(train(generator, samples, tmp_path, 1, 1, linear_start=150), samples)
    assert solved < 0.9 * error(new_encoder(generator), samples)


def test_a_killed_run_goes_on_where_it_was(generator, samples, tmp_path, monkeypatch) -> None:
    """Stopped after the checkpoint of step 10 and started again, it ends where an undisturbed run ends.

    Also with what it is not known by set to something else.
    """
    whole = train(generator, samples, tmp_path / "whole", 10, 10)
    steps = []
    original = LitFrameEncoder.training_step

    def counted(self, batch, index):
        steps.append(self.global_step)
        if len(steps) == 13:
            raise RuntimeError("killed")
        return original(self, batch, index)

    monkeypatch.setattr(LitFrameEncoder, "training_step", counted)
    with pytest.raises(RuntimeError, match="killed"):
        train(generator, samples, tmp_path / "killed", 10, 10)
    assert (tmp_path / "killed" / "last.ckpt").is_file()
    other = replace(TRAINER, workers=2, checkpoint_every=4, validate_every=3)
    assert other.that_counts() == TRAINER.that_counts()
    resumed = train(generator, samples, tmp_path / "killed", 10, 10, trainer=other)
    assert steps[13] == 10, "it began again from the checkpoint, not from the start"
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint_and_the_average_good(
    generator, samples, tmp_path, monkeypatch
) -> None:
    losses = LitFrameEncoder.losses

    def lost(self, batch, phase):
        factor = torch.nan if self.global_step == 7 else 1.0
        return {name: factor * value for name, value in losses(self, batch, phase).items()}

    monkeypatch.setattr(LitFrameEncoder, "losses", lost)
    with pytest.raises(BadInputError, match=r"^codes is no number at step 7: lower the learning rate"):
        train(generator, samples, tmp_path, 10, 2)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 5
    both = [kept["state_dict"], kept["current_model_state"]]  # the average, and what it is of
    assert all(value.isfinite().all() for state in both for value in state.values())


def test_a_checkpoint_that_is_cut_off_is_named_in_one_line(generator, samples, tmp_path) -> None:
    train(generator, samples, tmp_path, 2, 2, linear_start=20)
    last = tmp_path / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(BadInputError, match=rf"{last} cannot be read.*: delete it to begin anew"):
        train(generator, samples, tmp_path, 2, 2, linear_start=20)
    last.unlink()
    train(generator, samples, tmp_path, 2, 2, linear_start=20)


def test_a_finished_run_is_not_trained_again(generator, samples, tmp_path) -> None:
    first = train(generator, samples, tmp_path, 4, 6)
    again = train(generator, samples, tmp_path, 4, 6)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=name)


class InterruptedFrames:
    """Frames during whose loading somebody presses Ctrl-C."""

    def __init__(self, frame: torch.Tensor, after: int) -> None:
        self.frame, self.left = frame, after

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        return self.frame


@pytest.fixture
def interrupt_handler() -> Iterator[object]:
    """Python's own, also where the tests run in the background of a shell, which ignores Ctrl-C there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_an_interrupt_and_training_goes_on_from_its_checkpoint(
    generator, samples, tmp_path, interrupt_handler
) -> None:
    held_out = torch.stack([samples[i].image for i in range(4)])
    plan, frozen = settings(6, 6), FrozenParts(generator, {})

    def fit(frames) -> None:
        fit_frame_encoder(new_encoder(generator), frozen, samples, frames, held_out, plan, tmp_path)

    with pytest.raises(KeyboardInterrupt):
        fit(InterruptedFrames(samples[0].image, after=9))
    assert signal.getsignal(signal.SIGINT) is interrupt_handler
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert 0 < last["global_step"] < plan.training.ends[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    fit([samples[0].image])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == plan.training.ends[-1]


def test_of_two_processes_one_alone_goes_on_with_what_was_learned(samples_folder, tmp_path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    here = Path(__file__).parent
    folders = [str(samples_folder), str(tmp_path / "run"), str(models)]
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", here)))}
    command = [sys.executable, str(here / "trained_by_two.py"), *folders]
    done = subprocess.run(
        command, env=os.environ | paths, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    (kept,) = models.iterdir()
    last = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 5
    for name, value in torch.load(kept, weights_only=True).items():
        assert torch.equal(value, last["state_dict"][f"encoder.{name}"])
