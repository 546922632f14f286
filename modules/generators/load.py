"""One door to every generator: a name, a model folder, or somebody's checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.assets import fetch
from modules.generators.checkpoints import read_checkpoint
from modules.generators.mobile import MobileStyleGAN
from modules.generators.protocol import Generator
from modules.generators.stylegan2 import StyleGAN2
from modules.generators.stylegan3 import StyleGAN3
from modules.model_folder import load_model, save_model

DEFAULT_GENERATOR = "mobilestylegan-ffhq-1024"
DEFAULT_SHA256 = "297346c91aa67b71841ee503b5cbe050b71df74ffe858bcdb44e1f552d6fed40"
"""Its ``sha256``: which generator a folder belongs to is told without loading it."""
_ASSET = "random-face"
KIND = "generator"


def _mobile(tensors: Mapping[str, Tensor], _config: Mapping[str, Any]) -> MobileStyleGAN:
    return MobileStyleGAN(tensors)


_ARCHITECTURES: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], nn.Module]] = {
    "stylegan2": StyleGAN2.from_state,
    "stylegan3": StyleGAN3.from_state,
    "mobilestylegan": _mobile,
}
_CLASSES = {StyleGAN2: "stylegan2", StyleGAN3: "stylegan3", MobileStyleGAN: "mobilestylegan"}


def load_generator(source: str | Path = DEFAULT_GENERATOR, device: str | torch.device = "cpu") -> Generator:
    """Load a generator for inference, frozen, in float32.

    ``source`` is ``mobilestylegan-ffhq-1024`` (fetched on first use), a model folder of kind ``generator``, an
    NVlabs ``.pkl``, or a rosinality, e4e, pSp, ReStyle, PTI or STIT ``.pt``. Its ``sha256`` is the same in each
    of its forms. Raises ``BadInputError``.
    """
    if str(source) == DEFAULT_GENERATOR:
        built: nn.Module = MobileStyleGAN.from_openvino(fetch(_ASSET))
    elif Path(source).is_dir():
        built = _from_folder(Path(source))
    elif Path(source).is_file():
        found = read_checkpoint(Path(source))
        built = build(found.architecture, found.tensors, found.config)
    else:
        raise BadInputError(
            f"no generator {source}: give {DEFAULT_GENERATOR}, a .pkl or .pt file, or a model folder", 400
        )
    return cast(Generator, built.eval().requires_grad_(False).to(device))


def build(architecture: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """Build ``stylegan2``, ``stylegan3`` or ``mobilestylegan`` from its tensors and config."""
    if architecture not in _ARCHITECTURES:
        raise BadInputError(f"no architecture {architecture!r}; there are {', '.join(sorted(_ARCHITECTURES))}")
    return _ARCHITECTURES[architecture](tensors, config)


def save_generator(generator: Generator, folder: Path, card: str) -> Path:
    """Write a generator as a model folder, from which ``load_generator`` makes one with the same ``sha256``."""
    if type(generator) not in _CLASSES:
        raise TypeError(f"{type(generator).__name__} is not a generator that can be saved")
    module = cast(nn.Module, generator)
    config = {
        "kind": KIND,
        "architecture": _CLASSES[type(generator)],
        "settings": getattr(generator, "config", {}),
        "sha256": generator.sha256,
        "num_ws": generator.num_ws,
        "resolution": generator.resolution,
    }
    return save_model(folder, config, dict(module.state_dict()), card)


def _from_folder(folder: Path) -> nn.Module:
    model = load_model(folder, KIND)
    settings = model.config.get("settings")
    built = build(
        str(model.config.get("architecture")), model.tensors, settings if isinstance(settings, dict) else {}
    )
    said = model.config.get("sha256")
    if said != built.sha256:
        raise BadInputError(
            f"{folder} says its weights are {said}, they are {built.sha256}; import or fetch it again"
        )
    return built
