"""Clips whose lips go on speaking under an edit (StylePortraitVideo, 3.3 and 4.2), in passes over the file."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.disk import write_whole
from modules.editing.directions import Edit, EditRequest, MovesPicture, purpose_of
from modules.editing.expression_dynamics import (
    Expressed,
    Eyes,
    Found,
    Mouth,
    MouthJudge,
    window_offsets,
    windows,
)
from modules.generators.rows import sampled_at
from modules.losses.perceptual import load_lpips
from modules.out_of_memory import BatchSize, memory_for
from modules.perception.emotion import EXPRESSED, EmotionNet, load_emotion_net, log_odds
from modules.perception.fan import FaceAlignmentNet, load_fan
from modules.perception.landmarks import eye_distance, lip_gaps, mouth_corners
from modules.perception.mesh import FaceMesh
from services.pipeline.balance import Requests, balanced_in_clip
from services.pipeline.crops import edits_by_part
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.parts import part_that_stays
from services.pipeline.plan import ClipPlan
from services.pipeline.track import Track, encoded_tracks
from services.progress import Cancelled, Meter, Report, never, silent

log = logging.getLogger("stylereel.lips")

EXPRESSIONS = ("smile", "mouth_open", "eyes_open", "surprise", "anger", "smile_local")
"""Edits of the expression by name, beside those that begin with ``expression.``.

