"""StylePortraitVideo on a person who does not exist: a clip, its reconstructions, edits, kept lips.

python benchmarks/portrait.py --clips FOLDER --sheet PICTURE [--frames 36] [--iterations 200]

The person is drawn from the generator, turns the head and speaks by the pose editor, and gets what the generator
has to learn: a birthmark, which moves with the face. The clip and what the pipeline makes of it stay in FOLDER,
for ``benchmarks/temporal_profile.py`` too; the sheet is a row for each over time. About 10 minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from video_memory import plain_info

from datamodules.images import write_image
from datamodules.spread import spread
from datamodules.types import FrameBatch
from datamodules.video import VideoWriter, read_frames
from modules.editing.directions import EditRequest, parse_edit
from modules.editing.pose import load_pose_editor
from modules.sheet import Row, draw_sheet, to_picture
from services.adaptation.models import adapted_models
from services.console import bars
from services.edits.instruments import draw_single
from services.edits.pose_editor import FOLDER
from services.pipeline.composite import composite, resized_transform
from services.pipeline.crops import crop_synthesis_size, to_arrays
from services.pipeline.models import Models, load_models
from services.pipeline.options import EditOptions
from services.pipeline.plan import plan_clip
from services.pipeline.stream import edit_video
from services.pipeline.track import encoded_tracks
from services.settings import load_params

Image = NDArray[np.uint8]
SIDE, RATE = 512, 24
"""Of the clip, in pixels and frames a second."""
SEED, PSI = 36, 0.65
"""Of the person."""
YAW, WORDS, OPEN, SMILE = 10.0, 3, 0.8, -0.6
"""Degrees to each side, how often the mouth opens, how far, and and what takes its smile out."""
CHEEK, SIZE, COLOUR = 205, 0.055, (74, 40, 34)
"""The birthmark: a point of the mesh, its radius in distances of the eyes, red, green and blue."""
COLUMNS, SHOWN = 6, 200
"""Of the sheet: frames, and their side in pixels."""
EDITED = {
    "age": ("age=20", EditOptions()),
    "age-stitched": ("age=20", EditOptions(stitch=True)),
    "smile": ("smile=1", EditOptions()),
    "smile-lips-kept": ("smile=1", EditOptions(keep_lips=True)),
}
LABELS = {
    "clip": "clip",
    "encoder": "encoder",
    "adapted": "adapted",
    "age": "age +20",
    "age-stitched": "age +20, stitched",
    "smile": "smile +1",
    "smile-lips-kept": "smile +1, lips kept",
}


def faces(models: Models, frames: int) -> Iterator[Image]:
    """``(SIDE, SIDE, 3)`` pictures of the made person, who turns and speaks."""
    edits = load_pose_editor(FOLDER, models.generator.sha256).edits()
    ws = draw_single(models.generator, 1, SEED, PSI).to(models.device)
    for frame in range(frames):
        turn = 2 * math.pi * frame / frames
        said = math.sin(WORDS * turn / 2) ** 2
        moved = [
            EditRequest("pose.yaw", YAW * math.sin(turn)),
            EditRequest("expression.mouth_open", OPEN * said),
            EditRequest("expression.smile", SMILE * said),
        ]
        with torch.no_grad():
            image = models.generator.synthesize(edits.apply(ws, moved), resolution=SIDE).float().clamp(-1, 1)
            yield marked(to_picture(image[0]), models.judges.mesh(image).points[0])


def marked(picture: Image, points: Tensor) -> Image:
    """A picture with the birthmark; ``points`` ``(468, 3)`` are the mesh's, in pixels."""
    place = points[CHEEK, :2].cpu().numpy()
    radius = SIZE * float(torch.linalg.vector_norm(points[263, :2] - points[33, :2]))
    y, x = np.mgrid[:SIDE, :SIDE]
    far = np.hypot(x - place[0], (y - place[1]) * 1.3) / radius
    cover = 0.85 / (1 + np.exp(np.clip(8 * (far - 1), -30, 30)))[..., None]
    return np.rint(picture * (1 - cover) + np.array(COLOUR) * cover).astype(np.uint8)


def write(path: Path, pictures: Iterable[Image], frames: int) -> None:
    """The pictures as a clip."""
    info = plain_info(path, SIDE, SIDE, Fraction(RATE), frames)
    with VideoWriter(path, info, codec="h264", crf=12) as writer:
        for index, picture in enumerate(pictures):
            writer.write(FrameBatch(picture[None], (index,), index))


def pasted(clip: Path, models: Models) -> Iterator[Image]:
    """The frames of the clip with the unedited renderings of its codes in the place of the face."""
    options = EditOptions(refine=0)
    plan = plan_clip(clip, models, options)
    with TemporaryDirectory() as work:
        (track,) = encoded_tracks(clip, plan, models, options, Path(work))
        ws = torch.from_numpy(track.codes.read(0, len(track.codes))).to(models.device)
    alignment = plan.faces[0].alignment
    size = crop_synthesis_size(alignment.crop_to_frame, alignment.size, models, options)
    for frame, one, matrix in zip(frames_of(clip), ws.split(1), alignment.crop_to_frame, strict=True):
        shown = models.generator.synthesize(one, resolution=size).float().clamp(-1, 1)
        (face,) = to_arrays(shown)
        to_frame = resized_transform(matrix, alignment.size, size)
        yield composite(frame, face, face, np.ones((size, size), np.float32), to_frame, paste="replace")


def frames_of(clip: Path) -> list[Image]:
    """All frames of a short clip."""
    return [frame for batch in read_frames(clip) for frame in batch.frames]


def main() -> None:
    """Make the clips and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=36)
    parser.add_argument("--iterations", type=int, default=200, help="Of the adaptation.")
    parser.add_argument("--side", type=int, default=256, help="Of the synthesised face, in pixels.")
    given = parser.parse_args()
    params = load_params(overrides=[f"adaptation.iterations={given.iterations}", f"pipeline.sizes=[{given.side}]"])
    base = load_models(params)
    given.clips.mkdir(parents=True, exist_ok=True)
    named = {name: given.clips / f"{name}.mp4" for name in LABELS}
    clip = named["clip"]
    write(clip, faces(base, given.frames), given.frames)
    with bars(quiet=not sys.stderr.isatty()) as report:
        models = adapted_models(clip, base, EditOptions(), params, report)
        with torch.no_grad():
            write(named["encoder"], pasted(clip, base), given.frames)
            write(named["adapted"], pasted(clip, models), given.frames)
        for name, (edit, options) in EDITED.items():
            edit_video(clip, named[name], [parse_edit(edit)], models, options, report)
    rows = []
    for name, path in named.items():
        shown = frames_of(path)
        rows.append(Row([shown[index] for index in spread(len(shown), COLUMNS)], LABELS[name]))
    write_image(given.sheet, draw_sheet(rows, SHOWN))


if __name__ == "__main__":
    main()
