"""The stage ``directions``: label samples, fit and part boundaries, set units on renderings, write the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.latents import AttributeDataset, label_samples
from modules.editing.boundaries import (
    Boundary,
    RowGroups,
    block_covariance,
    fit_classes,
    fit_regression,
    part,
    symmetric_root,
    unmix,
)
from modules.editing.directions import Direction, EditSet, save_directions
from modules.generators import Generator
from modules.model_folder import load_model, weights_sha256
from modules.perception.identity import load_identity
from services.attributes import NAMES, AttributeJudge, load_attribute_judge
from services.directions_card import card
from services.evaluation_edits import (
    Embed,
    Readings,
    Render,
    as_markdown,
    measure_edits,
    numbers_of,
    slopes_between,
    summarise,
)
from services.evaluation_frames import spread
from services.refinement import Goal, RefineSettings, encoded_codes, refine, render_pool
from services.registry.gate import Evaluation, utc_now
from services.registry.tracking import Run
from services.runs import stage_run
from services.settings import ROOT, Params
from services.sheets import edits_sheet
from services.training_parts import training_generator

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

FOLDER = ROOT / "assets" / "directions"
SAMPLES, LABELS = ROOT / "build" / "samples", ROOT / "build" / "labels"
JUDGED_BY = "face-api age, mediapipe mesh, smile over the upper lip"
"""What labels of samples say of where they come from."""
CLIPS, RUNS = ROOT / "build" / "clips", ROOT / "build" / "runs"
FRAME_ENCODER = ROOT / "assets" / "frame-encoder"
POOL = RUNS / "direction-codes.safetensors"
METRICS = "metrics.json"
EVALUATION = ROOT / "metrics" / "directions.evaluation.json"
SHOWN = 3
"""Codes on which the run's sheet shows every edit."""
_COVARIANCE_CODES = 8_000
"""Codes of one z each, from which the covariance of W is taken; mapping them takes seconds."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class EditSettings:
    """One edit: what is fitted, where it acts, and what one unit of it is."""

    unit: str
    """What a user reads, e.g. ``years``."""
    per_unit: float
    """How much of the judge's number one unit is."""
    kind: Literal["number", "class"]
    """Whether the attribute is regressed, or a yes (positive) or no that is told apart."""
    rows: tuple[int, int]
    """Rows ``[first, last)`` of the codes that it moves."""
    keeps: tuple[str, ...]
    """Attributes that it must leave where they are."""
    lower: float
    """Smallest strength offered."""
    upper: float
    """Largest strength offered."""
    typical: float
    """Strength at which its effects on others are read."""
    probe: float
    """It is set to its unit between minus and plus this strength."""
    measured: tuple[float, ...]
    """Strengths at which the finished edit is measured."""


@dataclass(frozen=True)
class DirectionSettings:
    """Section ``directions``."""

    samples: int
    """Samples that are labelled, in whole shards."""
    held_out: int
    """Of them, those that only score the fits."""
    groups: tuple[int, ...]
    """First rows of the groups of rows that are fitted as one."""
    ridge: float
    """Penalty of the fits, in units of the features' own variance."""
    shrink: float
    """0 moves codes along what is likely in W, 1 straight across the boundary."""
    least_score: float
    """Of the mesh, below which a picture shows no face."""
    calibration_codes: int
    """Codes on which the units are set."""
    calibration_seed: int
    """Of these codes; the codes of the final measurement follow it."""
    calibration_rounds: int
    """Times that effects on others are measured and taken out."""
    calibration_frames: int
    """Frames of each training person's clip that join these codes once the directions were refined."""
    unmixed: float
    """Share of the effects on others measured after refining that is taken out, 0 to 1; 0 only sets units."""
    measured_codes: int
    """Other codes, on which the shipped directions are measured."""
    truncation: float
    """Psi of all these codes."""
    resolution: int
    """Side of the pictures that are measured, in pixels."""
    age_bands: tuple[float, ...]
    """Edges of the start ages, in years, by which the age edit is reported."""
    controls: tuple[str, ...]
    """Attributes that are fitted only so that edits can keep them."""
    edits: dict[str, EditSettings]
    """By name, in the order in which they are listed."""
    refine: RefineSettings
    """How the fitted directions go on learning through the judges."""


@dataclass(frozen=True)
class Instruments:
    """What renders codes and judges pictures."""

    generator: Generator
    render: Render
    judge: AttributeJudge
    embed: Embed


def train_directions(params: Params, say: Say = lambda line: None) -> Path:
    """Learn the edits from the samples and write them as a model folder; returns ``assets/directions``.

    Beside weights and card it holds ``metrics.json``. Reads ``build/samples``, keeps labels in ``build/labels``.
    Raises ``BadInputError`` where there are no samples.
    """
    settings = params.section("directions", DirectionSettings)
    tools = load_instruments(settings, params)
    with stage_run("directions", params, {"generator": tools.generator.sha256}) as run:
        return _learn(settings, tools, run, say)


