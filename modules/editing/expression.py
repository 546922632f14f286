"""Named expressions on the face model: how open the mouth is, the smile, the eyes, the brows (FrEN/ViEN, 4.4).

The paper edits the expression by 3DMM components; people ask for smiles. A name is a quantity measured on the
mesh, and the change of the components that goes with it is the one usual for it, the other quantities held still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from modules.perception.face_shape import FaceBasis, FaceParameters
from modules.perception.landmarks import brows_up, eyes_open, mouth_open, smile

Quantity = Callable[[Tensor], Tensor]
"""Meshes ``(N, 468, 3)`` to ``(N,)``."""


QUANTITIES: Mapping[str, Quantity] = {
    "mouth_open": mouth_open,
    "smile": smile,
    "eyes_open": eyes_open,
    "brows_up": brows_up,
}
"""What may be asked of an expression, by name, each over the distance of the eyes but ``eyes_open``, a ratio."""


def quantities(points: Tensor) -> Tensor:
    """``(N, 4)``: meshes ``(N, 468, 3)`` in the order of ``QUANTITIES``; differentiable."""
    return torch.stack([quantity(points) for quantity in QUANTITIES.values()], dim=1)


def fit_expressions(basis: FaceBasis, points: Tensor, people: Tensor, ridge: float) -> Tensor:
    """``(4, E)``: change of the expression components per unit of each quantity, the others held still.

    Least squares over frames of films: meshes ``(N, 468, 3)`` in pixels of a crop 256 wide and the person ``(N,)``
    in each; both sides are taken without the person's mean. The quantities are those of the expression alone, on
    the mean face looking ahead: on the meshes themselves they follow the pose a little. ``ridge`` is relative to
    the quantities' own variance.
    """
    inside = torch.unique(people, return_inverse=True)[1]
    found = basis.parameters(points)
    ahead = FaceParameters(
        torch.zeros_like(found.identity), found.expression,
        torch.eye(3).to(points).expand(len(points), 3, 3), torch.zeros_like(found.translation),
    )  # fmt: skip
    moves = _without_mean(found.expression.double(), inside)
    named = _without_mean(quantities(basis.points(ahead)).double(), inside)
    scatter = named.T @ named
    scatter = scatter + ridge * torch.diag(scatter.diagonal())
    solved: Tensor = torch.linalg.solve(scatter, named.T @ moves)
    return solved.float()


def _without_mean(values: Tensor, inside: Tensor) -> Tensor:
    count = torch.bincount(inside)[:, None]
    total = values.new_zeros(len(count), values.shape[1]).index_add(0, inside, values)
    without: Tensor = values - (total / count)[inside]
    return without
