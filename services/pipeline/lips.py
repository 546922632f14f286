"""Clips whose lips go on speaking under an edit (StylePortraitVideo, 3.3 and 4.2), in passes over the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.editing.directions import EditRequest
from modules.editing.expression_dynamics import Eyes, Mouth, MouthJudge, window_offsets, windows
from modules.losses.perceptual import load_lpips
from modules.perception.fan import FaceAlignmentNet, load_fan
from modules.perception.landmarks import eye_distance, lip_gaps, mouth_corners
from modules.perception.mesh import FaceMesh
from services.pipeline.balance import Requests, balanced_in_clip
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan
from services.pipeline.progress import Cancelled, Meter, Report, never, silent
from services.pipeline.track import Track, encoded_tracks

EXPRESSIONS = ("smile", "mouth_open", "eyes_open", "surprise", "anger")
"""Edits of the expression by name, beside those that begin with ``expression.``."""
_INNER_LIPS = slice(60, 68)
"""Of the usual 68 points."""


def before_expression(requests: Sequence[EditRequest]) -> Requests:
    """The edits that come before the first one of the expression: what eq. 3 compares with (section 4.2).

    Where none is of the expression it is the face as it was.
    """
    some = any(is_expression(request.name) for request in requests)
    return tuple(takewhile(lambda request: not is_expression(request.name), requests)) if some else ()


def is_expression(name: str) -> bool:
    """Whether an edit is one of the expression."""
    return name in EXPRESSIONS or name.startswith("expression.")


def keep_lips(
    source: Path,
    plan: ClipPlan,
    requests: Sequence[EditRequest],
    applied: Sequence[Requests],
    models: Models,
    options: EditOptions,
    work: Path,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> list[Track]:
    """For each face of the plan its codes, and the offsets under which the edited lips do what they did.

    ``applied`` is how each face is edited. Everything lies in files of ``work``: called again with it, the work
    goes on where it was stopped. Memory does not grow with the clip.
    """
    tracks = encoded_tracks(source, plan, models, options, work, report, cancelled)
    earlier = before_expression(requests)
    check = Meter("keep lips", 0, report, cancelled).check
    # What stands before the expression is set right on the face by itself.
    standing = balanced_in_clip(source, plan, earlier, models, options, check) if earlier else [()] * len(tracks)
    config = models.config.keep_lips.dynamics[models.config.keep_lips.judge]
    mouth_of, eyes = _judges(models)
    jobs = []
    for face, track, edited, before in zip(plan.faces, tracks, applied, standing, strict=True):
        seen = np.flatnonzero(face.alignment.valid)
        breaks = np.flatnonzero(np.diff(seen) > 1) + 1
        begins = {0, *breaks.tolist(), *np.searchsorted(seen, plan.cuts).tolist()}
        jobs += [
            (track, edited, before, first in begins, (first, kept, last))
            for first, kept, last in windows(len(seen), sorted(begins), config)
        ]
    batch = 1 if models.device == "cpu" else models.config.batch

    def renderings(first: int, last: int) -> int:
        return -(-(last - first) // batch) * config.iterations

    meter = Meter("keep lips", sum(renderings(first, last) for *_, (first, _, last) in jobs), report, cancelled)
    for track, edited, before, begins_anew, (first, kept, last) in jobs:
        if len(track.offsets) >= kept:
            meter.advance(renderings(first, last))
            continue
        track.offsets.cut(first)
        ws = torch.from_numpy(track.codes.read(first, last)).to(models.device)
        previous = None if begins_anew else torch.from_numpy(track.offsets.read(first - 1, first)[0]).to(ws)
        found = _window(ws, previous, edited, before, models, options, mouth_of, eyes, meter.advance, batch)
        track.offsets.append(found[: kept - first].cpu().numpy())
    return tracks


def _window(
    ws: Tensor,
    previous: Tensor | None,
    edited: Requests,
    before: Requests,
    models: Models,
    options: EditOptions,
    mouth_of: Callable[[Tensor], MouthJudge],
    eyes: Eyes,
    check: Callable[[], None],
    batch: int,
) -> Tensor:
    """The offsets of a few frames; see ``window_offsets``."""
    side = models.config.crop_size

    def shown(codes: Tensor, requests: Requests, offsets: Tensor | None) -> Tensor:
        image = models.edits.synthesize(models.generator, codes, requests, options.seed, side, offsets)
        return image.float().clamp(-1, 1)

    with torch.inference_mode(False):
        with torch.no_grad():
            unedited = torch.cat([shown(one, before, None) for one in torch.split(ws, 1)])
            mouth = mouth_of(unedited)
            wanted = mouth(unedited).lips
        start = torch.zeros_like(ws) if previous is None else previous.expand_as(ws)
        config = models.config.keep_lips
        return window_offsets(
            start,
            lambda frames, offsets: shown(ws[frames], edited, offsets),
            wanted,
            mouth,
            eyes,
            config.dynamics[config.judge],
            previous,
            check,
            batch,
            _rows(models, config.dynamics[config.judge].resolution),
        )


def _rows(models: Models, resolution: int) -> Tensor:
    """``(num_ws,)``: 1 for the rows that no layer above ``resolution`` reads."""
    rows = torch.ones(models.generator.num_ws, device=models.device)
    for layer in models.generator.layers:
        if layer.resolution > resolution:
            rows[layer.ws_index] = 0
    return rows


def _judges(models: Models) -> tuple[Callable[[Tensor], MouthJudge], Eyes]:
    """What says where lips and corners are, for the faces in given pictures, and what the eyes are."""
    config = models.config.keep_lips
    eyes = Eyes(load_lpips(config.lpips_net, models.device), config.eye_box)
    if config.judge == "fan":
        fan = load_fan(Path(config.fan_weights) if config.fan_weights else None, models.device)
        return lambda _: partial(_by_heatmaps, fan), eyes
    mesh = models.judges.mesh

    def of_faces(faces: Tensor) -> MouthJudge:
        return partial(by_mesh, mesh, unit=eye_distance(mesh(faces).points).mean())

    return of_faces, eyes


def by_mesh(mesh: FaceMesh, images: Tensor, unit: Tensor) -> Mouth:
    """Gaps between the inner lips and the mouth's corners, in units of so many pixels, of ``(N, 3, r, r)``."""
    points = mesh(images).points
    return Mouth(lip_gaps(points) / unit, mouth_corners(points) / unit)


def _by_heatmaps(fan: FaceAlignmentNet, images: Tensor) -> Mouth:
    return Mouth(fan.heatmaps(images)[:, _INNER_LIPS].flatten(2), images.new_zeros(len(images), 0, 2))
