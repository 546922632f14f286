"""From crops to codes: encode, refine, and measure how near the reconstruction comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.alignment import align, crop_frame, crop_scale
from datamodules.shards import to_tensor
from datamodules.types import BadInputError, Landmarks
from modules.metrics.face import identity_similarity, landmark_error_percent
from modules.metrics.fidelity import psnr
from modules.out_of_memory import memory_for
from modules.perception.landmarks import landmarks_68
from services.pipeline.canvas import kept_of
from services.pipeline.composite import Image
from services.pipeline.faces import Tracker
from services.pipeline.models import Judges, Models
from services.pipeline.options import EditOptions
from services.pipeline.refine import Moments, refine
from services.pipeline.said import advice_for, poor_reconstruction
from services.progress import Cancelled, Meter, Report, never, silent

_SAME = 100.0
"""dB that stand for equal pictures: JSON has no infinity."""


@dataclass(frozen=True)
class Inversion:
    """One face of one image as codes, and where it lies."""

    image: Image
    """``(H, W, 3)`` uint8 RGB, as it came in."""
    ws: Tensor
    """``(1, num_ws, w_dim)`` float32 on the CPU."""
    crop_to_frame: NDArray[np.float64]
    """``(3, 3)``: crop pixels to image pixels."""
    size: int
    """Side of the crop that ``crop_to_frame`` speaks of, in pixels."""
    metrics: dict[str, float]
    """Of the reconstruction against the crop: what ``measure`` gives, and ``lpips``."""
    warnings: tuple[str, ...] = ()
    """One line each, where the reconstruction is poor."""


@dataclass(frozen=True)
class CodesState:
    """What inversion carries from one stretch of frames to the next."""

    encoder: Any = None
    """The encoder's own state."""
    offset: Tensor | None = None
    """``(1, num_ws, w_dim)``: how far refinement moved the codes of the frame before, or of all of the shot."""
    moments: Moments | None = None
    """What its optimiser remembers of that frame."""
    begins: bool = False
    """Whether the offset is that of all of the shot, whose first frame is to come."""


def invert_crops(
    crops: NDArray[np.uint8],
    models: Models,
    steps: int,
    state: CodesState,
    check: Callable[[], None] = lambda: None,
) -> tuple[Tensor, CodesState]:
    """Codes ``(N, num_ws, w_dim)`` of consecutive crops ``(N, s, s, 3)`` uint8, ``s`` the pipeline's crop size.

    The encoder answers for all of them; with ``steps`` each frame is then optimised for so many, beginning at the
    encoder's answer moved as far as the frame before had to be. The first of a shot whose offset was found takes
    ``follow.first_steps`` where those are more. Without an encoder all begin at the mean face.
    ``check`` is called in every step and may raise. Raises ``BadInputError`` (507) where the memory does not hold
    the crops, or one frame's refinement.
    """
    targets = to_tensor(crops, models.device)
    side = crops.shape[1]
    looked_at = f"{len(crops)} crops of {side} px and their encoder; lower pipeline.chunk"
    with torch.inference_mode(False), torch.no_grad(), memory_for(looked_at):
        encoded, memory = (
            models.encoder(targets, state.encoder) if models.encoder else (models.mean_codes(len(crops)), None)
        )
    if not steps:
        return encoded, CodesState(memory)
    refined, offset, moments, begins = [], state.offset, state.moments, state.begins
    config = models.config
    for ws, target in zip(torch.split(encoded, 1), torch.split(targets, 1), strict=True):
        begin = ws if offset is None else ws + offset
        follow = None if offset is None or begins else config.follow
        budget = max(steps, config.follow.first_steps) if begins else steps
        with memory_for(f"one frame of {side} px with gradients; take --refine 0 (pipeline.follow.steps)"):
            better = refine(
                begin, target, models.generator, models.judges, config.refine, budget, check,
                follow=follow, moments=moments, encoded=ws,
            )  # fmt: skip
        offset, moments, begins = better.ws - ws, better.moments, False
        refined.append(better.ws)
    return torch.cat(refined), CodesState(memory, offset, moments)


