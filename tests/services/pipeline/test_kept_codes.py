"""Clips whose work was stopped and gone on with: the same pixels as undisturbed, and no frame refined twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted_toys import small_models
from torch import Tensor

from modules.editing.directions import EditRequest
from modules.perception.flow import DenseFlow, FlowConfig
from services.pipeline.interpolate import interpolate_video
from services.pipeline.invert import CodesState
from services.pipeline.kept_codes import KeptCodes
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.refine import Moments
from services.pipeline.stream import edit_video
from services.progress import CancelledError, Progress
from services.settings import load_params

__all__ = ["small_models"]
OPTIONS = EditOptions(start=0.5, end=0.7, refine=1)
FRAMES = 6
SHARED = 2
"""Frames that the encoder looks at beside, for what all of them share."""
SMILE = [EditRequest("smile", 1.0)]
Stop = Callable[[Progress], bool]
Work = Callable[[Models, Path, Path | None, Stop], list[np.ndarray]]


class Remembers:
    """An encoder whose answer to a frame hangs on all frames before it, as a video encoder's does."""

    def __init__(self, num_ws: int, w_dim: int) -> None:
        self.shape, self.looks = (num_ws, w_dim), 0
        self.basis = torch.randn(3, num_ws * w_dim, generator=torch.Generator().manual_seed(1))

    def __call__(self, frames: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.looks += len(frames)
        seen = []
        for ws in (frames.mean((2, 3)) @ self.basis).view(-1, *self.shape):
            state = ws if state is None else 0.7 * state + 0.3 * ws
            seen.append(state)
        assert state is not None
        return torch.stack(seen), state


@pytest.fixture
def models(small_models: Models) -> Models:
    generator = small_models.generator
    encoder = Remembers(generator.num_ws, generator.w_dim)
    follow = replace(small_models.config.follow, shared_frames=SHARED, shared_steps=2)
    return replace(small_models, encoder=encoder, config=replace(small_models.config, chunk=2, follow=follow))


def edited(clip: Path) -> Work:
    def work(models: Models, target: Path, kept: Path | None, stop: Stop) -> list[np.ndarray]:
        seen: list[np.ndarray] = []
        at: list[Progress] = []
        edit_video(
            clip, target, SMILE, models, OPTIONS, at.append, lambda: bool(at) and stop(at[-1]),
            observe=lambda number, before, after: seen.append(after.copy()), work=kept,
        )  # fmt: skip
        return seen

    return work


def interpolated(clip: Path) -> Work:
    flow = DenseFlow(load_params().section("flow", FlowConfig))

    def work(models: Models, target: Path, kept: Path | None, stop: Stop) -> list[np.ndarray]:
        seen: list[np.ndarray] = []
        at: list[Progress] = []
        interpolate_video(
            clip, target, 2, models, flow, OPTIONS, at.append, lambda: bool(at) and stop(at[-1]),
            observe=lambda number, picture: seen.append(picture.copy()), work=kept,
        )  # fmt: skip
        return seen

    return work


@pytest.mark.parametrize(("way", "stage"), [(edited, "edit"), (interpolated, "interpolate")])
def test_a_stopped_clip_goes_on_behind_the_last_chunk_and_ends_in_the_same_pixels(
    clip: Path, models: Models, tmp_path: Path, way: Callable[[Path], Work], stage: str
) -> None:
    work, encoder, kept = way(clip), models.encoder, tmp_path / "work"
    assert isinstance(encoder, Remembers)
    undisturbed = work(models, tmp_path / "whole.mp4", None, lambda at: False)
    assert encoder.looks == FRAMES + SHARED
    with pytest.raises(CancelledError):
        work(models, tmp_path / "out.mp4", kept, lambda at: at.stage == stage and at.done >= 2)
    done = encoder.looks - FRAMES - 2 * SHARED
    assert 2 <= done < FRAMES
    resumed = work(models, tmp_path / "out.mp4", kept, lambda at: False)
    assert encoder.looks == 2 * (FRAMES + SHARED)
    np.testing.assert_array_equal(np.stack(resumed), np.stack(undisturbed))


def test_what_refinement_remembers_counts(clip: Path, models: Models, tmp_path: Path) -> None:
    """Without what lies beside the rows they are not gone on with, and all is found anew."""
    work, encoder, kept = edited(clip), models.encoder, tmp_path / "work"
    assert isinstance(encoder, Remembers)
    undisturbed = work(models, tmp_path / "out.mp4", kept, lambda at: False)
    for damage in (Path.unlink, lambda path: path.write_bytes(b"cut short")):
        damage(kept / "codes-0.safetensors")
        before = encoder.looks
        again = work(models, tmp_path / "out.mp4", kept, lambda at: False)
        assert encoder.looks - before == FRAMES  # what they share lies in a file of its own
        np.testing.assert_array_equal(np.stack(again), np.stack(undisturbed))


def test_rows_and_state_come_back_and_rows_without_a_state_are_dropped(models: Models, tmp_path: Path) -> None:
    shape = models.generator.num_ws, models.generator.w_dim
    one, two, three, four = torch.randn(4, 1, *shape)
    kept = KeptCodes.of(tmp_path / "codes", models)
    assert len(kept) == 0 and kept.state("cpu") == CodesState()
    kept.add(torch.cat([one, two]), CodesState(None, three, Moments(one, four, torch.tensor(5.0))))
    kept.append(three.numpy())  # killed before the state was written
    again = KeptCodes.of(tmp_path / "codes", models)
    np.testing.assert_array_equal(again.read(0, 2), torch.cat([one, two]).numpy())
    state = again.state("cpu")
    assert len(again) == 2 and state.encoder is None and state.offset is not None and state.moments is not None
    torch.testing.assert_close(state.offset, three, rtol=0, atol=0)
    torch.testing.assert_close(state.moments.square, four, rtol=0, atol=0)
    assert state.moments.steps == 5 and torch.equal(state.moments.mean, one)


def test_rows_that_the_disk_never_had_begin_anew(models: Models, tmp_path: Path) -> None:
    kept, ws = KeptCodes.of(tmp_path / "codes", models), models.mean_codes(3).cpu()
    kept.add(ws, CodesState())
    assert len(KeptCodes.of(tmp_path / "codes", models)) == 3
    kept.cut(2)  # what is remembered is of the third
    assert len(KeptCodes.of(tmp_path / "codes", models)) == 0
