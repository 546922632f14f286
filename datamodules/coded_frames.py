"""Crops of one face and the codes they stand for: what a generator is adapted on (StylePortraitVideo, eq. 1)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from datamodules.rows import Rows
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
        rows = [self._frame(step * self.batch_size + place) for place in range(self.batch_size)]
        return {
            "ws": torch.from_numpy(np.concatenate([self.codes.read(row, row + 1) for row in rows])),
            "images": to_tensor(np.concatenate([self.crops.read(row, row + 1) for row in rows])),
        }

    def _frame(self, place: int) -> int:
        turn, within = divmod(place, len(self.codes))
        return int(np.random.default_rng((self.seed, turn)).permutation(len(self.codes))[within])
