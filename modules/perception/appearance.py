"""What a face looks like apart from its shape: colour of lips and hair, how much hair; and where these lie."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.perception.mesh import POINTS
from modules.perception.parsing import CLASSES

REGIONS = ("lips", "eyes", "hair")
"""Parts of a crop in which edits act: the mouth and a little around it, the eyes with their lids, the hair with
the forehead that it may cover."""
_OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
_INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
_AROUND_EYES = (
    (226, 31, 228, 229, 230, 231, 232, 233, 244, 189, 221, 222, 223, 224, 225, 113),
    (446, 261, 448, 449, 450, 451, 452, 453, 464, 413, 441, 442, 443, 444, 445, 342),
)
_FOREHEAD = (
    (70, 63, 105, 66, 107, 9, 336, 296, 334, 293, 300, 251, 284, 332, 297, 338, 10, 109, 67, 103, 54, 21),
)
_HAIR = CLASSES.index("hair")
_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.950456, 1.0, 1.088754)
_MOUTH_REACH = 0.06
"""How far around the lips still counts as the mouth's, as part of the crop's side: corners move."""


def lab(images: Tensor) -> Tensor:
    """CIE L*a*b* (D65) of sRGB images ``(N, 3, H, W)`` in [-1, 1], which are clamped; L* in [0, 100]."""
    rgb = ((images.clamp(-1, 1) + 1) / 2).clamp_min(1e-6)
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = torch.einsum("kc,nchw->nkhw", linear.new_tensor(_TO_XYZ), linear)
    xyz = xyz / xyz.new_tensor(_WHITE)[:, None, None]
    f = torch.where(xyz > 0.008856, xyz.clamp_min(1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lips_mask(mesh_points: Tensor, height: int, width: int) -> Tensor:
    """``(N, 1, height, width)``: 1 on the lips themselves, 0 in an open mouth. No gradient."""
    return _painted(mesh_points, height, width, (_OUTER_LIPS,), (_INNER_LIPS,))


def forehead_mask(mesh_points: Tensor, height: int, width: int) -> Tensor:
    """``(N, 1, height, width)``: 1 between brows and the mesh's upper edge. No gradient."""
    return _painted(mesh_points, height, width, _FOREHEAD, ())


def hair_share(parsed: Tensor) -> Tensor:
    """``(N, H, W)`` probability of hair, of the parser's ``(N, 6, H, W)``."""
    return parsed[:, _HAIR]


def region_masks(parsed: Tensor, mesh_points: Tensor) -> dict[str, Tensor]:
    """``(N, 1, H, W)`` of zeros and ones for each of ``REGIONS``, of the parser's ``(N, 6, H, W)`` and a mesh.

    Raises ``ValueError`` for other shapes.
    """
    if parsed.ndim != 4 or parsed.shape[:2] != (len(mesh_points), len(CLASSES)):
        raise ValueError(f"parsed must be ({len(mesh_points)}, {len(CLASSES)}, H, W), got {tuple(parsed.shape)}")
    height, width = parsed.shape[2:]
    mouth = _painted(mesh_points, height, width, (_OUTER_LIPS,), ())
    reach = 2 * round(_MOUTH_REACH * height) + 1
    mouth = F.max_pool2d(mouth, reach, stride=1, padding=reach // 2)
    hair = torch.maximum(
        (hair_share(parsed.detach())[:, None] > 0.5).float(), forehead_mask(mesh_points, height, width)
    )
    return {"lips": mouth, "eyes": _painted(mesh_points, height, width, _AROUND_EYES, ()), "hair": hair}


def mean_in(values: Tensor, mask: Tensor) -> Tensor:
    """``(N,)`` mean of ``(N, H, W)`` under masks ``(N, 1, H, W)``; NaN where a mask sums to a pixel or less."""
    if values.ndim != 3 or mask.shape != (len(values), 1, *values.shape[1:]):
        raise ValueError(
            f"values (N, H, W) need masks (N, 1, H, W), got {tuple(values.shape)}, {tuple(mask.shape)}"
        )
    weight = mask[:, 0].detach()
    total = weight.sum((1, 2))
    mean = (values * weight).sum((1, 2)) / total.clamp_min(1e-6)
    return torch.where(total > 1, mean, torch.nan)


def _painted(
    mesh_points: Tensor,
    height: int,
    width: int,
    filled: tuple[tuple[int, ...], ...],
    holes: tuple[tuple[int, ...], ...],
) -> Tensor:
    if mesh_points.ndim != 3 or mesh_points.shape[1:] != (POINTS, 3):
        raise ValueError(f"mesh points must be (N, {POINTS}, 3), got {tuple(mesh_points.shape)}")
    masks = np.zeros((len(mesh_points), 1, height, width), np.uint8)
    for points, mask in zip(mesh_points[:, :, :2].detach().cpu().numpy(), masks, strict=True):
        for outlines, value in ((filled, 1), (holes, 0)):
            for outline in outlines:
                cv2.fillPoly(mask[0], [np.round(points[list(outline)]).astype(np.int32)], value)
    return torch.from_numpy(masks).to(mesh_points.device).float()
