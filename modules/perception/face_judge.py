"""The judge that face losses look through: MediaPipe's mesh, or the papers' FAN and 3DDFA_V2 in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.perception.ddfa import DenseFace, load_dense_face, load_face_model
from modules.perception.fan import FaceAlignmentNet, load_fan
from modules.perception.mesh import FaceMesh, MeshOutput, load_face_mesh


@dataclass(frozen=True)
class FaceJudgeConfig:
    """Which networks judge a face, and where the weights lie that no package registry has."""

    landmarks: Literal["mesh", "fan"]
    """Landmark features: MediaPipe's mesh, or FAN's 68 heatmaps (the paper's choice)."""
    dense: Literal["mesh", "3ddfa"]
    """Dense points: MediaPipe's 468, or 3DDFA_V2's 53,215 vertices (the paper's choice)."""
    fan_weights: str
    """Path of 2DFAN4-11f355bf06.pth.tar; empty is torch's hub cache."""
    ddfa_weights: str
    """Folder of 3DDFA_V2's mb05_120x120.pth and param_mean_std_62d_120x120.pkl."""
    fan_factor: float
    """What weights of ``landmark_features`` are multiplied by under FAN: the paper's 100 over the mesh's 0.01.

    Weights in ``params.yaml`` are in the mesh's units; so FAN's stand to the losses of images as in the paper.
    """
    ddfa_factor: float
    """The same of ``mesh`` under 3DDFA_V2: the paper's 1e-4 over the mesh's 0.002."""
    min_score: float
    """MediaPipe's score of a face, in [0, 1], below which losses do not believe what any judge says of it."""

    @property
    def landmark_factor(self) -> float:
        """Of the chosen judge of landmark features; the mesh's is 1."""
        return self.fan_factor if self.landmarks == "fan" else 1.0

    @property
    def dense_factor(self) -> float:
        """Of the chosen judge of dense points; the mesh's is 1."""
        return self.ddfa_factor if self.dense == "3ddfa" else 1.0


class FaceJudge(nn.Module):
    """Answers like ``FaceMesh``, each part from the network that was chosen for it; differentiable."""

    def __init__(self, landmarks: FaceMesh | FaceAlignmentNet, dense: FaceMesh | DenseFace) -> None:
        """``landmarks`` gives features and score, ``dense`` the points."""
        super().__init__()
        self.landmarks, self.dense = landmarks, dense

    def forward(self, images: Tensor) -> MeshOutput:
        """FFHQ-aligned crops ``(N, 3, H, H)`` RGB in [-1, 1] to points in pixels, score and features.

        The features are FAN's heatmaps ``(N, 68, 64, 64)`` (FrEN and ViEN, eq. 3) or the mesh's; the points
        3DDFA_V2's vertices ``(N, 53215, 3)`` (eq. 4 and 5) or the mesh's ``(N, 468, 3)``.
        """
        if isinstance(self.landmarks, FaceMesh):
            _, score, features = self.landmarks(images)
        else:
            features = self.landmarks.heatmaps(images)
            score = features.amax(dim=(2, 3)).mean(dim=1).clamp(0.0, 1.0)
        points: Tensor = self.dense(images)[0] if isinstance(self.dense, FaceMesh) else self.dense(images)
        return MeshOutput(points, score, features)


def load_face_judge(config: FaceJudgeConfig, device: str | torch.device = "cpu") -> FaceMesh | FaceJudge:
    """The judge that ``config`` chooses; raises ``BadInputError`` where its weights are not there."""
    if config.landmarks == "mesh" and config.dense == "mesh":
        return load_face_mesh(device)
    landmarks: FaceMesh | FaceAlignmentNet
    dense: FaceMesh | DenseFace
    if config.landmarks == "fan":
        landmarks = load_fan(Path(config.fan_weights) if config.fan_weights else None, device)
    else:
        landmarks = load_face_mesh(device)
    if config.dense == "3ddfa":
        if not config.ddfa_weights:
            raise BadInputError("dense is 3ddfa, but ddfa_weights is empty; name 3DDFA_V2's weights folder there")
        dense = load_dense_face(Path(config.ddfa_weights), load_face_model()).to(device)
    else:
        dense = load_face_mesh(device)
    return FaceJudge(landmarks, dense).eval().requires_grad_(False)
