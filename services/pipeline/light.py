"""Light and complexion: what is smooth in the difference of two pictures of one face."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from services.pipeline.seam import Floats, averaged

_LEAST = 0.05
"""Share of trusted places nearby, below which light fades to none."""


@dataclass(frozen=True)
class LightConfig:
    """What counts as light."""

    side: int
    """Pixels of a side to which crops are averaged down before they are compared."""
    reach: float
    """Standard deviation of the smoothing, as a fraction of the crop's side."""
    alike: float
    """Levels of 255: differences of this size and more are content and have hardly a say."""

    def __post_init__(self) -> None:
        if self.side < 2 or min(self.reach, self.alike) <= 0:
            raise ValueError("side must be 2 or more; reach and alike above 0")


def smooth_change(before: Floats, after: Floats, config: LightConfig, within: Floats | None = None) -> Floats:
    """``(s, s, 3)``: what is smooth in ``after - before``, in the crops' own range.

    The crops are ``(S, S, 3)`` and ``(T, T, 3)`` of the same face, in [-1, 1]; ``s`` is ``config.side``, or less
    where a crop is smaller. ``within`` ``(U, U)`` in [0, 1] says where to look. Where the two show different
    things it is what lies around; exactly zero where they are equal. Raises ``ValueError`` for shapes that do not
    fit.
    """
    was, now = same_sized(config.side, before, after)
    side, apart = len(was), now - was
    trusted = np.exp(-np.square(127.5 * np.abs(apart).max(axis=2, keepdims=True) / config.alike))
    if within is not None:
        if within.ndim != 2:
            raise ValueError(f"within must be (U, U), got {within.shape}")
        trusted = trusted * averaged(within, side)[..., None]
    spread = smoothed(np.dstack([apart * trusted, trusted]), config.reach * side)
    return np.asarray(spread[..., :3] / np.maximum(spread[..., 3:], _LEAST), np.float32)


@dataclass(frozen=True)
class ComplexionConfig(LightConfig):
    """What of an edit is light and complexion."""

    near: float
    """Standard deviation of the smoothing that says whether a place itself changed, as a fraction of the side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.near <= self.reach:
            raise ValueError("near must be above 0 and at most reach")


def complexion(before: Floats, after: Floats, config: ComplexionConfig, within: Floats) -> Floats:
    """``(s, s, 3)``: what an edit changed of light and complexion: its ``smooth_change``, where it is found.

    At no place more than what is smooth and near changed there, nor the other way: a mouth that opens must not
    lighten the cheek beside it.
    """
    wide = smooth_change(before, after, config, within)
    was, now = same_sized(config.side, before, after)
    near = smoothed(now - was, config.near * len(was))
    return np.asarray(np.clip(wide, np.minimum(near, 0.0), np.maximum(near, 0.0)), np.float32)


def same_sized(side: int, *crops: Floats) -> list[Floats]:
    """Crops ``(S, S, 3)`` of any sizes averaged down to ``side``, or to the smallest of them."""
    for crop in crops:
        if crop.ndim != 3 or crop.shape[0] != crop.shape[1] or crop.shape[2] != 3:
            raise ValueError(f"crops must be square, (S, S, 3), got {crop.shape}")
    side = min(side, *(len(crop) for crop in crops))
    return [averaged(crop, side) for crop in crops]


def smoothed(values: Floats, sigma: float) -> Floats:
    """Gaussian blur of ``(s, s)`` or ``(s, s, C)``, mirrored at the border; ``sigma`` in pixels."""
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.float32)


def at_size(values: Floats, size: int) -> Floats:
    """``(s, s)`` or ``(s, s, C)`` enlarged to a side of ``size``, without creases and within its own bounds."""
    large = cv2.resize(values, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(large, values.min(), values.max()), np.float32)
