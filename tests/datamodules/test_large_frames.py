"""Frames that are larger than a file says or than anybody takes, and what that costs."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.types import BadInputError
from datamodules.video import probe, read_frames


def png(side: int) -> bytes:
    """A black picture of that side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + 3 * side)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def written(path: Path, *sides: int) -> Path:
    """A MOV that says 64x64, of frames of these sides."""
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("png", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "rgb24"
        container.start_encoding()
        for number, side in enumerate(sides):
            packet = av.Packet(png(side))
            packet.stream, packet.pts, packet.dts, packet.duration = stream, number, number, 1
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            container.mux(packet)
    return path


def test_a_frame_beyond_the_limit_is_not_decoded(tmp_path: Path) -> None:
    clip = written(tmp_path / "large.mov", 2100, 2100)
    assert probe(clip, 2100 * 2100).width == 2100
    with pytest.raises(BadInputError, match=r"large\.mov cannot be decoded"):
        probe(clip, 1400 * 1400)
    honest = written(tmp_path / "honest.mov", 64)
    with pytest.raises(BadInputError, match=r"honest\.mov is 64x64, at most 4000 pixels per frame are") as caught:
        probe(honest, 4000)
    assert caught.value.status == 413


def test_later_frames_may_grow_a_little(tmp_path: Path) -> None:
    (batch,) = read_frames(written(tmp_path / "grows.mov", 64, 1024, 64))
    assert batch.frames.shape == (3, 64, 64, 3), "scaled to the first one's size"
    with pytest.raises(BadInputError, match=r"bursts\.mov is damaged after frame 1"):
        list(read_frames(written(tmp_path / "bursts.mov", 64, 2100, 64), chunk=1))


def test_a_file_that_claims_a_thousand_million_frames_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    clip = written(tmp_path / "lies.mov", 64)
    content = bytearray(clip.read_bytes())
    at = content.index(b"stsz") + 4
    content[at + 4 : at + 12] = struct.pack(">II", 1, 1_000_000_000)
    clip.write_bytes(content)
    with pytest.raises(BadInputError, match=r"lies\.mov claims more than 5,000,000 frames"):
        probe(clip)


def test_frames_are_read_as_they_are(tmp_path: Path) -> None:
    (batch,) = read_frames(written(tmp_path / "small.mov", 64))
    assert not np.any(batch.frames)
