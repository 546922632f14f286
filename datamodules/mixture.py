"""Training batches that mix generator samples, whose codes are known, with real frames, whose codes are not.

Batch ``k`` is a function of the seed and ``k`` alone: a resumed run goes on with the batches it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.samples import SampleDataset
from datamodules.variation import SofteningConfig, VariationConfig, soften, vary

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class BatchPlan:
    """A stretch of equal batches."""

    steps: int
    """Number of batches."""
    samples: int
    """Generator samples per batch."""
    frames: int
    """Real frames per batch."""


class Frames(Protocol):
    """Real crops by number, each ``(3, r, r)`` float32 in [-1, 1]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


class BatchMixture(IterableDataset[Batch]):
    """Batches of ``images`` (what the encoder sees), ``targets`` ``(N, 3, r, r)`` in [-1, 1], and ``ws``.

    Samples come first, M of them; frames follow, mirrored half of the time and varied. Over the loader's workers
    the batches are dealt out in turn; over processes of a distributed run each process draws its own. There is no
    length, so that a Trainer that resumes does not count the batches before ``first_step`` as part of it.
    """

    def __init__(
        self,
        samples: SampleDataset,
        frames: Frames,
        plans: Sequence[BatchPlan],
        softening: SofteningConfig,
        variation: VariationConfig,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
    ) -> None:
        if not len(frames) and any(plan.frames for plan in plans):
            raise ValueError("the plan asks for real frames, but there are none")
        self.samples, self.frames, self.plans = samples, frames, tuple(plans)
        self.softening, self.variation = softening, variation
        self.seed, self.first_step, self.rank = seed, first_step, rank

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        sizes = [plan for plan in self.plans for _ in range(plan.steps)]
        for step in range(self.first_step + start, len(sizes), stride):
            yield self.batch(step, sizes[step])

    def batch(self, step: int, plan: BatchPlan) -> Batch:
        """The batch of one step."""
        random = np.random.default_rng((self.seed, self.rank, step))
        drawn = [self.samples[int(i)] for i in random.integers(len(self.samples), size=plan.samples)]
        real = [self.frames[int(i)] for i in random.integers(max(1, len(self.frames)), size=plan.frames)]
        real = [frame.flip(-1) if random.random() < 0.5 else frame for frame in real]
        real = [vary(frame, self.variation, random) for frame in real]
        targets = torch.stack([sample.image for sample in drawn] + real)
        images = torch.stack([soften(sample.image, self.softening, random) for sample in drawn] + real)
        ws = torch.stack([sample.ws for sample in drawn]) if drawn else torch.empty(0)
        return {"images": images, "targets": targets, "ws": ws}
