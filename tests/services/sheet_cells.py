"""Where the pictures of a run's sheet stand."""

import numpy as np

from modules.sheet import GAP, LEFT, TOP
from services.evaluation.sheets import SIDE

STEP = SIDE + GAP


def cell(sheet: np.ndarray, row: int, column: int, left: int = LEFT, top: int = TOP) -> int:
    y, x = top + row * STEP, left + column * STEP
    picture = sheet[y : y + SIDE, x : x + SIDE]
    assert picture.min() == picture.max(), "one picture, in one piece"
    return int(picture[0, 0, 0])
