"""What a face expresses: face-api's expression net in torch, batched and differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.perception.face_api import FACE_IN_FFHQ, FaceApiNet, face_api_tensors

EMOTIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
"""In the order of the net's outputs."""
EXPRESSED = {"surprise": "surprised", "anger": "angry"}
"""Attributes of edits that this net judges, and what it calls them."""
_SIDE = 112
_BLOCKS, _LAYERS = 4, 4


class EmotionNet(FaceApiNet):
    """face-api's ``face_expression_model``: frozen, differentiable with respect to the images.

    ``forward(images)`` takes FFHQ crops ``(N, 3, H, W)`` RGB in [-1, 1] and gives logits ``(N, 7)`` of
    ``EMOTIONS``; their softmax is what face-api calls the scores.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Logits of FFHQ crops; see the class."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"the expression net takes (N, 3, H, W), got {tuple(images.shape)}")
        height, width = images.shape[2:]
        left, top, side = FACE_IN_FFHQ
        x0, y0 = round(left * width), round(top * height)
        faces = images[:, :, y0 : round((top + side) * height), x0 : round((left + side) * width)]
        faces = F.interpolate(faces, (_SIDE, _SIDE), mode="bilinear", antialias=True)
        x = ((faces + 1) * 127.5 - self.mean) / 255
        for block in range(_BLOCKS):
            x = self._dense(x, f"dense{block}")
        pooled = F.avg_pool2d(x, 7, 2).flatten(1)
        return pooled @ self._weight("fc/weights") + self._weight("fc/bias")

    def _dense(self, x: Tensor, name: str) -> Tensor:
        """A block whose layers see the sum of all before; the first halves the size, with TensorFlow's padding."""
        padded = F.pad(x, (0, 1, 0, 1))
        if f"{name}/conv0/filters" in self.names:
            first = F.conv2d(padded, self._weight(f"{name}/conv0/filters"), self._weight(f"{name}/conv0/bias"), 2)
        else:
            first = self._separable(padded, f"{name}/conv0", stride=2, padding=0)
        total = first = F.relu(first)
        for layer in range(1, _LAYERS):
            total = total + self._separable(F.relu(total), f"{name}/conv{layer}")
        return F.relu(total)

    def _separable(self, x: Tensor, name: str, stride: int = 1, padding: int = 1) -> Tensor:
        x = F.conv2d(
            x, self._weight(f"{name}/depthwise_filter"), stride=stride, padding=padding, groups=x.shape[1]
        )
        return F.conv2d(x, self._weight(f"{name}/pointwise_filter"), self._weight(f"{name}/bias"))


def log_odds(logits: Tensor, emotion: str) -> Tensor:
    """``(N,)`` log odds of one of ``EMOTIONS`` from logits ``(N, 7)``; above 0 it is likelier than not.

    Of logits, not of probabilities: those are 0 and 1 long before a face is at its end. Differentiable. Raises
    ``ValueError`` for another emotion.
    """
    if emotion not in EMOTIONS:
        raise ValueError(f"the expression net knows {', '.join(EMOTIONS)}, not {emotion}")
    place = EMOTIONS.index(emotion)
    others = [k for k in range(len(EMOTIONS)) if k != place]
    return logits[:, place] - logits[:, others].logsumexp(1)


def load_emotion_net(device: str | torch.device = "cpu") -> EmotionNet:
    """The net of the asset ``face-api``."""
    return EmotionNet(face_api_tensors("face_expression_model")).to(device).eval().requires_grad_(False)