def invert_image(
    image: Image,
    models: Models,
    options: EditOptions,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> Inversion:
    """Codes of the chosen face of ``(H, W, 3)`` uint8 RGB; raises ``BadInputError`` where there is none.

    ``options.face`` must name one face.
    """
    if options.face == "all":
        raise BadInputError("an inversion is of one face; choose 'largest' or a number from the left, from 0")
    return invert_faces(image, models, options, report, cancelled)[0]


def invert_faces(
    image: Image,
    models: Models,
    options: EditOptions,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> list[Inversion]:
    """Like ``invert_image``, for each face that ``options.face`` names; none where a task's picture has no face.

    With a task, what its input has of the reconstruction is measured, against the input.
    """
    size = models.config.crop_size
    meter = Meter("find faces", 1, report, cancelled)
    tracker = Tracker(models.config.faces)
    tracker.add(models.judges.find(image[None])[0])
    chosen: list[Landmarks] = tracker.choose(options.face, required=models.task is None)
    meter.advance()
    steps = options.steps(models.config.refine)
    meter = Meter("invert", len(chosen), report, cancelled)
    found = []
    for landmarks in chosen:
        matrix = align(landmarks, size, models.smoothing).crop_to_frame[0]
        crop = crop_frame(image, matrix, size)[None]
        ws, _ = invert_crops(crop, models, steps, CodesState(), meter.check)
        with torch.no_grad():
            shown = models.generator.synthesize(ws, resolution=size).clamp(-1, 1)
            shown = kept_of(models.task, shown, [float(crop_scale(matrix)) * size])
            target = to_tensor(crop, models.device)
            metrics = {name: float(value[0]) for name, value in measure(target, shown, models).items()}
            metrics["lpips"] = float(models.judges.perceptual(shown, target)[0])
        judged = [metrics["identity_distance"]], [metrics["landmark_error"]]
        advice = advice_for(models, options, clip=False)
        warnings = poor_reconstruction(*judged, models.config.warnings, advice)
        found.append(Inversion(image, ws.cpu(), matrix, size, metrics, warnings))
        meter.advance()
    return found


def measure(crops: Tensor, shown: Tensor, models: Models) -> dict[str, NDArray[np.float64]]:
    """``psnr`` in dB, ``identity`` similarity, ``landmark_error`` in % of the distance of the eyes, each ``(N,)``.

    ``identity_distance`` is by a second net, which neither encoder nor refinement looks through. Crops are
    ``(N, 3, s, s)`` in [-1, 1]; ``crops`` is what ``shown`` should be. All but ``psnr`` are NaN where the mesh
    sees no face in ``crops``, behind a hand for example.
    """
    found = models.unedited.compared(crops, shown, lambda one, other: _nearness(one, other, models.judges))
    return {name: value.double().cpu().numpy() for name, value in zip(MEASURED, found, strict=True)}


MEASURED = "psnr", "identity", "identity_distance", "landmark_error"
"""What ``measure`` gives."""


def mean_measured(values: NDArray[np.float64]) -> float | None:
    """The mean ``(N,)`` of one of ``MEASURED`` over what was measured, None where nothing was."""
    found = values[~np.isnan(values)]
    return float(found.mean()) if len(found) else None


def _nearness(crops: Tensor, shown: Tensor, judges: Judges) -> tuple[Tensor, ...]:
    """``MEASURED``, each ``(N,)``."""
    second, wanted = judges.second_identity, judges.mesh(crops)
    seen = wanted.score >= judges.detection.mesh_score
    of_faces = (
        identity_similarity(judges.identity, shown, crops),
        (second(shown) - second(crops)).norm(dim=1),
        landmark_error_percent(landmarks_68(judges.mesh(shown).points), landmarks_68(wanted.points)),
    )
    return psnr(shown, crops).clamp_max(_SAME), *(torch.where(seen, value, torch.nan) for value in of_faces)
