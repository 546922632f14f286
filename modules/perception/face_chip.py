"""Upright faces as dlib cuts them ("chips"), from mesh points instead of dlib's own landmarks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from modules.perception.landmarks import landmarks_68
from modules.perception.warp import similarity_grid

_AMONG_68 = (45, 42, 36, 39, 33)
_CORNERS = (
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)
"""Where the corners of the eyes and the base of the nose lie in dlib's mean face, before the padding."""
_FINER = 4
"""Samples of the image along each side of a pixel of the chip: up to so much smaller, nothing is left out."""


def face_chip(images: Tensor, points: Tensor, side: int, padding: float) -> Tensor:
    """``(N, 3, side, side)`` of square images ``(N, 3, H, H)`` and their mesh points ``(N, 468, 3)`` in pixels.

    ``padding`` is a part of the mean face on every side, as in ``dlib.get_face_chip_details``; what lies outside
    of the image repeats its edge.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise ValueError(f"a chip is cut from (N, 3, H, H), got {tuple(images.shape)}")
    fine = side * _FINER
    # dlib stretches the padded face from the middle of the first pixel to the middle of the last.
    wanted = (points.new_tensor(_CORNERS) + padding) / (1 + 2 * padding) * (side - 1)
    wanted = (wanted + 0.5) * _FINER - 0.5
    grid = similarity_grid(landmarks_68(points)[:, list(_AMONG_68)], wanted, images.shape[-1], fine)
    faces = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(faces, _FINER)
