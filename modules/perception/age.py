"""Age and gender of a face: face-api's small Xception net in torch, batched and differentiable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from modules.assets import asset_path

_SIDE = 112
MEAN_RGB = (122.782, 117.001, 104.298)
"""What face-api takes off its nets' images, of 255."""
FACE_IN_FFHQ = (0.196, 0.297, 0.618)
"""Left, top and side, as parts of the FFHQ crop, of the square in which eyes and mouth lie where they lie in the
faces that the net was trained on (eyes at 0.29 and 0.69 across and 0.30 down, mouth at 0.69 down)."""


class AgeOutput(NamedTuple):
    """What the net says of N faces."""

    age: Tensor
    """``(N,)`` years."""
    female: Tensor
    """``(N,)`` in [0, 1]."""


class FaceApiNet(nn.Module):
    """One of face-api's nets: its weights by their published names, and what is taken off its images."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = {name: name.replace("/", "_") for name in weights}
        for name, value in weights.items():
            self.register_buffer(self.names[name], value)
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1))
        self.mean: Tensor

    def _weight(self, name: str) -> Tensor:
        return self.get_buffer(self.names[name])


class AgeNet(FaceApiNet):
    """face-api's ``age_gender_model``: frozen, differentiable with respect to the images.

    ``forward(images)`` takes FFHQ crops ``(N, 3, H, W)`` RGB in [-1, 1]; ``judge(faces)`` takes tight face crops.
    Mean error 5.4 years on 1,700 UTKFace crops, evenly spread over the ages (it may have seen some).
    """

    def forward(self, images: Tensor) -> AgeOutput:
        """Ages of FFHQ crops; see the class."""
        _check(images)
        height, width = images.shape[2:]
        left, top, side = FACE_IN_FFHQ
        x0, y0 = round(left * width), round(top * height)
        x1, y1 = round((left + side) * width), round((top + side) * height)
        return self.judge(images[:, :, y0:y1, x0:x1])

    def judge(self, faces: Tensor) -> AgeOutput:
        """Ages of tight square face crops ``(N, 3, h, w)`` in [-1, 1]."""
        _check(faces)
        if tuple(faces.shape[2:]) != (_SIDE, _SIDE):
            faces = F.interpolate(faces, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        x = ((faces + 1) * 127.5 - self.mean) / 255
        x = F.relu(self._convolve(F.pad(x, (0, 1, 0, 1)), "entry_flow/conv_in", 2))
        x = self._reduce(x, "entry_flow/reduction_block_0", x)
        x = self._reduce(F.relu(x), "entry_flow/reduction_block_1", x)
        for block in ("middle_flow/main_block_0", "middle_flow/main_block_1"):
            y = x
            for k in range(3):
                y = self._separable(F.relu(y), f"{block}/separable_conv{k}")
            x = x + y
        x = self._reduce(F.relu(x), "exit_flow/reduction_block", x)
        x = F.relu(self._separable(x, "exit_flow/separable_conv"))
        pooled = x.mean((2, 3))
        age = pooled @ self._weight("fc/age/weights") + self._weight("fc/age/bias")
        gender = pooled @ self._weight("fc/gender/weights") + self._weight("fc/gender/bias")
        return AgeOutput(age[:, 0], torch.softmax(gender, 1)[:, 1])

    def _convolve(self, x: Tensor, name: str, stride: int) -> Tensor:
        return F.conv2d(x, self._weight(f"{name}/filters"), self._weight(f"{name}/bias"), stride)

    def _separable(self, x: Tensor, name: str) -> Tensor:
        x = F.conv2d(x, self._weight(f"{name}/depthwise_filter"), padding=1, groups=x.shape[1])
        return F.conv2d(x, self._weight(f"{name}/pointwise_filter"), self._weight(f"{name}/bias"))

    def _reduce(self, activated: Tensor, name: str, x: Tensor) -> Tensor:
        y = self._separable(activated, f"{name}/separable_conv0")
        y = self._separable(F.relu(y), f"{name}/separable_conv1")
        # TensorFlow's SAME with an even size pads after the image only.
        y = F.max_pool2d(F.pad(y, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        return y + self._convolve(x, f"{name}/expansion_conv", 2)


def load_age_net(device: str | torch.device = "cpu") -> AgeNet:
    """The net of the asset ``face-api``."""
    return AgeNet(face_api_tensors("age_gender_model")).to(device).eval().requires_grad_(False)


def face_api_tensors(net: str) -> dict[str, Tensor]:
    """The weights of one of face-api's nets by name, in torch's order of axes."""
    manifest, data = (asset_path("face-api", f"{net}{end}") for end in ("-weights_manifest.json", ".bin"))
    weights = read_face_api_weights(manifest, data)
    return {name: torch.from_numpy(_to_torch(name, value)) for name, value in weights.items()}


def read_face_api_weights(manifest: Path, data: Path) -> dict[str, NDArray[np.float32]]:
    """TensorFlow.js weights by name, as float32; bytes are ``value * scale + min``.

    Raises ``ValueError`` where the file's length is not what the manifest adds up to.
    """
    entries: list[dict[str, Any]] = [
        entry for group in json.loads(manifest.read_text()) for entry in group["weights"]
    ]
    raw = data.read_bytes()
    arrays: dict[str, NDArray[np.float32]] = {}
    offset = 0
    for entry in entries:
        count = int(np.prod(entry["shape"]))
        quantised = entry.get("quantization")
        kind = np.dtype(quantised["dtype"] if quantised else entry["dtype"]).newbyteorder("<")
        values = np.frombuffer(raw, kind, count, offset).astype(np.float32)
        if quantised:
            values = values * np.float32(quantised["scale"]) + np.float32(quantised["min"])
        arrays[entry["name"]] = values.reshape(entry["shape"])
        offset += count * kind.itemsize
    if offset != len(raw):
        raise ValueError(f"{data} has {len(raw)} bytes, its manifest adds up to {offset}")
    return arrays


def _to_torch(name: str, value: NDArray[np.float32]) -> NDArray[np.float32]:
    """Kernels from (h, w, in, out), depthwise ones from (h, w, channels, 1), to torch's order."""
    if value.ndim != 4:
        return value.copy()
    order = (2, 3, 0, 1) if name.endswith("depthwise_filter") else (3, 2, 0, 1)
    return value.transpose(order).copy()


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"the age net takes (N, 3, H, W), got {tuple(images.shape)}")
