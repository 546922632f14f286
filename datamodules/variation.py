"""What becomes of images before they are trained on, so that few of them, or made ones, stand for more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SofteningConfig:
    """What samples go through before the encoder sees them, so that they look like video."""

    probability: float
    """Of softening a sample at all."""
    smallest_side: int
    """A softened sample is reduced to a side between this and its own, and enlarged again."""
    noise: float
    """Largest standard deviation of added noise, in units of [-1, 1]."""


@dataclass(frozen=True)
class Unsteadiness:
    """How a still image moves from frame to frame: a random walk, as if the alignment were unsure."""

    shift: float
    """Standard deviation of a step to the sides, as a share of the image's side."""
    turn: float
    """Standard deviation of a step of the angle, in degrees."""
    zoom: float
    """Standard deviation of a step of the logarithm of the size."""


def unsteady(image: Tensor, length: int, how: Unsteadiness, random: np.random.Generator) -> Tensor:
    """``(length, 3, S, S)``: ``(3, S, S)`` moved by a walk that begins at rest; edges are mirrored outwards."""
    steps = random.standard_normal((length, 4)) * [how.shift, how.shift, np.radians(how.turn), how.zoom]
    steps[0] = 0
    return moved(image, torch.from_numpy(steps.cumsum(0)).float())


def moved(image: Tensor, places: Tensor) -> Tensor:
    """``(N, 3, S, S)``: ``(3, S, S)`` looked at from ``places`` ``(N, 4)``; edges are mirrored outwards.

    A place is where the middle of the view lies, x and y as shares of the side, by which angle the view is turned
    (radians, clockwise in the picture, as y is down), and the logarithm of its size.
    """
    x, y, turn, zoom = places.unbind(1)
    size, cos, sin = torch.exp(zoom), torch.cos(turn), torch.sin(turn)
    # From places in the view to places in the image, both in [-1, 1].
    rows = [torch.stack([size * cos, -size * sin, 2 * x], 1), torch.stack([size * sin, size * cos, 2 * y], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), [len(places), *image.shape], align_corners=False)
    whole = image.expand(len(places), -1, -1, -1)
    return functional.grid_sample(whole, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class VariationConfig:
    """How real frames are varied: crops are never quite alike, nor are cameras. All 0 leaves them as they are."""

    shift: float
    """Standard deviation of a shift to the sides, as a share of the image's side."""
    turn: float
    """Standard deviation of the angle, in degrees."""
    zoom: float
    """Standard deviation of the logarithm of the size."""
    light: float
    """Standard deviation of the logarithm of contrast, and of brightness in units of [-1, 1]."""
    colour: float
    """Standard deviation of the logarithm of each channel's gain."""


def vary(image: Tensor, config: VariationConfig, random: np.random.Generator) -> Tensor:
    """``(3, r, r)`` in [-1, 1], moved and in another light; what comes in from outside is mirrored."""
    if config.shift or config.turn or config.zoom:
        place = random.standard_normal(4) * [config.shift, config.shift, np.radians(config.turn), config.zoom]
        image = moved(image, torch.from_numpy(place).float()[None])[0]
    if config.light or config.colour:
        contrast, brightness = random.standard_normal(2) * config.light
        gains = np.exp(random.standard_normal(3) * config.colour + contrast).astype(np.float32)
        image = (image * torch.from_numpy(gains)[:, None, None] + float(brightness)).clamp(-1, 1)
    return image


def soften(image: Tensor, config: SofteningConfig, random: np.random.Generator) -> Tensor:
    """``(3, r, r)`` in [-1, 1], reduced, enlarged and with noise, or untouched."""
    if random.random() >= config.probability:
        return image
    side = int(random.integers(config.smallest_side, image.shape[-1] + 1))
    small = functional.interpolate(image[None], size=(side, side), mode="area")
    soft = functional.interpolate(small, size=image.shape[-2:], mode="bilinear", align_corners=False)[0]
    grain = torch.from_numpy(random.standard_normal(image.shape, dtype=np.float32))
    return (soft + grain * float(random.uniform(0, config.noise))).clamp(-1, 1)