def _learn(settings: DirectionSettings, tools: Instruments, run: Run, say: Say) -> Path:
    labels = label_samples(
        SAMPLES, LABELS, tools.judge, settings.samples,
        judged_by=JUDGED_BY,
        progress=lambda done, total: say(f"labelled {done} of {total} samples"),
    )  # fmt: skip
    pairs = AttributeDataset(SAMPLES, labels, NAMES)
    start, scores = fit_directions(pairs, tools.generator, settings)
    single = draw_single(
        tools.generator, settings.calibration_codes, settings.calibration_seed, settings.truncation
    )
    edits = calibrate(start, single, tools, settings, 0.0, say)
    refined_on = {"codes": 0, "encoded": 0}
    if settings.refine.training.steps:
        made, encoded = training_codes(pairs, tools.generator, settings)
        refined_on = {"codes": len(made) + len(encoded), "encoded": len(encoded)}
        edits = refine_on(torch.cat([made, encoded]), edits, tools, settings, run.lightning_logger(), say)
        encoded = encoded_codes(FRAME_ENCODER, CLIPS, settings.calibration_frames, tools.generator.sha256)
        edits = calibrate(edits, torch.cat([single, encoded]), tools, settings, settings.unmixed, say)
    asked = {name: edit.measured for name, edit in settings.edits.items()}
    readings = measure(edits, asked, tools, settings.calibration_seed + 1, settings.measured_codes, settings, say)
    summary = {**_summary(readings, settings), "fit": scores, "samples": len(pairs), "refined_on": refined_on}
    folder = save_directions(FOLDER, edits, card(summary, tools.generator.sha256))
    (folder / METRICS).write_text(json.dumps(_rounded(summary), indent=2) + "\n")
    evaluation = evaluation_of(summary, folder, settings)
    EVALUATION.parent.mkdir(exist_ok=True)
    EVALUATION.write_text(evaluation.to_json())
    say("\n".join(as_markdown(summary)))
    run.log_metrics({**numbers_of(summary), **evaluation.metrics})
    run.log_file(folder / METRICS)
    run.log_model(folder)
    shown = draw_single(tools.generator, SHOWN, settings.calibration_seed + 1, settings.truncation)
    run.log_image("edits", edits_sheet(shown, edits, tools.render))
    return folder


def evaluation_of(summary: Mapping[str, Any], folder: Path, settings: DirectionSettings) -> Evaluation:
    """What the gate reads: how far the slopes of age and yaw are from 1, and the least identity.

    Identity is taken at the smallest strength measured that is not below the usual one. Measured on generator
    samples: ``frames`` counts codes, each a person of its own.
    """
    model = load_model(folder)
    edits = summary["edits"]
    drawn = [settings.calibration_seed + 1, settings.measured_codes, settings.truncation, settings.resolution]
    asked = {name: edit.measured for name, edit in settings.edits.items()}
    metrics = {
        "age_slope_error": abs(edits["age"]["slope"] - 1),
        "yaw_slope_error": abs(edits["yaw"]["slope"] - 1),
        "identity": min(_identity(edits[name]["identity"], edit.typical) for name, edit in settings.edits.items()),
    }
    return Evaluation(
        model_sha256=weights_sha256(model.tensors),
        generator_sha256=model.config["generator_sha256"],
        data_hash=hashlib.sha256(json.dumps([drawn, asked]).encode()).hexdigest(),
        metrics=metrics,
        higher_is_better={"age_slope_error": False, "yaw_slope_error": False, "identity": True},
        frames=settings.measured_codes,
        clips=settings.measured_codes,
        created=utc_now(),
    )


def _identity(by_strength: Mapping[str, float], typical: float) -> float:
    strengths = sorted((float(strength), value) for strength, value in by_strength.items())
    return next(value for strength, value in strengths if strength >= typical)


def load_instruments(settings: DirectionSettings, params: Params) -> Instruments:
    """The default generator, in the precision of ``params.runtime``, and the judges."""
    generator, device = training_generator(params), params.runtime.torch_device()
    judge = load_attribute_judge(settings.least_score, device)
    identity = load_identity(device, judge.mesh)
    return Instruments(
        generator,
        lambda ws: generator.synthesize(ws.to(device), resolution=settings.resolution),
        judge,
        identity.embed,
    )


def fit_directions(
    pairs: AttributeDataset, generator: Generator, settings: DirectionSettings
) -> tuple[EditSet, dict[str, float]]:
    """Boundaries in the codes, parted from each other: the edits before calibration, and held-out scores."""
    groups = RowGroups(settings.groups, generator.num_ws)
    features = groups.features(pairs.ws.numpy())
    attributes = pairs.attributes.double().numpy()
    classes = {name for name, edit in settings.edits.items() if edit.kind == "class"}
    fitted = {
        name: _fit(features, attributes[:, pairs.names.index(name)], name in classes, settings)
        for name in (*settings.edits, *settings.controls)
    }
    names = list(fitted)
    normals = np.stack([fitted[name].normal for name in names])
    covariance = block_covariance(_single_codes(generator), len(settings.groups), settings.shrink)
    directions = []
    for k, (name, edit) in enumerate(settings.edits.items()):
        allowed = groups.allowed(edit.rows, generator.w_dim)
        kept = [names.index(other) for other in edit.keeps]
        feature = part(normals, k, covariance, allowed, kept) * edit.per_unit
        directions.append(_direction(name, edit, groups.rows(feature), generator))
    return EditSet(directions), {name: boundary.score for name, boundary in fitted.items()}


