"""``stylereel colourise`` and ``stylereel enlarge``: files, sidecars, and one line for what cannot be done."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import services.media
import services.pipeline.restorers
from datamodules.images import read_image, write_image
from services.pipeline.models import Models
from services.pipeline.restorers import restoring
from services.pipeline.sidecar import file_sha256
from services.shell.cli import run

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, toy_models: Models) -> Callable[[list[str]], int]:
    def told(frames: torch.Tensor, state: None = None) -> tuple[torch.Tensor, None]:
        return torch.linspace(-2, 2, 32).view(1, 4, 8).expand(len(frames), -1, -1), None

    monkeypatch.setattr(
        services.media,
        "load_restoring_models",
        lambda params, task, encoder: restoring(
            replace(toy_models, device=params.runtime.torch_device()), task, told, {"toy": str(encoder)}
        ),
    )
    monkeypatch.setenv("STYLEREEL_DEVICE", "cpu")
    return run


@pytest.fixture
def small(tmp_path: Path, picture: Path) -> Path:
    image = read_image(picture, 10**8)
    step = max(1, max(image.shape[:2]) // 200)
    write_image(tmp_path / "small.png", image[::step, ::step])
    return tmp_path / "small.png"


def test_a_picture_is_coloured_with_a_sidecar(shell, tmp_path, picture, capsys) -> None:
    target = tmp_path / "out.png"
    assert shell(["colourise", str(picture), str(target), "--encoder", "mine", "-q"]) == 0
    before, after = read_image(picture, 10**8), read_image(target, 10**8)
    assert before.shape == after.shape and np.abs(before @ LUMA - after @ LUMA).max() <= 1.01
    assert np.ptp(after.astype(int), axis=2).max() > 10
    sidecar = json.loads((tmp_path / "out.png.json").read_text())
    assert sidecar["options"] == {"task": "colourise", "face": "largest", "start": None, "end": None}
    assert sidecar["models"] == {"toy": "mine"} and sidecar["edits"] == []
    assert sidecar["input"]["sha256"] == file_sha256(picture) and sidecar["output"]["sha256"] == file_sha256(
        target
    )
    (face,) = sidecar["report"]["faces"]
    assert set(face["metrics"]) == {"psnr", "identity", "identity_distance", "landmark_error", "lpips"}
    said = capsys.readouterr()
    assert said.out.strip() == str(target) and "another person's" in said.err and "refine" not in said.err


def test_a_picture_is_enlarged(shell, tmp_path, small) -> None:
    assert shell(["enlarge", str(small), str(tmp_path / "out.png"), "--face", "0", "-q"]) == 0
    before, after = read_image(small, 10**8), read_image(tmp_path / "out.png", 10**8)
    assert after.shape == (4 * before.shape[0], 4 * before.shape[1], 3)
    assert json.loads((tmp_path / "out.png.json").read_text())["options"]["face"] == "0"


def test_a_section_of_a_clip(shell, tmp_path, clip) -> None:
    target = tmp_path / "out.mp4"
    assert shell(["colourise", str(clip), str(target), "--start", "0.5s", "--end", "0:00.7", "-q"]) == 0
    sidecar = json.loads((tmp_path / "out.mp4.json").read_text())
    assert [frame["frame"] for frame in sidecar["report"]["faces"][0]["frames"]] == list(range(15, 21))
    assert sidecar["options"] == {"task": "colourise", "face": "largest", "start": 0.5, "end": 0.7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["colourise", "none.png", "out.png"], "none.png does not exist"),
        (["enlarge", "small.png", "out.mp4"], "small.png gives an image"),
        (["enlarge", "small.png", "out.png", "--start", "1s"], "small.png is no video"),
        (["enlarge", "small.png", "out.png", "--face", "left"], "face must be"),
        (["enlarge", "small.png", "out.png", "--face", "3"], "at most 1 can be seen"),
        (["enlarge", "small.png", "out.png", "--set", "runtime.max_pixels=90000"], "and at most 90000 pixels"),
        (["colourise", "small.png", "small.png"], "input itself"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    shell, tmp_path, small, capsys, monkeypatch, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert shell(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_side_that_the_format_does_not_hold_is_said_before_models_are_loaded(
    shell, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(services.media, "load_restoring_models", None)
    write_image(tmp_path / "wide.png", np.zeros((2, 4100, 3), np.uint8))
    assert shell(["enlarge", str(tmp_path / "wide.png"), str(tmp_path / "out.webp"), "-q"]) == 2
    assert "side of 16400 px, and .webp holds 16383" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "stage"), [("colourise", "colouriser"), ("enlarge", "enlarger")])
def test_without_a_model_the_training_is_named(tmp_path, small, capsys, monkeypatch, command, stage) -> None:
    task = {"colourise": tmp_path / "none", "enlarge": tmp_path / "none"}
    monkeypatch.setattr(services.pipeline.restorers, "SHIPPED", task)
    assert run([command, str(small), str(tmp_path / "out.png"), "-q"]) == 2
    said = capsys.readouterr().err
    assert f"'stylereel train {stage}' makes it" in said and said.count("\n") == 1


@pytest.mark.parametrize("command", ["colourise", "enlarge"])
def test_help_does_not_promise_the_truth(command, capsys) -> None:
    assert run([command, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"stylereel {command}" in said and "plausible, not the tru" in said
