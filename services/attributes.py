"""What an edit can change, as numbers: the judges that label samples and measure edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.perception import landmarks
from modules.perception.age import AgeNet, load_age_net
from modules.perception.mesh import FaceMesh, load_face_mesh
from modules.perception.second_judges import SecondJudges

Measures = dict[str, NDArray[np.float32]]
NAMES = ("age", "yaw", "pitch", "roll", "smile", "mouth_open", "eyes_open", "gender")
"""The attributes, in the order of every table."""
_CERTAIN = 1e-4
"""Probabilities nearer than this to 0 and 1 count as this: their log odds stay finite."""


@dataclass(frozen=True)
class AttributeJudge:
    """Age net and face mesh: ``judge(images)`` takes FFHQ crops ``(N, 3, H, W)`` in [-1, 1], gives ``(N,)`` each.

    ``age`` in years; ``yaw``, ``pitch``, ``roll`` in degrees; ``smile``, ``mouth_open`` over the distance of the
    eyes; ``eyes_open`` height over width; ``gender`` the log odds of female. NaN where the mesh sees no face.
    """

    mesh: FaceMesh
    age: AgeNet
    least_score: float
    """Of the mesh, below which a picture shows no face."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Measures:
        """Measure N pictures; see the class."""
        faces, ages = self.mesh(images), self.age(images)
        pose = landmarks.head_pose(faces.points)
        female = ages.female.clamp(_CERTAIN, 1 - _CERTAIN)
        values = {
            "age": ages.age,
            "yaw": pose.yaw,
            "pitch": pose.pitch,
            "roll": pose.roll,
            "smile": landmarks.smile(faces.points),
            "mouth_open": landmarks.mouth_open(faces.points),
            "eyes_open": landmarks.eyes_open(faces.points),
            "gender": torch.logit(female),
        }
        seen = faces.score >= self.least_score
        return {name: torch.where(seen, value, torch.nan).float().cpu().numpy() for name, value in values.items()}


def load_attribute_judge(least_score: float, device: str = "cpu", mesh: FaceMesh | None = None) -> AttributeJudge:
    """The judge on its pretrained nets; ``mesh`` may be shared with others."""
    return AttributeJudge(mesh or load_face_mesh(device), load_age_net(device), least_score)


def as_table(measures: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """``(N, len(NAMES))`` in the order of ``NAMES``."""
    return np.stack([measures[name] for name in NAMES], axis=1).astype(np.float64)


@dataclass(frozen=True)
class SecondAttributeJudge:
    """The same of nets from another source, which no direction was fitted or set to: age, pose, gender.

    ``judge(images)`` as ``AttributeJudge``; ``gender`` is 0 to 1 here. The mesh only says where the face is.
    """

    nets: SecondJudges
    mesh: FaceMesh
    least_score: float
    """Of the mesh, below which a picture shows no face."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Measures:
        """Measure N pictures; see the class."""
        faces = self.mesh(images)
        places = faces.points[:, :, :2]
        boxes = torch.cat([places.amin(1), places.amax(1)], dim=1).cpu().numpy()
        pixels = images.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
        frames = pixels.permute(0, 2, 3, 1).cpu().numpy()
        pose = self.nets.pose(frames, boxes)
        values = {
            "age": self.nets.age(frames, boxes),
            "yaw": pose.yaw,
            "pitch": pose.pitch,
            "roll": pose.roll,
            "gender": self.nets.female(frames, boxes),
        }
        seen = (faces.score >= self.least_score).cpu().numpy()
        return {name: np.where(seen, value, np.nan).astype(np.float32) for name, value in values.items()}
