"""Is it the same face, in the same place: identity likeness and landmark error."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from modules.metrics.fidelity import MeanPerImage
from modules.perception.identity import IdentityNet
from modules.perception.landmarks import landmarks_68
from modules.perception.mesh import FaceMesh


@torch.no_grad()
def identity_similarity(net: IdentityNet, images: Tensor, target: Tensor) -> Tensor:
    """Likeness per image of two ``(N, 3, H, W)`` FFHQ crops in [-1, 1]: ``(N,)`` in [-1, 1]."""
    likeness: Tensor = (net.embed(images) * net.embed(target)).sum(1)
    return likeness


def landmark_error(points: Tensor, target: Tensor) -> Tensor:
    """Mean distance per face of two ``(N, 68, 2)`` in pixels: ``(N,)`` pixels."""
    _check(points, target)
    distance: Tensor = torch.linalg.vector_norm(points - target, dim=-1)
    return distance.mean(1)


def landmark_error_percent(points: Tensor, target: Tensor) -> Tensor:
    """The same in percent of the target's distance between the middles of the eyes: ``(N,)``."""
    eyes = target[:, 36:42].mean(1) - target[:, 42:48].mean(1)
    apart: Tensor = torch.linalg.vector_norm(eyes, dim=-1)
    return 100 * landmark_error(points, target) / apart


def landmark_mse(points: Tensor, target: Tensor) -> Tensor:
    """LM (FrEN/ViEN, section 4.2) per face of two ``(N, 68, 2)`` in pixels: ``(N,)`` square pixels.

    The mean over the points and over x and y, as a mean squared error is; in pixels of whatever size the images
    have.
    """
    _check(points, target)
    return (points - target).square().mean((1, 2))


class IdentitySimilarity(MeanPerImage):
    """Mean identity likeness over images."""

    higher_is_better = True

    def __init__(self, net: IdentityNet, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net = net

    def update(self, images: Tensor, target: Tensor) -> None:
        """Count N images; see ``identity_similarity``."""
        self.add(identity_similarity(self.net, images, target))


class LandmarkError(MeanPerImage):
    """Mean landmark error over images, in ``unit``: percent of the eyes' distance, or pixels of the images."""

    higher_is_better = False

    def __init__(self, mesh: FaceMesh, unit: Literal["percent", "pixels"] = "percent", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mesh = mesh
        self.unit = unit

    @torch.no_grad()
    def update(self, images: Tensor, target: Tensor) -> None:
        """Count N pairs of ``(N, 3, H, W)`` FFHQ crops in [-1, 1]."""
        ours, theirs = (landmarks_68(self.mesh(x).points) for x in (images, target))
        self.add((landmark_error_percent if self.unit == "percent" else landmark_error)(ours, theirs))


class LandmarkMse(MeanPerImage):
    """LM: mean squared error of landmarks over images, in square pixels of the images."""

    higher_is_better = False

    def __init__(self, mesh: FaceMesh, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mesh = mesh

    @torch.no_grad()
    def update(self, images: Tensor, target: Tensor) -> None:
        """Count N pairs of ``(N, 3, H, W)`` FFHQ crops in [-1, 1]."""
        self.add(landmark_mse(*(landmarks_68(self.mesh(x).points) for x in (images, target))))


def _check(points: Tensor, target: Tensor) -> None:
    if points.shape != target.shape or points.ndim != 3 or points.shape[1:] != (68, 2):
        raise ValueError(f"two (N, 68, 2) are needed, got {tuple(points.shape)} and {tuple(target.shape)}")
