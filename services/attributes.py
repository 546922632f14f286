"""What an edit can change, as numbers: the judges that label samples and measure edits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from modules.ops import luma
from modules.perception import landmarks
from modules.perception.age import AgeNet, load_age_net
from modules.perception.emotion import EXPRESSED, EmotionNet, load_emotion_net, log_odds
from modules.perception.mesh import FaceMesh, load_face_mesh
from modules.perception.second_judges import SecondJudges

Measures = dict[str, NDArray[np.float32]]
NAMES = ("age", "yaw", "pitch", "roll", "smile", "mouth_open", "eyes_open", "gender", "glasses", *EXPRESSED)
"""The attributes, in the order of every table."""
_EYES = (slice(96, 160), slice(64, 192))
"""Where the eyes lie in an FFHQ crop of 256 px, rows and columns."""
_BRIDGE = (slice(10, 44), slice(54, 74))
"""Where, in that, the bridge of the nose lies."""
_SIDE, _BLUR, _REACH = 256, 1.2, 5
"""Side of the crop, spread of the blur before edges are looked for, and how far it reaches, in pixels."""
_CERTAIN = 1e-4
"""Probabilities nearer than this to 0 and 1 count as this: their log odds stay finite."""


@dataclass(frozen=True)
class AttributeJudge:
    """Nets of age, face mesh and expression: ``judge(images)`` gives ``(N,)`` for each of ``NAMES``.

    Images are FFHQ crops ``(N, 3, H, W)`` in [-1, 1]. ``age`` in years; ``yaw``, ``pitch``, ``roll`` in degrees;
    ``smile``, ``mouth_open`` over the distance of the eyes; ``eyes_open`` height over width; ``gender``,
    ``surprise``, ``anger`` log odds, of female and of the expression; ``glasses`` see ``bridge_edges``. NaN where
    there is no face.
    """

    mesh: FaceMesh
    age: AgeNet
    emotion: EmotionNet
    least_score: float
    """Of the mesh, below which a picture shows no face."""

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Measures:
        """Measure N pictures; see the class."""
        return {name: value.float().cpu().numpy() for name, value in self.measure(images).items()}

    def measure(self, images: Tensor) -> dict[str, Tensor]:
        """The same as tensors, differentiable with respect to the images."""
        faces, ages, expressions = self.mesh(images), self.age(images), self.emotion(images)
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
            "glasses": bridge_edges(images),
            # Not held back as gender is: of calm faces four in five would stand at the end, and none could learn.
            **{name: log_odds(expressions, emotion) for name, emotion in EXPRESSED.items()},
        }
        seen = faces.score >= self.least_score
        return {name: torch.where(seen, value, torch.nan) for name, value in values.items()}


def bridge_edges(images: Tensor) -> Tensor:
    """``(N,)`` log strength of edges across the bridge of the nose in FFHQ crops ``(N, 3, H, W)`` in [-1, 1].

    Skin is smooth there: above about log 12 there are nearly always glasses (looked at on 60 samples).
    Differentiable.
    """
    pixels = F.interpolate(images.float(), (_SIDE, _SIDE), mode="bilinear", antialias=True)
    pixels = pixels.mul(127.5).add(127.5).clamp(0, 255)[:, :, _EYES[0], _EYES[1]]
    grey = luma(pixels)
    near = torch.arange(-_REACH, _REACH + 1, dtype=grey.dtype, device=grey.device)
    bell = torch.exp(-near.square() / (2 * _BLUR**2))
    bell = bell / bell.sum()
    grey = F.conv2d(F.pad(grey, (_REACH,) * 4, mode="reflect"), (bell[:, None] * bell)[None, None])
    step = grey.new_tensor([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]) / 8
    edges = F.conv2d(F.pad(grey, (1,) * 4, mode="reflect"), step[None, None]).abs()
    strength: Tensor = edges[:, 0, _BRIDGE[0], _BRIDGE[1]].amax(1).mean(1)
    return strength.clamp_min(0.1).log()


def load_attribute_judge(least_score: float, device: str = "cpu", mesh: FaceMesh | None = None) -> AttributeJudge:
    """The judge on its pretrained nets; ``mesh`` may be shared with others."""
    nets = load_age_net(device), load_emotion_net(device)
    return AttributeJudge(mesh or load_face_mesh(device), *nets, least_score)


def as_table(measures: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float64]:
    """``(N, len(NAMES))`` in the order of ``NAMES``."""
    return np.stack([measures[name] for name in NAMES], axis=1).astype(np.float64)


def as_frames(images: Tensor, points: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What ``SecondJudges`` takes: ``(N, H, W, 3)`` uint8 and the boxes ``(N, 4)`` around mesh points.

    Images are ``(N, 3, H, W)`` in [-1, 1], points ``(N, 468, 3)`` in their pixels.
    """
    places = points[:, :, :2]
    boxes = torch.cat([places.amin(1), places.amax(1)], dim=1).detach().float().cpu().numpy()
    pixels = images.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy(), boxes


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
        frames, boxes = as_frames(images, faces.points)
        pose = self.nets.pose(frames, boxes)
        values = {
            "age": self.nets.age(frames, faces.points),
            "yaw": pose.yaw,
            "pitch": pose.pitch,
            "roll": pose.roll,
            "gender": self.nets.female(frames, boxes),
        }
        seen = (faces.score >= self.least_score).cpu().numpy()
        return {name: np.where(seen, value, np.nan).astype(np.float32) for name, value in values.items()}
