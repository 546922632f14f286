"""How many samples an MP4 or QuickTime file says that it has, read from its header alone.

FFmpeg keeps an entry in memory for every sample, and believes the count: some hundred bytes could claim thousands
of millions. The boxes are those of ISO/IEC 14496-12; what is no such file claims nothing here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from datamodules.types import BadInputError

MOST_SAMPLES = 5_000_000
"""Of all tracks: 46 hours of pictures at 30 a second, and 120 MB of FFmpeg's entries."""
MOST_BOXES = 500_000
"""That are looked at: a day in fragments of a second."""
_HOLDS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}


@dataclass
class _Track:
    """What is known of one track so far."""

    sound: bool = False
    samples: int = 0
    even: bool = False
    """Whether every sample lasts one tick: of such sound FFmpeg counts the chunks, which stand in a table."""

    @property
    def claimed(self) -> int:
        return 0 if self.sound and self.even else self.samples


def check_claimed_samples(path: Path) -> None:
    """Raise ``BadInputError`` where a file claims more than ``MOST_SAMPLES``, or hides how many by compression."""
    tracks = [_Track()]
    with path.open("rb") as file:
        for kind, size in _boxes(file, 0, os.fstat(file.fileno()).st_size, [MOST_BOXES]):
            if kind == b"cmov":
                raise BadInputError(f"{path.name} has a compressed header: save it anew, e.g. as .mp4")
            if kind == b"trak":
                tracks.append(_Track())
            elif kind == b"hdlr":
                tracks[-1].sound |= _numbers(file, ">8x4s", size) == (b"soun",)
            elif kind == b"stts":
                tracks[-1].even = _numbers(file, ">4xI4xI", size) == (1, 1)
            elif kind == b"stsz":
                tracks[-1].samples += sum(_numbers(file, ">8xI", size))
            elif kind == b"trun":  # a fragment of any track
                tracks[0].samples += sum(_numbers(file, ">4xI", size))
            if sum(track.claimed for track in tracks) > MOST_SAMPLES:
                raise BadInputError(
                    f"{path.name} claims more than {MOST_SAMPLES:,} frames and packets of sound; cut it into parts"
                )


def _boxes(file: BinaryIO, start: int, end: int, left: list[int]) -> Iterator[tuple[bytes, int]]:
    """Kinds and sizes of boxes from ``start`` to ``end``, at their content, depth first; ``left`` counts down."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,), head = struct.unpack(">Q", file.read(8).ljust(8, b"\0")), 16
        stop = end if size == 0 else min(start + size, end)
        if size and size < head:
            return  # no box: what follows cannot be found
        left[0] -= 1
        if left[0] < 0:
            raise BadInputError(f"{Path(str(file.name)).name} has too many boxes; save it anew, e.g. as .mp4")
        yield kind, stop - start - head
        if kind in _HOLDS:
            yield from _boxes(file, start + head, stop, left)
        start = stop


def _numbers(file: BinaryIO, layout: str, size: int) -> tuple[Any, ...]:
    """What stands at the file's place in that layout; nothing where a box of ``size`` bytes is too short."""
    wanted = struct.calcsize(layout)
    found = file.read(wanted) if size >= wanted else b""
    return struct.unpack(layout, found) if len(found) == wanted else ()
