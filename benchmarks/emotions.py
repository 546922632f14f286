"""The edits surprise and anger on persons: what face-api's expression net says, and a second net and the mesh.

python benchmarks/emotions.py [--folder FOLDER] [--split test|val|train] [--per-clip N] [--sheet FILE]

A row is an edit at one strength: the share of frames whose likeliest expression is its own, the mean score of
that, the same two by a second net, which as the mesh no loss asked, how far brows (over the corners of the eyes),
lips, lids and corners of the mouth moved, over the distance of the eyes (lids: height over width), and likeness to
the unedited face. The codes are the shipped encoder's answers to prepared crops ('stylereel train prepare').
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.images import write_image
from datamodules.spread import spread
from modules.editing.directions import EditRequest, EditSet, load_directions
from modules.perception.emotion import EMOTIONS, EXPRESSED
from modules.perception.landmarks import brows_up, eyes_open, mouth_open, smile
from modules.perception.second_judges import SecondJudges
from modules.sheet import Row, draw_sheet, to_picture
from services.attributes import as_frames
from services.direction_settings import DirectionSettings
from services.edits.encoded_codes import encoded_frames
from services.edits.instruments import Instruments, load_instruments
from services.places import CLIPS, DIRECTIONS, FRAME_ENCODER
from services.settings import load_params

SHARES = (0.0, 0.5, 1.0)
"""Of the usual strength; the bound is added."""
SHOWN = 6
"""Frames on a sheet, spread over all."""


def main() -> None:
    """Print the table and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DIRECTIONS)
    parser.add_argument("--split", default="test", choices=("test", "val", "train"))
    parser.add_argument("--per-clip", type=int, default=4)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    params = load_params()
    settings = params.section("directions", DirectionSettings)
    tools = load_instruments(settings, params)
    edits = load_directions(arguments.folder, tools.generator.sha256)
    frames = encoded_frames(FRAME_ENCODER, CLIPS, arguments.per_clip, tools.generator.sha256, arguments.split)
    if frames is None:
        parser.error(f"{CLIPS} has no {arguments.split} person")
    print(f"{len(frames.ws)} frames of {len(set(frames.people))} persons in {len(set(frames.clips))} clips.\n")
    columns = "likeliest | score | likeliest by a second net | score by it | brows | lips | lids | corners"
    print(f"| edit | at | {columns} | likeness (5th percentile) |")
    print(f"|---|--:|{'--:|' * (columns.count('|') + 1)}---|")
    shown = frames.ws[spread(len(frames.ws), SHOWN)]
    rows, second = [], SecondJudges()
    for name in EXPRESSED:
        usual = settings.edits[name].typical
        asked = sorted({*(share * usual for share in SHARES), edits[name].upper, edits[name].lower})
        for line in _table(name, asked, frames.ws, edits, tools, second):
            print(line, flush=True)
        for strength in asked if arguments.sheet else []:
            images = _shown(shown, EditRequest(name, strength), edits, tools)
            rows.append(Row([to_picture(image) for image in images], f"{name} {strength:+g}"))
    if arguments.sheet:
        write_image(arguments.sheet, draw_sheet(rows, settings.resolution))


def _table(
    name: str, asked: list[float], ws: Tensor, edits: EditSet, tools: Instruments, second: SecondJudges
) -> list[str]:
    start = _read(_shown(ws, EditRequest(name, 0.0), edits, tools), name, tools, second)
    lines = []
    for strength in asked:
        found = _read(_shown(ws, EditRequest(name, strength), edits, tools), name, tools, second)
        moved = " | ".join(
            f"{float((found[m] - start[m]).mean()):+.3f}" for m in ("brows", "lips", "lids", "corners")
        )
        likeness = (found["identity"] * start["identity"]).sum(1)
        lines.append(
            f"| {name} | {strength:+g} | {found['likeliest'].mean():.0%} | {found['score'].mean():.2f} "
            f"| {found['likeliest by second'].mean():.0%} | {found['score by second'].mean():.2f} | {moved} "
            f"| {likeness.mean():.2f} ({np.percentile(likeness, 5):.2f}) |"
        )
    return lines


@torch.no_grad()
def _shown(ws: Tensor, request: EditRequest, edits: EditSet, tools: Instruments) -> Tensor:
    moved = edits.apply(ws, [request])
    return torch.cat([tools.render(one) for one in torch.split(moved, 1)]).float().clamp(-1, 1)


@torch.no_grad()
def _read(images: Tensor, name: str, tools: Instruments, second: SecondJudges) -> dict[str, NDArray[np.float32]]:
    place = EMOTIONS.index(EXPRESSED[name])
    scores, points = tools.judge.emotion(images).softmax(1), tools.judge.mesh(images).points
    other = torch.from_numpy(second.expression(*as_frames(images, points)))
    found = {
        "likeliest by second": (other.argmax(1) == place).float(),
        "score by second": other[:, place],
        "likeliest": (scores.argmax(1) == place).float(),
        "score": scores[:, place],
        "brows": brows_up(points),
        "lips": mouth_open(points),
        "lids": eyes_open(points),
        "corners": smile(points),
        "identity": tools.embed(images),
    }
    return {key: value.cpu().numpy() for key, value in found.items()}


if __name__ == "__main__":
    main()
