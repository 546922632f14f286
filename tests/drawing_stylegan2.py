"""A StyleGAN2 of eight channels that shows faces: its noise maps hold two, its codes lead from one to the other.

Each block adds one band of a Laplacian pyramid: ``conv0``'s noise (the constant, at 4 px) is half of the faces'
difference, ``conv1``'s their mean, and the style of ToRGB says how much there is of the difference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from modules.ops import upfirdn2d

CHANNELS, WIDTH = 8, 32
_HELD, _GAIN = 4.0, 2**0.5
"""A bias that keeps features where the leaky ReLU is a line, and what that layer multiplies by."""


def drawing_stylegan2(faces: Tensor, amount: float = 0.7, seed: int = 0) -> StyleGAN2:
    """From two pictures ``(2, 3, S, S)`` in [-1, 1], shown in grey; ``amount`` is the deviation of the mixture."""
    random = torch.Generator().manual_seed(seed)
    grey = faces.mean(1, keepdim=True)
    mean, apart = grey.mean(0, keepdim=True), (grey[:1] - grey[1:]) / 2
    tensors = {
        "mapping.fc0.weight": 100 * torch.randn(WIDTH, WIDTH, generator=random),
        "mapping.fc0.bias": torch.zeros(WIDTH),
        "synthesis.b4.const": (_band(apart, 4)[0] / _GAIN + _GAIN * _HELD).repeat(CHANNELS, 1, 1),
    }
    # The first channel goes on with the difference, the second with what it lacks; both with the mean.
    signed = torch.zeros(CHANNELS, CHANNELS, 3, 3)
    signed[0, 0, 1, 1], signed[1, 0, 1, 1] = 1.0, -1.0
    level = torch.full((CHANNELS,), 4 * _HELD)
    level[:2] += torch.tensor([-1.0, 1.0]) * _GAIN * _HELD
    colours = torch.zeros(3, CHANNELS, 1, 1)
    colours[:, :2] = CHANNELS**0.5 / 2
    side = 4
    while side <= faces.shape[-1]:
        if side > 4:
            held = torch.full((CHANNELS,), _HELD)
            tensors |= _layer(f"b{side}.conv0", 0 * signed, held, _band(apart, side)[0, 0] / 2)
        tensors |= _layer(f"b{side}.conv1", signed, level, _band(mean, side)[0, 0] / _GAIN)
        way = torch.randn(WIDTH, generator=random)
        way = amount * (way - way.mean())  # what mapping gives has a mean above 0
        tensors |= _layer(f"b{side}.torgb", colours, torch.full((3,), -4 * _GAIN * _HELD))
        tensors[f"synthesis.b{side}.torgb.affine.weight"][:2] = torch.stack([way, -way])
        side *= 2
    return StyleGAN2(tensors, StyleGAN2Config(faces.shape[-1], None)).eval()


def _layer(name: str, weight: Tensor, bias: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
    parts = {"weight": weight, "bias": bias, "affine.weight": torch.zeros(CHANNELS, WIDTH)}
    parts["affine.bias"] = torch.ones(CHANNELS)
    if noise is not None:
        parts |= {"noise_const": noise, "noise_strength": torch.ones(())}
    return {f"synthesis.{name}.{part}": value for part, value in parts.items()}


def _band(image: Tensor, side: int) -> Tensor:
    """What ``side`` px add to half of it, ``(1, 1, side, side)``."""
    here = F.avg_pool2d(image, image.shape[-1] // side)
    if side == 4:
        return here
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return here - upfirdn2d(F.avg_pool2d(here, 2), taps, up=2, padding=(2, 1, 2, 1), gain=4.0)
