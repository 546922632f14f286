"""Colours or lines given to faces: what the input has stays, what it lacks comes from the generator (section 4.6).

The same line as an edit's, whose result is the reconstruction and whose beginning is what the input has of it:
``input + (G(w) - degrade(G(w))) * mask``. Where no face is, pictures are made grey or enlarged and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from datamodules.video import probe
from modules.encoders.restoring import FACTOR, Task
from services.pipeline.canvas import canvas_of, check_canvas, read_by
from services.pipeline.composite import Image
from services.pipeline.edit import EditedImage, with_face
from services.pipeline.invert import invert_faces
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.stream import VideoReport, edit_video
from services.progress import Cancelled, Meter, Report, never, silent

_WITHOUT_FACE: dict[Task, str] = {
    "colourise": "no face was found: it is grey all over",
    "enlarge": f"no face was found: it is {FACTOR} times as large, with no lines added",
}


def restoring_options(face: str = "largest", start: float | None = None, end: float | None = None) -> EditOptions:
    """What is left to choose; codes are not refined, as they would learn that the face is grey or blurred."""
    return EditOptions(face=face, refine=0, paste="difference", region="head", start=start, end=end)


def restore_image(
    image: Image,
    models: Models,
    options: EditOptions,
    max_pixels: int,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> EditedImage:
    """Restore the faces in ``(H, W, 3)`` uint8 RGB; ``enlarge`` answers 4 times the height and width.

    ``options`` are from ``restoring_options``. Raises ``BadInputError`` where the result has more than
    ``max_pixels``, before anything is computed, and for a face that is not there.
    """
    task = _task_of(models)
    check_canvas(task, image.shape[1], image.shape[0], max_pixels)
    read = read_by(task, image)
    inversions = invert_faces(read, models, options, report, cancelled)
    canvas = canvas_of(task, read)
    meter = Meter(task, len(inversions), report, cancelled)
    for inversion in inversions:
        canvas = with_face(canvas, inversion, (), models, options)
        meter.advance()
    warnings = [warning for inversion in inversions for warning in inversion.warnings]
    said = tuple(warnings) if inversions else (_WITHOUT_FACE[task],)
    return EditedImage(image=canvas, inversions=tuple(inversions), strengths=(), warnings=said)


def restore_video(
    source: Path,
    target: Path,
    models: Models,
    options: EditOptions,
    max_pixels: int,
    report: Report = silent,
    cancelled: Cancelled = never,
    observe: Callable[[int, Image, Image], None] | None = None,
    work: Path | None = None,
) -> VideoReport:
    """Restore the faces of a clip and write it with its audio, else as ``restore_image`` and ``edit_video``.

    ``work`` is a folder that keeps the codes that are found, so that a stopped call goes on.
    """
    task, info = _task_of(models), probe(source)
    check_canvas(task, info.width, info.height, max_pixels)
    done = edit_video(source, target, (), models, options, report, cancelled, observe, work)
    return done if done.faces else replace(done, warnings=(*done.warnings, _WITHOUT_FACE[task]))


def _task_of(models: Models) -> Task:
    if models.task is None:
        raise ValueError("these models restore nothing: see load_restoring_models")
    return models.task
