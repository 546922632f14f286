"""How far pasted heads stand from where they stood, against what was asked (``modules.editing.placement``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.shards import to_tensor
from modules.editing.directions import EditRequest
from modules.editing.placement import DOWN, NEARER, RIGHT, ROLL
from services.pipeline.composite import Image, composite
from services.pipeline.crops import edit_crops
from services.pipeline.models import Models
from services.pipeline.options import EditOptions

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Placed:
    """One move of N heads."""

    name: str
    asked: float
    got: float
    """Mean over the heads that are found before and after, in the move's own unit."""
    spread: float
    """Standard deviation of the same."""
    likeness: float
    """To the frame, by ``fr_feature``."""
    distance: float
    """To the frame, by a net that is in no loss; one person's pictures lie within 0.6."""
    found: int
    """Of N."""


def measure_placements(
    crops: Image, ws: Tensor, asked: Mapping[str, Sequence[float]], models: Models
) -> Iterator[Placed]:
    """Paste moved heads into crops ``(N, S, S, 3)`` uint8, of which ``ws`` ``(N, num_ws, w_dim)`` are the codes.

    Faces are found as in any picture: the mesh alone, asked about a crop that stays where it was, takes part of
    a roll back.
    """
    targets, start = to_tensor(crops, models.device), _places(crops, models)
    with torch.no_grad():
        before = models.judges.identity.embed(targets), models.judges.second_identity(targets)
    for name, strengths in asked.items():
        for strength in strengths:
            shown = _pasted(crops, targets, ws, EditRequest(name, strength), models)
            got = _moved(name, start, _places(shown, models))
            found = np.isfinite(got)
            with torch.no_grad():
                images = to_tensor(shown, models.device)
                likeness = (models.judges.identity.embed(images) * before[0]).sum(1)
                distance = (models.judges.second_identity(images) - before[1]).norm(dim=1)
            yield Placed(
                name, strength,
                float(got[found].mean()) if found.any() else float("nan"),
                float(got[found].std()) if found.any() else float("nan"),
                float(likeness.mean()), float(distance.mean()), int(found.sum()),
            )  # fmt: skip


def markdown(rows: Sequence[Placed]) -> list[str]:
    """The table, a line each item."""
    lines = ["| move | asked | got | spread | likeness | second net | found |", "|---|--:|--:|--:|--:|--:|--:|"]
    return lines + [
        f"| {row.name} | {row.asked:+g} | {row.got:+.2f} | {row.spread:.2f} | {row.likeness:.2f} "
        f"| {row.distance:.2f} | {row.found} |"
        for row in rows
    ]


def _pasted(crops: Image, targets: Tensor, ws: Tensor, request: EditRequest, models: Models) -> Image:
    shown = []
    for row, frame in enumerate(crops):
        one = slice(row, row + 1)
        (crop,) = edit_crops(
            ws[one].to(models.device), targets[one], [request], models, EditOptions(), crops.shape[1]
        )
        shown.append(composite(frame, crop.reconstruction, crop.edit, crop.mask, np.eye(3), paste="replace"))
    return np.stack(shown)


def _places(crops: Image, models: Models) -> Floats:
    """``(N, 2, 2)``: right and left eye as shares of the crop's width; NaN where no face is found."""
    side = crops.shape[1]
    # A face that fills its picture is found less surely.
    around = side // 4
    framed = np.stack(
        [cv2.copyMakeBorder(crop, *(around,) * 4, borderType=cv2.BORDER_REPLICATE) for crop in crops]
    )
    places = np.full((len(crops), 2, 2), np.nan)
    for row, faces in enumerate(models.judges.find(framed)):
        if faces:
            places[row] = faces[0].landmarks[36:48].reshape(2, 6, 2).mean(1) / side
    return places


def _moved(name: str, before: Floats, after: Floats) -> Floats:
    """``(N,)``: how far eyes ``(N, 2, 2)`` went, in the unit of the move."""
    across, crossed = before[:, 1] - before[:, 0], after[:, 1] - after[:, 0]
    if name == ROLL:
        angles = [np.degrees(np.arctan2(line[:, 1], line[:, 0])) for line in (across, crossed)]
        return np.asarray((angles[1] - angles[0] + 180) % 360 - 180)
    if name == NEARER:
        return np.asarray(100 * (np.linalg.norm(crossed, axis=1) / np.linalg.norm(across, axis=1) - 1))
    axis = {RIGHT: 0, DOWN: 1}[name]
    return np.asarray(100 * (after.mean(1) - before.mean(1))[:, axis])
