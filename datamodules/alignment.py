"""From landmarks to the FFHQ crop and back: where the crop lies in each frame, and its pixels.

All matrices are similarities between pixel coordinates, x then y, pixel centres on integers on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from datamodules.types import Alignment, BadInputError, Landmarks

LEFT_EYE, RIGHT_EYE = slice(36, 42), slice(42, 48)
MOUTH_CORNERS = [48, 54]
LARGEST_WARP = 8192
"""Side in pixels of the largest intermediate crop; a face that fills an 8K frame fits."""

Matrices = NDArray[np.float64]


@dataclass(frozen=True)
class SmoothingConfig:
    """How the crop is steadied over time, within a shot and while the face is seen."""

    center_sigma: float
    """Standard deviation of the Gaussian over the crop's centre, in frames; 0 leaves it as measured."""
    shape_sigma: float
    """The same for the crop's size and roll, in frames."""

    def __post_init__(self) -> None:
        if not (self.center_sigma >= 0 and self.shape_sigma >= 0):
            raise ValueError(f"sigmas must be 0 or more, got {self.center_sigma} and {self.shape_sigma}")


def ffhq_crop(points: NDArray[np.floating], size: int) -> Matrices:
    """The crop FFHQ was made with (Karras et al. 2019, appendix A), as ``crop_to_frame``.

    ``points`` are ``(T, 68, 2)`` landmarks in frame pixels (one ``(68, 2)`` set gives one matrix); ``size`` is
    the crop's side in pixels. Returns ``(T, 3, 3)`` float64. NaN landmarks give NaN matrices.
    """
    if points.shape[-2:] != (68, 2) or points.ndim not in (2, 3):
        raise ValueError(f"landmarks must be (T, 68, 2), got {points.shape}")
    return _matrices(*_center_and_axis(points.astype(np.float64)), size)


def align(landmarks: Landmarks, size: int, smoothing: SmoothingConfig, cuts: Sequence[int] = ()) -> Alignment:
    """A steady FFHQ crop for each frame of a clip.

    ``cuts`` are the indices of frames that begin a new shot. Smoothing stops at cuts and where the face is
    lost. Frames without a face hold the last crop of their shot, or the first one that follows; a shot
    without any face holds the crop of the shot before, or after. Raises ``BadInputError`` where no frame of
    the clip has a face.
    """
    valid = landmarks.valid
    if not valid.any():
        raise BadInputError("no face was found in any frame; use a clip or a section that shows one")
    center, axis = _center_and_axis(landmarks.points.astype(np.float64))
    for run in _runs(valid, cuts):
        center[run] = _smooth(center[run], smoothing.center_sigma)
        axis[run] = _smooth(axis[run], smoothing.shape_sigma)
    source = _held_from(valid, cuts)
    return Alignment(_matrices(center[source], axis[source], size), size, valid)


def invert(crop_to_frame: Matrices) -> Matrices:
    """``frame_to_crop`` of ``(…, 3, 3)`` similarities, in closed form. Raises ``ValueError`` if one is flat."""
    a, b = crop_to_frame[..., 0, 0], crop_to_frame[..., 1, 0]
    tx, ty = crop_to_frame[..., 0, 2], crop_to_frame[..., 1, 2]
    square = a * a + b * b
    if not np.all(square > 0):
        raise ValueError("a crop without extent has no inverse")
    inverse = np.zeros_like(crop_to_frame)
    inverse[..., 0, 0] = inverse[..., 1, 1] = a / square
    inverse[..., 0, 1] = b / square
    inverse[..., 1, 0] = -b / square
    inverse[..., 0, 2] = -(a * tx + b * ty) / square
    inverse[..., 1, 2] = (b * tx - a * ty) / square
    inverse[..., 2, 2] = 1
    return inverse


