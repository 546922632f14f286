"""Edited faces and the frames they are pasted into: what a generator is stitched on (Tzaban et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.coded_frames import CodedFrames, picked
from datamodules.rows import Rows
from datamodules.shards import to_tensor


@dataclass(frozen=True)
class StitchedRows:
    """Frames of one face on disk; row k of each file is of one frame."""

    codes: Rows[np.float32]
    """``(N, num_ws, w_dim)``, before the edit."""
    offsets: Rows[np.float32]
    """The same: how far the edited codes are moved; zeros where they are not."""
    crops: Rows[np.uint8]
    """``(N, S, S, 3)``: what the frame shows."""
    edited: Rows[np.uint8]
    """``(N, S, S, 3)``: what the generator shows of the edited codes, its drift of colours taken out."""
    masks: Rows[np.uint8]
    """``(N, S, S)``: of what is pasted, 255 is all."""

    def all(self) -> tuple[Rows[np.float32] | Rows[np.uint8], ...]:
        """The five files."""
        return self.codes, self.offsets, self.crops, self.edited, self.masks


class StitchedFrames(CodedFrames):
    """Batches of ``CodedFrames`` with ``offsets`` like ``ws``, ``edited`` like ``images`` and ``masks``.

    ``masks`` are ``(N, 1, S, S)`` in [0, 1].
    """

    def __init__(self, rows: StitchedRows, batch_size: int, steps: int, seed: int, first_step: int = 0) -> None:
        """Raises ``ValueError`` where the files have not as many rows, or none."""
        super().__init__(rows.codes, rows.crops, batch_size, steps, seed, first_step)
        if len({len(some) for some in rows.all()}) > 1:
            raise ValueError(f"the files have {', '.join(str(len(some)) for some in rows.all())} rows")
        self.rows = rows

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of one step."""
        frames, rows = self.frames_of(step), self.rows
        return super().batch(step) | {
            "offsets": torch.from_numpy(picked(rows.offsets, frames)),
            "edited": to_tensor(picked(rows.edited, frames)),
            "masks": torch.from_numpy(picked(rows.masks, frames)).float().div_(255)[:, None],
        }
