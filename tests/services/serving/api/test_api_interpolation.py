"""Frames between those of a clip as a job: what the shell makes of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_toys import LIMIT, black_clip, load_toys, picture, refused, wait
from starlette.testclient import TestClient

import services.media
from datamodules.video import probe, read_frames
from services.serving.handling import MODEL_HEADER, State
from services.settings import Params, load_params
from services.shell.cli import run


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """H.264 without loss, for x264 does not make the same bits of the same frames twice."""
    settings = {"device": "cpu", "max_bytes": LIMIT, "max_seconds": 4, "poll_seconds": 0.1}
    settings["state"] = tmp_path_factory.mktemp("served")
    environment = {f"STYLEREEL_{name.upper()}": str(value) for name, value in settings.items()}
    return load_params(overrides=["pipeline.video.crf=0"], environment=environment)


def frames_of(path: Path) -> np.ndarray:
    return np.concatenate([batch.frames for batch in read_frames(path)])


def made(client: TestClient, clip: bytes, target: Path, **asked: str) -> dict[str, Any]:
    """The report of a job that succeeds; its clip goes to ``target``."""
    answer = client.post("/v1/jobs", files={"video": clip}, data=asked)
    assert answer.status_code == 202, answer.text
    assert answer.headers[MODEL_HEADER].startswith("stylereel-generator/")
    done = wait(client, answer.json()["id"], "succeeded", "failed")
    assert done["state"] == "succeeded", done
    video = client.get(done["result"]["video"])
    assert video.headers["content-type"] == "video/mp4" and video.headers[MODEL_HEADER]
    target.write_bytes(video.content)
    report: dict[str, Any] = done["result"]["report"]
    return report


def test_a_job_makes_what_the_shell_makes(
    client: TestClient, params: Params, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, ours, shell = tmp_path / "clip.mp4", tmp_path / "job.mp4", tmp_path / "shell.mp4"
    source.write_bytes(clip)
    report = made(client, clip, ours, factor="3", start="0.2", end="0:00.6", refine="1")
    monkeypatch.setattr(services.media, "load_models", lambda *_: load_toys(params))
    arguments = ["--factor", "3", "--start", "0.2", "--end", "0:00.6", "--refine", "1", "-q"]
    assert run(["interpolate", str(source), str(shell), *arguments]) == 0
    assert probe(ours).rate == 3 * probe(source).rate == 30
    frames, expected = frames_of(ours), frames_of(shell)
    assert len(frames) == report["frames"] == 3 * 4
    np.testing.assert_array_equal(frames[::3], expected[::3])
    np.testing.assert_array_equal(frames, expected)
    assert (frames[0] != frames[1]).any() and (frames[1] != frames[3]).any()
    assert report["factor"] == 3 and report["rate"] == "30" and report["edits"] == [] and report["task"] is None
    assert "stylereel-generator" in report["models"] and report["options"]["refine"] == 1
    sidecar = json.loads((tmp_path / "shell.mp4.json").read_text())
    assert report["input"] == {name: sidecar["input"][name] for name in ("sha256", "bytes")}
    assert report["params"] == sidecar["params"] and report["params"]["flow"]
    assert report["hashes"] == sidecar["models"] and report["stylereel"] == sidecar["stylereel"]
    said = sidecar["report"]
    lines = said.pop("warnings")
    assert lines and all(line.endswith("try --adapt, or --refine 50") for line in lines)
    assert report["warnings"] == [
        line.replace("--adapt, or --refine 50", "adapt=true, or refine=50") for line in lines
    ]
    assert {**said, "seconds": 0} == {name: report[name] for name in said} | {"seconds": 0}


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("factor=1", 422, ["factor must be 2 to 8 times", "got 1"]),
        ("factor=9", 422, ["2 to 8", "got 9"]),
        ("factor=2.5", 422, ["factor='2.5'", "whole number from 2 to 8"]),
        ("factor=", 422, ["factor=''"]),
        ("factor=two", 422, ["factor='two'"]),
        ("factor=2&edit=age=5", 422, ["edits and factor=2", "two jobs"]),
        ("factor=2&task=colourise", 422, ["factor cannot be asked with a task"]),
        (
            "factor=2&preview=true&paste=auto",
            422,
            ["preview, paste cannot", "adapt, subject can"],
        ),
        ("factor=2&start=2&end=1", 422, ["end must be later"]),
        ("factor=2&adapt=true&face=all", 422, ["an adaptation is of one face"]),
        ("factor=2&subject=anna", 404, ["no adaptation of anna"]),
        ("factor=6", 413, ["6 times the frames of 0.8 s are those of 4.8 s", "at most 4 s are made"]),
    ],
)
def test_what_cannot_be_asked_is_said_at_once_and_leaves_nothing(
    client: TestClient, state: State, clip: bytes, query: str, status: int, words: list[str]
) -> None:
    before = sorted(path.name for path in state.jobs.folder.iterdir())
    refused(client.post(f"/v1/jobs?{query}", content=clip), status, *words)
    assert sorted(path.name for path in state.jobs.folder.iterdir()) == before


def test_a_section_counts_as_long_as_it_is(client: TestClient, clip: bytes) -> None:
    refused(client.post("/v1/jobs?factor=8&end=0.6", content=clip), 413, "those of 4.8 s")
    answer = client.post("/v1/jobs?factor=8&end=0.3s", content=clip)
    assert answer.status_code == 202, answer.text
    assert client.delete(answer.headers["location"]).status_code == 204


def test_pictures_and_clips_without_a_face(client: TestClient, face: bytes) -> None:
    refused(client.post("/v1/jobs?factor=2", content=face), 415)
    refused(client.post("/v1/jobs?factor=2", content=picture(np.zeros((9, 9, 3), np.uint8), "JPEG")), 415)
    job = client.post("/v1/jobs?factor=2", content=black_clip(64, 64, 3)).json()["id"]
    failed = wait(client, job, "failed", "succeeded")
    assert failed["state"] == "failed" and "no face" in failed["error"]
    refused(client.get(f"/v1/jobs/{job}/result"), 409, "no face")


def test_one_that_waits_is_cancelled_and_deleted(client: TestClient, state: State, clip: bytes) -> None:
    with state.turns.turn():
        job = client.post("/v1/jobs?factor=2", content=clip).json()["id"]
        assert client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    assert not (state.jobs.folder / job).exists()


def test_openapi_has_the_factor_and_its_bounds(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]
    (factor,) = [p["schema"] for p in operation["parameters"] if p["name"] == "factor"]
    assert (factor["type"], factor["minimum"], factor["maximum"]) == ("integer", 2, 8)
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert form["factor"] == factor
