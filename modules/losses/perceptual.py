"""LPIPS (Zhang et al. 2018, version 0.1) with its real backbones, for losses and for measuring."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lpips
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.assets import asset_path

Features = tuple[Tensor, ...]
"""Unit-length features of N images, one ``(N, C, h, w)`` per layer."""

_FILES = {"vgg": "vgg16.ckpt", "alex": "alexnet.ckpt"}
_SMALLEST = {"vgg": 16, "alex": 35}
"""Pixels: below this side a layer has nothing left."""


class PerceptualLoss(nn.Module):
    """LPIPS: frozen, differentiable with respect to the images.

    ``forward(images, target, mask=None)`` takes ``(N, 3, H, W)`` RGB in [-1, 1] twice, or for ``target`` what
    ``features`` gave for it, so that a target that stays is gone through once. Returns ``(N,)``, 0 for equal
    images. ``mask`` ``(N, 1, H, W)`` in [0, 1] weighs the places; an image whose mask is empty gets 0.
    """

    def __init__(self, net: lpips.LPIPS, smallest: int) -> None:
        super().__init__()
        self.net = net
        self.smallest = smallest
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stays in evaluation, since the heads would drop channels in training."""
        return super().train(False)

    def features(self, images: Tensor) -> Features:
        """Features of ``(N, 3, H, W)`` images in [-1, 1], of unit length along the channels."""
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < self.smallest:
            raise ValueError(f"LPIPS takes (N, 3, H, W) of at least {self.smallest} px, got {tuple(images.shape)}")
        layers = self.net.net(self.net.scaling_layer(images))
        # lpips.normalize_tensor has no gradient where all channels are zero; the tiny number gives it one.
        return tuple(layer * (layer.square().sum(1, keepdim=True) + 1e-20).rsqrt() for layer in layers)

    def forward(self, images: Tensor, target: Tensor | Features, mask: Tensor | None = None) -> Tensor:
        """Distances, ``(N,)``; see the class."""
        ours = self.features(images)
        theirs = self.features(target) if isinstance(target, Tensor) else target
        total = images.new_zeros(len(images))
        for a, b, head in zip(ours, theirs, self.net.lins, strict=True):
            if a.shape != b.shape:
                raise ValueError(
                    f"images and target differ in size: features {tuple(a.shape)} and {tuple(b.shape)}"
                )
            distance = head((a - b) ** 2)
            total = total + _mean(distance, mask)
        return total


def load_lpips(net: Literal["vgg", "alex"], device: str | torch.device = "cpu") -> PerceptualLoss:
    """LPIPS with the backbone of the asset ``lpips-backbones`` and the heads of the package ``lpips``."""
    if net not in _FILES:
        raise BadInputError(f"no LPIPS net {net!r}; there are {', '.join(_FILES)}")
    with warnings.catch_warnings():
        # lpips calls torchvision by an old name of an argument.
        warnings.filterwarnings("ignore", module="torchvision")
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    arrays = read_flax_pickle(asset_path("lpips-backbones", _FILES[net]))
    _fill_backbone(model.net, arrays)
    return PerceptualLoss(model, _SMALLEST[net]).to(device)


def read_flax_pickle(path: Path) -> dict[str, NDArray[np.float32]]:
    """Arrays of a flax checkpoint that was pickled with NumPy, by their slash-joined names.

    Nothing but NumPy's own array reconstruction is called; raises ``BadInputError`` for a file that asks for more.
    """
    with path.open("rb") as stream:
        tree = _ArrayUnpickler(stream).load()
    flat: dict[str, NDArray[np.float32]] = {}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{name}/{key}" if name else str(key))
        elif isinstance(node, np.ndarray) and node.dtype == np.float32:
            flat[name] = node
        else:
            raise BadInputError(f"{path} holds a {type(node).__name__} at {name!r}; expected float32 arrays only")

    walk(tree, "")
    return flat


class _ArrayUnpickler(pickle.Unpickler):
    """Knows three names, all of them NumPy's."""

    def find_class(self, module: str, name: str) -> Any:
        """The global of that name where it is one of NumPy's array parts; refuses all others by name."""
        allowed: dict[tuple[str, str], Callable[..., Any] | type] = {
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise BadInputError(f"the checkpoint asks for {module}.{name}; only NumPy arrays are read")
        return allowed[module, name]


def _reconstruct(kind: type, shape: tuple[int, ...], typecode: Any) -> NDArray[Any]:
    """NumPy's way to begin an array that the pickle's state then fills."""
    if kind is not np.ndarray:
        raise BadInputError(f"the checkpoint asks for a {kind!r}; only plain NumPy arrays are read")
    return np.ndarray(shape, np.dtype(typecode))


def _fill_backbone(backbone: nn.Module, arrays: dict[str, NDArray[np.float32]]) -> None:
    """Flax numbers its convolutions in order and keeps kernels as (h, w, in, out)."""
    numbered: dict[int, dict[str, NDArray[np.float32]]] = {}
    for name, value in arrays.items():
        parent, layer, kind = name.split("/")[-3:]
        # The heads hold convolutions too, under NetLinLayer_0 to 4; the package lpips brings its own.
        if not parent.startswith("NetLinLayer_"):
            numbered.setdefault(int(layer.removeprefix("Conv_")), {})[kind] = value
    convolutions: Sequence[nn.Conv2d] = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    if len(convolutions) != len(numbered):
        raise BadInputError(f"the checkpoint has {len(numbered)} convolutions, the net {len(convolutions)}")
    for k, convolution in enumerate(convolutions):
        kernel = torch.from_numpy(numbered[k]["kernel"].transpose(3, 2, 0, 1).copy())
        convolution.load_state_dict({"weight": kernel, "bias": torch.from_numpy(numbered[k]["bias"].copy())})


def _mean(distance: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over places of ``(N, 1, h, w)``, weighed by the mask where there is one: ``(N,)``."""
    if mask is None:
        return distance.mean((1, 2, 3))
    weight = F.interpolate(mask, distance.shape[2:], mode="area")
    return (distance * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1e-6)
