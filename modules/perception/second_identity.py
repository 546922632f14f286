"""Who a face is, by a net that no loss and no encoder looks through: dlib's ResNet, as face-api publishes it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.perception.face_api import FaceApiNet, face_api_tensors
from modules.perception.landmarks import landmarks_68
from modules.perception.mesh import FaceMesh, load_face_mesh
from modules.perception.warp import similarity_grid

SAME_PERSON = 0.6
"""Distance of two embeddings below which dlib and face-api take two faces for one person's."""
_SIDE, _PADDING = 150, 0.25
_AMONG_68 = (45, 42, 36, 39, 33)
_CORNERS = ((0.8596, 0.2135), (0.6461, 0.2290), (0.1206, 0.2137), (0.3341, 0.2291), (0.4901, 0.6278))
"""Where the corners of the eyes and the base of the nose lie in the mean face, before the padding."""
_BLOCKS = (
    ("conv32_1", False), ("conv32_2", False), ("conv32_3", False),
    ("conv64_down", True), ("conv64_1", False), ("conv64_2", False), ("conv64_3", False),
    ("conv128_down", True), ("conv128_1", False), ("conv128_2", False),
    ("conv256_down", True), ("conv256_1", False), ("conv256_2", False), ("conv256_down_out", True),
)  # fmt: skip


class SecondIdentityNet(FaceApiNet):
    """dlib's face recognition ResNet, frozen: it judges only.

    ``forward`` takes FFHQ crops ``(N, 3, H, H)`` RGB in [-1, 1] and returns ``(N, 128)``; persons are told apart
    by the Euclidean distance of two (``SAME_PERSON``): at most 0.59 for one person, at least 0.60 for two, over
    14 frames of 7 persons; of young faces it may be 0.5 for two.
    """

    def __init__(self, weights: dict[str, Tensor], mesh: FaceMesh) -> None:
        super().__init__(weights)
        self.mesh = mesh
        places = (torch.tensor(_CORNERS) + _PADDING) / (1 + 2 * _PADDING) * _SIDE
        self.register_buffer("reference", places)
        self.reference: Tensor

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of FFHQ crops; see the class."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"the second identity net takes (N, 3, H, H), got {tuple(images.shape)}")
        places = landmarks_68(self.mesh(images).points)[:, list(_AMONG_68)]
        grid = similarity_grid(places, self.reference, images.shape[-1], _SIDE)
        return self.judge(F.grid_sample(images, grid, padding_mode="border", align_corners=False))

    def judge(self, faces: Tensor) -> Tensor:
        """Embeddings of upright faces ``(N, 3, 150, 150)`` in [-1, 1]."""
        x = ((faces + 1) * 127.5 - self.mean) / 255
        x = F.relu(self._convolve(x, "conv32_down", 2, 0))
        x = F.max_pool2d(x, 3, 2)
        for name, halves in _BLOCKS:
            y = F.relu(self._convolve(x, f"{name}/conv1", 2 if halves else 1, 0 if halves else 1))
            y = self._convolve(y, f"{name}/conv2", 1, 1)
            x = F.relu(_padded(F.avg_pool2d(x, 2, 2), y) + _padded(y, F.avg_pool2d(x, 2, 2)) if halves else x + y)
        return x.mean((2, 3)) @ self._weight("fc")

    def _convolve(self, x: Tensor, name: str, stride: int, padding: int) -> Tensor:
        y = F.conv2d(x, self._weight(f"{name}/conv/filters"), self._weight(f"{name}/conv/bias"), stride, padding)
        scale, shift = (self._weight(f"{name}/scale/{part}").view(1, -1, 1, 1) for part in ("weights", "biases"))
        return y * scale + shift


def _padded(x: Tensor, like: Tensor) -> Tensor:
    """``x`` with zeros after its last channel, row and column, as far as ``like`` has more."""
    more = [max(0, b - a) for a, b in zip(x.shape[1:], like.shape[1:], strict=True)]
    return F.pad(x, (0, more[2], 0, more[1], 0, more[0]))


def load_second_identity(device: str | torch.device = "cpu", mesh: FaceMesh | None = None) -> SecondIdentityNet:
    """The net of the asset ``face-api``; ``mesh`` may be shared with others."""
    weights = face_api_tensors("face_recognition_model")
    return SecondIdentityNet(weights, mesh or load_face_mesh()).to(device).eval().requires_grad_(False)
