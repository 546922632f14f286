"""Second judges of a face: small nets from another source than the ones that edits are fitted and trained with.

They only measure (ONNX, no gradients). Inputs follow the code that the nets are published with, but for gender,
which that gives red first: blue first it answers better.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.assets import asset_path
from modules.perception.emotion import EMOTIONS
from modules.perception.face_chip import face_chip

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_STAGES = (1, 2, 3)
_AGE_MEAN = np.array([122.782, 117.001, 104.298], np.float32)
_AGE_SIDE, _AGE_PADDING = 64, 0.2
_YEARS = np.array([0.25, *range(1, 81)], np.float32)
"""What each of the age net's classes stands for, as dlib's own example has them."""

_CLASSES = ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral")
"""Of the expression net, whose publisher does not name them: the order of FER2013."""


class HeadPose(NamedTuple):
    """Degrees, each ``(N,)``, with the signs of ``modules.perception.landmarks.Pose``."""

    yaw: NDArray[np.float32]
    pitch: NDArray[np.float32]
    roll: NDArray[np.float32]


def onnx_session(
    file: str, threads: int = 1, asset: str = "face-recognition-plugin"
) -> onnxruntime.InferenceSession:
    """A net of an asset on the CPU, quiet."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    path = asset_path(asset, file)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class SecondJudges:
    """dlib's age net, ``fr_gender``, ``fr_pose`` and ``fr_expression``, loaded when first asked.

    Every method but ``age`` takes ``(N, H, W, 3)`` uint8 RGB images and one face box per image, ``(N, 4)`` x0, y0,
    x1, y1 in pixels, as YuNet gives it.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def age(self, images: NDArray[np.uint8], points: Tensor) -> NDArray[np.float32]:
        """Years, ``(N,)``, of square images ``(N, H, H, 3)`` uint8 RGB and their mesh points ``(N, 468, 3)``.

        On 483 UTKFace crops of all ages: correlation 0.90 with the truth, mean error 7.8 years, 0.80 years found
        per year. From 18 to 60 years, 245 of them: 0.80, 6.3 years, 0.77.
        """
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        chips = face_chip(pixels, points.detach().float().cpu(), _AGE_SIDE, _AGE_PADDING).numpy()
        inputs = (chips - _AGE_MEAN[:, None, None]) / 256
        shares: NDArray[np.float32] = self._age.run(None, {"images": inputs})[0]
        return shares @ _YEARS

    def female(self, images: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """How female the face looks, ``(N,)``, about 0 to 1; right on 72 % of 142 UTKFace crops."""
        return 1 - _staged(self._gender, _cuts(images, boxes, 1.4, 64)[..., ::-1])

    def pose(self, images: NDArray[np.uint8], boxes: NDArray[np.float32]) -> HeadPose:
        """Yaw, pitch and roll; signs as in ``modules.perception.landmarks``."""
        # The published code swaps red and blue before it takes off the mean.
        cuts = _cuts(images, boxes, 1.5, 224)[..., ::-1]
        rows = [self._pose.run(None, {"input": x}) for x in _normalised(cuts)]
        bins = np.arange(66, dtype=np.float32)
        yaw, pitch, roll = (
            np.array([3 * float((_softmax(row[k][0]) * bins).sum()) - 99 for row in rows], np.float32)
            for k in range(3)
        )
        return HeadPose(-yaw, pitch, roll)

    def expression(self, images: NDArray[np.uint8], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities ``(N, 7)`` of ``modules.perception.emotion.EMOTIONS``, in that order.

        A cautious judge: it calls most faces happy or neutral. docs/decisions.md says how its classes got names.
        """
        # The published code gives it colours. It learned from grey pictures: in colours it calls calm faces happy.
        grey = np.stack([cv2.cvtColor(cut, cv2.COLOR_RGB2GRAY) for cut in _cuts(images, boxes, 1.2, 224)])
        scaled = np.repeat(grey[:, None, None].astype(np.float32) / 255, 3, axis=2)
        shares = np.stack([_softmax(self._expression.run(None, {"input": x})[0][0]) for x in scaled])
        return shares[:, [_CLASSES.index(name) for name in EMOTIONS]]

    @cached_property
    def _age(self) -> onnxruntime.InferenceSession:
        return onnx_session("age-v1.onnx", self.threads, "age")

    @cached_property
    def _gender(self) -> onnxruntime.InferenceSession:
        return onnx_session("fr_gender.onnx", self.threads)

    @cached_property
    def _pose(self) -> onnxruntime.InferenceSession:
        return onnx_session("fr_pose.onnx", self.threads)

    @cached_property
    def _expression(self) -> onnxruntime.InferenceSession:
        return onnx_session("fr_expression.onnx", self.threads)


def _square(box: NDArray[np.float32], scale: float) -> tuple[float, float, float, float]:
    """The box, ``scale`` times as large about its middle."""
    x0, y0, x1, y1 = (float(v) for v in box)
    x, y, width, height = (x0 + x1) / 2, (y0 + y1) / 2, scale * (x1 - x0) / 2, scale * (y1 - y0) / 2
    return x - width, y - height, x + width, y + height


def _cuts(images: NDArray[np.uint8], boxes: NDArray[np.float32], scale: float, size: int) -> NDArray[np.uint8]:
    """Enlarged boxes as ``(N, size, size, 3)``; what lies outside of the image repeats its edge."""
    if images.ndim != 4 or images.shape[3] != 3 or boxes.shape != (len(images), 4):
        raise ValueError(f"needed: (N, H, W, 3) and (N, 4), got {images.shape} and {boxes.shape}")
    cuts = []
    for image, box in zip(images, boxes, strict=True):
        x0, y0, x1, y1 = (round(v) for v in _square(box, scale))
        pad = max(0, -x0, -y0, x1 - image.shape[1], y1 - image.shape[0])
        padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        part = padded[y0 + pad : y1 + pad, x0 + pad : x1 + pad]
        shrinks = min(part.shape[:2]) > size
        cuts.append(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
    return np.asarray(np.stack(cuts), np.uint8)


def _normalised(cuts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(N, 1, 3, s, s)`` with ImageNet's mean and spread, one image per run of a net that takes one."""
    scaled = (cuts.astype(np.float32) / 255 - _MEAN) / _STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)[:, None], np.float32)


def _staged(session: onnxruntime.InferenceSession, cuts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The nets' three-stage soft regression (SSR-Net, Yang et al. 2018, eq. 4): ``(N,)``."""
    names = [output.name for output in session.get_outputs()]
    values = []
    for x in _normalised(cuts):
        out = dict(zip(names, (v[0] for v in session.run(None, {"input": x})), strict=True))
        total, width = 0.0, 1.0
        for stage in _STAGES:
            shares, offsets = out[f"prob_stage_{stage}"], out[f"index_offset_stage{stage}"]
            width *= len(shares) * (1 + float(out[f"stage{stage}_delta_k"][0]))
            total += float(((np.arange(len(shares)) + offsets) * shares).sum()) / width
        values.append(total)
    return np.array(values, np.float32)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shares = np.exp(logits - logits.max())
    return np.asarray(shares / shares.sum(), np.float32)
