"""What an edit that is not for it moves of the expression, strength by strength, beside the judge's own noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.editing.directions import Edit, EditSet
from modules.editing.expression import QUANTITIES
from modules.perception.mesh import FaceMesh
from services.attributes import Measures
from services.balancing import Balancing
from services.direction_settings import DirectionSettings
from services.edits.directions_evaluation import Progress, as_served
from services.edits.encoded_codes import EncodedFrames
from services.edits.evaluation import ImageJudge, Move, measure_edits
from services.edits.instruments import Instruments
from services.edits.judge_noise import judge_noise, moved

AGE = "age"
Drift = dict[str, dict[str, dict[str, float]]]
"""By strength what ``judge_noise.moved`` says of each of ``QUANTITIES``."""


@dataclass(frozen=True)
class ExpressionJudge:
    """``judge(images)`` gives ``(N,)`` for each of ``QUANTITIES`` of FFHQ crops ``(N, 3, H, W)`` in [-1, 1].

    By the mesh; NaN where there is no face.
    """

    mesh: FaceMesh
    least_score: float
    """Of the mesh, below which a picture shows no face."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Measures:
        """Measure N pictures; see the class."""
        faces = self.mesh(images)
        seen = faces.score >= self.least_score
        return {
            name: torch.where(seen, quantity(faces.points), torch.nan).float().cpu().numpy()
            for name, quantity in QUANTITIES.items()
        }


def age_drift(
    frames: EncodedFrames,
    edits: EditSet[Edit],
    settings: DirectionSettings,
    balancing: Balancing,
    tools: Instruments,
    judge: ImageJudge,
    progress: Progress = lambda done, total: None,
) -> Drift:
    """Age balanced on some of each clip's frames, on the others, at the strengths that it is measured at."""
    served = as_served(frames, balancing)
    move = served.move(edits, balancing, tools)
    return expression_drift(
        served.measured.ws, AGE, settings.edits[AGE].measured, edits, tools, judge, progress, move
    )


def expression_drift(
    ws: Tensor,
    edit: str,
    strengths: Sequence[float],
    edits: EditSet[Edit],
    tools: Instruments,
    judge: ImageJudge,
    progress: Progress = lambda done, total: None,
    move: Move | None = None,
) -> Drift:
    """What ``judge``, which sees the expression, says of codes ``(N, num_ws, w_dim)`` under one edit.

    For ``move`` see ``measure_edits``.
    """
    readings = measure_edits(
        ws, edits, {edit: strengths}, tools.render, judge, tools.embed, progress=progress, move=move
    )
    with torch.no_grad():
        images = torch.cat([tools.render(one) for one in torch.split(ws, 1)]).clamp(-1, 1)
    noise = judge_noise(judge, images)
    rows = [row for row in readings.of(edit) if row.strength]
    return {f"{row.strength:+g}": moved(readings.start, [row], noise, noise) for row in rows}


def drift_markdown(edit: str, drift: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Mean and root mean square change over the noise of a difference of two readings, a line a strength."""
    names = list(next(iter(drift.values())))
    lines = [f"| {edit} | " + " | ".join(names) + " |", "|--:" * (len(names) + 1) + "|"]
    for strength, row in drift.items():
        cells = (f"{row[n]['mean'] / row[n]['noise']:+.1f} ({row[n]['rms'] / row[n]['noise']:.1f})" for n in names)
        lines.append(f"| {strength} | " + " | ".join(cells) + " |")
    return lines
