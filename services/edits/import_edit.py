"""Turn somebody's direction into a model folder: measured on samples, set to a unit, shown on a sheet."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from datamodules.disk import write_whole
from datamodules.images import write_image
from datamodules.types import BadInputError
from modules.editing.directions import KIND, Direction, EditSet, load_directions, save_directions
from modules.editing.published_edits import Kind, Part, PublishedEdit, read_edit
from modules.model_folder import load_model, require_replaceable
from modules.sheet import Image, Row, draw_sheet, to_picture
from services.balancing import Balancing, balancing_of
from services.direction_settings import DirectionSettings
from services.edits.directions_evaluation import evaluation_of, measure_as_served, standard_strengths, summary_of
from services.edits.encoded_codes import EncodedFrames, frames_of_test_persons
from services.edits.evaluation import Readings, measure_edits, slopes_between
from services.edits.instruments import Instruments, draw_single, load_instruments
from services.pipeline.sidecar import file_sha256
from services.progress import Meter, Report, never
from services.settings import Params

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class ImportedEditsConfig:
    """Section ``imported_edits``: how published edits are measured and set to a unit."""

    reach: dict[Kind, float]
    """Kind of file to the largest strength that is offered, in the file's own steps."""
    probe: float
    """Share of the reach at which a unit is set, in both directions."""
    least_effect: float
    """Share of an attribute's usual strength that the probe has to move it by to be given its unit."""
    sheet_codes: int
    """Faces on the sheet."""


@dataclass(frozen=True)
class EditChoice:
    """What the user chooses about an imported edit; None leaves it to the file and to ``params.yaml``."""

    name: str | None = None
    unit: str | None = None
    """What one step is called."""
    attribute: str | None = None
    """One of ``directions.edits`` whose unit the edit is set to by measuring."""
    lower: float | None = None
    upper: float | None = None
    recolours: bool | None = None
    """Whether it is for colours; without, as the attribute's own edit, and where there is none it is."""
    part: Part = field(default_factory=Part)
    """Which part of the file."""
    beside: Path | None = None
    """Folder of edits that are written to the new folder too."""
    generator: str | None = None
    """Whose codes are moved: what ``load_generator`` takes."""


def import_edit(file: Path, folder: Path, choice: EditChoice, params: Params, report: Report) -> list[str]:
    """Write the edit in ``file`` as a model folder, ``FOLDER-samples.png`` next to it; returns what to say of it.

    With ``beside`` the whole set is measured on the test persons, as ``assets/directions`` was, and
    ``FOLDER.evaluation.json`` is what the gate reads; where that cannot be, the last line says why. Raises
    ``BadInputError``; nothing is written then.
    """
    settings = params.section("directions", DirectionSettings)
    config = params.section("imported_edits", ImportedEditsConfig)
    name = choice.name or _slug(file)
    if not _NAME.fullmatch(name):
        raise BadInputError(f"an edit cannot be called {name!r}; --name takes small letters, digits and _")
    if choice.attribute is not None and choice.attribute not in settings.edits:
        raise BadInputError(f"nothing measures {choice.attribute!r}; --attribute is {', '.join(settings.edits)}")
    require_replaceable(folder, KIND)
    tools = load_instruments(settings, params, choice.generator)
    found = read_edit(file, tools.generator, choice.part)
    others = load_directions(choice.beside, tools.generator.sha256) if choice.beside else EditSet([])
    if name in others:
        raise BadInputError(f"{choice.beside} has an edit {name!r} already; give this one another --name")
    edit = _with_unit(name, found, choice, tools, settings, config, report)
    asked = {name: tuple(s for s in (edit.lower, edit.lower / 2, edit.upper / 2, edit.upper) if s)}
    lines = _effects(edit, _measure(EditSet([edit]), asked, tools, settings, report, "measure"), settings)
    edits = EditSet([*others.values(), edit])
    standard = {other: strengths for other, strengths in standard_strengths(settings).items() if other in others}
    frames, why_not = _frames_for_gate(standard, tools, settings) if choice.beside else (None, "")
    readings, balancing = None, balancing_of(params)
    if frames is not None:
        strengths = {**standard, **asked}
        meter = Meter("measure the set", 1 + sum(len(values) for values in strengths.values()), report, never)
        readings = measure_as_served(
            frames, edits, strengths, balancing, tools, lambda done, total: meter.advance()
        )
    note = "" if choice.beside is None else load_model(choice.beside).card
    save_directions(folder, edits, _card(file, found, edit, lines, note))
    sheet = folder.with_name(f"{folder.name}-samples.png")
    write_image(sheet, _sheet(edit, tools, settings, config.sheet_codes))
    lines = [f"{file.name}: {found.format}, generator sha256 {edit.generator_sha256}", *lines]
    lines.append(f"written to {folder}, samples in {sheet}")
    if frames is not None and readings is not None:
        lines.append(_evaluate(folder, edit, readings, frames, settings, balancing))
    elif why_not:
        lines.append(f"{why_not}; the set can be used with --directions, not promoted")
    return lines