def transform_points(matrix: Matrices, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Send ``(…, K, 2)`` points through ``(…, 3, 3)`` matrices."""
    moved: NDArray[np.float64] = points @ np.swapaxes(matrix[..., :2, :2], -1, -2) + matrix[..., None, :2, 2]
    return moved


def crop_scale(crop_to_frame: Matrices) -> NDArray[np.float64]:
    """``(…)``: frame pixels per crop pixel."""
    return np.hypot(crop_to_frame[..., 0, 0], crop_to_frame[..., 1, 0])


def natural_crop_size(alignment: Alignment) -> int:
    """Side of the crop in frame pixels, at its largest over the frames with a face: no smaller synthesis loses
    nothing, no larger one adds anything."""
    matrices = alignment.crop_to_frame[alignment.valid] if alignment.valid.any() else alignment.crop_to_frame
    return round(float(crop_scale(matrices).max()) * alignment.size)


def crop_frame(frame: NDArray[np.uint8], crop_to_frame: Matrices, size: int) -> NDArray[np.uint8]:
    """Cut one crop: ``(H, W, 3)`` uint8 and a ``(3, 3)`` matrix to ``(size, size, 3)`` uint8.

    The frame is mirrored at its edges where the crop reaches outside. A crop that shrinks is drawn larger by
    a whole factor and averaged down, so that it does not alias.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"a frame must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    if crop_to_frame.shape != (3, 3) or not np.isfinite(crop_to_frame).all():
        raise ValueError("crop_to_frame must be one finite (3, 3) matrix")
    shrink = float(crop_scale(crop_to_frame))
    # A hair above a whole factor is not worth twice the pixels.
    factor = min(max(1, int(np.ceil(shrink - 0.01))), max(1, LARGEST_WARP // size))
    half = 0.5 / factor - 0.5
    fine_to_crop = np.array([[1 / factor, 0, half], [0, 1 / factor, half], [0, 0, 1]])
    fine = cv2.warpAffine(
        frame,
        (crop_to_frame @ fine_to_crop)[:2],
        (size * factor, size * factor),
        flags=(cv2.INTER_LINEAR if factor > 1 else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if factor == 1:
        return np.asarray(fine, np.uint8)
    return np.asarray(cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _center_and_axis(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre of the crop and the vector from it to the middle of its right side, both ``(…, 2)``."""
    left, right = points[..., LEFT_EYE, :].mean(axis=-2), points[..., RIGHT_EYE, :].mean(axis=-2)
    eyes = (left + right) / 2
    eye_to_eye = right - left
    eye_to_mouth = points[..., MOUTH_CORNERS, :].mean(axis=-2) - eyes
    # Eye line and the perpendicular of the eye-to-mouth line, averaged, give the roll.
    axis = eye_to_eye - eye_to_mouth[..., ::-1] * np.array([-1.0, 1.0])
    length = np.maximum(np.linalg.norm(eye_to_eye, axis=-1) * 2.0, np.linalg.norm(eye_to_mouth, axis=-1) * 1.8)
    with np.errstate(invalid="ignore", divide="ignore"):
        axis = axis / np.linalg.norm(axis, axis=-1, keepdims=True) * length[..., None]
    return eyes + 0.1 * eye_to_mouth, axis


def _matrices(center: NDArray[np.float64], axis: NDArray[np.float64], size: int) -> Matrices:
    """Similarities that send the square [-0.5, size - 0.5]² to the square with this centre and half side."""
    if size < 1:
        raise ValueError(f"size must be 1 or more, got {size}")
    a, b = axis[..., 0] * 2 / size, axis[..., 1] * 2 / size
    middle = (size - 1) / 2
    matrix = np.zeros((*center.shape[:-1], 3, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = a
    matrix[..., 0, 1] = -b
    matrix[..., 1, 0] = b
    matrix[..., 0, 2] = center[..., 0] - (a - b) * middle
    matrix[..., 1, 2] = center[..., 1] - (a + b) * middle
    matrix[..., 2, 2] = 1
    return matrix


def _smooth(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    if sigma == 0 or len(values) < 2:
        return values
    smoothed: NDArray[np.float64] = gaussian_filter1d(values, sigma, axis=0, mode="reflect")
    return smoothed


def _shots(frames: int, cuts: Sequence[int]) -> list[slice]:
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < frames}), frames]
    return [slice(first, last) for first, last in pairwise(edges)]


def _runs(valid: NDArray[np.bool_], cuts: Sequence[int]) -> list[slice]:
    """Stretches of frames with a face inside one shot."""
    runs = []
    for shot in _shots(len(valid), cuts):
        steps = np.diff(valid[shot].astype(np.int8), prepend=0, append=0)
        starts, stops = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
        runs += [slice(shot.start + int(a), shot.start + int(b)) for a, b in zip(starts, stops, strict=True)]
    return runs


def _held_from(valid: NDArray[np.bool_], cuts: Sequence[int]) -> NDArray[np.intp]:
    """``(T,)``: the frame whose crop each frame uses."""
    source = np.full(len(valid), -1, np.intp)
    shots = _shots(len(valid), cuts)
    for shot in shots:
        source[shot] = _nearest_before(np.where(valid[shot], np.arange(shot.start, shot.stop), -1))
    return _nearest_before(source)


def _nearest_before(source: NDArray[np.intp]) -> NDArray[np.intp]:
    """Fill -1 from the last entry before it, and at the front from the first after it."""
    known = np.flatnonzero(source >= 0)
    if not len(known):
        return source
    place = np.maximum(np.searchsorted(known, np.arange(len(source)), side="right") - 1, 0)
    filled: NDArray[np.intp] = source[known[place]]
    return filled
