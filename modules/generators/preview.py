"""A 256 px preview of a 1024 px generator: a small head on its 128 px features, for training on a budget.

The generator's own later layers are skipped, so the head is told their codes: it is modulated by every row
that the skipped layers read, and carries gradients to all of them, approximately. Numbers are never reported
from a preview.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from modules.generators.protocol import StyleLayer
from modules.ops import inverse_haar

FEATURE_RESOLUTION = 128
KIND = "preview-head"
RIDGE, RIDGE_STRIDE = 1e-3, 5
"""Strength of the ridge in the closed-form start, and every how many pixels it looks at."""


def late_rows(layers: Sequence[StyleLayer]) -> tuple[int, ...]:
    """Rows of ``ws`` that no layer up to the features reads."""
    early = {layer.ws_index for layer in layers if layer.resolution <= FEATURE_RESOLUTION and not layer.to_rgb}
    return tuple(sorted({layer.ws_index for layer in layers} - early))


class FeatureGenerator(Protocol):
    """A generator that can stop half way."""

    sha256: str

    def features(self, ws: Tensor, resolution: int) -> Tensor:
        """``(N, num_ws, w_dim)`` to the feature map ``(N, C, resolution, resolution)``."""
        ...


class PreviewHead(nn.Module):
    """Features ``(N, channels, 128, 128)`` and the codes of skipped layers to images ``(N, 3, 256, 256)``."""

    def __init__(self, channels: int, width: int, late_rows: tuple[int, ...], w_dim: int) -> None:
        """``late_rows`` are the rows of ``ws`` that only skipped layers read."""
        super().__init__()
        self.late_rows = late_rows
        self.style = nn.Linear(len(late_rows) * w_dim, channels + width)
        self.squeeze = nn.Conv2d(channels, width, 1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.bands = nn.Conv2d(width, 12, 1, bias=False)
        self.direct = nn.Conv2d(channels, 12, 1, bias=False)
        self.offset = nn.Parameter(torch.zeros(12))
        nn.init.zeros_(self.style.weight)
        nn.init.zeros_(self.style.bias)

    def forward(self, features: Tensor, ws: Tensor) -> Tensor:
        """Images, not clamped: 12 wavelet bands of 128 px, through the inverse Haar transform."""
        style = 1 + self.style(ws[:, list(self.late_rows)].flatten(1))[:, :, None, None]
        x = features * style[:, : features.shape[1]]
        hidden = nn.functional.gelu(self.squeeze(x) * style[:, features.shape[1] :])
        hidden = hidden + nn.functional.gelu(self.mix(hidden))
        return inverse_haar(self.bands(hidden) + self.direct(x) + self.offset[:, None, None])

    def start_linear(self, features: Tensor, images: Tensor) -> None:
        """Solve the direct path for features ``(N, channels, 128, 128)`` of images ``(N, 3, 256, 256)``."""
        with torch.no_grad():
            start = images.new_zeros(len(images), 12, *features.shape[2:])
            (bands,) = torch.func.vjp(inverse_haar, start)[1](
                images
            )  # the transform is orthonormal: its transpose is its inverse
            x = features.permute(0, 2, 3, 1).flatten(0, 2)[::RIDGE_STRIDE].double()
            y = bands.permute(0, 2, 3, 1).flatten(0, 2)[::RIDGE_STRIDE].double()
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
            gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
            solved = torch.linalg.solve(gram, x.T @ y).float()
            self.direct.weight.copy_(solved[:-1].T[:, :, None, None])
            nn.init.zeros_(self.bands.weight)
            self.offset.copy_(solved[-1])


class PreviewGenerator(nn.Module):
    """``ws`` to 256 px images through a generator's early layers and a preview head."""

    def __init__(self, generator: FeatureGenerator, head: PreviewHead) -> None:
        super().__init__()
        self.generator, self.head = generator, head

    def forward(self, ws: Tensor) -> Tensor:
        """``(N, num_ws, w_dim)`` to ``(N, 3, 256, 256)``, gradients to every row."""
        features = self.generator.features(ws, FEATURE_RESOLUTION)
        with torch.autocast(features.device.type, enabled=features.dtype != torch.float32, dtype=features.dtype):
            images: Tensor = self.head(features, ws).float()
        return images
