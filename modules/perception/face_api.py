"""What face-api's nets share: weights read by name, the mean of their images, where a face lies in a crop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modules.assets import asset_path

MEAN_RGB = (122.782, 117.001, 104.298)
"""What face-api takes off its nets' images, of 255."""
FACE_IN_FFHQ = (0.196, 0.297, 0.618)
"""Left, top and side, as parts of the FFHQ crop, of the square in which eyes and mouth lie where they lie in the
faces that the net was trained on (eyes at 0.29 and 0.69 across and 0.30 down, mouth at 0.69 down)."""


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