def _with_unit(
    name: str,
    found: PublishedEdit,
    choice: EditChoice,
    tools: Instruments,
    settings: DirectionSettings,
    config: ImportedEditsConfig,
    report: Report,
) -> Direction:
    """The edit with its unit and bounds; with an attribute, one step of it is one of the attribute's."""
    reach = config.reach[found.kind]
    sha256 = tools.generator.sha256
    raw = Direction(name, choice.unit or found.unit, found.vector, -reach, reach, sha256, found.matrix)
    scale, lower, upper = 1.0, -reach, reach
    if choice.attribute is not None:
        usual = settings.edits[choice.attribute]
        probe = config.probe * reach
        readings = _measure(EditSet([raw]), {name: (-probe, probe)}, tools, settings, report, "set the unit")
        slope = float(slopes_between(readings, name, [choice.attribute])[0]) / usual.per_unit
        if not abs(slope) * probe >= config.least_effect * usual.typical:
            raise BadInputError(
                f"{probe:g} {found.unit} of it move {choice.attribute} by {slope * probe:+.2g} "
                f"{_short(usual.unit)}, too little to count in; choose another --attribute, or none"
            )
        scale = 1.0 / slope
        # Not beyond the file's own reach: there the faces fall apart, however far the attribute got.
        lower, upper = max(usual.lower, -reach * abs(slope)), min(usual.upper, reach * abs(slope))
        lower, upper = float(f"{lower:.2g}"), float(f"{upper:.2g}")
        raw = replace(raw, unit=choice.unit or usual.unit)
    lower = lower if choice.lower is None else choice.lower
    upper = upper if choice.upper is None else choice.upper
    if not (math.isfinite(lower) and math.isfinite(upper) and lower <= 0 <= upper and lower < upper):
        raise BadInputError(f"the bounds {lower:g} to {upper:g} must be finite and enclose 0")
    recolours = choice.attribute is None or settings.edits[choice.attribute].recolours
    return replace(
        raw,
        vector=raw.vector * scale,
        matrix=None if raw.matrix is None else raw.matrix * scale,
        lower=lower,
        upper=upper,
        recolours=recolours if choice.recolours is None else choice.recolours,
        attribute=choice.attribute or "",
    )


def _measure(
    edits: EditSet,
    asked: Mapping[str, Sequence[float]],
    tools: Instruments,
    settings: DirectionSettings,
    report: Report,
    stage: str,
) -> Readings:
    """On samples of the generator, which need no clips."""
    meter = Meter(stage, 1 + sum(len(values) for values in asked.values()), report, never)
    ws = draw_single(tools.generator, settings.measured_codes, settings.calibration_seed + 1, settings.truncation)
    return measure_edits(
        ws, edits, asked, tools.render, tools.judge, tools.embed,
        progress=lambda done, total: meter.advance(),
    )  # fmt: skip


