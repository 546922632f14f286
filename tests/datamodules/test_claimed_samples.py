"""What files claim, of files that PyAV wrote and of headers that lie."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules import claimed_samples
from datamodules.claimed_samples import MOST_SAMPLES, check_claimed_samples
from datamodules.types import BadInputError


def box(kind: bytes, *content: bytes) -> bytes:
    inside = b"".join(content)
    return struct.pack(">I", 8 + len(inside)) + kind + inside


def track(samples: int, sound: bool = False, ticks: int = 25) -> bytes:
    """A track of that many samples of one size, each as long."""
    handler = box(b"hdlr", bytes(8), b"soun" if sound else b"vide", bytes(13))
    table = box(
        b"stbl",
        box(b"stts", struct.pack(">IIII", 0, 1, samples, ticks)),
        box(b"stsz", struct.pack(">III", 0, 2, samples)),
    )
    return box(b"trak", box(b"mdia", handler, box(b"minf", table)))


def written(path: Path, **options: str) -> Path:
    """50 frames with 2 s of sound that is not compressed."""
    with av.open(str(path), "w", format="mov", options=options) as container:
        video = container.add_stream("mpeg4", rate=25, width=64, height=64)
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
            piece = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), "s16", "mono")
            piece.sample_rate, piece.pts, piece.time_base = 8000, 320 * number, Fraction(1, 8000)
            container.mux(sound.encode(piece))
        container.mux(video.encode())
        container.mux(sound.encode())
    return path


def test_a_file_may_have_as_many_samples_as_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "clip.mov")
    monkeypatch.setattr(claimed_samples, "MOST_SAMPLES", 50)
    check_claimed_samples(path)
    monkeypatch.setattr(claimed_samples, "MOST_SAMPLES", 49)
    with pytest.raises(BadInputError, match=r"clip.mov claims more than 49 frames"):
        check_claimed_samples(path)


def test_fragments_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "parts.mov", movflags="frag_every_frame+empty_moov")
    monkeypatch.setattr(claimed_samples, "MOST_SAMPLES", 99)
    with pytest.raises(BadInputError, match="cut it into parts"):
        check_claimed_samples(path)
    with av.open(str(path)) as container:
        counted = sum(packet.size > 0 for packet in container.demux())
    monkeypatch.setattr(claimed_samples, "MOST_SAMPLES", 16_000 + counted)
    check_claimed_samples(path)


@pytest.mark.parametrize("tracks", [[MOST_SAMPLES + 1], [MOST_SAMPLES // 2, MOST_SAMPLES // 2, 2]])
def test_a_header_that_claims_too_much_is_refused(tracks: list[int], tmp_path: Path) -> None:
    path = tmp_path / "lie.mp4"
    path.write_bytes(box(b"ftyp", b"qt  ") + box(b"moov", *(track(count) for count in tracks)))
    with pytest.raises(BadInputError, match=r"lie.mp4 claims more than 5,000,000 frames"):
        check_claimed_samples(path)


def test_sound_that_is_not_compressed_has_a_sample_for_every_tick(tmp_path: Path) -> None:
    path = tmp_path / "hours.mov"
    path.write_bytes(box(b"moov", track(48_000 * 3600 * 3, sound=True, ticks=1), track(1000)))
    check_claimed_samples(path)
    path.write_bytes(box(b"moov", track(48_000 * 3600 * 3, sound=True, ticks=1024)))
    with pytest.raises(BadInputError, match="claims more than"):
        check_claimed_samples(path)


def test_what_cannot_be_counted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hidden.mov"
    path.write_bytes(box(b"moov", box(b"cmov", bytes(30))))
    with pytest.raises(BadInputError, match=r"hidden.mov has a compressed header"):
        check_claimed_samples(path)
    monkeypatch.setattr(claimed_samples, "MOST_BOXES", 10)
    path.write_bytes(box(b"free") * 11)
    with pytest.raises(BadInputError, match=r"hidden.mov has too many boxes"):
        check_claimed_samples(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x1aE\xdf\xa3" + bytes(40),
        box(b"moov", box(b"trak", b"\0\0\0\3stsz")),
        box(b"moov", struct.pack(">I4sQ", 1, b"trak", 2**63)),
        box(b"moov", box(b"trak", box(b"stsz", b"\0"))),
        struct.pack(">I4s", 0, b"moov") + track(7),
    ],
)
def test_other_files_and_broken_ones_claim_nothing_here(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.bin"
    path.write_bytes(content)
    check_claimed_samples(path)
