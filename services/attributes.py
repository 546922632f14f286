"""What an edit can change, as numbers: the judges that label samples and measure edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from modules.perception import landmarks
from modules.perception.age import AgeNet, load_age_net
from modules.perception.mesh import FaceMesh, load_face_mesh
from modules.perception.second_judges import SecondJudges

Measures = dict[str, NDArray[np.float32]]
NAMES = ("age", "yaw", "pitch", "roll", "smile", "mouth_open", "eyes_open", "gender", "lift", "glasses")
"""The attributes, in the order of every table."""
_EYES = (slice(96, 160), slice(64, 192))
"""Where the eyes lie in an FFHQ crop of 256 px, rows and columns."""
_BRIDGE = (slice(10, 44), slice(54, 74))
"""Where, in that, the bridge of the nose lies."""
_CERTAIN = 1e-4
"""Probabilities nearer than this to 0 and 1 count as this: their log odds stay finite."""


@dataclass(frozen=True)
class AttributeJudge:
    """Age net and face mesh: ``judge(images)`` takes FFHQ crops ``(N, 3, H, W)`` in [-1, 1], gives ``(N,)`` each.

    ``age`` in years; ``yaw``, ``pitch``, ``roll`` in degrees; ``smile``, ``mouth_open`` over the distance of the
    eyes; ``eyes_open`` height over width; ``gender`` the log odds of female; ``lift`` of the corners of the mouth
    over the upper lip, which an opening mouth, unlike ``smile``, leaves where it is; ``glasses`` see
    ``bridge_edges``. NaN where there is no face.
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
        smile, gap = landmarks.smile(faces.points), landmarks.mouth_open(faces.points)
        female = ages.female.clamp(_CERTAIN, 1 - _CERTAIN)
        values = {
            "age": ages.age,
            "yaw": pose.yaw,
            "pitch": pose.pitch,
            "roll": pose.roll,
            "smile": smile,
            "mouth_open": gap,
            "eyes_open": landmarks.eyes_open(faces.points),
            "gender": torch.logit(female),
            # The smile is measured from the middle of the lips, which sinks by half the gap.
            "lift": smile - gap / 2,
            "glasses": torch.from_numpy(bridge_edges(images)).to(ages.age),
        }
        seen = faces.score >= self.least_score
        return {name: torch.where(seen, value, torch.nan).float().cpu().numpy() for name, value in values.items()}


def bridge_edges(images: Tensor) -> NDArray[np.float32]:
    """``(N,)`` log strength of edges across the bridge of the nose in FFHQ crops ``(N, 3, H, W)`` in [-1, 1].

    Skin is smooth there: above about log 12 there are nearly always glasses (looked at on 60 samples).
    """
    side = 256
    small = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    pixels = small.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    strengths = []
    for frame in pixels:
        grey = cv2.cvtColor(frame[_EYES], cv2.COLOR_RGB2GRAY).astype(np.float32)
        edges = np.abs(cv2.Sobel(cv2.GaussianBlur(grey, (0, 0), 1.2), cv2.CV_32F, 0, 1, ksize=3)) / 8
        strengths.append(edges[_BRIDGE].max(axis=0).mean())
    return np.log(np.maximum(np.array(strengths, np.float32), 0.1))


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
