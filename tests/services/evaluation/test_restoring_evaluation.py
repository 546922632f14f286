"""How near restored frames come to what they were, what the gate makes of it, and a champion measured anew."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import services.stages.evaluate
from datamodules.types import BadInputError
from modules.encoders.restoring import TASKS, RestoringEncoder, Task, copy_of, degrade, save_restoring_encoder
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, load_frame_encoder, save_frame_encoder
from modules.model_folder import load_model, weights_sha256
from modules.perception.parsing import Regions
from services.evaluation.frames import HeldOutFrames
from services.evaluation.reconstruction import EvaluationConfig, data_hash_of
from services.evaluation.restoring import COLUMNS, LABELS, as_markdown, measure_restoring_encoder, restored
from services.model_names import FRAME_ENCODER, RESTORERS, usual_name
from services.registry.errors import GateRefusedError
from services.registry.gate import Evaluation, Gates, judge
from services.registry.promote import ModelRegistry
from services.settings import load_params
from services.shell.cli import run
from services.stages.evaluate import re_evaluation

PARAMS = load_params()
SMALL = FrameEncoderConfig(
    image_size=32, stem_channels=(16, 32), width=32, depth=1, heads=2, thumbnail=4, told_width=0
)


class Perceptual:
    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images,)

    def __call__(self, images: Tensor, target: Any, mask: Tensor | None = None) -> Tensor:
        wanted = self.features(target) if isinstance(target, Tensor) else target
        return (images - wanted[0]).square().mean((1, 2, 3))


class Judges:
    """What is measured here is arithmetic on pixels."""

    perceptual = Perceptual()

    class identity:
        @staticmethod
        def embed(images: Tensor) -> Tensor:
            angle = images.mean((1, 2, 3)) * math.pi / 2
            return torch.stack([angle.cos(), angle.sin()], 1)

    @staticmethod
    def mesh(images: Tensor) -> Any:
        points = torch.arange(468.0)[None, :, None].expand(len(images), -1, 3).clone()
        return type("Seen", (), {"points": points, "score": torch.ones(len(images))})

    @staticmethod
    def second_identity(images: Tensor) -> Tensor:
        return images.mean((2, 3))

    @staticmethod
    def regions(images: Tensor) -> Regions:
        whole = torch.ones(len(images), 1, *images.shape[2:])
        return Regions(whole, whole, 1 - whole)


class Knows:
    """Renders the true frames in order, as often as it is asked."""

    def __init__(self, truth: Tensor) -> None:
        self.truth, self.at = truth, 0

    def synthesize(self, ws: Tensor, resolution: int) -> Tensor:
        self.at = self.at % len(self.truth)
        found = self.truth[self.at : self.at + len(ws)]
        self.at += len(ws)
        return found


class Answers(torch.nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.seen = task, list[Tensor]()

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        self.seen.append(frames)
        return torch.zeros(len(frames), 1, 1), None


@pytest.mark.parametrize("task", TASKS)
def test_a_generator_that_knows_the_truth_restores_it(task) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(60, 200, (5, 256, 256, 3), dtype=np.uint8)
    frames = HeldOutFrames(pixels, ("a", "a", "b", "b", "b"), (0, 0, 1, 1, 1), "data")
    truth = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    encoder, first = Answers(task), Answers(task)
    rows = measure_restoring_encoder(encoder, first, Knows(truth), frames, Judges(), 2, "cpu")  # type: ignore[arg-type]
    assert set(rows) == {"input", "frame_encoder", "restored"}
    assert rows["restored"]["psnr"] > 60 > rows["input"]["psnr"] and rows["restored"]["lpips"] < 1e-6
    assert [len(part) for part in encoder.seen] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(encoder.seen), degrade(truth, task))
    assert all(torch.equal(a, b) for a, b in zip(encoder.seen, first.seen, strict=True))


def test_what_the_input_has_stays() -> None:
    task: Task = "colourise"
    random = torch.Generator().manual_seed(0)
    given, shown = 0.3 * (torch.rand(2, 2, 3, 16, 16, generator=random) - 0.5)
    grey = degrade(given, task)
    done = restored(grey, shown, Answers(task))  # type: ignore[arg-type]
    torch.testing.assert_close(degrade(done, task), grey, rtol=0, atol=1e-6)
    torch.testing.assert_close(restored(grey, grey, Answers(task)), grey)  # type: ignore[arg-type]
    assert (done - grey).abs().max() > 0.05


def test_the_table_has_a_line_for_each_row() -> None:
    lines = as_markdown({name: dict.fromkeys(COLUMNS, 0.5) for name in LABELS})
    assert len(lines) == 2 + len(LABELS) and all(line.count("|") == len(COLUMNS) + 2 for line in lines)


def evaluation_of(folder: Path, **metrics: float) -> Evaluation:
    measured = {"lpips_gain": 0.05, "psnr": 27.0, "identity": 0.9, "lpips": 0.1, **metrics}
    higher = {"lpips_gain": True, "psnr": True, "identity": True, "lpips": False}
    model = load_model(folder)
    generator = str(model.config["generator_sha256"])
    return Evaluation(
        model.weights_sha256, model.config_sha256, generator, "data", measured, higher, 180, 9, "2026-01-01"
    )


@pytest.fixture
def make(tmp_path: Path) -> Callable[[Task, int], Path]:
    torch.manual_seed(0)
    first = FrameEncoder(SMALL, 6, torch.randn(8), torch.eye(8))
    frame = save_frame_encoder(tmp_path / "frame", first, "a" * 64, "")

    def made(task: Task, seed: int) -> Path:
        kept = load_frame_encoder(frame, None)
        encoder = RestoringEncoder(task, copy_of(kept))
        with torch.no_grad():
            for value in encoder.entry().values():
                value.add_(seed)
        return save_restoring_encoder(tmp_path / f"{task}-{seed}", encoder, kept, "a" * 64, "# Toy\n")

    return made


@pytest.mark.parametrize("task", TASKS)
def test_the_gate_of_params_judges_both(make, task) -> None:
    gate = PARAMS.section("gate", Gates).of(RESTORERS[task])
    good = evaluation_of(make(task, 1))
    assert judge(good, None, gate).passed
    for worse in ({"lpips_gain": -0.001}, {"psnr": 15.0}, {"identity": 0.3}, {"psnr": math.nan}):
        assert not judge(replace(good, metrics={**good.metrics, **worse}), None, gate).passed, worse
    for worse in ({"psnr": 26.5}, {"lpips": 0.13}, {"identity": 0.87}):
        assert not judge(replace(good, metrics={**good.metrics, **worse}), good, gate).passed, worse
    assert judge(replace(good, metrics={**good.metrics, "psnr": 26.95}), good, gate).passed
    assert not judge(replace(good, frames=19), None, gate).passed
    assert not judge(replace(good, clips=2), None, gate).passed


def test_a_folder_is_registered_by_its_task(make, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("STYLEREEL_STATE", str(tmp_path / "state"))
    for task in TASKS:
        folder = make(task, 1)
        assert usual_name(load_model(folder).config) == RESTORERS[task]
    assert usual_name({"kind": "frame-encoder"}) == "stylereel-frame-encoder"
    evaluation = tmp_path / "e.json"
    evaluation.write_text(evaluation_of(folder).to_json())
    assert run(["register", str(folder), "--name", "stylereel-colouriser"]) == 2
    assert "registered as stylereel-enlarger" in capsys.readouterr().err
    assert run(["register", str(folder), "--evaluation", str(evaluation)]) == 0
    assert run(["promote", "stylereel-enlarger"]) == 2
    assert f"belongs to generator {'a' * 64}" in capsys.readouterr().err
    monkeypatch.setattr("services.precise_generator.generator_sha256", lambda _: "a" * 64)
    assert run(["promote", "stylereel-enlarger"]) == 0
    assert "stylereel-enlarger version 1 is champion" in capsys.readouterr().out
    assert run(["register", str(folder)]) == 0
    assert "stylereel-enlarger version 1 is the champion already" in capsys.readouterr().out


@pytest.mark.parametrize("task", TASKS)
def test_a_champion_is_measured_with_the_frame_encoder_it_was_trained_with(
    registry: ModelRegistry, make, monkeypatch, tmp_path, task
) -> None:
    """Registered without an evaluation, it is measured where the challenger was, and beats it."""
    champion, challenger = make(task, 1), make(task, 2)
    frame = weights_sha256(load_model(tmp_path / "frame").tensors)
    asked: list[tuple[Path, str, str]] = []

    def evaluate(folder: Path, first: FrameEncoder, generator: Any, params: Any) -> tuple[Evaluation, list[str]]:
        asked.append((folder, weights_sha256(first.state_dict()), generator.sha256))
        return replace(evaluation_of(folder, psnr=28.0), data_hash=here), []

    registry.register(tmp_path / "frame", FRAME_ENCODER)
    monkeypatch.setattr(services.stages.evaluate, "evaluate_restoring_encoder", evaluate)
    frames = SimpleNamespace(data_hash="frames")
    monkeypatch.setattr(services.stages.evaluate, "_frames", lambda *_: frames)
    here = data_hash_of(frames, PARAMS.section("evaluation", EvaluationConfig).lpips_net, task)  # type: ignore[arg-type]
    monkeypatch.setattr(services.stages.evaluate, "open_registry", lambda params: registry)
    generator = type("Named", (), {"sha256": "a" * 64})()
    monkeypatch.setattr(services.stages.evaluate, "exact_generator", lambda params: generator)
    name, gate = RESTORERS[task], PARAMS.section("gate", Gates).of(RESTORERS[task])
    first = registry.register(champion, name)
    with registry.connection.reach() as mlflow:
        mlflow.set_registered_model_alias(name, "champion", first.version)
    registry.register(challenger, name, evaluation_of(challenger))
    with pytest.raises(BadInputError, match="measure the challenger here and register it again"):
        registry.promote(name, gate, re_evaluate=re_evaluation(PARAMS, name))
    assert not asked, "nothing is measured that could not be compared"
    registry.register(challenger, name, replace(evaluation_of(challenger), data_hash=here))
    with pytest.raises(GateRefusedError, match=r"psnr 27 < the champion's 28"):
        registry.promote(name, gate, re_evaluate=re_evaluation(PARAMS, name))
    ((folder, sha256, made_for),) = asked
    assert load_model(folder).tensors.keys() and (sha256, made_for) == (frame, "a" * 64)
    assert weights_sha256(load_model(folder).tensors) == first.sha256
