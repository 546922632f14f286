"""rosinality's StyleGAN2 checkpoints (the generator inside e4e, pSp and RIGID) under NVlabs' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from datamodules.types import BadInputError


def from_rosinality(
    state: Mapping[str, Tensor], latent_avg: Tensor | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Convert ``g_ema`` (a ``decoder``, without its prefix) to config and tensors for ``StyleGAN2.from_state``.

    ``latent_avg`` is ``(w_dim,)`` or rows of it; without one the mean of W is measured. Raises
    ``BadInputError`` where the names or shapes are not rosinality's.
    """
    found = [re.fullmatch(r"convs\.(\d+)\.conv\.weight", key) for key in state]
    blocks = sum(match is not None for match in found) // 2
    tensors: dict[str, Tensor] = {}
    if latent_avg is not None:
        tensors["mapping.w_avg"] = latent_avg.reshape(-1, latent_avg.shape[-1])[0]
    try:
        # The first layer of ``style`` is the normalisation of z, which has no weights.
        depth = sum(re.fullmatch(r"style\.\d+\.weight", key) is not None for key in state)
        for i in range(depth):
            for part in ("weight", "bias"):
                tensors[f"mapping.fc{i}.{part}"] = state[f"style.{i + 1}.{part}"]
        tensors["synthesis.b4.const"] = state["input.input"][0]
        tensors |= _convolution(state, "conv1", "b4.conv1", 0) | _to_rgb(state, "to_rgb1", "b4.torgb")
        for i in range(blocks):
            block = f"b{8 << i}"
            tensors |= _convolution(state, f"convs.{2 * i}", f"{block}.conv0", 2 * i + 1)
            tensors |= _convolution(state, f"convs.{2 * i + 1}", f"{block}.conv1", 2 * i + 2)
            tensors |= _to_rgb(state, f"to_rgbs.{i}", f"{block}.torgb")
    except (KeyError, IndexError) as error:
        raise BadInputError(f"these are not the weights of rosinality's StyleGAN2: {error} is missing") from error
    return {"img_resolution": 4 << blocks}, tensors


def _convolution(state: Mapping[str, Tensor], theirs: str, ours: str, index: int) -> dict[str, Tensor]:
    return _modulated(state, theirs, ours) | {
        f"synthesis.{ours}.bias": state[f"{theirs}.activate.bias"],
        f"synthesis.{ours}.noise_strength": state[f"{theirs}.noise.weight"][0],
        f"synthesis.{ours}.noise_const": state[f"noises.noise_{index}"][0, 0],
    }


def _to_rgb(state: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    return _modulated(state, theirs, ours) | {f"synthesis.{ours}.bias": state[f"{theirs}.bias"].flatten()}


def _modulated(state: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    return {
        f"synthesis.{ours}.weight": state[f"{theirs}.conv.weight"][0],
        f"synthesis.{ours}.affine.weight": state[f"{theirs}.conv.modulation.weight"],
        f"synthesis.{ours}.affine.bias": state[f"{theirs}.conv.modulation.bias"],
    }
