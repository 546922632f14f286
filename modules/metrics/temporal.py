"""TC: how much a reconstructed video jitters (FrEN/ViEN, sections 3.2 and 4.2, Fig. 3).

Six neighbours of a frame, three before and three after, are laid onto it, and the differences are added up. The
paper does not say how frames are aligned. Here it is the flow of the input video, the same for every method:
flow of a reconstruction would explain part of its own jitter away. So a video that does not follow the input's
motion is charged for that too, and a still picture is not free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.types import Frames
from modules.metrics.fidelity import MeanPerImage
from modules.perception.flow import DenseFlow, consistent, warp

REACH = 3
OFFSETS = tuple(offset for offset in range(-REACH, REACH + 1) if offset)
"""The six neighbours of a frame."""


@dataclass(frozen=True)
class NeighbourFlows:
    """How the neighbours of every centre frame lie on it; a clip of T frames has T - 6 centres."""

    flows: Tensor
    """``(T - 6, 6, 2, H, W)`` pixels: from the centre to each neighbour."""
    seen: Tensor
    """``(T - 6, 6, H, W)`` bool: places of the centre that the neighbour shows."""

    def __len__(self) -> int:
        return len(self.flows)


def neighbour_flows(frames: Frames, flow: DenseFlow) -> NeighbourFlows:
    """Flows of an input video ``(T, H, W, 3)`` uint8, T at least 7, of one shot."""
    if len(frames) < 2 * REACH + 1:
        raise ValueError(f"six neighbours need at least {2 * REACH + 1} frames, got {len(frames)}")
    pairs = {(a, a + k): flow(frames[a], frames[a + k])
             for a in range(len(frames)) for k in OFFSETS if 0 <= a + k < len(frames)}  # fmt: skip
    flows, seen = [], []
    for centre in range(REACH, len(frames) - REACH):
        there = torch.stack([pairs[centre, centre + k] for k in OFFSETS])
        back = torch.stack([pairs[centre + k, centre] for k in OFFSETS])
        flows.append(there)
        seen.append(consistent(there, back, flow.config))
    return NeighbourFlows(torch.stack(flows), torch.stack(seen))


def accumulated_errors(frames: Tensor, alignment: NeighbourFlows) -> Tensor:
    """Error maps of Fig. 3: frames ``(T, 3, H, W)`` in [-1, 1] to ``(T - 6, H, W)``.

    Per place the root mean square over the channels, of intensities in [0, 1], summed over the six neighbours.
    Neighbours that do not show a place are left out, and the others stand for them; NaN where none shows it.
    """
    count, _, *size = _check(frames)
    if count - 2 * REACH != len(alignment) or tuple(alignment.flows.shape[3:]) != tuple(size):
        raise ValueError(
            f"{len(alignment)} centres of {tuple(alignment.flows.shape[3:])} do not go with frames "
            f"{tuple(frames.shape)}"
        )
    shown = frames.clamp(-1, 1) / 2
    maps = []
    for number, (flow, seen) in enumerate(zip(alignment.flows, alignment.seen, strict=True)):
        centre = number + REACH
        aligned = warp(shown[[centre + k for k in OFFSETS]], flow.to(shown))
        error = (aligned - shown[centre]).square().mean(1).sqrt()
        weight = seen.to(shown)
        maps.append(len(OFFSETS) * (error * weight).sum(0) / weight.sum(0))
    return torch.stack(maps)


def temporal_consistency(frames: Tensor, alignment: NeighbourFlows) -> Tensor:
    """TC per centre frame, ``(T - 6,)``: the mean of its error map; 0 for a video that moves as the input does.

    Noise of standard deviation s, in [0, 1], on every frame of a still video gives 6 s sqrt(2) sqrt(8 / 3 pi).
    """
    return accumulated_errors(frames, alignment).nanmean((1, 2))


class TemporalConsistency(MeanPerImage):
    """Mean TC over all centre frames of all clips."""

    higher_is_better = False

    def __init__(self, flow: DenseFlow, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flow = flow

    @torch.no_grad()
    def update(self, frames: Tensor, source: Frames | NeighbourFlows) -> None:
        """Count one clip ``(T, 3, H, W)``; ``source`` is its input, or what ``neighbour_flows`` gave of it."""
        alignment = source if isinstance(source, NeighbourFlows) else neighbour_flows(source, self.flow)
        self.add(temporal_consistency(frames, alignment))


def _check(frames: Tensor) -> torch.Size:
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"frames must be (T, 3, H, W), got {tuple(frames.shape)}")
    return frames.shape
