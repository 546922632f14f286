"""Edits of a served face, set right on it by the served judges; see ``modules.editing.balance``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.alignment import crop_frame
from datamodules.shards import to_tensor
from datamodules.spread import spread
from modules.editing.balance import balance
from modules.editing.directions import EditRequest
from services.balancing import Balancing
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, taken_frames

Requests = tuple[EditRequest, ...]


def balanced(ws: Tensor, requests: Sequence[EditRequest], models: Models, options: EditOptions) -> Requests:
    """``requests`` and what has to be asked beside them on the face of ``ws`` ``(N, num_ws, w_dim)``.

    At most ``balance.frames`` of the N are looked at. As they are where ``options`` say so, in a preview, and
    where no edit of a measured attribute is asked.
    """
    balancing = _asked_for(requests, models, options)
    if balancing is None:
        return tuple(requests)

    def show(codes: Tensor) -> Tensor:
        side = models.config.crop_size
        shown = [models.generator.synthesize(one, resolution=side) for one in torch.split(codes, 1)]
        return torch.cat(shown).float().clamp(-1, 1)

    measure = balancing.measure(show, models.judges.attributes)
    looked_at = ws[spread(len(ws), balancing.config.frames)]
    with torch.no_grad():
        more = balance(looked_at, requests, models.edits, balancing.typical, measure, balancing.config)
    return (*requests, *more)


def balanced_in_clip(
    source: Path,
    plan: ClipPlan,
    requests: Sequence[EditRequest],
    models: Models,
    options: EditOptions,
    check: Callable[[], None],
) -> list[Requests]:
    """For each face of the plan the requests, set right on frames that are spread over all that show it.

    Once for all frames: what changed from frame to frame would be seen as jitter. Costs a further pass through the
    file, up to the last frame that is looked at. ``check`` is called now and then and may raise.
    """
    balancing = _asked_for(requests, models, options)
    if balancing is None:
        return [tuple(requests)] * len(plan.faces)
    wanted = [face.spread(balancing.config.frames) for face in plan.faces]
    crops: list[list[NDArray[np.uint8]]] = [[] for _ in plan.faces]
    last = max((rows[-1] for rows in wanted if rows), default=-1)
    for place, batch in taken_frames(source, models, options):
        check()
        for face, rows, kept in zip(plan.faces, wanted, crops, strict=True):
            size, matrices = face.alignment.size, face.alignment.crop_to_frame
            inside = [row for row in rows if place <= row < place + len(batch.frames)]
            kept += [crop_frame(batch.frames[row - place], matrices[row], size) for row in inside]
        if place + len(batch.frames) > last:
            break
    applied = []
    for kept in crops:
        check()
        applied.append(balanced(_codes(kept, models), requests, models, options) if kept else tuple(requests))
    return applied


def _asked_for(requests: Sequence[EditRequest], models: Models, options: EditOptions) -> Balancing | None:
    balancing = models.balancing
    if balancing is None or not options.balance or options.preview:
        return None
    asked = any(r.strength and r.name in balancing.units and r.name in models.edits for r in requests)
    return balancing if asked else None


def _codes(crops: Sequence[NDArray[np.uint8]], models: Models) -> Tensor:
    """Codes of frames that do not follow one another, each for itself."""
    encoder = models.looks or models.encoder
    if encoder is None:
        return models.mean_codes(len(crops))
    targets = to_tensor(np.stack(crops), models.device)
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([encoder(target, None)[0] for target in torch.split(targets, 1)])
