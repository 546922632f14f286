"""When a clip's frames are shown, as its packets say, and the rate that explains that."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np

from datamodules.types import BadInputError

COUNTED = ("avi", "h264", "hevc")
"""Containers that do not say when a frame is shown, so that FFmpeg guesses: frames are counted there instead."""
FALLS, LEAPS = 1, 3600
"""Seconds back and on by which no clock goes from one packet to the next: B-frames and gaps are shorter."""


@dataclass(frozen=True)
class Shown:
    """When the frames of a clip are shown, in ticks of its video stream."""

    pts: tuple[int, ...]
    """Time stamps in order of showing, strictly rising."""
    last: int
    """How long the last frame is shown; 0 where the clip does not say."""


def times_shown(container: Any, stream: Any, path: Path) -> Shown:
    """Read every packet. Raises ``BadInputError`` where the clip is cut off, empty, or of several clocks."""
    stamps: list[int] = []
    step = round(1 / (Fraction(stream.guessed_rate or 25) * stream.time_base)) or 1
    end = Fraction(0)
    latest: tuple[int, int] | None = None
    told = {stream.index, *(sound.index for sound in container.streams.audio)}
    clocks: dict[int, Fraction] = {}
    torn: dict[int, int] = {}
    since: dict[int, int] = {}
    name = container.format.name
    try:
        for packet in container.demux():
            if packet.size == 0 or packet.is_discard:
                continue
            index = packet.stream.index
            since[index] = since.get(index, 0) + 1
            if packet.is_corrupt:
                if name != "mpegts":
                    raise cut_off(path, len(stamps))
                # A receiver loses a piece now and then; only where nothing follows it, the rest is missing.
                torn[index], since[index] = len(stamps), 0
            if index in told and packet.dts is not None and packet.time_base is not None:
                now = packet.dts * packet.time_base
                _require_one_clock(clocks.get(index, now), now, name, path, len(stamps))
                clocks[index] = now
            # What AVI has is the place in the file: the n-th frame to be shown has the n-th of them.
            stamp = packet.dts if packet.pts is None or name in COUNTED else packet.pts
            if stamp is not None and packet.time_base is not None:
                end = max(end, (stamp + (packet.duration or 0)) * packet.time_base)
            if index == stream.index:
                stamps.append(stamp if stamp is not None else (stamps[-1] + step if stamps else 0))
                latest = max(latest or (stamps[-1], 0), (stamps[-1], packet.duration or 0))
    except (av.FFmpegError, OSError) as error:
        raise cut_off(path, len(stamps)) from error
    # FFmpeg marks the packet before the torn one.
    missing = [frames for index, frames in torn.items() if index in told and since[index] <= 1]
    # Matroska ends in silence where it is cut off; its header says how long it was to be.
    announced = Fraction(container.duration or 0, 1_000_000) if "matroska" in name else 0
    if missing or (stamps and end < announced * Fraction(9, 10) - Fraction(1, 10)):
        raise cut_off(path, min(missing, default=len(stamps)))
    if latest is None:
        raise BadInputError(f"{path.name} holds no frame; give a video with pictures")
    stamps.sort()
    for index in range(1, len(stamps)):
        stamps[index] = max(stamps[index], stamps[index - 1] + 1)
    return Shown(tuple(stamps), _shown_last(stream, name, stamps, latest[1]))


def _require_one_clock(before: Fraction, now: Fraction, name: str, path: Path, frames: int) -> None:
    # Where the clock of MPEG falls back far, FFmpeg takes it for one that came to its end, and adds 26 hours.
    if before - now > FALLS or (name in ("mpegts", "mpeg") and now - before > LEAPS):
        raise BadInputError(
            f"{path.name} was joined of several: its clock starts again after {frames} frames; "
            "join it anew, e.g. with ffmpeg, or give its parts one by one"
        )


def _shown_last(stream: Any, name: str, stamps: list[int], said: int) -> int:
    """Ticks for which the last frame is shown; ``said`` is what its packet says."""
    if name.startswith("mov"):
        # A packet has the time to the next one in the file there, which B-frames are.
        return max(0, stamps[0] + int(stream.duration or 0) - stamps[-1])
    if name.startswith("matroska"):
        return max(said, _tagged_end(stream) - stamps[-1])
    return said


def _tagged_end(stream: Any) -> int:
    """Where a stream ends by the tag that muxers write for Matroska, which has no durations of frames itself."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        end = 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    except ValueError:
        return 0
    return round(end / Fraction(stream.time_base))


def frame_rate(
    pts: tuple[int, ...], time_base: Fraction, named: tuple[Fraction | None, ...]
) -> tuple[Fraction, bool]:
    """Frames per second, and whether the time stamps are uneven beyond the rounding to ticks."""
    candidates = [Fraction(rate) for rate in named if rate]
    if len(pts) < 2:
        return (candidates[0] if candidates else Fraction(25)), False
    steps = {after - before for before, after in pairwise(pts)}
    if len(steps) == 1:
        return 1 / (steps.pop() * time_base), False
    mean = Fraction(len(pts) - 1, pts[-1] - pts[0]) / time_base
    # Time stamps that were rounded to a millisecond hide the exact rate: the named one that explains them is it.
    ticks = np.asarray(pts, np.float64) - pts[0]
    tolerance = max(1.0, min(0.001, float(0.25 / mean)) / time_base)
    for rate in [*candidates, mean.limit_denominator(1001)]:
        ideal = np.arange(len(pts)) / float(rate * time_base)
        # In AVI a tick is a frame: where one is off by most of a half, frames were dropped.
        if np.abs(ticks - ideal).max() <= min(tolerance, 0.3 / float(rate * time_base)):
            return rate, False
    return mean.limit_denominator(100_000), True


def cut_off(path: Path, frames: int) -> BadInputError:
    """The complaint about a clip whose end is missing."""
    return BadInputError(f"{path.name} is cut off after {frames} frames; get the whole file again")
