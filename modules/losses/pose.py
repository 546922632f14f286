"""Whether a face moved as it was asked: eq. 5 of FrEN/ViEN with the mesh that was asked in the target's place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.editing.expression import quantities
from modules.losses.edits import Edited, Judged
from modules.perception.face_shape import UNIT, FaceBasis
from modules.perception.mesh import FaceMesh


@dataclass(frozen=True)
class AskedMesh:
    """A term of ``modules.losses.edits``: how far the face after an edit is from where it was asked to be.

    ``Edited.asked`` is ``(N, I + E + 6)`` as ``face_shape.difference`` gives it. The mesh before, changed by that,
    is what the mesh after is held against, by the root mean square distance of all points (pixels of a crop 256
    wide), and the named expressions of the two by their difference. Each ``r``, in units of its scale, counts as
    ``sqrt(1 + r^2) - 1``.
    """

    mesh: FaceMesh
    basis: FaceBasis
    pixels: float
    """Distance from which an error counts as a distance, not as a square."""
    named: Tensor
    """``(4,)`` the same of each of ``expression.QUANTITIES``."""
    least_score: float
    """Of the mesh, below which a picture shows no face."""

    def __call__(self, edited: Edited) -> Judged:
        """See the class; carries gradients to ``edited.after``."""
        with torch.no_grad():
            before = self.mesh(edited.before)
            start = (before.points * (UNIT / edited.before.shape[3]))[edited.code]
            wanted = self.basis.moved(start, edited.asked)
        after = self.mesh(edited.after)
        points = after.points * (UNIT / edited.after.shape[3])
        seen = (before.score[edited.code] >= self.least_score) & (after.score >= self.least_score)
        away = _flat(points - wanted).square().sum(2).mean(1).clamp_min(1e-12).sqrt() / self.pixels
        wrong = (quantities(points) - quantities(wanted)) / self.named.to(points)
        return Judged(_robust(away) + _robust(wrong).mean(1), seen)


def _flat(offset: Tensor) -> Tensor:
    """Without the mean of z, which an image does not tell."""
    return torch.cat([offset[..., :2], offset[..., 2:] - offset[..., 2:].mean(1, keepdim=True)], dim=2)


def _robust(error: Tensor) -> Tensor:
    return (1 + error.square()).sqrt() - 1
