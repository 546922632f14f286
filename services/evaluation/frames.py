"""The frames that reconstructions are measured on: crops of persons that nothing was trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.clips import REMAKE, Prepared
from datamodules.face_video import unbroken
from datamodules.people import Split
from datamodules.shards import Shard
from datamodules.spread import spread
from datamodules.types import BadInputError, Frames

SIDE = 256
"""Pixels: every number of a reconstruction is told at this size."""


@dataclass(frozen=True)
class HeldOutFrames:
    """N aligned crops, clip after clip."""

    pixels: Frames
    """``(N, 256, 256, 3)`` uint8 RGB."""
    clips: tuple[str, ...]
    """Name of each frame's clip."""
    people: tuple[int, ...]
    """Number of each frame's person."""
    data_hash: str
    """Of the shards they come from and of which frames were taken."""

    def __post_init__(self) -> None:
        count = len(self.clips)
        if self.pixels.shape != (count, SIDE, SIDE, 3) or self.pixels.dtype != np.uint8:
            raise BadInputError(
                f"{count} crops of {SIDE} px are measured, these are {self.pixels.shape}; set clips.size to {SIDE}"
            )
        if len(self.people) != count or not count:
            raise BadInputError("there must be frames to measure on, each with its clip and its person")

    def __len__(self) -> int:
        return len(self.clips)

    def spread(self, count: int) -> list[int]:
        """Indices of ``count`` frames spread evenly over all of them (all where there are fewer): a fixed list."""
        return spread(len(self), count)


def held_out_frames(prepared: Prepared, per_clip: int, split: Split = "test") -> HeldOutFrames:
    """``per_clip`` frames of every clip of a split, evenly spread; the same ones on every machine.

    Raises ``BadInputError`` where the split is empty or its crops are not of 256 px.
    """
    clips = sorted((clip for clip in prepared.of(split) if clip.person >= 0), key=lambda clip: clip.sha256)
    if not clips:
        raise BadInputError(
            f"{prepared.folder} has no clip of a {split} person; name some in datamodules/test_people.toml"
        )
    pixels, names, people = [], [], []
    for clip in clips:
        shard = Shard(prepared.folder / clip.shard, REMAKE)
        for row in spread(len(shard), per_clip):
            pixels.append(shard.pixels(row))
            names.append(clip.name)
            people.append(clip.person)
    # Persons are numbered by their first clip, which clips of other splits may change; only equality counts.
    order = {person: number for number, person in enumerate(dict.fromkeys(people))}
    taken = f"{prepared.data_hash(split)} {split} {per_clip}"
    data_hash = hashlib.sha256(taken.encode()).hexdigest()
    return HeldOutFrames(np.stack(pixels), tuple(names), tuple(order[p] for p in people), data_hash)


def consecutive_frames(
    prepared: Prepared, per_clip: int, least: int, split: Split = "test"
) -> tuple[HeldOutFrames, ...]:
    """One stretch of each clip of a split: the first ``per_clip`` frames that follow each other in one shot.

    Where there are not as many the longest stretch is taken; clips whose longest is shorter than ``least`` are
    left out. All carry the hash of the whole. Raises ``BadInputError`` where no clip is left.
    """
    if per_clip < least:
        raise BadInputError(f"at least {least} consecutive frames are needed, got {per_clip}")
    taken = f"{prepared.data_hash(split)} {split} {per_clip} consecutive"
    data_hash = hashlib.sha256(taken.encode()).hexdigest()
    stretches = []
    for clip in sorted((clip for clip in prepared.of(split) if clip.person >= 0), key=lambda clip: clip.sha256):
        shard = Shard(prepared.folder / clip.shard, REMAKE)
        rows = stretch(shard.array("frame"), shard.array("shot"), per_clip)
        if len(rows) >= least:
            pixels = np.stack([shard.pixels(row) for row in rows])
            count = len(rows)
            stretches.append(HeldOutFrames(pixels, (clip.name,) * count, (clip.person,) * count, data_hash))
    if not stretches:
        raise BadInputError(
            f"{prepared.folder} has no {split} clip with {least} frames in a row; prepare longer clips"
        )
    return tuple(stretches)


def stretch(frame: NDArray[np.int64], shot: NDArray[np.int32], count: int) -> range:
    """Rows of the first ``count`` crops that follow each other in one shot, or of the longest run there is.

    ``frame`` ``(N,)`` are the crops' frames in the video, ``shot`` ``(N,)`` their shots.
    """
    runs = unbroken(frame, shot)
    first, end = next(
        (run for run in runs if run[1] - run[0] >= count), max(runs, key=lambda run: run[1] - run[0])
    )
    return range(first, min(end, first + count))
