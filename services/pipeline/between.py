"""A picture between two frames: both laid onto it along their flow, and the generator's face between theirs.

Pure functions on arrays. StylePortraitVideo (section 4.3, fig. 11) interpolates the codes of two frames; what is
around the face, and what the codes miss of it, has to come from the frames themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.perception.flow import warp
from services.pipeline.composite import Floats, to_frame


@dataclass(frozen=True)
class Motion:
    """The optical flow of two frames, there and back."""

    forward: Tensor
    """``(2, H, W)`` pixels, x then y: from the first frame to the second."""
    backward: Tensor
    """The same from the second to the first."""

    def window(self, rows: slice, columns: slice) -> Motion:
        """That of a part of the frames."""
        return Motion(self.forward[:, rows, columns], self.backward[:, rows, columns])

    def to_neighbours(self, t: float) -> tuple[Tensor, Tensor]:
        """``(2, H, W)`` each: from the picture at time ``t`` in [0, 1] to the first frame and to the second.

        Both flows as if they were the picture's own, weighed by nearness (Jiang et al. 2018, eq. 4).
        """
        back = t * (t * self.backward - (1 - t) * self.forward)
        on = (1 - t) * ((1 - t) * self.forward - t * self.backward)
        return back, on


@dataclass(frozen=True)
class Standing:
    """One face in one frame, and what the generator shows in its place."""

    ws: Tensor
    """``(1, num_ws, w_dim)``."""
    rendering: Floats
    """``(S, S, 3)`` in [-1, 1]: the generator's picture of ``ws``."""
    mask: Floats
    """``(S, S)`` in [0, 1], feathered."""
    crop_to_frame: NDArray[np.float64]
    """``(3, 3)``: the similarity that sends pixels of the rendering to those of the frame."""


def laid_between(first: Floats, second: Floats, motion: Motion, t: float) -> Floats:
    """``(H, W, C)`` float32 at time ``t`` in [0, 1] between two like it: ``1 - t`` of one, ``t`` of the next.

    Each is first moved along the flow; where something is hidden in one of them, both are seen.
    """
    back, on = motion.to_neighbours(t)
    moved = [warp(_tensor(one), flow[None]) for one, flow in ((first, back), (second, on))]
    blend = (1 - t) * moved[0] + t * moved[1]
    return np.asarray(blend[0].permute(1, 2, 0).numpy(), np.float32)


def codes_between(first: Standing, second: Standing, t: float) -> Tensor:
    """``(1, num_ws, w_dim)`` on the straight line from one face's codes to the other's."""
    return (1 - t) * first.ws + t * second.ws


def add_face(
    canvas: Floats, first: Standing, second: Standing, rendering: Floats, motion: Motion, t: float
) -> None:
    """Put the face at time ``t`` into ``canvas``, ``(H, W, 3)`` in [0, 255]: the two frames as ``laid_between``.

    ``rendering`` ``(S, S, 3)`` in [-1, 1] is the generator's picture of the codes between. What is added under the
    mask is how it differs from the renderings of both frames laid onto each other as the frames were. So what the
    codes miss of the frames stays, and what the blend does to a face, such as lips that are seen twice, goes: the
    renderings' blend has it too.
    """
    place = (1 - t) * first.crop_to_frame + t * second.crop_to_frame
    mask = (1 - t) * first.mask + t * second.mask
    height, width = canvas.shape[:2]
    patch = to_frame(np.dstack([_values(rendering), mask]).astype(np.float32), place, height, width)
    if not patch.values.size:
        return
    rows, columns = patch.rows, patch.columns
    own = [_on_window(one, rows, columns) for one in (first, second)]
    blended = laid_between(own[0], own[1], motion.window(rows, columns), t)
    alpha = np.clip(patch.values[..., 3:], 0.0, 1.0)
    canvas[rows, columns] += alpha * (patch.values[..., :3] - blended)


def _on_window(face: Standing, rows: slice, columns: slice) -> Floats:
    """A face's rendering on a part of its frame, ``(h, w, 3)`` in [0, 255]; 0 where it does not reach.

    It does not where the mask is 0, unless the face moves by more than the mask's border between two frames.
    """
    shift = np.array([[1.0, 0.0, -columns.start], [0.0, 1.0, -rows.start], [0.0, 0.0, 1.0]])
    height, width = rows.stop - rows.start, columns.stop - columns.start
    patch = to_frame(_values(face.rendering), shift @ face.crop_to_frame, height, width)
    window = np.zeros((height, width, 3), np.float32)
    if patch.values.size:
        window[patch.rows, patch.columns] = patch.values
    return window


def _values(rendering: Floats) -> Floats:
    return np.asarray((np.clip(rendering, -1.0, 1.0) + 1.0) * 127.5, np.float32)


def _tensor(image: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
