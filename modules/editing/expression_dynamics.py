"""Expression dynamics (StylePortraitVideo, section 3.3): edited codes moved until the lips follow the original.

The networks are handed in: ``mouth`` says what is compared of the mouth, ``Eyes`` what the eyes should stay. What
the paper does not have: the mouth's corners stay as the edit left them, as they are what a smile is known by and
eq. 3 does not look at them; and a face that was edited to express something goes on to express it, as brows and
cheeks can where the lips no longer may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from modules.losses.perceptual import Features, PerceptualLoss
from modules.out_of_memory import BatchSize

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


Expressed = Callable[[Tensor], Tensor]
"""How strongly ``(N, 3, r, r)`` express what the edits ask for, ``(N, E)`` log odds; more is stronger."""


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
    expression_weight: float
    """Of the log odds that an edited expression lost to the lips; the paper has none."""
    eye_weight: float
    """Of eq. 4, a mean over the eyes' box; the paper's, over the crop, is smaller by the box's share of it."""
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
    """Eq. 4: LPIPS under a mask of the eyes, a box fixed in FFHQ's crop, between an image and what it was.

    The mean is over the box alone; the paper's is over the crop, whose rest is masked and counts as nothing.
    """

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


class Found(NamedTuple):
    """What came out of a window."""

    offsets: Tensor
    """``(T, num_ws, w_dim)``, finite."""
    steps: int
    """Steps that led to them: all, or as many as gave numbers."""


def window_offsets(
    start: Tensor,
    render: Render,
    wanted: Tensor,
    mouth: MouthJudge,
    eyes: Eyes,
    config: DynamicsConfig,
    batch: BatchSize,
    before: Tensor | None = None,
    rendered: Callable[[int], None] = lambda frames: None,
    rows: Tensor | None = None,
    expressed: Expressed | None = None,
) -> Found:
    """Minimise eq. 7 over the offsets of T consecutive frames, from ``start`` ``(T, num_ws, w_dim)``.

    ``wanted`` ``(T, K, D)`` is what ``mouth`` says of the lips before the expression was edited. ``before``
    ``(num_ws, w_dim)`` is the offset of the frame before the first, which stays. ``batch`` frames are rendered
    with gradients at a time, so that the memory does not grow with T; where it does not hold them, fewer are from
    there on. ``rendered`` is told how many were, after each batch, and may raise. ``rows`` ``(num_ws,)`` is 1 for
    rows that may move and 0 for those that may not. ``expressed`` is asked where an edit is judged by it; a face
    that expresses more than the edit left it with is as good as one that expresses as much.

    A loss or gradient that is no number ends the search with the last offsets that gave numbers.
    """
    if start.ndim != 3 or len(wanted) != len(start):
        raise ValueError(f"{len(wanted)} lips need as many offsets (T, num_ws, w_dim), got {tuple(start.shape)}")

    says: Expressed = expressed or (lambda images: images.new_zeros(len(images), 0))

    def plain(part: slice) -> tuple[Features, Tensor, Tensor]:
        images = render(part, torch.zeros_like(start[part]))
        return eyes.features(images) if config.eye_weight else (), mouth(images).corners, says(images)

    with torch.no_grad():
        parts = list(batch.over(len(start), plain))
    eyes_before = tuple(torch.cat(layer) for layer in zip(*(features for features, *_ in parts), strict=True))
    corners_before = torch.cat([corners for _, corners, _ in parts])
    said_before = torch.cat([said for *_, said in parts])
    offsets = start.detach().clone().requires_grad_()

    def slope(part: slice) -> tuple[slice, Tensor, Tensor]:
        """Of the terms that pictures are needed for."""
        with torch.enable_grad():
            moved = offsets[part].detach().requires_grad_()
            shown = render(part, moved)
            seen = mouth(shown)
            lip = point_distance(seen.lips, wanted[part]).sum()
            corner = point_distance(seen.corners, corners_before[part]).sum()
            lost = (said_before[part] - says(shown)).clamp_min(0).sum()
            loss = config.lip_weight * lip + config.corner_weight * corner + config.expression_weight * lost
            if config.eye_weight:
                eye = eyes(shown, tuple(layer[part] for layer in eyes_before)).sum()
                loss = loss + config.eye_weight * eye
            (gradient,) = torch.autograd.grad(loss, moved)
        return part, loss.detach(), gradient

    optimizer = torch.optim.Adam([offsets], lr=config.learning_rate)
    good = start.detach().clone()
    for step in range(config.iterations):
        with torch.enable_grad():
            calm = config.reg_weight * regularity(offsets) + config.temp_weight * unsteadiness(offsets, before)
            gradient = torch.autograd.grad(calm, offsets)[0].clone()
        total = calm.detach()
        for part, loss, of_part in batch.over(len(start), slope):
            gradient[part] += of_part
            total = total + loss
            rendered(len(of_part))
        if rows is not None:
            gradient *= rows[:, None]
        if not (total.isfinite() and gradient.isfinite().all()):
            return Found(good, max(0, step - 1))
        good = offsets.detach().clone()
        offsets.grad = gradient
        optimizer.step()
    if not offsets.isfinite().all():
        return Found(good, config.iterations - 1)
    return Found(offsets.detach(), config.iterations)


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
