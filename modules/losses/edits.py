"""What an edit should do to a picture and what it should leave: terms of one loss, for every learned direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modules.losses.face import ImageLoss, Seen, trusted_mean

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


class Judged(NamedTuple):
    """What one term says of N edits."""

    errors: Tensor
    """``(N,)``, 0 where nothing is to be said against the edit."""
    seen: Tensor
    """``(N,)`` bool: whether the judge saw a face before and after; where not, the error is any number."""


EditTerm = Callable[[Edited], Judged]
"""One term of the loss."""


def judged_means(terms: Mapping[str, EditTerm], edited: Edited) -> tuple[dict[str, Tensor], int]:
    """The mean of each term over the edits that its judge saw, and how many of the N edits some judge did not.

    Edits that are not seen have no part in the mean (FrEN/ViEN, 3.3); of none it is 0.
    """
    found, all_seen = {}, torch.ones(len(edited.after), dtype=torch.bool, device=edited.after.device)
    for name, term in terms.items():
        errors, seen = term(edited)
        found[name] = trusted_mean(errors, seen)
        all_seen = all_seen & seen
    return found, int((~all_seen).sum())


@dataclass(frozen=True)
class AttributeTerm:
    """How far each attribute is from the change asked of it, summed; as eq. S2's first term of FrEN/ViEN.

    Positive asks for more, so age in years for older; eq. S2 as printed has the sign the other way.

    ``sqrt(1 + r^2) - 1`` of each ``r`` in units of ``scales``: a square below one unit, a distance above, so that
    a judge that errs on one picture does not lead. An attribute that is not measured before or after counts as
    met, and so does one that may move; where none is measured, there is no face.
    """

    measure: Measure
    scales: Tensor
    """``(K,)`` above 0, in the judge's numbers."""

    def __call__(self, edited: Edited) -> Judged:
        """See the class; raises ``ValueError`` where the judge's attributes are not those that were asked."""
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
        return Judged((square / (1 + (1 + square).sqrt())).sum(1), got.isfinite().any(1))


@dataclass(frozen=True)
class IdentityFloor:
    """How far the likeness to the unedited face is below ``least``, 0 where it is not.

    ``seen`` says where both pictures show a face: a net of likeness answers of anything.
    """

    embed: Embed
    least: float
    """Cosine that is enough."""
    seen: Seen

    def __call__(self, edited: Edited) -> Judged:
        """See the class."""
        with torch.no_grad():
            start = self.embed(edited.before)[edited.code]
        likeness = (self.embed(edited.after) * start).sum(1)
        return Judged((self.least - likeness).clamp_min(0), self.seen(edited.after, edited.before[edited.code]))


@dataclass(frozen=True)
class FaceKept:
    """How far what a face net sees moved from the unedited face: L_f or L_v of eq. S2 of FrEN/ViEN.

    ``loss`` is one of ``modules.losses.face.FaceTerm``: norms of the difference of feature maps, or of points.
    ``seen`` says where both pictures show a face: without one the net gives any number.
    """

    loss: ImageLoss
    seen: Seen

    def __call__(self, edited: Edited) -> Judged:
        """See the class."""
        start = edited.before[edited.code]
        return Judged(self.loss(edited.after, start), self.seen(edited.after, start))
