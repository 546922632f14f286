"""The frozen networks of a training go where the training runs."""

from __future__ import annotations

import pytest
import torch

from modules.lit.frame_encoder import FrozenParts
from modules.perception.mesh import MeshOutput
from services.settings import load_params
from services.training import parts as training_parts
from services.training.parts import OF_FACES, image_losses
from services.training.trainer import FrameEncoderSettings


def test_every_judge_of_faces_moves_with_the_frozen_parts() -> None:
    losses = image_losses(load_params(environment={}), OF_FACES)
    assert set(losses) == set(OF_FACES)
    with torch.device("meta"):
        generator = torch.nn.Linear(1, 1)
    FrozenParts(generator, losses).to(torch.device("meta"))  # type: ignore[arg-type]
    for name, loss in losses.items():
        assert isinstance(loss, torch.nn.Module), name
        assert {value.device.type for value in loss.state_dict().values()} == {"meta"}, name


class _Judge(torch.nn.Module):
    """Answers the picture itself, as features and as points."""

    def forward(self, images: torch.Tensor) -> MeshOutput:
        return MeshOutput(images.flatten(2).mT, torch.ones(len(images)), images)


@pytest.mark.parametrize(("chosen", "lambdas"), [
    ([], (0.01, 0.002)), (["face_judge.landmarks=fan"], (100.0, 0.002)),
    (["face_judge.landmarks=fan", "face_judge.dense=3ddfa"], (100.0, 1e-4)),
])  # fmt: skip
def test_under_the_papers_judges_frens_weights_are_the_papers(
    monkeypatch: pytest.MonkeyPatch, chosen: list[str], lambdas: tuple[float, float]
) -> None:
    monkeypatch.setattr(training_parts, "load_face_judge", lambda config: _Judge())
    params = load_params(overrides=chosen, environment={})
    losses = image_losses(params, {"landmark_features", "mesh"})
    phases = params.section("frame_encoder", FrameEncoderSettings).training.phases
    weights = {name: weight for phase in phases for name, weight in phase.weights.items()}
    images = torch.zeros(1, 3, 256, 256)
    images[0, 0, 0, :4] = 2.0  # four values: a norm of 4 for features and points alike
    for name, wanted in zip(("landmark_features", "mesh"), lambdas, strict=True):
        term = weights[name] * losses[name](images, torch.zeros_like(images))
        assert term.item() == pytest.approx(4.0 * wanted)
