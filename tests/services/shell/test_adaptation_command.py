"""What ``stylereel adapt`` says of what it learned."""

from __future__ import annotations

from pathlib import Path

import pytest

import services.adaptation.models
from services.adaptation.learn import AdaptationReport
from services.shell.cli import run


def test_means_before_and_after_and_warnings_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = {"psnr": 20.0, "landmark_error": None}, {"psnr": 30.0, "landmark_error": None}
    done = AdaptationReport(6, 64, 12, 1.0, before, after, ("the memory was full",))
    monkeypatch.setattr(services.adaptation.models, "adapt_file", lambda *_: done)
    assert run(["adapt", "clip.mp4", str(tmp_path / "anna")]) == 0
    said = capsys.readouterr()
    assert said.out.split() == ["psnr", "20.000", "->", "30.000", str(tmp_path / "anna")]
    assert said.err == "warning: the memory was full\n"
