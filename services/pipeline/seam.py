"""The drift of colours along the seam of a pasted face: measured, and taken out of the rendering.

A generator's light and skin are a few levels off those of the frame, which shows as a soft outline where the face
is pasted whole. What differs along the feathered edge, where frame and rendering show the same skin, is spread
inwards by normalised convolution with one heavy-tailed kernel, and taken away. All of it is done on crops that are
averaged down to a small side: the correction is coarse, and a frame of any size costs the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]
_OVERSAMPLED = 4
"""Samples per pixel and axis that a frame is read with; a frame is smooth, so few do."""
_LEAST = 1e-12
"""Keeps a division from zero, where no vote reaches."""
_FAINT = 0.02
"""Weight on the seam, at most 4 / 27, below which a place is none of it: a mask is seldom whole 0 or 1."""


@dataclass(frozen=True)
class SeamConfig:
    """How the drift of colours is measured and removed."""

    side: int
    """Pixels of a side to which crops are averaged down before they are compared: what is finer is texture."""
    reach: float
    """Standard deviation of the finest smoothing, as a fraction of the crop's side."""
    falloff: float
    """Weight of each smoothing of twice the width, against the one before; more makes the correction even."""
    limit: float
    """In levels of 255: no correction is larger. A larger difference is content, hair before a wall; it counts
    ever less, and from twice this on not at all."""
    strength: float
    """How much of the drift is taken away, in [0, 1]; 0 leaves it."""
    trusted: float
    """Share of the seam nearby that must count for a whole correction; where less does, less is corrected."""
    memory: float
    """Share of the frames before in what is corrected, in [0, 1): light that changes slowly is followed, and what
    passes by the seam does not flicker over the face."""

    def __post_init__(self) -> None:
        if self.side < 2 or not (self.reach > 0 and self.falloff > 0 and self.limit > 0):
            raise ValueError("side must be 2 or more; reach, falloff and limit above 0")
        if not (0 <= self.strength <= 1 and 0 < self.trusted <= 1 and 0 <= self.memory < 1):
            raise ValueError("strength must be in [0, 1], trusted in (0, 1], memory in [0, 1)")


@dataclass(frozen=True)
class Drift:
    """How far a pasted rendering is from the frame along the seam, in levels of 255."""

    mean: tuple[float, float, float]
    """Signed, of red, green and blue: rendering less frame."""
    rms: float
    """Root mean square over the seam and the channels, of what is left once texture is averaged out."""


@dataclass(frozen=True)
class FrameDrift:
    """What frames show along the seam."""

    whole: Drift
    """All of the seam, what is content there too."""
    alike: Drift
    """Where frame and rendering show the same thing, as far as it counts for the correction."""


@dataclass(frozen=True)
class SeamReport:
    """The seam of one face over a clip, as its frames show it."""

    frames: int
    """Frames that were measured: those that show the edit in full."""
    alike: float
    """Share of the seam that counts for the correction, in [0, 1]; the rest differs by more than colour drifts."""
    before: FrameDrift
    """What they would show without the correction."""
    after: FrameDrift
    """What they show, at the same places."""


class SeamMeter:
    """Sums up the drift of a clip's frames; the same memory for any number of them."""

    def __init__(self, config: SeamConfig) -> None:
        self._config, self._frames = config, 0
        self._sums = np.zeros((2, 2, 5))

    def add(
        self, below: Image, above: Image, taken: Floats, mask: Floats, crop_to_frame: NDArray[np.float64]
    ) -> None:
        """Count a frame ``(H, W, 3)`` before and after a face was pasted, ``taken`` being what was corrected.

        ``mask`` ``(S, S)`` is what it was pasted with, ``crop_to_frame`` belongs to that crop. With the correction
        is what the two frames show; without is the same with what was taken given back.
        """
        side, size = len(taken), len(mask)
        share = averaged(mask, side)
        change = _sampled(above, crop_to_frame, size, side) - _sampled(below, crop_to_frame, size, side)
        # Beyond the frame's edge nothing is pasted: what is read there is mirrored.
        there = _sampled(np.full(below.shape[:2], 255, np.uint8), crop_to_frame, size, side, cv2.BORDER_CONSTANT)
        seam = _floats(_seam(share) * (there >= 255))
        after = _floats(change / np.where(seam > 0, share, 1.0)[..., None])
        before = _floats(after + taken)
        counted = _floats(seam * _alike(before, self._config.limit))
        self._frames += 1 if seam.any() else 0
        self._sums += [[_sums(apart, weight) for weight in (seam, counted)] for apart in (before, after)]

    def report(self) -> SeamReport | None:
        """Over all frames, to hundredths. None where no frame showed a seam."""
        if not self._frames:
            return None
        before, after = (FrameDrift(*(_drift(sums) for sums in rows)) for rows in self._sums)
        whole, alike = self._sums[0, :, 4].tolist()
        return SeamReport(self._frames, round(alike / whole, 4), before, after)


