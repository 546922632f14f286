"""Files in, files out: what the shell's ``edit``, ``invert`` and the rest do with a path, sidecar included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.disk import beside, require_other, require_writable
from datamodules.images import HEAD, STILLS, count_frames, read_image, sniff, write_image
from datamodules.types import BadInputError
from datamodules.video import probe
from datamodules.video_write import CONTAINERS
from modules.editing.directions import EditDescription, EditRequest
from modules.editing.placement import PlacementConfig, placements
from modules.editing.stylespace import joined
from modules.encoders.restoring import Task
from modules.generators.codes_file import read_codes, save_codes
from modules.perception.flow import DenseFlow, FlowConfig
from services.adaptation.options import check_edit_asked, check_learned_once
from services.pipeline.balance import balanced
from services.pipeline.canvas import canvas_size, check_canvas
from services.pipeline.composite import Image
from services.pipeline.crops import to_arrays, to_pixels
from services.pipeline.edit import check_hidden, edit_image, strengths
from services.pipeline.interpolate import check_factor, check_interpolation, interpolate_video
from services.pipeline.invert import Inversion, invert_image
from services.pipeline.models import (
    SHIPPED_DIRECTIONS,
    SHIPPED_POSE_EDITOR,
    SHIPPED_STYLESPACE,
    Chosen,
    Models,
    fitting,
    load_edits,
    load_models,
    with_adaptation,
)
from services.pipeline.options import EditOptions
from services.pipeline.restore import restore_image, restore_video
from services.pipeline.restorers import load_restoring_models
from services.pipeline.sidecar import described, plain, write_sidecar
from services.pipeline.stitch import is_stitched
from services.pipeline.stream import check_output, edit_video, invert_video
from services.progress import Meter, Report, never
from services.settings import Params

WIDEST = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383, ".bmp": 65_535}
"""Pixels that a format's pictures can be wide, where that is less than ``WIDEST_PNG``."""
WIDEST_PNG = 1_000_000
SIDE = "the result has a side of {} px"
CODES = (".safetensors", ".pt", ".pth", ".npy")


def edit_file(
    source: Path,
    target: Path,
    requests: Sequence[EditRequest],
    params: Params,
    options: EditOptions,
    chosen: Chosen,
    report: Report,
    beside: Sequence[Path] = (),
    adaptation: Path | None = None,
) -> tuple[str, ...]:
    """Edit a video, an image or codes, write the result and its sidecar; returns the warnings.

    ``beside`` are folders of edits that join those of ``chosen``; ``adaptation`` is what 'adapt' made.
    Codes give the edited faces alone, as no frame is there to paste them into. Raises ``BadInputError``.
    """
    _check_paths(source, target)
    still = source.suffix.lower() in CODES or _is_image(source, target)
    if still:
        _check_image_output(source, target, options)
    if source.suffix.lower() in CODES:
        _check_codes(source, options)
    check_learned_once(options, adaptation)
    check_edit_asked(requests, options)
    given = described(source)
    models = load_models(params, *chosen, beside)
    models.edits.check(requests)
    if adaptation is not None:
        models = with_adaptation(models, adaptation)
    is_stitched(requests, models, options)  # said before a face is learned, which takes minutes
    check_hidden(requests, models, options.adapt or models.adapted)
    result: object = {}
    warnings: tuple[str, ...] = ()
    if source.suffix.lower() in CODES:
        ws = read_codes(source, models.generator)
        _check_width(target, len(ws) * models.generator.resolution)
        applied = balanced(ws.to(models.device), requests, models, options)
        write_image(target, _edit_codes(ws, applied, models, options, report))
        result = {"faces": [{"strengths": strengths(applied)}]}
    elif still:
        image, said = read_image(source, params.runtime.max_pixels), _said_of_animation(source)
        _check_width(target, max(image.shape[:2]), SIDE)
        edited = edit_image(image, requests, models, options, report)
        write_image(target, edited.image)
        warnings = (*said, *edited.warnings)
        faces = [
            {**_about(inversion), "strengths": used}
            for inversion, used in zip(edited.inversions, edited.strengths, strict=True)
        ]
        result = {"faces": faces, "warnings": warnings}
    else:
        if options.adapt:
            from services.adaptation.models import adapted_models  # brings Lightning, which takes seconds

            check_output(source, target, models, options)
            models = adapted_models(source, models, options, params, report)
        done = edit_video(source, target, requests, models, options, report)
        result, warnings = done, done.warnings
    write_sidecar(target, given, requests, options, models.versions, models.numbers(), result)
    return warnings


