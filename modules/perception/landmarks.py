"""The usual 68 points from the 468 of the mesh, and what the points say of expression and pose.

Every function takes ``(N, 468, 3)`` mesh points (x, y in pixels, z in the same unit) and is differentiable.
"Right" and "left" are the person's own.
"""

from __future__ import annotations

from torch import Tensor

_JAW = (127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356)
_BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
_NOSE = (168, 197, 195, 4, 98, 97, 2, 326, 327)
_EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_OUTER_LIPS = (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91)
_INNER_LIPS = (78, 81, 13, 311, 308, 402, 14, 178)
MESH_TO_68 = (*_JAW, *_BROWS, *_NOSE, *_EYES, *_OUTER_LIPS, *_INNER_LIPS)
"""For each of the 68 points, in dlib's order, the number of the mesh point that lies on it."""


def landmarks_68(points: Tensor) -> Tensor:
    """``(N, 468, 3)`` mesh points to the usual 68: ``(N, 68, 2)`` x, y in the same pixels."""
    _check(points)
    return points[:, list(MESH_TO_68), :2]


def _check(points: Tensor) -> None:
    if points.ndim != 3 or points.shape[1:] != (468, 3):
        raise ValueError(f"mesh points must be (N, 468, 3), got {tuple(points.shape)}")
