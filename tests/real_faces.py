"""A real person before and while grinning, as the crops that every net of faces takes."""

from __future__ import annotations

import av
import numpy as np
from torch import Tensor

from datamodules.alignment import crop_frame, ffhq_crop
from datamodules.shards import to_tensor
from modules.assets import asset_path
from modules.perception.detection import DetectionConfig, load_face_finder
from services.settings import load_params

CALM, GRINNING = 2, 40
"""Frames of single_face.mp4."""


def calm_and_grinning() -> Tensor:
    """FFHQ crops ``(2, 3, 256, 256)`` in [-1, 1]."""
    with av.open(str(asset_path("clips", "single_face.mp4"))) as clip:
        pixels = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    finder = load_face_finder(load_params().section("detection", DetectionConfig))
    crops = []
    for number in (CALM, GRINNING):
        (face,) = finder.find(pixels[number][None])[0]
        crops.append(crop_frame(pixels[number], ffhq_crop(face.landmarks, 256), 256))
    return to_tensor(np.stack(crops), "cpu")
