"""3DDFA_V2 (Guo et al. 2020): pose, shape and expression of the Basel Face Model from one 120 px face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.generators.restricted_pickle import PickledArray
from modules.generators.torch_archive import read_archive
from modules.perception.state import build_with_state, read_state

INPUT_SIZE = 120
_POSE, _SHAPE, _EXPRESSION = 12, 40, 10
_PARAMETERS = _POSE + _SHAPE + _EXPRESSION
# Name, output channels and stride of the separable units, at half width.
_UNITS = (
    ("dw2_1", 32, 1), ("dw2_2", 64, 2), ("dw3_1", 64, 1), ("dw3_2", 128, 2), ("dw4_1", 128, 1), ("dw4_2", 256, 2),
    ("dw5_1", 256, 1), ("dw5_2", 256, 1), ("dw5_3", 256, 1), ("dw5_4", 256, 1), ("dw5_5", 256, 1),
    ("dw5_6", 512, 2), ("dw6", 512, 1),
)  # fmt: skip


class _Separable(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.bn_dw = nn.BatchNorm2d(channels)
        self.conv_sep = nn.Conv2d(channels, out, 1, bias=False)
        self.bn_sep = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn_dw(self.conv_dw(x)))
        return functional.relu(self.bn_sep(self.conv_sep(x)))


class MobileNetV1(nn.Module):
    """MobileNetV1 of width 0.5 with 62 outputs: 12 pose, 40 shape, 10 expression, each standardised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for name, out, stride in _UNITS:
            self.add_module(name, _Separable(channels, out, stride))
            channels = out
        self.fc_param = nn.Linear(channels, _PARAMETERS)
        # Used while it was trained only; the published file holds it.
        self.fc_lm = nn.Linear(channels, 136)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> MobileNetV1:
        """Build from ``mb05_120x120.pth``'s ``state_dict``; raises ``BadInputError`` for another file's."""
        bare = {name.removeprefix("module."): value for name, value in state.items()}
        return build_with_state(cls, bare, "3DDFA_V2 (MobileNetV1 0.5)")

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 3, 120, 120)`` BGR, (0..255 − 127.5) / 128, to ``(N, 62)`` standardised parameters."""
        if images.ndim != 4 or images.shape[1:] != (3, INPUT_SIZE, INPUT_SIZE):
            raise ValueError(f"3DDFA_V2 takes (N, 3, {INPUT_SIZE}, {INPUT_SIZE}), got {tuple(images.shape)}")
        x = functional.relu(self.bn1(self.conv1(images)))
        for name, _, _ in _UNITS:
            x = self.get_submodule(name)(x)
        parameters: Tensor = self.fc_param(x.mean(dim=(2, 3)))
        return parameters


@dataclass(frozen=True)
class FaceModel:
    """The Basel Face Model's mean and bases, as 3DDFA_V2 trims them to 53,215 vertices."""

    mean: Tensor
    """``(3 V,)`` micrometres, x, y, z of each vertex in turn, y up."""
    shape: Tensor
    """``(3 V, 40)``."""
    expression: Tensor
    """``(3 V, 10)``."""


@dataclass(frozen=True)
class FaceParameters:
    """What the network says of one batch of faces, in its own units."""

    rotation: Tensor
    """``(N, 3, 3)``: scaled rotation R, model micrometres to pixels of the 120 px crop, y up."""
    translation: Tensor
    """``(N, 3)``: T, in the same pixels, counted from 1."""
    shape: Tensor
    """``(N, 40)``: α."""
    expression: Tensor
    """``(N, 10)``: β."""


def load_face_model() -> FaceModel:
    """The basis from the asset ``bfm``; raises ``AssetUnavailableError`` where it cannot be fetched."""

    def read(file: str) -> Tensor:
        return torch.from_numpy(np.load(asset_path("bfm", file), allow_pickle=False))

    mean = (read("u_shp.npy") + read("u_exp.npy")).flatten().float()
    shape, expression = read("w_shp_sim.npy").float(), read("w_exp_sim.npy").float()
    return FaceModel(mean, shape, expression)


