"""Training batches for the pose editor: pairs of frames of a clip, and codes of which a movement is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from datamodules.samples import Sample
from datamodules.shards import Shard, to_tensor
from datamodules.types import BadInputError


@dataclass(frozen=True)
class FramePairs:
    """Frames of one clip that are some time apart, and how the face differs between them."""

    shard: Shard
    rows: NDArray[np.int64]
    """``(P, 2)``: rows of the first and the second frame."""
    change: Tensor
    """``(P, D)``: what the second face differs by from the first."""
    weight: NDArray[np.float64]
    """``(P,)`` above 0: how often a pair is drawn, among the others of its clip."""

    def __post_init__(self) -> None:
        if not len(self.rows) == len(self.change) == len(self.weight) or not len(self.rows):
            raise ValueError(f"{len(self.rows)} pairs need as many changes and weights, and there must be one")
        if not (self.weight > 0).all():
            raise ValueError("weights of pairs must lie above 0")


@dataclass(frozen=True)
class Movements:
    """What is asked of codes: sums of a few edits, each within its bounds."""

    changes: Tensor
    """``(K, D)``: what one unit of each edit asks."""
    bounds: Sequence[tuple[float, float]]
    """Smallest and largest strength of each."""
    active: float
    """Probability that an edit has a part in a movement; there is always one that has."""

    def draw(self, random: np.random.Generator) -> Tensor:
        """``(D,)``: one movement."""
        parts = random.random(len(self.bounds)) < self.active
        parts[random.integers(len(parts))] = True
        drawn = [random.uniform(*bound) for bound in self.bounds]
        strengths = np.where(parts, drawn, 0.0)
        return torch.from_numpy(strengths).to(self.changes) @ self.changes


def frame_pairs(
    frame: NDArray[np.int64], shot: NDArray[np.int32], rate: Fraction, seconds: float
) -> NDArray[np.int64]:
    """``(P, 2)`` rows of frames ``seconds`` apart in one shot (FrEN/ViEN 4.4: 10 frames, which are 0.33 s).

    ``frame`` and ``shot`` are the numbers of each row's frame and shot, ``rate`` frames per second. At least one
    frame lies between the two of a pair where ``seconds`` is shorter than that.
    """
    if rate <= 0 or seconds <= 0:
        raise ValueError(f"a rate and a time above 0 are needed, got {rate} and {seconds}")
    gap = max(1, round(float(rate) * seconds))
    place = {int(number): row for row, number in enumerate(frame)}
    pairs = [(row, place[int(number) + gap]) for row, number in enumerate(frame) if int(number) + gap in place]
    return np.array([(a, b) for a, b in pairs if shot[a] == shot[b]], np.int64).reshape(-1, 2)


class PoseBatches(IterableDataset[dict[str, Tensor]]):
    """Batches of pairs and of codes.

    Pairs: ``frames`` and ``targets`` ``(P, 3, S, S)`` in [-1, 1], ``change`` ``(P, D)``. Codes: ``ws``
    ``(N, num_ws, w_dim)``, their renderings ``images`` ``(N, 3, r, r)``, ``asked`` ``(N, D)``. Batch ``k`` is a
    function of the seed and ``k`` alone: a resumed run goes on with the batches it would have had. Clips are drawn
    alike, however long; so are the sources of codes.
    """

    def __init__(
        self,
        clips: Sequence[FramePairs],
        sources: Sequence[Dataset[Sample]],
        movements: Movements,
        pairs: int,
        codes: int,
        steps: int,
        seed: int,
        first_step: int = 0,
    ) -> None:
        """``pairs`` and ``codes`` are the numbers per batch. Raises ``BadInputError`` where none can be drawn."""
        if (pairs and not clips) or not codes or not all(_length(source) for source in sources) or not sources:
            raise BadInputError(
                "the pose editor trains on pairs of frames and on codes, and there are none; "
                "run `dvc repro prepare samples`, or set pose_editor.training.pairs to 0"
            )
        self.clips, self.sources, self.movements = clips, sources, movements
        self.pairs, self.codes, self.steps, self.seed, self.first_step = pairs, codes, steps, seed, first_step

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.first_step + start, self.steps, stride):
            yield self.batch(step)

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of one step."""
        random = np.random.default_rng((self.seed, step))
        samples = []
        for _ in range(self.codes):
            source = self.sources[int(random.integers(len(self.sources)))]
            samples.append(source[int(random.integers(_length(source)))])
        batch = {
            "ws": torch.stack([sample.ws for sample in samples]).float(),
            "images": torch.stack([sample.image for sample in samples]),
            "asked": torch.stack([self.movements.draw(random) for _ in samples]),
        }
        if not self.pairs:
            return batch
        drawn = []
        for _ in range(self.pairs):
            clip = self.clips[int(random.integers(len(self.clips)))]
            drawn.append((clip, int(random.choice(len(clip.rows), p=clip.weight / clip.weight.sum()))))
        return {
            **batch,
            "frames": torch.stack([to_tensor(clip.shard.pixels(int(clip.rows[k, 0]))) for clip, k in drawn]),
            "targets": torch.stack([to_tensor(clip.shard.pixels(int(clip.rows[k, 1]))) for clip, k in drawn]),
            "change": torch.stack([clip.change[k] for clip, k in drawn]),
        }


class KeptSamples(Dataset[Sample]):
    """Codes ``(M, num_ws, w_dim)`` and their renderings ``(M, r, r, 3)`` uint8, as samples."""

    def __init__(self, ws: Tensor, pictures: NDArray[np.uint8]) -> None:
        if len(ws) != len(pictures):
            raise ValueError(f"{len(ws)} codes need as many pictures, there are {len(pictures)}")
        self.ws, self.pictures = ws, pictures

    def __len__(self) -> int:
        return len(self.ws)

    def __getitem__(self, index: int) -> Sample:
        return Sample(to_tensor(self.pictures[index]), self.ws[index])


def _length(source: Dataset[Sample]) -> int:
    return len(source)  # type: ignore[arg-type]
