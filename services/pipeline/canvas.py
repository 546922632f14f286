"""What a task makes of frames: the frame that is read, the canvas that is painted on, and what both share.

Without a task all of these leave things as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.types import PROGRESSIVE, BadInputError, ClipInfo
from modules.encoders.restoring import FACTOR, Task, degrade
from services.pipeline.composite import Image


def read_by(task: Task | None, image: Image) -> Image:
    """``(H, W, 3)`` uint8 RGB as the task looks at it: ``colourise`` sees the luma (BT.601) alone."""
    if task != "colourise":
        return image
    return np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[..., None], 3, axis=2)


def canvas_of(task: Task | None, image: Image) -> Image:
    """A copy to paint on of what ``read_by`` gives; for ``enlarge`` 4 times as large, bicubic as in training."""
    if task != "enlarge":
        return image.copy()
    height, width = image.shape[:2]
    return np.asarray(cv2.resize(image, (width * FACTOR, height * FACTOR), interpolation=cv2.INTER_CUBIC))


def on_canvas(task: Task | None, crop_to_frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """``crop_to_frame`` ``(..., 3, 3)`` as crop to canvas: pixel centres are integers, ``x`` is ``4 x + 1.5``."""
    if task != "enlarge":
        return crop_to_frame
    shift = (FACTOR - 1) / 2
    larger = np.array([[FACTOR, 0.0, shift], [0.0, FACTOR, shift], [0.0, 0.0, 1.0]])
    return np.asarray(larger @ crop_to_frame)


def canvas_size(task: Task | None, width: int, height: int) -> tuple[int, int]:
    """Width and height of the canvas of a picture of that size."""
    scale = FACTOR if task == "enlarge" else 1
    return width * scale, height * scale


def canvas_info(task: Task | None, info: ClipInfo) -> ClipInfo:
    """The clip with the size of its canvas; an enlarged one has no fields any more, as each line is several."""
    width, height = canvas_size(task, info.width, info.height)
    order = info.field_order if height == info.height else PROGRESSIVE
    return replace(info, width=width, height=height, field_order=order)


def check_canvas(task: Task | None, width: int, height: int, max_pixels: int) -> None:
    """Raise ``BadInputError`` (413) where the canvas of a picture of that size has more than ``max_pixels``."""
    wide, high = canvas_size(task, width, height)
    if wide * high > max_pixels:
        raise BadInputError(
            f"the result would be {wide}x{high}, and at most {max_pixels} pixels are made; make the input smaller",
            413,
        )


def kept_of(task: Task | None, shown: Tensor, sides: Sequence[float]) -> Tensor:
    """What the task's input has of renderings ``(N, 3, S, S)`` in [-1, 1]: what it has not is the difference.

    ``sides`` are those of the N crops in pixels of the frame that came in: what they resolve is left alone, so a
    crop that has all the lines of its rendering lacks none.
    """
    if task is None:
        return shown
    kept = [
        degrade(one, task, max(1.0, one.shape[-1] / side))
        for one, side in zip(torch.split(shown, 1), sides, strict=True)
    ]
    return torch.cat(kept).clamp(-1, 1)
