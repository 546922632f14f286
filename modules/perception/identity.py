"""Who a face is: a 512-number embedding, batched and differentiable."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.assets import asset_path
from modules.perception.landmarks import MESH_TO_68, landmarks_68
from modules.perception.mesh import FaceMesh, MeshOutput, load_face_mesh
from modules.perception.onnx_net import OnnxNet, read_onnx
from modules.perception.warp import similarity_grid

_SIDE = 112
_REFERENCE = (
    (38.29459953, 51.69630051),
    (73.53179932, 51.50139999),
    (56.02519989, 71.73660278),
    (41.54930115, 92.3655014),
    (70.72990036, 92.20410156),
)
"""Where the net wants right eye, left eye, nose tip and the corners of the mouth in its 112 px input."""
_AMONG_68 = ((37, 38, 40, 41), (43, 44, 46, 47), (30,), (48, 60), (54, 64))
_IN_FFHQ = ((0.375, 0.478), (0.620, 0.478), (0.4975, 0.61), (0.392, 0.73), (0.606, 0.73))
"""The same places as parts of the FFHQ crop, for images in which the mesh sees no face."""
_MESH_SCORE = 0.5


class FaceSight(NamedTuple):
    """What the net and the mesh in front of it see in N images."""

    embedding: Tensor
    """``(N, 512)`` of unit length."""
    landmarks: Tensor
    """``(N, 68, 3)`` x, y in [-1, 1] over the image, z in the same unit."""
    seen: Tensor
    """``(N,)`` bool: whether the mesh sees a face; without one the landmarks mean nothing."""


class IdentityNet(nn.Module):
    """``fr_feature`` of face-recognition-plugin in torch: frozen, differentiable with respect to the images.

    ``forward`` and ``embed`` take FFHQ crops ``(N, 3, H, W)`` RGB in [-1, 1] and return ``(N, 512)`` of unit
    length. The product of two is their likeness: on 23 persons' clips 0.87 (5th percentile 0.68) for one person,
    0.02 (95th percentile 0.19) for two. The view is a similarity fitted to five points; the affine map through
    three that the published JavaScript uses shears turned faces, and parts persons less well.
    """

    def __init__(self, net: OnnxNet, mesh: FaceMesh) -> None:
        super().__init__()
        self.net = net
        self.mesh = mesh
        self.register_buffer("reference", torch.tensor(_REFERENCE))
        self.register_buffer("usual", torch.tensor(_IN_FFHQ))
        self.reference: Tensor
        self.usual: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of FFHQ crops; see the class."""
        return F.normalize(self.net(_of_the_net(self.align(images))), dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """The same as calling the net."""
        embedding: Tensor = self(images)
        return embedding

    def align(self, images: Tensor) -> Tensor:
        """The ``(N, 3, 112, 112)`` views that the net looks at: upright, eyes and mouth at their places."""
        images = self._sized(images)
        return self._warped(images, self._mesh_of(images))

    @torch.no_grad()
    def look(self, images: Tensor) -> FaceSight:
        """Everything the two nets see on the way to an embedding; see ``FaceSight``."""
        images = self._sized(images)
        mesh = self._mesh_of(images)
        embedding = F.normalize(self.net(_of_the_net(self._warped(images, mesh))), dim=1)
        side = self.mesh.side
        points = mesh.points[:, list(MESH_TO_68)] * (2 / side)
        landmarks = points + points.new_tensor([1 / side - 1, 1 / side - 1, 0.0])
        return FaceSight(embedding, landmarks, mesh.score >= _MESH_SCORE)

    def _sized(self, images: Tensor) -> Tensor:
        """Near the size at which the face is looked at, so that the warp does not alias."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the identity net takes (N, 3, H, W), got {tuple(images.shape)}")
        side = self.mesh.side
        if tuple(images.shape[2:]) != (side, side):
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        return images

    @torch.no_grad()
    def _mesh_of(self, images: Tensor) -> MeshOutput:
        # Places in pixels need more digits than bfloat16 has.
        with torch.autocast(images.device.type, enabled=False):
            mesh: MeshOutput = self.mesh(images.float())
        return mesh

    def _warped(self, images: Tensor, mesh: MeshOutput) -> Tensor:
        side = self.mesh.side
        with torch.no_grad():
            points = landmarks_68(mesh.points)
            five = torch.stack([points[:, list(part)].mean(1) for part in _AMONG_68], 1)
            usual = (self.usual * side - 0.5).expand_as(five)
            five = torch.where((mesh.score >= _MESH_SCORE)[:, None, None], five, usual)
            grid = similarity_grid(five, self.reference, side, _SIDE)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _of_the_net(views: Tensor) -> Tensor:
    """[-1, 1] to (value of 255 - 127) / 128, which the net was made for."""
    return views * (127.5 / 128) + 0.5 / 128


def load_identity(device: str | torch.device = "cpu", mesh: FaceMesh | None = None) -> IdentityNet:
    """The net of the asset ``face-recognition-plugin``; ``mesh`` may be shared with others."""
    net = read_onnx(asset_path("face-recognition-plugin", "fr_feature.onnx"))
    return IdentityNet(net, mesh or load_face_mesh()).to(device).eval().requires_grad_(False)