class SeamCorrector:
    """Finds what to take from the renderings of consecutive frames so that their colours meet the frames'."""

    def __init__(self, config: SeamConfig) -> None:
        self._config = config
        self._votes: Floats | None = None

    def restart(self) -> None:
        """Forget the frames before: a new shot begins."""
        self._votes = None

    def correction(self, rendering: Floats, frame: Floats, mask: Floats) -> Floats:
        """What to take from the next rendering: ``(s, s, 3)`` in levels of 255.

        ``rendering`` ``(S, S, 3)`` and ``frame`` ``(T, T, 3)`` show the same crop, in [-1, 1]; ``mask`` ``(S, S)``
        in [0, 1] is what is pasted. ``s`` is ``config.side``, or less where a crop is smaller. Along the seam it
        is the smoothed difference, within ``config.limit``; inwards it evens out. Zero where there is no seam,
        and where rendering and frame agree. Raises ``ValueError`` for shapes that do not fit.
        """
        config = self._config
        if mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
            raise ValueError(f"mask must be square, got {mask.shape}")
        if rendering.shape != (*mask.shape, 3):
            raise ValueError(f"rendering must be {(*mask.shape, 3)} as its mask, got {rendering.shape}")
        if frame.ndim != 3 or frame.shape[0] != frame.shape[1] or frame.shape[2] != 3:
            raise ValueError(f"frame must be a square crop (T, T, 3), got {frame.shape}")
        side = min(config.side, len(rendering), len(frame))
        apart = 127.5 * (averaged(rendering, side) - averaged(frame, side))
        seam = _seam(averaged(mask, side))
        counted = seam * _alike(apart, config.limit)
        votes = np.dstack([counted[..., None] * apart, counted, seam])
        if self._votes is not None and self._votes.shape == votes.shape:
            votes = config.memory * self._votes + (1.0 - config.memory) * votes
        self._votes = votes
        spread = _spread(votes, config.reach * side, config.falloff)
        field = spread[..., :3] / np.maximum(spread[..., 3:4], _LEAST)
        trust = np.minimum(spread[..., 3:4] / np.maximum(config.trusted * spread[..., 4:], _LEAST), 1.0)
        return _floats(config.strength * np.clip(field * trust, -config.limit, config.limit))


def corrected(rendering: Floats, taken: Floats) -> Floats:
    """``rendering`` ``(S, S, 3)`` in [-1, 1] less a ``correction`` ``(s, s, 3)``; the same bits for a zero one.

    Values may leave [-1, 1] by as much as is taken.
    """
    if not taken.any():
        return rendering
    size = len(rendering)
    # Cubic: a bilinear field has creases, sixteen pixels apart at 1024.
    return _floats(rendering - cv2.resize(taken / 127.5, (size, size), interpolation=cv2.INTER_CUBIC))


def averaged(values: Floats, side: int) -> Floats:
    """``(S, S)`` or ``(S, S, C)`` averaged down to a side of ``side``."""
    return _floats(cv2.resize(values, (side, side), interpolation=cv2.INTER_AREA))


def _sampled(
    frame: Image,
    crop_to_frame: NDArray[np.float64],
    size: int,
    side: int,
    beyond: int = cv2.BORDER_REFLECT_101,
) -> Floats:
    """A crop of a frame ``(H, W, 3)`` or ``(H, W)`` in levels, read at few points whatever its size, at ``side``.

    ``crop_to_frame`` ``(3, 3)`` belongs to a crop of side ``size``; ``beyond`` says what lies outside the frame.
    """
    fine = side * _OVERSAMPLED
    scale = size / fine
    shift = (scale - 1.0) / 2.0
    rescale = np.array([[scale, 0.0, shift], [0.0, scale, shift], [0.0, 0.0, 1.0]])
    points = cv2.warpAffine(
        frame,
        (crop_to_frame @ rescale)[:2],
        (fine, fine),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=beyond,
    )
    return averaged(_floats(points), side)


def _spread(values: Floats, sigma: float, falloff: float) -> Floats:
    """Convolved with a sum of Gaussians, each twice as wide as the one before: all reach, the near ones count."""
    total, weight = np.zeros_like(values), 1.0
    while sigma <= len(values) / 2:
        total += weight * cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        sigma, weight = 2.0 * sigma, falloff * weight
    return total


def _seam(share: Floats) -> Floats:
    """How much each place belongs to the seam, by the share that is pasted there: its outer side more."""
    return _floats(np.maximum(share * (1.0 - share) ** 2 - _FAINT, 0.0))


def _sums(apart: Floats, weight: Floats) -> list[float]:
    """Of differences ``(s, s, 3)`` weighed by ``(s, s)``: red, green, blue, mean square, and of the weights."""
    weights = weight.astype(np.float64)
    means = np.einsum("hw,hwc->c", weights, apart).tolist()
    return [*means, float(np.einsum("hw,hwc->", weights, apart.astype(np.float64) ** 2)) / 3, float(weights.sum())]


def _drift(sums: NDArray[np.float64]) -> Drift:
    red, green, blue, square = (sums[:4] / max(float(sums[4]), _LEAST)).tolist()
    return Drift((round(red, 2), round(green, 2), round(blue, 2)), round(square**0.5, 2))


def _alike(apart: Floats, limit: float) -> Floats:
    """``(s, s)`` in [0, 1]: whether a difference ``(s, s, 3)`` in levels is one of colour, not of content."""
    return _floats(np.clip(2.0 - np.abs(apart).max(axis=2) / limit, 0.0, 1.0))


def _floats(values: object) -> Floats:
    return np.asarray(values, dtype=np.float32)
