"""What the sheets of trainings and evaluations show is what was asked for, in its place."""

import numpy as np
import torch
from sheet_cells import STEP, cell

from modules.sheet import GAP, TOP
from services.evaluation.frames import HeldOutFrames
from services.evaluation.sheets import FRAMES, SIDE, Shown, pairs_sheet


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
