"""Measure edits on codes of any origin: slopes, spread, identity, and what else an edit moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.editing.boundaries import slope
from modules.editing.directions import Edit, EditRequest, EditSet
from services.attributes import Measures

Render = Callable[[Tensor], Tensor]
"""``render(ws)`` gives FFHQ crops ``(N, 3, r, r)`` in [-1, 1]."""
ImageJudge = Callable[[Tensor], Measures]
"""``judge(images)`` gives ``(N,)`` per attribute, NaN where there is no face."""
Embed = Callable[[Tensor], Tensor]
"""``embed(images)`` gives ``(N, E)``, of unit length where likeness is asked and not distance."""
Move = Callable[[Tensor, EditRequest], Tensor]
"""``move(ws, request)`` gives the codes under one edit."""
Progress = Callable[[int, int], None]
BATCH = 32
"""Pictures that are judged at once."""


@dataclass(frozen=True)
class Reading:
    """One edit at one strength on all codes."""

    edit: str
    strength: float
    measures: Measures
    """``(N,)`` per attribute, of the first judge."""
    second: Measures
    """The same of the second judge; empty where there is none."""
    identity: NDArray[np.float32]
    """``(N,)`` likeness to the unedited picture."""
    distance: NDArray[np.float32] | None
    """``(N,)`` from the unedited picture by the second identity net; None where there is none."""


@dataclass(frozen=True)
class Readings:
    """The unedited codes and every edit of them."""

    start: Reading
    edited: tuple[Reading, ...]

    def of(self, edit: str) -> list[Reading]:
        """The start and the readings of one edit, by strength."""
        return sorted([self.start, *(r for r in self.edited if r.edit == edit)], key=lambda r: r.strength)


def measure_edits(
    ws: Tensor,
    edits: EditSet[Edit],
    strengths: Mapping[str, Sequence[float]],
    render: Render,
    judge: ImageJudge,
    embed: Embed,
    second: ImageJudge | None = None,
    progress: Progress = lambda done, total: None,
    move: Move | None = None,
    second_embed: Embed | None = None,
) -> Readings:
    """Render codes ``(N, num_ws, w_dim)`` under each edit at its strengths and measure the pictures.

    ``move`` says what becomes of all codes under an edit; without it the edit is applied as it is.
    Costs ``N * (1 + number of strengths)`` renderings. Raises ``BadInputError`` for strengths out of bounds.
    """
    asked = [(name, float(s)) for name, values in strengths.items() for s in values if s != 0]
    for name, strength in asked:
        edits.check([EditRequest(name, strength)])
    total, done = len(asked) + 1, 0
    starts: list[Tensor] = []
    embeds = [embed] if second_embed is None else [embed, second_embed]
    readings = []
    with torch.no_grad():
        for name, strength in [("", 0.0), *asked]:
            moved = _moved(ws, EditRequest(name, strength), edits, move) if name else ws
            images = torch.cat([render(one) for one in torch.split(moved, 1)]).clamp(-1, 1)
            found = [torch.cat([net(some) for some in torch.split(images, BATCH)]) for net in embeds]
            starts = starts or found
            likeness = (found[0] * starts[0]).sum(1).float().cpu().numpy()
            apart = (found[1] - starts[1]).norm(dim=1).float().cpu().numpy() if second_embed else None
            others = _judged(second, images) if second else {}
            readings.append(Reading(name, strength, _judged(judge, images), others, likeness, apart))
            done += 1
            progress(done, total)
    return Readings(readings[0], tuple(readings[1:]))


def _moved(ws: Tensor, request: EditRequest, edits: EditSet[Edit], move: Move | None) -> Tensor:
    return edits.apply(ws, [request]) if move is None else move(ws, request)


def _judged(judge: ImageJudge, images: Tensor) -> Measures:
    parts = [judge(some) for some in torch.split(images, BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def summarise(
    readings: Readings, typical: Mapping[str, float], units: Mapping[str, float], age_bands: Sequence[float]
) -> dict[str, Any]:
    """Slopes, spread, identity and cross-effects as plain numbers for JSON.

    ``units`` says how much of the judge's own number one unit of an attribute is. Slopes are units got per unit
    asked, 1 being right. A cross-effect is the mean change of an attribute when another is asked at its
    ``typical`` strength, as a share of its own typical strength.
    """
    table: dict[str, Any] = {}
    for name in typical:
        rows = readings.of(name)
        if len(rows) < 2:
            continue
        per_code = _slopes(rows, name, units[name], second=False)
        entry: dict[str, Any] = {
            "asked": [r.strength for r in rows],
            "got": [_mean_change(readings.start, r, name) / units[name] for r in rows],
            "slope": _mean(per_code),
            "slope_spread": float(np.nanstd(per_code)),
            "seen": int(np.isfinite(per_code).sum()),
            "identity": {f"{r.strength:g}": _mean(r.identity) for r in rows if r.strength},
            "identity_5th_percentile": {
                f"{r.strength:g}": float(np.percentile(r.identity, 5)) for r in rows if r.strength
            },
            "cross_effects": _cross_effects(readings, name, typical, units),
        }
        if readings.start.distance is not None:
            apart = {f"{r.strength:g}": r.distance for r in rows if r.strength and r.distance is not None}
            entry["identity_distance"] = {s: _mean(values) for s, values in apart.items()}
            entry["identity_distance_95th_percentile"] = {
                s: float(np.percentile(values, 95)) for s, values in apart.items()
            }
        if name == "age":
            ages = readings.start.measures["age"]
            entry["slope_by_start_age"] = _by_band(ages, per_code, age_bands)
        if name in readings.start.second and name != "gender":
            second = _slopes(rows, name, units[name], second=True)
            entry["second_judge"] = {"slope": _mean(second), "slope_spread": float(np.nanstd(second))}
            if name == "age":
                entry["second_judge"]["slope_by_start_age"] = _by_band(ages, second, age_bands)
        table[name] = entry
    return {"codes": len(readings.start.identity), "edits": table}


def numbers_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run keeps of a summary, by edit: slope and its spread, identity by strength, cross-effects."""
    kept = ("slope", "slope_spread", "identity", "identity_distance", "cross_effects")
    return {
        name: {part: entry[part] for part in kept if part in entry} for name, entry in summary["edits"].items()
    }


