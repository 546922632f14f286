"""Short runs of consecutive frames for encoders with a memory, each with a frame that may lie further back.

Batch ``k`` is a function of the seed and ``k`` alone: a resumed run goes on with the batches it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from datamodules.clips import REMAKE, Prepared
from datamodules.face_video import unbroken
from datamodules.mixture import Batch, Frames
from datamodules.people import Split
from datamodules.shards import Shard, to_tensor
from datamodules.types import BadInputError
from datamodules.variation import Unsteadiness, unsteady


@dataclass(frozen=True)
class EpisodePlan:
    """A stretch of equal batches."""

    steps: int
    """Number of batches."""
    episodes: int
    """Episodes per batch."""
    length: int
    """Frames of an episode after the one it begins from."""
    shown: int
    """Consecutive frames of them that are rendered."""
    long_memory: float
    """Share of the episodes whose earlier frame may lie anywhere before them in the shot; else it is the first."""
    still_share: float
    """Share of the episodes that a still image makes, unsteadily held: more persons than there are clips of."""

    def __post_init__(self) -> None:
        if not 1 <= self.shown <= self.length or self.episodes < 1:
            raise ValueError(f"an episode shows 1 to all of its frames, got {self}")
        if not (0.0 <= self.long_memory <= 1.0 and 0.0 <= self.still_share <= 1.0):
            raise ValueError(f"shares lie in [0, 1], got {self}")


@dataclass(frozen=True)
class Stretch:
    """Consecutive frames of one shot of one clip, all with the face."""

    shard: Shard
    first: int
    """Row of the shard."""
    last: int
    """One after the last row."""

    def images(self, rows: Sequence[int]) -> Tensor:
        """``(n, 3, S, S)`` float32 in [-1, 1]."""
        return to_tensor(np.stack([self.shard.pixels(row) for row in rows]))


def stretches(prepared: Prepared, split: Split, shortest: int) -> list[list[Stretch]]:
    """By clip, the stretches of a split that have ``shortest`` frames or more; clips without any are left out.

    Raises ``BadInputError`` where there are none at all.
    """
    clips = []
    for clip in prepared.of(split):
        if clip.person < 0:
            continue
        shard = Shard(prepared.folder / clip.shard, REMAKE)
        parts = unbroken(shard.array("frame"), shard.array("shot"))
        found = [Stretch(shard, a, b) for a, b in parts if b - a >= shortest]
        if found:
            clips.append(found)
    if not clips:
        raise BadInputError(
            f"{prepared.folder} has no {shortest} consecutive frames of a {split} person; add clips"
        )
    return clips


class Stills(Dataset[Tensor]):
    """The still images of a split, ``(3, S, S)`` in [-1, 1] each; there may be none."""

    def __init__(self, prepared: Prepared, split: Split) -> None:
        images = [clip for clip in prepared.of(split) if clip.person < 0]
        self._shards = [Shard(prepared.folder / clip.shard, REMAKE) for clip in images]
        self._rows = [(shard, row) for shard in self._shards for row in range(len(shard))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Tensor:
        shard, row = self._rows[index]
        return to_tensor(shard.pixels(row))


class EpisodeBatches(IterableDataset[Batch]):
    """Batches of ``frames`` ``(N, 2 + T, 3, S, S)`` in [-1, 1] and ``shown`` ``(N,)``.

    Frame 0 is the earlier one, whose fine codes are kept; frame 1 the one that the episode begins from; then its
    T frames, of which those from ``shown`` on are rendered. Half of the episodes are mirrored. Clips are drawn
    alike, however long they are; where there are no stills, clips take their share. Workers and processes share
    the batches as in ``BatchMixture``.
    """

    def __init__(
        self,
        clips: Sequence[Sequence[Stretch]],
        stills: Frames,
        plans: Sequence[EpisodePlan],
        unsteadiness: Unsteadiness,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
    ) -> None:
        """``clips`` are those of ``stretches``, each long enough for every plan; ``stills`` may be empty."""
        self.clips, self.plans = [list(clip) for clip in clips], tuple(plans)
        self.stills, self.unsteadiness = stills, unsteadiness
        self.seed, self.first_step, self.rank = seed, first_step, rank

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        sizes = [plan for plan in self.plans for _ in range(plan.steps)]
        for step in range(self.first_step + start, len(sizes), stride):
            yield self.batch(step, sizes[step])

    def batch(self, step: int, plan: EpisodePlan) -> Batch:
        """The batch of one step."""
        random = np.random.default_rng((self.seed, self.rank, step))
        share = plan.still_share if len(self.stills) else 0.0
        made = [random.random() < share for _ in range(plan.episodes)]
        frames = torch.stack(
            [self._held(random, plan) if still else self._episode(random, plan) for still in made]
        )
        shown = random.integers(plan.length - plan.shown + 1, size=plan.episodes)
        return {"frames": frames, "shown": torch.from_numpy(shown)}

    def _held(self, random: np.random.Generator, plan: EpisodePlan) -> Tensor:
        image = self.stills[int(random.integers(len(self.stills)))]
        image = image.flip(-1) if random.random() < 0.5 else image
        return unsteady(image, plan.length + 2, self.unsteadiness, random)

    def _episode(self, random: np.random.Generator, plan: EpisodePlan) -> Tensor:
        clip = self.clips[int(random.integers(len(self.clips)))]
        room = np.array([stretch.last - stretch.first - plan.length for stretch in clip], float).clip(0)
        if not room.sum():
            raise BadInputError(f"no stretch of a clip has {plan.length + 1} frames; shorten the episodes")
        stretch = clip[int(random.choice(len(clip), p=room / room.sum()))]
        begin = int(random.integers(stretch.first, stretch.last - plan.length))
        earlier = int(random.integers(stretch.first, begin + 1)) if random.random() < plan.long_memory else begin
        images = stretch.images([earlier, *range(begin, begin + plan.length + 1)])
        return images.flip(-1) if random.random() < 0.5 else images
