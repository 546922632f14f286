"""StyleCLIP's two published edits: the latent mapper, and global directions in S space (Patashnik et al. 2021)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.types import BadInputError
from modules.generators.protocol import StyleLayer
from modules.perception.state import read_state

_GROUPS = {"course": slice(0, 4), "medium": slice(4, 8), "fine": slice(8, None)}
_NAME = re.compile(r"(?:mapper\.)?(course|medium|fine)_mapping\.mapping\.(\d+)\.(weight|bias)")
# Of the published network: the learning-rate multiplier its layers apply, and the scale of the edit.
_LAYER_SCALE = 0.01
_EDIT_SCALE = 0.1


class LatentMapper(nn.Module):
    """w + 0.1 · M(w), with one small network each for rows 0–3, 4–7 and the rest (section 5, eq. 4)."""

    def __init__(self, groups: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
        """``groups``: ``course``, ``medium`` and ``fine``, as far as present, to (weight, bias) of the layers."""
        super().__init__()
        self._depth = {name: len(layers) for name, layers in groups.items()}
        for name, layers in groups.items():
            for index, (weight, bias) in enumerate(layers):
                self.register_buffer(f"{name}_{index}_weight", weight)
                self.register_buffer(f"{name}_{index}_bias", bias)

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> LatentMapper:
        """Build from a published checkpoint's ``state_dict``; its ``decoder.*`` and other parts are left alone.

        Raises ``BadInputError`` where the mapper's names are missing or incomplete.
        """
        layers: dict[str, dict[int, dict[str, Tensor]]] = {}
        for name, value in state.items():
            match = _NAME.fullmatch(name)
            if match:
                group, index, part = match.groups()
                layers.setdefault(group, {}).setdefault(int(index), {})[part] = value.float()
        if not layers or any(len(pair) != 2 for group in layers.values() for pair in group.values()):
            raise BadInputError(
                "no StyleCLIP mapper: expected mapper.{course,medium,fine}_mapping.mapping.* tensors"
            )
        return cls(
            {
                name: [
                    (
                        group[index]["weight"] * (_LAYER_SCALE / math.sqrt(group[index]["weight"].shape[1])),
                        group[index]["bias"] * _LAYER_SCALE,
                    )
                    for index in sorted(group)
                ]
                for name, group in layers.items()
            }
        )

    def forward(self, ws: Tensor, strength: float = 1.0) -> Tensor:
        """Edit ``ws`` ``(N, num_ws, w_dim)``; ``strength`` 1 is the published edit.

        The first layer normalises over the rows of a group, as the published code does; for codes with rows
        of their own the result therefore depends a little on how many rows the generator has.
        """
        change = torch.zeros_like(ws)
        for name, depth in self._depth.items():
            rows = _GROUPS[name]
            x = ws[:, rows]
            x = x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
            for index in range(depth):
                weight, bias = self.get_buffer(f"{name}_{index}_weight"), self.get_buffer(f"{name}_{index}_bias")
                x = functional.leaky_relu(functional.linear(x, weight, bias), 0.2) * math.sqrt(2.0)
            change[:, rows] = x
        return ws + strength * _EDIT_SCALE * change


class _Styled(Protocol):
    layers: tuple[StyleLayer, ...]


@dataclass(frozen=True)
class GlobalDirections:
    """What each channel of S space does to CLIP's image code: the ``fs3.npy`` of the global method."""

    effects: Tensor
    """``(channels, clip_dim)``: convolution channels only, in the order of the layers."""

    @classmethod
    def read(cls, path: Path) -> GlobalDirections:
        """Read ``fs3.npy``, (6048, 512) for StyleGAN2-1024; raises ``BadInputError``."""
        try:
            with path.open("rb") as stream:
                values = np.lib.format.read_array(stream, allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise BadInputError(f"{path} is no plain .npy array ({error}); check the file") from error
        if values.ndim != 2 or not np.isfinite(values).all():
            raise BadInputError(f"{path} must be a finite (channels, CLIP length) array, it is {values.shape}")
        return cls(torch.from_numpy(values))

    def direction(self, text_change: Tensor, threshold: float, generator: _Styled) -> dict[str, Tensor]:
        """Direction in S for a change of CLIP's text code (section 6, eq. 7), by layer name, ``(channels,)``.

        ``text_change`` ``(clip_dim,)`` is the difference of two text codes and is normalised here. Channels
        whose effect is below ``threshold`` in size stay still; the largest one is 1. Values are in standard
        deviations of each channel: multiply by those before adding to ``generator.styles``. Raises
        ``BadInputError`` where the generator's channels do not match or nothing passes the threshold.
        """
        layers = [layer for layer in generator.layers if not layer.to_rgb]
        total = sum(layer.channels for layer in layers)
        if total != len(self.effects):
            raise BadInputError(
                f"these global directions have {len(self.effects)} channels, the generator has {total}; "
                "use those made for this generator"
            )
        if text_change.shape != self.effects.shape[1:]:
            raise BadInputError(
                f"the text code must be ({self.effects.shape[1]},), got {tuple(text_change.shape)}"
            )
        effect = self.effects @ functional.normalize(text_change.to(self.effects), dim=0)
        effect = torch.where(effect.abs() < threshold, torch.zeros_like(effect), effect)
        if not effect.any():
            raise BadInputError(f"no channel reaches the threshold {threshold:g}; choose a smaller one")
        parts = torch.tensor_split(
            effect / effect.abs().max(), list(accumulate(layer.channels for layer in layers))[:-1]
        )
        return {layer.name: part for layer, part in zip(layers, parts, strict=True)}


def load_latent_mapper(checkpoint: Path) -> LatentMapper:
    """Read a published mapper's ``.pt``; raises ``BadInputError`` for another file."""
    return LatentMapper.from_state(read_state(checkpoint, "state_dict"))
