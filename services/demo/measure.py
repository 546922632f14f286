"""How near the reconstruction comes, and how far each edit went, on a few frames of the finished clips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.alignment import crop_frame
from datamodules.shards import to_tensor
from datamodules.spread import spread
from datamodules.types import BadInputError, Frames
from datamodules.video import read_frames
from modules.editing.directions import EditRequest
from modules.generators.codes_file import read_codes
from services.attributes import NAMES, AttributeJudge, as_table
from services.pipeline.invert import mean_measured, measure
from services.pipeline.models import Models
from services.pipeline.sidecar import sidecar_path

NEARNESS = ("psnr", "lpips", "identity", "identity_distance", "landmark_error")
"""Metrics of every row, in the table's order; of the crop of 256 px against the input's.

The distance is by a net that no loss and no refinement looks through.
"""


@dataclass(frozen=True)
class Places:
    """The frames that are measured."""

    numbers: tuple[int, ...]
    """Of the frames in the clip."""
    rows: tuple[int, ...]
    """Of their codes."""
    matrices: NDArray[np.float64]
    """``(N, 3, 3)``: crop to frame."""
    size: int
    """Side of the crops in pixels."""


def places(report: Mapping[str, Any], count: int) -> Places:
    """``count`` frames that show the face, evenly spread, of a clip's report (as JSON)."""
    face = report["faces"][0]
    seen = [frame for frame in face["frames"] if frame["state"] == "face"]
    if not seen:
        raise BadInputError("no frame of the clip shows the face")
    rows = spread(len(seen), count)
    corners = np.array([seen[row]["crop"] for row in rows])
    a, b, x, y = corners.T
    zero, one = np.zeros_like(a), np.ones_like(a)
    matrices = np.stack([a, -b, x, b, a, y, zero, zero, one], axis=1).reshape(-1, 3, 3)
    return Places(tuple(seen[row]["frame"] for row in rows), tuple(rows), matrices, int(face["crop_size"]))


def frames_at(clip: Path, numbers: Sequence[int]) -> Frames:
    """Frames ``(N, H, W, 3)`` by their numbers; the clip is read once, a few frames held at a time."""
    wanted, found = set(numbers), {}
    for batch in read_frames(clip):
        for index, frame in enumerate(batch.frames, batch.first):
            if index in wanted:
                found[index] = frame.copy()
    return np.stack([found[number] for number in numbers])


def crops_of(clip: Path, at: Places) -> Frames:
    """The face's crops ``(N, s, s, 3)`` in the frames of a clip, cut where the input's are."""
    frames = frames_at(clip, at.numbers)
    return np.stack([crop_frame(frame, m, at.size) for frame, m in zip(frames, at.matrices, strict=True)])


def reconstructed(codes: Path, at: Places, models: Models) -> Tensor:
    """What the codes alone show, ``(N, 3, s, s)`` in [-1, 1], s the pipeline's crop size."""
    return _render(_codes(codes, at, models), models)


def measure_reconstruction(
    clip: Path, shown: Tensor, at: Places, models: Models
) -> dict[str, dict[str, float | None]]:
    """Means of ``NEARNESS`` for the mean face and for what ``reconstructed`` gave; None where no face is seen."""
    target = to_tensor(crops_of(clip, at), models.device)
    mean = _render(models.mean_codes(1), models).expand_as(shown)
    return {"mean face": _nearness(mean, target, models), "reconstruction": _nearness(shown, target, models)}


def measure_edit(
    clip: Path,
    edited: Path,
    codes: Path,
    before: Tensor,
    request: EditRequest,
    unit: float,
    at: Places,
    models: Models,
    judge: AttributeJudge,
) -> dict[str, float | None]:
    """``NEARNESS`` of the edited clip to the input, and how far the edit went in its own unit.

    ``before`` is what ``reconstructed`` gave of the codes, ``unit`` how much of the judge's number one unit is.
    ``size_face`` is measured on the generator's picture, moved by the strengths of the clip's sidecar, against the
    unedited one, ``size_clip`` on the finished clip against the input; ``identity_kept`` is the likeness of the
    generator's two pictures.
    """
    target, shown = (to_tensor(crops_of(path, at), models.device) for path in (clip, edited))
    after = _render(_codes(codes, at, models), models, _applied(edited))
    with torch.no_grad():
        kept = (models.judges.identity.embed(before) * models.judges.identity.embed(after)).sum(1)
    return _nearness(shown, target, models) | {
        "identity_kept": float(kept.mean()),
        "size_face": _change(judge, before, after, request.name) / unit,
        "size_clip": _change(judge, target, shown, request.name) / unit,
    }


def _applied(edited: Path) -> list[EditRequest]:
    """By what the clip's face was edited: what was asked, balanced on it."""
    (face,) = json.loads(sidecar_path(edited).read_text())["report"]["faces"]
    return [EditRequest(name, strength) for name, strength in face["strengths"].items()]


def _codes(codes: Path, at: Places, models: Models) -> Tensor:
    return read_codes(codes, models.generator)[list(at.rows)].to(models.device)


def _render(ws: Tensor, models: Models, requests: Sequence[EditRequest] = ()) -> Tensor:
    size = models.config.crop_size
    with torch.no_grad():
        shown = [
            models.edits.synthesize(models.generator, one, requests, resolution=size) for one in torch.split(ws, 1)
        ]
    return torch.cat(shown).clamp(-1, 1)


def _nearness(shown: Tensor, target: Tensor, models: Models) -> dict[str, float | None]:
    values = measure(target, shown, models)
    with torch.no_grad():
        values["lpips"] = models.judges.perceptual(shown, target).double().cpu().numpy()
    return {name: mean_measured(values[name]) for name in NEARNESS}


def _change(judge: AttributeJudge, before: Tensor, after: Tensor, name: str) -> float:
    """Mean over the frames; NaN where an attribute has no judge or no face is seen."""
    if name not in NAMES:
        return float("nan")
    change = as_table(judge(after))[:, NAMES.index(name)] - as_table(judge(before))[:, NAMES.index(name)]
    seen = change[np.isfinite(change)]
    return float(seen.mean()) if len(seen) else float("nan")
