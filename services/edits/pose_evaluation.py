"""How the pose editor's edits are measured: slopes, likeness, and what else moves beside the judge's own noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.editing.expression import QUANTITIES
from modules.editing.pose import EXPRESSIONS, SHIFTS, TURNS, PoseEditSettings, load_pose_editor
from modules.model_folder import load_model
from modules.perception.face_shape import UNIT, FaceBasis
from modules.perception.landmarks import head_pose
from modules.perception.mesh import FaceMesh
from modules.perception.second_judges import SecondJudges
from services.attributes import Measures, SecondAttributeJudge
from services.edits.encoded_codes import EncodedFrames
from services.edits.evaluation import Readings, as_markdown, measure_edits, summarise
from services.edits.instruments import Instruments
from services.edits.judge_noise import judge_noise, moved
from services.edits.pose_settings import PoseEditorSettings
from services.registry.gate import Evaluation, utc_now

_PERCENT = UNIT / 100
_TURNING = ("pose.yaw", "pose.roll", "pose.right")
"""Measures of which a mirrored face has the opposite."""


@dataclass(frozen=True)
class PoseJudge:
    """Mesh and face model: ``judge(images)`` takes FFHQ crops ``(N, 3, H, W)`` in [-1, 1], gives ``(N,)`` each.

    By the names of ``modules.editing.pose``: turns in degrees, shifts in percent of the crop, expressions as
    ``modules.editing.expression`` has them. NaN where there is no face.
    """

    mesh: FaceMesh
    basis: FaceBasis
    least_score: float
    """Of the mesh, below which a picture shows no face."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Measures:
        """Measure N pictures; see the class."""
        faces = self.mesh(images)
        points = faces.points * (UNIT / images.shape[3])
        pose, place = head_pose(points), self.basis.own_axes(points)[2] / _PERCENT
        values = {
            **dict(zip(TURNS, (pose.yaw, pose.pitch, pose.roll), strict=True)),
            **dict(zip(SHIFTS, place.unbind(dim=1), strict=True)),
            **dict(zip(EXPRESSIONS, (quantity(points) for quantity in QUANTITIES.values()), strict=True)),
        }
        seen = faces.score >= self.least_score
        return {name: torch.where(seen, value, torch.nan).float().cpu().numpy() for name, value in values.items()}


def second_judge(judge: SecondAttributeJudge) -> Callable[[Tensor], Measures]:
    """The turns by a net that is in no loss, under the names of this module."""

    def measure(images: Tensor) -> Measures:
        found = judge(images)
        return {turn: found[turn.removeprefix("pose.")] for turn in TURNS}

    return measure


def drift(
    readings: Readings, noise: Mapping[str, float], offered: Mapping[str, PoseEditSettings]
) -> dict[str, Any]:
    """For each edit at its usual strengths, what it moves of every other measure: see ``judge_noise.moved``."""
    table: dict[str, Any] = {}
    for name, edit in offered.items():
        rows = [r for r in readings.edited if r.edit == name and abs(abs(r.strength) - edit.typical) < 1e-6]
        table[name] = moved(readings.start, rows, noise, [other for other in offered if other != name])
    return table


def drift_table(table: Mapping[str, Any], offered: Mapping[str, PoseEditSettings]) -> list[str]:
    """The drift as a table: root mean square change over the noise of a difference of two readings; 1 is noise.

    No number stands where no noise was seen: one picture shows none of what turns.
    """

    def cell(found: Mapping[str, float]) -> str:
        return f"{found['rms'] / found['noise']:.1f}" if found["noise"] > 0 else "—"

    lines = ["| edit \\ moves | " + " | ".join(offered) + " |", "|---" * (len(offered) + 1) + "|"]
    for name, edit in offered.items():
        cells = ["—" if other == name else cell(table[name][other]) for other in offered]
        lines.append(f"| {name} ±{edit.typical:g} | " + " | ".join(cells) + " |")
    return lines


def slopes_table(summary: Mapping[str, Any]) -> list[str]:
    """The first table of ``as_markdown``, and what was got at every strength that was asked."""
    lines = as_markdown(summary)
    first = lines[2 : lines.index("", 2)]
    got = ["", "| edit | asked: got |", "|---|---|"]
    for name, entry in summary["edits"].items():
        pairs = ", ".join(f"{a:+g}: {g:+.2f}" for a, g in zip(entry["asked"], entry["got"], strict=True) if a)
        got.append(f"| {name} | {pairs} |")
    return [*first, *got]