def as_markdown(summary: Mapping[str, Any]) -> list[str]:
    """The summary as tables, one line each item: slopes, cross-effects, and the age edit by start age."""
    edits = summary["edits"]
    lines = [
        f"Measured on {summary['codes']} codes.",
        "",
        "| edit | asked | slope | spread | second judge | identity at the ends (5th percentile) "
        "| distance by a second net (95th) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in edits.items():
        second = entry.get("second_judge")
        other = f"{second['slope']:.2f} ± {second['slope_spread']:.2f}" if second else "—"
        asked = entry["asked"]
        ends = [f"{s:g}" for s in (asked[0], asked[-1]) if s]
        likeness = _at(ends, entry["identity"], entry["identity_5th_percentile"])
        apart = "—"
        if "identity_distance" in entry:
            apart = _at(ends, entry["identity_distance"], entry["identity_distance_95th_percentile"])
        lines.append(
            f"| {name} | {asked[0]:+g} to {asked[-1]:+g} | {entry['slope']:.2f} | {entry['slope_spread']:.2f} "
            f"| {other} | {likeness} | {apart} |"
        )
    names = list(edits)
    lines += ["", "| edit \\ moves | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, entry in edits.items():
        cells = " | ".join(f"{entry['cross_effects'].get(other, float('nan')):+.2f}" for other in names)
        lines.append(f"| {name} | {cells} |")
    bands = edits.get("age", {}).get("slope_by_start_age", {})
    if bands:
        lines += ["", "| age at the start | codes | slope of age | spread |", "|---|--:|--:|--:|"]
        lines += [f"| {n} | {b['codes']} | {b['slope']:.2f} | {b['spread']:.2f} |" for n, b in bands.items()]
    return lines


def _at(strengths: Sequence[str], means: Mapping[str, float], percentiles: Mapping[str, float]) -> str:
    return ", ".join(f"{float(s):+g}: {means[s]:.2f} ({percentiles[s]:.2f})" for s in strengths)


def rounded(value: Any) -> Any:
    """Plain numbers for a file that people read."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def slopes_between(readings: Readings, edit: str, attributes: Sequence[str]) -> NDArray[np.float64]:
    """``(len(attributes),)``: mean change of each attribute, in the judge's number, per unit of one edit."""
    rows = readings.of(edit)
    return np.array([_mean(_slopes(rows, name, 1.0, second=False)) for name in attributes])


def _slopes(rows: Sequence[Reading], name: str, unit: float, second: bool) -> NDArray[np.float64]:
    """Slope of each code, ``(N,)``; NaN where the face was lost at one of the strengths."""
    asked = np.array([r.strength for r in rows])
    got = np.stack([(r.second if second else r.measures)[name] for r in rows]).astype(np.float64) / unit
    return np.array([slope(asked, column) for column in got.T])


def _cross_effects(
    readings: Readings, name: str, typical: Mapping[str, float], units: Mapping[str, float]
) -> dict[str, float]:
    rows = readings.of(name)
    reading = min(rows, key=lambda r: abs(r.strength - typical[name]))
    share = typical[name] / reading.strength if reading.strength else 0.0
    effects = {}
    for other in typical:
        change = _mean_change(readings.start, reading, other) / units[other]
        effects[other] = share * change / abs(typical[other])
    return effects


def _mean_change(start: Reading, reading: Reading, name: str) -> float:
    return _mean(reading.measures[name] - start.measures[name])


def _by_band(ages: NDArray[np.float32], slopes: NDArray[np.float64], edges: Sequence[float]) -> dict[str, Any]:
    bands = {}
    for low, high in pairwise(edges):
        inside = (ages >= low) & (ages < high)
        if inside.any():
            spread = float(np.nanstd(slopes[inside]))
            bands[f"{low:g}-{high:g}"] = {
                "codes": int(inside.sum()),
                "slope": _mean(slopes[inside]),
                "spread": spread,
            }
    return bands


def _mean(values: NDArray[Any]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
