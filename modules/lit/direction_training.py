"""How directions are learned, as ``params.yaml`` says it; apart from what learns, which needs Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DirectionTraining:
    """How directions are learned."""

    steps: int
    """Optimiser steps; 0 leaves the directions as they are."""
    codes: int
    """Codes per step; each is rendered with gradients under every edit."""
    learning_rate: float
    """Of Adam, in units of the size of the directions that it starts from, per coordinate."""
    pull: float
    """Weight of the mean squared distance from the start, in the same units."""
    least_strength: float
    """Strengths are drawn from this share of a bound to the whole of it."""
    weights: Mapping[str, float]
    """Weight of each term by its name."""
