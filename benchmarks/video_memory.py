"""Peak memory of decoding and encoding a clip of 100 frames and one of 1,000: streaming keeps them alike.

python benchmarks/video_memory.py [--size 1280x720]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datamodules.types import ClipInfo, FrameBatch
from datamodules.video import VideoWriter, probe, read_frames


def plain_info(path: Path, width: int, height: int, rate: Fraction, frames: int) -> ClipInfo:
    """Of a clip that is yet to be written: 8 bits, nothing turned, a tick for each frame, no sound."""
    return ClipInfo(
        path=path, width=width, height=height, rate=rate, time_base=1 / rate, frames=frames,
        duration=float(frames / rate), rotation=0, mirrored=False, pixel_aspect=Fraction(1), field_order=1,
        variable_rate=False, codec="h264", pixel_format="yuv420p", bit_depth=8, color_range=0,
        color_primaries=2, color_trc=2, colorspace=2, audio_codec=None,
    )  # fmt: skip


def make_clip(path: Path, frames: int, width: int, height: int) -> None:
    """A drifting noise pattern, so that the codec has work to do."""
    info = plain_info(path, width, height, Fraction(30), frames)
    wide = np.random.default_rng(0).integers(0, 255, (height // 8, width // 4, 3), np.uint8)
    wide = wide.repeat(8, 0).repeat(8, 1)
    with VideoWriter(path, info, codec="h264", crf=23, preset="ultrafast") as writer:
        for index in range(frames):
            shift = index % width
            picture = wide[None, :height, shift : shift + width]
            writer.write(FrameBatch(np.ascontiguousarray(picture), (index,), index))


def copy(source: Path) -> int:
    """Decode and encode; returns this process's peak memory in KiB."""
    info = probe(source)
    with VideoWriter(source.with_suffix(".out.mp4"), info, codec="h264", crf=23, preset="ultrafast") as writer:
        for batch in read_frames(source):
            writer.write(batch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--copy", type=Path, help="used by this script itself: one run in its own process")
    options = parser.parse_args()
    if options.copy:
        print(json.dumps(copy(options.copy)))
        return
    width, height = (int(part) for part in options.size.split("x"))
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for frames in (100, 1000):
            clip = Path(folder) / f"{frames}.mp4"
            make_clip(clip, frames, width, height)
            run = [sys.executable, __file__, "--copy", str(clip)]
            peaks[frames] = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    change = peaks[1000] / peaks[100] - 1
    print(f"{width}×{height}, decode and encode, peak resident memory")
    for frames, peak in peaks.items():
        print(f"  {frames:5d} frames  {peak / 1024:8.1f} MiB")
    print(f"  change {change:+.1%} (within 5 % wanted)")


if __name__ == "__main__":
    main()
