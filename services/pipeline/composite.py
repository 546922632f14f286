"""Pasting the edited crop back into the frame at the frame's own resolution; pure functions on arrays.

``difference`` adds only what the edit changed, ``frame + (edit - reconstruction) * mask``: a weak inversion then
does not blur the frame, and no edit returns the input. ``colours`` adds as much of it as clips no channel, so
that a change that has no luma changes none. ``replace`` blends the edited crop itself over the frame, as
StylePortraitVideo does. ``mixed`` is the difference where things stay and the replaced face where they moved.
Whichever it is, every pixel where the mask is zero keeps its bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]
Paste = Literal["difference", "colours", "mixed", "replace"]
STRIP = 32
"""Rows that are blended at once."""


@dataclass(frozen=True)
class CompositeConfig:
    """How the mask is made from the face region; lengths are fractions of the crop's side."""

    grow: float
    """How far the region is widened before it is feathered, where a difference or colours are added."""
    grow_replaced: float
    """The same where the face is replaced: what is replaced must be covered whole, its soft hair too."""
    feather: float
    """Width of the soft edge (the blur's standard deviation)."""
    border: float
    """Width of the ramp to zero along the crop's border."""


@dataclass(frozen=True)
class Patch:
    """Values on the part of the frame that the crop touches."""

    values: Floats
    """``(h, w)`` or ``(h, w, C)``; zero where the crop does not reach."""
    rows: slice
    columns: slice


def feathered_mask(region: Floats, config: CompositeConfig, paste: Paste = "difference") -> Floats:
    """Widen and soften a face region ``(S, S)`` in [0, 1]; exactly zero along the crop's border."""
    size = _square(region, "region")
    reach = round((config.grow_replaced if paste == "replace" else config.grow) * size)
    mask = np.clip(region, 0.0, 1.0).astype(np.float32)
    if reach > 0:
        mask = _array(
            cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
        )
    if config.feather > 0:
        mask = _array(cv2.GaussianBlur(mask, (0, 0), config.feather * size, borderType=cv2.BORDER_REPLICATE))
    inside = np.minimum(np.arange(size), np.arange(size)[::-1]).astype(np.float32)
    ramp = np.clip(inside / max(1.0, config.border * size), 0.0, 1.0)
    return _array(np.clip(mask * ramp[:, None] * ramp[None, :], 0.0, 1.0))


