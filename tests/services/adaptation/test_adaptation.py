"""Adapting a small real generator to real frames: what is learned, kept, gone on with and refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapted_toys import SETTINGS, small_models

from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from modules.generators.adaptation import load_adaptation
from modules.lit.video_adaptation import LitVideoAdaptation
from modules.model_folder import load_model
from services.adaptation import learn
from services.adaptation import models as files
from services.adaptation.learn import AdaptationReport, adapt_clip, collect
from services.adaptation.models import adapt_file, adapted_models, evaluation_of
from services.consent import Subject
from services.pipeline.models import Models, with_adaptation
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, plan_clip
from services.pipeline.stream import edit_video
from services.progress import CancelledError, Progress
from services.settings import load_params

__all__ = ["small_models"]
SHORT = EditOptions(start=0.2, end=0.6)


def adapt(clip: Path, folder: Path, models: Models, **more: object) -> AdaptationReport:
    settings = more.pop("settings", SETTINGS)
    return adapt_clip(clip, folder, models, SHORT, settings, folder.with_suffix(".work"), **more)  # type: ignore[arg-type]


def test_a_folder_says_whose_face_was_learned_from_what_and_how_near(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    about = Subject("anna", "form 17", "2999-12-31")
    done = adapt(clip, tmp_path / "anna", small_models, subject=about)
    assert done.frames == 6 and done.size == 64 and done.iterations == 12 and done.warnings == ()
    assert done.after["psnr"] > done.before["psnr"] + 0.5
    config, card = (getattr(load_model(tmp_path / "anna"), name) for name in ("config", "card"))
    assert config["subject"] == dataclasses.asdict(about)
    assert config["generator_sha256"] == small_models.generator.sha256
    assert all(text in card for text in ("anna", "form 17", "2999-12-31", f"{done.after['psnr']:.2f}", clip.name))
    assert not (tmp_path / "anna.work").exists()
    models = with_adaptation(small_models, tmp_path / "anna")
    assert models.adapted and models.generator.sha256 == small_models.generator.sha256
    assert (
        models.versions["stylereel-adaptation"]
        == load_adaptation(tmp_path / "anna", models.generator.sha256).sha256
    )
    numbers = models.numbers()
    assert numbers["adaptation"] == json.loads(json.dumps(dataclasses.asdict(SETTINGS)))
    assert numbers["learned_from"] == {
        "source": {"name": clip.name, "sha256": hashlib.sha256(clip.read_bytes()).hexdigest()},
        "options": {"face": "largest", "start": 0.2, "end": 0.6, "preview": False},
        "start_from": None,
    }
    assert not {"adaptation", "learned_from"} & small_models.numbers().keys()


def test_frames_are_spread_and_their_codes_are_the_encoders(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    found = collect(clip, small_models, SHORT, 4, tmp_path)
    assert len(found.codes) == len(found.crops) == 4
    crops = torch.from_numpy(found.crops.read(0, 4)).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert small_models.encoder is not None
    expected, _ = small_models.encoder(crops)
    np.testing.assert_allclose(found.codes.read(0, 4), expected.numpy(), atol=1e-4)
    looks = small_models.encoder.looks  # type: ignore[attr-defined]
    again = collect(clip, small_models, SHORT, 4, tmp_path)
    assert len(again.codes) == 4 and small_models.encoder.looks == looks  # type: ignore[attr-defined]
    (tmp_path / "codes").write_bytes(b"")
    assert len(collect(clip, small_models, SHORT, 4, tmp_path).codes) == 4


def test_a_clip_of_two_persons_is_learned_with_a_warning_and_under_nobodys_name(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_of_two(*arguments: Any) -> ClipPlan:
        return replace(plan_clip(*arguments), strangers=(3,))

    monkeypatch.setattr(learn, "plan_clip", plan_of_two)
    few = replace(SETTINGS, iterations=1)
    work = tmp_path / "anna.work"
    with pytest.raises(BadInputError, match=r"from frame 9 on: choose a section .* consent is one person's"):
        adapt(clip, tmp_path / "anna", small_models, settings=few, subject=Subject("anna", "form 17", ""))
    assert list(tmp_path.iterdir()) == []
    work.mkdir()
    collect(clip, small_models, SHORT, SETTINGS.frames, work)  # killed here
    done = adapt(clip, tmp_path / "anna", small_models, settings=few)
    assert done.warnings[0].startswith("another person is learned too, from frame 9 on")
    assert done.warnings[0] in with_adaptation(small_models, tmp_path / "anna").learned_with


def test_a_face_that_was_learned_is_edited_in_any_way(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLEREEL_STATE", str(tmp_path))
    learned = []
    monkeypatch.setattr(
        files, "adapted_in", lambda folder, *_: learned.append(folder) or folder.mkdir(parents=True, exist_ok=True)
    )

    def folder_of(models: Models, *overrides: str) -> Path:
        adapted_models(clip, models, SHORT, load_params(overrides=overrides))
        return learned[-1]

    first = folder_of(small_models)
    others = {"stylereel-directions": "other", "directions 1: mine": "other"}
    assert folder_of(replace(small_models, versions={**small_models.versions, **others})) == first
    assert folder_of(small_models, "adaptation.keep=1", "adaptation.served=1") == first
    for name in ("stylereel-generator", "stylereel-frame-encoder"):
        assert folder_of(replace(small_models, versions={**small_models.versions, name: "other"})) != first
    assert folder_of(small_models, "adaptation.iterations=7") != first
    assert folder_of(replace(small_models, smoothing=replace(small_models.smoothing, center_sigma=9.0))) != first


def test_a_frame_whose_face_is_not_seen_is_left_out_of_the_means(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, looks = learn.measure, list[int]()

    def behind_a_hand(*arguments: Any) -> dict[str, np.ndarray]:
        """Identity on the first frame of three is not measured, and landmarks on none."""
        looks.append(len(looks) % SETTINGS.measured)
        found = measure(*arguments)
        hidden = {"landmark_error"} | ({"identity"} if looks[-1] == 0 else set())
        return {name: value * np.nan if name in hidden else 0 * value + looks[-1] for name, value in found.items()}

    monkeypatch.setattr(learn, "measure", behind_a_hand)
    done = adapt(clip, tmp_path / "anna", small_models, settings=replace(SETTINGS, iterations=1))
    assert len(looks) == 2 * SETTINGS.measured
    expected = {"psnr": 1.0, "identity": 1.5, "identity_distance": 1.0, "landmark_error": None}
    assert done.before == done.after == expected
    text = (tmp_path / "anna" / "config.json").read_text()
    report = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["report"]
    assert report["after"] == expected
    assert "| after | 1.00 | 1.500 | not seen |" in load_model(tmp_path / "anna").card
    assert evaluation_of(tmp_path / "anna").metrics == {
        "psnr": 1.0, "psnr_gain": 0.0, "identity": 1.5, "identity_distance": 1.0
    }  # fmt: skip


def test_a_stopped_adaptation_goes_on_and_ends_as_an_undisturbed_one(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    adapt(clip, tmp_path / "whole", small_models)
    seen: list[Progress] = []

    def stop() -> bool:
        return bool(seen) and seen[-1].stage == "adapt" and seen[-1].done >= 7

    with pytest.raises(CancelledError):
        adapt(clip, tmp_path / "half", small_models, report=seen.append, cancelled=stop)
    assert not (tmp_path / "half").exists()
    stages: list[Progress] = []
    adapt(clip, tmp_path / "half", small_models, report=stages.append)
    assert {one.stage for one in stages} == {"adapt", "measure"}  # faces are not sought again
    one, other = (with_adaptation(small_models, tmp_path / name) for name in ("whole", "half"))
    with torch.no_grad():
        ws = small_models.mean_codes(1)
        apart = (one.generator.synthesize(ws) - other.generator.synthesize(ws)).square().mean()
    assert 10 * np.log10(4 / (float(apart) + 1e-20)) >= 50


def test_an_earlier_adaptation_of_the_person_is_gone_on_from(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    about = Subject("anna", "form 17", "2999-12-31")
    first = adapt(clip, tmp_path / "one", small_models, subject=about)
    earlier = load_adaptation(tmp_path / "one", small_models.generator.sha256)
    few = replace(SETTINGS, iterations=2)
    # As the shell does where nothing is given.
    again = adapt(clip, tmp_path / "two", small_models, settings=few, start_from=earlier, subject=Subject())
    assert load_model(tmp_path / "two").config["subject"] == dataclasses.asdict(about)
    assert again.before["psnr"] == pytest.approx(first.after["psnr"], abs=0.1)
    assert load_model(tmp_path / "two").config["start_from"] == earlier.sha256
    over = replace(
        earlier, config=earlier.config | {"subject": {**earlier.config["subject"], "expires": "2026-01-01"}}
    )
    for start_from, subject, said in (
        (earlier, Subject("ben"), "is of anna, not of ben"),
        (over, Subject("anna", "form 18", "2999-12-31"), "the consent for anna ran out on 2026-01-01"),
    ):
        with pytest.raises(BadInputError, match=said):
            adapt(clip, tmp_path / "three", small_models, settings=few, start_from=start_from, subject=subject)
        assert not (tmp_path / "three").exists() and not (tmp_path / "three.work").exists()


def test_where_the_memory_does_not_hold_a_batch_half_of_it_is_taken(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = LitVideoAdaptation.losses

    def little(self: LitVideoAdaptation, ws: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(ws) > 1:
            raise torch.OutOfMemoryError("tried to allocate")
        return losses(self, ws, images)

    monkeypatch.setattr(LitVideoAdaptation, "losses", little)
    restarts: list[int] = []
    restart = LitVideoAdaptation.restart
    monkeypatch.setattr(LitVideoAdaptation, "restart", lambda self: restarts.append(1) or restart(self))
    done = adapt(clip, tmp_path / "anna", small_models, settings=replace(SETTINGS, batch_size=4))
    assert done.warnings == (
        "out of memory: went on with 2 frames per step",
        "out of memory: went on with 1 frames per step",
    )
    assert done.after["psnr"] > done.before["psnr"] and len(restarts) == 2
    # An edit on what was learned says it too.
    edited = edit_video(
        clip, tmp_path / "edited.mp4", [EditRequest("smile", 1.0)],
        with_adaptation(small_models, tmp_path / "anna"), EditOptions(start=0.5, end=0.6),
    )  # fmt: skip
    assert edited.warnings[:2] == done.warnings

    def none(self: LitVideoAdaptation, ws: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(LitVideoAdaptation, "losses", none)
    with pytest.raises(BadInputError, match="does not hold one frame of 64 px") as refused:
        adapt(clip, tmp_path / "none", small_models)
    assert refused.value.status == 507 and not (tmp_path / "none").exists()


def test_a_loss_that_is_no_number_is_said_and_what_was_learned_is_kept(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = LitVideoAdaptation.losses

    def breaks(self: LitVideoAdaptation, ws: torch.Tensor, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = losses(self, ws, images)
        return {name: value * torch.nan for name, value in found.items()} if self.global_step >= 8 else found

    monkeypatch.setattr(LitVideoAdaptation, "losses", breaks)
    done = adapt(clip, tmp_path / "anna", small_models)
    assert done.iterations == 8 and "no number after 8 of 12 steps" in done.warnings[0]
    assert done.after["psnr"] > done.before["psnr"]


def test_what_cannot_be_adapted_to_is_refused(clip: Path, small_models: Models, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="an adaptation is of one face"):
        collect(clip, small_models, replace(SHORT, face="all"), 4, tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("mine")
    with pytest.raises(BadInputError, match="no model folder"):
        adapt(clip, tmp_path / "taken", small_models)
    assert (tmp_path / "taken" / "letter.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInputError, match=r"cannot write .*file/anna"):
        adapt_file(clip, tmp_path / "file" / "anna", load_params(), SHORT, (None, None, None))
    with pytest.raises(BadInputError, match="expires must be a day like 2027-12-31, got 'soon'"):
        Subject(expires="soon")


def test_an_adaptation_whose_consent_ran_out_is_refused(clip: Path, small_models: Models, tmp_path: Path) -> None:
    adapt(clip, tmp_path / "anna", small_models, subject=Subject("anna", "form 17", "2026-01-01"))
    with pytest.raises(BadInputError, match="the consent for anna ran out on 2026-01-01"):
        with_adaptation(small_models, tmp_path / "anna")


def test_a_clip_is_learned_once_and_the_last_used_adaptations_stay(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLEREEL_STATE", str(tmp_path / "state"))
    short = ["adaptation.iterations=1", "adaptation.frames=2", "adaptation.measured=1", "adaptation.keep=2"]
    params = load_params(overrides=short)
    first = adapted_models(clip, small_models, SHORT, params)

    def again(*_: object, **__: object) -> None:
        raise AssertionError("it was learned before")

    with monkeypatch.context() as patched:
        patched.setattr(files, "adapt_clip", again)
        assert adapted_models(clip, small_models, SHORT, params).versions == first.versions
        patched.setattr(files, "code_sha256", lambda _: "of the next release")
        with pytest.raises(AssertionError, match="learned before"):
            adapted_models(clip, small_models, SHORT, params)
    for end in (0.5, 0.4):
        adapted_models(clip, small_models, replace(SHORT, end=end), params)
    kept = [load_model(folder).config for folder in (tmp_path / "state" / "adaptations").iterdir()]
    assert len(kept) == 2


@pytest.mark.parametrize("whereto", ["state", "folder"])
def test_two_calls_at_once_learn_a_clip_once(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whereto: str
) -> None:
    monkeypatch.setenv("STYLEREEL_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(files, "load_models", lambda *_: small_models)
    params = load_params(overrides=["adaptation.iterations=1", "adaptation.frames=2", "adaptation.measured=1"])
    begun, waits, learned = threading.Event(), threading.Event(), []

    def learns(*arguments: object, **more: object) -> AdaptationReport:
        learned.append(threading.current_thread().name)
        begun.set()
        assert waits.wait(60), "nobody waits: both learn"
        return adapt_clip(*arguments, **more)  # type: ignore[arg-type]

    def told(progress: Progress) -> None:
        if progress.stage == "wait":
            waits.set()

    monkeypatch.setattr(files, "adapt_clip", learns)
    found: list[object] = []

    def call() -> None:
        if whereto == "state":
            found.append(adapted_models(clip, small_models, SHORT, params, told).versions)
        else:
            found.append(adapt_file(clip, tmp_path / "anna", params, SHORT, (None, None, None), told))

    first = threading.Thread(target=call)
    first.start()
    assert begun.wait(60)
    second = threading.Thread(target=call)
    second.start()
    for thread in (first, second):
        thread.join()
    assert len(learned) == 1 and len(found) == 2 and found[0] == found[1]
    left = [path.suffix for path in (tmp_path / "state" / "adaptations").iterdir()]
    assert left == ([""] if whereto == "state" else [])
