"""Losses on what a frozen face net sees, after FrEN (sec. 3.3): its feature maps (eq. 3) and its mesh (eq. 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from modules.perception.arcface import ArcFace
from modules.perception.face_judge import FaceJudge
from modules.perception.identity import IdentityNet
from modules.perception.mesh import FaceMesh

ImageLoss = Callable[[Tensor, Tensor], Tensor]
"""(pictures, targets), both ``(N, 3, H, W)`` in [-1, 1], to ``(N,)``."""
Seen = Callable[[Tensor, Tensor], Tensor]
"""The same to ``(N,)`` bool: whether the face judges can be believed in both pictures."""


def trusted_mean(distances: Tensor, trusted: Tensor) -> Tensor:
    """Mean of ``(N,)`` distances over those that ``trusted`` ``(N,)`` names, 0 where it names none."""
    kept = torch.where(trusted, distances, torch.zeros_like(distances))
    return kept.sum() / trusted.sum().clamp_min(1)


class FaceTarget(NamedTuple):
    """What the mesh sees in the images to be matched; kept, it saves a pass per step."""

    features: Tensor
    """``(N, C, h, w)``."""
    points: Tensor
    """``(N, 468, 3)``, pixels of an image ``UNIT`` pixels wide."""


class FaceDistances(NamedTuple):
    """The two losses, each ``(N,)``."""

    landmark: Tensor
    """Eq. 3: norm of the difference of the feature maps."""
    mesh: Tensor
    """Eq. 5: norm of the difference of all points, in pixels of an image ``UNIT`` pixels wide."""


UNIT = 256
"""Pixels: the width that mesh distances are told in, whatever the images' own is."""


class FaceLoss(nn.Module):
    """Eq. 3 and eq. 5 of FrEN with MediaPipe's mesh in the places of FAN and 3DDFA_V2.

    Both are norms as printed, not squared. ``forward(images, target)`` takes ``(N, 3, H, W)`` RGB in [-1, 1], FFHQ
    crops, and what ``target`` gave for the images to be matched.
    """

    def __init__(self, mesh: FaceMesh | FaceJudge) -> None:
        super().__init__()
        self.mesh = mesh

    def target(self, images: Tensor) -> FaceTarget:
        """What the net sees in ``(N, 3, H, W)`` images; carries gradients where the images do."""
        # Places in pixels need more digits than bfloat16 has.
        with torch.autocast(images.device.type, enabled=False):
            seen = self.mesh(images.float())
        return FaceTarget(seen.features, seen.points * (UNIT / images.shape[3]))

    def forward(self, images: Tensor, target: FaceTarget) -> FaceDistances:
        """Distances of each image to its target; see the class."""
        if len(images) != len(target.points):
            raise ValueError(f"{len(images)} images but {len(target.points)} targets")
        ours = self.target(images)
        return FaceDistances(_norm(ours.features - target.features), _norm(ours.points - target.points))


class FaceTerm(nn.Module):
    """One of ``FaceLoss``'s two as a term beside others: ``forward(images, target)`` of two batches of images.

    A module, so that its net goes to the device that the training runs on. Returns ``(N,)``; only the first batch
    carries gradients.
    """

    def __init__(self, loss: FaceLoss, part: Literal["landmark", "mesh"], factor: float = 1.0) -> None:
        """``factor`` takes the judge's units to those that weights are told in."""
        super().__init__()
        self.loss, self.part, self.factor = loss, part, factor

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """Distance of each image to its target; see the class."""
        with torch.no_grad():
            theirs = self.loss.target(target)
        distances: FaceDistances = self.loss(images, theirs)
        distance = distances.landmark if self.part == "landmark" else distances.mesh
        return distance if self.factor == 1.0 else self.factor * distance


class IdentityLoss(nn.Module):
    """One minus the cosine of two faces' embeddings, ``(N,)`` in [0, 2]: beyond the paper, as e4e and pSp have it.

    ``forward(images, target)`` takes two batches of FFHQ crops ``(N, 3, H, W)`` RGB in [-1, 1]; only the first
    carries gradients.
    """

    def __init__(self, net: IdentityNet | ArcFace) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """Distance of each image to its target; see the class."""
        if images.shape != target.shape:
            raise ValueError(f"images {tuple(images.shape)} and target {tuple(target.shape)} differ")
        with torch.no_grad():
            theirs = self.net.embed(target)
        distance: Tensor = 1 - (self.net.embed(images) * theirs).sum(1)
        return distance


def _norm(difference: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(difference.flatten(1), dim=1)
    return norm
