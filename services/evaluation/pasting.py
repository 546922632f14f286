"""What edits are once they are pasted: how much of what was asked the frame shows, and what the way costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.shards import to_tensor
from modules.editing.directions import EditRequest
from services.balancing import tried_and_measured
from services.pipeline.balance import balanced
from services.pipeline.composite import Floats, Image, composite
from services.pipeline.crops import EditedCrop, edit_crops, to_arrays, to_pixels
from services.pipeline.models import Models
from services.pipeline.options import EditOptions

WAYS: tuple[Literal["difference", "mixed", "replace"], ...] = ("difference", "mixed", "replace")
RENDERED = "rendered"
"""The generator's own pictures, before and after, of which nothing is pasted."""
SLACK = 8.0
"""Levels of 255 beyond what frame and edit show that nobody sees."""
INSIDE = 0.9
"""Of the mask: what is more is all face."""
_FINE = 2.0
"""Standard deviation in pixels of what is no fine detail at 256."""


@dataclass(frozen=True)
class Pasted:
    """One edit in one way, as means over the frames."""

    edit: str
    strength: float
    way: str
    """``rendered``, or the way to paste."""
    got: float
    """Change of the edit's own attribute over what was asked; 1 is right, NaN where nothing judges it."""
    spread: float
    """Standard deviation of that over the frames."""
    likeness: float
    """To the frame, by the net that edits were learned with."""
    distance: float
    """From the frame, by a net in no loss."""
    beyond: float
    """Root mean square, in levels of 255 and over the face, of what lies beyond both frame and edit."""
    detail: float
    """Standard deviation of the fine detail over the frame's own, in the face."""
    seen: int
    """Frames whose face was found before and after."""


def measure_pasting(
    crops: Image,
    clips: Sequence[str],
    ws: Tensor,
    requests: Sequence[EditRequest],
    models: Models,
    per_unit: Mapping[str, float],
    progress: Callable[[int, int], None] = lambda done, total: None,
    ways: Sequence[Literal["difference", "mixed", "replace"]] = WAYS,
) -> Iterator[Pasted]:
    """Paste each edit into crops ``(N, S, S, 3)`` uint8 in each way, as the pipeline does, and measure them.

    ``clips`` names the clip of each frame and ``ws`` ``(N, num_ws, w_dim)`` is its code; an edit is balanced on
    the first frames of each clip and measured on its others (``tried_and_measured``). ``per_unit`` is how much of
    the judge's number a unit of an edit is.
    """
    if len(crops) != len(clips) or len(crops) != len(ws):
        raise ValueError(f"{len(crops)} crops, {len(clips)} clips' names and {len(ws)} codes are not of one kind")
    of = _Clips.of(crops, clips, ws, models)
    crops = crops[of.measured]
    start = _looked_at(crops, models)
    for number, request in enumerate(requests):
        for way in ways:
            made = _made(of, request, models, EditOptions(paste=way))
            if way == ways[0]:
                was, edits = _rendered(of, request, models)
                yield _summed(
                    request, RENDERED, crops, edits, made, start, _looked_at(was, models), models, per_unit
                )
            shown = [
                composite(frame, crop.reconstruction, crop.edit, crop.mask, np.eye(3), 1.0, way, crop.moved)
                for frame, crop in zip(crops, made, strict=True)
            ]
            yield _summed(request, way, crops, shown, made, start, start, models, per_unit)
        progress(number + 1, len(requests))


def markdown(rows: Sequence[Pasted]) -> list[str]:
    """The table, a line each item."""
    lines = [
        "| edit | | got | spread | likeness | second net | beyond both | detail |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.edit} {row.strength:+g} | {row.way} | {row.got:.2f} | {row.spread:.2f} | {row.likeness:.2f} "
        f"| {row.distance:.2f} | {row.beyond:.2f} | {row.detail:.2f} |"
        for row in rows
    ]
    return lines


@dataclass(frozen=True)
class _Look:
    """What the judges say of N pictures."""

    measures: Mapping[str, NDArray[np.float32]]
    likeness: Tensor
    second: Tensor


