"""NVlabs' mapping network and its fully connected layers, which StyleGAN2 and StyleGAN3 share."""

from __future__ import annotations

from collections.abc import Mapping as Tensors
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_RATE = 0.01
"""Learning rate of the mapping network relative to the rest, which its weights are stored divided by."""
_MEAN_SAMPLES = 10_000


class ScaledLinear(nn.Module):
    """Fully connected layer whose weights are scaled at run time by ``rate`` over the root of the fan-in."""

    def __init__(self, weight: Tensor, bias: Tensor, rate: float = 1.0) -> None:
        """Weight ``(out, in)``, bias ``(out,)``, both frozen."""
        super().__init__()
        self.weight, self.bias = frozen(weight), frozen(bias)
        self._scale, self._rate = rate / weight.shape[1] ** 0.5, rate

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in)`` to ``(N, out)``."""
        return F.linear(x, self.weight * self._scale, self.bias * self._rate)


class MappingNetwork(nn.Module):
    """z to w (Karras 2019, section 2), and truncation towards the mean ``w_avg``."""

    w_avg: Tensor

    def __init__(self, tensors: Tensors[str, Tensor]) -> None:
        """From ``mapping.fc{i}.weight|bias`` and ``mapping.w_avg``, which is measured where it is missing.

        Raises ``KeyError`` where tensors are missing.
        """
        super().__init__()
        self._depth = sum(key.startswith("mapping.fc") and key.endswith(".weight") for key in tensors)
        for i in range(max(self._depth, 1)):
            layer = ScaledLinear(tensors[f"mapping.fc{i}.weight"], tensors[f"mapping.fc{i}.bias"], _RATE)
            self.add_module(f"fc{i}", layer)
        given = tensors.get("mapping.w_avg")
        self.register_buffer("w_avg", self._mean() if given is None else given.detach().clone().float())

    @property
    def z_dim(self) -> int:
        """Length of z."""
        return int(cast(ScaledLinear, self.fc0).weight.shape[1])

    def forward(self, z: Tensor) -> Tensor:
        """``(N, z_dim)`` to ``(N, w_dim)``."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z must be (N, {self.z_dim}), got {tuple(z.shape)}")
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for i in range(self._depth):
            x = F.leaky_relu(self.get_submodule(f"fc{i}")(x), 0.2) * 2**0.5
        return x

    def rows(self, z: Tensor, num_ws: int, truncation_psi: float, truncation_cutoff: int | None) -> Tensor:
        """``(N, z_dim)`` to ``(N, num_ws, w_dim)``; rows below the cutoff (or all) go towards the mean."""
        ws: Tensor = self(z)[:, None].repeat(1, num_ws, 1)
        if truncation_psi != 1.0:
            ws[:, :truncation_cutoff] = self.w_avg.lerp(ws[:, :truncation_cutoff], truncation_psi)
        return ws

    @torch.no_grad()
    def _mean(self) -> Tensor:
        z = np.random.RandomState(0).standard_normal((_MEAN_SAMPLES, self.z_dim)).astype(np.float32)
        w: Tensor = self(torch.from_numpy(z))
        return w.mean(0)


def frozen(value: Tensor) -> nn.Parameter:
    """A float32 parameter of its own that asks for no gradient until told otherwise."""
    return nn.Parameter(value.detach().clone().float(), requires_grad=False)
