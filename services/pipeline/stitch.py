"""A clip's edited face led to meet the frames around it (Tzaban et al. 2022): one tuning for all of its frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from datamodules.disk import write_whole
from datamodules.rows import Rows
from datamodules.shards import to_tensor
from datamodules.stitched_frames import StitchedFrames, StitchedRows
from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from modules.generators.adaptation import copy_of
from modules.generators.protocol import Generator
from modules.losses.perceptual import load_lpips
from services.pipeline.crops import changes_nothing, crop_synthesis_size, edit_crops, to_pixels, way_to_paste
from services.pipeline.follow import Follower
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, taken_frames
from services.pipeline.track import Track
from services.progress import Cancelled, Meter, Report, never, silent

COLLECTED = "collected.json"
"""Says that the files of a work folder are whole, and what they are."""


@dataclass(frozen=True)
class EditedFace:
    """The one face of a clip, and how it is edited."""

    source: Path
    plan: ClipPlan
    requests: Sequence[EditRequest]
    """What was asked."""
    applied: Sequence[EditRequest]
    """The same, balanced on the face."""
    track: Track
    """Its codes and offsets."""
    models: Models
    options: EditOptions


@dataclass(frozen=True)
class Stitching:
    """What a stitching came to."""

    frames: int
    """Frames looked at."""
    size: int
    """Their side in pixels."""
    iterations: int
    """Steps that were made."""


def is_stitched(requests: Sequence[EditRequest], models: Models, options: EditOptions) -> bool:
    """Whether the face is stitched; raises ``BadInputError`` where that is asked for and cannot be."""
    if not options.stitch or changes_nothing(requests, options):
        return False
    learned = replace(models, adapted=models.adapted or options.adapt)
    if way_to_paste(requests, learned, options) != "replace":
        raise BadInputError(
            "stitching is for a face that replaces the frame's, and this edit adds its change: "
            "let the generator learn the face (adapt), or paste by replace"
        )
    return True


def stitched(
    edited: EditedFace, work: Path, report: Report = silent, cancelled: Cancelled = never
) -> tuple[Models, Stitching, tuple[str, ...]]:
    """The models with a generator that draws the face, edited, so that its border is the frame's.

    Frames and checkpoints lie in ``work``: called again with it, the tuning goes on where it was stopped. Memory
    does not grow with the clip. Returns what it came to and warnings, one line each, too.
    """
    # They bring Lightning, which takes seconds.
    from modules.lit.stitching import LitStitching
    from services.training.tuning import tune

    models, config = edited.models, edited.models.config.stitching
    rows, size = collected(edited, work, report, cancelled)

    def draw(generator: Generator, ws: torch.Tensor, offsets: torch.Tensor, side: int) -> torch.Tensor:
        return models.edits.synthesize(generator, ws, edited.applied, edited.options.seed, side, offsets)

    lit = LitStitching(models.generator, config.training, load_lpips(config.lpips_net, models.device), draw)
    steps, said = tune(
        lit,
        lambda batch_size, first: StitchedFrames(rows, batch_size, config.iterations, config.seed, first),
        config,
        size,
        models.device,
        work / "run",
        Meter("stitch", config.iterations, report, cancelled),
        "pipeline.stitching.training.learning_rate",
    )
    tuned = copy_of(lit.kept, models.device)
    return replace(models, stitched=tuned), Stitching(len(rows.codes), size, steps), said


def collected(
    edited: EditedFace, work: Path, report: Report = silent, cancelled: Cancelled = never
) -> tuple[StitchedRows, int]:
    """Frames, edited faces and masks at the size they are pasted from; what an earlier call left whole stays."""
    work.mkdir(parents=True, exist_ok=True)
    models, options, track = edited.models, edited.options, edited.track
    face = edited.plan.faces[0]
    alignment = face.alignment
    size = crop_synthesis_size(alignment.crop_to_frame[alignment.valid], alignment.size, models, options)
    shape = models.generator.num_ws, models.generator.w_dim
    rows = StitchedRows(
        Rows(work / "codes", shape, np.float32),
        Rows(work / "offsets", shape, np.float32),
        Rows(work / "crops", (size, size, 3), np.uint8),
        Rows(work / "edited", (size, size, 3), np.uint8),
        Rows(work / "masks", (size, size), np.uint8),
    )
    whole = work / COLLECTED
    if _rows_said(whole) == [len(some) for some in rows.all()]:
        return rows, size
    for some in rows.all():
        some.path.unlink(missing_ok=True)
    chosen = set(face.spread(models.config.stitching.frames))
    follower = Follower(face, edited.plan.cuts, models, 0, track.codes)
    meter = Meter("collect", len(chosen), report, cancelled)
    for place, batch in taken_frames(edited.source, models, options):
        for seen, at, crop in follower.chosen(batch.frames, place, chosen, size, meter.check):
            ws, moved = seen.ws[at : at + 1], track.offsets_of(seen.row + at, 1, models.device)
            target = to_tensor(seen.crops[at : at + 1], models.device)
            (made,) = edit_crops(ws, target, edited.requests, models, options, size, edited.applied, offsets=moved)
            rows.codes.append(ws.float().cpu().numpy())
            rows.offsets.append((torch.zeros_like(ws) if moved is None else moved).float().cpu().numpy())
            rows.crops.append(crop[None])
            rows.edited.append(to_pixels(made.edit)[None])
            rows.masks.append(np.rint(made.mask * 255).astype(np.uint8)[None])
            meter.advance()
    write_whole(whole, json.dumps({"rows": [len(some) for some in rows.all()]}))
    return rows, size


def _rows_said(whole: Path) -> list[int] | None:
    """How many rows each file beside has, by the JSON that was written when they were whole; None without one."""
    try:
        said: list[int] = json.loads(whole.read_text())["rows"]
    except (OSError, ValueError, KeyError):
        return None
    return said