class DenseFace(nn.Module):
    """The network with its standardisation and a face model: images to vertices, differentiable."""

    mean: Tensor
    std: Tensor
    base: Tensor
    shape: Tensor
    expression: Tensor

    def __init__(self, net: MobileNetV1, mean: Tensor, std: Tensor, model: FaceModel) -> None:
        """``mean`` and ``std`` ``(62,)`` undo the standardisation of the network's outputs."""
        super().__init__()
        if mean.shape != (_PARAMETERS,) or std.shape != (_PARAMETERS,):
            raise ValueError(f"mean and std must be ({_PARAMETERS},), got {tuple(mean.shape)}, {tuple(std.shape)}")
        self.net = net
        buffers = {
            "mean": mean,
            "std": std,
            "base": model.mean,
            "shape": model.shape,
            "expression": model.expression,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def parameters_of(self, faces: Tensor) -> FaceParameters:
        """Square face crops ``(N, 3, H, H)`` RGB in [-1, 1] to pose, shape and expression."""
        if faces.ndim != 4 or faces.shape[1] != 3 or faces.shape[2] != faces.shape[3]:
            raise ValueError(f"faces must be square (N, 3, H, H), got {tuple(faces.shape)}")
        small = functional.interpolate(faces, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
        values = self.net(small.flip(1) * (127.5 / 128.0)) * self.std + self.mean
        pose = values[:, :_POSE].reshape(-1, 3, 4)
        shape, expression = values[:, _POSE:].split([_SHAPE, _EXPRESSION], dim=1)
        return FaceParameters(pose[:, :, :3], pose[:, :, 3], shape, expression)

    def vertices(self, parameters: FaceParameters, size: int) -> Tensor:
        """V = R (M + A α + B β) + T: ``(N, V, 3)`` in pixels of a crop of ``size``, y down, centres on integers.

        z grows towards the camera, in the same pixels, up to a constant.
        """
        offsets = parameters.shape @ self.shape.T + parameters.expression @ self.expression.T
        points = (self.base + offsets).reshape(len(offsets), -1, 3)
        placed = points @ parameters.rotation.mT + parameters.translation[:, None]
        # The published model counts pixels of the 120 px crop from 1, with y up.
        x, y, z = placed[..., 0] - 1.0, INPUT_SIZE - placed[..., 1], placed[..., 2]
        scale = size / INPUT_SIZE
        return torch.stack([(x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5, z * scale], dim=-1)

    def forward(self, faces: Tensor) -> Tensor:
        """Square face crops ``(N, 3, H, H)`` RGB in [-1, 1] to ``(N, V, 3)`` in pixels of the crop."""
        return self.vertices(self.parameters_of(faces), faces.shape[2])


def load_dense_face(folder: Path, model: FaceModel) -> DenseFace:
    """Read ``mb05_120x120.pth`` and ``param_mean_std_62d_120x120.pkl`` from 3DDFA_V2's weights folder.

    Nothing in them is executed. Raises ``BadInputError`` for missing or foreign files.
    """
    state = read_state(folder / "mb05_120x120.pth", "state_dict")
    mean, std = read_mean_std(folder / "param_mean_std_62d_120x120.pkl")
    return DenseFace(MobileNetV1.from_state(state), mean, std, model)


def read_mean_std(path: Path) -> tuple[Tensor, Tensor]:
    """The pickled ``{"mean": (62,), "std": (62,)}``, read without executing it; raises ``BadInputError``."""
    table = read_archive(path)
    parts = [table.get(key) for key in ("mean", "std")] if isinstance(table, dict) else []
    arrays = [part.value for part in parts if isinstance(part, PickledArray)]
    if len(arrays) != 2 or any(array.shape != (_PARAMETERS,) for array in arrays):
        raise BadInputError(f"{path} holds no mean and std of {_PARAMETERS} parameters; take 3DDFA_V2's own file")
    mean, std = (torch.from_numpy(array.astype(np.float32)) for array in arrays)
    return mean, std
