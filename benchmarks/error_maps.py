"""Fig. 3 of FrEN/ViEN: the input, and of each encoder its frame and where its video jitters. Writes a picture.

python benchmarks/error_maps.py [CLIP ...] [--clips 3] [--frames 15] [--out docs/error_maps.jpg]

Of the clips named, or of some of the test persons' that are prepared, whose faces are not ours to publish. Each
map is of the middle frame: its six neighbours aligned to it by the input's flow, differences added up; blue is
none, red is --most or more. The number on it is the average, which is that frame's TC.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.alignment import crop_frame
from datamodules.clips import read_prepared
from datamodules.images import write_image
from datamodules.spread import spread
from modules.metrics.temporal import REACH
from modules.sheet import Row, draw_sheet, to_picture
from services.evaluation.frames import HeldOutFrames
from services.pipeline.models import Models, load_models
from services.pipeline.options import EditOptions
from services.pipeline.plan import plan_clip, taken_frames
from services.pipeline.sidecar import file_sha256
from services.places import CLIPS
from services.settings import ROOT, load_params
from services.stages.evaluate_table import (
    encoder_folders,
    encoder_rows,
    load_table_parts,
    shortened,
    table_parts,
)


def coloured(errors: NDArray[np.float32], most: float) -> NDArray[np.uint8]:
    """``(H, W)`` to ``(H, W, 3)`` RGB, with the average written below; places nobody shows are grey."""
    scaled = (np.nan_to_num(errors) / most).clip(0, 1) * 255
    picture = cv2.applyColorMap(scaled.astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1].copy()
    picture[np.isnan(errors)] = 128
    text = f"{np.nanmean(errors):.3f}"
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(picture, text, (8, picture.shape[0] - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.7, colour, thickness)
    return picture


def aligned(file: Path, models: Models, frames: int) -> HeldOutFrames:
    """The crops of so many frames from the middle of a clip, each of its largest face."""
    (face,) = plan_clip(file, models, EditOptions()).faces
    size, matrices, seen = face.alignment.size, face.alignment.crop_to_frame, face.alignment.valid
    crops = [
        crop_frame(pixels, matrices[place + row], size)
        for place, batch in taken_frames(file, models, EditOptions())
        for row, pixels in enumerate(batch.frames)
        if seen[place + row]
    ]
    first = max(0, (len(crops) - frames) // 2)
    kept = np.stack(crops[first : first + frames])
    return HeldOutFrames(kept, (file.name,) * len(kept), (0,) * len(kept), file_sha256(file))


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="CLIP")
    parser.add_argument("--clips", type=int, default=3, help="of the test persons, where none is named")
    parser.add_argument("--frames", type=int, default=15, help="of each clip; the middle one is shown")
    parser.add_argument("--most", type=float, default=0.6, help="error that is drawn in red")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "error_maps.jpg")
    arguments = parser.parse_args()
    params = load_params()
    if arguments.files:
        models = load_models(params)
        clips = tuple(aligned(file, models, arguments.frames) for file in arguments.files)
        parts = table_parts(params, clips)
    else:
        parts = load_table_parts(params, read_prepared(CLIPS))
        chosen = spread(len(parts.clips), arguments.clips)
        clips = tuple(shortened(parts.clips[number], arguments.frames) for number in chosen)
    sources, notes = encoder_rows(parts, encoder_folders(parts.config.video)[0])
    meter, rows = parts.meter(1), []
    for clip in clips:
        centre = len(clip) // 2
        pictures = [clip.pixels[centre]]
        for source in sources[1:]:
            shown, maps = meter.error_maps(clip, source)
            pictures += [to_picture(shown[centre]), coloured(maps[centre - REACH].numpy(), arguments.most)]
        rows.append(Row(pictures))
    titles = ["input", *(title for source in sources[1:] for title in (source.label, "its jitter"))]
    sheet = draw_sheet(rows, 256, titles)
    write_image(arguments.out, sheet)
    print("\n".join([*notes, str(arguments.out)]))


if __name__ == "__main__":
    main()
