"""What a job that learns a face, keeps lips or stitches leaves for its next start, and what it leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_toys import SETTINGS, small_models

from datamodules.types import BadInputError
from datamodules.video import probe
from modules.editing.directions import EditSet
from modules.editing.random_identity import RandomIdentity
from modules.editing.stylespace import joined
from services.pipeline.models import Models
from services.pipeline.restorers import restoring
from services.progress import CancelledError
from services.serving.engine import Engine, work_for
from services.serving.jobs import Jobs
from services.serving.request_options import edit_options
from services.serving.session import Session
from services.serving.turns import Turns
from services.settings import load_params

__all__ = ["small_models"]
FEW = ["adaptation.iterations=6", "adaptation.frames=4", "adaptation.measured=1", "adaptation.checkpoint_every=2"]
REQUEST = {
    "edits": [{"name": "smile", "strength": 1.0}],
    "options": {"adapt": "true", "keep_lips": "true", "start": "0.5", "end": "0.9"},
}


@pytest.fixture
def engine(small_models: Models, tmp_path: Path) -> Iterator[Engine]:
    params = load_params(overrides=FEW, environment={"STYLEREEL_STATE": str(tmp_path / "state")})
    engine = Engine(params, Turns(), lambda _: small_models)
    engine.start()
    yield engine
    engine.stop()


def ready(engine: Engine) -> None:
    deadline = time.monotonic() + 120
    while engine._serving is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stages_of(
    engine: Engine,
    clip: Path,
    target: Path,
    stop: Callable[[str, float], bool],
    request: dict[str, Any] = REQUEST,
) -> list[str]:
    seen: list[tuple[str, float]] = [("", 0.0)]
    engine.render(
        clip, target, request, lambda stage, done: seen.append((stage, done)), lambda: stop(*seen[-1])
    )  # fmt: skip
    return list(dict.fromkeys(stage for stage, _ in seen))


def test_a_job_that_is_taken_up_again_learns_no_face_twice(engine: Engine, clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "job" / "output.part.mp4"
    target.parent.mkdir()
    with pytest.raises(CancelledError):
        stages_of(engine, clip, target, lambda stage, done: stage == "adapt" and done >= 0.6)
    with pytest.raises(CancelledError):
        stages_of(engine, clip, target, lambda stage, done: stage == "keep lips" and done >= 0.5)
    assert not target.exists()
    stages = stages_of(engine, clip, target, lambda stage, done: False)
    assert "adapt" not in stages and "encode" not in stages and {"keep lips", "edit"} <= set(stages)
    assert probe(target).frames == 12


def test_a_job_that_is_taken_up_again_goes_on_stitching(engine: Engine, clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "job" / "output.part.mp4"
    target.parent.mkdir()
    request = {**REQUEST, "options": {"adapt": "true", "stitch": "true", "start": "0.5", "end": "0.9"}}
    with pytest.raises(CancelledError):
        stages_of(engine, clip, target, lambda stage, done: stage == "stitch" and done >= 0.5, request)
    assert not target.exists()
    stages = stages_of(engine, clip, target, lambda stage, done: False, request)
    assert not {"adapt", "encode", "collect"} & set(stages) and {"stitch", "edit"} <= set(stages)
    assert probe(target).frames == 12


@pytest.mark.parametrize("asked", [{"edits": REQUEST["edits"]}, {"edits": [], "factor": 2}])
def test_a_job_that_is_taken_up_again_finds_no_codes_twice(
    engine: Engine, small_models: Models, clip: Path, tmp_path: Path, asked: dict[str, Any]
) -> None:
    target = tmp_path / "job" / "output.part.mp4"
    target.parent.mkdir()
    request = {**asked, "options": {"refine": "0", "start": "0.5", "end": "0.9"}}
    stage_of = "interpolate" if "factor" in asked else "edit"
    with pytest.raises(CancelledError):
        stages_of(engine, clip, target, lambda stage, done: stage == stage_of and done >= 0.5, request)
    encoder: Any = small_models.encoder
    before = encoder.looks
    assert before == 8
    stages_of(engine, clip, target, lambda stage, done: False, request)
    assert encoder.looks == 12  # each frame of the section once
    assert probe(target).frames == (24 if "factor" in asked else 12)


def test_a_job_that_interpolates_learns_no_face_twice(engine: Engine, clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "job" / "output.part.mp4"
    target.parent.mkdir()
    request = {"edits": [], "factor": 2, "options": {"adapt": "true", "start": "0.5", "end": "0.7"}}
    with pytest.raises(CancelledError):
        stages_of(engine, clip, target, lambda stage, done: stage == "interpolate" and done >= 0.5, request)
    assert not target.exists()
    stages = stages_of(engine, clip, target, lambda stage, done: False, request)
    assert "adapt" not in stages and "interpolate" in stages
    assert (probe(target).frames, probe(target).rate) == (12, 60)


def test_a_job_that_cannot_be_stitched_is_refused_at_once(engine: Engine) -> None:
    edits = [{"name": "smile", "strength": 1.0}]
    ready(engine)
    with pytest.raises(BadInputError, match="let the generator learn the face"):
        engine.check({"edits": edits, "options": {"stitch": "true"}})
    with pytest.raises(BadInputError, match="stitching is of one face"):
        engine.check({"edits": edits, "options": {"stitch": "true", "face": "all"}})
    engine.check({"edits": edits, "options": {"stitch": "true", "adapt": "true"}})


def test_nobody_is_hidden_by_a_generator_that_learns_the_face(engine: Engine, small_models: Models) -> None:
    ready(engine)
    made = small_models.generator
    rows, people = torch.ones(made.num_ws), torch.eye(made.w_dim)[:5]
    other = RandomIdentity("random_identity", "", people, rows, 1.0, made.sha256)
    session = Session(replace(small_models, edits=joined(small_models.edits, EditSet([other]))), ())
    engine.session = lambda: session  # type: ignore[method-assign]
    edits = [{"name": "random_identity", "strength": 1.0}]
    engine.check({"edits": edits, "options": {}})
    with pytest.raises(BadInputError, match="shows more of them"):
        engine.check({"edits": edits, "options": {"adapt": "true"}})


@pytest.mark.parametrize("more", [{}, {"factor": 2, "edits": []}])
def test_one_persons_adaptation_is_not_for_everybody(
    engine: Engine, small_models: Models, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    ready(engine)
    adapted = Session(replace(small_models, adapted=True), ())
    monkeypatch.setattr(engine, "adapted", lambda subject: adapted)
    request = {"edits": REQUEST["edits"], "subject": "anna", **more}
    with pytest.raises(BadInputError, match="an adaptation is of one face") as refused:
        engine.check({**request, "options": {"face": "all"}})
    assert refused.value.status == 422
    engine.check({**request, "options": {"face": "0"}})


def test_warnings_of_a_job_name_options_as_requests_have_them(
    small_models: Models, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params(overrides=FEW, environment={"STYLEREEL_STATE": str(tmp_path / "state")})
    told = replace(small_models, learned_with=("at frame 3: --face all edits everybody, --adapted x/y too",))
    engine = Engine(params, Turns(), lambda _: told)
    engine.start()
    try:
        ready(engine)
        target = tmp_path / "output.part.mp4"
        request = {"edits": REQUEST["edits"], "options": {"refine": "0", "start": "0.5", "end": "0.6"}}
        done = engine.render(clip, target, request, lambda *_: None, lambda: False)
    finally:
        engine.stop()
    assert "at frame 3: face=all edits everybody, subject=NAME too" in done["warnings"]
    assert not any("--" in line for line in done["warnings"])


def test_a_job_that_restores_finds_no_codes_twice_and_ends_in_the_same_bytes(
    engine: Engine, small_models: Models, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(engine)
    models = restoring(small_models, "colourise", small_models.encoder, {"toy": "1"})  # type: ignore[arg-type]
    monkeypatch.setattr(engine, "restoring", lambda task: Session(models, ()))
    request = {"edits": [], "task": "colourise", "options": {"start": "0.5", "end": "0.9"}}
    encoder: Any = small_models.encoder
    targets = [tmp_path / name / "output.part.mp4" for name in ("undisturbed", "job")]
    for target in targets:
        target.parent.mkdir()
    stages_of(engine, clip, targets[0], lambda stage, done: False, request)
    assert encoder.looks == 12
    with pytest.raises(CancelledError):
        stages_of(engine, clip, targets[1], lambda stage, done: stage == "colourise" and done >= 0.5, request)
    assert 12 < encoder.looks < 24 and not targets[1].exists()
    assert list((targets[1].parent / "work").glob("*/codes/codes-0"))
    stages_of(engine, clip, targets[1], lambda stage, done: False, request)
    assert encoder.looks == 24  # each frame of the section once, and once in the undisturbed one
    assert targets[1].read_bytes() == targets[0].read_bytes()


def test_other_models_begin_anew(small_models: Models, tmp_path: Path) -> None:
    first = work_for(tmp_path / "work", small_models, SETTINGS)
    (first / "codes-0").write_bytes(b"codes")
    assert work_for(tmp_path / "work", small_models, SETTINGS) == first and (first / "codes-0").is_file()
    other = replace(small_models, versions={**small_models.versions, "stylereel-frame-encoder": "2"})
    second = work_for(tmp_path / "work", other, SETTINGS)
    assert second != first and not first.exists()
    assert work_for(tmp_path / "work", other, replace(SETTINGS, iterations=7)) != second


def test_what_other_code_found_is_found_anew(small_models: Models, tmp_path: Path, monkeypatch) -> None:
    first = work_for(tmp_path / "work", small_models, SETTINGS)
    monkeypatch.setattr("services.serving.engine.code_sha256", lambda *_: "of the next release")
    assert work_for(tmp_path / "work", small_models, SETTINGS) != first and not first.exists()


def test_options_of_a_job_are_read() -> None:
    options = edit_options({"adapt": "true", "keep_lips": "yes", "stitch": "yes"})
    assert options.adapt and options.keep_lips and options.stitch
    with pytest.raises(BadInputError, match="adapt='perhaps'"):
        edit_options({"adapt": "perhaps"})


class Leaves:
    """An editor that leaves something in the job's work folder."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def analyse(self, source: Path, request: dict[str, Any]) -> dict[str, Any]:
        return {}

    def check(self, request: dict[str, Any]) -> None:
        pass

    def render(self, source: Path, target: Path, request: dict[str, Any], *_: object) -> dict[str, Any]:
        (target.parent / "work").mkdir(exist_ok=True)
        (target.parent / "work" / "crops").write_bytes(b"a face")
        if self.error:
            raise self.error
        target.write_bytes(source.read_bytes())
        return {}


@pytest.mark.parametrize("error", [None, BadInputError("no face"), RuntimeError("broken")])
def test_nothing_of_the_face_is_left_when_a_job_is_over(tmp_path: Path, error: Exception | None) -> None:
    jobs = Jobs(tmp_path / "jobs", Leaves(error), Turns(), keep_hours=1.0, poll_seconds=0.05)
    try:
        upload = jobs.place_for_upload()
        upload.write_bytes(b"clip")
        job = jobs.submit(upload, {"edits": []}).id
        deadline = time.monotonic() + 120
        while jobs.get(job).state not in ("succeeded", "failed"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # The workflow's outcome is written after its last step.
        assert not (jobs.folder / job / "work").exists()
    finally:
        jobs.close()