def calibrate(
    edits: EditSet, codes: Tensor, tools: Instruments, settings: DirectionSettings, unmixed: float, say: Say
) -> EditSet:
    """Make one unit of each edit one unit of its own attribute, as measured on ``codes`` ``(N, num_ws, w_dim)``.

    ``unmixed`` is the share of what each was measured to do to the others that is taken out with it.
    """
    names = list(edits)
    per_unit = np.array([settings.edits[name].per_unit for name in names])
    own = np.eye(len(names), dtype=bool)
    probes = {name: (-edit.probe, edit.probe) for name, edit in settings.edits.items()}
    for turn in range(settings.calibration_rounds):
        readings = measure_edits(
            codes, edits, probes, tools.render, tools.judge, tools.embed, progress=_progress(say)
        )
        response = np.stack([slopes_between(readings, name, names) for name in names])
        response = np.where(own, response, unmixed * response)
        vectors = np.stack([edits[name].vector.double().numpy() for name in names])
        mixed = unmix(vectors, response, per_unit, ~own)
        edits = EditSet(
            replace(edits[name], vector=torch.from_numpy(vector).float())
            for name, vector in zip(names, mixed, strict=True)
        )
        found = ", ".join(f"{name} {response[k, k] / per_unit[k]:.2f}" for k, name in enumerate(names))
        say(f"round {turn + 1}: slopes were {found}")
    return edits


def training_codes(
    pairs: AttributeDataset, generator: Generator, settings: DirectionSettings
) -> tuple[Tensor, Tensor]:
    """What directions are refined on: made codes, of one z and mixed, and codes of training persons' frames."""
    config = settings.refine
    single = draw_single(generator, config.singles, config.seed, settings.truncation)
    mixed = torch.stack([pairs[i][0] for i in spread(len(pairs), config.mixed)])
    return torch.cat([single, mixed]), encoded_codes(FRAME_ENCODER, CLIPS, config.per_clip, generator.sha256)


def refine_on(
    codes: Tensor,
    edits: EditSet,
    tools: Instruments,
    settings: DirectionSettings,
    logger: Logger | bool,
    say: Say,
) -> EditSet:
    """Refine on ``codes`` ``(N, num_ws, w_dim)``; renderings and checkpoints are kept in ``build/runs``."""
    pool = render_pool(
        codes, tools.render, POOL, f"{tools.generator.sha256} {settings.resolution}",
        progress=lambda done, total: say(f"rendered {done} of {total} codes"),
    )  # fmt: skip
    goals = {name: Goal(edit.rows, edit.per_unit, edit.typical) for name, edit in settings.edits.items()}
    root = symmetric_root(block_covariance(_single_codes(tools.generator), 1, settings.shrink))
    say(f"refining on {len(codes)} codes")
    return refine(edits, goals, pool, root, tools.render, tools.judge, tools.embed, settings.refine, RUNS, logger)


def measure(
    edits: EditSet,
    asked: Mapping[str, Sequence[float]],
    tools: Instruments,
    seed: int,
    codes: int,
    settings: DirectionSettings,
    say: Say,
) -> Readings:
    """Measure edits at the strengths ``asked`` on generator samples of one z each."""
    return measure_edits(
        draw_single(tools.generator, codes, seed, settings.truncation),
        edits,
        asked,
        tools.render,
        tools.judge,
        tools.embed,
        progress=_progress(say),
    )


def draw_single(generator: Generator, count: int, seed: int, truncation: float) -> Tensor:
    """``(count, num_ws, w_dim)`` codes of one z each, on the CPU."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return generator.map(z.to(generator.w_mean.device), truncation).float().cpu()


def _progress(say: Say) -> Callable[[int, int], None]:
    return lambda done, total: say(f"measured {done} of {total} edits")


def _single_codes(generator: Generator) -> NDArray[np.float64]:
    return draw_single(generator, _COVARIANCE_CODES, 0, 1.0)[:, 0].double().numpy()


def _fit(
    features: NDArray[np.float64], values: NDArray[np.float64], is_class: bool, settings: DirectionSettings
) -> Boundary:
    if is_class:
        return fit_classes(features, values > 0, settings.ridge, settings.held_out)
    return fit_regression(features, values, settings.ridge, settings.held_out)


def _direction(name: str, edit: EditSettings, vector: NDArray[np.float64], generator: Generator) -> Direction:
    tensor = torch.from_numpy(vector).float()
    return Direction(name, edit.unit, tensor, edit.lower, edit.upper, generator.sha256)


def _summary(readings: Readings, settings: DirectionSettings) -> dict[str, Any]:
    typical = {name: edit.typical for name, edit in settings.edits.items()}
    units = {name: edit.per_unit for name, edit in settings.edits.items()}
    return summarise(readings, typical, units, settings.age_bands)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
