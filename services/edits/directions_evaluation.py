"""What the gate reads of a set of directions: measured on frames of persons that nothing was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.editing.balance import balance
from modules.editing.directions import Edit, EditRequest, EditSet, load_directions
from modules.model_folder import load_model
from services.balancing import Balancing, tried_and_measured
from services.direction_settings import DirectionSettings
from services.edits.encoded_codes import EncodedFrames
from services.edits.evaluation import ImageJudge, Readings, measure_edits, summarise
from services.edits.instruments import Instruments
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


@dataclass(frozen=True)
class ServedFrames:
    """Renderings of clips, edits balanced on some of each clip as in the pipeline, measured on the others."""

    looked_at: EncodedFrames
    """Each clip's first frames."""
    measured: EncodedFrames
    """Its others; of a clip with one frame, that one."""

    def move(self, edits: EditSet[Edit], balancing: Balancing, tools: Instruments) -> Callable[..., Tensor]:
        """``move(ws, request)`` for codes of ``measured``, each clip's edit balanced on what was looked at."""

        def moved(ws: Tensor, request: EditRequest) -> Tensor:
            result = ws.clone()
            for clip in dict.fromkeys(self.measured.clips):
                rows = [row for row, name in enumerate(self.measured.clips) if name == clip]
                seen = self.looked_at.ws[[row for row, name in enumerate(self.looked_at.clips) if name == clip]]

                def show(tried: Sequence[EditRequest], seen: Tensor = seen) -> Tensor:
                    shown = [tools.render(one) for one in torch.split(edits.apply(seen, tried), 1)]
                    return torch.cat(shown).float().clamp(-1, 1)

                measure = balancing.measure(show, tools.judge)
                more = balance([request], edits, balancing.typical, measure, balancing.config)
                result[rows] = edits.apply(ws[rows], [request, *more])
            return result

        return moved


def as_served(frames: EncodedFrames, balancing: Balancing) -> ServedFrames:
    """The first ``balance.frames`` of each clip, at most half of it, are looked at."""
    looked_at, measured = tried_and_measured(frames.clips, balancing.config.frames)
    return ServedFrames(_some(frames, looked_at), _some(frames, measured))


def _some(frames: EncodedFrames, rows: Sequence[int]) -> EncodedFrames:
    clips, people = tuple(frames.clips[row] for row in rows), tuple(frames.people[row] for row in rows)
    return replace(frames, ws=frames.ws[list(rows)], clips=clips, people=people)


def data_hash_of(frames: EncodedFrames, settings: DirectionSettings, balancing: Balancing) -> str:
    """Of everything but the edits that a number hangs on: codes, strengths, units and what the judge takes."""
    asked = {name: [edit.measured, edit.typical, edit.per_unit] for name, edit in settings.edits.items()}
    measured = [frames.data_hash, asked, settings.resolution, settings.least_score, repr(balancing)]
    return hashlib.sha256(json.dumps(measured).encode()).hexdigest()


def evaluation_of(
    summary: Mapping[str, Any],
    folder: Path,
    settings: DirectionSettings,
    frames: EncodedFrames,
    balancing: Balancing,
) -> Evaluation:
    """What the gate reads of a summary of the edits in ``folder``, measured on ``frames``.

    How far the slopes of age and yaw are from 1; the least likeness, each edit's at the smallest strength measured
    that is not below its usual one; the largest share of its own usual strength by which an edit moves what
    another edit is for and what it is to keep. ``frames`` counts those whose face was seen under every edit.
    """
    model, edits = load_model(folder), summary["edits"]
    others = [
        abs(effect)
        for name, edit in settings.edits.items()
        for other, effect in edits[name]["cross_effects"].items()
        if other in edit.keeps
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
        model_sha256=model.weights_sha256,
        config_sha256=model.config_sha256,
        generator_sha256=model.config["generator_sha256"],
        data_hash=data_hash_of(frames, settings, balancing),
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
    balancing: Balancing,
    tools: Instruments,
    progress: Progress = lambda done, total: None,
    second: ImageJudge | None = None,
) -> tuple[dict[str, Any], Evaluation]:
    """Measure the edits in ``folder`` on renderings of ``frames``: what they do before anything is pasted.

    A champion may be older than an edit, and is measured on those it has. Raises ``BadInputError`` if one lacks
    that the gate reads by name.
    """
    edits = load_directions(folder, tools.generator.sha256)
    if missing := {"age", "yaw"} - set(edits):
        raise BadInputError(f"{folder} lacks edits that are measured: {', '.join(sorted(missing))}")
    held = replace(
        settings,
        edits={name: edit for name, edit in settings.edits.items() if name in edits},
        alone={name: own for name, own in settings.alone.items() if name in edits},
        learned=(),
    )
    readings = measure_as_served(frames, edits, standard_strengths(held), balancing, tools, progress, second)
    summary = summary_of(readings, held)
    found = evaluation_of(summary, folder, held, frames, balancing)
    return summary, replace(found, data_hash=data_hash_of(frames, settings, balancing))


def measure_as_served(
    frames: EncodedFrames,
    edits: EditSet[Edit],
    strengths: Mapping[str, Sequence[float]],
    balancing: Balancing,
    tools: Instruments,
    progress: Progress = lambda done, total: None,
    second: ImageJudge | None = None,
) -> Readings:
    """Edits balanced on renderings of a part of each clip's frames, and measured on those of the others."""
    served = as_served(frames, balancing)
    return measure_edits(
        served.measured.ws, edits, strengths, tools.render, tools.judge, tools.embed, second, progress,
        served.move(edits, balancing, tools), tools.second_embed,
    )  # fmt: skip


def _identity(by_strength: Mapping[str, float], typical: float) -> float:
    strengths = sorted((float(strength), value) for strength, value in by_strength.items())
    return next(value for strength, value in strengths if strength >= typical)
