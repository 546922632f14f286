"""Landmarks that flow carries from frame to frame, blended with the detected ones (StylePortraitVideo 3.1).

Points are x then y in pixels of the frame, pixel centres on integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.alignment import LEFT_EYE, RIGHT_EYE

Points = NDArray[np.float64]


@dataclass(frozen=True)
class LandmarkFlowConfig:
    """Section ``landmark_flow``: how far flow is believed."""

    long_side: int
    """Pixels: larger frames are looked at with this longer side."""
    window: int
    """Side in pixels of the window that Lucas-Kanade compares, at each level of its pyramid."""
    levels: int
    """Levels of the pyramid above the picture itself, each half as large as the one below."""
    weight: float
    """Largest share of a blended landmark that comes from the flow, 0 to below 1; 0 keeps the detections."""
    tolerance: float
    """Share of the eyes' distance: where there and back miss by this, a landmark is the detected one."""
    reset: float
    """The same: where flow and detection differ by this, in the median, all of the face is the detected one."""

    def __post_init__(self) -> None:
        if not (0 <= self.weight < 1):
            raise ValueError(f"weight must be from 0 to below 1, got {self.weight}")
        if not (self.tolerance > 0 and self.reset > 0):
            raise ValueError(f"tolerance and reset must be above 0, got {self.tolerance} and {self.reset}")
        if self.window < 3 or self.levels < 0 or self.long_side < self.window:
            raise ValueError(
                "window must be 3 or more, levels 0 or more, long_side no less than window, "
                f"got {self.window}, {self.levels} and {self.long_side}"
            )


@dataclass(frozen=True)
class GreyFrame:
    """A frame as flow looks at it."""

    image: NDArray[np.uint8]
    """``(h, w)`` grey."""
    scale: NDArray[np.float64]
    """``(2,)``: its pixels per pixel of the frame, x then y."""

    def from_frame(self, points: NDArray[np.floating]) -> Points:
        """``(K, 2)`` points of the frame in pixels of the image."""
        return np.asarray((points + 0.5) * self.scale - 0.5, np.float64)

    def to_frame(self, points: NDArray[np.floating]) -> Points:
        """``(K, 2)`` points of the image in pixels of the frame."""
        return np.asarray((points + 0.5) / self.scale - 0.5, np.float64)


def grey_frame(frame: NDArray[np.uint8], long_side: int) -> GreyFrame:
    """``(H, W, 3)`` uint8 RGB in grey, reduced without aliasing where its longer side is above ``long_side``."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
    height, width = grey.shape
    shrink = long_side / max(height, width)
    if shrink >= 1:
        return GreyFrame(grey, np.ones(2))
    size = max(round(width * shrink), 1), max(round(height * shrink), 1)
    reduced = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    return GreyFrame(reduced, np.array(size) / np.array([width, height]))


def carry(
    before: GreyFrame, after: GreyFrame, points: NDArray[np.floating], config: LandmarkFlowConfig
) -> tuple[Points, NDArray[np.float64]]:
    """Where pyramidal Lucas-Kanade flow carries ``(K, 2)`` points of the frame before, and how far it is off.

    Returns ``(K, 2)`` points of the frame after and ``(K,)`` the pixels by which the way there and back misses
    where it began, infinite for points that were lost: outside of the frame, or without texture.
    """
    if before.image.shape != after.image.shape:
        raise ValueError(f"frames differ in size: {before.image.shape} and {after.image.shape}")
    start = before.from_frame(points).astype(np.float32)
    there, seen_there = _search(before.image, after.image, start, config)
    back, seen_back = _search(after.image, before.image, there, config)
    carried = after.to_frame(there)
    missed = np.linalg.norm((back.astype(np.float64) - start) / before.scale, axis=1)
    lost = ~(seen_there & seen_back & np.isfinite(missed) & np.isfinite(carried).all(axis=1))
    return carried, np.where(lost, np.inf, missed)


def blend(
    detected: NDArray[np.float32], carried: Points, error: NDArray[np.float64], config: LandmarkFlowConfig
) -> NDArray[np.float32]:
    """``(68, 2)`` detected landmarks, drawn to the carried ones by as much as the flow is to be believed.

    ``error`` ``(68,)`` is ``carry``'s. A landmark's share of flow falls from ``weight`` to 0 as its error grows to
    ``tolerance``, and that of all as the median disagreement grows to ``reset``: beyond, the detection is returned
    bit for bit. The paper blends without saying how; both rules go beyond it.
    """
    if detected.shape != (68, 2) or carried.shape != (68, 2) or error.shape != (68,):
        raise ValueError(
            f"(68, 2), (68, 2), (68,) are needed, got {detected.shape}, {carried.shape}, {error.shape}"
        )
    eyes = eye_distance(detected)
    if not eyes > 0:
        return detected
    share = config.weight * np.clip(1 - error / (config.tolerance * eyes), 0, 1)
    believed = share > 0
    if not believed.any():
        return detected
    move = carried[believed] - detected[believed]
    apart = float(np.median(np.linalg.norm(move, axis=1)))
    # A ramp, not a step: a face near the limit would jump between the two from frame to frame.
    agreement = max(0.0, 1 - apart / (config.reset * eyes))
    blended = detected.copy()
    blended[believed] += (agreement * share[believed, None] * move).astype(np.float32)
    return blended


def eye_distance(points: NDArray[np.floating]) -> float:
    """Pixels between the middles of the eyes of ``(68, 2)`` landmarks."""
    return float(np.linalg.norm(points[LEFT_EYE].mean(axis=0) - points[RIGHT_EYE].mean(axis=0)))


def _search(
    first: NDArray[np.uint8], second: NDArray[np.uint8], points: NDArray[np.float32], config: LandmarkFlowConfig
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    side = (config.window, config.window)
    # OpenCV makes the array itself where it is given None, whatever its stubs say.
    found, seen, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        first, second, points[:, None], None, winSize=side, maxLevel=config.levels
    )
    return np.asarray(found[:, 0], np.float32), np.asarray(seen[:, 0] == 1)
