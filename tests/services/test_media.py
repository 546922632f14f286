"""Animations and wide pictures in the shell: what is taken of them, and what is said of the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import services.media
from datamodules.video import probe, read_frames
from modules.assets import asset_path
from modules.generators.codes_file import read_codes, save_codes
from services.pipeline.models import Models
from services.pipeline.restorers import restoring
from services.pipeline.sidecar import described
from services.shell.cli import run

Shell = Callable[..., int]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, toy_models: Models) -> Shell:
    def told(frames: torch.Tensor, state: None = None) -> tuple[torch.Tensor, None]:
        return torch.zeros(len(frames), 4, 8), None

    monkeypatch.setattr(services.media, "load_models", lambda *_: toy_models)
    monkeypatch.setattr(
        services.media, "load_restoring_models", lambda _, task, __: restoring(toy_models, task, told, {})
    )
    return lambda *arguments: run([str(argument) for argument in (*arguments, "-q")])


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Six frames of a face."""
    (batch,) = read_frames(asset_path("clips", "single_face.mp4"), 6, 0.0, 0.2)
    step = max(1, max(batch.frames.shape[1:3]) // 360)
    return [Image.fromarray(frame) for frame in batch.frames[:, ::step, ::step]]


@pytest.fixture
def animation(tmp_path: Path, pictures: list[Image.Image]) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100)
        return tmp_path / name

    return make


def test_an_animated_gif_becomes_a_clip_where_one_is_named(shell, animation, tmp_path, capsys) -> None:
    target = tmp_path / "out.mp4"
    assert shell("edit", animation("in.gif"), target, "-e", "age=20") == 0
    assert "animation" not in capsys.readouterr().err
    made = probe(target)
    assert (made.frames, made.rate) == (6, 10)
    assert len(json.loads((tmp_path / "out.mp4.json").read_text())["report"]["faces"][0]["frames"]) == 6
    assert shell("interpolate", tmp_path / "in.gif", target, "--factor", "2") == 0
    assert probe(target).frames == 12
    assert shell("colourise", tmp_path / "in.gif", target) == 0
    assert probe(target).frames == 6 and "animation" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["in.gif", "in.webp", "in.avif"])
def test_of_other_animations_the_first_frame_is_taken_and_said(shell, animation, tmp_path, capsys, name) -> None:
    line = f"warning: {name} is an animation: the first of its 6 frames was taken; save it as a video for all"
    assert shell("edit", animation(name), tmp_path / "out.png", "-e", "age=20") == 0
    assert line in capsys.readouterr().err.splitlines()
    assert any(
        "animation" in one for one in json.loads((tmp_path / "out.png.json").read_text())["report"]["warnings"]
    )
    assert shell("colourise", tmp_path / name, tmp_path / "grey.png") == 0
    assert line in capsys.readouterr().err.splitlines()
    assert shell("invert", tmp_path / name, tmp_path / "codes.safetensors") == 0
    assert line in capsys.readouterr().err.splitlines()
    assert len(read_codes(tmp_path / "codes.safetensors", services.media.load_models().generator)) == 1


def test_a_gif_of_one_frame_is_a_picture(shell, pictures, tmp_path, capsys) -> None:
    pictures[0].save(tmp_path / "in.gif")
    assert shell("edit", tmp_path / "in.gif", tmp_path / "out.mp4", "-e", "age=20") == 2
    assert "in.gif gives an image" in capsys.readouterr().err
    assert shell("edit", tmp_path / "in.gif", tmp_path / "out.png", "-e", "age=20") == 0
    assert "animation" not in capsys.readouterr().err


@pytest.mark.parametrize("fate", ["moved", "replaced"])
@pytest.mark.parametrize(
    ("command", "doer", "name", "target", "given"),
    [
        ("edit", "edit_image", "in.png", "out.png", ["-e", "age=20"]),
        ("edit", "edit_video", "in.gif", "out.mp4", ["-e", "age=20"]),
        ("edit", "_edit_codes", "in.safetensors", "out.png", ["-e", "age=20"]),
        ("colourise", "restore_image", "in.png", "out.png", []),
        ("colourise", "restore_video", "in.gif", "out.mp4", []),
        ("invert", "invert_image", "in.png", "out.safetensors", []),
        ("interpolate", "interpolate_video", "in.gif", "out.mp4", ["--factor", "2"]),
    ],
)
def test_an_input_that_is_moved_or_replaced_meanwhile_costs_no_result(
    shell, pictures, toy_models, tmp_path, monkeypatch, command, doer, name, target, given, fate
) -> None:
    source, made = tmp_path / name, toy_models.generator
    if name.endswith("safetensors"):
        save_codes(source, torch.zeros(1, made.num_ws, made.w_dim), made)
    else:
        more = {"save_all": True, "append_images": pictures[1:]} if name.endswith("gif") else {}
        pictures[0].save(source, **more)
    wanted, do = described(source), getattr(services.media, doer)

    def then_gone(*arguments: object) -> object:
        done = do(*arguments)
        source.unlink()
        if fate == "replaced":
            source.write_bytes(b"another")
        return done

    monkeypatch.setattr(services.media, doer, then_gone)
    assert shell(command, source, tmp_path / target, *given) == 0
    assert (tmp_path / target).is_file()
    assert json.loads((tmp_path / f"{target}.json").read_text())["input"] == wanted


def test_codes_whose_faces_no_picture_holds_side_by_side_are_refused(
    shell, tmp_path, capsys, monkeypatch, toy_models
) -> None:
    monkeypatch.setattr(services.media, "_edit_codes", None)
    count = 1_000_000 // toy_models.generator.resolution + 1
    ws = torch.zeros(count, toy_models.generator.num_ws, toy_models.generator.w_dim)
    codes = save_codes(tmp_path / "in.safetensors", ws, toy_models.generator)
    for name, holds in (("out.png", 1_000_000), ("out.tiff", 1_000_000), ("out.jpg", 65_500)):
        assert shell("edit", codes, tmp_path / name, "-e", "age=20") == 2
        said = capsys.readouterr().err
        assert f"holds {holds}: take a section with fewer frames" in said and said.count("\n") == 1


@pytest.mark.parametrize("shape", [(8, 16_384, 3), (16_384, 8, 3)])
def test_a_picture_that_no_webp_holds_is_refused_before_it_is_edited(
    shell, tmp_path, capsys, monkeypatch, shape
) -> None:
    monkeypatch.setattr(services.media, "edit_image", None)
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "wide.png")
    assert shell("edit", tmp_path / "wide.png", tmp_path / "out.webp", "-e", "age=20") == 2
    said = capsys.readouterr().err
    assert "a side of 16384 px, and .webp holds 16383: write a .png" in said and said.count("\n") == 1
