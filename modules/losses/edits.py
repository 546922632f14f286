"""What an edit should do to a picture and what it should leave: terms of one loss, for every learned direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.losses.face import ImageLoss, Seen

Measure = Callable[[Tensor], Tensor]
"""``measure(images)``: ``(N, 3, H, W)`` in [-1, 1] to ``(N, K)`` attributes, NaN where there is no face."""
Embed = Callable[[Tensor], Tensor]
"""``embed(images)`` gives ``(N, D)`` of unit length."""


class Edited(NamedTuple):
    """Pictures of C codes, and of N edits of them."""

    before: Tensor
    """``(C, 3, H, W)`` RGB in [-1, 1]; no gradient is taken of them."""
    after: Tensor
    """``(N, 3, H, W)``: the codes, moved."""
    code: Tensor
    """``(N,)``: which of the C each edit is of."""
    asked: Tensor
    """``(N, K)`` change that was asked of each attribute, in the judge's numbers: 0 for what must stay, NaN for
    what may move."""


EditTerm = Callable[[Edited], Tensor]
"""One term: ``(N,)``, 0 where nothing is to be said against the edit."""


@dataclass(frozen=True)
class AttributeTerm:
    """How far each attribute is from the change asked of it, summed; as eq. S2's first term of FrEN/ViEN.

    ``sqrt(1 + r^2) - 1`` of each ``r`` in units of ``scales``: a square below one unit, a distance above, so that
    a judge that errs on one picture does not lead. An attribute that is not seen before or after counts as met,
    and so does one that may move.
    """

    measure: Measure
    scales: Tensor
    """``(K,)`` above 0, in the judge's numbers."""

    def __call__(self, edited: Edited) -> Tensor:
        """``(N,)``; raises ``ValueError`` where the judge's attributes are not those that were asked."""
        with torch.no_grad():
            start = self.measure(edited.before)[edited.code]
        got = self.measure(edited.after) - start
        if got.shape != edited.asked.shape or got.shape[1:] != self.scales.shape:
            raise ValueError(
                f"{tuple(got.shape)} changes were measured, {tuple(edited.asked.shape)} asked of them, "
                f"and there are scales for {tuple(self.scales.shape)}"
            )
        left = (got - edited.asked) / self.scales.to(got)
        # Zeroed before anything is computed of it: a NaN that is only masked in the sum still has a NaN gradient.
        left = torch.where(left.isfinite(), left, 0.0)
        square = left.square()
        return (square / (1 + (1 + square).sqrt())).sum(1)


@dataclass(frozen=True)
class IdentityFloor:
    """How far the likeness to the unedited face is below ``least``, ``(N,)``; 0 where it is not."""

    embed: Embed
    least: float
    """Cosine that is enough."""

    def __call__(self, edited: Edited) -> Tensor:
        """See the class."""
        with torch.no_grad():
            start = self.embed(edited.before)[edited.code]
        return (self.least - (self.embed(edited.after) * start).sum(1)).clamp_min(0)


@dataclass(frozen=True)
class FaceKept:
    """How far what a face net sees moved from the unedited face, ``(N,)``: L_f or L_v of eq. S2 of FrEN/ViEN.

    ``loss`` is one of ``modules.losses.face.FaceTerm``: norms of the difference of feature maps, or of points.
    Where ``seen`` says that either picture shows no face, which gives any number, it counts as kept.
    """

    loss: ImageLoss
    seen: Seen

    def __call__(self, edited: Edited) -> Tensor:
        """See the class."""
        start = edited.before[edited.code]
        moved = self.loss(edited.after, start)
        return torch.where(self.seen(edited.after, start), moved, torch.zeros_like(moved))