Eq. 3 compares lips with the frame before the first edit that moves them. ``eye_shape`` and ``gaze`` are not among
these: they move channels around the eyes alone, and the paper's Fig. 9 keeps edited eyes as part of the face that
eq. 3 looks at. ``eyes_open`` is one, as its direction was learned from whole faces and takes the mouth along.
"""
_INNER_LIPS = slice(60, 68)
"""Of the usual 68 points."""
STOPPED = "stopped.json"
"""In a work folder, where a loss was no number: the frames that it concerns, and the fewest steps of any."""


def before_expression(requests: Sequence[EditRequest], edits: Mapping[str, Edit]) -> Requests:
    """The edits that come before the first one of the expression: what eq. 3 compares with (section 4.2).

    Where none is of the expression it is the face as it was.
    """
    first = next((at for at, request in enumerate(requests) if is_expression(request.name, edits)), 0)
    return tuple(requests[:first])


def moves_lips(requests: Sequence[EditRequest], models: Models, options: EditOptions) -> bool:
    """Whether lips in the frame may move under the edits; one of the eyes alone may leave the mouth as it is."""
    stays = part_that_stays(edits_by_part(requests, models, options), models.config.parts)
    return stays != "lower" and any(request.strength for request in requests)


def is_expression(name: str, edits: Mapping[str, Edit]) -> bool:
    """Whether an edit of a set is one of the expression: ours by name, an imported one by what it was set to."""
    purpose = _purpose(name, edits)
    return purpose in EXPRESSIONS or purpose.startswith("expression.")


def _purpose(name: str, edits: Mapping[str, Edit]) -> str:
    edit = edits.get(name)
    return name if edit is None else purpose_of(edit)


def asked_expressions(requests: Sequence[EditRequest], edits: Mapping[str, Edit]) -> dict[str, float]:
    """Emotions of the expression net that the requests ask for, 1 for more of them and -1 for less.

    One that is asked for in both directions is not among them: imported units say nothing of which prevails.
    """
    asked: dict[str, set[float]] = {}
    for request in requests:
        name = _purpose(request.name, edits)
        if name in EXPRESSED and request.strength:
            asked.setdefault(EXPRESSED[name], set()).add(1.0 if request.strength > 0 else -1.0)
    return {emotion: signs.pop() for emotion, signs in asked.items() if len(signs) == 1}


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
) -> tuple[list[Track], tuple[str, ...]]:
    """For each face of the plan its codes, and the offsets under which the edited lips do what they did.

    ``applied`` is how each face is edited. Everything lies in files of ``work``: called again with it, the work
    goes on where it was stopped. Memory does not grow with the clip, and where it does not hold a batch, smaller
    ones are rendered. A window whose loss is no number ends with the last offsets that gave one. Returns what is
    to be said of both too, one line each.
    """
    tracks = encoded_tracks(source, plan, models, options, work, report, cancelled)
    earlier = before_expression(models.edits.merged(requests), models.edits)
    check = Meter("keep lips", 0, report, cancelled).check
    # What stands before the expression is balanced on the face by itself.
    standing: list[Requests] = [()] * len(tracks)
    if earlier:
        standing = balanced_in_clip(source, plan, tracks, earlier, models, options, check)
    config = models.config.keep_lips.dynamics[models.config.keep_lips.judge]
    judges = _judges(models, asked_expressions(requests, models.edits))
    jobs = []
    for face, track, edited, before in zip(plan.faces, tracks, applied, standing, strict=True):
        seen = np.flatnonzero(face.alignment.valid)
        breaks = np.flatnonzero(np.diff(seen) > 1) + 1
        begins = {0, *breaks.tolist(), *np.searchsorted(seen, plan.cuts).tolist()}
        numbers = [plan.numbers[index] for index in seen]
        jobs += [
            (track, numbers, edited, before, first in begins, (first, kept, last))
            for first, kept, last in windows(len(seen), sorted(begins), config)
        ]
    batch = BatchSize(
        models.at_once,
        "frames at once to keep the lips",
        f"one face of {models.config.crop_size} px with gradients; free some, or edit without keep_lips",
    )
    stopped = Stopped(work / STOPPED)
    if not any(len(track.offsets) for track in tracks):
        stopped.path.unlink(missing_ok=True)
    meter = Meter(
        "keep lips", config.iterations * sum(last - first for *_, (first, _, last) in jobs), report, cancelled
    )
    behind = 0
    for track, numbers, edited, before, begins_anew, (first, kept, last) in jobs:
        behind += config.iterations * (last - first)
        if len(track.offsets) < kept:
            track.offsets.cut(first)
            ws = torch.from_numpy(track.codes.read(first, last)).to(models.device)
            previous = None if begins_anew else torch.from_numpy(track.offsets.read(first - 1, first)[0]).to(ws)
            found = _window(ws, previous, edited, before, models, options, judges, meter.advance, batch)
            if found.steps < config.iterations:
                stopped.add(numbers[first:kept], found.steps)
            track.offsets.append(found.offsets[: kept - first].cpu().numpy())
        meter.advance(behind - meter.done)
    return tracks, (*batch.said, *stopped.said(config.iterations, models.config.keep_lips.judge))


class Stopped:
    """Frames whose search ended since the loss was no number, in a file: a later call says it too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, numbers: Sequence[int], steps: int) -> None:
        """Note frames of the clip, and the steps that led to what is kept of them."""
        frames, fewest = self._read()
        log.warning("keep lips: no number after %d steps on frames %d-%d", steps, numbers[0], numbers[-1])
        noted = {"frames": sorted({*frames, *numbers}), "steps": min(fewest, steps) if frames else steps}
        write_whole(self.path, json.dumps(noted))

    def said(self, steps: int, judge: str) -> tuple[str, ...]:
        """One line, where there are such frames, of searches of ``steps`` under a ``judge`` of ``params.yaml``."""
        frames, fewest = self._read()
        if not frames:
            return ()
        return (
            f"the loss of the lips was no number after {fewest} of {steps} steps on {len(frames)} frames between "
            f"{frames[0]} and {frames[-1]}; what was found until then is kept; a smaller "
            f"pipeline.keep_lips.dynamics.{judge}.learning_rate may go on",
        )

    def _read(self) -> tuple[list[int], int]:
        if not self.path.is_file():
            return [], 0
        noted = json.loads(self.path.read_text())
        return noted["frames"], noted["steps"]


