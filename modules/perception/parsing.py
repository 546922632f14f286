"""Which pixel is face, hair, skin or clothes: MediaPipe's selfie_multiclass in torch, differentiable."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.assets import asset_path
from modules.perception.tflite import TfliteNet, read_tflite


class Regions(NamedTuple):
    """Soft masks of N pictures, each ``(N, 1, H, W)`` in [0, 1]."""

    face: Tensor
    """Without hair, neck and ears' ornaments."""
    head: Tensor
    """The face, hair, and what is worn there."""
    background: Tensor
    """What is no part of a person."""


CLASSES = ("background", "hair", "body skin", "face skin", "clothes", "other")
"""In the order of the probabilities; glasses and jewellery are 'other', beards mostly 'face skin'."""
_BACKGROUND = CLASSES.index("background")
_FACE = CLASSES.index("face skin")
_HEAD = [CLASSES.index(name) for name in ("hair", "face skin", "other")]
_FEATURES = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185),
    (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
    (168, 122, 174, 198, 49, 129, 64, 98, 97, 2, 326, 327, 294, 358, 279, 420, 399, 351),
)
"""Outlines among the 468 mesh points: eyes, lips, brows, nose."""


class FaceParser(nn.Module):
    """``selfie_multiclass_256x256``: frozen, differentiable with respect to the images.

    ``forward(images)`` takes ``(N, 3, H, W)`` RGB in [-1, 1] of one person each, the head filling about half of
    the image or more, and returns probabilities ``(N, 6, H, W)`` of ``CLASSES``.
    """

    def __init__(self, net: TfliteNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Class probabilities; see the class."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the parser takes (N, 3, H, W), got {tuple(images.shape)}")
        _, height, width = self.net.size
        inside = images
        if tuple(images.shape[2:]) != (height, width):
            inside = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
        (logits,) = self.net((inside + 1) / 2)
        if tuple(images.shape[2:]) != (height, width):
            logits = F.interpolate(logits, tuple(images.shape[2:]), mode="bilinear", antialias=True)
        return torch.softmax(logits, dim=1)

    def regions(self, images: Tensor, mesh_points: Tensor | None = None) -> Regions:
        """Where ``(N, 3, H, W)`` show the face, the head, and what is behind.

        With the mesh's points ``(N, 468, 3)`` in pixels of the images, eyes, brows, lips and nose belong to the
        face even where glasses cover them; the filling carries no gradient.
        """
        shares: Tensor = self(images)
        face, head = shares[:, _FACE : _FACE + 1], shares[:, _HEAD].sum(1, keepdim=True)
        background = shares[:, _BACKGROUND : _BACKGROUND + 1]
        if mesh_points is not None:
            if mesh_points.shape != (len(images), 468, 3):
                raise ValueError(f"mesh points must be ({len(images)}, 468, 3), got {tuple(mesh_points.shape)}")
            face = torch.maximum(face, _filled(mesh_points, images.shape[2], images.shape[3]).to(face))
            background = torch.minimum(background, 1 - face)
        return Regions(face, torch.maximum(face, head), background)


def load_face_parser(device: str | torch.device = "cpu", path: Path | None = None) -> FaceParser:
    """The net of the asset ``parsing``, or of a ``.tflite`` file elsewhere."""
    net = read_tflite(path or asset_path("parsing", "selfie_multiclass_256x256.tflite"))
    return FaceParser(net).to(device).eval().requires_grad_(False)


def _filled(mesh_points: Tensor, height: int, width: int) -> Tensor:
    """``(N, 1, height, width)``: 1 inside the hulls of eyes, brows, lips and nose."""
    masks = np.zeros((len(mesh_points), 1, height, width), np.uint8)
    for points, mask in zip(mesh_points[:, :, :2].detach().cpu().numpy(), masks, strict=True):
        for outline in _FEATURES:
            hull = cv2.convexHull(np.round(points[list(outline)]).astype(np.int32))
            cv2.fillConvexPoly(mask[0], hull, 1)
    return torch.from_numpy(masks).float()
