"""What stands behind and below a head that is pasted whole: the frame's own, not what a generator draws.

Where a head turns away, the frame has nothing to show, and the generator's background is another place in another
light: a haze around the head. What the frame shows beside the head is carried in there, by push and pull over a
pyramid (Gortler et al. 1996, section 3.3.2): the nearest that is known, ever smoother further in. Where the frame
itself shows its background, or neck and clothes, and the edited head does not come, nothing is pasted over it: a
generator's collar seldom meets the frame's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from services.pipeline.light import at_size, smoothed
from services.pipeline.seam import Floats, averaged

_LEAST = 1e-3
"""Weight below which a place of the pyramid knows nothing."""
_COARSEST = 2
"""Side of its last picture, in pixels."""


@dataclass(frozen=True)
class BehindConfig:
    """What counts as background."""

    side: int
    """Pixels of a side to which crops are averaged down: what is carried in is smooth."""
    clear: float
    """How far the head is widened before background around it counts as seen, as a fraction of the crop's side:
    its hair is soft."""
    soften: float
    """Standard deviation of the blur of its edges, as a fraction of the crop's side."""
    least: float
    """Share of the crop that must be background in the frame; with less, it stays as the generator drew it, and
    from twice as much on nothing of it does, so that a head that comes near does not flicker."""

    def __post_init__(self) -> None:
        if self.side < 2 or min(self.clear, self.soften) <= 0 or not 0 < self.least < 1:
            raise ValueError("side must be 2 or more; clear and soften above 0, least in (0, 1)")


@dataclass(frozen=True)
class Surroundings:
    """Heads and what lies around them in two pictures of one crop, each ``(s, s)`` in [0, 1]."""

    head: Floats
    """The frame's head."""
    background: Floats
    """The frame's background; what is neither is the body: neck, clothes, hands."""
    head_after: Floats
    """The edited picture's head."""
    background_after: Floats
    """The edited picture's background."""


class Before(NamedTuple):
    """A head before the frame's background."""

    edit: Floats
    """``(S, S, 3)``."""
    mask: Floats
    """``(S, S)`` in [0, 1]: without what the frame shows by itself, background and body."""
    share: Floats
    """``(S, S)`` in [0, 1]: how much of the picture is the background."""


def frames_background(
    edit: Floats, mask: Floats, frame: Floats, around: Surroundings, config: BehindConfig
) -> Before:
    """Put the edit ``(S, S, 3)`` before the frame's background, and leave it out where the frame's body is.

    ``mask`` is ``(S, S)`` in [0, 1]; ``frame`` ``(T, T, 3)`` is the crop of the frame, in the edit's range. The
    edit is returned as it is where the frame shows hardly any background. Raises ``ValueError`` for shapes that do
    not fit.
    """
    size = len(edit)
    if edit.shape != (size, size, 3) or mask.shape != (size, size):
        raise ValueError(f"an edit (S, S, 3) needs a mask (S, S), got {edit.shape} and {mask.shape}")
    side = min(config.side, size, len(frame), len(around.head))
    head, background = averaged(around.head, side), averaged(around.background, side)
    across = 2 * max(1, round(config.clear * side)) + 1
    wide = cv2.dilate(head, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (across, across)))
    known = surely(background * (1.0 - np.asarray(wide, np.float32)))
    trust = np.float32(np.clip(known.mean() / config.least - 1.0, 0.0, 1.0))
    sigma = config.soften * side
    body, beside = surely(1.0 - head - background), surely(1.0 - averaged(around.head_after, side))
    shown = at_size(smoothed(beside * np.maximum(trust * known, body), sigma), size)
    mask = mask * (1.0 - shown)
    if trust == 0:
        return Before(edit, mask, np.zeros_like(mask))
    behind = at_size(carried_in(averaged(frame, side), known), size)
    share = trust * at_size(smoothed(surely(averaged(around.background_after, side)), sigma), size)
    return Before(edit + share[..., None] * (behind - edit), mask, share)


def surely(share: Floats) -> Floats:
    """0 up to a half, then rising to 1: a parser is half sure of what is soft, hair and shadows."""
    return np.asarray(np.clip(2.0 * share - 1.0, 0.0, 1.0), np.float32)


def carried_in(colours: Floats, known: Floats) -> Floats:
    """``(s, s, 3)``: colours where they are known, ``(s, s)`` in [0, 1], and from around where they are not.

    A constant stays itself. Somewhere, something must be known.
    """
    weighted, weights = [colours * known[..., None]], [known]
    while min(weights[-1].shape) > _COARSEST:
        below, weight = cv2.pyrDown(weighted[-1]), cv2.pyrDown(weights[-1])
        # A place that is known in part is enough to go by.
        gain = np.minimum(1.0 / np.maximum(weight, _LEAST), 4.0)
        weighted.append(np.asarray(below * gain[..., None], np.float32))
        weights.append(np.asarray(weight * gain, np.float32))
    total = max(float(weights[-1].sum()), 1e-12)
    found = np.broadcast_to(weighted[-1].sum((0, 1)) / total, weighted[-1].shape).astype(np.float32)
    for colour, weight in zip(weighted[::-1], weights[::-1], strict=True):
        if found.shape != colour.shape:
            found = np.asarray(cv2.pyrUp(found, dstsize=colour.shape[1::-1]), np.float32)
        found = colour + (1.0 - weight[..., None]) * found
    return found
