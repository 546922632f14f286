"""By which attributes edits are balanced: those of the edits that are, in their units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from modules.editing.balance import BalanceConfig, Measure
from modules.editing.directions import EditRequest
from services.attributes import Measures
from services.direction_settings import DirectionSettings
from services.settings import Params

Judge = Callable[[Tensor], Measures]
"""``judge(images)`` gives ``(N,)`` per attribute, NaN where there is no face."""


@dataclass(frozen=True)
class Unit:
    """An attribute; the edit that is for it has its name."""

    per_unit: float
    """How much of the judge's number one unit of the edit is."""
    typical: float
    """Usual strength of the edit, in its unit."""


@dataclass(frozen=True)
class Balancing:
    """How edits are balanced on a face."""

    config: BalanceConfig
    """How often and how far."""
    units: Mapping[str, Unit]
    """The attributes that are measured."""

    @property
    def typical(self) -> dict[str, float]:
        """Usual strengths by attribute."""
        return {name: unit.typical for name, unit in self.units.items()}

    def measure(self, show: Callable[[Sequence[EditRequest]], Tensor], judge: Judge) -> Measure:
        """Attributes in units of their edits, of what ``show`` makes of edits: ``(N, 3, r, r)`` in [-1, 1]."""

        def measured(requests: Sequence[EditRequest]) -> NDArray[np.float64]:
            found = judge(show(requests))
            return np.stack([found[n].astype(np.float64) / unit.per_unit for n, unit in self.units.items()], 1)

        return measured


def tried_and_measured(clips: Sequence[str], count: int) -> tuple[list[int], list[int]]:
    """Rows of frames that edits are tried on, ``count`` of each clip but half of it at most, and of the others.

    ``clips`` names the clip of each frame. What suits the frames that it was tried on says nothing of others; the
    one frame of a clip that has no more is both.
    """
    tried, measured = list[int](), list[int]()
    for clip in dict.fromkeys(clips):
        rows = [row for row, name in enumerate(clips) if name == clip]
        some = max(1, min(count, len(rows) // 2))
        tried += rows[:some]
        measured += rows[some:] or rows
    return tried, measured


def balancing_of(params: Params) -> Balancing:
    """What sections ``balance`` and ``directions`` of ``params.yaml`` say."""
    learned = params.section("directions", DirectionSettings).edits
    units = {name: Unit(edit.per_unit, edit.typical) for name, edit in learned.items() if edit.balanced}
    return Balancing(params.section("balance", BalanceConfig), units)
