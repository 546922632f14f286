"""Which published format a checkpoint has, and what of it makes a generator. Nothing in the file is executed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.generators.restricted_pickle import PickledModule, named_tensors
from modules.generators.rosinality import from_rosinality
from modules.generators.torch_archive import damage_in_one_line, read_archive

_STYLEGAN2_FIRST = "synthesis.b4.const"
_STYLEGAN3_FIRST = "synthesis.input.freqs"
_ROSINALITY_FIRST = "input.input"


@dataclass(frozen=True)
class Checkpoint:
    """A generator as a file holds it."""

    format: str
    """In words, for a report."""
    architecture: str
    """``stylegan2`` or ``stylegan3``."""
    config: dict[str, Any]
    """Keywords that the architecture's ``from_state`` takes."""
    tensors: dict[str, Tensor]
    """By NVlabs' names; views of the mapped file."""
    source: dict[str, Tensor]
    """By the file's own names, the generator's part only."""
    prefix: str = ""
    """What the file puts before the generator's names."""
    checked: frozenset[str] = frozenset()
    """Names in ``source`` of constants that follow from the architecture; they were compared."""
    others: dict[str, Tensor] = field(default_factory=dict)
    """Tensors of the file that belong to something else (encoder, discriminator, codes), by dotted name."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read NVlabs' ``.pkl``, or rosinality's, e4e's, pSp's, ReStyle's, PTI's or STIT's ``.pt``.

    Raises ``BadInputError`` for files that are damaged, unsafe, or hold no generator of a known kind.
    """
    content = read_archive(path)
    with damage_in_one_line(path):
        return _checkpoint(content, path.name)


def _checkpoint(content: Any, file: str) -> Checkpoint:
    format_, part, latent_avg, prefix = _generator_in(content, file)
    every = named_tensors(content) if prefix else {}
    others = {name: tensor for name, tensor in every.items() if not name.startswith(prefix)}
    if isinstance(part, PickledModule):
        return _nvlabs(format_, part, prefix, others, file)
    config, tensors = from_rosinality(part, latent_avg)
    checked = frozenset(name for name in part if name.endswith(".kernel"))
    for name in checked:
        _expect_blur(part[name], f"{file}: {name}")
    return Checkpoint(format_, "stylegan2", config, tensors, dict(part), prefix, checked, others)


def _generator_in(content: Any, name: str) -> tuple[str, Any, Tensor | None, str]:
    """Format, generator (a pickled network, or rosinality's tensors), ``latent_avg``, and prefix of its names."""
    if isinstance(content, PickledModule):
        return "a network pickled whole (PTI)", content, None, ""
    if not isinstance(content, Mapping):
        raise BadInputError(f"{name} holds a {type(content).__name__}, not a checkpoint", 415)
    latent_avg = content.get("latent_avg")
    latent_avg = latent_avg.float() if isinstance(latent_avg, Tensor) else None
    if isinstance(content.get("G_ema"), PickledModule):
        return "NVlabs .pkl", content["G_ema"], None, "G_ema."
    if _is_state(content.get("g_ema"), _ROSINALITY_FIRST):
        return "rosinality .pt", _tensors(content["g_ema"]), latent_avg, "g_ema."
    state = content.get("state_dict")
    if isinstance(state, Mapping):
        decoder = {
            key.removeprefix("decoder."): value
            for key, value in _tensors(state).items()
            if key.startswith("decoder.")
        }
        if _ROSINALITY_FIRST in decoder:
            return "e4e, pSp or ReStyle .pt", decoder, latent_avg, "state_dict.decoder."
        raise BadInputError(f"{name} has a state_dict without a generator (decoder.*); give one that has both")
    inner = content.get("generator")
    if isinstance(inner, PickledModule):
        return "STIT .pt", inner, None, "generator."
    if _is_state(inner, _ROSINALITY_FIRST):
        return "STIT .pt", _tensors(inner), latent_avg, "generator."
    if _is_state(content, _ROSINALITY_FIRST):
        return "rosinality state dict", _tensors(content), None, ""
    keys = ", ".join(" ".join(key.split())[:40] for key in sorted(str(key) for key in content)[:6])
    raise BadInputError(f"{name} holds no generator of a known kind (it has: {keys})")


