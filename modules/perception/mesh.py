"""MediaPipe's face mesh in torch: 468 points of a face in an upright crop, batched and differentiable."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.assets import asset_path
from modules.perception.tflite import TfliteNet, read_tflite

POINTS = 468
_FEATURES = 141
"""Number of the last value that the heads for points and for score share: 128 channels, 6 by 6."""


class MeshOutput(NamedTuple):
    """What the mesh says of N images."""

    points: Tensor
    """``(N, 468, 3)`` x, y in pixels of the images that came in (centres on integers), z in the same unit as x,
    smaller nearer to the camera, 0 about the middle of the head."""
    score: Tensor
    """``(N,)`` in [0, 1]: how sure the net is that a face is there."""
    features: Tensor
    """``(N, 128, 6, 6)``: the last feature map that all heads share."""


class FaceMesh(nn.Module):
    """MediaPipe ``face_landmark``: frozen, differentiable with respect to the images.

    ``forward(images)`` takes ``(N, 3, H, W)`` RGB in [-1, 1], each showing one upright face that fills about two
    thirds of the image (the FFHQ crop does), and returns ``MeshOutput``. Images of another size than 192 are
    resized inside, with an antialiasing filter.
    """

    def __init__(self, net: TfliteNet) -> None:
        super().__init__()
        self.net = net
        self.side = net.size[1]

    def forward(self, images: Tensor) -> MeshOutput:
        """Points, scores and features of N images; see the class."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the mesh takes (N, 3, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        if (height, width) != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        raw, logit, features = self.net((images + 1) / 2, also=(_FEATURES,))
        # The net counts pixel centres of its own input on integers: flipped images give points that add up to 191.
        scale = raw.new_tensor([width / self.side, height / self.side, width / self.side])
        points = raw.reshape(-1, POINTS, 3) * scale + (scale - 1) / 2 * raw.new_tensor([1.0, 1.0, 0.0])
        return MeshOutput(points, torch.sigmoid(logit.flatten()), features)


def load_face_mesh(device: str | torch.device = "cpu", path: Path | None = None) -> FaceMesh:
    """The mesh of the asset ``mediapipe``, or of a ``face_landmark.tflite`` elsewhere."""
    net = read_tflite(path or asset_path("mediapipe", "face_landmark.tflite"))
    return FaceMesh(net).to(device).eval().requires_grad_(False)
