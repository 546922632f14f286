"""Edits and frames between by a generator that learned the face: what is refused early, what the sidecar says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted_toys import small_models

import services.adaptation.models
import services.media
from datamodules.video import read_frames
from modules.editing.directions import EditSet
from modules.editing.random_identity import RandomIdentity
from modules.editing.stylespace import joined
from services.pipeline.models import Models
from services.shell.cli import run

__all__ = ["small_models"]
SECTION = ("--start", "0.5", "--end", "0.58")
FEW = [word for key in ("iterations", "frames", "measured") for word in ("--set", f"adaptation.{key}=1")]
Shell = Callable[..., int]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, small_models: Models, tmp_path: Path) -> Shell:
    monkeypatch.setenv("STYLEREEL_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(services.media, "load_models", lambda *_: small_models)
    return lambda *arguments: run([str(argument) for argument in (*arguments, "-q")])


def apart(out: Path, clip: Path) -> np.ndarray:
    """``(H, W)``: how far the section is from the clip's, in levels of 255, mean over frames and colours."""
    (edited,), (frames,) = read_frames(out, 8), read_frames(clip, 8, 0.5, 0.58)
    found: np.ndarray = np.abs(edited.frames.astype(float) - frames.frames).mean((0, 3))
    return found


def test_the_sidecar_says_how_the_generator_learned_and_the_reconstruction_is_shown(
    shell: Shell, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    # No edit, but the face as the generator shows it: that is what there is to see.
    assert shell("edit", clip, out, *SECTION, "--adapt", "--paste", "replace", *FEW) == 0
    whole = apart(out, clip)
    assert np.percentile(whole, 99) > 20 and np.median(whole) < 4  # another face in the same surroundings
    (learned,) = (tmp_path / "state" / "adaptations").iterdir()
    for command in (
        None,
        ("edit", clip, out, *SECTION, "--adapted", learned, "-e", "smile=1", "--no-balance"),
        ("interpolate", clip, out, *SECTION, "--adapted", learned),
        ("interpolate", clip, out, *SECTION, "--adapt", *FEW),
    ):
        assert command is None or shell(*command) == 0
        params = json.loads((tmp_path / "out.mp4.json").read_text())["params"]
        assert [params["adaptation"][key] for key in ("iterations", "frames", "measured")] == [1, 1, 1]
        assert params["adaptation"]["training"]["learning_rate"] > 0
        assert params["learned_from"]["source"]["sha256"] == hashlib.sha256(clip.read_bytes()).hexdigest()
        assert params["learned_from"]["options"]["start"] == 0.5
    assert shell("edit", clip, out, *SECTION, "-e", "smile=0") == 0
    assert "adaptation" not in json.loads((tmp_path / "out.mp4.json").read_text())["params"]
    assert np.percentile(apart(out, clip), 99) < 10  # the input, written anew


@pytest.mark.parametrize("learned", [["--adapt", *FEW], ["--adapted", "anna"]])
def test_nobody_is_hidden_by_a_generator_that_learned_the_face(
    shell: Shell, clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], learned: list[str],
) -> None:  # fmt: skip
    generator = small_models.generator
    rows = torch.ones(generator.num_ws)
    other = RandomIdentity("random_identity", "", torch.eye(generator.w_dim)[:5], rows, 1.0, generator.sha256)
    models = replace(small_models, edits=joined(small_models.edits, EditSet([other])))
    monkeypatch.setattr(services.media, "load_models", lambda *_: models)
    monkeypatch.setattr(services.media, "with_adaptation", lambda models, folder: replace(models, adapted=True))
    assert shell("edit", clip, tmp_path / "out.mp4", *learned, "-e", "random_identity=1") == 2
    assert "leave out --adapt and --adapted" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["edit", "CLIP", "out.mp4", "--adapt"], "give --edit NAME=STRENGTH, or --paste replace"),
        (["edit", "CLIP", "out.mp4", "--adapt", "-e", "age=0"], "no edit was asked"),
        (["edit", "CLIP", "out.mp4", "--stitch"], "no edit was asked"),
        (["edit", "CLIP", "out.mp4", "--keep-lips", "-e", "age=0"], "no edit was asked"),
        (["edit", "CLIP", "out.mp4", "--adapt", "-e", "age=5", "--face", "all"], "is of one face"),
        (["edit", "CLIP", "out.mp4", "--adapted", "anna", "-e", "age=5", "--face", "all"], "is of one face"),
        (["edit", "PICTURE", "out.png", "--adapted", "anna", "-e", "age=5", "--face", "all"], "is of one face"),
        (["interpolate", "CLIP", "out.mp4", "--adapted", "anna", "--face", "all"], "is of one face"),
        (["interpolate", "CLIP", "out.mp4", "--adapt", "--face", "all"], "is of one face"),
        (["adapt", "CLIP", "anna", "--subject", "anna", "--expires", "2020-01-01"], "for anna ran out on"),
    ],
)  # fmt: skip
def test_what_cannot_be_met_is_said_before_anything_is_loaded(
    shell: Shell, clip: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str,
) -> None:  # fmt: skip
    for module in (services.media, services.adaptation.models):
        monkeypatch.setattr(module, "load_models", None)
    monkeypatch.chdir(tmp_path)
    files = {"CLIP": clip, "PICTURE": picture}
    assert shell(*(files.get(word, word) for word in arguments)) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and list(tmp_path.iterdir()) == []
