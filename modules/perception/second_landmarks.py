"""Where a face's 68 points are, by a net that no loss and no encoder looks through, and that asks no other net."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.ops import luma
from modules.perception.second_judges import onnx_session

REGION = (0.15, 0.25, 0.7)
"""Left, top and side, as parts of the FFHQ crop, of the square that the net looks at.

Not a detector's or the mesh's box: what those see of a picture would move the square, and with it the points.
"""
_SIDE = 64


class SecondLandmarkNet:
    """``fr_landmark`` of face-recognition-plugin: it judges only (ONNX, no gradients).

    Called with FFHQ crops ``(N, 3, H, H)`` RGB in [-1, 1] it gives ``(N, 68, 2)`` x, y in pixels of the crops,
    centres on integers. On 108 frames of 7 persons they lie 5.5 % of the eyes' distance from the mesh's points,
    and move by 2 px with the crop but for 0.9 %.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The points of FFHQ crops; see the class."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"the second landmark net takes (N, 3, H, H), got {tuple(images.shape)}")
        left, top, side = (round(part * images.shape[3]) for part in REGION)
        faces = images[:, :, top : top + side, left : left + side].float()
        faces = F.interpolate(faces, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        grey = luma(faces)
        inputs = ((grey + 1) * (127.5 / 256)).cpu().numpy()
        found = [self.session.run(None, {"input": one[None]})[0] for one in inputs]
        inside = torch.from_numpy(np.reshape(found, (-1, 68, 2))).to(images.device)
        return inside * side + inside.new_tensor([left, top]) - 0.5


def load_second_landmarks(threads: int = 1) -> SecondLandmarkNet:
    """The net of the asset ``face-recognition-plugin``, on the CPU."""
    return SecondLandmarkNet(onnx_session("fr_landmark.onnx", threads))
