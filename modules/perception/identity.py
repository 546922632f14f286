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
_REFERENCE = ((38.29459953, 51.69630051), (73.53179932, 51.50139999), (56.02519989, 71.73660278))
"""Where the net wants the right eye, the left eye and the nose tip in its 112 px input."""
_EYES = ((37, 38, 40, 41), (43, 44, 46, 47))
_NOSE_TIP = 30
_IN_FFHQ = ((0.375, 0.478), (0.620, 0.478), (0.4975, 0.62))
"""The same three places as parts of the FFHQ crop, for images in which the mesh sees no face."""
_MESH_SCORE = 0.5


class IdentityNet(nn.Module):
    """``fr_feature`` of face-recognition-plugin in torch: frozen, differentiable with respect to the images.

    ``forward`` and ``embed`` take FFHQ crops ``(N, 3, H, W)`` RGB in [-1, 1] and return ``(N, 512)`` of unit
    length. The product of two is their likeness: about 0.7 for one person, seldom above 0.2 for two.
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
        return F.normalize(self.net(self.align(images) * (127.5 / 128) + 0.5 / 128), dim=1)

    def embed(self, images: Tensor) -> Tensor:
        """The same as calling the net."""
        embedding: Tensor = self(images)
        return embedding

    def align(self, images: Tensor) -> Tensor:
        """The ``(N, 3, 112, 112)`` views that the net looks at: eyes and nose tip moved to their places."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the identity net takes (N, 3, H, W), got {tuple(images.shape)}")
        side = self.mesh.side
        if tuple(images.shape[2:]) != (side, side):
            # Near the size at which the face is looked at, so that the warp below does not alias.
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        with torch.no_grad():
            mesh = self.mesh(images)
            points = landmarks_68(mesh.points)
            three = torch.stack([points[:, list(eye)].mean(1) for eye in _EYES] + [points[:, _NOSE_TIP]], 1)
            usual = (self.usual * side - 0.5).expand_as(three)
            three = torch.where((mesh.score >= _MESH_SCORE)[:, None, None], three, usual)
            grid = self._grid(three, side)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _grid(self, three: Tensor, side: int) -> Tensor:
        """Where in the image each pixel of the view comes from, by the affine map through the three points."""
        ones = self.reference.new_ones(3, 1)
        to_image = torch.linalg.solve(torch.cat([self.reference, ones], 1), three)
        steps = torch.arange(_SIDE, device=three.device, dtype=three.dtype)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        places = torch.stack([x, y, torch.ones_like(x)], -1) @ to_image[:, None]
        grid: Tensor = (places + 0.5) * (2 / side) - 1
        return grid


def load_identity(device: str | torch.device = "cpu", mesh: FaceMesh | None = None) -> IdentityNet:
    """The net of the asset ``face-recognition-plugin``; ``mesh`` may be shared with others."""
    net = read_onnx(asset_path("face-recognition-plugin", "fr_feature.onnx"))
    return IdentityNet(net, mesh or load_face_mesh()).to(device).eval().requires_grad_(False)
