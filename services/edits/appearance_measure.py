"""What the appearance edits do: own effect, what else changes, what changes outside the region, who is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.editing.boundaries import slope
from modules.editing.directions import EditRequest, EditSet
from modules.perception.identity import IdentityNet
from modules.perception.landmarks import landmarks_68
from modules.perception.second_identity import SAME_PERSON
from services.edits.appearance import NAMES, AppearanceJudge, Look

Array = NDArray[np.float64]
Render = Callable[[Tensor, EditSet[Any], Sequence[EditRequest], int], Tensor]
"""``render(ws, edits, requests, seed)`` gives pictures ``(N, 3, r, r)`` in [-1, 1]."""


@dataclass(frozen=True)
class EffectOf:
    """An edit that is measured: which of ``NAMES`` it is meant to change, and where."""

    measure: str
    per_unit: float
    """How much of the measure one unit is."""
    region: str
    typical: float
    """Strength at which its effects on others are read."""


@dataclass(frozen=True)
class Seen:
    """Unedited pictures and what the judges say of them."""

    pictures: Tensor
    look: Look
    embedding: Tensor

    @classmethod
    def of(cls, pictures: Tensor, judge: AppearanceJudge, identity: IdentityNet) -> Seen:
        """Look at ``(N, 3, r, r)`` in [-1, 1]."""
        with torch.no_grad():
            return cls(pictures, judge(pictures), identity.embed(pictures))


def landmark_shift(before: Look, after: Look) -> Array:
    """``(N,)`` mean distance of the 68 points, in % of the distance of the eyes' outer corners before."""
    points = landmarks_68(before.points)
    apart = (landmarks_68(after.points) - points).norm(dim=2).mean(1)
    shift: Array = (100 * apart / (points[:, 36] - points[:, 45]).norm(dim=1)).double().cpu().numpy()
    return shift


