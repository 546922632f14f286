"""What the runs of trainings and evaluations show: frames beside what was made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from datamodules.spread import spread
from modules.sheet import Image, Row, draw_grid, draw_sheet, to_picture

if TYPE_CHECKING:
    from services.evaluation.frames import HeldOutFrames
    from services.evaluation.video import CodeSource

SIDE = 128
"""Of a picture in a run's sheets, in pixels."""
FRAMES, PAIR_COLUMNS = 24, 4
"""Largest number of frames that reconstructions are shown of, and how many of them stand in a row in training."""
CLIPS, STREAMED = 8, 9
"""Largest number of clips that rows are shown on, and of frames that an encoder has seen of each by then."""


def pairs_sheet(inputs: Sequence[Image], reconstructions: Sequence[Image]) -> Image:
    """Frames ``(h, w, 3)`` uint8, each with its reconstruction right of it."""
    pairs = [picture for pair in zip(inputs, reconstructions, strict=True) for picture in pair]
    return draw_grid(pairs, SIDE, 2 * PAIR_COLUMNS)


class Shown:
    """Collects what an evaluation renders of some frames."""

    def __init__(self, frames: HeldOutFrames, fixed: Sequence[int]) -> None:
        """``fixed`` are the frames that every row is measured on; some of them are shown."""
        self.frames = frames
        self.chosen = [fixed[i] for i in spread(len(fixed), FRAMES)]
        self.rows: dict[str, dict[int, Image]] = {}

    def see(self, name: str, indices: Sequence[int], shown: Tensor) -> None:
        """``shown`` ``(n, 3, H, W)`` are the frames at ``indices`` as the row ``name`` gives them."""
        row = self.rows.setdefault(name, {})
        row |= {i: to_picture(image) for i, image in zip(indices, shown, strict=True) if i in self.chosen}

    def sheet(self, names: Mapping[str, str]) -> Image:
        """A row per frame: the frame, then what the rows in ``names`` show of it, with their labels as titles."""
        rows = [
            Row([self.frames.pixels[i], *(self.rows[name][i] for name in names)], self.frames.clips[i][:18])
            for i in self.chosen
        ]
        return draw_sheet(rows, SIDE, ["input", *names.values()])


def video_sheet(
    clips: Sequence[HeldOutFrames], rows: Sequence[CodeSource], render: Callable[[Tensor], Tensor]
) -> Image:
    """A row per clip, evenly spread: a frame, then what each of ``rows`` makes of it after the frames before.

    ``render`` takes codes ``(1, num_ws, w_dim)``.
    """
    shown = []
    for number in spread(len(clips), CLIPS):
        clip = clips[number]
        begun = replace(
            clip, pixels=clip.pixels[:STREAMED], clips=clip.clips[:STREAMED], people=clip.people[:STREAMED]
        )
        faces = [to_picture(render(row.encode(begun).ws[-1:])[0]) for row in rows]
        shown.append(Row([begun.pixels[-1], *faces], begun.clips[-1][:18]))
    return draw_sheet(shown, SIDE, ["input", *(row.label for row in rows)])