def data_hash_of(frames: EncodedFrames, settings: PoseEditorSettings) -> str:
    """Of everything but the editor that a number hangs on: codes, strengths, units and what the judge takes."""
    asked = {name: [edit.measured, edit.typical, edit.per_unit] for name, edit in settings.edits.items()}
    measured = [frames.data_hash, asked, settings.resolution, settings.least_score]
    return hashlib.sha256(json.dumps(measured).encode()).hexdigest()


def evaluation_of(
    summary: Mapping[str, Any],
    drifts: Mapping[str, Any],
    folder: Path,
    settings: PoseEditorSettings,
    frames: EncodedFrames,
) -> Evaluation:
    """What the gate reads: yaw's error of slope by both judges, likeness at its ends, what it does to expressions.

    ``expression_drift`` is the largest mean change of an expression under yaw, over the noise of a difference of
    two readings. Of pitch only the slope's error counts. ``frames`` counts those whose face was seen under every
    edit.
    """
    model, edits = load_model(folder), summary["edits"]
    yaw = edits["pose.yaw"]
    changed = [drifts["pose.yaw"][name] for name in EXPRESSIONS if name in drifts["pose.yaw"]]
    metrics = {
        "yaw_slope_error": abs(yaw["slope"] - 1),
        "yaw_second_slope_error": abs(yaw["second_judge"]["slope"] - 1),
        "pitch_slope_error": abs(edits["pose.pitch"]["slope"] - 1),
        # Not min() and max(): they leave a NaN out wherever it does not stand first.
        "identity": float(np.min(list(yaw["identity"].values()))),
        "expression_drift": float(np.max([0.0, *(abs(row["mean"]) / row["noise"] for row in changed)])),
    }
    return Evaluation(
        model_sha256=model.weights_sha256,
        config_sha256=model.config_sha256,
        generator_sha256=model.config["generator_sha256"],
        data_hash=data_hash_of(frames, settings),
        metrics=metrics,
        higher_is_better={name: name == "identity" for name in metrics},
        frames=min(edits[name]["seen"] for name in settings.edits),
        clips=len(set(frames.clips)),
        created=utc_now(),
    )


def evaluate_pose_editor(
    folder: Path,
    frames: EncodedFrames,
    settings: PoseEditorSettings,
    tools: Instruments,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[list[str], Evaluation]:
    """Measure the editor in ``folder`` on ``frames``: Markdown lines, and what the gate reads.

    What is asked and in which units is ``settings``', not the folder's, so that two editors compare. Raises
    ``BadInputError`` where the folder lacks an edit that is asked.
    """
    loaded = load_pose_editor(folder, tools.generator.sha256)
    edits = loaded.edits()
    if missing := settings.edits.keys() - loaded.offered.keys():
        raise BadInputError(f"{folder} lacks edits that are measured: {', '.join(sorted(missing))}")
    with torch.no_grad():
        images = torch.cat([tools.render(one).clamp(-1, 1).cpu() for one in torch.split(frames.ws, 1)])
    judge = PoseJudge(tools.judge.mesh, loaded.basis, settings.least_score)
    second = second_judge(SecondAttributeJudge(SecondJudges(), tools.judge.mesh, settings.least_score))
    readings = measure_edits(
        frames.ws, edits, {name: edit.measured for name, edit in settings.edits.items()}, tools.render, judge,
        tools.embed, second, lambda done, total: say(f"measured {done} of {total} edits"),
        second_embed=tools.second_embed,
    )  # fmt: skip
    typical = {name: edit.typical for name, edit in settings.edits.items()}
    units = {name: edit.per_unit for name, edit in settings.edits.items()}
    summary = summarise(readings, typical, units, ())
    drifts = drift(readings, judge_noise(judge, images, _TURNING), settings.edits)
    evaluation = evaluation_of(summary, drifts, folder, settings, frames)
    lines = [
        f"Frames of {len(set(frames.people))} persons in {evaluation.clips} clips.",
        *as_markdown(summary)[:2],
        *slopes_table(summary),
        "",
        "What an edit moves beside what was asked: root mean square over codes and both signs, in units of the",
        "judge's own noise (a face against its mirror image); 1 is noise.",
        "",
        *drift_table(drifts, settings.edits),
    ]
    return lines, evaluation
