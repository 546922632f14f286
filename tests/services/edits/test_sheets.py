"""What the sheets of the runs show is what was asked for, in its place."""

import numpy as np
import torch
from torch import Tensor

from modules.editing.directions import Direction, EditSet
from modules.sheet import GAP, LEFT, TOP
from services.edits.sheets import FRAMES, SIDE, Shown, edits_sheet, pairs_sheet
from services.evaluation.frames import HeldOutFrames

STEP = SIDE + GAP


def cell(sheet: np.ndarray, row: int, column: int, left: int = LEFT, top: int = TOP) -> int:
    y, x = top + row * STEP, left + column * STEP
    picture = sheet[y : y + SIDE, x : x + SIDE]
    assert picture.min() == picture.max(), "one picture, in one piece"
    return int(picture[0, 0, 0])


def grey(ws: Tensor) -> Tensor:
    """Codes are the grey value of the picture."""
    return ws[:, :, :1, None].expand(-1, 3, 32, 32)


def pixel(value: float) -> int:
    return round((value + 1) * 127.5)


def test_edits_go_from_bound_to_bound() -> None:
    one = torch.ones(1, 1)
    edits = EditSet([
        Direction("age", "years", 0.01 * one, -20.0, 30.0, "toy"),
        Direction("smile", "smiles (corners)", 0.1 * one, -1.0, 1.5, "toy"),
    ])  # fmt: skip
    sheet = edits_sheet(torch.tensor([0.0, 0.4]).view(2, 1, 1), edits, grey)
    assert sheet.shape == (TOP + 2 * STEP - GAP, LEFT + 6 * STEP - GAP, 3)
    wanted = [[-0.2, 0.0, 0.3, 0.2, 0.4, 0.7], [-0.1, 0.0, 0.15, 0.3, 0.4, 0.55]]
    for row, values in enumerate(wanted):
        for column, value in enumerate(values):
            assert abs(cell(sheet, row, column) - pixel(value)) <= 1, (row, column)


def test_an_evaluation_shows_each_frame_beside_what_was_made_of_it() -> None:
    count = 3 * FRAMES
    pixels = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 256, 256, 3), np.uint8)
    frames = HeldOutFrames(pixels, ("clip",) * count, (0,) * count, "data")
    fixed = list(range(0, count, 2))
    shown = Shown(frames, fixed)
    for name, indices, shift in (("encoder", range(count), 100), ("optimum", fixed, 50)):
        for i in indices:
            shown.see(name, [i], torch.full((1, 3, 32, 32), (i + shift) / 127.5 - 1))
    sheet = shown.sheet({"encoder": "encoder", "optimum": "optimum (500 steps)"})
    assert sheet.shape[0] == TOP + FRAMES * STEP - GAP
    for row in (0, 5, FRAMES - 1):
        i = cell(sheet, row, 0)
        assert i in fixed and (cell(sheet, row, 1), cell(sheet, row, 2)) == (i + 100, i + 50)


def test_pairs_stand_side_by_side() -> None:
    inputs, made = ([np.full((SIDE, SIDE, 3), n + shift, np.uint8) for n in range(5)] for shift in (0, 100))
    sheet = pairs_sheet(inputs, made)
    assert [cell(sheet, 0, c, 0, 0) for c in range(8)] == [0, 100, 1, 101, 2, 102, 3, 103]
    assert [cell(sheet, 1, c, 0, 0) for c in range(3)] == [4, 104, 255]