def invert_file(
    source: Path, target: Path, params: Params, options: EditOptions, chosen: Chosen, report: Report
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Write the codes of the face in a video or an image, with a sidecar; returns mean metrics and warnings."""
    _check_paths(source, target)
    if target.suffix.lower() != ".safetensors":
        raise BadInputError(f"codes are written as .safetensors; {target.name} has another ending")
    still = _is_image(source, target)
    if still:
        _check_still(source, options)
    given = described(source)
    models = load_models(params, *chosen)
    result: object
    if still:
        image, said = read_image(source, params.runtime.max_pixels), _said_of_animation(source)
        inversion = invert_image(image, models, options, report)
        ws, metrics = inversion.ws, {k: v for k, v in inversion.metrics.items() if not np.isnan(v)}
        warnings = (*said, *inversion.warnings)
        result = _about(inversion)
    else:
        ws, clip = invert_video(source, models, options, report)
        frames = clip.faces[0].frames
        measured = {
            "identity": [f.identity for f in frames if f.identity is not None],
            "identity_distance": [f.identity_distance for f in frames if f.identity_distance is not None],
            "landmark_error": [f.landmark_error for f in frames if f.landmark_error is not None],
        }
        metrics = {name: float(np.mean(values)) for name, values in measured.items() if values}
        result, warnings = clip, clip.warnings
    with beside(target) as part:
        save_codes(part, ws, models.generator)
    write_sidecar(target, given, [], options, models.versions, models.numbers(), result)
    return metrics, warnings


def restore_file(
    source: Path,
    target: Path,
    task: Task,
    params: Params,
    options: EditOptions,
    encoder: Path | None,
    report: Report,
) -> tuple[str, ...]:
    """Colourise or enlarge a video or an image, write the result and its sidecar; returns the warnings.

    ``options`` are from ``restoring_options``; ``encoder`` is a model folder, None takes the shipped one. Raises
    ``BadInputError``.
    """
    _check_paths(source, target)
    still, most = _is_image(source, target), params.runtime.max_pixels
    if still:
        _check_image_output(source, target, options)
    given = described(source)
    image, said = (read_image(source, most), _said_of_animation(source)) if still else (None, ())
    # What cannot be written is said before anything is loaded.
    if image is None:
        info = probe(source)
        width, height = info.width, info.height
    else:
        height, width = image.shape[:2]
    check_canvas(task, width, height, most)
    if still:
        _check_width(target, max(canvas_size(task, width, height)), SIDE)
    models = load_restoring_models(params, task, encoder)
    result: object
    if image is not None:
        restored = restore_image(image, models, options, most, report)
        write_image(target, restored.image)
        warnings = (*said, *restored.warnings)
        result = {"faces": [_about(inversion) for inversion in restored.inversions], "warnings": warnings}
    else:
        done = restore_video(source, target, models, options, most, report)
        result, warnings = done, done.warnings
    asked = {"task": task, "face": options.face, "start": options.start, "end": options.end}
    write_sidecar(target, given, [], asked, models.versions, models.numbers(), result)
    return warnings


def interpolate_file(
    source: Path,
    target: Path,
    factor: int,
    params: Params,
    options: EditOptions,
    chosen: Chosen,
    report: Report,
    adaptation: Path | None = None,
) -> tuple[str, ...]:
    """Write a video with ``factor`` times its frames, and its sidecar; returns the warnings.

    ``adaptation`` is what 'adapt' made; ``options.adapt`` learns the face first. Raises ``BadInputError``.
    """
    _check_paths(source, target)
    check_factor(factor)
    if _is_image(source, target):
        raise BadInputError(f"{source.name} is an image, and nothing lies between its frames; give a video")
    check_learned_once(options, adaptation)
    given = described(source)
    models = load_models(params, *chosen)
    check_interpolation(source, target, factor, models, options)
    if adaptation is not None:
        models = with_adaptation(models, adaptation)
    elif options.adapt:
        from services.adaptation.models import adapted_models  # brings Lightning, which takes seconds

        models = adapted_models(source, models, options, params, report)
    flow = DenseFlow(params.section("flow", FlowConfig))
    done = interpolate_video(source, target, factor, models, flow, options, report)
    asked = {name: getattr(options, name) for name in ("face", "refine", "start", "end", "adapt")}
    numbers = {**models.numbers(), "flow": plain(flow.config)}
    write_sidecar(target, given, [], {"factor": factor, **asked}, models.versions, numbers, done)
    return done.warnings


def known_edits(directions: Sequence[Path], generator: str | None, params: Params) -> list[EditDescription]:
    """What can be edited; nothing is loaded but the edits, unless a generator is named."""
    from modules.generators import load_generator
    from modules.model_folder import load_model

    missing = [folder for folder in directions if not folder.is_dir()]
    if missing:
        raise BadInputError(f"{missing[0]} is not a model folder of directions")
    ours = (SHIPPED_DIRECTIONS, SHIPPED_STYLESPACE, SHIPPED_POSE_EDITOR)
    shipped = [folder for folder in ours if folder.is_dir()]
    named = [*directions, *shipped]
    made_for = load_generator(generator).sha256 if generator else ""
    if not generator and named:
        made_for = str(load_model(named[0]).config.get("generator_sha256"))
    base = [folder for folder in shipped if fitting(folder, made_for)]
    # As models are loaded: of two of one name the later is taken.
    places = placements(params.section("placement", PlacementConfig), made_for)
    return joined(places, *(load_edits(folder, made_for) for folder in [*base, *directions])).describe()


def _edit_codes(
    ws: Tensor, requests: Sequence[EditRequest], models: Models, options: EditOptions, report: Report
) -> Image:
    """The edited faces of ``(N, num_ws, w_dim)``, side by side."""
    ws = ws.to(models.device)
    meter = Meter("edit", len(ws), report, never)
    side = models.generator.resolution
    row = np.empty((side, len(ws), side, 3), np.uint8)
    for place, one in enumerate(torch.split(ws, 1)):
        with torch.no_grad():
            edited = models.edits.synthesize(models.generator, one, requests, options.seed)
            row[:, place] = to_pixels(to_arrays(edited)[0])
        meter.advance()
    return row.reshape(side, -1, 3)


def _about(inversion: Inversion) -> dict[str, object]:
    return {"metrics": inversion.metrics, "crop_to_frame": inversion.crop_to_frame, "size": inversion.size}


def _check_paths(source: Path, target: Path) -> None:
    if not source.is_file():
        raise BadInputError(f"{source} {'is not a file' if source.exists() else 'does not exist'}; check the name")
    if not target.parent.is_dir():
        raise BadInputError(f"{target.parent} is not a folder; make it first")
    if target.is_dir():
        raise BadInputError(f"{target} is a folder; name a file")
    require_other(target, source)
    require_writable(target)


def _check_still(source: Path, options: EditOptions) -> None:
    if (
        options.start is not None
        or options.end is not None
        or options.preview
        or options.adapt
        or options.keep_lips
        or options.stitch
    ):
        raise BadInputError(
            f"{source.name} is no video; start, end, preview, adapt, keep-lips and stitch are for videos"
        )


def _check_codes(source: Path, options: EditOptions) -> None:
    """Codes are of one face already and have no picture to look at again or to be pasted into."""
    unused = EditOptions(seed=options.seed, balance=options.balance)
    asked = [
        field.name
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != getattr(unused, field.name)
    ]
    if asked:
        raise BadInputError(
            f"{source.name} holds codes; {', '.join(asked)} can be asked of pictures and clips only"
        )


def _check_image_output(source: Path, target: Path, options: EditOptions) -> None:
    if target.suffix.lower() not in STILLS:
        raise BadInputError(f"{source.name} gives an image: the output's name must end in {', '.join(STILLS)}")
    _check_still(source, options)


def _check_width(target: Path, width: int, what: str = "the faces side by side are {} px wide") -> None:
    widest = WIDEST.get(target.suffix.lower(), WIDEST_PNG)
    if width > widest:
        advice = "write a .png" if width <= WIDEST_PNG else "take a section with fewer frames"
        raise BadInputError(f"{what.format(width)}, and {target.suffix} holds {widest}: {advice}")


def _is_image(source: Path, target: Path) -> bool:
    """Whether one picture is taken of it; an animated GIF is a clip where the output's name is a video's."""
    with source.open("rb") as stream:
        kind = sniff(stream.read(HEAD))
    if kind == "image/gif" and target.suffix.lower() in CONTAINERS and count_frames(source) > 1:
        return False
    return kind.startswith("image/")  # of those that are not read, read_image says so


def _said_of_animation(source: Path) -> tuple[str, ...]:
    count = count_frames(source)
    if count < 2:
        return ()
    return (
        f"{source.name} is an animation: the first of its {count} frames was taken; save it as a video for all",
    )
