"""Checkpoints in the published formats, made from the conformance cases' small networks."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conformance_cases import FOLDER
from torch import Tensor

from modules.generators.restricted_pickle import PickledModule
from modules.generators.torch_archive import read_archive

STYLEGAN2 = "stylegan2-64-small"


def small_network(name: str = STYLEGAN2) -> PickledModule:
    """The network inside a case's ``.pkl``."""
    found: PickledModule = read_archive(FOLDER / f"{name}.pkl")["G_ema"]
    return found


def rosinality_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """NVlabs' names and shapes to rosinality's, written from the published description of both formats."""
    state: dict[str, Tensor] = {}
    for i in range(8):
        for part in ("weight", "bias"):
            state[f"style.{i + 1}.{part}"] = tensors[f"mapping.fc{i}.{part}"]
    state["input.input"] = tensors["synthesis.b4.const"][None]
    kernel = tensors["synthesis.b4.resample_filter"] * 4
    noise = 0
    for i, side in enumerate((4, 8, 16, 32, 64)):
        names = {"conv1": "conv1", "torgb": "to_rgb1"}
        if i:
            names = {"conv0": f"convs.{2 * i - 2}", "conv1": f"convs.{2 * i - 1}", "torgb": f"to_rgbs.{i - 1}"}
        for ours, theirs in names.items():
            own = f"synthesis.b{side}.{ours}."
            state[f"{theirs}.conv.weight"] = tensors[own + "weight"][None]
            state[f"{theirs}.conv.modulation.weight"] = tensors[own + "affine.weight"]
            state[f"{theirs}.conv.modulation.bias"] = tensors[own + "affine.bias"]
            if ours == "torgb":
                state[f"{theirs}.bias"] = tensors[own + "bias"].reshape(1, 3, 1, 1)
                if i:
                    state[f"{theirs}.upsample.kernel"] = kernel
                continue
            if ours == "conv0":
                state[f"{theirs}.conv.blur.kernel"] = kernel
            state[f"{theirs}.activate.bias"] = tensors[own + "bias"]
            state[f"{theirs}.noise.weight"] = tensors[own + "noise_strength"].reshape(1)
            state[f"noises.noise_{noise}"] = tensors[own + "noise_const"][None, None]
            noise += 1
    return {key: value.clone() for key, value in state.items()}


class WholeModule:
    """Pickles as NVlabs' decorated classes do: a call of ``_reconstruct_persistent_obj`` on a dict."""

    def __init__(self, module: PickledModule, rebuild: Callable[..., Any]) -> None:
        self.module, self.rebuild = module, rebuild

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[dict[str, Any]]]:
        state = dict(self.module.state)
        state["_modules"] = {
            name: WholeModule(child, self.rebuild) for name, child in dict(state.get("_modules") or {}).items()
        }
        meta = {"type": "class", "version": 6, "module_src": "", "class_name": self.module.class_name}
        return self.rebuild, ({**meta, "state": state},)


def save_whole(module: PickledModule, path: Path, wrap: Callable[[Any], Any], zipped: bool) -> Path:
    """``torch.save`` of a whole NVlabs network, as PTI does."""

    def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
        raise AssertionError("the pickled call was made")

    persistence = types.ModuleType("torch_utils.persistence")
    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = _reconstruct_persistent_obj.__name__
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    package = types.ModuleType("torch_utils")
    package.persistence = persistence  # type: ignore[attr-defined]
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": persistence}
    try:
        content = wrap(WholeModule(module, _reconstruct_persistent_obj))
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]
    return path


def encoder_checkpoint(state: dict[str, Tensor], latent_avg: Tensor) -> dict[str, Any]:
    """What e4e and pSp save: encoder and decoder in one state dict, options with a path in them."""
    both = {f"decoder.{name}": value for name, value in state.items()}
    both["encoder.input_layer.0.weight"] = torch.zeros(64, 3, 3, 3)
    options = argparse.Namespace(stylegan_size=64, exp_dir=Path("out") / "e4e")
    return {"state_dict": both, "latent_avg": latent_avg, "opts": vars(options), "options": options}
