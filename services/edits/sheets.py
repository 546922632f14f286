"""What the runs that learn edits show: every edit at its bounds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.editing.directions import EditRequest, EditSet
from modules.sheet import Image, Row, draw_sheet, to_picture
from services.edits.appearance_measure import Render as RenderEdited
from services.edits.evaluation import Render
from services.evaluation.sheets import SIDE


def edits_sheet(ws: Tensor, edits: EditSet[Any], render: Render) -> Image:
    """A row per edit: each of the codes ``(N, num_ws, w_dim)`` at the lower bound, unedited and at the upper."""
    with torch.no_grad():
        plain = [to_picture(render(one)[0]) for one in torch.split(ws, 1)]
        rows = []
        for edit in edits.describe():
            pictures = []
            for one, unedited in zip(torch.split(ws, 1), plain, strict=True):
                low, high = (
                    to_picture(render(edits.apply(one, [EditRequest(edit.name, strength)]))[0])
                    for strength in (edit.lower, edit.upper)
                )
                pictures += [low, unedited, high]
            note = f"{edit.lower:+g} to {edit.upper:+g}\n{edit.unit.split(' (')[0]}"
            rows.append(Row(pictures, edit.name, note))
    return draw_sheet(rows, SIDE, ["lower", "0", "upper"] * len(ws))


def appearance_sheet(ws: Tensor, edits: EditSet[Any], render: RenderEdited) -> Image:
    """As ``edits_sheet`` for edits that may act on styles; one that begins at 0 is shown by two seeds."""
    with torch.no_grad():
        plain = [to_picture(render(one, edits, [], 0)[0]) for one in torch.split(ws, 1)]
        rows = []
        for edit in edits.describe():
            # Where nothing lies below 0 there are other seeds instead.
            sides = [(edit.lower, 0), (edit.upper, 0)] if edit.lower < 0 else [(1.0, 0), (1.0, 1)]
            pictures = []
            for one, unedited in zip(torch.split(ws, 1), plain, strict=True):
                low, high = (
                    to_picture(render(one, edits, [EditRequest(edit.name, strength)], seed)[0])
                    for strength, seed in sides
                )
                pictures += [low, unedited, high]
            note = "two seeds" if edit.lower == 0 else f"{edit.lower:+g} to {edit.upper:+g}"
            rows.append(Row(pictures, edit.name, f"{note}\n{edit.unit.split(' (')[0]}"))
    return draw_sheet(rows, SIDE, ["lower", "0", "upper"] * len(ws))
