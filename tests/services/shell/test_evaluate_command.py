"""Where ``stylereel evaluate`` writes: only what ``dvc repro`` measures replaces the committed metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

import services.stages.evaluate
from services.places import FRAME_ENCODER, METRICS_FOLDER
from services.shell.cli import run
from services.stages.evaluate import EvaluateOptions


@pytest.mark.parametrize(
    ("words", "usual"),
    [
        ([], True),
        (["--encoder", "video", "--table"], True),
        (["--encoder", str(FRAME_ENCODER)], True),
        (["--optimise"], True),
        (["--encoder", "champion"], False),
        (["--split", "val"], False),
        (["--clips", "elsewhere"], False),
        (["--set", "evaluation.frames_per_clip=1"], False),
    ],
)
def test_the_committed_metrics_are_of_the_usual_measurement(
    words: list[str],
    usual: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[EvaluateOptions] = []
    monkeypatch.setattr(
        services.stages.evaluate, "evaluate", lambda params, options, report: asked.append(options) or ""
    )
    monkeypatch.setenv("STYLEREEL_STATE", str(tmp_path))
    assert run(["evaluate", "--quiet", *words]) == 0
    assert asked[0].metrics == (METRICS_FOLDER if usual else tmp_path / "metrics")
    assert asked[0].published == usual, "the tables go where the metrics go"
    assert ("--clips elsewhere" in asked[0].command) == ("--clips" in words)
    assert f"written to {asked[0].metrics}" in capsys.readouterr().out
    assert run(["evaluate", "--quiet", *words, "--out", str(tmp_path / "mine")]) == 0
    assert asked[1].metrics == tmp_path / "mine" and not asked[1].published
