"""The frozen networks of a training go where the training runs."""

from __future__ import annotations

import torch

from modules.lit.frame_encoder import FrozenParts
from services.settings import load_params
from services.training_parts import OF_FACES, image_losses


def test_every_judge_of_faces_moves_with_the_frozen_parts() -> None:
    losses = image_losses(load_params(environment={}), OF_FACES)
    assert set(losses) == set(OF_FACES)
    with torch.device("meta"):
        generator = torch.nn.Linear(1, 1)
    FrozenParts(generator, losses).to(torch.device("meta"))  # type: ignore[arg-type]
    for name, loss in losses.items():
        assert isinstance(loss, torch.nn.Module), name
        assert {value.device.type for value in loss.state_dict().values()} == {"meta"}, name
