"""One picture of the demo: a row for the input, the reconstruction and each edit, columns over time."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.alignment import crop_frame
from datamodules.types import Frames
from services.pipeline.composite import Image

CELL = 240
"""Side of a picture in pixels."""
AROUND = 1.15
"""Side of what is shown over the side of the crop: the seam, if there were one, would be inside."""
GAP, LEFT, TOP = 6, 190, 40
PAPER, INK, FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_sheet(
    rows: Mapping[str, tuple[str, Frames]], matrices: NDArray[np.float64], size: int, times: list[float]
) -> Image:
    """``(H, W, 3)`` uint8 RGB: ``rows`` maps labels to a second line and frames ``(N, H, W, 3)``.

    ``matrices`` ``(N, 3, 3)`` send crops of side ``size`` to the frames; ``times`` are the columns' seconds.
    """
    columns = len(times)
    height = TOP + len(rows) * (CELL + GAP)
    sheet = np.full((height, LEFT + columns * (CELL + GAP), 3), PAPER, np.uint8)
    for column, time in enumerate(times):
        _write(sheet, f"{time:.2f} s", (LEFT + column * (CELL + GAP) + CELL // 2 - 28, TOP - 14), FAINT)
    for row, (label, (note, frames)) in enumerate(rows.items()):
        top = TOP + row * (CELL + GAP)
        _write(sheet, label, (12, top + CELL // 2 - 8), INK)
        for line, text in enumerate(note.split("\n")):
            _write(sheet, text, (12, top + CELL // 2 + 16 + 20 * line), FAINT, 0.45)
        for column, (frame, matrix) in enumerate(zip(frames, matrices, strict=True)):
            left = LEFT + column * (CELL + GAP)
            sheet[top : top + CELL, left : left + CELL] = _cell(frame, matrix, size)
    return sheet


def _cell(frame: Image, matrix: NDArray[np.float64], size: int) -> Image:
    """The face and a little around it, upright as in the frame."""
    middle = (size - 1) / 2
    centre = matrix @ np.array([middle, middle, 1.0])
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0])) * size * AROUND / CELL
    half = scale * (CELL - 1) / 2
    upright = np.array([[scale, 0, centre[0] - half], [0, scale, centre[1] - half], [0, 0, 1]])
    return crop_frame(frame, upright, CELL)


def _write(
    sheet: Image, text: str, at: tuple[int, int], colour: tuple[int, int, int], scale: float = 0.55
) -> None:
    cv2.putText(sheet, text, at, _FONT, scale, colour, 1, cv2.LINE_AA)
