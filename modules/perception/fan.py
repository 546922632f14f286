"""FAN (Bulat and Tzimiropoulos 2017) through face-alignment: 68 heatmaps, and the points they peak at.

The weights are fetched by URL where there is a network, or given as a file; they are in no package registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.types import BadInputError
from modules.perception.state import build_with_state, read_state

INPUT_SIZE = 256
HEATMAP_SIZE = 64
FILE_NAME = "2DFAN4-11f355bf06.pth.tar"
"""Name of the published weights, as torch's hub caches them."""
_HOURGLASSES = 4
# Cells around the peak that decide where between the cells the point lies; a blob is about 3 wide.
_REACH = 4


class FaceAlignmentNet(nn.Module):
    """The four stacked hourglasses, frozen and differentiable."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> FaceAlignmentNet:
        """Build from 2DFAN-4's bare state dict; raises ``BadInputError`` for another network's."""
        return cls(build_with_state(_make, state, "FAN (2DFAN-4)"))

    def heatmaps(self, images: Tensor) -> Tensor:
        """Face crops ``(N, 3, H, H)`` RGB in [-1, 1] to the last hourglass's heatmaps ``(N, 68, 64, 64)``.

        The crop should hold the face as face-alignment cuts it: about 195 / 256 of the side.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"FAN takes square crops (N, 3, H, H), got {tuple(images.shape)}")
        resized = functional.interpolate(images, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
        last: Tensor = self.net(resized / 2 + 0.5)[-1]
        return last

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Face crops ``(N, 3, H, H)`` RGB in [-1, 1] to points and scores, differentiable.

        Points ``(N, 68, 2)`` are x, y in pixels of the input, the centre of what each heatmap holds around
        its peak; scores ``(N, 68)`` are the peaks' heights, about 1 where the network is sure.
        """
        maps = self.heatmaps(images)
        cells = torch.arange(HEATMAP_SIZE, dtype=maps.dtype, device=maps.device)
        height, peak = maps.flatten(2).max(dim=2)
        near_x = (cells - (peak % HEATMAP_SIZE)[:, :, None]).abs() <= _REACH
        near_y = (cells - (peak // HEATMAP_SIZE)[:, :, None]).abs() <= _REACH
        # A map without anything above 0 gets its peak.
        floor = torch.finfo(maps.dtype).eps
        mass = maps.clamp(min=floor) * near_x[:, :, None, :] * near_y[:, :, :, None]
        mass = mass / mass.sum(dim=(2, 3), keepdim=True)
        cell = torch.stack([(mass.sum(dim=2) * cells).sum(dim=2), (mass.sum(dim=3) * cells).sum(dim=2)], dim=2)
        points = (cell + 0.5) * (images.shape[2] / HEATMAP_SIZE) - 0.5
        return points, height


def load_fan(weights: Path | None = None, device: str | torch.device = "cpu") -> FaceAlignmentNet:
    """Read 2DFAN-4 from ``weights``, or from torch's hub cache.

    Raises ``BadInputError`` that says where to put the file when it is missing or foreign.
    """
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME
    if not path.is_file():
        raise BadInputError(
            f"FAN's weights are not at {path}; put the face-alignment project's {FILE_NAME} there, "
            "or choose the mesh landmarks in params.yaml"
        )
    return FaceAlignmentNet.from_state(read_state(path)).to(device)


def _make() -> nn.Module:
    from face_alignment.models import FAN  # half a second, which only the papers' judge needs

    return cast(nn.Module, FAN(_HOURGLASSES))
