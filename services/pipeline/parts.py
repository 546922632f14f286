"""Which part of a face an edit may change: under a smile eyes and brows stay the frame's.

What an edit's direction does elsewhere in the face was not asked for, and costs likeness. FFHQ's alignment puts
eyes and mouth of every face at the same height, so the parts are told apart by the height in the crop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from services.pipeline.seam import Floats


@dataclass(frozen=True)
class PartsConfig:
    """Where the lower part of a face begins, and which edits are of one part.

    Lengths are shares of the crop's side.
    """

    line: float
    """The middle of the ramp between the parts, from the top: below the lids, above the base of the nose."""
    soft: float
    """Height of the ramp."""
    lower: tuple[str, ...]
    """Edits of mouth and jaw."""
    upper: tuple[str, ...]
    """Edits of eyes and brows."""

    def __post_init__(self) -> None:
        if not (self.soft > 0 and self.soft / 2 <= self.line <= 1 - self.soft / 2):
            raise ValueError("soft must be above 0, and the ramp inside the crop")
        if both := set(self.lower) & set(self.upper):
            raise ValueError(f"{min(both)!r} cannot be of the lower and of the upper part alone")


Part = Literal["lower", "upper"]


def part_that_stays(names: Iterable[str], config: PartsConfig) -> Part | None:
    """Which part of a face the edits of these names leave to the frame.

    None for edits of both parts together, as for each that is of neither.
    """
    asked = set(names)
    if not asked:
        return None
    if asked <= set(config.lower):
        return "upper"
    return "lower" if asked <= set(config.upper) else None


def of_part_that_stays(names: Iterable[str], config: PartsConfig) -> tuple[str, ...]:
    """What the edits of these names leave as it is, by the edits that are for it; empty where all may change."""
    stays = part_that_stays(names, config)
    return () if stays is None else config.upper if stays == "upper" else config.lower


def part_of(names: Iterable[str], side: int, config: PartsConfig) -> Floats | None:
    """``(side, 1)`` in [0, 1] by row: where the edits of these names may change a face; None: everywhere."""
    stays = part_that_stays(names, config)
    if stays is None:
        return None
    top = config.line - config.soft / 2
    ramp = np.clip(((np.arange(side) + 0.5) / side - top) / config.soft, 0.0, 1.0)
    lower = np.asarray(ramp * ramp * (3.0 - 2.0 * ramp), np.float32)[:, None]
    return lower if stays == "upper" else 1.0 - lower
