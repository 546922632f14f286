"""The drift of colours at the seam of a pasted face, with the correction and without it, and how steady both are.

python benchmarks/seam.py CLIP [CLIP ...] [--edit smile=1] [--end 1s] [--iterations 60] [--sheet FOLDER]

Each clip is edited twice, its face pasted whole; with ``--iterations 0`` by a generator that did not learn it.
Drift is that of the frames before they are encoded, in levels of 255: red, green, blue; root mean square. "Alike"
is the part of the seam that counts as drift, "given back" what the sidecar of the corrected clip says of one that
is not. Frame to frame is the root mean square change of the face's coarse colours (a 64th of the crop) from one
frame to the next: in the clip, in both results, and in the difference of both, which is the correction.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.alignment import crop_frame
from datamodules.spread import spread
from modules.editing.directions import EditRequest, parse_edit
from services.adaptation.models import adapted_models
from services.console import seconds
from services.pipeline.composite import Floats, Image
from services.pipeline.models import Models, load_models, with_adaptation
from services.pipeline.options import EditOptions
from services.pipeline.seam import Drift, SeamReport, averaged
from services.pipeline.stream import FaceReport, edit_video
from services.settings import load_params

COLUMNS = (
    "without", "given back", "with", "alike", "alike, given back", "alike, with",
    "frame to frame: clip", "without", "with", "correction",
)  # fmt: skip
SHOWN = 3
"""Frames of a sheet."""
INNER = 0.7
"""Share of the crop's side, in its middle, whose colours are followed from frame to frame."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--edit", default="smile=1")
    parser.add_argument("--start")
    parser.add_argument("--end", default="1s")
    parser.add_argument("--iterations", type=int, default=60, help="Of the adaptation; 0 for none.")
    parser.add_argument("--refine", type=int, help="Steps per frame, as of 'stylereel edit'.")
    parser.add_argument("--adapted", type=Path, help="An adaptation of 'stylereel adapt' in its place.")
    parser.add_argument("--set", action="append", default=[], help="A number of params.yaml.")
    parser.add_argument("--sheet", type=Path, help="A folder for pictures: the frame, without, with.")
    given = parser.parse_args()
    learned = [f"adaptation.iterations={given.iterations}"] if given.iterations else []
    params = load_params(overrides=[*learned, *given.set])
    base = load_models(params)
    section = seconds(given.start), seconds(given.end)
    options = EditOptions(refine=given.refine, paste="replace", start=section[0], end=section[1])
    request = parse_edit(given.edit)
    print(f"| {given.edit} | frames | {' | '.join(COLUMNS)} |\n|---|--:|{'--:|' * len(COLUMNS)}")
    for clip in given.clips:
        models = base
        if given.adapted:
            models = with_adaptation(base, given.adapted)
        elif given.iterations:
            models = adapted_models(clip, base, options, params)
        frames, cells, sheet = measured(clip, request, models, options)
        print(f"| {clip.name} | {frames} | {' | '.join(cells)} |", flush=True)
        if given.sheet:
            given.sheet.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(given.sheet / f"{clip.stem}.png"), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def measured(
    clip: Path, request: EditRequest, models: Models, options: EditOptions
) -> tuple[int, list[str], Image]:
    """How many frames, the cells of ``COLUMNS``, and crops of the frame, without and with, side by side."""
    off = replace(models, config=replace(models.config, seam=replace(models.config.seam, strength=0.0)))
    bare, plain = run(clip, request, off, options)
    whole, kept = run(clip, request, models, options)
    without, with_it = seam_of(plain[0]), seam_of(kept[0])
    number = {frame.frame: row for row, frame in enumerate(kept[0].frames)}
    side = models.config.seam.side
    coarse = np.stack([
        [averaged(crop.astype(np.float32), side) for crop in crops(kept[0], number[at], (before, left[1], after))]
        for (at, (before, after)), left in zip(whole.items(), bare.values(), strict=True)
    ])  # fmt: skip
    edge = round(side * (1 - INNER) / 2)
    face = coarse[:, :, edge:-edge, edge:-edge]
    steps = [rms(np.diff(face[:, which], axis=0)) for which in range(3)]
    steps.append(rms(np.diff(face[:, 2] - face[:, 1], axis=0)))
    rows = [
        np.hstack(crops(kept[0], number[key], (whole[key][0], bare[key][1], whole[key][1])))
        for key in (list(whole)[index] for index in spread(len(whole), SHOWN))
    ]
    whole_seam = [said(one.whole) for one in (without.after, with_it.before, with_it.after)]
    part = [f"{with_it.alike:.2f}", *(said(one.alike) for one in (with_it.before, with_it.after))]
    cells = [*whole_seam, *part, *(f"{step:.2f}" for step in steps)]
    return with_it.frames, cells, np.vstack(rows)


def run(
    clip: Path, request: EditRequest, models: Models, options: EditOptions
) -> tuple[dict[int, tuple[Image, Image]], tuple[FaceReport, ...]]:
    """Frames before and after the edit by number, and the report's faces."""
    seen: dict[int, tuple[Image, Image]] = {}
    with tempfile.TemporaryDirectory() as folder:
        report = edit_video(
            clip, Path(folder) / "out.mp4", [request], models, options,
            observe=lambda number, before, after: seen.update({number: (before.copy(), after.copy())}),
        )  # fmt: skip
    return seen, report.faces


def crops(face: FaceReport, row: int, frames: tuple[Image, ...]) -> list[Image]:
    """The face's crop in each of several versions of one frame."""
    a, b, x, y = face.frames[row].crop
    matrix = np.array([[a, -b, x], [b, a, y], [0.0, 0.0, 1.0]])
    return [crop_frame(frame, matrix, face.crop_size) for frame in frames]


def seam_of(face: FaceReport) -> SeamReport:
    """The report's seam."""
    if face.seam is None:
        raise SystemExit("no frame shows a seam")
    return face.seam


def rms(values: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(values).mean()))


def said(drift: Drift) -> str:
    """Red, green, blue; root mean square."""
    return f"{', '.join(f'{value:+.1f}' for value in drift.mean)}; {drift.rms:.1f}"


if __name__ == "__main__":
    main()
