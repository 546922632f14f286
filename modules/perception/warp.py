"""Upright views of faces: the similarity that brings points of an image nearest to where a net wants them."""

from __future__ import annotations

import torch
from torch import Tensor


def similarity_grid(points: Tensor, wanted: Tensor, side: int, view: int) -> Tensor:
    """Where each pixel of a ``view`` px square comes from: ``(N, view, view, 2)`` for ``F.grid_sample``.

    ``points`` ``(N, K, 2)`` lie in square images of ``side`` px and belong at ``wanted`` ``(K, 2)`` in the view, x
    and y in pixels with centres on integers; turn, scale and shift are those of the least squares. Sampled with
    ``align_corners=False``.
    """
    if points.ndim != 3 or points.shape[1:] != wanted.shape or wanted.shape[1:] != (2,):
        raise ValueError(
            f"points (N, K, 2) and wanted (K, 2), got {tuple(points.shape)} and {tuple(wanted.shape)}"
        )
    middle, middle_there = wanted.mean(0), points.mean(1)
    x, y = (wanted - middle).unbind(-1)
    u, v = (points - middle_there[:, None]).unbind(-1)
    # Least squares of (u + iv) = (a + ib)(x + iy).
    spread = (x.square() + y.square()).sum()
    a = (x * u + y * v).sum(1)[:, None, None] / spread
    b = (x * v - y * u).sum(1)[:, None, None] / spread
    steps = torch.arange(view, device=points.device, dtype=points.dtype)
    y, x = torch.meshgrid(steps - middle[1], steps - middle[0], indexing="ij")
    places = torch.stack([a * x - b * y, b * x + a * y], -1) + middle_there[:, None, None]
    grid: Tensor = (places + 0.5) * (2 / side) - 1
    return grid
