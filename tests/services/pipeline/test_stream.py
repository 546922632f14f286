from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
import pytest
import torch
from pipeline_toys import ToyGenerator

from datamodules.types import BadInputError
from datamodules.video import VideoWriter, probe, read_frames
from modules.assets import asset_path
from modules.editing.directions import EditRequest
from modules.out_of_memory import BatchSize
from services.pipeline import stream
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import check_clip, plan_clip
from services.pipeline.stream import VideoReport, edit_video
from services.progress import CancelledError, Progress
from services.settings import ROOT, load_params

AGE = [EditRequest("age", 20)]
SHORT = EditOptions(start=0.5, end=0.9)


def edited(clip: Path, target: Path, models: Models, requests, options=SHORT) -> tuple[VideoReport, dict]:
    seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    report = edit_video(
        clip, target, requests, models, options, observe=lambda i, a, b: seen.update({i: (a.copy(), b.copy())})
    )
    return report, seen


def audio_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


def test_an_edit_changes_the_face_and_nothing_else(tmp_path, toy_models, clip) -> None:
    report, seen = edited(clip, tmp_path / "out.mp4", toy_models, AGE)
    assert sorted(seen) == list(range(15, 27))
    face = report.faces[0]
    for frame in face.frames:
        before, after = seen[frame.frame]
        a, b, x, y = frame.crop
        rows, columns = np.nonzero((before != after).any(axis=2))
        assert len(rows) > 500
        inverse = np.linalg.inv(np.array([[a, -b, x], [b, a, y], [0, 0, 1]]))
        at = inverse @ np.stack([columns, rows, np.ones(len(rows))])
        assert at[:2].min() >= -1 and at[:2].max() <= face.crop_size  # nothing outside of the crop changed
        assert frame.state == "face" and frame.weight == 1
    measured = [frame.identity is not None for frame in face.frames]
    assert measured == [True, False] * 6


def test_the_output_keeps_rate_size_frames_and_sound(tmp_path, toy_models, clip) -> None:
    target = tmp_path / "out.mp4"
    report = edit_video(clip, target, AGE, toy_models, EditOptions())
    before, after = probe(clip), probe(target)
    assert (after.width, after.height, after.rate) == (before.width, before.height, before.rate)
    assert report.frames == before.frames == after.frames
    assert audio_packets(target) == audio_packets(clip)


@pytest.mark.parametrize("requests", [[], [EditRequest("age", 0.0)], [EditRequest("yaw", 0.0)] * 2])
def test_no_strength_returns_the_input(tmp_path, toy_models, clip, requests) -> None:
    report, seen = edited(clip, tmp_path / "out.mp4", toy_models, requests)
    assert all((before == after).all() for before, after in seen.values())
    assert report.faces[0].frames[0].identity is not None  # still says how good the inversion is


def test_replace_pastes_even_without_an_edit(tmp_path, toy_models, clip) -> None:
    _, seen = edited(clip, tmp_path / "out.mp4", toy_models, [], replace(SHORT, paste="replace"))
    assert all((before != after).any() for before, after in seen.values())


def test_the_seam_of_a_replaced_face_is_reported(tmp_path, toy_models, clip) -> None:
    report, _ = edited(clip, tmp_path / "out.mp4", toy_models, AGE, replace(SHORT, paste="replace"))
    seam = report.faces[0].seam
    assert seam is not None and seam.frames == report.frames
    assert 0 < seam.alike <= 1
    assert seam.after.alike.rms < seam.before.alike.rms
    added, _ = edited(clip, tmp_path / "out.mp4", toy_models, AGE)
    assert added.faces[0].seam is None


def test_turning_may_change_more_than_the_face(tmp_path, toy_models, clip) -> None:
    def changed(requests, options=SHORT) -> int:
        _, seen = edited(clip, tmp_path / "out.mp4", toy_models, requests, options)
        return sum((before != after).any(axis=2).sum() for before, after in seen.values())

    head, face = (
        changed([EditRequest("yaw", 15)]),
        changed([EditRequest("yaw", 15)], replace(SHORT, region="face")),
    )
    assert head > 1.2 * face > 0


