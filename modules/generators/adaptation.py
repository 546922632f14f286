"""A generator adapted to one person, kept as its difference to the base (StylePortraitVideo, section 3.2).

W keeps its meaning, as the mapping is never adapted: codes, edits and encoders of the base fit, and compatibility
is judged on the base's hash.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.generators.protocol import Generator
from modules.model_folder import load_model, require_generator, save_model, weights_sha256

KIND = "adaptation"
_SCALE = ".scale"
"""Joins a parameter's name in the folder's tensors."""


@dataclass(frozen=True)
class Adaptation:
    """What was learned of one person."""

    difference: dict[str, Tensor]
    """Parameter of the generator to how far it moved, float32 on the CPU."""
    config: dict[str, Any]
    """What the folder says beside: the base's hash, how it was learned, whose it is."""
    sha256: str
    """Hex digest of the difference as it is stored."""


def adaptable(generator: Generator) -> dict[str, nn.Parameter]:
    """The parameters that may be adapted, by name: all that draw the picture, none that make codes of z."""
    named = cast(nn.Module, generator).named_parameters()
    return {name: parameter for name, parameter in named if not name.startswith("mapping.")}


def adapted(generator: Generator, difference: Mapping[str, Tensor]) -> Generator:
    """A copy of the generator, frozen, with each parameter moved by its difference; codes of the base are its own.

    Raises ``BadInputError`` for a parameter that the generator does not have, or has in another shape.
    """
    moved = copy_of(generator)
    parameters = adaptable(moved)
    for name, value in difference.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise BadInputError(f"the adaptation moves {name} {tuple(value.shape)}, which this generator lacks")
        if not torch.isfinite(value).all():
            raise BadInputError(f"the adaptation of {name} is not finite; adapt again")
        with torch.no_grad():
            parameters[name].add_(value.to(parameters[name]))
    return moved


def copy_of(generator: Generator, device: str | torch.device | None = None) -> Generator:
    """The same generator with parameters of its own, frozen, in the same precision; on ``device`` where given."""
    copied = copy.deepcopy(cast(nn.Module, generator)).to(device)
    return cast(Generator, copied.eval().requires_grad_(False))


def difference_of(moved: Generator, base: Generator) -> dict[str, Tensor]:
    """How far each parameter of ``moved`` lies from the base's, float32 on the CPU; without what did not."""
    own = adaptable(base)
    found = {}
    for name, parameter in adaptable(moved).items():
        change = parameter.detach().to("cpu", torch.float32) - own[name].detach().to("cpu", torch.float32)
        if change.any():
            found[name] = change
    return found


def save_adaptation(
    folder: Path, difference: Mapping[str, Tensor], generator_sha256: str, card: str, extra: Mapping[str, Any]
) -> Path:
    """Write the difference as a model folder: a byte per value and a scale per row, a fifth of the base's size."""
    tensors: dict[str, Tensor] = {}
    for name, value in difference.items():
        tensors[name], tensors[name + _SCALE] = quantised(value)
    config = {"kind": KIND, "generator_sha256": generator_sha256, **extra}
    return save_model(folder, config, tensors, card)


def load_adaptation(folder: Path, generator_sha256: str) -> Adaptation:
    """Read an adaptation; raises ``BadInputError`` for one of another base, and for a damaged folder."""
    model = load_model(folder, KIND)
    require_generator(model.config, generator_sha256, f"the adaptation {folder.name}")
    difference = {}
    for name, value in model.tensors.items():
        if not name.endswith(_SCALE):
            scale = model.tensors.get(name + _SCALE)
            if scale is None or scale.shape != _rows(value).shape[:1] or value.dtype != torch.int8:
                raise BadInputError(f"{folder} is damaged: {name} is not as it was written; adapt again")
            difference[name] = restored(value, scale)
    return Adaptation(difference, model.config, weights_sha256(model.tensors))


def quantised(value: Tensor) -> tuple[Tensor, Tensor]:
    """``(R, ...)`` as int8 of the same shape and the R scales, float32; one number is a row of its own.

    Each value is kept to 1/254 of the largest in its row.
    """
    rows = _rows(value.detach().to("cpu", torch.float32))
    scale = rows.abs().amax(1) / 127
    whole = torch.round(rows / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None])
    return whole.to(torch.int8).reshape(value.shape), scale


def restored(whole: Tensor, scale: Tensor) -> Tensor:
    """What ``quantised`` made two of."""
    return (_rows(whole).float() * scale.float()[:, None]).reshape(whole.shape)


def _rows(value: Tensor) -> Tensor:
    return value.reshape(value.shape[0] if value.ndim else 1, -1)
