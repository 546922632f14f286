"""ArcFace on IR-SE50 (Deng et al. 2019; the weights of InsightFace_Pytorch): 512 numbers that tell who it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.perception.state import build_with_state, read_state

_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
# FFHQ crops hold more than ArcFace was trained on: pSp and e4e cut this part out, in 256ths, and shrink it.
_FACE_TOP, _FACE_LEFT, _FACE_SIDE, _FFHQ_SIDE, _INPUT = 35, 32, 188, 256, 112


class ChannelGate(nn.Module):
    """Squeeze and excitation: each channel times a weight in (0, 1) that all channels' means decide."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the same shape."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        gate: Tensor = torch.sigmoid(self.fc2(functional.relu(self.fc1(mean))))
        return x * gate


class IrSeUnit(nn.Module):
    """Improved residual unit with a channel gate; halves the side where ``stride`` is 2."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        if channels == out:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, out, 3, 1, 1, bias=False),
            nn.PReLU(out),
            nn.Conv2d(out, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            ChannelGate(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, H, W)`` to ``(N, out, H / stride, W / stride)``."""
        out: Tensor = self.shortcut_layer(x) + self.res_layer(x)
        return out


def ir_se50_input(channels: int) -> nn.Sequential:
    """The first layer: images of ``channels`` to 64 channels at the same size."""
    return nn.Sequential(nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))


def ir_se50_body() -> nn.Sequential:
    """The 24 units of IR-SE50; units 0, 3, 7 and 21 halve the side."""
    units, channels = [], 64
    for out, count in _STAGES:
        units += [IrSeUnit(channels if i == 0 else out, out, 2 if i == 0 else 1) for i in range(count)]
        channels = out
    return nn.Sequential(*units)


class ArcFace(nn.Module):
    """IR-SE50 with its embedding head."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = ir_se50_input(3)
        self.body = ir_se50_body()
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.4), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ArcFace:
        """Build from ``model_ir_se50.pth``'s bare state dict; raises ``BadInputError`` for another file's."""
        return build_with_state(cls, state, "ArcFace IR-SE50")

    def forward(self, images: Tensor) -> Tensor:
        """Aligned faces ``(N, 3, 112, 112)`` RGB in [-1, 1] to embeddings ``(N, 512)`` of length 1."""
        if images.ndim != 4 or images.shape[1:] != (3, _INPUT, _INPUT):
            raise ValueError(f"ArcFace takes (N, 3, {_INPUT}, {_INPUT}), got {tuple(images.shape)}")
        return functional.normalize(self.output_layer(self.body(self.input_layer(images))), dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """FFHQ-aligned crops ``(N, 3, H, H)`` RGB in [-1, 1] to embeddings ``(N, 512)`` of length 1.

        The face is cut out of the crop and pooled to 112 px as the encoders' identity losses do it.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"crops must be square (N, 3, H, H), got {tuple(images.shape)}")
        pooled = functional.adaptive_avg_pool2d(images, _FFHQ_SIDE)
        face = pooled[:, :, _FACE_TOP : _FACE_TOP + _FACE_SIDE, _FACE_LEFT : _FACE_LEFT + _FACE_SIDE]
        embedding: Tensor = self(functional.adaptive_avg_pool2d(face, _INPUT))
        return embedding


def load_arcface(weights: Path, device: str = "cpu") -> ArcFace:
    """Read ``model_ir_se50.pth``; raises ``BadInputError`` for another file."""
    return ArcFace.from_state(read_state(weights)).to(device)