def measure_channels(
    ws: Tensor,
    edits: EditSet[Any],
    effects: Mapping[str, EffectOf],
    render: Render,
    judge: AppearanceJudge,
    identity: IdentityNet,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """By edit: slope and spread, identity, and the rest as plain numbers; on codes ``(N, num_ws, w_dim)``.

    A slope is units got per unit asked, over the bounds and the typical strength. ``inside`` is the share of the
    squared change that falls into the region as it was or became; ``outside_levels`` the root mean square of the
    change elsewhere, of 255 levels. ``moves`` says how far each measure is moved at the typical strength, over its
    standard deviation among the unedited pictures.
    """
    start = Seen.of(render(ws, edits, [], 0), judge, identity)
    values = {name: start.look.measures[name].double().cpu().numpy() for name in NAMES}
    table: dict[str, Any] = {}
    for name, effect in effects.items():
        edit = edits[name]
        asked, got = [0.0], [values[effect.measure]]
        entry: dict[str, Any] = {"identity": {}}
        for strength in sorted({edit.lower, effect.typical, edit.upper} - {0.0}):
            pictures = render(ws, edits, [EditRequest(name, strength)], 0)
            with torch.no_grad():
                look, embedding = judge(pictures), identity.embed(pictures)
            asked.append(strength)
            got.append(look.measures[effect.measure].double().cpu().numpy())
            likeness = (embedding * start.embedding).sum(1).cpu().numpy()
            entry["identity"][f"{strength:+g}"] = float(likeness.mean())
            if strength == effect.typical:
                region = torch.maximum(start.look.regions[effect.region], look.regions[effect.region])
                entry |= _spill(pictures - start.pictures, region)
                entry["landmark_shift"] = float(np.nanmean(landmark_shift(start.look, look)))
                entry["moves"] = {
                    other: float(np.nanmean(look.measures[other].double().cpu().numpy() - values[other]))
                    / max(float(np.nanstd(values[other])), 1e-9)
                    for other in NAMES
                }
        order = np.argsort(asked)
        table_of = np.stack(got)[order] / effect.per_unit
        per_code = np.array([slope(np.array(asked)[order], column) for column in table_of.T])
        entry |= {"asked": [edit.lower, edit.upper], "typical": effect.typical}
        entry |= {"slope": float(np.nanmean(per_code)), "slope_spread": float(np.nanstd(per_code))}
        table[name] = entry
        say(f"measured {name}: slope {entry['slope']:.2f}")
    return table


def measure_identity(
    ws: Tensor,
    people: Sequence[int],
    edits: EditSet[Any],
    name: str,
    strengths: Sequence[float],
    seeds: Sequence[int],
    render: Render,
    judge: AppearanceJudge,
    identity: IdentityNet,
    same_person: float,
    second: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    """The random identity by strength: likeness to the unedited picture, and how far the landmarks move.

    Each code is edited under each seed; ``people`` ``(N,)`` numbers the persons. ``hidden`` is the share of
    pairs of person and seed whose mean likeness lies below ``same_person``, ``hidden_second`` of those whose mean
    distance by ``second``, an identity net that nothing was made or chosen with, lies above its own threshold;
    ``strangers`` are the same shares of pairs of two persons, unedited, which no edit can be asked to surpass.
    ``judge_noise`` is how far the landmarks move where the picture is shifted by one pixel and the points are
    shifted back.
    """
    start = Seen.of(render(ws, edits, [], 0), judge, identity)
    with torch.no_grad():
        second_start = second(start.pictures)
        moved = judge(torch.roll(start.pictures, (1, 1), (2, 3)))
    back = Look(moved.measures, moved.regions, moved.points - moved.points.new_tensor([1.0, 1.0, 0.0]))
    numbers = np.asarray(people)
    alike = (start.embedding @ start.embedding.T).double().cpu().numpy()
    table: dict[str, Any] = {
        "judge_noise": float(np.nanmean(landmark_shift(start.look, back))),
        "strangers": {
            "hidden": _share_of_strangers(alike < same_person, numbers),
            "hidden_second": _share_of_strangers(
                torch.cdist(second_start, second_start).cpu().numpy() > SAME_PERSON, numbers
            ),
        },
        "strengths": {},
    }
    for strength in strengths:
        likeness, distance, shifts, yaw = [], [], [], []
        for seed in seeds:
            pictures = render(ws, edits, [EditRequest(name, strength)], seed)
            with torch.no_grad():
                look = judge(pictures)
                likeness.append((identity.embed(pictures) * start.embedding).sum(1).double().cpu().numpy())
                distance.append((second(pictures) - second_start).norm(dim=1).double().cpu().numpy())
            shifts.append(landmark_shift(start.look, look))
            yaw.append((look.measures["yaw"] - start.look.measures["yaw"]).abs().double().cpu().numpy())
        by_person, apart = (
            np.array([[row[numbers == person].mean() for person in set(people)] for row in rows])
            for rows in (likeness, distance)
        )
        table["strengths"][f"{strength:g}"] = {
            "likeness": float(np.mean(likeness)),
            "likeness_95th_percentile": float(np.percentile(by_person, 95)),
            "hidden": float((by_person < same_person).mean()),
            "distance": float(np.mean(distance)),
            "hidden_second": float((apart > SAME_PERSON).mean()),
            "landmark_shift": float(np.nanmean(shifts)),
            "yaw_shift": float(np.nanmean(yaw)),
        }
    return table


def channels_markdown(table: Mapping[str, Any]) -> list[str]:
    """Two tables of ``measure_channels``, one line each item."""
    lines = [
        "| edit | asked | slope | spread | inside the region | elsewhere, levels of 255 | points, % of outer eyes "
        "| identity at the ends |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for name, entry in table.items():
        low, high = entry["asked"]
        ends = ", ".join(f"{s}: {v:.2f}" for s, v in entry["identity"].items() if float(s) in (low, high))
        lines.append(
            f"| {name} | {low:+g} to {high:+g} | {entry['slope']:.2f} | {entry['slope_spread']:.2f} "
            f"| {100 * entry['inside']:.0f}% | {entry['outside_levels']:.1f} | {entry['landmark_shift']:.1f} "
            f"| {ends} |"
        )
    lines += ["", "| edit \\ moves | " + " | ".join(NAMES) + " |", "|---" * (len(NAMES) + 1) + "|"]
    for name, entry in table.items():
        lines.append(f"| {name} | " + " | ".join(f"{entry['moves'][other]:+.2f}" for other in NAMES) + " |")
    return lines


def identity_markdown(table: Mapping[str, Any]) -> list[str]:
    """The table of ``measure_identity``."""
    lines = [
        "| random_identity | likeness, mean | 95th percentile | hidden | distance by a second net "
        "| hidden from it | points, % of outer eyes | yaw, degrees |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for strength, row in table["strengths"].items():
        lines.append(
            f"| {strength} | {row['likeness']:.2f} | {row['likeness_95th_percentile']:.2f} "
            f"| {100 * row['hidden']:.0f}% | {row['distance']:.2f} | {100 * row['hidden_second']:.0f}% "
            f"| {row['landmark_shift']:.1f} | {row['yaw_shift']:.1f} |"
        )
    noise, strangers = table["judge_noise"], table["strangers"]
    return [
        *lines,
        "",
        f"Landmarks of a picture shifted by one pixel, shifted back, move by {noise:.1f} %. Of pairs of two "
        f"persons, unedited, the first net parts {100 * strangers['hidden']:.0f} %, the second "
        f"{100 * strangers['hidden_second']:.0f} %.",
    ]


def _share_of_strangers(parted: NDArray[np.bool_], people: Array) -> float:
    """Of pairs ``(N, N)`` of pictures the share that is parted among those of two persons; NaN for one person."""
    strangers = people[:, None] != people
    return float(parted[strangers].mean()) if strangers.any() else float("nan")


def _spill(change: Tensor, region: Tensor) -> dict[str, float]:
    energy = change.square().sum(1, keepdim=True)
    inside = (energy * region).sum((1, 2, 3)) / energy.sum((1, 2, 3)).clamp_min(1e-9)
    elsewhere = (energy * (1 - region)).sum((1, 2, 3)) / (3 * (1 - region).sum((1, 2, 3))).clamp_min(1)
    return {
        "inside": float(inside.mean()),
        "outside_levels": float(elsewhere.sqrt().mean() * 127.5),
    }
