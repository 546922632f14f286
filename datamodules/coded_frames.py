"""Crops of one face and the codes they stand for: what a generator is adapted on (StylePortraitVideo, eq. 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from datamodules.rows import Kind, Rows
from datamodules.shards import to_tensor


class CodedFrames(IterableDataset[dict[str, Tensor]]):
    """Batches of ``ws`` ``(N, num_ws, w_dim)`` and ``images`` ``(N, 3, S, S)`` in [-1, 1].

    Every frame comes once before any comes again, in an order of the seed's; batch ``k`` is a function of the
    seed, the batch size and ``k`` alone, so a resumed run goes on with the batches it would have had.
    """

    def __init__(
        self,
        codes: Rows[np.float32],
        crops: Rows[np.uint8],
        batch_size: int,
        steps: int,
        seed: int,
        first_step: int = 0,
    ) -> None:
        """Raises ``ValueError`` where codes and crops are not as many, or there are none."""
        if len(codes) != len(crops) or not len(codes):
            raise ValueError(f"{len(codes)} codes need as many crops, there are {len(crops)}")
        self.codes, self.crops = codes, crops
        self.batch_size, self.steps, self.seed, self.first_step = batch_size, steps, seed, first_step

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in range(self.first_step, self.steps):
            yield self.batch(step)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of one step."""
        frames = self.frames_of(step)
        return {
            "ws": torch.from_numpy(picked(self.codes, frames)),
            "images": to_tensor(picked(self.crops, frames)),
        }

    def frames_of(self, step: int) -> list[int]:
        """Which frames the batch of one step is made of."""
        return [self._frame(step * self.batch_size + place) for place in range(self.batch_size)]

    def _frame(self, place: int) -> int:
        turn, within = divmod(place, len(self.codes))
        return int(np.random.default_rng((self.seed, turn)).permutation(len(self.codes))[within])


def picked(rows: Rows[Kind], places: Sequence[int]) -> NDArray[Kind]:
    """The rows of those places, in that order, read one by one."""
    return np.concatenate([rows.read(place, place + 1) for place in places])
