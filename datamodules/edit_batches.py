"""Training batches for directions: codes, their pictures, an edit of each and how strong it is to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.shards import to_tensor
from datamodules.types import Frames


class EditBatches(IterableDataset[dict[str, Tensor]]):
    """Batches of ``ws`` ``(C, num_ws, w_dim)``, their pictures ``images`` ``(C, 3, r, r)``, and N edits of them.

    An edit is of the code ``code`` ``(N,)``, has the number ``edit`` ``(N,)`` and the ``strength`` ``(N,)``. Every
    edit is asked of every code of a batch, up and down in turn. Batch ``k`` is a function of the seed and ``k``
    alone: a resumed run goes on with the batches it would have had.
    """

    def __init__(
        self,
        ws: Tensor,
        pictures: Frames,
        bounds: Sequence[tuple[float, float]],
        codes: int,
        steps: int,
        seed: int,
        least: float,
        first_step: int = 0,
    ) -> None:
        """``pictures`` are the renderings ``(M, r, r, 3)`` uint8 of ``ws`` ``(M, num_ws, w_dim)``.

        ``bounds`` are the strengths ``(lower, upper)`` of each edit, around 0; each is drawn from ``least`` (a
        share) of its bound to the whole. Raises ``ValueError`` for bounds that leave no strength, and where
        pictures and codes are not as many.
        """
        if len(ws) != len(pictures) or not len(ws):
            raise ValueError(f"{len(ws)} codes need as many pictures, there are {len(pictures)}")
        if any(lower > 0 or upper < 0 or lower == upper for lower, upper in bounds) or not 0 <= least < 1:
            raise ValueError(f"strengths must lie around 0, from a share in [0, 1) on; got {bounds} and {least}")
        self.ws, self.pictures, self.bounds, self.codes = ws, pictures, tuple(bounds), codes
        self.steps, self.seed, self.least, self.first_step = steps, seed, least, first_step

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.first_step + start, self.steps, stride):
            yield self.batch(step)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of one step."""
        random = np.random.default_rng((self.seed, step))
        edits = np.tile(np.arange(len(self.bounds)), self.codes)
        rows = random.choice(len(self.ws), size=self.codes)
        strengths = [
            random.uniform(self.least, 1) * self._side(edit, step + turn)
            for turn, edit in enumerate(edits.tolist())
        ]
        return {
            "ws": self.ws[rows].float(),
            "images": to_tensor(self.pictures[rows]),
            "code": torch.arange(self.codes).repeat_interleave(len(self.bounds)),
            "edit": torch.from_numpy(edits),
            "strength": torch.tensor(strengths, dtype=torch.float32),
        }

    def _side(self, edit: int, turn: int) -> float:
        lower, upper = self.bounds[edit]
        return (upper or lower) if turn % 2 else (lower or upper)
