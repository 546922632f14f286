"""Pictures beside each other on one sheet of paper, with a label to every row where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]
GAP, LEFT, TOP = 6, 190, 40
"""Pixels between pictures, left of them for the labels of rows, and above them for those of columns."""
PAPER, INK, FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Row:
    """Pictures beside each other."""

    pictures: Sequence[Image]
    """``(h, w, 3)`` uint8 RGB each, ``(N, h, w, 3)`` too."""
    label: str = ""
    """What stands left of them."""
    note: str = ""
    """Smaller lines below the label."""


def draw_sheet(rows: Sequence[Row], side: int, titles: Sequence[str] = ()) -> Image:
    """``(H, W, 3)`` uint8 RGB: rows of pictures, each brought to ``side`` px, with ``titles`` above the columns.

    Raises ``ValueError`` where there is nothing to draw, and for pictures of another kind.
    """
    columns = max((len(row.pictures) for row in rows), default=0)
    if not columns:
        raise ValueError("a sheet needs at least one picture")
    left = LEFT if any(row.label for row in rows) else 0
    top = TOP if titles else 0
    step = side + GAP
    sheet = np.full((top + len(rows) * step - GAP, left + columns * step - GAP, 3), PAPER, np.uint8)
    for column, title in enumerate(titles):
        _write(sheet, title, (left + column * step + side // 2 - 5 * len(title), top - 14), FAINT)
    for number, row in enumerate(rows):
        y = top + number * step
        _write(sheet, row.label, (12, y + side // 2 - 8), INK)
        for line, text in enumerate(row.note.split("\n")):
            _write(sheet, text, (12, y + side // 2 + 16 + 20 * line), FAINT, 0.45)
        for column, picture in enumerate(row.pictures):
            x = left + column * step
            sheet[y : y + side, x : x + side] = _fitted(picture, side)
    return sheet


def draw_grid(pictures: Sequence[Image], side: int, columns: int) -> Image:
    """Pictures without labels, ``columns`` in a row; the last row is filled up with paper."""
    return draw_sheet([Row(pictures[i : i + columns]) for i in range(0, len(pictures), columns)], side)


def to_picture(image: Tensor) -> Image:
    """``(3, H, W)`` in [-1, 1], clamped, to ``(H, W, 3)`` uint8 on the CPU."""
    pixels = (image.detach().float().clamp(-1, 1) + 1) * 127.5
    return np.asarray(pixels.round().byte().permute(1, 2, 0).cpu().numpy(), np.uint8)


def _fitted(picture: Image, side: int) -> Image:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"a picture must be (h, w, 3) uint8, got {picture.shape} {picture.dtype}")
    if picture.shape[:2] == (side, side):
        return picture
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _write(
    sheet: Image, text: str, at: tuple[int, int], colour: tuple[int, int, int], scale: float = 0.55
) -> None:
    cv2.putText(sheet, text, at, _FONT, scale, colour, 1, cv2.LINE_AA)
