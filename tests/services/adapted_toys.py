"""A small real StyleGAN2 behind the pipeline, on real frames: what learns a face in a few seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conformance_cases import FOLDER
from torch import Tensor

from modules.editing.directions import Direction, EditSet
from modules.editing.expression_dynamics import DynamicsConfig
from modules.editing.stitching import StitchingTraining
from modules.generators.load import load_generator
from modules.lit.video_adaptation import LocalityConfig, VideoAdaptationTraining
from services.adaptation.learn import AdaptationSettings
from services.pipeline.models import Models
from services.pipeline.options import StitchingConfig

SIDE = 64
SETTINGS = AdaptationSettings(
    iterations=12,
    batch_size=2,
    frames=6,
    training=VideoAdaptationTraining(0.01, 0.1, 1.0, 1.0, LocalityConfig(0.0, 30.0)),
    lpips_net="alex",
    checkpoint_every=5,
    measured=3,
    keep=2,
    served=2,
    seed=1,
)
STITCHING = StitchingConfig(12, 2, 6, StitchingTraining(0.01, 0.1, 1.0, 3.0, 1.0, 3.0), "alex", 5, 1)
DYNAMICS = DynamicsConfig(2, 0.05, 4, 1, 1.0, 1.0, 0.1, 1.0, 0.01, 0.1, 64)


class WholePictures:
    """An encoder: how bright and how red a crop is says which code it has."""

    def __init__(self, num_ws: int, w_dim: int) -> None:
        self.shape = num_ws, w_dim
        self.basis = torch.randn(3, num_ws * w_dim, generator=torch.Generator().manual_seed(1))
        self.looks = 0

    def __call__(self, frames: Tensor, state: object = None) -> tuple[Tensor, object]:
        self.looks += len(frames)
        return (frames.mean((2, 3)) @ self.basis).view(-1, *self.shape), state


@pytest.fixture
def small_models(toy_models: Models) -> Models:
    generator = load_generator(FOLDER / "stylegan2-64-small.pkl")
    shape = generator.num_ws, generator.w_dim
    pushes = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    edits = EditSet(
        [
            Direction("age", "years", 0.05 * pushes[0], -20, 30, generator.sha256),
            Direction("smile", "smiles", pushes[1], -1, 1, generator.sha256),
            Direction("yaw", "degrees", 0.05 * pushes[2], -20, 20, generator.sha256),
        ]
    )
    config = toy_models.config
    lips = replace(config.keep_lips, dynamics={"mesh": DYNAMICS}, eye_box=(0.1, 0.2, 0.9, 0.8))
    return replace(
        toy_models,
        generator=generator,
        encoder=WholePictures(*shape),
        edits=edits,
        config=replace(config, crop_size=SIDE, sizes=(SIDE,), keep_lips=lips, stitching=STITCHING),
        versions={"stylereel-generator": generator.sha256},
    )
