"""What is found of a face in all frames of a clip before it is edited: codes, and what moves the edited ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.disk import write_whole
from datamodules.rows import Rows
from services.pipeline.follow import Follower
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, taken_frames
from services.pipeline.progress import Cancelled, Meter, Report, never, silent


@dataclass(frozen=True)
class Track:
    """What is known of one face in all frames that show it, in order."""

    codes: Rows[np.float32]
    """``(N, num_ws, w_dim)``."""
    offsets: Rows[np.float32]
    """The same: how far the edited codes are to be moved; no rows where nothing moves them."""

    def offsets_of(self, row: int, count: int, device: str) -> Tensor | None:
        """``(count, num_ws, w_dim)`` of the frames from ``row`` on; None where nothing moves them."""
        return torch.from_numpy(self.offsets.read(row, row + count)).to(device) if len(self.offsets) else None


def rows_said(whole: Path) -> list[int] | None:
    """How many rows each file beside has, by the JSON that was written when they were whole; None without one."""
    try:
        said: list[int] = json.loads(whole.read_text())["rows"]
    except (OSError, ValueError, KeyError):
        return None
    return said


def encoded_tracks(
    source: Path,
    plan: ClipPlan,
    models: Models,
    options: EditOptions,
    work: Path,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> list[Track]:
    """The codes of all faces in files; those that an earlier call left whole are taken as they are."""
    work.mkdir(parents=True, exist_ok=True)
    shape = models.generator.num_ws, models.generator.w_dim
    tracks = [
        Track(Rows(work / f"codes-{n}", shape, np.float32), Rows(work / f"offsets-{n}", shape, np.float32))
        for n in range(len(plan.faces))
    ]
    whole = work / "encoded.json"
    if rows_said(whole) == [len(track.codes) for track in tracks]:
        return tracks
    for track in tracks:
        track.codes.path.unlink(missing_ok=True)
        track.offsets.path.unlink(missing_ok=True)
    steps = options.steps(models.config.follow, models.adapted)
    followers = [Follower(face, plan.cuts, models, steps) for face in plan.faces]
    meter = Meter("encode", len(plan.numbers), report, cancelled)
    for place, batch in taken_frames(source, models, options):
        for follower, track in zip(followers, tracks, strict=True):
            for stretch in follower.stretches(batch.frames, place, meter.check):
                if stretch.seen is not None:
                    track.codes.append(stretch.seen.ws.float().cpu().numpy())
        meter.advance(len(batch.frames))
    write_whole(whole, json.dumps({"rows": [len(track.codes) for track in tracks]}))
    return tracks
