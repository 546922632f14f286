"""Where refinement begins in each shot: at what all of its frames share beside the encoder's codes of them.

Looks, hair, clothes and wall stay over a shot, and the encoder misses them in all frames alike. Learned on frames
that are spread over the shot they cost their steps once; those of each frame then go into what is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from datamodules.alignment import crop_frame
from datamodules.disk import write_whole
from datamodules.shards import to_tensor
from datamodules.spread import spread
from modules.out_of_memory import memory_for
from services.pipeline.follow import Starts
from services.pipeline.invert import CodesState, invert_crops
from services.pipeline.kept_codes import KeptCodes
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import ClipPlan, FacePlan, taken_frames
from services.pipeline.refine import refine_shared
from services.progress import Cancelled, Meter, Report, never, silent

_OFFSET = "offset"


@dataclass
class _Shot:
    """One face in one shot, while its crops are collected."""

    face: int
    """Its number in the plan."""
    begins: int
    """The plan's index of the shot's first frame."""
    frames: list[int]
    """The plan's indices of those that are looked at."""
    kept: Path | None
    """Where its offset is written down."""
    crops: list[NDArray[np.uint8]] = field(default_factory=list)
    """Those of ``frames``, so far."""


def shot_starts(
    source: Path,
    plan: ClipPlan,
    models: Models,
    options: EditOptions,
    known: Sequence[KeptCodes | None],
    report: Report = silent,
    cancelled: Cancelled = never,
) -> list[Starts]:
    """For each face of the plan, where refinement begins in each shot; nothing where nothing is refined.

    ``known`` has codes that an earlier call found, per face: shots of which they are all are left out, and what is
    found of the others is kept beside them. A further pass through the file, up to the last frame that is looked
    at; a shot's crops are held until the last of them was read.
    """
    starts: list[dict[int, CodesState]] = [{} for _ in plan.faces]
    follow = models.config.follow
    if not options.steps(follow, models.adapted) or not follow.shared_steps:
        return list(starts)
    shots = [
        shot
        for number, (face, codes) in enumerate(zip(plan.faces, known, strict=True))
        for shot in _shots(number, face, plan, follow.shared_frames, codes)
    ]
    for shot in shots:
        if (offset := _read(shot.kept)) is not None:
            starts[shot.face][shot.begins] = CodesState(offset=offset.to(models.device), begins=True)
    shots = [shot for shot in shots if shot.begins not in starts[shot.face]]
    if not shots:
        return list(starts)
    meter = Meter("fit shots", follow.shared_steps * len(shots), report, cancelled)

    def step() -> None:
        meter.check()
        meter.advance()

    for place, batch in taken_frames(source, models, options):
        meter.check()
        for shot in shots:
            alignment = plan.faces[shot.face].alignment
            for index in shot.frames:
                if place <= index < place + len(batch.frames):
                    frame, matrix = batch.frames[index - place], alignment.crop_to_frame[index]
                    shot.crops.append(crop_frame(frame, matrix, alignment.size))
            if len(shot.crops) == len(shot.frames):
                found = starts[shot.face][shot.begins] = start_of(np.stack(shot.crops), models, step)
                if shot.kept is not None and found.offset is not None:
                    write_whole(shot.kept, save({_OFFSET: found.offset.cpu()}))
        shots = [shot for shot in shots if shot.begins not in starts[shot.face]]
        if not shots:
            break
    return list(starts)


def start_of(crops: NDArray[np.uint8], models: Models, check: Callable[[], None] = lambda: None) -> CodesState:
    """Where the first frame begins that is like these ``(K, s, s, 3)`` crops of one face in one shot.

    ``check`` is called in every step and may raise. Raises ``BadInputError`` (507) where the memory does not hold
    one frame's refinement.
    """
    # One by one: they do not follow one another, which an encoder of video would take them to do.
    encoded = torch.cat([invert_crops(crop[None], models, 0, CodesState())[0] for crop in crops])

    side = crops.shape[1]
    with memory_for(f"one frame of {side} px with gradients; take --refine 0 (pipeline.follow.steps)"):
        offset = refine_shared(
            encoded, to_tensor(crops, models.device), models.generator, models.judges,
            models.config.refine, models.config.follow, check,
        )  # fmt: skip
    return CodesState(offset=offset, begins=True)


def _shots(number: int, face: FacePlan, plan: ClipPlan, frames: int, codes: KeptCodes | None) -> list[_Shot]:
    """The shots that show the face and whose ``codes`` are not all there, with at most ``frames`` of each."""
    valid = face.alignment.valid
    rows: NDArray[np.int64] = np.cumsum(valid) - valid
    found = []
    for begins, ends in pairwise([*sorted({0, *plan.cuts}), len(plan.numbers)]):
        seen = begins + np.flatnonzero(valid[begins:ends])
        if len(seen) and rows[seen[-1]] >= (len(codes) if codes is not None else 0):
            chosen = [int(seen[place]) for place in spread(len(seen), frames)]
            kept = (
                codes.path.with_name(f"{codes.path.name}-shot-{begins}.safetensors") if codes is not None else None
            )
            found.append(_Shot(number, begins, chosen, kept))
    return found


def _read(kept: Path | None) -> Tensor | None:
    try:
        return load_file(kept)[_OFFSET] if kept is not None else None
    except (FileNotFoundError, SafetensorError):  # not there, or cut short when the power went
        return None
