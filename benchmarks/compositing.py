"""Pasting a face of 1024 px into frames of 3840×2160: frames per second and peak memory, beside plainer ways.

python benchmarks/compositing.py [--clip FILE] [--frames 20 60] [--rounds 3]

The clip (single_face.mp4 of the assets) is enlarged to 4K, its sides repeated where it is narrower: the frames are
no camera's, their number of pixels is. Faces are found in the clip as it is; what is pasted is the face's own crop
with its colours moved, as rendering is no part of this. "Decode, paste", and the same with the encoder, are
processes of their own for each number of frames, so their peaks are of these alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.types import FrameBatch, Landmarks
from datamodules.video import VideoWriter, probe, read_frames
from services.pipeline.composite import (
    Floats,
    Image,
    composite,
    feathered_mask,
    to_frame,
)
from services.pipeline.seam import SeamConfig, SeamCorrector, SeamMeter, corrected

WIDTH, HEIGHT, SIZE = 3840, 2160, 1024
KEPT = 4
"""Frames at the clip's start whose crops are kept and pasted in turns, over all frames."""
CHUNK = 8
"""Frames that are held at once, as in ``pipeline.chunk``."""
Crop = tuple[Floats, Floats, Floats, np.ndarray]
"""Reconstruction, edit, mask, and where it lies."""


def enlarged(frame: Image) -> Image:
    """A frame at 4K: as high as that allows, its sides repeated."""
    scale = HEIGHT / frame.shape[0]
    width = min(WIDTH, round(frame.shape[1] * scale))
    large = cv2.resize(frame, (width, HEIGHT), interpolation=cv2.INTER_CUBIC)
    left = (WIDTH - width) // 2
    return np.asarray(cv2.copyMakeBorder(large, 0, 0, left, WIDTH - width - left, cv2.BORDER_REPLICATE))


def write_clip(source: Path, path: Path, count: int) -> None:
    """``count`` frames of the source at 4K, to and fro."""
    info = probe(source)
    frames = next(read_frames(source, min(count, info.frames))).frames
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    ticks = dataclasses.replace(info, path=path, width=WIDTH, height=HEIGHT, time_base=1 / info.rate,
                                variable_rate=False, audio_codec=None)  # fmt: skip
    with VideoWriter(path, ticks, codec="h264", crf=18, preset="ultrafast") as writer:
        for index in range(count):
            writer.write(FrameBatch(enlarged(frames[order[index % len(order)]])[None], (index,), index))


def write_crops(clip: Path, source: Path, keep: Path) -> SeamConfig:
    """Find the face in a few frames, write crops, masks and places to ``keep``; returns the seam's numbers."""
    from datamodules.alignment import align, crop_frame
    from datamodules.shards import to_tensor
    from services.pipeline.models import load_bare_models
    from services.settings import load_params

    models = load_bare_models(load_params())
    small = next(read_frames(source, KEPT)).frames
    large = next(read_frames(clip, KEPT)).frames
    seen = [faces[0] for faces in models.judges.find(small)]
    points = np.stack([face.landmarks for face in seen])
    landmarks = Landmarks(points, np.ones(len(seen), np.float32))
    places = align(landmarks, SIZE, models.smoothing).crop_to_frame
    grown = HEIGHT / small.shape[1]
    left = (WIDTH - min(WIDTH, round(small.shape[2] * grown))) // 2
    corner = (grown - 1) / 2
    at_4k = np.array([[grown, 0, corner + left], [0, grown, corner], [0, 0, 1]]) @ places
    crops = np.stack([crop_frame(frame, place, SIZE) for frame, place in zip(large, at_4k, strict=True)])
    regions = models.judges.regions(to_tensor(crops, models.device)).face[:, 0].cpu().numpy()
    config = models.config.composite
    masks = np.stack([feathered_mask(region, config) for region in regions])
    np.savez(keep, crops=crops, masks=masks, places=at_4k)
    return models.config.seam


def load_crops(path: Path) -> list[Crop]:
    """What ``write_crops`` wrote; the edit has its colours moved by 8 to 12 levels."""
    kept = np.load(path)
    found = []
    for crop, mask, place in zip(kept["crops"], kept["masks"], kept["places"], strict=True):
        shown = (crop / 127.5 - 1).astype(np.float32)
        found.append((shown, (shown + np.array([12, 8, -10]) / 127.5).astype(np.float32), mask, place))
    return found


def replaced(frame: Image, crop: Crop, corrector: SeamCorrector, meter: SeamMeter) -> Image:
    """The face pasted whole, its colours corrected and measured, as in an edited clip."""
    shown, edit, mask, place = crop
    taken = corrector.correction(edit, cv2.resize(shown, (256, 256), interpolation=cv2.INTER_AREA), mask)
    above = composite(frame, shown, corrected(edit, taken), mask, place, paste="replace")
    meter.add(frame, above, taken, mask, place)
    return above


def blended_whole(frame: Image, crop: Crop) -> Image:
    """A peer: the whole frame blended in float32, as it is first written."""
    _, edit, mask, place = crop
    layer = cv2.warpAffine((edit + 1) * 127.5, place[:2], (WIDTH, HEIGHT))
    alpha = cv2.warpAffine(mask, place[:2], (WIDTH, HEIGHT))[..., None]
    return np.clip(np.rint(frame * (1 - alpha) + layer * alpha), 0, 255).astype(np.uint8)


