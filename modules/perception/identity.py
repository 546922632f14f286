"""Who a face is: a 512-number embedding, batched and differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.assets import asset_path
from modules.perception.landmarks import landmarks_68
from modules.perception.mesh import FaceMesh, load_face_mesh
from modules.perception.onnx_net import OnnxNet, read_onnx

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
        # The net was made for (value of 255 - 127) / 128.
        return F.normalize(self.net(self.align(images) * (127.5 / 128) + 0.5 / 128), dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """The same as calling the net."""
        embedding: Tensor = self(images)
        return embedding

    def align(self, images: Tensor) -> Tensor:
        """The ``(N, 3, 112, 112)`` views that the net looks at: upright, eyes and mouth at their places."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the identity net takes (N, 3, H, W), got {tuple(images.shape)}")
        side = self.mesh.side
        if tuple(images.shape[2:]) != (side, side):
            # Near the size at which the face is looked at, so that the warp below does not alias.
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        with torch.no_grad():
            mesh = self.mesh(images)
            points = landmarks_68(mesh.points)
            five = torch.stack([points[:, list(part)].mean(1) for part in _AMONG_68], 1)
            usual = (self.usual * side - 0.5).expand_as(five)
            five = torch.where((mesh.score >= _MESH_SCORE)[:, None, None], five, usual)
            grid = self._grid(five, side)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _grid(self, five: Tensor, side: int) -> Tensor:
        """Where in the image each pixel of the view comes from, by the similarity that fits the points best."""
        middle, middle_there = self.reference.mean(0), five.mean(1)
        x, y = (self.reference - middle).unbind(-1)
        u, v = (five - middle_there[:, None]).unbind(-1)
        # Least squares of (u + iv) = (a + ib)(x + iy).
        spread = (x.square() + y.square()).sum()
        a = (x * u + y * v).sum(1)[:, None, None] / spread
        b = (x * v - y * u).sum(1)[:, None, None] / spread
        steps = torch.arange(_SIDE, device=five.device, dtype=five.dtype)
        y, x = torch.meshgrid(steps - middle[1], steps - middle[0], indexing="ij")
        places = torch.stack([a * x - b * y, b * x + a * y], -1) + middle_there[:, None, None]
        grid: Tensor = (places + 0.5) * (2 / side) - 1
        return grid


def load_identity(device: str | torch.device = "cpu", mesh: FaceMesh | None = None) -> IdentityNet:
    """The net of the asset ``face-recognition-plugin``; ``mesh`` may be shared with others."""
    net = read_onnx(asset_path("face-recognition-plugin", "fr_feature.onnx"))
    return IdentityNet(net, mesh or load_face_mesh()).to(device).eval().requires_grad_(False)
