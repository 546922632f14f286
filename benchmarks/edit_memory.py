"""Peak memory of 'stylereel edit' on a clip of 100 frames and one of 1,000: streaming keeps them alike.

python benchmarks/edit_memory.py [--clip FILE] [--frames 100 1000] [--height 360] [--refine STEPS]

The clip (franck.mp4 of the assets) is played to and fro until it is long enough, with a tone beside it. Each edit
is a process of its own: detection, inversion, edit, paste, encoding, audio and sidecar are all in its peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.types import FrameBatch, Frames
from datamodules.video import VideoWriter, probe, read_frames
from modules.assets import asset_path

ROOT = Path(__file__).resolve().parent.parent
SOUND_RATE = 44100


def to_and_fro(frames: Frames) -> Iterator[Frames]:
    """Without end and without a jump."""
    while True:
        yield from frames
        yield from frames[-2:0:-1]


def write_tone(path: Path, seconds: float) -> None:
    """A sound file as long as the clip."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=SOUND_RATE)
        wave = (0.1 * np.sin(np.arange(SOUND_RATE) * 2 * np.pi * 440 / SOUND_RATE)).astype(np.float32)
        for second in range(int(seconds) + 1):
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = (
                SOUND_RATE,
                second * SOUND_RATE,
                Fraction(1, SOUND_RATE),
            )
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def write_clip(source: Path, path: Path, count: int, height: int) -> None:
    """``count`` frames of the source, ``height`` pixels high, with the tone."""
    info = probe(source)
    width = round(info.width * height / info.height / 2) * 2
    first = next(read_frames(source, min(info.frames, 120))).frames
    small = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in first])
    tone = path.with_suffix(".m4a")
    write_tone(tone, count / info.rate)
    ticks = dataclasses.replace(
        info, path=path, width=width, height=height, time_base=1 / info.rate, variable_rate=False
    )
    played = to_and_fro(small)
    with VideoWriter(path, ticks, codec="h264", crf=20, preset="ultrafast", audio_from=tone) as writer:
        for index in range(count):
            writer.write(FrameBatch(next(played)[None], (index,), index))


def peak_of_edit(clip: Path, refine: int | None) -> float:
    """Peak resident memory of the edit of one clip, in MiB; ``refine`` steps per frame, or the usual ones."""
    target = clip.with_suffix(".edited.mp4")
    command = [sys.executable, "-m", "services.shell.cli", "edit", str(clip), str(target)]
    command += ["--edit", "age=+20", "--edit", "smile=1"]
    command += [] if refine is None else ["--refine", str(refine)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the edit of {clip.name} ended with {process.returncode}")
    made = probe(target)
    assert made.frames == probe(clip).frames and made.audio_codec == "aac"
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--clip", type=Path, help="a clip that shows a face; franck.mp4 without")
    parser.add_argument("--frames", type=int, nargs=2, default=(100, 1000))
    parser.add_argument("--height", type=int, default=360, help="pixels to which the clip is scaled")
    parser.add_argument("--refine", type=int, help="steps per frame; as many as usual without")
    given = parser.parse_args()
    source = given.clip or asset_path("franck", "franck.mp4")
    peaks = []
    print(f"edit of {source.name}, {given.height} pixels high, peak resident memory", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for count in given.frames:
            clip = Path(folder) / f"{count}.mp4"
            write_clip(source, clip, count, given.height)
            began = time.monotonic()
            peaks.append(peak_of_edit(clip, given.refine))
            print(f"  {count:5d} frames  {peaks[-1]:8.1f} MiB  {time.monotonic() - began:6.0f} s", flush=True)
    print(f"  change {peaks[1] / peaks[0] - 1:+.1%} (within 5 % wanted)")


if __name__ == "__main__":
    main()