def _nvlabs(format_: str, module: PickledModule, prefix: str, others: dict[str, Tensor], name: str) -> Checkpoint:
    tensors = module.tensors()
    keywords = module.state.get("_init_kwargs")
    if not isinstance(keywords, Mapping) or module.state.get("_init_args"):
        raise BadInputError(f"{name} does not say how its generator was made; save it with NVlabs' own code")
    if _STYLEGAN3_FIRST in tensors:
        architecture = "stylegan3"
    elif _STYLEGAN2_FIRST in tensors:
        architecture = "stylegan2"
    else:
        raise BadInputError(f"{name} holds a {module.class_name}, which is neither StyleGAN2 nor StyleGAN3")
    checked = frozenset(name for name in tensors if name.endswith("_filter"))
    config = _config(module, keywords)
    return Checkpoint(format_, architecture, config, tensors, tensors, prefix, checked, others)


def _config(module: PickledModule, keywords: Mapping[Any, Any]) -> dict[str, Any]:
    """The keywords, and the clamp of the layers where the keywords leave it to a default.

    SynthesisBlock's default is None in NVlabs/stylegan2-ada-pytorch and 256 in NVlabs/stylegan3, whose
    ``--cfg=stylegan2`` never says it. Each layer was pickled with the one it had.
    """
    config = dict(keywords)
    nested = config.get("synthesis_kwargs") or {}
    if not isinstance(nested, Mapping):
        raise TypeError("the generator's synthesis_kwargs are no settings")
    every = {**config, **nested}
    for name, value in every.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError("a setting of the generator has no name")
        if name not in ("synthesis_kwargs", "mapping_kwargs") and not _is_plain(value):
            raise BadInputError(f"the generator was made with a {name} that is no plain setting")
    said = [layer.state["conv_clamp"] for layer in _modules(module, 3) if "conv_clamp" in layer.state]
    clamps = [every["conv_clamp"]] if "conv_clamp" in every else said
    if not all(clamp is None or (isinstance(clamp, int | float) and 0 < clamp < math.inf) for clamp in clamps):
        raise BadInputError("the generator is clamped at something that is no bound")
    if any(clamp != clamps[0] for clamp in clamps):
        raise BadInputError("the generator's layers are clamped at different values, which is not supported")
    return config if "conv_clamp" in every or not clamps else {**config, "conv_clamp": clamps[0]}


def _modules(module: PickledModule, depth: int) -> Iterator[PickledModule]:
    """The networks inside a network, to a depth."""
    for _, child in module.items("_modules"):
        if isinstance(child, PickledModule):
            yield child
            if depth > 1:
                yield from _modules(child, depth - 1)


def _is_plain(value: Any) -> bool:
    """Whether a setting is a scalar or a few of them, so that it can be compared and shown."""
    parts = value if isinstance(value, list | tuple) and len(value) <= 16 else [value]
    return all(
        part is None
        or (isinstance(part, str) and len(part) <= 100)
        or (isinstance(part, int | float) and abs(part) < 1e18)
        for part in parts
    )


def _expect_blur(kernel: Tensor, name: str) -> None:
    """rosinality's resampling kernel is (1, 3, 3, 1) with itself, to any scale."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    if kernel.shape != (4, 4) or not torch.allclose(
        kernel.float() / kernel.float().sum(), torch.outer(taps, taps)
    ):
        raise BadInputError(f"{name} is not the filter of 1, 3, 3, 1 that is supported")


def _is_state(value: Any, first: str) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping) and isinstance(value.get(first), Tensor)


def _tensors(value: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
