"""A replaced face stitched to real frames, with a small real generator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted_toys import STITCHING, small_models
from torch import Tensor

import services.media
from datamodules.stitched_frames import StitchedFrames, StitchedRows
from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from modules.editing.stitching import border_of, inside_of
from modules.lit.stitching import LitStitching
from modules.losses.pixels import rms_distance
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import plan_clip
from services.pipeline.sidecar import plain
from services.pipeline.stitch import EditedFace, Stitching, collected, is_stitched, stitched
from services.pipeline.stream import edit_video
from services.pipeline.track import encoded_tracks
from services.progress import CancelledError, Progress
from services.shell.cli import run

__all__ = ["small_models"]
SHORT = EditOptions(start=0.5, end=0.9, paste="replace", stitch=True)
SMILE = [EditRequest("smile", 1.0)]


def stitch(clip: Path, models: Models, work: Path, **more: object) -> tuple[Models, Stitching, tuple[str, ...]]:
    plan = plan_clip(clip, models, SHORT)
    (track,) = encoded_tracks(clip, plan, models, SHORT, work)
    face = EditedFace(clip, plan, SMILE, SMILE, track, models, SHORT)
    return stitched(face, work / "stitch", **more)  # type: ignore[arg-type]


def rows_of(clip: Path, models: Models, work: Path) -> StitchedRows:
    """Those that were collected there."""
    plan = plan_clip(clip, models, SHORT)
    (track,) = encoded_tracks(clip, plan, models, SHORT, work)
    return collected(EditedFace(clip, plan, SMILE, SMILE, track, models, SHORT), work / "stitch")[0]


def shown_by(models: Models, ws: Tensor) -> Tensor:
    assert models.stitched is not None
    with torch.no_grad():
        return models.edits.synthesize(models.stitched, ws, SMILE, 0, 64).clamp(-1, 1)


def test_the_border_comes_nearer_to_the_frame_than_the_inside_moves(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    seam = replace(small_models.config.seam, strength=0)  # colours stay the generator's own
    config = replace(small_models.config, stitching=replace(STITCHING, iterations=60), seam=seam)
    long = replace(small_models, config=config)
    tuned, done, said = stitch(clip, long, tmp_path)
    assert done == Stitching(6, 64, 60) and said == ()
    batch = StitchedFrames(rows_of(clip, long, tmp_path), 6, 1, 0).batch(0)
    border, inside = border_of(batch["masks"]), inside_of(batch["masks"])
    shown = shown_by(tuned, batch["ws"])
    before = float(rms_distance(batch["edited"], batch["images"], border).mean())
    after = float(rms_distance(shown, batch["images"], border).mean())
    assert after < 0.8 * before
    moved = float(rms_distance(shown, batch["edited"], inside).mean())
    assert moved < 0.5 * float(rms_distance(batch["images"], batch["edited"], inside).mean())
    # What was collected is what the untuned generator shows, and it is untouched.
    with torch.no_grad():
        plain = small_models.edits.synthesize(small_models.generator, batch["ws"], SMILE, 0, 64).clamp(-1, 1)
    assert float((plain - batch["edited"]).abs().max()) <= 1 / 127.5


def test_a_stopped_tuning_goes_on_and_ends_as_an_undisturbed_one(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    whole, _, _ = stitch(clip, small_models, tmp_path / "whole")
    for stage, at in (("collect", 2), ("stitch", 7)):
        seen: list[Progress] = []

        def stop(stage: str = stage, at: int = at, seen: list[Progress] = seen) -> bool:
            return bool(seen) and seen[-1].stage == stage and seen[-1].done >= at

        with pytest.raises(CancelledError):
            stitch(clip, small_models, tmp_path / "half", report=seen.append, cancelled=stop)
    stages: list[Progress] = []
    half, _, _ = stitch(clip, small_models, tmp_path / "half", report=stages.append)
    assert {one.stage for one in stages} == {"stitch"}
    assert next(one.done for one in stages if one.done) == 6  # the fifth step is the last that was kept
    ws = small_models.mean_codes(1)
    apart = float((shown_by(whole, ws) - shown_by(half, ws)).square().mean())
    assert 10 * np.log10(4 / (apart + 1e-20)) >= 50


def test_memory_that_is_short_and_losses_that_are_no_numbers_are_said(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = LitStitching.terms

    def breaks(self: LitStitching, batch: dict[str, Tensor]) -> dict[str, tuple[float, Tensor]]:
        if len(batch["ws"]) > 1:
            raise torch.OutOfMemoryError("tried to allocate")
        found = terms(self, batch)
        bad = torch.nan if self.global_step >= 8 else 1.0
        return {name: (weight, bad * value) for name, (weight, value) in found.items()}

    monkeypatch.setattr(LitStitching, "terms", breaks)
    tuned, done, said = stitch(clip, small_models, tmp_path)
    assert said[0] == "out of memory: went on with 1 frames per step"
    assert "no number after 8 of 12 steps" in said[1] and "pipeline.stitching.training" in said[1]
    assert done.iterations == 8 and torch.isfinite(shown_by(tuned, small_models.mean_codes(1))).all()


@pytest.mark.parametrize("strength", [1.0, 0.0])
def test_the_edited_clip_shows_the_stitched_face_under_the_same_mask(
    clip: Path, small_models: Models, tmp_path: Path, strength: float
) -> None:
    seen: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"stitched": [], "plain": []}
    work, stages, requests = tmp_path / "work", set[str](), [EditRequest("smile", strength)]
    report = edit_video(
        clip, tmp_path / "stitched.mp4", requests, small_models, SHORT, work=work,
        report=lambda progress: stages.add(progress.stage),
        observe=lambda number, before, after: seen["stitched"].append((before.copy(), after.copy())),
    )  # fmt: skip
    plain = edit_video(
        clip, tmp_path / "plain.mp4", requests, small_models, replace(SHORT, stitch=False),
        observe=lambda number, before, after: seen["plain"].append((before.copy(), after.copy())),
    )  # fmt: skip
    assert {"encode", "collect", "stitch", "edit"} <= stages
    assert report.stitching == Stitching(6, 64, 12) and plain.stitching is None
    for (before, one), (_, other) in zip(seen["stitched"], seen["plain"], strict=True):
        pasted = [(after != before).any(2) for after in (one, other)]
        # A pixel may be by chance what it was.
        assert (pasted[0] & pasted[1]).sum() > 0.9 * (pasted[0] | pasted[1]).sum()
        # Another generator draws it: nearly all of what is pasted is another colour.
        assert (one != other).any(2).sum() > 0.8 * pasted[1].sum()
    assert json.loads((work / "stitch" / "collected.json").read_text()) == {"rows": [6] * 5}
    assert not list(tmp_path.glob(".*"))


def test_frames_that_were_cut_off_are_collected_again(clip: Path, small_models: Models, tmp_path: Path) -> None:
    rows = rows_of(clip, small_models, tmp_path)
    masks = rows.masks.read(0, 6)
    with rows.masks.path.open("r+b") as stream:
        stream.truncate(64 * 64 * 3)
    np.testing.assert_array_equal(rows_of(clip, small_models, tmp_path).masks.read(0, 6), masks)


def test_lips_are_kept_and_the_face_stitched_in_one_go(clip: Path, small_models: Models, tmp_path: Path) -> None:
    work = tmp_path / "work"
    both = replace(SHORT, keep_lips=True)
    report = edit_video(clip, tmp_path / "both.mp4", SMILE, small_models, both, work=work)
    assert report.stitching is not None
    offsets = np.fromfile(work / "offsets-0", np.float32)
    kept = np.fromfile(work / "stitch" / "offsets", np.float32).reshape(6, -1)
    assert np.abs(kept).max() > 0 and {*kept[:, 0].tolist()} <= {*offsets.tolist()}


def test_a_stitching_that_cannot_be_is_refused_in_one_line(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match="stitching is of one face"):
        EditOptions(face="all", stitch=True)
    with pytest.raises(BadInputError, match="a change that is added has no border to meet"):
        EditOptions(paste="difference", stitch=True)
    with pytest.raises(BadInputError, match="a change that is added has no border to meet"):
        EditOptions(paste="mixed", stitch=True)
    auto = replace(SHORT, paste="auto")
    with pytest.raises(BadInputError, match="let the generator learn the face"):
        edit_video(clip, tmp_path / "out.mp4", SMILE, small_models, auto)
    assert not list(tmp_path.iterdir())
    assert is_stitched(SMILE, replace(small_models, adapted=True), auto)
    assert is_stitched(SMILE, small_models, replace(auto, adapt=True))
    assert not is_stitched([EditRequest("smile", 0.0)], small_models, auto)  # nothing is pasted
    assert not is_stitched(SMILE, small_models, replace(SHORT, stitch=False))


def test_the_shell_stitches_and_the_sidecar_says_how(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.media, "load_models", lambda *_: small_models)
    target = tmp_path / "out.mp4"
    section = ["--start", "0.5s", "--end", "0.9s", "--paste", "replace", "--no-balance", "-q"]
    assert run(["edit", str(clip), str(target), "-e", "smile=1", "--stitch", *section]) == 0
    said = json.loads((tmp_path / "out.mp4.json").read_text())
    assert said["options"]["stitch"] is True
    assert said["params"]["pipeline"]["stitching"] == plain(STITCHING)
    assert said["report"]["stitching"] == {"frames": 6, "size": 64, "iterations": 12}


def test_the_shell_says_what_stitching_needs(
    clip: Path,
    small_models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(services.media, "load_models", lambda *_: small_models)
    for more, words in (([], "let the generator learn the face"), (["--face", "all"], "stitching is of one face")):
        assert run(["edit", str(clip), str(tmp_path / "out.mp4"), "-e", "smile=1", "--stitch", *more]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
