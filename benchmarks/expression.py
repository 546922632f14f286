"""Expression dynamics on real clips: lips, label and eyes of the plain edit and of the one whose lips are kept.

python benchmarks/expression.py CLIP [CLIP ...] [--edit smile=1] [--label happy] [--end 1s] [--set KEY=VALUE]

Each clip is learned first (kept in ``runtime.state``), then edited; 4 s a frame on two cores. The lips' error is
eq. 3 against the unedited rendering and against the clip's own frame, and its noise that of the unedited rendering
moved by one pixel, down and to the right; the label is face-api's; the eyes' LPIPS is that to the plain edit, over
that between unedited and plain edit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.alignment import crop_frame
from datamodules.shards import to_tensor
from modules.editing.directions import EditRequest, parse_edit
from modules.editing.expression_dynamics import Eyes, Mouth, point_distance
from modules.losses.perceptual import load_lpips
from modules.perception.emotion import EMOTIONS, load_emotion_net
from modules.perception.landmarks import eye_distance
from services.adapted_models import adapted_models
from services.console import seconds
from services.pipeline.balance import balanced_in_clip
from services.pipeline.lips import by_mesh, keep_lips
from services.pipeline.models import Models, load_models
from services.pipeline.options import EditOptions
from services.pipeline.plan import plan_clip, taken_frames
from services.settings import Params, load_params

COLUMNS = (
    "noise",
    "lips, plain",
    "lips, kept",
    "fall",
    "of the frame",
    "label before",
    "plain",
    "kept",
    "gain kept",
    "eyes",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--edit", default="smile=1")
    parser.add_argument("--label", default="happy", choices=EMOTIONS)
    parser.add_argument("--start")
    parser.add_argument("--end", default="1s")
    parser.add_argument("--iterations", type=int, default=100, help="Of the adaptation.")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    params = load_params(overrides=[*arguments.overrides, f"adaptation.iterations={arguments.iterations}"])
    base = load_models(params)
    options = EditOptions(start=seconds(arguments.start), end=seconds(arguments.end), keep_lips=True)
    print(f"| {arguments.edit}, {arguments.label} | frames | {' | '.join(COLUMNS)} |")
    print(f"|---|--:|{'--:|' * len(COLUMNS)}")
    for clip in arguments.clips:
        frames, values = measured(clip, parse_edit(arguments.edit), arguments.label, base, options, params)
        print(f"| {clip.name} | {frames} | {' | '.join(f'{value:.3f}' for value in values)} |", flush=True)


def measured(
    clip: Path, request: EditRequest, label: str, base: Models, options: EditOptions, params: Params
) -> tuple[int, list[float]]:
    """How many frames, and the numbers of ``COLUMNS``."""
    models = adapted_models(clip, base, options, params)
    plan = plan_clip(clip, models, options)
    applied = balanced_in_clip(clip, plan, [request], models, options, lambda: None)
    with tempfile.TemporaryDirectory() as work:
        (track,) = keep_lips(clip, plan, [request], applied, models, options, Path(work))
        ws, offsets = (
            torch.from_numpy(rows.read(0, len(rows))).to(models.device) for rows in (track.codes, track.offsets)
        )
    side = models.config.crop_size

    def show(edits: tuple[EditRequest, ...], moved: Tensor) -> Tensor:
        shown = [
            models.edits.synthesize(models.generator, one, edits, options.seed, side, offset)
            for one, offset in zip(torch.split(ws, 1), torch.split(moved, 1), strict=True)
        ]
        return torch.cat(shown).float().clamp(-1, 1)

    alignment, crops, place = plan.faces[0].alignment, [], 0
    for batch in taken_frames(clip, models, options):
        for index, frame in enumerate(batch.frames, place):
            if alignment.valid[index]:
                crops.append(crop_frame(frame, alignment.crop_to_frame[index], side))
        place += len(batch.frames)
    originals = to_tensor(np.stack(crops), models.device)
    config = models.config.keep_lips
    eyes = Eyes(load_lpips(config.lpips_net, models.device), config.eye_box)
    emotion = load_emotion_net(models.device)
    with torch.no_grad():
        still = torch.zeros_like(offsets)
        before, plain, kept = show((), still), show(applied[0], still), show(applied[0], offsets)
        unit = eye_distance(models.judges.mesh(before).points).mean()

        def mouth(images: Tensor) -> Mouth:
            return by_mesh(models.judges.mesh, images, unit)

        of_frame, unedited, edited, followed = (mouth(images) for images in (originals, before, plain, kept))
        lips = [float(point_distance(one.lips, unedited.lips).mean()) for one in (edited, followed)]
        of_clip = [float(point_distance(one.lips, of_frame.lips).mean()) for one in (edited, followed)]
        noise = float(
            np.mean(
                [
                    float(point_distance(mouth(torch.roll(before, 1, side)).lips, unedited.lips).mean())
                    for side in (2, 3)
                ]
            )
        )
        scores = [
            float(emotion(images).softmax(1)[:, EMOTIONS.index(label)].mean()) for images in (before, plain, kept)
        ]
        wanted = eyes.features(plain)
        apart = [float(eyes(images, wanted).mean()) for images in (before, kept)]
    gain = (scores[2] - scores[0]) / (scores[1] - scores[0])
    fall, fall_of_clip = 1 - lips[1] / lips[0], 1 - of_clip[1] / of_clip[0]
    return len(ws), [noise, *lips, fall, fall_of_clip, *scores, gain, apart[1] / apart[0]]


if __name__ == "__main__":
    main()
