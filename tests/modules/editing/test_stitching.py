from __future__ import annotations

import pytest
import torch

from modules.editing.stitching import border_of, inside_of


def test_what_mixes_is_border_and_what_stands_alone_is_inside() -> None:
    mask = torch.tensor([0.0, 0.08, 0.45, 0.625, 0.73, 0.85, 1.0]).view(1, 1, 1, 7)
    assert border_of(mask).flatten().tolist() == pytest.approx([0, 0, 1, 0.75, 0.36, 0, 0], abs=1e-6)
    assert inside_of(mask).flatten().tolist() == pytest.approx([0, 0, 0, 0, 0.54, 1, 1], abs=1e-6)
