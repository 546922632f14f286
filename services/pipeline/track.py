"""What is found of a face in all frames of a clip before it is edited: codes, and what moves the edited ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.rows import Rows
from services.pipeline.follow import Follower
from services.pipeline.kept_codes import KeptCodes
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, taken_frames
from services.pipeline.shot_starts import shot_starts
from services.progress import Cancelled, Meter, Report, never, silent


@dataclass(frozen=True)
class Track:
    """What is known of one face in all frames that show it, in order."""

    codes: KeptCodes
    """``(N, num_ws, w_dim)``; fewer while they are being found."""
    offsets: Rows[np.float32]
    """The same: how far the edited codes are to be moved; no rows where nothing moves them."""

    def offsets_of(self, row: int, count: int, device: str) -> Tensor | None:
        """``(count, num_ws, w_dim)`` of the frames from ``row`` on; None where nothing moves them."""
        return torch.from_numpy(self.offsets.read(row, row + count)).to(device) if len(self.offsets) else None


def begun_tracks(plan: ClipPlan, models: Models, work: Path) -> list[Track]:
    """What an earlier call left of each face in ``work``, or nothing yet."""
    work.mkdir(parents=True, exist_ok=True)
    shape = models.generator.num_ws, models.generator.w_dim
    return [
        Track(KeptCodes.of(work / f"codes-{n}", models), Rows(work / f"offsets-{n}", shape, np.float32))
        for n in range(len(plan.faces))
    ]


def codes_of(tracks: Sequence[Track | None]) -> list[KeptCodes | None]:
    """The codes that each face has so far."""
    return [track.codes if track else None for track in tracks]


def encoded_tracks(
    source: Path,
    plan: ClipPlan,
    models: Models,
    options: EditOptions,
    work: Path,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> list[Track]:
    """The codes of all faces in files; those that an earlier call left there are taken as they are."""
    tracks = begun_tracks(plan, models, work)
    both = list(zip(plan.faces, tracks, strict=True))
    if all(len(track.codes) == face.alignment.valid.sum() for face, track in both):
        return tracks
    steps = options.steps(models.config.follow, models.adapted)
    starts = shot_starts(source, plan, models, options, codes_of(tracks), report, cancelled)
    followers = [
        Follower(face, plan.cuts, models, steps, track.codes, begun)
        for (face, track), begun in zip(both, starts, strict=True)
    ]
    meter = Meter("encode", len(plan.numbers), report, cancelled)
    for place, batch in taken_frames(source, models, options):
        for follower in followers:
            for _ in follower.stretches(batch.frames, place, meter.check):
                pass  # the follower writes them down
        meter.advance(len(batch.frames))
    return tracks