def _effects(edit: Direction, readings: Readings, settings: DirectionSettings) -> list[str]:
    """What one unit does and what is left of the person, one line each."""
    names = list(settings.edits)
    slopes = slopes_between(readings, edit.name, names)
    moved = ", ".join(
        f"{name} {slope / settings.edits[name].per_unit:+.2g} {_short(settings.edits[name].unit)}"
        for name, slope in zip(names, slopes, strict=True)
    )
    rows = [row for row in readings.of(edit.name) if row.strength]
    kept = ", ".join(f"{row.identity.mean():.2f} at {row.strength:+g}" for row in rows)
    lines = [
        f"edit {edit.name!r}: {edit.lower:+g} to {edit.upper:+g} {edit.unit}",
        f"+1 moves {moved} (slopes over {len(readings.start.identity)} samples)",
        f"identity {kept}",
    ]
    if edit.recolours:
        lines.append("light and complexion change with it; --keep-colours leaves them as they are")
    lost = max(float(np.isnan(row.measures["yaw"]).mean()) for row in rows)
    if lost > 0:
        lines.append(f"no face is left in {lost:.0%} of the samples at one of these strengths: narrow the bounds")
    turned = abs(slopes[names.index("yaw")]) if "yaw" in names else 0.0
    if edit.unit != "degrees" and turned * max(-edit.lower, edit.upper) > settings.edits["yaw"].typical:
        lines.append("it turns the head: edit with '--paste replace --region head', or import it with yaw's unit")
    return lines


def _frames_for_gate(
    standard: Mapping[str, Sequence[float]], tools: Instruments, settings: DirectionSettings
) -> tuple[EncodedFrames | None, str]:
    """What a set with the edits ``standard`` is measured on for the gate; where that cannot be, why."""
    if standard.keys() != settings.edits.keys():
        return None, f"the set lacks edits that the gate's evaluation needs ({', '.join(settings.edits)})"
    try:
        return frames_of_test_persons(settings, tools.generator.sha256), ""
    except BadInputError as error:
        return None, str(error)


def _evaluate(
    folder: Path,
    edit: Direction,
    readings: Readings,
    frames: EncodedFrames,
    settings: DirectionSettings,
    balancing: Balancing,
) -> str:
    """Write what the gate reads; returns the line that says so."""
    evaluation = evaluation_of(summary_of(readings, settings), folder, settings, frames, balancing)
    halves = (edit.lower / 2, edit.upper / 2)
    rows = [row for row in readings.of(edit.name) if row.strength in halves and row.strength]
    least = float(np.min([evaluation.metrics["identity"], *(float(row.identity.mean()) for row in rows)]))
    path = folder.with_name(f"{folder.name}.evaluation.json")
    write_whole(path, replace(evaluation, metrics={**evaluation.metrics, "identity": least}).to_json())
    return f"to serve the set: stylereel register {folder} --evaluation {path}"


def _sheet(edit: Direction, tools: Instruments, settings: DirectionSettings, count: int) -> Image:
    ws = draw_single(tools.generator, count, settings.calibration_seed + 1, settings.truncation)
    rows = []
    with torch.no_grad():
        for strength in (edit.lower, 0.0, edit.upper):
            shown = [tools.render(edit(one, strength))[0] for one in torch.split(ws, 1)]
            label = f"{edit.name} {strength:+g}" if strength else "as it is"
            rows.append(Row([to_picture(image) for image in shown], label))
    return draw_sheet(rows, min(settings.resolution, tools.generator.resolution))


def _card(file: Path, found: PublishedEdit, edit: Direction, lines: Sequence[str], others: str) -> str:
    measured = "\n".join(f"- {line}" for line in lines)
    text = (
        f"# Imported edit: {edit.name}\n\n"
        f"From `{file.name}` (sha256 {file_sha256(file)}): {found.format}. For the generator "
        f"`{edit.generator_sha256}`.\n\n"
        "## Metrics\n\nOn samples of this generator, by face-api's age and gender net, MediaPipe's face mesh and "
        f"fr_feature:\n\n{measured}\n\n"
        "## Data and licence\n\nThose of the file's authors; look them up before you use or share this folder.\n"
    )
    return text if not others else f"{text}\nThe other edits of this folder:\n\n{others}"


def _short(unit: str) -> str:
    return unit.split(" (")[0]


def _slug(file: Path) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", file.name.lower().split(".")[0]).strip("_")
    return slug if slug[:1].isalpha() else f"edit_{slug}".rstrip("_")
