"""Clips with more frames: real clips with a small real generator, and time stamps of every kind of clip."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from adapted_toys import small_models
from hypothesis import given
from hypothesis import strategies as st

import services.media
from datamodules.types import BadInputError, ClipInfo, FrameBatch
from datamodules.video import VideoWriter, probe, read_frames
from modules.assets import asset_path
from modules.perception.flow import DenseFlow, FlowConfig
from services.pipeline.between import Motion, laid_between
from services.pipeline.interpolate import InterpolationReport, interpolate_video, stamps
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.progress import CancelledError, Progress
from services.settings import load_params
from services.shell.cli import run

__all__ = ["small_models"]
SHORT = EditOptions(start=0.5, end=0.7)
FLOW = DenseFlow(load_params().section("flow", FlowConfig))


def interpolated(
    clip: Path, target: Path, factor: int, models: Models, options: EditOptions = SHORT
) -> tuple[InterpolationReport, list[np.ndarray]]:
    seen: list[np.ndarray] = []

    def keep(number: int, picture: np.ndarray) -> None:
        assert number == len(seen)
        seen.append(picture.copy())

    return interpolate_video(clip, target, factor, models, FLOW, options, observe=keep), seen


def frames_of(clip: Path, options: EditOptions = SHORT) -> np.ndarray:
    return np.concatenate([batch.frames for batch in read_frames(clip, 16, options.start, options.end)])


def audio_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


def test_frames_of_the_clip_stay_and_new_ones_lie_between(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    target = tmp_path / "out.mp4"
    report, seen = interpolated(clip, target, 3, small_models)
    frames = frames_of(clip)
    assert len(seen) == report.frames == 3 * len(frames) == probe(target).frames == 18
    np.testing.assert_array_equal(np.stack(seen[::3]), frames)
    assert probe(target).rate == report.rate == 90
    assert probe(target).duration == pytest.approx(len(frames) / 30, abs=1e-6)
    assert report.repeated == () and len(report.faces[0].frames) == len(frames)
    for place in range(0, 15, 3):
        assert all((seen[place + k] != seen[place + m]).any() for k, m in ((0, 1), (1, 2), (2, 3)))
    for repeat in seen[-2:]:
        np.testing.assert_array_equal(repeat, frames[-1])


def test_what_is_between_is_the_blend_and_in_the_face_the_generators(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    report, seen = interpolated(clip, tmp_path / "out.mp4", 2, small_models)
    first, second = seen[0], seen[2]
    motion = Motion(FLOW(first, second), FLOW(second, first))
    plain = laid_between(first.astype(np.float32), second.astype(np.float32), motion, 0.5)
    changed = np.abs(seen[1] - plain).max(2) > 0.51
    a, b, x, y = np.mean([frame.crop for frame in report.faces[0].frames[:2]], axis=0)
    inverse = np.linalg.inv(np.array([[a, -b, x], [b, a, y], [0, 0, 1]]))
    rows, columns = np.nonzero(changed)
    at = (inverse @ np.stack([columns, rows, np.ones(len(rows))]))[:2]
    assert len(rows) > 100 and at.min() >= -1 and at.max() <= report.faces[0].crop_size
    # Of the same code, all frames of one: the generator has nothing to add.
    still = replace(small_models, encoder=lambda crops, state=None: (small_models.mean_codes(len(crops)), state))
    _, seen = interpolated(clip, tmp_path / "out.mp4", 2, still)
    assert np.abs(seen[1] - plain)[changed].mean() < 1


def test_rate_duration_and_sound_of_a_whole_clip(clip: Path, small_models: Models, tmp_path: Path) -> None:
    brief = tmp_path / "brief.mp4"
    info = replace(probe(clip), rate=Fraction(30000, 1001), time_base=Fraction(1, 30000))
    writer = VideoWriter(brief, info, codec="h264", crf=12, audio_from=clip, end=0.25)
    with writer:
        for batch in read_frames(clip, 8, end=0.25):
            writer.write(replace(batch, pts=tuple(1001 * (batch.first + k) for k in range(len(batch.frames)))))
    before = probe(brief)
    assert before.rate == Fraction(30000, 1001)
    target = tmp_path / "out.mp4"
    interpolated(brief, target, 2, small_models, EditOptions())
    after = probe(target)
    assert after.rate == Fraction(60000, 1001) and not after.variable_rate
    assert after.frames == 2 * before.frames and after.duration == pytest.approx(before.duration, abs=1e-6)
    assert audio_packets(target) == audio_packets(brief)


def test_across_a_cut_and_without_a_face_the_frame_before_is_repeated(
    small_models: Models, tmp_path: Path
) -> None:
    clip, options = asset_path("clips", "face_noface.mov"), EditOptions(start=2.2, end=2.6)
    frames = frames_of(clip, options)
    report, seen = interpolated(clip, tmp_path / "out.mp4", 2, small_models, options)
    first = report.faces[0].frames[0].frame
    cut = 72 - first  # the picture jumps at frame 72, and no face is there after it
    assert report.cuts == (72, 73) and report.repeated == tuple(range(71, first + len(frames) - 1))
    assert len(seen) == 2 * len(frames)
    for place in range(len(frames)):
        same = (seen[2 * place] == seen[2 * place + 1]).all()
        assert same == (place >= cut - 1)
    assert any("begins at frame 72, 73:" in line for line in report.warnings)
    assert any(
        line.startswith(f"no face is seen in or after frames 73-{report.repeated[-1]}") for line in report.warnings
    )


def test_a_face_that_is_missed_stops_what_is_made_between(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    small_models.judges.visible = 4  # type: ignore[attr-defined]
    report, seen = interpolated(clip, tmp_path / "out.mp4", 2, small_models)
    assert report.repeated == (18, 19)
    assert [(a == b).all() for a, b in zip(seen[::2], seen[1::2], strict=True)] == [False] * 3 + [True] * 3


def test_chunks_do_not_matter(clip: Path, small_models: Models, tmp_path: Path) -> None:
    seen = []
    for chunk in (1, 4):
        models = replace(small_models, config=replace(small_models.config, chunk=chunk))
        seen.append(interpolated(clip, tmp_path / "out.mp4", 2, models)[1])
    np.testing.assert_allclose(seen[0], seen[1], atol=1)


@pytest.mark.parametrize("factor", [-1, 0, 1, 9])
def test_other_factors_are_refused_before_anything_is_read(
    small_models: Models, tmp_path: Path, factor: int
) -> None:
    with pytest.raises(BadInputError, match=f"2 to 8 times the frame rate, got {factor}"):
        interpolate_video(tmp_path / "none.mp4", tmp_path / "out.mp4", factor, small_models, FLOW, SHORT)


def test_stopping_leaves_nothing(clip: Path, small_models: Models, tmp_path: Path) -> None:
    at: list[Progress] = []

    def stop() -> bool:
        return bool(at) and at[-1].stage == "interpolate" and at[-1].done > 1

    with pytest.raises(CancelledError):
        interpolate_video(clip, tmp_path / "out.mp4", 2, small_models, FLOW, SHORT, at.append, stop)
    assert at[-1].total == 6 and list(tmp_path.iterdir()) == []


def info_of(rate: Fraction, time_base: Fraction, variable: bool) -> ClipInfo:
    clip = probe(asset_path("clips", "single_face.mp4"))
    return replace(clip, rate=rate, time_base=time_base, variable_rate=variable)


@given(
    st.sampled_from([Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(120)]),
    st.sampled_from([Fraction(1, 1000), Fraction(1, 15360), Fraction(1, 90000), Fraction(1001, 120000)]),
    st.integers(2, 8),
    st.integers(0, 5000),
)
def test_stamps_of_a_steady_clip_rise_as_its_rate_says(
    rate: Fraction, time_base: Fraction, factor: int, first: int
) -> None:
    info = info_of(rate, time_base, variable=False)
    step = 1 / (rate * time_base)
    pts = [first + round(k * step) for k in range(50)]
    found = [tick for a, b in pairwise(pts) for tick in stamps(info, factor, first, a, b)]
    found += stamps(info, factor, first, pts[-1], None)
    assert len(found) == 50 * factor and found[0] == factor * first
    ideal = [factor * first + k * step for k in range(len(found))]
    assert max(abs(a - b) for a, b in zip(found, ideal, strict=True)) <= Fraction(1, 2)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20), st.integers(2, 8), st.integers(0, 1000))
def test_stamps_of_an_uneven_clip_keep_its_own_and_divide_what_lies_between(
    gaps: list[int], factor: int, first: int
) -> None:
    info = info_of(Fraction(25), Fraction(1, 1000), variable=True)
    pts = np.cumsum([first, *gaps]).tolist()
    found = [stamps(info, factor, first, a, b) for a, b in pairwise(pts)]
    found.append(stamps(info, factor, first, pts[-1], None))
    assert [some[0] for some in found] == [factor * stamp for stamp in pts]
    steps = [np.diff([*some, factor * b]) for some, b in zip(found, pts[1:], strict=False)]
    assert all((step == gap).all() for step, gap in zip(steps, gaps, strict=True))


def test_a_clip_whose_rate_varies_keeps_its_times(clip: Path, small_models: Models, tmp_path: Path) -> None:
    uneven = tmp_path / "uneven.mkv"
    times = (0, 20, 100, 120, 200)
    info = replace(probe(clip), rate=Fraction(20), time_base=Fraction(1, 1000), variable_rate=True)
    with VideoWriter(uneven, info, codec="ffv1", crf=0) as writer:
        writer.write(FrameBatch(frames_of(clip)[:5], times, 0))
    assert probe(uneven).variable_rate
    target = tmp_path / "out.mp4"
    interpolated(uneven, target, 2, small_models, EditOptions())
    seconds = [float(pts * probe(target).time_base) for b in read_frames(target) for pts in b.pts]
    np.testing.assert_allclose(seconds[::2], np.array(times) / 1000, atol=1e-3)
    np.testing.assert_allclose(seconds[1:-1:2], (np.array(times[1:]) + times[:-1]) / 2000, atol=1e-3)


def test_the_shell_writes_clip_and_sidecar(
    clip: Path,
    small_models: Models,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(services.media, "load_models", lambda *_: small_models)
    target = tmp_path / "out.mp4"
    arguments = ["interpolate", str(clip), str(target), "--factor", "2", "--start", "0.5", "--end", "0.6", "-q"]
    assert run(arguments) == 0
    assert capsys.readouterr().out.strip() == str(target)
    sidecar = json.loads((tmp_path / "out.mp4.json").read_text())
    assert sidecar["options"] == {
        "factor": 2, "face": "largest", "refine": None, "start": 0.5, "end": 0.6, "adapt": False,
    }  # fmt: skip
    assert sidecar["report"]["frames"] == 6 and sidecar["report"]["rate"] == "60"
    assert sidecar["params"]["flow"]["preset"] and sidecar["models"] == small_models.versions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CLIP", "out.mp4", "--factor", "9"], "factor must be 2 to 8"),
        (["PICTURE", "out.mp4"], "is an image"),
        (["CLIP", "out.mp4", "--adapt", "--adapted", "anna"], "give one"),
        (["CLIP", "out.avi"], "must end in"),
        (["CLIP", "out.mp4", "--start", "90s"], "choose another section"),
        (["CLIP", "out.mp4", "--adapted", "anna"], "anna"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    clip: Path, picture: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(services.media, "load_models", lambda *_: small_models)
    monkeypatch.chdir(tmp_path)
    files = {"CLIP": str(clip), "PICTURE": str(picture)}
    assert run(["interpolate", *(files.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("learned", [["--adapt"], ["--adapted", "anna"]])
def test_the_adapted_generator_makes_the_faces(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: list[str]
) -> None:
    from services.adaptation import models as adapted_models

    asked = []
    monkeypatch.setattr(services.media, "load_models", lambda *_: small_models)
    monkeypatch.setattr(
        adapted_models, "adapted_models", lambda source, models, *_: asked.append(source) or models
    )
    monkeypatch.setattr(services.media, "with_adaptation", lambda models, folder: asked.append(folder) or models)
    target = tmp_path / "out.mp4"
    section = ["--start", "0.5", "--end", "0.58", "-q"]
    assert run(["interpolate", str(clip), str(target), *section, *learned]) == 0
    assert asked == [clip if learned == ["--adapt"] else Path("anna")]
