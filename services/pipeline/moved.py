"""Where an edit moved what a frame shows, so that the frame's own detail belongs there no more; on arrays.

Adding what an edit changes, ``frame + (edit - reconstruction)``, keeps all of the frame that the reconstruction
misses. That is right where things stay where they are, and wrong where they move: lips that open, lids that close
and teeth that appear would show twice. What moved is told by structure, not by light: by the second factor of SSIM
(Wang et al. 2004, eq. 13) between the reconstruction and the edit.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from modules.ops import LUMA
from services.pipeline.light import LightConfig, same_sized, smoothed
from services.pipeline.seam import Floats

_LUMA = np.array(LUMA, np.float32)


@dataclass(frozen=True)
class MovedConfig:
    """What counts as moved, and how the frame's light is kept there; lengths are fractions of the crop's side."""

    side: int
    """Pixels of a side to which crops are averaged down before they are compared."""
    window: float
    """Standard deviation of the window in which structure is compared."""
    noise: float
    """Variance, in squared levels of 255, that counts as no structure: flat skin has not moved."""
    begins: float
    """Loss of structure, in [0, 1], from which the edit itself begins to show."""
    whole: float
    """Loss of structure from which it alone shows."""
    reach: float
    """How far beyond what moved the frame's structure gives way too, where it is not the reconstruction's."""
    unknown: float
    """How much a loss of structure from the frame to the reconstruction speaks against one by the edit, in [0, 1]:
    of a blink that the codes do not show, what an edit does to lids knows nothing."""
    close: float
    """Half the width of the gaps that give way too: a mouth or an iris is one thing, the frame's or the edit's."""
    soften: float
    """Standard deviation of the blur at the end."""
    light: LightConfig
    """What of the frame's difference to the reconstruction is light, which the edit is shown in."""

    def __post_init__(self) -> None:
        if self.side < 2 or min(self.window, self.soften, self.noise) <= 0:
            raise ValueError("side must be 2 or more; window, soften and noise above 0")
        if not (0 <= self.begins < self.whole <= 1 and min(self.reach, self.close) >= 0 <= self.unknown <= 1):
            raise ValueError("0 <= begins < whole <= 1, reach >= 0, close >= 0 and 0 <= unknown <= 1")


def moved_share(before: Floats, after: Floats, frame: Floats, config: MovedConfig) -> Floats:
    """``(s, s)`` in [0, 1]: how far the edit itself stands in for the frame with a change added.

    ``before`` and ``after``, the reconstruction and the edit, are ``(S, S, 3)``, ``frame`` ``(T, T, 3)`` the same
    crop of the frame, all in [-1, 1]; ``s`` is ``config.side``, or less where a crop is smaller. Exactly zero
    where nothing near is changed. Raises ``ValueError`` for shapes that do not fit.
    """
    was, now, there = (_luma(crop) for crop in same_sized(config.side, before, after, frame))
    side = len(was)
    changed = _lost(was, now, config.window * side, config.noise)
    # The frame's own lips may lie beside the reconstruction's, and would stay beside the edit's.
    near = cv2.dilate(changed, _disc(config.reach * side))
    elsewhere = _lost(was, there, config.window * side, config.noise)
    moved = closed(_floats(np.maximum(changed, np.minimum(near, elsewhere))), config.close * side)
    lost = moved - config.unknown * elsewhere
    share = np.clip((lost - config.begins) / (config.whole - config.begins), 0.0, 1.0)
    return np.clip(smoothed(_floats(share * share * (3.0 - 2.0 * share)), config.soften * side), 0.0, 1.0)


def closed(values: Floats, radius: float) -> Floats:
    """Morphological closing of ``(s, s)`` by a disc: gaps up to twice its radius are filled, outer edges stay."""
    return _floats(cv2.morphologyEx(values, cv2.MORPH_CLOSE, _disc(radius)))


def _disc(radius: float) -> NDArray[np.uint8]:
    across = 2 * round(radius) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across)), np.uint8)


def _luma(crop: Floats) -> Floats:
    return _floats((crop + 1.0) @ _LUMA * 127.5)


def _lost(one: Floats, other: Floats, sigma: float, noise: float) -> Floats:
    """1 less SSIM's factor for contrast and structure, ``(s, s)`` in [0, 1]: 0 for the same structure."""
    mean_one, mean_other = smoothed(one, sigma), smoothed(other, sigma)
    both = smoothed(one * other, sigma) - mean_one * mean_other
    first = smoothed(one * one, sigma) - mean_one * mean_one
    second = smoothed(other * other, sigma) - mean_other * mean_other
    alike = (2.0 * both + noise) / (np.maximum(first, 0.0) + np.maximum(second, 0.0) + noise)
    return _floats(np.clip(1.0 - alike, 0.0, 1.0))


def _floats(values: object) -> Floats:
    return np.asarray(values, dtype=np.float32)
