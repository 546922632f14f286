"""Where every pixel goes from one frame to another: dense optical flow, what of it to believe, and warping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_SMALLEST = 32
"""Pixels: below this side DIS has no pyramid to search."""


@dataclass(frozen=True)
class FlowConfig:
    """Section ``flow``: one choice for all that aligns frames, so that methods are compared by the same flow."""

    preset: Literal["ultrafast", "fast", "medium"]
    """Of DIS (Kroeger et al. 2016): how densely and how long it searches."""
    relative: float
    """Share of the squared lengths of flow and way back by which the two may miss each other."""
    absolute: float
    """Square pixels that are allowed on top."""


class DenseFlow:
    """DIS optical flow of OpenCV; every call is a new search, nothing is carried from frame to frame."""

    def __init__(self, config: FlowConfig) -> None:
        self.config = config
        # OpenCV's own stubs do not know this one.
        self._search = cv2.DISOpticalFlow_create(_PRESETS[config.preset])  # type: ignore[attr-defined]

    def __call__(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Tensor:
        """Two RGB frames ``(H, W, 3)`` uint8 to ``(2, H, W)`` float32: x, then y, in pixels.

        What is seen at pixel p of ``first`` is seen at p + flow of ``second``.
        """
        if first.shape != second.shape or first.ndim != 3 or first.shape[2] != 3 or first.dtype != np.uint8:
            raise ValueError(f"two (H, W, 3) uint8 are needed, got {first.shape} and {second.shape}")
        if min(first.shape[:2]) < _SMALLEST:
            raise ValueError(f"flow needs frames of at least {_SMALLEST} px, got {first.shape[:2]}")
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second)]
        found: NDArray[np.float32] = self._search.calc(grey[0], grey[1], None)
        return torch.from_numpy(np.ascontiguousarray(found.transpose(2, 0, 1)))


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """``images`` ``(N, C, H, W)`` read at p + flow(p), bilinear; differentiable with respect to both.

    With the flow from frame a to frame b, frame b comes to lie on frame a. ``flow`` is ``(N, 2, H, W)``, x then
    y in pixels, pixel centres on integers; outside the picture its edge is repeated.
    """
    n, _, height, width = images.shape
    if flow.shape != (n, 2, height, width):
        raise ValueError(f"flow must be ({n}, 2, {height}, {width}), got {tuple(flow.shape)}")
    at = _places(flow)
    scale = flow.new_tensor([2 / (width - 1), 2 / (height - 1)])
    grid = at.permute(0, 2, 3, 1) * scale - 1
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def inside(flow: Tensor) -> Tensor:
    """``(N, H, W)`` bool: where p + flow(p) lies in the picture; ``flow`` ``(N, 2, H, W)``."""
    x, y = _places(flow).unbind(1)
    height, width = flow.shape[2:]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def consistent(forward: Tensor, backward: Tensor, config: FlowConfig) -> Tensor:
    """``(N, H, W)`` bool: where the way there and back ends where it began (Sundaram et al. 2010, eq. 5).

    ``forward`` and ``backward`` ``(N, 2, H, W)`` are the flows from a to b and from b to a. Places that are
    hidden in b, or lie outside it, are False.
    """
    if forward.shape != backward.shape:
        raise ValueError(f"flows differ in shape: {tuple(forward.shape)} and {tuple(backward.shape)}")
    back = warp(backward, forward)
    missed = (forward + back).square().sum(1)
    lengths = forward.square().sum(1) + back.square().sum(1)
    return (missed <= config.relative * lengths + config.absolute) & inside(forward)


def _places(flow: Tensor) -> Tensor:
    height, width = flow.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=flow.dtype, device=flow.device),
        torch.arange(width, dtype=flow.dtype, device=flow.device),
        indexing="ij",
    )
    return torch.stack([x, y]) + flow
