"""Edits of a served face, balanced on it by the served judges; see ``modules.editing.balance``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.alignment import crop_frame
from datamodules.shards import to_tensor
from datamodules.spread import spread
from modules.editing.balance import Measure, balance
from modules.editing.directions import EditRequest
from services.balancing import Balancing
from services.pipeline.composite import composite
from services.pipeline.crops import edit_crops, edits_by_part, to_arrays, to_pixels, way_to_paste
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.parts import of_part_that_stays
from services.pipeline.plan import ClipPlan, taken_frames
from services.pipeline.track import Track
from services.pipeline.unedited import UneditedFaces

Requests = tuple[EditRequest, ...]


def balanced(
    ws: Tensor,
    requests: Sequence[EditRequest],
    models: Models,
    options: EditOptions,
    targets: Tensor | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Requests:
    """``requests`` and what has to be asked beside them on the face of ``ws`` ``(N, num_ws, w_dim)``.

    At most ``balance.frames`` of the N are looked at: as they are pasted into ``targets`` ``(N, 3, S, S)`` in
    [-1, 1], the crops that the codes stand for, since an edit loses on the way into a frame; as renderings where
    there is no frame. As they are where ``options`` say so, in a preview, and where no edit of a measured
    attribute is asked. ``say`` is told where not all of them could be looked at, one line.

    Edits of one part of the face are measured on faces that are edited whole, but for what belongs to the part
    that stays. Their own part is the same there, and judges look at all of a face: of one and the same mouth the
    mesh reports two thirds of the smile, and another pitch, below eyes that do not smile.
    """
    balancing = balancing_for(requests, models, options)
    if balancing is None:
        return tuple(requests)
    rows = spread(len(ws), balancing.config.frames)
    looked_at = ws[rows]
    models = replace(models, unedited=UneditedFaces(math.inf))  # these few faces, round after round
    still = of_part_that_stays(edits_by_part(requests, models, options), models.config.parts)

    def rendered(tried: Sequence[EditRequest]) -> Tensor:
        side = models.config.crop_size
        moved = models.edits.apply(looked_at, tried)
        shown = [models.generator.synthesize(one, resolution=side) for one in torch.split(moved, 1)]
        return torch.cat(shown).float().clamp(-1, 1)

    if targets is None:
        show, still = rendered, ()
    else:
        seen = targets[rows]
        pixels = to_pixels(to_arrays(seen))
        way, place = way_to_paste(requests, models, options), np.eye(3)
        whole = replace(options, region="face") if still else options

        def show(tried: Sequence[EditRequest]) -> Tensor:
            # The first look is pasted too: what a face that replaces the frame's lacks is not taken back.
            # One by one: these frames are far apart.
            shown = []
            for row, frame in enumerate(pixels):
                one = slice(row, row + 1)
                (crop,) = edit_crops(looked_at[one], seen[one], requests, models, whole, seen.shape[-1], tried)
                shown.append(
                    composite(frame, crop.reconstruction, crop.edit, crop.mask, place, paste=way, moved=crop.moved)
                )
            return to_tensor(np.stack(shown), models.device)

    measure = without(balancing.measure(show, models.judges.attributes), list(balancing.units), still)
    with torch.no_grad():
        more = balance(requests, models.edits, balancing.typical, measure, balancing.config, say)
    return (*requests, *more)


def without(measure: Measure, names: Sequence[str], still: Sequence[str]) -> Measure:
    """``measure`` of the attributes ``names``, in which those that are ``still`` do not change."""

    def measured(tried: Sequence[EditRequest]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.where([name in still for name in names], 0.0, measure(tried))
        return found

    return measured


def balanced_in_clip(
    source: Path,
    plan: ClipPlan,
    tracks: Sequence[Track | None],
    requests: Sequence[EditRequest],
    models: Models,
    options: EditOptions,
    check: Callable[[], None],
    say: Callable[[str], None] = lambda line: None,
) -> list[Requests]:
    """For each face of the plan the requests, balanced on frames that are spread over all that show it.

    ``tracks`` have the faces' codes, all of them where the edits are to be balanced. Once for all frames: what
    changed from frame to frame would be seen as jitter. Costs a further pass through the file, up to the last
    frame that is looked at. ``check`` is called now and then and may raise; for ``say`` see ``balanced``.
    """
    balancing = balancing_for(requests, models, options)
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
    for face, track, rows, kept in zip(plan.faces, tracks, wanted, crops, strict=True):
        check()
        if not kept or track is None:
            applied.append(tuple(requests))
            continue
        # Codes stand in the order of the frames that show the face.
        places = np.cumsum(face.alignment.valid)[rows] - 1
        codes = np.concatenate([track.codes.read(int(row), int(row) + 1) for row in places])
        targets = to_tensor(np.stack(kept), models.device)
        ws = torch.from_numpy(codes).to(models.device)
        applied.append(balanced(ws, requests, models, options, targets, say))
    return applied


def balancing_for(requests: Sequence[EditRequest], models: Models, options: EditOptions) -> Balancing | None:
    """How these edits are balanced; None where they stay as they are."""
    balancing = models.balancing
    if balancing is None or not options.balance or options.preview:
        return None
    asked = any(r.strength and r.name in balancing.units and r.name in models.edits for r in requests)
    return balancing if asked else None
