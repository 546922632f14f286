"""Where a head stands in the picture: the R and T of FrEN/ViEN (4.4) that lie in the picture's plane.

Faces are aligned before a generator learns them, so no code leans, shifts or enlarges a head: the paper's pose
editor has nothing to move. What the generator draws is moved instead, as a picture (``Generator.synthesize``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.editing.directions import EditSet, check_strength
from modules.editing.pose import SHIFTS, TURNS

ROLL = TURNS[2]
RIGHT, DOWN, NEARER = SHIFTS
NAMES = (ROLL, *SHIFTS)
"""Degrees, clockwise in the picture; percent of the crop's width to the right and down; percent of the size."""
PIVOT = (0.0, 0.37)
"""Under the chin of an FFHQ crop that spans [-0.5, 0.5], y down: where a head leans and grows the neck stays."""


@dataclass(frozen=True)
class PlacementSettings:
    """How one of the moves is offered."""

    unit: str
    """What a user reads."""
    lower: float
    """Smallest strength offered."""
    upper: float
    """Largest strength offered."""


@dataclass(frozen=True)
class PlacementConfig:
    """Section ``placement``: bounds of the edits that move the head in the picture."""

    edits: dict[str, PlacementSettings]
    """By the names of ``modules.editing.placement``."""


@dataclass(frozen=True)
class Placement:
    """One of the moves; codes and styles stay as they are."""

    name: str
    unit: str
    """What one step of the strength means."""
    lower: float
    """Smallest strength, at most 0."""
    upper: float
    """Largest strength, at least 0."""
    generator_sha256: str
    """Digest of the generator in whose set it stands; it moves the pictures of any."""
    whole_head: bool = True
    """The hair moves with the face."""
    replaces: bool = True
    """A difference would leave the outline where it was, beside the moved one."""
    recolours: bool = False
    """A place has no colour."""
    in_styles: bool = False
    """It acts on the picture alone."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise BadInputError(f"no move {self.name!r} of the head; there are {', '.join(NAMES)}")
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower <= 0.0 <= self.upper):
            raise ValueError(f"bounds of {self.name} must be finite and enclose 0, got {self.lower}..{self.upper}")

    def __call__(self, ws: Tensor, strength: float, seed: int = 0) -> Tensor:
        """``ws`` as they are; raises ``BadInputError`` for a strength that is not finite or out of bounds."""
        check_strength(self, strength)
        return ws

    def restyle(self, styles: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
        """The styles as they are."""
        return dict(styles)

    def transform(self, strength: float) -> Tensor:
        """``(3, 3)`` float64 similarity of the picture, which spans [-0.5, 0.5] with y down."""
        check_strength(self, strength)
        size = 1 + strength / 100 if self.name == NEARER else 1.0
        angle = math.radians(strength) if self.name == ROLL else 0.0
        right, down = (strength / 100 if self.name == name else 0.0 for name in (RIGHT, DOWN))
        cos, sin = size * math.cos(angle), size * math.sin(angle)
        x, y = PIVOT
        rows = [
            [cos, -sin, x - cos * x + sin * y + right],
            [sin, cos, y - sin * x - cos * y + down],
            [0.0, 0.0, 1.0],
        ]
        return torch.tensor(rows, dtype=torch.float64)


def placements(config: PlacementConfig, generator_sha256: str) -> EditSet[Placement]:
    """What is offered, for the set of one generator; raises ``BadInputError`` for a name that is none."""
    return EditSet(
        Placement(name, edit.unit, edit.lower, edit.upper, generator_sha256) for name, edit in config.edits.items()
    )
