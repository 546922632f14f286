"""Figs. 6, 7 and 8 of StylePortraitVideo: a scan line over time, or where a clip's codes lie. Writes a picture.

python benchmarks/temporal_profile.py --profile CLIP [CLIP ...] --out PICTURE [--row 0.7 | --column 0.5]
python benchmarks/temporal_profile.py --codes CODES.safetensors [...] --out PICTURE [--k 7] [--seed 1]

--profile stacks one line of every frame, one strip per clip; the line is red on the clip's first frame. A steady
picture has smooth lines, one that jitters or flickers has rough ones. --codes draws codes of 'stylereel invert' on
their first two principal components, in the colours of their groups (k-means), over a bar with each frame's group.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.images import write_image
from datamodules.types import BadInputError
from datamodules.video import read_frames
from modules.generators.codes_file import read_codes
from modules.sheet import FAINT, GAP, INK, PAPER
from services.evaluation.analyses import clusters, profile
from services.precise_generator import exact_generator
from services.settings import load_params

Image = NDArray[np.uint8]
HEIGHT, WIDTH, LABEL, BAR, MARGIN = 320, 960, 28, 28, 16
"""Pixels: height of a strip, width of the longest one and of the points, of a name, of a time bar, of an edge."""
RED = (220, 30, 30)
COLOURS = np.array(
    [[31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189], [140, 86, 75], [227, 119, 194],
     [127, 127, 127], [188, 189, 34], [23, 190, 207]], np.uint8,
)  # fmt: skip


def frames_of(clip: Path) -> Iterator[Image]:
    """The frames of a clip, few in memory at once."""
    for batch in read_frames(clip):
        yield from batch.frames


def marked(frame: Image, row: float | None, column: float | None) -> Image:
    """A frame at the height of a strip, with the scan line."""
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (round(width * HEIGHT / height), HEIGHT), interpolation=cv2.INTER_AREA)
    if row is not None:
        at = round(row * (HEIGHT - 1))
        cv2.line(small, (0, at), (small.shape[1] - 1, at), RED, 2)
    if column is not None:
        at = round(column * (small.shape[1] - 1))
        cv2.line(small, (at, 0), (at, HEIGHT - 1), RED, 2)
    return np.asarray(small, np.uint8)


def named(picture: Image, name: str) -> Image:
    """A picture with a line of text above it."""
    paper = np.full((LABEL, picture.shape[1], 3), PAPER, np.uint8)
    cv2.putText(paper, name, (2, LABEL - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.55, INK, 1, cv2.LINE_AA)
    return np.concatenate([paper, picture])


def below(pictures: list[Image]) -> Image:
    """Pictures below each other, filled up with paper on the right."""
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        rows.append(np.full((picture.shape[0] + GAP, width, 3), PAPER, np.uint8))
        rows[-1][: picture.shape[0], : picture.shape[1]] = picture
    return np.concatenate(rows)


def draw_profiles(clips: list[Path], row: float | None, column: float | None) -> Image:
    """A strip per clip, all with as many pixels per frame."""
    strips = [profile(frames_of(clip), row=row, column=column) for clip in clips]
    step = max(1, WIDTH // max(strip.shape[1] for strip in strips))
    drawn = []
    for clip, strip in zip(clips, strips, strict=True):
        size = (strip.shape[1] * step, HEIGHT)
        wide = np.repeat(cv2.resize(strip, (strip.shape[1], HEIGHT), interpolation=cv2.INTER_AREA), step, axis=1)
        first = marked(next(frames_of(clip)), row, column)
        gap = np.full((HEIGHT, GAP, 3), PAPER, np.uint8)
        drawn.append(named(np.concatenate([first, gap, wide.reshape(size[1], size[0], 3)], axis=1), clip.name))
    return below(drawn)


def draw_codes(ws: NDArray[np.float32], name: str, k: int, seed: int) -> Image:
    """Points with the numbers of some frames, over the time bar of their groups."""
    points, labels = clusters(ws, k, seed)
    low, high = points.min(0), points.max(0)
    room = np.array([WIDTH, HEIGHT * 2]) - 2 * MARGIN - 1
    scale = (room / np.maximum(high - low, 1e-9)).min()  # one scale for both axes: distances stay distances
    places = np.rint(MARGIN + room / 2 + (points - (low + high) / 2) * scale * [1, -1]).astype(int)
    picture = np.full((HEIGHT * 2, WIDTH, 3), PAPER, np.uint8)
    for (x, y), label in zip(places.tolist(), labels, strict=True):
        cv2.circle(picture, (x, y), 5, COLOURS[label % len(COLOURS)].tolist(), -1, cv2.LINE_AA)
    for frame in range(0, len(ws), max(1, len(ws) // 12)):
        x, y = places[frame].tolist()
        cv2.putText(picture, str(frame), (x + 7, y + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, FAINT, 1, cv2.LINE_AA)
    bar = cv2.resize(COLOURS[labels % len(COLOURS)][None], (WIDTH, BAR), interpolation=cv2.INTER_NEAREST)
    return named(np.concatenate([picture, np.asarray(bar, np.uint8)]), f"{name}: {len(ws)} frames, {k} groups")


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--profile", type=Path, nargs="+", metavar="CLIP")
    what.add_argument("--codes", type=Path, nargs="+", metavar="CODES")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--row", type=float, help="share of the frame's height")
    where.add_argument("--column", type=float, help="share of the frame's width; 0.5 without")
    parser.add_argument("--k", type=int, default=7, help="groups of codes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--generator", help="whose codes they are; else generator.source of params.yaml")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        if arguments.profile:
            column = 0.5 if arguments.row is None and arguments.column is None else arguments.column
            sheet = draw_profiles(arguments.profile, arguments.row, column)
        else:
            generator = exact_generator(load_params(), arguments.generator)
            some = [(path, read_codes(path, generator).numpy()) for path in arguments.codes]
            sheet = below([draw_codes(ws, path.name, arguments.k, arguments.seed) for path, ws in some])
        write_image(arguments.out, sheet)
    except BadInputError as error:
        parser.error(str(error))
    print(arguments.out)


if __name__ == "__main__":
    main()