def to_frame(crop: Floats, crop_to_frame: NDArray[np.float64], height: int, width: int) -> Patch:
    """Resample crop values ``(S, S)`` or ``(S, S, C)`` onto the frame's pixels, area-averaged where they shrink.

    ``crop_to_frame`` ``(3, 3)`` is the similarity from crop to frame pixels, centres on integers. A crop
    that lies outside the frame gives an empty patch.
    """
    size = _square(crop, "crop")
    if crop_to_frame.shape != (3, 3):
        raise ValueError(f"crop_to_frame must be (3, 3), got {crop_to_frame.shape}")
    edge = size - 0.5
    corners = np.array([[-0.5, -0.5, 1], [edge, -0.5, 1], [edge, edge, 1], [-0.5, edge, 1]]) @ crop_to_frame.T
    x0, y0 = (max(0, int(np.floor(v))) for v in corners[:, :2].min(axis=0))
    x1, y1 = (int(np.ceil(v)) + 1 for v in corners[:, :2].max(axis=0))
    x1, y1 = min(x1, width), min(y1, height)
    rows, columns = slice(y0, max(y0, y1)), slice(x0, max(x0, x1))
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    if 0 in shape:
        return Patch(np.zeros((*shape, *crop.shape[2:]), np.float32), rows, columns)
    small, small_to_crop = _shrunk(crop, float(np.hypot(crop_to_frame[0, 0], crop_to_frame[1, 0])))
    shift = np.array([[1.0, 0.0, -x0], [0.0, 1.0, -y0], [0.0, 0.0, 1.0]])
    matrix = (shift @ crop_to_frame @ small_to_crop)[:2]
    warped = cv2.warpAffine(
        small, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    return Patch(_array(warped), rows, columns)


def composite(
    frame: Image,
    reconstruction: Floats,
    edit: Floats,
    mask: Floats,
    crop_to_frame: NDArray[np.float64],
    weight: float = 1.0,
    paste: Paste = "difference",
    moved: Floats | None = None,
) -> Image:
    """A new frame ``(H, W, 3)`` uint8 with the edited crop pasted in.

    ``reconstruction`` and ``edit`` are ``(S, S, 3)`` in [-1, 1] (values beyond are clamped), ``mask``
    ``(S, S)`` in [0, 1], ``weight`` in [0, 1] fades the whole edit. ``difference`` adds what changed
    between the two, ``colours`` the same as far as the pixel holds it; ``replace`` blends the edited crop itself
    over the frame; ``mixed`` does so by the share ``moved`` ``(S, S)`` in [0, 1], and adds the difference for the
    rest. Pixels where mask times weight is zero are those of ``frame``, bit for bit; so are all where
    ``difference`` finds no change.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise TypeError(f"frame must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    size = _square(mask, "mask")
    if reconstruction.shape != (size, size, 3) or edit.shape != (size, size, 3):
        raise ValueError(f"crops must be ({size}, {size}, 3), got {reconstruction.shape} and {edit.shape}")
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight must be in [0, 1], got {weight}")
    if (moved is None) is (paste == "mixed") or (moved is not None and moved.shape != (size, size)):
        raise ValueError(f"moved, ({size}, {size}), is for what is mixed, and only for that")
    result = frame.copy()
    height, width = frame.shape[:2]
    source = np.empty((size, size, 4), np.float32)
    source[..., 3] = mask
    colours = source[..., :3]
    np.clip(edit, -1.0, 1.0, out=colours)
    if paste == "replace":
        colours += 1.0
    elif moved is None:
        colours -= np.clip(reconstruction, -1.0, 1.0)
    else:
        share = moved[..., None]
        colours += share - (1.0 - share) * np.clip(reconstruction, -1.0, 1.0)
    colours *= 127.5
    patch = to_frame(source, crop_to_frame, height, width)
    covered = None if moved is None else to_frame(moved, crop_to_frame, height, width).values[..., None]
    for rows in _strips(patch.values[..., 3]):
        values, onto = patch.values[rows], result[patch.rows, patch.columns][rows]
        alpha = weight * np.clip(values[..., 3:], 0.0, 1.0)
        onto[:] = _blended(onto, values[..., :3], alpha, paste, None if covered is None else covered[rows])
    return result


def _blended(below: Image, values: Floats, alpha: Floats, paste: Paste, covered: Floats | None) -> Image:
    """Colours ``(h, w, 3)`` with values pasted over them as far as ``alpha`` ``(h, w, 1)`` says.

    ``covered`` ``(h, w, 1)`` in [0, 1] is how much of the ground the values stand in for; None for the ways that
    cover all or none.
    """
    ground = below.astype(np.float32)
    if paste == "replace":
        change = values - ground
        change *= alpha
    elif covered is not None:
        change = values - covered * ground
        change *= alpha
    else:
        change = alpha * values
        if paste == "colours":
            change *= _room(ground, change)
    change += ground
    return np.clip(np.rint(change, out=change), 0, 255, out=change).astype(np.uint8)


def _strips(mask: Floats) -> Iterator[tuple[slice, slice]]:
    """Rows by few of what is not zero in ``(h, w)``, without the columns beside it.

    A frame of 4K is then blended where the face is, in the processor's cache.
    """
    rows, columns = (np.flatnonzero(mask.max(axis=axis, initial=0.0) > 0) for axis in (1, 0))
    if not len(rows):
        return
    wide = slice(int(columns[0]), int(columns[-1]) + 1)
    for top in range(int(rows[0]), int(rows[-1]) + 1, STRIP):
        yield slice(top, min(top + STRIP, int(rows[-1]) + 1)), wide


def _room(below: Floats, change: Floats) -> Floats:
    """``(h, w, 1)`` in [0, 1]: the share of a change ``(h, w, 3)`` that leaves all channels in [0, 255]."""
    room, size = np.where(change > 0, 255.0 - below, below), np.abs(change)
    return _array(np.divide(room, size, out=np.ones_like(size), where=size > room).min(axis=2, keepdims=True))


def synthesis_size(crop_side: float, sizes: tuple[int, ...], largest: int) -> int:
    """The smallest of ``sizes`` that does not lose detail of a crop of that side in frame pixels."""
    usable = sorted(size for size in sizes if size <= largest) or [largest]
    return next((size for size in usable if size >= crop_side), usable[-1])


def resized_transform(crop_to_frame: NDArray[np.float64], size: int, new_size: int) -> NDArray[np.float64]:
    """``crop_to_frame`` ``(..., 3, 3)`` of the same crop with a side of ``new_size`` pixels, not ``size``."""
    return crop_to_frame @ _rescale(size / new_size)


def _rescale(scale: float) -> NDArray[np.float64]:
    # Pixel centres are integers, so the image's corner stays at -0.5.
    offset = (scale - 1.0) / 2.0
    return np.array([[scale, 0.0, offset], [0.0, scale, offset], [0.0, 0.0, 1.0]])


def _shrunk(crop: Floats, scale: float) -> tuple[Floats, NDArray[np.float64]]:
    # warpAffine only interpolates: without this a large crop in a small face would alias.
    size = len(crop)
    small = max(1, int(np.ceil(size * scale)))
    if small >= size:
        return np.ascontiguousarray(crop, np.float32), np.eye(3)
    return _array(cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)), _rescale(size / small)


def _square(values: NDArray[np.floating], what: str) -> int:
    if values.ndim not in (2, 3) or values.shape[0] != values.shape[1]:
        raise ValueError(f"{what} must be square, got {values.shape}")
    return int(values.shape[0])


def _array(values: object) -> Floats:
    return np.asarray(values, dtype=np.float32)
