"""What the gate reads of a set of directions: measured on frames of persons that nothing was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.types import BadInputError
from modules.editing.directions import load_directions
from modules.model_folder import load_model, weights_sha256
from services.direction_settings import DirectionSettings
from services.encoded_codes import EncodedFrames
from services.evaluation_edits import ImageJudge, Readings, measure_edits, summarise
from services.instruments import Instruments
from services.registry.gate import Evaluation, utc_now

Progress = Callable[[int, int], None]


def standard_strengths(settings: DirectionSettings) -> dict[str, tuple[float, ...]]:
    """Strengths at which every set is measured."""
    return {name: edit.measured for name, edit in settings.edits.items()}


def summary_of(readings: Readings, settings: DirectionSettings) -> dict[str, Any]:
    """Slopes, likeness and cross-effects of the edits that ``params.yaml`` names, as plain numbers."""
    typical = {name: edit.typical for name, edit in settings.edits.items()}
    units = {name: edit.per_unit for name, edit in settings.edits.items()}
    return summarise(readings, typical, units, settings.age_bands)


def data_hash_of(frames: EncodedFrames, settings: DirectionSettings) -> str:
    """Of everything but the edits that a number hangs on: codes, strengths, units and what the judge takes."""
    asked = {name: [edit.measured, edit.typical, edit.per_unit] for name, edit in settings.edits.items()}
    measured = [frames.data_hash, asked, settings.resolution, settings.least_score]
    return hashlib.sha256(json.dumps(measured).encode()).hexdigest()


def evaluation_of(
    summary: Mapping[str, Any], folder: Path, settings: DirectionSettings, frames: EncodedFrames
) -> Evaluation:
    """What the gate reads of a summary of the edits in ``folder``, measured on ``frames``.

    How far the slopes of age and yaw are from 1; the least likeness, each edit's at the smallest strength measured
    that is not below its usual one; the largest share of its own usual strength by which an edit moves what
    another edit is for. ``frames`` counts those whose face was seen under every edit.
    """
    model, edits = load_model(folder), summary["edits"]
    others = [
        abs(effect)
        for name in settings.edits
        for other, effect in edits[name]["cross_effects"].items()
        if other != name
    ]
    metrics = {
        "age_slope_error": abs(edits["age"]["slope"] - 1),
        "yaw_slope_error": abs(edits["yaw"]["slope"] - 1),
        # Not min() and max(): they leave a NaN out wherever it does not stand first.
        "identity": float(
            np.min([_identity(edits[name]["identity"], edit.typical) for name, edit in settings.edits.items()])
        ),
        "cross_effect": float(np.max(others)),
    }
    return Evaluation(
        model_sha256=weights_sha256(model.tensors),
        generator_sha256=model.config["generator_sha256"],
        data_hash=data_hash_of(frames, settings),
        metrics=metrics,
        higher_is_better={name: name == "identity" for name in metrics},
        frames=min(edits[name]["seen"] for name in settings.edits),
        clips=len(set(frames.clips)),
        created=utc_now(),
    )


def evaluate_directions(
    folder: Path,
    frames: EncodedFrames,
    settings: DirectionSettings,
    tools: Instruments,
    progress: Progress = lambda done, total: None,
    second: ImageJudge | None = None,
) -> tuple[dict[str, Any], Evaluation]:
    """Measure the edits in ``folder`` on ``frames``; raises ``BadInputError`` where one is missing."""
    edits = load_directions(folder, tools.generator.sha256)
    missing = settings.edits.keys() - set(edits)
    if missing:
        raise BadInputError(f"{folder} lacks edits that are measured: {', '.join(sorted(missing))}")
    readings = measure_edits(
        frames.ws, edits, standard_strengths(settings), tools.render, tools.judge, tools.embed, second, progress
    )
    summary = summary_of(readings, settings)
    return summary, evaluation_of(summary, folder, settings, frames)


def _identity(by_strength: Mapping[str, float], typical: float) -> float:
    strengths = sorted((float(strength), value) for strength, value in by_strength.items())
    return next(value for strength, value in strengths if strength >= typical)
