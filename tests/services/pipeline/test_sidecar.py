from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from services.pipeline.options import EditOptions
from services.pipeline.sidecar import described, plain, sidecar_path, write_sidecar
from services.progress import CancelledError, Meter, Progress


@dataclass(frozen=True)
class Odd:
    values: np.ndarray
    rate: Fraction
    missing: float
    path: Path


def test_what_is_written(tmp_path: Path) -> None:
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    source.write_bytes(b"in")
    output.write_bytes(b"out")
    odd = Odd(np.array([[1, 2]]), Fraction(30000, 1001), float("nan"), Path("x/y"))
    written = write_sidecar(
        output, described(source), [EditRequest("age", 20.0)], EditOptions(face="1"), {"g": "1"}, {"a": 1}, odd
    )
    assert written == sidecar_path(output) == tmp_path / "out.mp4.json"
    content = json.loads(written.read_text())
    assert content["input"] == {"name": "in.mp4", "sha256": hashlib.sha256(b"in").hexdigest(), "bytes": 2}
    assert content["output"]["sha256"] == hashlib.sha256(b"out").hexdigest()
    assert content["edits"] == [{"name": "age", "strength": 20.0}]
    assert EditOptions(**content["options"]) == EditOptions(face="1")
    assert content["report"] == {"values": [[1, 2]], "rate": "30000/1001", "missing": None, "path": "x/y"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "out.mp4.json"]


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    source, output = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(b"in")
    output.write_bytes(b"out")
    with pytest.raises(TypeError):
        write_sidecar(output, described(source), [], EditOptions(), {}, {}, object())
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_an_output_that_went_away_leaves_no_older_report(tmp_path: Path) -> None:
    source, output = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(b"in")
    sidecar_path(output).write_text("{}")
    with pytest.raises(BadInputError, match=r"out\.png cannot be read \(No such file or directory\); leave it in"):
        write_sidecar(output, described(source), [], EditOptions(), {}, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_an_input_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"in\.png cannot be read"):
        described(tmp_path / "in.png")


def test_plain_is_json() -> None:
    value = plain({"a": (np.float32(1.5), np.int64(2)), 3: [float("inf"), None, True, "s"]})
    assert json.loads(json.dumps(value, allow_nan=False)) == {"a": [1.5, 2], "3": [None, None, True, "s"]}


def test_meter_counts_and_stops() -> None:
    seen: list[Progress] = []
    meter = Meter("edit", 4, seen.append, lambda: len(seen) == 3)
    meter.advance()
    with pytest.raises(CancelledError):
        meter.advance(2)
    assert [(step.done, step.total) for step in seen] == [(0, 4), (1, 4), (3, 4)]
    assert seen[0].eta is None and seen[2].eta is not None and seen[2].eta >= 0
