from fractions import Fraction

import av
import numpy as np
import pytest
from clip_maker import copy, frames_of, make_clip, number_of, picture, psnr

from datamodules.types import BadInputError
from datamodules.video import probe, read_frames
from datamodules.video_read import orientation

QUIET = {"x265-params": "log-level=error"}


def shown(image, matrix):
    """The picture as its display matrix sends each of its pixels, one by one."""
    height, width = image.shape[:2]
    a, b, _, c, d = (round(value / 65536) for value in matrix[:5])
    y, x = np.mgrid[:height, :width]
    across, down = a * x + c * y, b * x + d * y
    sent = np.zeros((height, width, 3) if a else (width, height, 3), np.uint8)
    sent[down - down.min(), across - across.min()] = image
    return sent


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_clip_is_shown_as_its_matrix_says(tmp_path, rotation, mirrored):
    clip = make_clip(tmp_path / "a.mp4", frames=3, rotation=rotation, mirrored=mirrored)
    info = probe(clip)
    assert (info.rotation, info.mirrored) == (rotation, mirrored)
    with av.open(str(clip)) as opened:
        frame = next(opened.decode(video=0))
    matrix = [*(65536, 0, 0, 0, 65536), 0, 0, 0, 1 << 30]
    if rotation or mirrored:
        matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)
    upright = shown(picture(1, 64, 48), matrix)
    assert psnr(frames_of(clip)[1], upright) > 30
    again = copy(clip, tmp_path / "b.mp4")
    assert (again.rotation, again.mirrored) == (0, False)
    assert psnr(frames_of(again.path)[1], upright) > 30


class UnknownSideData:
    """A frame of whose side data PyAV does not know every kind."""

    def __init__(self, rotation):
        self.rotation = rotation

    @property
    def side_data(self):
        raise ValueError("99 is not a valid Type")


def test_a_turn_that_cannot_be_read_is_refused(tmp_path):
    assert orientation(UnknownSideData(0), tmp_path / "a.mp4") == (0, False)
    with pytest.raises(BadInputError, match=r"a\.mp4 asks to be turned.*convert it") as caught:
        orientation(UnknownSideData(180), tmp_path / "a.mp4")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_shape_of_a_pixel_turns_with_the_picture(tmp_path, rotation):
    clip = make_clip(tmp_path / "a.mp4", frames=2, rotation=rotation, pixel_aspect=Fraction(16, 11))
    assert probe(clip).pixel_aspect == (Fraction(11, 16) if rotation % 180 else Fraction(16, 11))
    assert probe(make_clip(tmp_path / "b.mp4", frames=2)).pixel_aspect == 1


@pytest.mark.parametrize(
    ("name", "codec", "coding"),
    [
        ("a.h264", "libx264", {}),
        ("a.hevc", "libx265", QUIET),
        ("a.avi", "libx264", {"bf": "3"}),
        ("b.avi", "libx264", {"bf": "0"}),
        ("c.avi", "mjpeg", {}),
    ],
)
def test_frames_that_do_not_say_when_they_are_shown_are_counted(tmp_path, name, codec, coding):
    kind = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = make_clip(
        tmp_path / name, frames=40, codec=codec, coding=coding, gop=8, pixel_format=kind, size=(128, 96)
    )
    info = probe(clip)
    assert (info.rate, info.variable_rate, info.frames) == (30, False, 40)
    batches = list(read_frames(clip, chunk=7))
    pts = [stamp for batch in batches for stamp in batch.pts]
    assert [number_of(frame) for batch in batches for frame in batch.frames] == list(range(40))
    step = 1 / (30 * info.time_base)
    assert pts == [number * step for number in range(40)]
    for first, last in [(0, 5), (9, 21), (25, 40)]:
        end = None if last == 40 else last / 30
        found = list(read_frames(clip, chunk=7, start=first / 30, end=end))
        assert [number_of(frame) for batch in found for frame in batch.frames] == list(range(first, last))
        assert found[0].first == first and found[0].pts[0] == pts[first]
    again = copy(clip, tmp_path / "again.mp4")
    assert (again.rate, again.variable_rate, again.frames) == (30, False, 40)
    assert [number_of(frame) for frame in frames_of(again.path)] == list(range(40))


def test_sound_of_an_avi_stays_with_its_pictures(tmp_path):
    clip = make_clip(tmp_path / "a.avi", frames=30, audio="pcm_s16le")
    copy(clip, tmp_path / "b.mkv", audio_from=clip)
    with av.open(str(tmp_path / "b.mkv")) as opened:
        began = {packet.stream.type: packet.pts for packet in list(opened.demux())[::-1] if packet.size}
    assert abs(began["video"] - began["audio"]) <= 1  # milliseconds


@pytest.mark.parametrize(("mode", "order"), [("tff", 2), ("bff", 3)])
def test_a_clip_of_fields_says_so(tmp_path, mode, order):
    info = probe(make_clip(tmp_path / "a.mp4", frames=3, coding={"x264-params": f"{mode}=1:weightp=0"}))
    assert info.interlaced and info.field_order == order
    assert not probe(make_clip(tmp_path / "b.mp4", frames=3)).interlaced


@pytest.mark.parametrize("dropped", [(20,), (12, 24), (9, 18, 27), tuple(range(9, 40, 10))])
def test_frames_that_an_avi_dropped_leave_their_gaps(tmp_path, dropped):
    kept = [n for n in range(40) if n not in dropped]
    pictures = [picture(n, 64, 48) for n in kept]
    clip = make_clip(
        tmp_path / "a.avi", len(kept), codec="mpeg4", pts=kept, time_base=Fraction(1, 25), rate=Fraction(25),
        pictures=pictures,
    )  # fmt: skip
    assert probe(clip).variable_rate
    again = copy(clip, tmp_path / "b.mp4")
    times = [pts * again.time_base for batch in read_frames(again.path) for pts in batch.pts]
    assert times == [Fraction(n, 25) for n in kept]


ROUND = 2**33 / 90000
"""Seconds after which the clock of a broadcast begins anew; FFmpeg then counts what lies before as negative."""


def test_sections_of_a_clip_that_begins_before_0(tmp_path):
    options = {"output_ts_offset": f"{ROUND - 1.5:.3f}"}
    clip = make_clip(tmp_path / "a.ts", frames=50, rate=Fraction(25), gop=10, options=options)
    with av.open(str(clip)) as opened:
        assert opened.start_time < -0.5e6
    for first, last in [(0, 50), (2, 30), (5, 10), (33, 50), (47, 48)]:
        batches = list(read_frames(clip, start=first / 25, end=last / 25))
        assert batches[0].first == first
        assert [number_of(frame) for batch in batches for frame in batch.frames] == list(range(first, last))


@pytest.mark.parametrize("codec", ["mpeg2video", "mpeg1video"])
def test_sections_of_a_program_stream(tmp_path, codec):
    clip = make_clip(tmp_path / "a.mpg", 60, rate=Fraction(25), codec=codec, gop=12, coding={"bf": "2"})
    assert not probe(clip).variable_rate
    whole = frames_of(clip)
    assert len(whole) == 60
    for first in range(0, 60, 3):
        last = min(first + 6, 60)
        np.testing.assert_array_equal(frames_of(clip, start=first / 25, end=last / 25), whole[first:last])
