"""MediaPipe's iris net in torch: lids and iris of both eyes, batched and differentiable; where the eyes look."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.assets import asset_path
from modules.perception.tflite import TfliteNet, read_tflite

CONTOUR, IRIS = 71, 5
_CORNERS = ((33, 133), (263, 362))
"""Outer and inner corner among the mesh's points: the person's right eye, then the left."""
_AROUND = 2.3
"""Side of the net's view over the distance of the corners."""
_LARGEST = 256
"""Images are shrunk to this side: the view is then about 90 pixels, near the 64 that the net looks at."""
_OUTER, _INNER = 0, 8
_LIDS = ((3, 11), (4, 12), (5, 13))
"""Points of the lower and the upper lid that face each other, in the middle third of the eye."""


class Irises(NamedTuple):
    """What the net says of both eyes of N faces, x, y in pixels of the images (centres on integers)."""

    lids: Tensor
    """``(N, 2, 71, 2)``, right eye of the person first. Nine points run along the lower lid from the outer corner
    to the inner, seven along the upper one without the corners, the others lie around."""
    iris: Tensor
    """``(N, 2, 5, 2)``: centre of the iris, then four points on its edge."""


class IrisNet(nn.Module):
    """MediaPipe ``iris_landmark``: frozen, differentiable with respect to the images.

    ``forward(images, mesh_points)`` takes ``(N, 3, H, W)`` RGB in [-1, 1] and the mesh's ``(N, 468, 3)`` in pixels
    of them, which only say where to look, and returns ``Irises``. The net knows right eyes; left ones are turned
    into such by a mirror.
    """

    def __init__(self, net: TfliteNet) -> None:
        super().__init__()
        self.net = net
        self.side = net.size[1]

    def forward(self, images: Tensor, mesh_points: Tensor) -> Irises:
        """Lids and irises; see the class."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the iris net takes (N, 3, H, W), got {tuple(images.shape)}")
        if mesh_points.shape != (len(images), 468, 3):
            raise ValueError(f"mesh points must be ({len(images)}, 468, 3), got {tuple(mesh_points.shape)}")
        scale = min(1.0, _LARGEST / max(images.shape[2:]))
        if scale < 1:
            images = F.interpolate(images, scale_factor=scale, mode="bilinear", antialias=True)
        corners = (mesh_points.detach()[:, [list(pair) for pair in _CORNERS], :2] + 0.5) * scale - 0.5
        places = self.places(corners)
        height, width = images.shape[2:]
        size = images.new_tensor([width, height])
        grid = (places.flatten(0, 1) + 0.5) * (2 / size) - 1
        views = F.grid_sample(
            images.repeat_interleave(2, 0), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        lids, iris = self.net((views + 1) / 2)
        return Irises(*(self._in_image(values, corners, scale) for values in (lids, iris)))

    def places(self, corners: Tensor) -> Tensor:
        """``(N, 2, side, side, 2)``: where each pixel of the views lies, for corners ``(N, 2, 2, 2)``."""
        steps = torch.arange(self.side, device=corners.device, dtype=corners.dtype)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        places = _from_view(torch.stack([x, y], -1).flatten(0, 1), corners, self.side)
        return places.reshape(*places.shape[:2], self.side, self.side, 2)

    def _in_image(self, values: Tensor, corners: Tensor, scale: float) -> Tensor:
        points = values.reshape(len(corners), 2, -1, 3)[..., :2]
        return (_from_view(points, corners, self.side) + 0.5) / scale - 0.5


def _from_view(points: Tensor, corners: Tensor, side: int) -> Tensor:
    """Points in a view of ``side`` pixels, ``(P, 2)`` or ``(N, 2, P, 2)``, to pixels of the image."""
    outer, inner = corners.unbind(2)
    along = (inner - outer) * (_AROUND / side)
    # Down in the picture for both: the mirrored eye's axis runs the other way.
    sign = along.new_tensor([1.0, -1.0])[:, None]
    across = torch.stack([-along[..., 1], along[..., 0]], -1) * sign
    offset = points - (side - 1) / 2
    middle = (outer + inner)[:, :, None] / 2
    return middle + offset[..., :1] * along[:, :, None] + offset[..., 1:] * across[:, :, None]


def gaze(eyes: Irises) -> Tensor:
    """``(N,)`` how far the irises lie to the right in the picture of the eyes' middles, over the eyes' widths.

    Mean of both eyes, along the line of each eye's corners.
    """
    outer, inner = eyes.lids[:, :, _OUTER], eyes.lids[:, :, _INNER]
    # Outer to inner is rightwards in the picture for the right eye, leftwards for the left one.
    axis = (inner - outer) * eyes.lids.new_tensor([1.0, -1.0])[:, None]
    offset = eyes.iris[:, :, 0] - (outer + inner) / 2
    share: Tensor = (offset * axis).sum(-1) / axis.square().sum(-1)
    return share.mean(1)


def lids_open(eyes: Irises) -> Tensor:
    """``(N,)`` height of the middle of the eyes' openings over their widths, mean of both eyes."""
    width = (eyes.lids[:, :, _OUTER] - eyes.lids[:, :, _INNER]).norm(dim=-1)
    heights = [(eyes.lids[:, :, low] - eyes.lids[:, :, high]).norm(dim=-1) for low, high in _LIDS]
    ratio: Tensor = torch.stack(heights).mean(0) / width
    return ratio.mean(1)


def load_iris_net(device: str | torch.device = "cpu", path: Path | None = None) -> IrisNet:
    """The net of the asset ``mediapipe``, or of an ``iris_landmark.tflite`` elsewhere."""
    net = read_tflite(path or asset_path("mediapipe", "iris_landmark.tflite"))
    return IrisNet(net).to(device).eval().requires_grad_(False)
