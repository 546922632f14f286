"""What the run that trains the pose editor keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pose_toys import NUM_WS, OFFERED, SHA, W_DIM, toy_basis, toy_editor, toy_expressions
from sheet_cells import STEP

from modules.editing.pose import pose_edits
from modules.sheet import GAP, LEFT, TOP
from services.edits.pose_editor import SHEET_CODES, keep_with
from services.registry.gate import Evaluation
from services.registry.tracking import SilentRun


def test_numbers_model_and_a_sheet_of_every_edit_are_kept(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}

    class Keeping(SilentRun):
        def log_metrics(self, metrics: Any, step: int = 0) -> None:
            kept["metrics"] = metrics

        def log_model(self, folder: Path) -> None:
            kept["model"] = folder

        def log_image(self, name: str, image: Any, step: int | None = None) -> None:
            kept[name] = image

    edits = pose_edits(toy_editor(), toy_basis(), toy_expressions(), OFFERED, {}, SHA)
    evaluation = Evaluation("m", "c", SHA, "d", {"identity": 0.8}, {"identity": True}, 4, 2, "2026-01-01")
    ws = torch.linspace(-0.5, 0.5, 10)[:, None, None].expand(-1, NUM_WS, W_DIM)
    drawn: list[torch.Tensor] = []

    def render(codes: torch.Tensor) -> torch.Tensor:
        drawn.append(codes)
        return torch.tanh(codes.mean((1, 2)))[:, None, None, None].expand(-1, 3, 32, 32)

    keep_with(Keeping(), tmp_path, evaluation, edits, ws, render)
    assert kept["metrics"] == {"identity": 0.8} and kept["model"] == tmp_path
    assert kept["edits"].shape == (TOP + 2 * STEP - GAP, LEFT + 3 * SHEET_CODES * STEP - GAP, 3)
    assert kept["edits"].dtype == np.uint8
    assert len(drawn) == SHEET_CODES * (1 + 2 * len(OFFERED)), "unedited, and both bounds of each edit"
    assert torch.equal(torch.cat(drawn[:SHEET_CODES]), ws[[0, 4, 9]]), "spread over the frames"
