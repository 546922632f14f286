"""What the runs of the stages prepare and samples show: a sheet of clips, a sheet of samples."""

from __future__ import annotations

from datamodules.clips import REMAKE, Prepared
from datamodules.samples import SampleDataset
from datamodules.shards import Shard
from datamodules.spread import spread
from modules.sheet import Image, Row, draw_grid, draw_sheet, to_picture
from services.evaluation.sheets import SIDE

CLIPS, CROPS = 40, 8
"""Largest number of clips that a sheet shows, evenly spread, and of crops of each."""
SAMPLES, SAMPLE_COLUMNS = 64, 8


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
