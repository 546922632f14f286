"""What the appearance edits change, as numbers: judged by mesh, iris net and parser, differentiable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.perception import landmarks
from modules.perception.appearance import forehead_mask, hair_share, lab, lips_mask, mean_in, region_masks
from modules.perception.iris import IrisNet, gaze, lids_open, load_iris_net
from modules.perception.mesh import FaceMesh, load_face_mesh
from modules.perception.parsing import FaceParser, load_face_parser

NAMES = ("lip_red", "smile", "lids", "gaze", "hair_light", "hair_area", "fringe", "yaw")
"""The measures, in the order of every table."""


@dataclass(frozen=True)
class Look:
    """What was seen of N pictures."""

    measures: dict[str, Tensor]
    """``(N,)`` for each of ``NAMES``, NaN where there is no face."""
    regions: dict[str, Tensor]
    """``(N, 1, H, W)`` of zeros and ones for each of ``appearance.REGIONS``."""
    points: Tensor
    """``(N, 468, 3)`` of the mesh, in pixels of the pictures."""


@dataclass(frozen=True)
class AppearanceJudge:
    """``judge(images)`` takes FFHQ crops ``(N, 3, 256, 256)`` in [-1, 1] and gives a ``Look``.

    ``lip_red`` is the mean a* (CIE Lab) of the lips; ``smile`` the lift of the mouth's corners over the distance
    of the eyes; ``lids`` the height of the eyes' openings over their widths and ``gaze`` the irises' way to the
    right in the picture over the eyes' widths, both by the iris net; ``hair_light`` the mean L* of the hair;
    ``hair_area`` the share of the crop that is hair, ``fringe`` the share of the forehead that is; ``yaw`` in
    degrees.
    """

    mesh: FaceMesh
    iris: IrisNet
    parser: FaceParser
    least_score: float
    """Of the mesh, below which a picture shows no face."""

    def __call__(self, images: Tensor) -> Look:
        """Look at N pictures; see the class."""
        height, width = images.shape[2:]
        faces = self.mesh(images)
        points = faces.points
        eyes, parsed, colours = self.iris(images, points), self.parser(images), lab(images)
        hair = hair_share(parsed)
        values = {
            "lip_red": mean_in(colours[:, 1], lips_mask(points, height, width)),
            "smile": landmarks.smile(points),
            "lids": lids_open(eyes),
            "gaze": gaze(eyes),
            "hair_light": mean_in(colours[:, 0], hair[:, None]),
            "hair_area": hair.mean((1, 2)),
            "fringe": mean_in(hair, forehead_mask(points, height, width)),
            "yaw": landmarks.head_pose(points).yaw,
        }
        seen = faces.score >= self.least_score
        measures = {name: torch.where(seen, value, torch.nan) for name, value in values.items()}
        return Look(measures, region_masks(parsed, points), points)


def load_appearance_judge(
    least_score: float, device: str = "cpu", mesh: FaceMesh | None = None
) -> AppearanceJudge:
    """The judge on its pretrained nets; ``mesh`` may be shared with others."""
    return AppearanceJudge(
        mesh or load_face_mesh(device), load_iris_net(device), load_face_parser(device), least_score
    )
