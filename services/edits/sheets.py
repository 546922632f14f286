"""What the runs of the stages show: one sheet of pictures each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.clips import REMAKE, Prepared
from datamodules.samples import SampleDataset
from datamodules.shards import Shard
from datamodules.spread import spread
from modules.editing.directions import EditRequest, EditSet
from modules.sheet import Image, Row, draw_grid, draw_sheet, to_picture
from services.edits.appearance_measure import Render as RenderEdited
from services.edits.evaluation import Render
from services.evaluation.frames import HeldOutFrames

SIDE = 128
"""Of a picture, in pixels."""
CLIPS, CROPS = 40, 8
"""Largest number of clips that a sheet shows, evenly spread, and of crops of each."""
SAMPLES, SAMPLE_COLUMNS = 64, 8
FRAMES, PAIR_COLUMNS = 24, 4
"""Largest number of frames that reconstructions are shown of, and how many of them stand in a row in training."""


def clips_sheet(prepared: Prepared) -> Image:
    """Crops over the time of every clip, with its split and its person."""
    rows = []
    for number in spread(len(prepared.clips), CLIPS):
        clip = prepared.clips[number]
        shard = Shard(prepared.folder / clip.shard, REMAKE)
        who = f"person {clip.person}" if clip.person >= 0 else "stills"
        crops = [shard.pixels(frame) for frame in spread(len(shard), CROPS)]
        rows.append(Row(crops, clip.name[:18], f"{clip.split}, {who}\n{clip.frames} crops"))
    return draw_sheet(rows, SIDE)


def samples_sheet(samples: SampleDataset) -> Image:
    """Samples, evenly spread."""
    return draw_grid([to_picture(samples[i].image) for i in spread(len(samples), SAMPLES)], SIDE, SAMPLE_COLUMNS)


def edits_sheet(ws: Tensor, edits: EditSet, render: Render) -> Image:
    """A row per edit: each of the codes ``(N, num_ws, w_dim)`` at the lower bound, unedited and at the upper."""
    with torch.no_grad():
        plain = [to_picture(render(one)[0]) for one in torch.split(ws, 1)]
        rows = []
        for edit in edits.describe():
            pictures = []
            for one, unedited in zip(torch.split(ws, 1), plain, strict=True):
                low, high = (
                    to_picture(render(edits.apply(one, [EditRequest(edit.name, strength)]))[0])
                    for strength in (edit.lower, edit.upper)
                )
                pictures += [low, unedited, high]
            note = f"{edit.lower:+g} to {edit.upper:+g}\n{edit.unit.split(' (')[0]}"
            rows.append(Row(pictures, edit.name, note))
    return draw_sheet(rows, SIDE, ["lower", "0", "upper"] * len(ws))


def appearance_sheet(ws: Tensor, edits: EditSet[Any], render: RenderEdited) -> Image:
    """As ``edits_sheet`` for edits that may act on styles; one that begins at 0 is shown by two seeds."""
    with torch.no_grad():
        plain = [to_picture(render(one, edits, [], 0)[0]) for one in torch.split(ws, 1)]
        rows = []
        for edit in edits.describe():
            # Where nothing lies below 0 there are other seeds instead.
            sides = [(edit.lower, 0), (edit.upper, 0)] if edit.lower < 0 else [(1.0, 0), (1.0, 1)]
            pictures = []
            for one, unedited in zip(torch.split(ws, 1), plain, strict=True):
                low, high = (
                    to_picture(render(one, edits, [EditRequest(edit.name, strength)], seed)[0])
                    for strength, seed in sides
                )
                pictures += [low, unedited, high]
            note = "two seeds" if edit.lower == 0 else f"{edit.lower:+g} to {edit.upper:+g}"
            rows.append(Row(pictures, edit.name, f"{note}\n{edit.unit.split(' (')[0]}"))
    return draw_sheet(rows, SIDE, ["lower", "0", "upper"] * len(ws))


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
