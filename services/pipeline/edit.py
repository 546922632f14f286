"""Images edited: faces inverted, moved, and pasted back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from datamodules.alignment import crop_frame, crop_scale
from datamodules.shards import to_tensor
from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from modules.editing.random_identity import RandomIdentity
from services.pipeline.balance import balanced
from services.pipeline.canvas import on_canvas
from services.pipeline.composite import Image, composite, resized_transform
from services.pipeline.crops import changes_nothing, crop_synthesis_size, edit_crops, way_to_paste
from services.pipeline.invert import Inversion, invert_faces
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.progress import Cancelled, Meter, Report, never, silent


@dataclass(frozen=True)
class EditedImage:
    """An image with the edit pasted in."""

    image: Image
    """``(H, W, 3)`` uint8 RGB: the size of the input, 4 times it where it was enlarged."""
    inversions: tuple[Inversion, ...]
    """Of each face that was edited or restored."""
    strengths: tuple[dict[str, float], ...]
    """What each face was edited by, by edit: what was asked, balanced on it; none where it was restored."""
    warnings: tuple[str, ...]
    """One line each, where a reconstruction is poor."""


def edit_image(
    source: Image | Inversion,
    requests: Sequence[EditRequest],
    models: Models,
    options: EditOptions,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> EditedImage:
    """Edit ``(H, W, 3)`` uint8 RGB, or the image of an inversion whose codes are then used as they are.

    Raises ``BadInputError`` for edits that cannot be met (before anything is computed) and for an image
    without a face.
    """
    models.edits.check(requests)
    options = hiding(requests, models, options)
    if isinstance(source, Inversion):
        inversions = [source]
    else:
        inversions = invert_faces(source, models, options, report, cancelled)
    image = inversions[0].image
    meter = Meter("edit", len(inversions), report, cancelled)
    applied = [tuple(requests)] * len(inversions)
    for number, inversion in enumerate(inversions):
        if not changes_nothing(requests, options):
            ws, target = inversion.ws.to(models.device), target_of(inversion, models)
            applied[number] = balanced(ws, requests, models, options, target)
            meter.check()
            image = with_face(image, inversion, requests, models, options, applied[number])
        meter.advance()
    # Of who is hidden the codes may have as little as they want.
    warned = [] if hides(requests, models, options) else inversions
    warnings = tuple(warning for inversion in warned for warning in inversion.warnings)
    return EditedImage(image, tuple(inversions), tuple(strengths(some) for some in applied), warnings)


def check_hidden(requests: Sequence[EditRequest], models: Models, learned: bool) -> None:
    """Raise ``BadInputError`` where a person is to be hidden by a generator that ``learned`` the person's face."""
    if learned and any(isinstance(models.edits[one.name], RandomIdentity) for one in requests if one.strength):
        raise BadInputError(
            "random_identity hides a person, and a generator that learned the person shows more of them: "
            "leave out --adapt and --adapted"
        )


def hides(requests: Sequence[EditRequest], models: Models, options: EditOptions) -> bool:
    """Whether a person is hidden: another one's face is pasted over it whole."""
    edits = [models.edits[request.name] for request in requests if request.strength]
    asked = any(isinstance(edit, RandomIdentity) for edit in edits)
    return asked and way_to_paste(requests, models, options) == "replace"


def hiding(requests: Sequence[EditRequest], models: Models, options: EditOptions) -> EditOptions:
    """The options, without refinement where a person is hidden and no steps were asked for.

    What refinement finds of a person would come through; a face that is pasted over it needs none of it.
    """
    unasked = options.refine is None and hides(requests, models, options)
    return replace(options, refine=0) if unasked else options


def strengths(requests: Sequence[EditRequest]) -> dict[str, float]:
    """The total strength of each edit."""
    totals: dict[str, float] = {}
    for request in requests:
        totals[request.name] = totals.get(request.name, 0.0) + request.strength
    return {name: round(total, 4) for name, total in totals.items()}


def with_face(
    canvas: Image,
    inversion: Inversion,
    requests: Sequence[EditRequest],
    models: Models,
    options: EditOptions,
    applied: Sequence[EditRequest] | None = None,
) -> Image:
    """A new canvas ``(H, W, 3)`` uint8 with one face edited, or restored where that is the models' task.

    For ``applied`` see ``edit_crops``.
    """
    size, frame = inversion.size, inversion.crop_to_frame
    matrix = on_canvas(models.task, frame)
    made = crop_synthesis_size(matrix, size, models, options)
    sides, ws = [float(crop_scale(frame)) * size], inversion.ws.to(models.device)
    (crop,) = edit_crops(ws, target_of(inversion, models), requests, models, options, made, applied, sides)
    place, paste = resized_transform(matrix, size, made), way_to_paste(requests, models, options)
    return composite(canvas, crop.reconstruction, crop.edit, crop.mask, place, paste=paste, moved=crop.moved)


def target_of(inversion: Inversion, models: Models) -> Tensor:
    """``(1, 3, s, s)`` in [-1, 1]: the crop that the codes stand for."""
    crop = crop_frame(inversion.image, inversion.crop_to_frame, inversion.size)
    return to_tensor(crop[None], models.device)
