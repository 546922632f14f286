"""The stage ``directions``: label samples, fit and part boundaries, set units on renderings, write the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

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
    unmix,
)
from modules.editing.directions import Direction, EditSet, save_directions
from modules.generators import Generator, load_generator
from modules.generators.mobile import MobileStyleGAN
from modules.model_folder import load_model, weights_sha256
from modules.perception.identity import load_identity
from services.attributes import NAMES, load_attribute_judge
from services.evaluation_edits import (
    Embed,
    ImageJudge,
    Readings,
    Render,
    as_markdown,
    measure_edits,
    numbers_of,
    slopes_between,
    summarise,
)
from services.registry.gate import Evaluation, utc_now
from services.registry.tracking import Run
from services.runs import stage_run
from services.settings import ROOT, Params
from services.sheets import edits_sheet

FOLDER = ROOT / "assets" / "directions"
SAMPLES, LABELS = ROOT / "build" / "samples", ROOT / "build" / "labels"
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
    unmixed: float
    """Share of the measured effects on others that is taken out, 0 to 1; 0 only sets units."""
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


@dataclass(frozen=True)
class Instruments:
    """What renders codes and judges pictures."""

    generator: Generator
    render: Render
    judge: ImageJudge
    embed: Embed


def train_directions(params: Params, say: Say = lambda line: None) -> Path:
    """Learn the edits from the samples and write them as a model folder; returns ``assets/directions``.

    Beside weights and card it holds ``metrics.json``. Reads ``build/samples``, keeps labels in ``build/labels``.
    Raises ``BadInputError`` where there are no samples.
    """
    settings = params.section("directions", DirectionSettings)
    tools = load_instruments(settings, params.runtime.torch_device())
    with stage_run("directions", params, {"generator": tools.generator.sha256}) as run:
        return _learn(settings, tools, run, say)


def _learn(settings: DirectionSettings, tools: Instruments, run: Run, say: Say) -> Path:
    labels = label_samples(
        SAMPLES, LABELS, tools.judge, settings.samples,
        judged_by="face-api age, mediapipe mesh",
        progress=lambda done, total: say(f"labelled {done} of {total} samples"),
    )  # fmt: skip
    pairs = AttributeDataset(SAMPLES, labels, NAMES)
    start, scores = fit_directions(pairs, tools.generator, settings)
    edits = calibrate(start, tools, settings, say)
    asked = {name: edit.measured for name, edit in settings.edits.items()}
    readings = measure(edits, asked, tools, settings.calibration_seed + 1, settings.measured_codes, settings, say)
    summary = {**_summary(readings, settings), "fit": scores, "samples": len(pairs)}
    folder = save_directions(FOLDER, edits, _card(summary, tools.generator))
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


def load_instruments(settings: DirectionSettings, device: str) -> Instruments:
    """The default generator, in bfloat16 features, and the judges."""
    generator = load_generator(device=device)
    if isinstance(generator, MobileStyleGAN):
        generator.compute_dtype = torch.bfloat16
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


def calibrate(edits: EditSet, tools: Instruments, settings: DirectionSettings, say: Say) -> EditSet:
    """Take out what each edit was measured to do to others, and make one unit of it one unit of its own."""
    names = list(edits)
    per_unit = np.array([settings.edits[name].per_unit for name in names])
    held = np.array([[other in settings.edits[name].keeps for other in names] for name in names])
    probes = {name: (-edit.probe, edit.probe) for name, edit in settings.edits.items()}
    for turn in range(settings.calibration_rounds):
        readings = measure(
            edits, probes, tools, settings.calibration_seed, settings.calibration_codes, settings, say
        )
        response = np.stack([slopes_between(readings, name, names) for name in names])
        response = np.where(np.eye(len(names), dtype=bool), response, settings.unmixed * response)
        vectors = np.stack([edits[name].vector.double().numpy() for name in names])
        mixed = unmix(vectors, response, per_unit, held)
        edits = EditSet(
            replace(edits[name], vector=torch.from_numpy(vector).float())
            for name, vector in zip(names, mixed, strict=True)
        )
        own = ", ".join(f"{name} {response[k, k] / per_unit[k]:.2f}" for k, name in enumerate(names))
        say(f"round {turn + 1}: slopes were {own}")
    return edits


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
        progress=lambda done, total: say(f"measured {done} of {total} edits"),
    )


def draw_single(generator: Generator, count: int, seed: int, truncation: float) -> Tensor:
    """``(count, num_ws, w_dim)`` codes of one z each, on the CPU."""
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return generator.map(z.to(generator.w_mean.device), truncation).float().cpu()


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


def _card(summary: Mapping[str, Any], generator: Generator) -> str:
    """Data, metrics, limits and licence."""
    scores = ", ".join(f"{name} {score:.2f}" for name, score in summary["fit"].items())
    return _CARD.format(
        sha256=generator.sha256, samples=summary["samples"], scores=scores, tables="\n".join(as_markdown(summary))
    )


_CARD = """# Linear edits of a face

Directions in W+ of the generator `{sha256}`.

## Data

{samples} pictures that this generator made itself, labelled by face-api's age and gender net and by MediaPipe's
face mesh; no picture of a person. Boundaries were fitted with scikit-learn, parted from each other, and set to
their units by measuring renderings (`stylereel train directions`).

Held-out scores of the fits (share of variance; gender: right answers): {scores}.

## Metrics

On other generator samples, by the judges the edits were set with. A slope of 1 means that what was asked is what
was got. In the second table a row is an edit at a usual strength; a cell says how far it moves an attribute, as a
share of that attribute's own usual strength.

{tables}

## Limits

The age net pulls to the middle on generated faces, so years are that net's years. The mesh follows blinks weakly,
so eyes_open is a visible change, not a blink. What goes together in the generator's data (glasses and grey hair
with age, make-up and hair with gender) moves along in part.

## Licence

Learned from random-face's MobileStyleGAN (Apache-2.0 as packaged), which was distilled from NVIDIA's FFHQ model,
whose own terms are non-commercial.
"""