def cloned(frame: Image, crop: Crop) -> Image:
    """A peer: OpenCV's Poisson cloning of the same face at the same place."""
    _, edit, mask, place = crop
    patch = to_frame(np.dstack([(edit + 1) * 127.5, mask]), place, HEIGHT, WIDTH)
    inside = (patch.values[..., 3] > 0.5).astype(np.uint8) * 255
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    middle = tuple(
        int(part.start + (at[0] + at[-1]) // 2) for part, at in ((patch.columns, columns), (patch.rows, rows))
    )
    colours = np.clip(np.rint(patch.values[..., :3]), 0, 255).astype(np.uint8)
    return np.asarray(cv2.seamlessClone(colours, frame, inside, middle, cv2.NORMAL_CLONE))


def paste_clip(clip: Path, kept: Path, seam: SeamConfig, count: int, chunk: int, encode: bool) -> dict[str, Any]:
    """Decode, paste and, where asked, encode ``count`` frames: frames per CPU second, peak memory in MiB."""
    corrector, meter, crops, done = SeamCorrector(seam), SeamMeter(seam), load_crops(kept), 0
    began = time.process_time()
    target = VideoWriter(clip.with_suffix(".out.mp4"), probe(clip), codec="h264", crf=18)
    with target if encode else nullcontext() as writer:
        for batch in read_frames(clip, chunk):
            left = min(len(batch.frames), count - done)
            frames = batch.frames[:left].copy()
            for index in range(len(frames)):
                frames[index] = replaced(frames[index], crops[(done + index) % KEPT], corrector, meter)
            if writer is not None:
                writer.write(FrameBatch(frames, batch.pts[:left], batch.first))
            done += left
            if done == count:
                break
    return {"frames": done, "fps": done / (time.process_time() - began), "peak": peak_memory()}


def peak_memory() -> float:
    """This process's own, in MiB; ``ru_maxrss`` is at least what the process held that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Print frames per second and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="A clip that shows a face; single_face.mp4 without.")
    parser.add_argument("--frames", type=int, nargs=2, default=(20, 60))
    parser.add_argument("--rounds", type=int, default=3, help="Each way pastes so many times four frames.")
    parser.add_argument("--no-encoder", action="store_true", help="Leave out the encoder, which takes longest.")
    parser.add_argument("--paste", nargs=3, help="Used by this script itself: one run in its own process.")
    given = parser.parse_args()
    if given.paste:
        clip, kept, numbers = given.paste
        seam, *rest = json.loads(numbers)
        print(json.dumps(paste_clip(Path(clip), Path(kept), SeamConfig(**seam), *rest)))
        return
    from modules.assets import asset_path

    source = given.clip or asset_path("clips", "single_face.mp4")
    with tempfile.TemporaryDirectory() as folder:
        clip, kept = Path(folder) / "4k.mp4", Path(folder) / "crops.npz"
        write_clip(source, clip, max(given.frames))
        seam = write_crops(clip, source, kept)
        crops, frames = load_crops(kept), next(read_frames(clip, KEPT)).frames
        side = round(float(np.hypot(*crops[0][3][:2, 0])) * SIZE)
        print(f"{source.name} enlarged to {WIDTH}×{HEIGHT}; crops of {SIZE} px, {side} px wide in the frame")
        corrector, meter = SeamCorrector(seam), SeamMeter(seam)
        ways: dict[str, Callable[[Image, Crop], Image]] = {
            "a change added": lambda frame, crop: composite(frame, *crop),
            "face replaced, its colours corrected": lambda frame, crop: replaced(frame, crop, corrector, meter),
            "peer: whole frame in float32": blended_whole,
            "peer: cv2.seamlessClone": cloned,
        }
        spent = {name: float("inf") for name in ways}
        for _ in range(given.rounds):  # in turns, so that a busy machine is busy for all
            for name, way in ways.items():
                began = time.process_time()
                for frame, crop in zip(frames, crops, strict=True):
                    way(frame, crop)
                spent[name] = min(spent[name], (time.process_time() - began) / KEPT)
        ours = spent["face replaced, its colours corrected"]
        print("pasting alone, CPU seconds a frame, the best round, against the face replaced")
        for name, took in spent.items() if given.rounds else ():
            print(f"  {name:38s} {took:7.3f} s  {1 / took:6.1f} frames/s  {took / ours:5.1f} ×")
        for encode in (False,) if given.no_encoder else (False, True):
            print(f"decode, paste with colours corrected{', encode (h264, crf 18)' if encode else ''}, CPU time")
            for count in given.frames:
                numbers = json.dumps([dataclasses.asdict(seam), count, CHUNK, encode])
                run = [sys.executable, __file__, "--paste", str(clip), str(kept), numbers]
                done = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
                speed, peak = f"{done['fps']:6.2f} frames/s", f"peak {done['peak']:7.1f} MiB"
                print(f"  {done['frames']:4d} frames  {speed}  {peak}", flush=True)


if __name__ == "__main__":
    main()
