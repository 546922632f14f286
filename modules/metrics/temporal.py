"""TC: how much a reconstructed video jitters (FrEN/ViEN, sections 3.2 and 4.2, Fig. 3).

Six neighbours of a frame, three before and three after, are aligned to it, and the differences are added up. The
paper does not say how frames are aligned. Here it is the flow of the input video, the same for every method:
flow of a reconstruction would explain part of its own jitter away. So a video that does not follow the input's
motion scores higher for that too, and so does a still picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from datamodules.types import Frames
from modules.metrics.fidelity import MeanPerImage
from modules.perception.flow import DenseFlow, consistent, warp

REACH = 3
OFFSETS = tuple(offset for offset in range(-REACH, REACH + 1) if offset)
"""The six neighbours of a frame."""


class Neighbours(NamedTuple):
    """How the six neighbours of one centre frame lie on it."""

    flows: Tensor
    """``(6, 2, H, W)`` pixels: from the centre to each neighbour."""
    seen: Tensor
    """``(6, H, W)`` bool: places of the centre that the neighbour shows."""


class Alignment(Protocol):
    """Those of every centre frame in turn; a clip of T frames has T - 6 centres."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Neighbours]: ...


class NeighbourFlows:
    """The ``Neighbours`` of an input video, computed anew each time it is iterated over, centre by centre.

    Only the flows of one neighbourhood are held; ``list`` holds all of them, 3 MB for each frame of 256 px.
    """

    def __init__(self, frames: Frames, flow: DenseFlow) -> None:
        """``frames`` ``(T, H, W, 3)`` uint8, T at least 7, of one shot."""
        if len(frames) < 2 * REACH + 1:
            raise ValueError(f"six neighbours need at least {2 * REACH + 1} frames, got {len(frames)}")
        self.frames, self.flow = frames, flow

    def __len__(self) -> int:
        return len(self.frames) - 2 * REACH

    def __iter__(self) -> Iterator[Neighbours]:
        pairs: dict[tuple[int, int], Tensor] = {}

        def between(first: int, second: int) -> Tensor:
            if (first, second) not in pairs:
                pairs[first, second] = self.flow(self.frames[first], self.frames[second])
            return pairs[first, second]

        for centre in range(REACH, len(self.frames) - REACH):
            there = torch.stack([between(centre, centre + k) for k in OFFSETS])
            back = torch.stack([between(centre + k, centre) for k in OFFSETS])
            yield Neighbours(there, consistent(there, back, self.flow.config))
            # Centres to come look at pairs with a later frame alone.
            pairs = {pair: found for pair, found in pairs.items() if max(pair) > centre}


def accumulated_errors(frames: Tensor, alignment: Alignment) -> Tensor:
    """Error maps of Fig. 3: frames ``(T, 3, H, W)`` in [-1, 1] to ``(T - 6, H, W)``.

    Per place the root mean square over the channels, of intensities in [0, 1], summed over the six neighbours.
    Neighbours that do not show a place are left out, and the others stand for them; NaN where none shows it.
    """
    return torch.stack(list(_error_maps(frames, alignment)))


def temporal_consistency(frames: Tensor, alignment: Alignment) -> Tensor:
    """TC per centre frame, ``(T - 6,)``: the mean of its error map; 0 for a video that moves as the input does.

    Noise of standard deviation s, in [0, 1], on every frame of a still video gives 6 s sqrt(2) sqrt(8 / 3 pi).
    """
    return torch.stack([one.nanmean() for one in _error_maps(frames, alignment)])


def _error_maps(frames: Tensor, alignment: Alignment) -> Iterator[Tensor]:
    """``(H, W)`` of each centre frame; see ``accumulated_errors``."""
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames must be (T, 3, H, W), got {tuple(frames.shape)}")
    if len(frames) - 2 * REACH != len(alignment):
        raise ValueError(f"{len(alignment)} centres do not go with frames {tuple(frames.shape)}")
    for centre, (flows, seen) in enumerate(alignment, REACH):
        if flows.shape[2:] != frames.shape[2:]:
            raise ValueError(f"flows of {tuple(flows.shape[2:])} do not go with frames {tuple(frames.shape)}")
        # What is shown, in [0, 1], of the seven frames that are looked at.
        around = {k: frames[centre + k].clamp(-1, 1) / 2 for k in (*OFFSETS, 0)}
        aligned = warp(torch.stack([around[k] for k in OFFSETS]), flows.to(frames))
        error = (aligned - around[0]).square().mean(1).sqrt()
        weight = seen.to(frames)
        yield len(OFFSETS) * (error * weight).sum(0) / weight.sum(0)


class TemporalConsistency(MeanPerImage):
    """Mean TC over all centre frames of all clips."""

    higher_is_better = False

    def __init__(self, flow: DenseFlow, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flow = flow

    @torch.no_grad()
    def update(self, frames: Tensor, source: Frames) -> None:
        """Count one clip ``(T, 3, H, W)``; ``source`` is its input, ``(T, H, W, 3)`` uint8."""
        self.add(temporal_consistency(frames, NeighbourFlows(source, self.flow)))