def _window(
    ws: Tensor,
    previous: Tensor | None,
    edited: Requests,
    before: Requests,
    models: Models,
    options: EditOptions,
    judges: _Judges,
    rendered: Callable[[int], None],
    batch: BatchSize,
) -> Found:
    """The offsets of a few frames; see ``window_offsets``."""
    side = models.config.crop_size

    def shown(codes: Tensor, requests: Requests, offsets: Tensor | None) -> Tensor:
        # Lips are compared in their place: where the head is to stand has no part in how they lie.
        requests = tuple(r for r in requests if not isinstance(models.edits[r.name], MovesPicture))
        image = models.edits.synthesize(models.generator, codes, requests, options.seed, side, offsets)
        return image.float().clamp(-1, 1)

    with torch.inference_mode(False):
        config = models.config.keep_lips
        remedy = f"lower pipeline.keep_lips.dynamics.{config.judge}.window"
        with torch.no_grad(), memory_for(f"{len(ws)} faces of {side} px; {remedy}"):
            unedited = torch.cat([shown(one, before, None) for one in torch.split(ws, 1)])
            mouth = judges.mouth_of(unedited)
            wanted = mouth(unedited).lips
        start = torch.zeros_like(ws) if previous is None else previous.expand_as(ws)
        return window_offsets(
            start,
            lambda frames, offsets: shown(ws[frames], edited, offsets),
            wanted,
            mouth,
            judges.eyes,
            config.dynamics[config.judge],
            batch,
            previous,
            rendered,
            _rows(models, config.dynamics[config.judge].resolution),
            judges.expressed,
        )


def _rows(models: Models, resolution: int) -> Tensor:
    """``(num_ws,)``: 1 for the rows that no layer above ``resolution`` reads."""
    rows = torch.ones(models.generator.num_ws, device=models.device)
    for layer in models.generator.layers:
        if sampled_at(layer.resolution) > resolution:
            rows[layer.ws_index] = 0
    return rows


class _Judges(NamedTuple):
    """What looks at edited faces."""

    mouth_of: Callable[[Tensor], MouthJudge]
    """What says where lips and corners are, for the faces in given pictures."""
    eyes: Eyes
    expressed: Expressed | None
    """None where no expression was asked for that a net judges."""


def _judges(models: Models, asked: Mapping[str, float]) -> _Judges:
    """Those of ``params.yaml``; ``asked`` are emotions."""
    config = models.config.keep_lips
    eyes = Eyes(load_lpips(config.lpips_net, models.device), config.eye_box)
    held = asked if config.dynamics[config.judge].expression_weight else {}
    expressed = partial(by_emotion, load_emotion_net(models.device), held) if held else None
    if config.judge == "fan":
        fan = load_fan(Path(config.fan_weights) if config.fan_weights else None, models.device)
        return _Judges(lambda _: partial(_by_heatmaps, fan), eyes, expressed)
    mesh = models.judges.mesh

    def of_faces(faces: Tensor) -> MouthJudge:
        return partial(by_mesh, mesh, unit=eye_distance(mesh(faces).points).mean())

    return _Judges(of_faces, eyes, expressed)


def by_emotion(net: EmotionNet, asked: Mapping[str, float], images: Tensor) -> Tensor:
    """``(N, E)`` log odds of the emotions ``asked``, with their signs, of ``(N, 3, r, r)`` in [-1, 1]."""
    logits = net(images)
    return torch.stack([sign * log_odds(logits, emotion) for emotion, sign in asked.items()], 1)


def by_mesh(mesh: FaceMesh, images: Tensor, unit: Tensor) -> Mouth:
    """Gaps between the inner lips and the mouth's corners, in units of so many pixels, of ``(N, 3, r, r)``."""
    points = mesh(images).points
    return Mouth(lip_gaps(points) / unit, mouth_corners(points) / unit)


def _by_heatmaps(fan: FaceAlignmentNet, images: Tensor) -> Mouth:
    return Mouth(fan.heatmaps(images)[:, _INNER_LIPS].flatten(2), images.new_zeros(len(images), 0, 2))
