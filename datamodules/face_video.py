"""Prepared clips as batches: single frames, consecutive pairs, or episodes, split by person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.clips import REMAKE, Prepared, PreparedClip, read_prepared
from datamodules.people import Split
from datamodules.shards import Shard, to_tensor
from datamodules.types import BadInputError


@dataclass(frozen=True)
class FaceVideoConfig:
    """What an item is and how items are loaded."""

    length: int
    """Consecutive frames per item: 1 is frames, 2 is consecutive pairs, more is episodes."""
    hop: int
    """Frames from the start of one item to the start of the next."""
    per_clip: int
    """Most items of one clip, evenly spread, so that long clips do not drown the others; 0 is all."""
    stills: int
    """Most items of one folder of stills, evenly spread; 0 is all."""
    batch_size: int
    """Items per batch."""
    workers: int
    """Processes that load; 0 loads in the training process."""

    def __post_init__(self) -> None:
        if min(self.length, self.hop, self.batch_size) < 1 or min(self.per_clip, self.stills, self.workers) < 0:
            raise ValueError(
                "length, hop and batch_size must be 1 or more, per_clip, stills and workers 0 or more"
            )

    def that_counts(self) -> FaceVideoConfig:
        """The same, without how items are loaded: which items there are hangs on the rest."""
        return replace(self, batch_size=1, workers=0)


class Faces(NamedTuple):
    """One item; batches of it collate to the same type with N in front."""

    images: Tensor
    """``(3, S, S)`` float32 RGB in [-1, 1]; ``(T, 3, S, S)`` where items are longer than one frame."""
    landmarks: Tensor
    """``(68, 2)`` or ``(T, 68, 2)`` in crop pixels; NaN for still images."""
    clip: int
    """Number of the clip in the prepared index."""
    person: int
    """Number of the person; -1 where it is not known."""


class FaceDataset(Dataset[Faces]):
    """Runs of consecutive frames of prepared clips; no run crosses a cut or a frame without a face."""

    def __init__(
        self,
        prepared: Prepared,
        split: Split,
        length: int = 1,
        hop: int = 1,
        per_clip: int = 0,
        stills: int = 0,
    ) -> None:
        self.length = length
        self._clips: list[tuple[int, PreparedClip, Shard]] = []
        self._items: list[tuple[int, int]] = []
        for number, clip in enumerate(prepared.clips):
            if clip.split != split:
                continue
            shard = Shard(prepared.folder / clip.shard, REMAKE)
            starts = runs(shard.array("frame"), shard.array("shot"), length, hop)
            most = stills if clip.person < 0 else per_clip
            if most and len(starts) > most:
                starts = [starts[i] for i in np.linspace(0, len(starts) - 1, most).round().astype(int)]
            self._items += [(len(self._clips), start) for start in starts]
            self._clips.append((number, clip, shard))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Faces:
        place, start = self._items[index]
        number, clip, shard = self._clips[place]
        pixels = np.stack([shard.pixels(start + step) for step in range(self.length)])
        landmarks = torch.from_numpy(shard.rows("landmarks", start, start + self.length).copy())
        images = to_tensor(pixels)
        if self.length == 1:
            images, landmarks = images[0], landmarks[0]
        return Faces(images, landmarks, number, clip.person)


class FaceVideoDataModule(lightning.LightningDataModule):
    """Batches of a prepared folder, split by person.

    ``prepare`` makes the folder (``clips.prepare_clips`` with networks bound) where it is given; it is called
    once per machine, before training. Raises ``BadInputError`` for a folder that is not prepared, or a split
    without items where batches of it are asked for.
    """

    def __init__(
        self, folder: Path, config: FaceVideoConfig, prepare: Callable[[], object] | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.folder, self.config, self.seed = folder, config, seed
        self._prepare = prepare
        self._prepared: Prepared | None = None

    @property
    def prepared(self) -> Prepared:
        """The index of the folder: clips, persons, splits, what was left out and why."""
        if self._prepared is None:
            self._prepared = read_prepared(self.folder)
        return self._prepared

    def prepare_data(self) -> None:
        """Make the shards where a way to make them was given."""
        if self._prepare is not None:
            self._prepare()
            self._prepared = None

    def dataset(self, split: Split) -> FaceDataset:
        """Items of one split. Raises ``BadInputError`` where there are none."""
        config = self.config
        dataset = FaceDataset(self.prepared, split, config.length, config.hop, config.per_clip, config.stills)
        if not len(dataset):
            raise BadInputError(
                f"{self.folder} has nothing for {split!r} with {config.length} frames per item; "
                "add clips of other persons, or change the shares in params.yaml"
            )
        return dataset

    def train_dataloader(self) -> DataLoader[Faces]:
        """Shuffled batches of the training persons; what is left of the last batch is dropped."""
        dataset = self.dataset("train")
        return self._loader(dataset, shuffle=True, drop_last=len(dataset) >= self.config.batch_size)

    def val_dataloader(self) -> DataLoader[Faces]:
        """Batches of the validation persons, in order."""
        return self._loader(self.dataset("val"))

    def test_dataloader(self) -> DataLoader[Faces]:
        """Batches of the test persons, in order."""
        return self._loader(self.dataset("test"))

    def _loader(self, dataset: FaceDataset, shuffle: bool = False, drop_last: bool = False) -> DataLoader[Faces]:
        return DataLoader(
            dataset,
            batch_size=self.config.batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=self.config.workers,
            persistent_workers=self.config.workers > 0,
            generator=torch.Generator().manual_seed(self.seed) if shuffle else None,
        )


def runs(frame: NDArray[np.int64], shot: NDArray[np.int32], length: int, hop: int) -> list[int]:
    """Rows at which ``length`` consecutive frames of one shot begin, ``hop`` apart within each stretch."""
    starts: list[int] = []
    for first, last in unbroken(frame, shot):
        starts += range(first, last - length + 1, hop)
    return starts


def unbroken(frame: NDArray[np.int64], shot: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Rows ``[first, last)`` of each stretch of consecutive frames of one shot."""
    breaks = np.flatnonzero((np.diff(frame) != 1) | (np.diff(shot) != 0)) + 1
    return list(pairwise([0, *breaks.tolist(), len(frame)]))