def test_chunks_do_not_matter(tmp_path, toy_models, clip) -> None:
    results = []
    for chunk in (1, 5):
        config = replace(toy_models.config, chunk=chunk, follow=replace(toy_models.config.follow, steps=1))
        _, seen = edited(clip, tmp_path / "out.mp4", replace(toy_models, config=config), AGE)
        results.append(seen)
    for frame, (_, after) in results[0].items():
        np.testing.assert_array_equal(after, results[1][frame][1])


def test_refinement_brings_the_reconstruction_nearer(tmp_path, toy_models, clip) -> None:
    options = replace(SHORT, refine=8)
    plain, _ = edited(clip, tmp_path / "out.mp4", toy_models, AGE)
    refined, _ = edited(clip, tmp_path / "out.mp4", toy_models, AGE, options)
    for one, other in zip(plain.faces[0].frames, refined.faces[0].frames, strict=True):
        assert one.identity is None or other.identity > one.identity + 0.05


def test_clips_are_refined_as_params_says_unless_the_user_does(tmp_path, toy_models, clip) -> None:
    config = replace(toy_models.config, follow=replace(toy_models.config.follow, steps=8))
    usual = replace(toy_models, config=config)
    asked, _ = edited(clip, tmp_path / "out.mp4", toy_models, AGE, replace(SHORT, refine=8))
    default, _ = edited(clip, tmp_path / "out.mp4", usual, AGE, SHORT)
    assert [f.identity for f in default.faces[0].frames] == [f.identity for f in asked.faces[0].frames]
    none, _ = edited(clip, tmp_path / "out.mp4", usual, AGE, replace(SHORT, refine=0))
    plain, _ = edited(clip, tmp_path / "out.mp4", toy_models, AGE, SHORT)
    assert [f.identity for f in none.faces[0].frames] == [f.identity for f in plain.faces[0].frames]


def test_a_face_that_leaves_is_held_then_fades(tmp_path, toy_models, clip) -> None:
    faces, visible = toy_models.config.faces, 6
    toy_models.judges.visible = visible
    report, seen = edited(clip, tmp_path / "out.mp4", toy_models, AGE, EditOptions(start=0.5, end=1.2))
    states = [frame.state for frame in report.faces[0].frames]
    expected = ["face"] * visible + ["held"] * faces.hold + ["faded"] * faces.fade
    assert states == expected + ["none"] * (21 - len(expected))
    for frame in report.faces[0].frames:
        before, after = seen[frame.frame]
        assert (before != after).any() == (frame.weight > 0)


def test_a_cut_ends_the_edit_at_once(tmp_path, toy_models) -> None:
    clip = asset_path("clips", "face_noface.mov")
    report = edit_video(clip, tmp_path / "out.mp4", AGE, toy_models, EditOptions(start=2.2, end=2.6))
    states = [frame.state for frame in report.faces[0].frames]
    gone = 72 - report.faces[0].frames[0].frame  # the picture jumps at frame 72
    assert 72 in report.cuts
    assert states == ["face"] * gone + ["none"] * (len(states) - gone)


def test_preview_takes_fewer_frames(tmp_path, toy_models, clip) -> None:
    target = tmp_path / "out.mp4"
    report, seen = edited(clip, target, toy_models, AGE, EditOptions(preview=True))
    every = toy_models.config.preview.every
    assert sorted(seen) == list(range(0, 72, every))
    assert report.frames == probe(target).frames == len(seen)
    assert probe(target).duration == pytest.approx(probe(clip).duration, abs=every / 30)


