"""The Inception-v3 that FID and KID are defined by (Heusel et al. 2017): TensorFlow's of 2015-12-05, by path.

No package registry has its weights. They are published for torch as a bare state dict: pytorch-fid's
``pt_inception-2015-12-05-6726825d.pth``, torch-fidelity's ``weights-inception-2015-12-05-6726825d.pth``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import (  # type: ignore[import-untyped]
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from datamodules.types import BadInputError
from modules.perception.state import build_with_state, read_state

_SIDE = 299
_CLASSES = 1008


class FidInception(nn.Module):
    """Frozen: ``(N, 3, H, W)`` RGB in [-1, 1] to the pooled features ``(N, 2048)``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.net.fc = nn.Identity()
        self.requires_grad_(False).eval()

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> FidInception:
        """Build from the published state dict; raises ``BadInputError`` for another network's."""
        return cls(build_with_state(_make, state, "FID's Inception-v3"))

    def train(self, mode: bool = True) -> FidInception:
        """Stays in evaluation: its batch norms are part of what the distance is."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features; the images are resized as TensorFlow 1 did it, since the numbers depend on it."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"Inception takes (N, 3, H, W), got {tuple(images.shape)}")
        bytes_ = (images.clamp(-1, 1) + 1) * 127.5
        features: Tensor = self.net((resize_like_tensorflow(bytes_, _SIDE) - 128) / 128)
        return features


def load_fid_inception(weights: Path, device: str | torch.device = "cpu") -> FidInception:
    """Read the net from a state dict; raises ``BadInputError`` where the file is missing or foreign."""
    if not weights.is_file():
        raise BadInputError(
            f"Inception's weights are not at {weights}; put pytorch-fid's pt_inception-2015-12-05-6726825d.pth "
            "there, or leave the path empty: the distance is then taken in VGG's features"
        )
    return FidInception.from_state(read_state(weights)).to(device)


def resize_like_tensorflow(images: Tensor, side: int) -> Tensor:
    """``(N, C, H, W)`` to ``(N, C, side, side)``: bilinear, with pixel 0 on pixel 0 and no smoothing before."""
    for dimension in (2, 3):
        size = images.shape[dimension]
        place = torch.arange(side, device=images.device) * (size / side)
        low = place.long()
        high = (low + 1).clamp_max(size - 1)
        share = (place - low).to(images).reshape(-1, *[1] * (3 - dimension))
        near, far = images.index_select(dimension, low), images.index_select(dimension, high)
        images = near + (far - near) * share
    return images


class _InceptionA(InceptionA):  # type: ignore[misc]
    def _forward(self, x: Tensor) -> list[Tensor]:
        return _with_average(self, super()._forward(x), x)


class _InceptionC(InceptionC):  # type: ignore[misc]
    def _forward(self, x: Tensor) -> list[Tensor]:
        return _with_average(self, super()._forward(x), x)


class _InceptionE(InceptionE):  # type: ignore[misc]
    def _forward(self, x: Tensor) -> list[Tensor]:
        return _with_average(self, super()._forward(x), x)


class _LastInceptionE(InceptionE):  # type: ignore[misc]
    """TensorFlow's last block takes the largest instead of the mean."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        largest = F.max_pool2d(x, 3, stride=1, padding=1)
        return [*super()._forward(x)[:-1], self.branch_pool(largest)]


def _with_average(block: InceptionA | InceptionC | InceptionE, outputs: list[Tensor], x: Tensor) -> list[Tensor]:
    """The pooled branch anew: TensorFlow's mean does not count what pads the picture."""
    mean = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return [*outputs[:-1], block.branch_pool(mean)]


def _make() -> nn.Module:
    blocks = [BasicConv2d, _InceptionA, InceptionB, _InceptionC, InceptionD, _InceptionE, InceptionAux]
    net: nn.Module = Inception3(_CLASSES, aux_logits=False, inception_blocks=blocks, init_weights=False)
    net.Mixed_7c = _LastInceptionE(2048)
    return net
