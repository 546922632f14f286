"""Where one shot ends and the next begins, found while the frames pass by."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.types import Frames

THUMBNAIL = (32, 32)
BINS = 16


@dataclass(frozen=True)
class ShotConfig:
    """What counts as a cut."""

    difference: float
    """Least mean difference of 32 px thumbnails to the frame before, in [0, 1]."""
    histogram: float
    """Least distance of colour histograms to the frame before, in [0, 1] (half the sum of differences)."""
    ratio: float
    """How many times the recent mean difference it must be: steady fast motion is no cut."""
    recent: int
    """Number of frames that the recent mean is over."""


@dataclass(frozen=True)
class _Look:
    thumbnail: NDArray[np.float32]
    histogram: NDArray[np.float64]


class ShotDetector:
    """Feed it frames in order; ``cuts`` are the indices of frames that begin a new shot (0 is not listed).

    A flash, one frame after which the picture is as before, is no cut; so a decision waits for one frame.
    """

    def __init__(self, config: ShotConfig) -> None:
        self.config = config
        self._cuts: list[int] = []
        self._seen = 0
        self._before: _Look | None = None
        self._suspect: _Look | None = None
        self._recent: deque[float] = deque(maxlen=config.recent)

    def feed(self, frames: Frames) -> None:
        """``(T, H, W, 3)`` uint8, the next frames of the clip."""
        for frame in frames:
            self._add(_look(frame))

    @property
    def cuts(self) -> list[int]:
        """Cuts so far; a suspect last frame counts."""
        return [*self._cuts, self._seen - 1] if self._suspect is not None else list(self._cuts)

    @property
    def suspects(self) -> bool:
        """Whether the last frame looks like the first of a shot; the next one may show that it was a flash."""
        return self._suspect is not None

    def _add(self, look: _Look) -> None:
        if self._suspect is not None and self._before is not None:
            # The frame before looked like a cut: was it one, or a flash?
            if self._is_jump(self._before, look):
                self._cuts.append(self._seen - 1)
                self._recent.clear()
                self._before = self._suspect
            self._suspect = None
        if self._before is not None:
            difference = _difference(self._before, look)
            usual = float(np.mean(self._recent)) if self._recent else 0.0
            if difference > self.config.ratio * usual and self._is_jump(self._before, look):
                self._suspect = look
            else:
                self._recent.append(difference)
        self._seen += 1
        if self._suspect is None:
            self._before = look

    def _is_jump(self, a: _Look, b: _Look) -> bool:
        histogram = float(np.abs(a.histogram - b.histogram).sum()) / 2
        return _difference(a, b) > self.config.difference and histogram > self.config.histogram


def shot_cuts(batches: Iterable[Frames], config: ShotConfig) -> list[int]:
    """Indices of the frames that begin a new shot, over ``(T, H, W, 3)`` uint8 arrays in order."""
    detector = ShotDetector(config)
    for frames in batches:
        detector.feed(frames)
    return detector.cuts


def _look(frame: NDArray[np.uint8]) -> _Look:
    # A coarse grid of pixels is enough, and 4K frames need not be averaged whole.
    step = max(1, min(frame.shape[:2]) // 256)
    small = cv2.resize(np.ascontiguousarray(frame[::step, ::step]), THUMBNAIL, interpolation=cv2.INTER_AREA)
    counts = np.concatenate(
        [np.bincount(small[..., c].ravel() // (256 // BINS), minlength=BINS) for c in range(3)]
    )
    return _Look(np.asarray(small, np.float32) / np.float32(255), counts / (3 * THUMBNAIL[0] * THUMBNAIL[1]))


def _difference(a: _Look, b: _Look) -> float:
    return float(np.abs(a.thumbnail - b.thumbnail).mean())
