from fractions import Fraction

import av
import pytest
from clip_maker import make_clip

from datamodules.types import FrameBatch
from datamodules.video import VideoWriter, probe, read_frames

MILLISECONDS = Fraction(1, 1000)
UNEVEN = (0, 40, 80, 200, 233, 500, 533, 573, 700, 1000)


def waiting(path, last):
    """Four frames of a tenth of a second, and one of ``last`` hundredths, in a GIF."""
    clip = make_clip(path, frames=5, rate=Fraction(10), codec="gif", pixel_format="rgb8")
    data = bytearray(clip.read_bytes())
    place = data.rindex(b"\x21\xf9\x04") + 4  # the delay in the last of its graphic control extensions
    data[place : place + 2] = last.to_bytes(2, "little")
    clip.write_bytes(data)
    return clip


def written(source, target, codec="h264", kept=lambda number: True, **section):
    """With the encoder's own settings: where frames are stored in another order than shown."""
    info = probe(source)
    sound = source if info.audio_codec else None
    with VideoWriter(target, info, codec=codec, crf=20, audio_from=sound, **section) as writer:
        for batch in read_frames(source, chunk=7, **section):
            for number, (frame, pts) in enumerate(zip(batch.frames, batch.pts, strict=True), batch.first):
                if kept(number):
                    writer.write(FrameBatch(frame[None], (pts,), number))
    return target


def length(path):
    """Seconds of the file by its header, and of the pictures in MP4 by the steps between what is stored."""
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        header = opened.duration / 1e6
        if "mp4" not in opened.format.name:
            return header, header
        return header, float(sum(packet.duration for packet in opened.demux(stream)) * stream.time_base)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("b.mp4", "h264"),
        ("b.mov", "h264"),
        ("b.mkv", "h264"),
        ("b.mkv", "ffv1"),
        ("b.mp4", "ffv1"),
        ("b.webm", "vp9"),
    ],
)
def test_the_last_frame_is_shown_as_long_as_in_the_source(tmp_path, name, codec):
    clip = written(waiting(tmp_path / "a.gif", 300), tmp_path / name, codec)
    assert length(clip) == pytest.approx((3.4, 3.4), abs=2e-3)
    with av.open(str(clip)) as opened:
        shown = [float(frame.pts * frame.time_base) for frame in opened.decode(video=0)]
    assert shown == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_hevc_too(tmp_path):
    source = make_clip(  # x265 writes beyond its memory where frames are less than 64 wide
        tmp_path / "a.mp4", 10, (128, 96), pts=UNEVEN, time_base=MILLISECONDS, coding={"bf": "0"}
    )
    with av.open(str(source)) as opened:
        last = opened.duration / 1e6
    assert length(written(source, tmp_path / "b.mp4", "hevc")) == pytest.approx((last, last), abs=2e-3)


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
@pytest.mark.parametrize("sound", [None, "aac"])
def test_a_clip_of_uneven_steps_is_as_long_as_its_source(tmp_path, name, sound):
    source = make_clip(tmp_path / "a.mp4", 10, pts=UNEVEN, time_base=MILLISECONDS, coding={"bf": "0"}, audio=sound)
    assert probe(source).duration == pytest.approx(1 + 1 / 30, abs=2e-3)
    again = written(source, tmp_path / name)
    with av.open(str(again)) as opened:
        stamps = [packet.pts for packet in opened.demux(video=0) if packet.size]
    assert stamps != sorted(stamps)
    assert length(again)[1] == pytest.approx(1 + 1 / 30, abs=2e-3)
    assert probe(again).duration == pytest.approx(1 + 1 / 30, abs=2e-3)


def test_what_leaves_out_frames_is_as_long_as_the_whole(tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=30)
    again = written(source, tmp_path / "b.mp4", kept=lambda number: number % 5 == 0)
    assert length(again) == pytest.approx((1, 1), abs=2e-3)


@pytest.mark.parametrize(
    ("section", "seconds"),
    [
        ({"start": 0.2}, 3.2),
        ({"start": 0.15, "end": 9.0}, 3.2),
        ({"end": 0.3}, 0.3),
        ({"start": 0.1, "end": 0.3}, 0.2),
    ],
)
def test_a_section_has_the_length_of_its_last_frame(tmp_path, section, seconds):
    clip = written(waiting(tmp_path / "a.gif", 300), tmp_path / "b.mp4", **section)
    assert length(clip) == pytest.approx((seconds, seconds), abs=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_steady_clips_are_as_long_as_their_frames(tmp_path, suffix):
    ntsc = Fraction(30000, 1001)
    source = make_clip(tmp_path / "a.mkv", frames=31, rate=ntsc)
    for section, frames in [({}, 31), ({"start": 0.5}, 16), ({"end": 0.5}, 15)]:
        clip = written(source, tmp_path / f"b.{suffix}", **section)
        assert length(clip)[1] == pytest.approx(frames / float(ntsc), abs=3e-3)
