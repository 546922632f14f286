"""Stitching tuning on real clips: the seam of a replaced face, what stays of the edit, with it and without.

python benchmarks/stitching.py CLIP [CLIP ...] [--edit age=20] [--end 0.6s] [--sheet FOLDER]

Each clip is learned first (kept in ``runtime.state``), then edited and stitched. Border: the edited face, its
colours corrected as it is pasted, against the frame where the mask mixes both, as root mean square in levels of
255 and as LPIPS. Inside: the stitched face against the edited one where it stands alone. Gain kept: what the edit
does by its judge, stitched over not. Identity: of the edited face to the frame's. ``--sheet`` leaves the middle
frame as it was and with both results pasted, close up.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.images import write_image
from datamodules.stitched_frames import StitchedFrames
from datamodules.types import Alignment
from modules.editing.directions import EditRequest, parse_edit
from modules.editing.stitching import border_of, inside_of
from modules.losses.pixels import rms_distance
from services.adaptation.models import adapted_models
from services.console import bars, seconds
from services.pipeline.balance import balanced_in_clip
from services.pipeline.composite import composite, resized_transform
from services.pipeline.crops import to_arrays
from services.pipeline.models import Models, load_models
from services.pipeline.options import EditOptions, PipelineConfig, StitchingConfig
from services.pipeline.plan import plan_clip, taken_frames
from services.pipeline.stitch import EditedFace, collected, stitched
from services.pipeline.track import encoded_tracks
from services.progress import Report
from services.settings import Params, load_params

COLUMNS = (
    "border, edited", "stitched", "LPIPS, edited", "stitched", "inside", "LPIPS",
    "judge before", "edited", "stitched", "gain kept", "identity, edited", "stitched",
)  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--edit", default="age=20")
    parser.add_argument("--start")
    parser.add_argument("--end", default="0.6s")
    parser.add_argument("--iterations", type=int, default=100, help="Of the adaptation.")
    parser.add_argument("--side", type=int, default=256, help="Of the synthesised face, in pixels.")
    parser.add_argument("--sheet", type=Path, help="A folder for pictures.")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    asked = [f"adaptation.iterations={arguments.iterations}", f"pipeline.sizes=[{arguments.side}]"]
    # Those of the stitching are put in later: a face that was learned under others is the same.
    later = [line for line in arguments.set if line.startswith("pipeline.stitching.")]
    params = load_params(overrides=[*asked, *(line for line in arguments.set if line not in later)])
    base = load_models(params)
    stitching = load_params(overrides=later).section("pipeline", PipelineConfig).stitching
    options = EditOptions(start=seconds(arguments.start), end=seconds(arguments.end), stitch=True)
    print(f"| {arguments.edit} | frames | px | steps | {' | '.join(COLUMNS)} |")
    print(f"|---|--:|--:|--:|{'--:|' * len(COLUMNS)}")
    for clip in arguments.clips:
        with bars(quiet=not sys.stderr.isatty()) as report:
            about, values = measured(
                clip, parse_edit(arguments.edit), base, stitching, options, params, report, arguments.sheet
            )  # fmt: skip
        print(f"| {clip.name} | {about} | {' | '.join(f'{value:.3f}' for value in values)} |", flush=True)


@dataclass(frozen=True)
class Shown:
    """The frames of a clip and its face in them, ``(N, 3, S, S)`` in [-1, 1]."""

    frames: Tensor
    before: Tensor
    edited: Tensor
    stitched: Tensor
    masks: Tensor
    """``(N, 1, S, S)`` in [0, 1]."""


def measured(
    clip: Path,
    request: EditRequest,
    base: Models,
    stitching: StitchingConfig,
    options: EditOptions,
    params: Params,
    report: Report,
    pictures: Path | None,
) -> tuple[str, list[float]]:
    """Frames, their side and steps; and the numbers of ``COLUMNS``."""
    models = adapted_models(clip, base, options, params, report)
    models = replace(models, config=replace(models.config, stitching=stitching))
    plan = plan_clip(clip, models, options, report)
    with tempfile.TemporaryDirectory() as work:
        tracks = encoded_tracks(clip, plan, models, options, Path(work))
        (applied,) = balanced_in_clip(clip, plan, tracks, [request], models, options, lambda: None)
        (track,) = tracks
        folder = Path(work) / "stitch"
        face = EditedFace(clip, plan, [request], applied, track, models, options)
        tuned, done, said = stitched(face, folder, report)
        rows, side = collected(face, folder)
        # An order of its own would be another for each seed: all frames, one after the other.
        count = len(rows.codes)
        batch = StitchedFrames(rows, count, 1, 0).batch(0)
        order = np.argsort(StitchedFrames(rows, count, 1, 0).frames_of(0))
    batch = {name: value[order].to(models.device) for name, value in batch.items()}
    for line in said:
        print(f"warning: {line}", file=sys.stderr)
    assert tuned.stitched is not None
    with torch.no_grad():
        new = each(
            lambda ws: tuned.edits.synthesize(tuned.stitched, ws, applied, options.seed, side), batch["ws"]
        )  # fmt: skip
        old = each(lambda ws: models.generator.synthesize(ws, resolution=side), batch["ws"])
    shown = Shown(batch["images"], old, batch["edited"], new.clamp(-1, 1), batch["masks"])
    if pictures is not None:
        draw(pictures, clip, plan_frames(clip, models, options), plan.faces[0].alignment, shown, side)
    return f"{count} | {side} | {done.iterations}", numbers_of(shown, request.name, models)


def numbers_of(shown: Shown, name: str, models: Models) -> list[float]:
    """Those of ``COLUMNS``."""
    border, inside = border_of(shown.masks), inside_of(shown.masks)
    lpips = models.judges.perceptual
    found: list[float] = []
    with torch.no_grad():
        levels = [rms_distance(image, shown.frames, border) * 127.5 for image in (shown.edited, shown.stitched)]
        apart = [lpips(image, shown.frames, border) for image in (shown.edited, shown.stitched)]
        moved = [
            rms_distance(shown.stitched, shown.edited, inside) * 127.5,
            lpips(shown.stitched, shown.edited, inside),
        ]
        found += [float(value.mean()) for value in (*levels, *apart, *moved)]
        judged = [
            float(np.nanmean(models.judges.attributes(image)[name]))
            for image in (shown.before, shown.edited, shown.stitched)
        ]
        found += [*judged, (judged[2] - judged[0]) / (judged[1] - judged[0])]
        who = [models.judges.identity.embed(i) for i in (shown.frames, shown.edited, shown.stitched)]
        found += [float((who[0] * one).sum(1).mean()) for one in who[1:]]
    return found


def each(show: Callable[[Tensor], Tensor], ws: Tensor) -> Tensor:
    """One picture at a time, which is faster on a CPU."""
    return torch.cat([show(one).float() for one in torch.split(ws, 1)])


def plan_frames(clip: Path, models: Models, options: EditOptions) -> NDArray[np.uint8]:
    """All frames of the section: it is short."""
    return np.concatenate([batch.frames for _, batch in taken_frames(clip, models, options)])


def draw(
    folder: Path, clip: Path, frames: NDArray[np.uint8], alignment: Alignment, shown: Shown, side: int
) -> None:
    """The middle frame: as it was, edited, stitched, whole and close up at the face."""
    folder.mkdir(parents=True, exist_ok=True)
    valid = np.flatnonzero(alignment.valid)
    place = len(valid) // 2
    index = int(valid[place])
    crop_to_frame = alignment.crop_to_frame[index]
    matrix = resized_transform(crop_to_frame, alignment.size, side)
    frame, mask = frames[index], shown.masks[place, 0].float().cpu().numpy()
    row = [frame]
    for images in (shown.edited, shown.stitched):
        (face,) = to_arrays(images[place : place + 1])
        row.append(composite(frame, face, face, mask, matrix, paste="replace"))
    x0, y0 = np.clip((matrix @ [0, 0, 1])[:2], 0, None).astype(int)
    x1, y1 = (matrix @ [side, side, 1])[:2].astype(int)
    close = np.hstack([one[y0:y1, x0:x1] for one in row])
    scale = max(1, round(600 / max(1, y1 - y0)))
    write_image(folder / f"{clip.stem}-close.png", cv2.resize(close, None, fx=scale, fy=scale))
    write_image(folder / f"{clip.stem}-mask.png", np.rint(mask * 255).astype(np.uint8)[..., None].repeat(3, 2))


if __name__ == "__main__":
    main()
