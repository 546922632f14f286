"""Expression dynamics (StylePortraitVideo, section 3.3): edited codes moved until the lips follow the original.

The networks are handed in: ``mouth`` says what is compared of the mouth, ``Eyes`` what the eyes should stay. What
the paper does not have: the mouth's corners stay as the edit left them, as they are what a smile is known by and
eq. 3 does not look at them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from modules.losses.perceptual import Features, PerceptualLoss

Render = Callable[[slice, Tensor], Tensor]
"""``render(frames, offsets)``: those n edited frames with ``(n, num_ws, w_dim)`` on top, ``(n, 3, r, r)``."""


class Mouth(NamedTuple):
    """What is compared of N mouths."""

    lips: Tensor
    """``(N, K, D)`` of the inner lips, which do what they did: gaps, or heatmaps."""
    corners: Tensor
    """``(N, C, 2)``, which stay as edited; C is 0 where the judge does not tell them."""


MouthJudge = Callable[[Tensor], Mouth]
"""What is compared of ``(N, 3, r, r)`` in [-1, 1]."""


@dataclass(frozen=True)
class DynamicsConfig:
    """How the offsets are found; the paper's numbers belong to HRNet's heatmaps and StyleGAN2's W+."""

    iterations: int
    """Steps of Adam per window; the paper's are 200."""
    learning_rate: float
    """Of Adam; the paper's is 3e-4."""
    window: int
    """Frames that are optimised together; the paper's clip of 48 is one."""
    overlap: int
    """Frames that a window shares with the next one, which goes on from them: so that windows do not show."""
    lip_weight: float
    """Of eq. 3."""
    corner_weight: float
    """Of how far the corners of the mouth are from where the edit left them; the paper has none."""
    eye_weight: float
    """Of eq. 4."""
    reg_weight: float
    """Of eq. 5."""
    temp_weight: float
    """Of eq. 6."""
    resolution: int
    """Layers up to this side, in pixels, are moved: those above draw colour and texture."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap must lie in [0, window), got {self.overlap} of {self.window}")


class Eyes:
    """Eq. 4: LPIPS under a mask of the eyes, a box fixed in FFHQ's crop, between an image and what it was."""

    def __init__(self, perceptual: PerceptualLoss, box: tuple[float, float, float, float]) -> None:
        """``box`` is left, top, right and bottom as shares of the side; what lies outside is cut away."""
        self.perceptual, self.box = perceptual, box

    def features(self, images: Tensor) -> Features:
        """What is compared of the eyes in ``(N, 3, r, r)``."""
        return self.perceptual.features(self._cut(images).clamp(-1, 1))

    def __call__(self, images: Tensor, wanted: Features) -> Tensor:
        """Distances ``(N,)``."""
        distance: Tensor = self.perceptual(self._cut(images).clamp(-1, 1), wanted)
        return distance

    def _cut(self, images: Tensor) -> Tensor:
        left, top, right, bottom = (round(share * images.shape[-1]) for share in self.box)
        return images[:, :, top:bottom, left:right]


def point_distance(points: Tensor, wanted: Tensor) -> Tensor:
    """Eq. 3 per image, ``(N,)``: the norms of the K points' differences, summed; both are ``(N, K, D)``."""
    if points.shape != wanted.shape or points.ndim != 3:
        raise ValueError(
            f"points must be (N, K, D) of one shape, got {tuple(points.shape)} and {tuple(wanted.shape)}"
        )
    distance: Tensor = torch.linalg.vector_norm(points - wanted, dim=2).sum(1)
    return distance


def window_offsets(
    start: Tensor,
    render: Render,
    wanted: Tensor,
    mouth: MouthJudge,
    eyes: Eyes,
    config: DynamicsConfig,
    before: Tensor | None = None,
    check: Callable[[], None] = lambda: None,
    batch: int = 1,
    rows: Tensor | None = None,
) -> Tensor:
    """Minimise eq. 7 over the offsets of T consecutive frames, from ``start`` ``(T, num_ws, w_dim)``.

    ``wanted`` ``(T, K, D)`` is what ``mouth`` says of the lips before the expression was edited. ``before``
    ``(num_ws, w_dim)`` is the offset of the frame before the first, which stays. ``batch`` frames are rendered
    with gradients at a time, so that the memory does not grow with T; ``check`` is called before and may raise.
    ``rows`` ``(num_ws,)`` is 1 for rows that may move and 0 for those that may not.
    """
    if start.ndim != 3 or len(wanted) != len(start):
        raise ValueError(f"{len(wanted)} lips need as many offsets (T, num_ws, w_dim), got {tuple(start.shape)}")
    parts = [slice(first, min(first + batch, len(start))) for first in range(0, len(start), batch)]
    with torch.no_grad():
        edited = (render(part, torch.zeros_like(start[part])) for part in parts)
        plain = [(eyes.features(images), mouth(images).corners) for images in edited]
    offsets = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([offsets], lr=config.learning_rate)
    for _ in range(config.iterations):
        optimizer.zero_grad()
        for part, (eyes_of_part, corners) in zip(parts, plain, strict=True):
            check()
            with torch.enable_grad():
                shown = render(part, offsets[part])
                seen, eye = mouth(shown), eyes(shown, eyes_of_part).sum()
                lip = point_distance(seen.lips, wanted[part]).sum()
                corner = point_distance(seen.corners, corners).sum()
                torch.autograd.backward(
                    config.lip_weight * lip + config.eye_weight * eye + config.corner_weight * corner
                )
        with torch.enable_grad():
            calm = config.reg_weight * regularity(offsets) + config.temp_weight * unsteadiness(offsets, before)
            torch.autograd.backward(calm)
        if rows is not None and offsets.grad is not None:
            offsets.grad *= rows[:, None]
        optimizer.step()
    return offsets.detach()


def regularity(offsets: Tensor) -> Tensor:
    """Eq. 5, summed over the frames of ``(T, num_ws, w_dim)``."""
    total: Tensor = torch.linalg.vector_norm(offsets.flatten(1), dim=1).sum()
    return total


def unsteadiness(offsets: Tensor, before: Tensor | None = None) -> Tensor:
    """Eq. 6 over ``(T, num_ws, w_dim)``, and the step from ``before`` ``(num_ws, w_dim)`` to the first."""
    if before is not None:
        offsets = torch.cat([before[None], offsets])
    total: Tensor = torch.linalg.vector_norm((offsets[1:] - offsets[:-1]).flatten(1), dim=1).sum()
    return total


def windows(frames: int, cuts: Sequence[int], config: DynamicsConfig) -> list[tuple[int, int, int]]:
    """``(first, kept, last)`` of each window over T frames.

    Optimised are ``[first, last)``, kept ``[first, kept)``, where the next window begins. None reaches over
    ``cuts``, the places where something new begins.
    """
    step = config.window - config.overlap
    found = []
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < frames}), frames]
    for begin, end in pairwise(edges):
        first = begin
        while first < end:
            last = min(first + config.window, end)
            kept = last if last == end else first + step
            found.append((first, kept, last))
            first = kept
    return found
