"""Lips kept under an edit, on real frames with a small real generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted_toys import DYNAMICS, small_models

from modules.editing.directions import EditRequest
from services.pipeline import lips
from services.pipeline.lips import before_expression, keep_lips
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import plan_clip
from services.pipeline.progress import CancelledError, Progress
from services.pipeline.stream import edit_video
from services.pipeline.track import Track

__all__ = ["small_models"]
SHORT = EditOptions(start=0.5, end=0.9, keep_lips=True)
SMILE, AGE, YAW = EditRequest("smile", 1.0), EditRequest("age", 20.0), EditRequest("yaw", 10.0)


def tracks(clip: Path, models: Models, work: Path, requests: list[EditRequest], **more: object) -> list[Track]:
    plan = plan_clip(clip, models, SHORT)
    applied = [tuple(requests)] * len(plan.faces)
    return keep_lips(clip, plan, requests, applied, models, SHORT, work, **more)  # type: ignore[arg-type]


def test_only_what_comes_before_the_expression_stands_in_eq_3() -> None:
    assert before_expression([AGE, YAW, SMILE]) == (AGE, YAW)
    assert before_expression([SMILE, AGE]) == ()
    assert before_expression([AGE, EditRequest("expression.smile", 1.0)]) == (AGE,)
    assert before_expression([AGE, YAW]) == ()


def test_each_frame_has_a_code_and_an_offset_that_moves_the_coarse_rows_alone(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    config = replace(small_models.config.keep_lips, dynamics={"mesh": replace(DYNAMICS, resolution=16)})
    models = replace(small_models, config=replace(small_models.config, keep_lips=config))
    (track,) = tracks(clip, models, tmp_path, [SMILE])
    assert len(track.codes) == len(track.offsets) == 12
    offsets = track.offsets.read(0, 12)
    fine = sorted({layer.ws_index for layer in models.generator.layers if layer.resolution > 16})
    coarse = [row for row in range(models.generator.num_ws) if row not in fine]
    assert coarse and fine and (offsets[:, fine] == 0).all()
    assert (np.abs(offsets[:, coarse]).max((1, 2)) > 0).all()


def test_a_stopped_search_goes_on_and_ends_the_same(
    clip: Path, small_models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = tracks(clip, small_models, tmp_path / "whole", [SMILE])
    seen: list[Progress] = []

    def stop() -> bool:
        return bool(seen) and seen[-1].stage == "keep lips" and seen[-1].done >= 12

    with pytest.raises(CancelledError):
        tracks(clip, small_models, tmp_path / "half", [SMILE], report=seen.append, cancelled=stop)
    (left,) = (tmp_path / "half").glob("offsets-*")
    with left.open("ab") as stream:
        stream.write(b"half a row")
    windows = []
    window = lips._window
    monkeypatch.setattr(lips, "_window", lambda ws, *rest: windows.append(len(ws)) or window(ws, *rest))
    (half,) = tracks(clip, small_models, tmp_path / "half", [SMILE])
    assert len(windows) < 4  # of four, the first were done
    np.testing.assert_array_equal(half.codes.read(0, 12), whole.codes.read(0, 12))
    np.testing.assert_allclose(half.offsets.read(0, 12), whole.offsets.read(0, 12), atol=1e-6)


def test_the_edited_clip_shows_codes_and_offsets_of_the_track(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    seen: dict[str, list[np.ndarray]] = {"kept": [], "plain": []}
    work = tmp_path / "work"
    edit_video(
        clip, tmp_path / "kept.mp4", [SMILE], small_models, SHORT, work=work,
        observe=lambda number, before, after: seen["kept"].append(after.copy()),
    )  # fmt: skip
    edit_video(
        clip, tmp_path / "plain.mp4", [SMILE], small_models, replace(SHORT, keep_lips=False),
        observe=lambda number, before, after: seen["plain"].append(after.copy()),
    )  # fmt: skip
    assert len(seen["kept"]) == len(seen["plain"]) == 12
    assert all((a != b).any() for a, b in zip(seen["kept"], seen["plain"], strict=True))
    assert {path.name for path in work.iterdir()} == {"codes-0", "offsets-0", "encoded.json"}
    # With offsets of nothing it is the plain edit.
    (work / "offsets-0").write_bytes(bytes((work / "offsets-0").stat().st_size))
    again: list[np.ndarray] = []
    edit_video(
        clip, tmp_path / "again.mp4", [SMILE], small_models, SHORT, work=work,
        observe=lambda number, before, after: again.append(after.copy()),
    )  # fmt: skip
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(again, seen["plain"], strict=True)) <= 1
    assert not list(tmp_path.glob(".*work*"))


def test_an_edit_of_nothing_keeps_the_frames(clip: Path, small_models: Models, tmp_path: Path) -> None:
    still = [EditRequest("smile", 0.0)]
    edit_video(
        clip, tmp_path / "out.mp4", still, small_models, SHORT,
        observe=lambda number, before, after: np.testing.assert_array_equal(before, after),
    )  # fmt: skip


def test_what_stands_before_the_expression_is_rendered_for_eq_3(
    clip: Path, small_models: Models, tmp_path: Path
) -> None:
    (alone,) = tracks(clip, small_models, tmp_path / "alone", [SMILE])
    (after_age,) = tracks(clip, small_models, tmp_path / "after", [AGE, SMILE])
    (before_age,) = tracks(clip, small_models, tmp_path / "before", [SMILE, AGE])
    torch.testing.assert_close(alone.codes.read(0, 12), after_age.codes.read(0, 12))
    assert np.abs(after_age.offsets.read(0, 12) - before_age.offsets.read(0, 12)).max() > 1e-3


class _Heatmaps:
    """In the place of FAN, whose weights come by URL: 68 maps, each of another size."""

    def heatmaps(self, images: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 8)
        maps = small.repeat(1, 68, 1, 1) * torch.arange(68)[None, :, None, None]
        self.seen = maps
        return maps


def test_fans_heatmaps_of_the_inner_lips_stand_in_eq_3_where_they_are_chosen(
    small_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    fan = _Heatmaps()
    monkeypatch.setattr(lips, "load_fan", lambda weights, device: fan)
    config = replace(small_models.config.keep_lips, judge="fan")
    models = replace(small_models, config=replace(small_models.config, keep_lips=config))
    of_faces, _ = lips._judges(models)
    images = torch.rand(2, 3, 64, 64)
    found = of_faces(images)(images)
    assert found.lips.shape == (2, 8, 64) and found.corners.shape == (2, 0, 2)
    torch.testing.assert_close(found.lips, fan.seen[:, 60:68].flatten(2))