@dataclass(frozen=True)
class _Clips:
    """Frames ``(N, 3, S, S)`` of clips, and their codes, on the models' device."""

    targets: Tensor
    ws: Tensor
    rows: Sequence[tuple[list[int], list[int]]]
    """Of each clip the frames that edits are tried on, and those that are measured."""
    measured: list[int]
    """Those of all clips, in their order."""

    @staticmethod
    def of(crops: Image, clips: Sequence[str], ws: Tensor, models: Models) -> _Clips:
        count = models.balancing.config.frames if models.balancing else 0
        tried, measured = tried_and_measured(clips, count)
        rows = [
            ([row for row in tried if clips[row] == clip], [row for row in measured if clips[row] == clip])
            for clip in dict.fromkeys(clips)
        ]
        return _Clips(to_tensor(crops, models.device), ws.to(models.device), rows, measured)


def _made(of: _Clips, request: EditRequest, models: Models, options: EditOptions) -> list[EditedCrop]:
    """The crop of each frame that is measured under one edit, balanced on others of its clip."""
    made, side = dict[int, EditedCrop](), of.targets.shape[-1]
    for tried, measured in of.rows:
        moves = balanced(of.ws[tried], [request], models, options, of.targets[tried])
        for row in measured:
            one = slice(row, row + 1)
            # One by one: the frames of a clip are far apart, and no light is carried from one to the next.
            (made[row],) = edit_crops(of.ws[one], of.targets[one], [request], models, options, side, moves)
    return [made[row] for row in of.measured]


def _rendered(of: _Clips, request: EditRequest, models: Models) -> tuple[list[Image], list[Image]]:
    """The generator's pictures of the measured codes, before and after the edit, balanced on other renderings."""
    was, edits, side = dict[int, Image](), dict[int, Image](), of.targets.shape[-1]
    for tried, measured in of.rows:
        moves = balanced(of.ws[tried], [request], models, EditOptions())
        for row in measured:
            for asked, into in (((), was), (moves, edits)):
                with torch.no_grad():
                    made = models.edits.synthesize(models.generator, of.ws[row : row + 1], asked, resolution=side)
                (into[row],) = to_pixels(to_arrays(made))
    return [was[row] for row in of.measured], [edits[row] for row in of.measured]


def _looked_at(pictures: Sequence[Image] | Image, models: Models) -> _Look:
    images = to_tensor(np.stack(list(pictures)), models.device)
    with torch.no_grad():
        return _Look(
            models.judges.attributes(images),
            models.judges.identity.embed(images),
            models.judges.second_identity(images),
        )


def _summed(
    request: EditRequest,
    way: str,
    crops: Image,
    shown: Sequence[Image],
    made: Sequence[EditedCrop],
    start: _Look,
    before: _Look,
    models: Models,
    per_unit: Mapping[str, float],
) -> Pasted:
    """``start`` is what the frames are, ``before`` what the edit began at: the same, but for the rendering."""
    end, got = _looked_at(shown, models), np.full(len(crops), np.nan)
    if request.name in end.measures:
        change = end.measures[request.name] - before.measures[request.name]
        got = change / (per_unit[request.name] * request.strength)
    beyond, detail = [], []
    for frame, picture, crop in zip(crops, shown, made, strict=True):
        face = crop.mask > INSIDE
        if not face.any():  # no place is surely of the face, so there is nothing to say of it
            continue
        beyond.append(np.sqrt(np.square(beyond_both(picture, frame, to_pixels(crop.edit))[face]).mean()))
        detail.append(_fine(picture)[face].std() / _fine(frame)[face].std())
    seen = int(np.isfinite(got).sum())
    return Pasted(
        request.name, request.strength, way,
        _mean(got[np.isfinite(got)]), float(np.nanstd(got)) if seen else float("nan"),
        float((end.likeness * start.likeness).sum(1).mean()),
        float((end.second - start.second).norm(dim=1).mean()),
        _mean(beyond), _mean(detail), seen,
    )  # fmt: skip


def _mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def beyond_both(picture: Image, frame: Image, edit: Image) -> Floats:
    """``(S, S, 3)``: levels by which a picture is darker or brighter than both others, less ``SLACK``."""
    shown, one, other = (image.astype(np.float32) for image in (picture, frame, edit))
    apart = np.maximum(np.minimum(one, other) - shown, shown - np.maximum(one, other))
    return np.asarray(np.maximum(apart - SLACK, 0.0), np.float32)


def _fine(picture: Image) -> Floats:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(grey - cv2.GaussianBlur(grey, (0, 0), _FINE * len(grey) / 256), np.float32)
