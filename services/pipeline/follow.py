"""The crops and codes of one face, batch after batch through a clip: what all passes over a clip share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.alignment import crop_frame
from services.pipeline.composite import resized_transform
from services.pipeline.invert import CodesState, invert_crops
from services.pipeline.kept_codes import KeptCodes
from services.pipeline.models import Models
from services.pipeline.plan import FacePlan

Starts = Mapping[int, CodesState]
"""Where refinement begins in each shot, by the plan's index of its first frame."""


@dataclass(frozen=True)
class Seen:
    """What a stretch shows where the face is seen in all of its frames."""

    row: int
    """How many frames before it show the face: the place of its codes among those of the clip."""
    crops: NDArray[np.uint8]
    """``(n, s, s, 3)`` RGB, s the side that is encoded."""
    ws: Tensor
    """``(n, num_ws, w_dim)`` on the models' device."""


@dataclass(frozen=True)
class Stretch:
    """Frames inside one shot that all show the face, or all do not."""

    start: int
    """The plan's index of the first frame."""
    stop: int
    """That after the last one."""
    begins_shot: bool
    """Whether what was before it has no part in it."""
    seen: Seen | None
    """None where the face is not there."""


class Follower:
    """One face on its way through the clip: cuts it out and encodes it, and carries what the encoder remembers."""

    def __init__(
        self,
        face: FacePlan,
        cuts: Sequence[int],
        models: Models,
        steps: int,
        known: KeptCodes | None = None,
        starts: Starts | None = None,
    ) -> None:
        """``steps`` of refinement per frame; ``known`` has codes of the first frames and is given the others.

        ``starts`` has what refinement begins from in each shot, by the plan's index of its first frame.
        """
        self.face, self.cuts, self.models, self.steps, self.known = face, frozenset(cuts), models, steps, known
        self._starts = starts or {}
        valid: NDArray[np.bool_] = face.alignment.valid
        self._rows: NDArray[np.int64] = np.cumsum(valid) - valid
        self._state = self._begun(0)

    def stretches(
        self, frames: NDArray[np.uint8], place: int, check: Callable[[], None] = lambda: None
    ) -> Iterator[Stretch]:
        """The stretches of ``(n, H, W, 3)`` frames that follow those of the call before.

        ``place`` is the plan's index of the first frame; ``check`` is called in every step of refinement and may
        raise.
        """
        alignment = self.face.alignment
        for start, stop in self._runs(place, len(frames)):
            begins = start in self.cuts
            if begins:
                self._state = self._begun(start)
            if not alignment.valid[start]:
                # What comes back after a gap is looked at afresh; refinement keeps how far it had to go.
                self._state = replace(self._state, encoder=None)
                yield Stretch(start, stop, begins, None)
                continue
            within = zip(frames[start - place : stop - place], alignment.crop_to_frame[start:stop], strict=True)
            crops = np.stack([crop_frame(frame, matrix, alignment.size) for frame, matrix in within])
            row = int(self._rows[start])
            yield Stretch(start, stop, begins, Seen(row, crops, self._codes(row, crops, check)))

    def _begun(self, shot: int) -> CodesState:
        return self._starts.get(shot, CodesState())

    def _codes(self, row: int, crops: NDArray[np.uint8], check: Callable[[], None]) -> Tensor:
        known, end = self.known, row + len(crops)
        if known is not None and end <= len(known):
            if end == len(known):
                self._state = known.state(self.models.device)
            return torch.from_numpy(known.read(row, end)).to(self.models.device)
        ws, self._state = invert_crops(crops, self.models, self.steps, self._state, check)
        if known is not None:
            known.cut(row)  # where stretches were divided otherwise
            known.add(ws, self._state)
        return ws

    def chosen(
        self, frames: NDArray[np.uint8], place: int, rows: Set[int], size: int, check: Callable[[], None]
    ) -> Iterator[tuple[Seen, int, NDArray[np.uint8]]]:
        """Of ``stretches``, the frames whose plan's index is in ``rows`` and that show the face.

        Each with what its stretch shows, its place in there, and the face cut out anew, ``(size, size, 3)``.
        """
        alignment = self.face.alignment
        for stretch in self.stretches(frames, place, check):
            if stretch.seen is None:
                continue
            for index in sorted(rows & set(range(stretch.start, stretch.stop))):
                matrix = resized_transform(alignment.crop_to_frame[index], alignment.size, size)
                yield stretch.seen, index - stretch.start, crop_frame(frames[index - place], matrix, size)

    def _runs(self, place: int, count: int) -> list[tuple[int, int]]:
        valid = self.face.alignment.valid
        edges = [place]
        for index in range(place + 1, place + count):
            if valid[index] != valid[index - 1] or index in self.cuts:
                edges.append(index)
        return list(zip(edges, [*edges[1:], place + count], strict=True))
