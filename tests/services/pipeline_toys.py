"""Toy networks for the pipeline: real faces are found in real frames, the rest is small enough to follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.alignment import SmoothingConfig
from datamodules.landmark_flow import LandmarkFlowConfig
from datamodules.video import ShotConfig
from modules.assets import asset_path
from modules.editing.directions import Direction, EditSet
from modules.perception.detection import DetectionConfig, FaceObservation, load_face_finder
from modules.perception.identity import FaceSight
from modules.perception.parsing import Regions
from services.pipeline.models import Judges, Models
from services.pipeline.options import PipelineConfig
from services.settings import load_params

NUM_WS, W_DIM, SIDE = 4, 8, 16


class ToyGenerator:
    """A linear map from codes to a 16 px picture, drawn larger."""

    z_dim = w_dim = W_DIM
    num_ws = NUM_WS
    resolution = 256
    layers = ()
    sha256 = "toy"

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.w_mean = torch.zeros(W_DIM)
        self.basis = 0.05 * torch.randn(NUM_WS * W_DIM, 3 * SIDE * SIDE, generator=random)
        self.calls = 0

    def synthesize(self, ws: Tensor, noise_mode="const", noise=None, transform=None, resolution=None) -> Tensor:
        self.calls += 1
        small = (ws.flatten(1) @ self.basis).view(-1, 3, SIDE, SIDE)
        return F.interpolate(small, resolution or self.resolution, mode="bilinear", align_corners=False)


class ToyIdentity:
    def embed(self, images: Tensor) -> Tensor:
        # A grey picture, as the mean code's is, has a direction too: else the gradient there would have no bound.
        return F.normalize(F.pad(F.adaptive_avg_pool2d(images, 4).flatten(1), (0, 1), value=0.5), dim=1)

    def look(self, images: Tensor) -> FaceSight:
        count = len(images)
        return FaceSight(self.embed(images), torch.zeros(count, 68, 3), torch.ones(count, dtype=torch.bool))


class ToyPerceptual:
    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return (F.adaptive_avg_pool2d(images, 8),)

    def __call__(self, images: Tensor, target: Tensor | tuple[Tensor, ...]) -> Tensor:
        wanted = self.features(target) if isinstance(target, Tensor) else target
        return (self.features(images)[0] - wanted[0]).square().flatten(1).mean(1)


FOUND: dict[int, list[FaceObservation]] = {}
"""The real faces of frames that an earlier test looked at."""


class ToyJudges(Judges):
    """Finds real faces, in the first ``visible`` frames; the face is a disc, the head a larger one."""

    identity = ToyIdentity()
    perceptual = ToyPerceptual()
    second_identity = staticmethod(ToyIdentity().embed)
    visible = 10**6
    looked = 0

    def find(self, frames: np.ndarray) -> list[list[FaceObservation]]:
        keys = [hash(frame.tobytes()) for frame in frames]
        new = [index for index, key in enumerate(keys) if key not in FOUND]
        if new:
            FOUND.update(zip([keys[i] for i in new], super().find(frames[new]), strict=True))
        self.looked += len(frames)
        hidden = self.looked - self.visible
        return [FOUND[key] if len(keys) - index > hidden else [] for index, key in enumerate(keys)]

    def regions(self, images: Tensor) -> Regions:
        at = torch.linspace(-1, 1, images.shape[-1])
        discs = ((at[:, None] ** 2 + at[None] ** 2 < radius**2).float() for radius in (0.6, 0.8))
        face, head = (disc.expand(len(images), 1, -1, -1) for disc in discs)
        return Regions(face, head, 1 - head)


@pytest.fixture(scope="session")
def finder():
    return load_face_finder(load_params().section("detection", DetectionConfig))


@pytest.fixture
def toy_models(finder) -> Models:
    params = load_params()
    config = params.section("pipeline", PipelineConfig)
    config = replace(config, measure_every=2, follow=replace(config.follow, steps=0))
    judges = ToyJudges(params.section("detection", DetectionConfig), "alex", "cpu")
    judges.finder = finder
    push = torch.zeros(NUM_WS, W_DIM)
    push[1, 2] = 1.0
    turn = torch.zeros(NUM_WS, W_DIM)
    turn[0, 0] = 0.1
    edits = EditSet(
        [Direction("age", "years", push, -20, 30, "toy"), Direction("yaw", "degrees", turn, -15, 15, "toy")]
    )
    smoothing, shots = params.section("smoothing", SmoothingConfig), params.section("shots", ShotConfig)
    carried = params.section("landmark_flow", LandmarkFlowConfig)
    return Models(ToyGenerator(), None, edits, judges, config, smoothing, carried, shots, "cpu", {"toy": "1"})


@pytest.fixture(scope="session")
def clip() -> Path:
    return asset_path("clips", "single_face.mp4")


@pytest.fixture(scope="session")
def picture() -> Path:
    return asset_path("clips", "single_face.jpg")
