"""Which channels of S space act where (StyleSpace, Wu et al. 2021), estimated for all channels at once.

``J`` is the Jacobian of a picture with respect to the styles. The energy that channel ``c`` puts into a region
``M`` is ``||M J e_c||²``. For a random picture ``v`` of independent unit normals, ``(J' M v)_c`` has just that
variance, so one backward pass per region and sample estimates it for every channel (Hutchinson's estimator),
where a forward derivative would take one pass per channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.generators.protocol import Generator, StyleLayer

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelIndex:
    """All channels of a generator in one row, layer after layer."""

    layers: tuple[StyleLayer, ...]

    @property
    def count(self) -> int:
        """Number of channels in all."""
        return sum(layer.channels for layer in self.layers)

    def place(self, position: int) -> tuple[str, int]:
        """Layer and number within the layer of the channel at a position of the row."""
        for layer in self.layers:
            if position < layer.channels:
                return layer.name, position
            position -= layer.channels
        raise IndexError("there are not so many channels")

    def joined(self, styles: Mapping[str, Tensor]) -> Tensor:
        """``(N, count)`` of styles ``(N, channels)`` by layer."""
        return torch.cat([styles[layer.name] for layer in self.layers], dim=1)

    def parted(self, row: Tensor) -> dict[str, Tensor]:
        """``(N, count)`` back to ``(N, channels)`` by layer."""
        parts = torch.split(row, [layer.channels for layer in self.layers], dim=1)
        return {layer.name: part for layer, part in zip(self.layers, parts, strict=True)}


def style_spread(generator: Generator, ws: Tensor) -> tuple[Array, Array]:
    """Mean and standard deviation ``(count,)`` of each channel over codes ``(N, num_ws, w_dim)``."""
    index = ChannelIndex(generator.layers)
    with torch.no_grad():
        rows = torch.cat([index.joined(generator.styles(part)) for part in torch.split(ws, 256)]).double()
    return rows.mean(0).cpu().numpy(), rows.std(0).cpu().numpy()


def region_energy(
    picture: Tensor, styles: Tensor, masks: Sequence[Tensor], random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``(len(masks), count)`` each: estimated energy of every channel inside and outside each region.

    ``picture`` ``(1, 3, H, W)`` must depend on ``styles`` ``(1, count)``; its graph is kept. ``masks`` are
    ``(1, 1, H, W)`` of zeros and ones. One random picture serves all regions, so that inside and outside are of
    the same draw: with ``M`` of zeros and ones, what is outside is the whole less what is inside. The relative
    spread of an estimate is ``sqrt(2)``; over samples it averages out.
    """
    if picture.shape[0] != 1 or styles.shape[0] != 1:
        raise ValueError(f"energies are of one sample, got {tuple(picture.shape)} and {tuple(styles.shape)}")
    noise = torch.randn(picture.shape, generator=random).to(picture)
    (whole,) = torch.autograd.grad(picture, styles, noise, retain_graph=True)
    inside, outside = [], []
    for mask in masks:
        if mask.shape[2:] != picture.shape[2:] or not ((mask == 0) | (mask == 1)).all():
            raise ValueError("masks must be (1, 1, H, W) of zeros and ones")
        (part,) = torch.autograd.grad(picture, styles, noise * mask, retain_graph=True)
        inside.append(part[0].square())
        outside.append((whole - part)[0].square())
    return torch.stack(inside), torch.stack(outside)


def certainty(slopes: Array) -> Array:
    """``(C,)``: mean of slopes ``(N, C)`` over samples, over its own standard error; 0 where all are 0."""
    error = slopes.std(0, ddof=1) / len(slopes) ** 0.5
    ratio: Array = np.abs(slopes.mean(0)) / np.maximum(error, 1e-12)
    return ratio


def sparse_combination(gradients: Array, cost: Array, allowed: NDArray[np.bool_], count: int) -> Array:
    """The cheapest change ``(C,)`` of at most ``count`` channels that raises the first measure by 1.

    ``gradients`` ``(K, C)`` are the slopes of K measures, the first the one to raise, the others to keep where
    they are; ``cost`` ``(C,)`` is what each channel costs per square of its change. Minimises ``sum(cost d²)``
    subject to ``gradients d = (1, 0, ...)`` over the ``allowed`` channels, ``d = G'/cost (G G'/cost)⁻¹ e``,
    keeps the channels that give most of the first measure, and solves again for these. Raises ``ValueError``
    where fewer channels are allowed than there are measures, and where they move a kept measure with the first.
    """
    if gradients.ndim != 2 or cost.shape != gradients.shape[1:] or allowed.shape != cost.shape:
        raise ValueError(f"got slopes {gradients.shape}, costs {cost.shape} and {allowed.shape} allowed")
    chosen = np.flatnonzero(allowed & (cost > 0) & (gradients[0] != 0))
    change = np.zeros(gradients.shape[1])
    # Measures have units of their own; only their ratios within a row matter to what is kept at 0.
    sizes = np.abs(gradients).max(1, initial=0.0)
    rows = gradients / np.where(sizes > 0, sizes, 1.0)[:, None]
    while True:
        if len(chosen) < len(gradients) or not len(chosen):
            raise ValueError(f"{len(chosen)} channels cannot move one measure and keep {len(gradients) - 1}")
        weighted = rows[:, chosen] / cost[chosen]
        wanted = np.zeros(len(gradients))
        wanted[0] = 1.0 / sizes[0]
        solved = weighted.T @ np.linalg.lstsq(weighted @ rows[:, chosen].T, wanted, rcond=1e-9)[0]
        if len(chosen) <= count:
            if not np.allclose(rows[:, chosen] @ solved, wanted, atol=1e-6 * wanted[0]):
                raise ValueError(f"these {len(chosen)} channels cannot move one measure and keep the others")
            change[chosen] = solved
            return change
        best = np.argsort(-np.abs(solved * gradients[0, chosen]), kind="stable")
        # By halves: what the whole row shares out evenly is not what the few best would do.
        chosen = np.sort(chosen[best[: max(count, len(chosen) // 2)]])