def test_no_face_is_an_error_and_leaves_nothing(tmp_path, toy_models) -> None:
    clip = asset_path("clips", "no_face.mp4")
    with pytest.raises(BadInputError, match="no face was found"):
        edit_video(clip, tmp_path / "out.mp4", AGE, toy_models, EditOptions(start=0, end=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["find faces", "edit"])
def test_cancelling_leaves_nothing(tmp_path, toy_models, clip, stage) -> None:
    at: list[Progress] = []
    with pytest.raises(CancelledError):
        edit_video(
            clip, tmp_path / "out.mp4", AGE, toy_models, SHORT, at.append,
            lambda: bool(at) and at[-1].stage == stage and at[-1].done > 0,
        )  # fmt: skip
    assert at[-1].stage == stage and at[-1].done < 12
    assert list(tmp_path.iterdir()) == []


def test_an_error_half_way_leaves_the_old_file(tmp_path, toy_models, clip) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")

    def fail(index: int, before: np.ndarray, after: np.ndarray) -> None:
        raise OSError("no space left")

    with pytest.raises((OSError, BadInputError)):
        edit_video(clip, target, AGE, toy_models, SHORT, observe=fail)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


KILLED = """
import os, signal, sys
from pathlib import Path
from services.pipeline.stream import place_for

with place_for(None, Path(sys.argv[1])) as work:
    (work / "codes-0").write_bytes(b"a face")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_edit_left_beside_its_target_goes_with_the_next_one(tmp_path, toy_models, clip) -> None:
    target = tmp_path / "out.mp4"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL and [len(list(one.iterdir())) for one in tmp_path.iterdir()] == [1]
    edit_video(clip, target, AGE, toy_models, EditOptions(start=0.5, end=0.6))
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("refine", [0, 1])
def test_a_clip_whose_codes_the_memory_does_not_hold_is_refused_with_what_to_lower(
    tmp_path, toy_models, clip, refine
) -> None:
    def full(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("tried to allocate")

    if refine:
        toy_models.judges.perceptual = full  # type: ignore[assignment]
        toy_models.judges.perceptual.features = full
    else:
        toy_models = replace(toy_models, encoder=full)
    with pytest.raises(BadInputError, match="--refine 0" if refine else "lower pipeline.chunk") as refused:
        edit_video(clip, tmp_path / "out.mp4", AGE, toy_models, replace(SHORT, refine=refine))
    assert refused.value.status == 507 and list(tmp_path.iterdir()) == []


def test_a_clip_says_that_its_faces_were_rendered_in_smaller_batches(
    tmp_path, toy_models, clip, monkeypatch
) -> None:
    monkeypatch.setattr(stream, "faces_at_once", lambda models, size: BatchSize(4, "faces at once", "one face"))
    synthesize = ToyGenerator.synthesize

    def little(self: ToyGenerator, ws: torch.Tensor, **how: Any) -> torch.Tensor:
        if len(ws) > 1:
            raise torch.OutOfMemoryError("tried to allocate")
        return synthesize(self, ws, **how)

    monkeypatch.setattr(ToyGenerator, "synthesize", little)
    report, seen = edited(clip, tmp_path / "out.mp4", toy_models, AGE)
    assert report.warnings[:2] == tuple(f"out of memory: went on with {n} faces at once" for n in (2, 1))
    assert len(seen) == 12 and all((before != after).any() for before, after in seen.values())


def test_progress_counts_every_frame(tmp_path, toy_models, clip) -> None:
    steps: list[Progress] = []
    edit_video(clip, tmp_path / "out.mp4", AGE, toy_models, SHORT, steps.append)
    edits = [step for step in steps if step.stage == "edit"]
    assert [step.done for step in edits] == sorted(step.done for step in edits)
    assert (edits[0].done, edits[0].eta, edits[-1].done, edits[-1].total) == (0, None, 12, 12)
    assert edits[-1].eta == 0


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([EditRequest("beard", 1)], "no edit 'beard'"),
        ([EditRequest("age", 31)], "goes from"),
        ([EditRequest("age", float("nan"))], "finite"),
    ],
)
def test_bad_edits_are_refused_before_the_clip_is_read(tmp_path, toy_models, requests, message) -> None:
    with pytest.raises(BadInputError, match=message):
        edit_video(tmp_path / "none.mp4", tmp_path / "out.mp4", requests, toy_models, EditOptions())


@pytest.mark.parametrize(
    ("name", "codec", "message"),
    [("out.avi", "h264", "must end in"), ("out.mp4", "divx", "unknown codec"), ("out.webm", "vp9", "choose .mkv")],
)
def test_what_the_output_cannot_hold_is_said_before_faces_are_looked_for(
    tmp_path, toy_models, clip, monkeypatch, name, codec, message
) -> None:
    config = replace(toy_models.config, video=replace(toy_models.config.video, codec=codec))
    monkeypatch.setattr("services.pipeline.stream.plan_clip", None)
    with pytest.raises(BadInputError, match=message):
        edit_video(clip, tmp_path / name, AGE, replace(toy_models, config=config), SHORT)
    assert list(tmp_path.iterdir()) == []


def test_ten_bits_are_written_as_ten_with_a_warning(tmp_path, toy_models, clip) -> None:
    deep = tmp_path / "deep.mkv"
    with VideoWriter(deep, probe(clip), codec="ffv1", crf=0, bit_depth=10, end=0.1) as writer:
        for batch in read_frames(clip, end=0.1):
            writer.write(batch)
    report = edit_video(deep, tmp_path / "out.mp4", AGE, toy_models, EditOptions())
    assert probe(tmp_path / "out.mp4").pixel_format == "yuv420p10le"
    assert report.warnings[0] == "the clip has 10 bits per colour; its frames are edited at 8 and written as 10"
    flat = edit_video(clip, tmp_path / "flat.mp4", AGE, toy_models, EditOptions(end=0.1))
    assert probe(tmp_path / "flat.mp4").pixel_format == "yuv420p"
    assert not any("bits" in line for line in flat.warnings)


def test_the_input_is_not_overwritten(tmp_path, toy_models, clip) -> None:
    copy = tmp_path / "clip.mp4"
    copy.write_bytes(clip.read_bytes())
    with pytest.raises(BadInputError, match="input itself"):
        edit_video(copy, copy, AGE, toy_models, SHORT)


def test_all_faces_have_a_lane_each(tmp_path, toy_models, clip) -> None:
    frames = np.concatenate([batch.frames for batch in read_frames(clip, 16, 0.0, 0.1)])
    pair = np.concatenate([frames, frames[:, :, ::-1]], axis=2)
    from datamodules.types import FrameBatch
    from datamodules.video import VideoWriter

    wide = tmp_path / "pair.mp4"
    info = replace(probe(clip), width=pair.shape[2])
    with VideoWriter(wide, info, codec="h264", crf=12) as writer:
        pts = tuple(batch_pts for batch in read_frames(clip, 16, 0.0, 0.1) for batch_pts in batch.pts)
        writer.write(FrameBatch(pair, pts, 0))
    plan = plan_clip(wide, toy_models, EditOptions(face="all"))
    assert len(plan.faces) == 2
    centres = [face.alignment.crop_to_frame[0, 0, 2] for face in plan.faces]
    numbered = [plan_clip(wide, toy_models, EditOptions(face=str(i))).faces[0] for i in (0, 1)]
    assert sorted(centres) == [face.alignment.crop_to_frame[0, 0, 2] for face in numbered]
    with pytest.raises(BadInputError, match="at most 2"):
        plan_clip(wide, toy_models, EditOptions(face="2"))


@pytest.mark.parametrize("limit", ["max_bytes=1000", "max_pixels=1000", "max_seconds=1"])
def test_limits(clip, limit) -> None:
    with pytest.raises(BadInputError) as caught:
        check_clip(clip, load_params(overrides=[f"runtime.{limit}"]).runtime)
    assert caught.value.status == 413
    assert check_clip(clip, load_params().runtime).frames == 72


def test_a_clip_of_more_frames_than_its_seconds_may_hold_is_refused(clip) -> None:
    runtime = replace(load_params().runtime, max_seconds=3.0, max_rate=24.0)
    assert check_clip(clip, runtime).frames == 72
    with pytest.raises(BadInputError, match=r"has 72 frames, at most 60 .* lower its frame rate") as caught:
        check_clip(clip, replace(runtime, max_rate=20.0))
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "options",
    [
        {"face": "left"},
        {"refine": -1},
        {"refine": 10**400},
        {"face": "9" * 5000},
        {"preview": True, "refine": 50},
        {"start": -1.0},
        {"start": 2.0, "end": 1.0},
        {"end": 0.0},
    ],
)
def test_bad_options(options) -> None:
    with pytest.raises(BadInputError):
        EditOptions(**options)
