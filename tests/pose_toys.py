"""A face model and an editor small enough for tests, on a cloud of points in the place of a face."""

from __future__ import annotations

import torch

from modules.editing.pose import PoseEditor, PoseEditorConfig, PoseEditSettings
from modules.perception.face_shape import FaceBasis

SHA = "a" * 64
NUM_WS, W_DIM, ROWS = 5, 6, 3
OFFERED = {
    "pose.yaw": PoseEditSettings("degrees", 1.0, -20, 20, 10, (-10, 10)),
    "expression.smile": PoseEditSettings("smiles", 0.1, -1, 1, 1, (-1, 1)),
}


def toy_basis() -> FaceBasis:
    """Two identity and three expression components."""
    random = torch.Generator().manual_seed(0)
    mean = 40 * torch.randn(468, 3, generator=random)
    parts = torch.linalg.qr(torch.randn(468 * 3, 5, generator=random)).Q.T.reshape(5, 468, 3) * 20
    return FaceBasis(mean, parts[:2], parts[2:], torch.zeros(6, 468, 3), torch.ones(468))


def toy_expressions() -> torch.Tensor:
    """``(4, 3)``."""
    return torch.arange(12, dtype=torch.float32).view(4, 3)


def toy_editor(learned: bool = True) -> PoseEditor:
    """Of random weights; without ``learned`` its MLP answers 0."""
    torch.manual_seed(1)
    basis = toy_basis()
    editor = PoseEditor(
        PoseEditorConfig(8, ROWS), NUM_WS, torch.rand(basis.width) + 0.5, torch.randn(W_DIM, W_DIM)
    )
    editor.linear.normal_()
    if learned:
        torch.nn.init.normal_(list(editor.layers.parameters())[-1])
    return editor
