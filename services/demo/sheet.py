"""One picture of the demo: a row for the input, the reconstruction and each edit, columns over time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from datamodules.alignment import crop_frame
from datamodules.types import Frames
from modules.sheet import Row, draw_sheet
from services.pipeline.composite import Image

CELL = 240
"""Side of a picture in pixels."""
AROUND = 1.15
"""Side of what is shown over the side of the crop: the seam, if there were one, would be inside."""


def draw_demo(
    rows: Mapping[str, tuple[str, Frames]], matrices: NDArray[np.float64], size: int, times: list[float]
) -> Image:
    """``(H, W, 3)`` uint8 RGB: ``rows`` maps labels to a second line and frames ``(N, H, W, 3)``.

    ``matrices`` ``(N, 3, 3)`` send crops of side ``size`` to the frames; ``times`` are the columns' seconds.
    """
    drawn = [
        Row([_cell(f, m, size) for f, m in zip(frames, matrices, strict=True)], label, note)
        for label, (note, frames) in rows.items()
    ]
    return draw_sheet(drawn, CELL, [f"{time:.2f} s" for time in times])


def _cell(frame: Image, matrix: NDArray[np.float64], size: int) -> Image:
    """The face and a little around it, upright as in the frame."""
    middle = (size - 1) / 2
    centre = matrix @ np.array([middle, middle, 1.0])
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0])) * size * AROUND / CELL
    half = scale * (CELL - 1) / 2
    upright = np.array([[scale, 0, centre[0] - half], [0, scale, centre[1] - half], [0, 0, 1]])
    return crop_frame(frame, upright, CELL)
