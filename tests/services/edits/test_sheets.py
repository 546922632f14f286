"""What the sheets of the runs show is what was asked for, in its place."""

import torch
from sheet_cells import STEP, cell
from torch import Tensor

from modules.editing.directions import Direction, EditSet
from modules.sheet import GAP, LEFT, TOP
from services.edits.sheets import edits_sheet


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
