"""Where a pasted face meets its frame, and how far it is from it there (Tzaban et al. 2022, "Stitch it in Time").

A pasted pixel is ``mask`` of the face and the rest of the frame. Where both are mixed, the face has to be the
frame, or the seam shows; where the face stands alone it has to stay the edited one.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

_FAINT, _WHOLE = 0.1, 0.8
"""Of a mask: what is less shows no seam, what is more is all face."""


@dataclass(frozen=True)
class StitchingTraining:
    """How a generator is tuned until the faces it draws meet the frames around them."""

    learning_rate: float
    """Of Adam, in units of each parameter's own size (root mean square)."""
    average_over: float
    """Share of the steps made that the weights are averaged over, in [0, 1); 0 keeps the last ones."""
    border_lpips: float
    """Of LPIPS to the frame where the face is mixed with it."""
    border_l2: float
    """Of the root mean square to the frame there."""
    inside_lpips: float
    """Of LPIPS to the edited face as it was before, where it stands alone."""
    inside_l2: float
    """Of the root mean square to that face there."""


def border_of(mask: Tensor) -> Tensor:
    """How much a mask ``(N, 1, S, S)`` in [0, 1] mixes at each place: 1 half way, 0 where it takes one side."""
    share = _sure(mask)
    return 4 * share * (1 - share)


def inside_of(mask: Tensor) -> Tensor:
    """Where the mask takes the face and hardly mixes: 1 where it is all face, falling to 0 as it mixes."""
    return (_sure(mask) - border_of(mask)).clamp_min(0)


def _sure(mask: Tensor) -> Tensor:
    # A parser is 0.9 sure of a cheek and 0.05 of the hair beside it: neither is a border.
    return ((mask - _FAINT) / (_WHOLE - _FAINT)).clamp(0, 1)
