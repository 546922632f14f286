from fractions import Fraction

import av
import numpy as np
import pytest
from clip_maker import copy, frames_of, make_clip, number_of

from datamodules.types import BadInputError
from datamodules.video import probe, read_frames

PACKET = 188
"""Bytes of one packet of a transport stream."""
VIDEO_BEGINS, SOUND_BEGINS = b"\x41\x00", b"\x41\x01"
"""Of the header of a packet with which a frame begins: that mark, and the stream's number as FFmpeg gives it."""
MILLISECONDS = Fraction(1, 1000)


def sent(path, later=0, sound=None, **how):
    """A broadcast of 1.5 s whose clock stood at ``later`` seconds when it began."""
    options = {"output_ts_offset": str(later), "mpegts_flags": "initial_discontinuity"}
    return make_clip(path, frames=45, audio=sound, options=options, **how)


def joined(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("clocks", [(0, 0), (5, 1), (36000, 0), (0, 36000)])
def test_a_joined_clip_whose_clock_starts_again_is_refused(tmp_path, clocks):
    parts = [sent(tmp_path / f"{number}.ts", later) for number, later in enumerate(clocks)]
    clip = joined(tmp_path / "a.ts", *parts)
    for use in (probe, read_frames):
        with pytest.raises(
            BadInputError, match=r"a\.ts .*clock starts again after 45 frames; join it anew"
        ) as told:
            use(clip)
        assert "\n" not in str(told.value)


def test_a_clock_that_starts_again_is_said_where_there_is_sound(tmp_path):
    part = sent(tmp_path / "b.ts", sound="aac")
    with pytest.raises(BadInputError, match="clock starts again"):
        probe(joined(tmp_path / "a.ts", part, part))


def test_parts_that_follow_each_other_are_one_clip(tmp_path):
    parts = [sent(tmp_path / f"{later}.ts", later, coding={"bf": "3"}) for later in (0, 2)]
    clip = joined(tmp_path / "a.ts", *parts)
    assert probe(clip).frames == 90
    assert [number_of(frame) for frame in frames_of(clip)] == [*range(45), *range(45)]


def test_a_lost_piece_of_a_broadcast_is_no_end(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    whole = make_clip(tmp_path / "a.ts", pictures=noise, audio="ac3", gop=5).read_bytes()
    clip = tmp_path / "b.ts"
    begun = [place for place in range(0, len(whole), PACKET) if whole[place + 1 : place + 3] == VIDEO_BEGINS]
    for frame in (1, 14, 28):
        lost = begun[frame] + PACKET
        clip.write_bytes(whole[:lost] + whole[lost + PACKET :])
        with av.open(str(clip)) as opened:
            assert sum(packet.is_corrupt for packet in opened.demux(video=0)) == 1
        assert probe(clip).frames == 30 and len(frames_of(clip)) == 30


def test_a_broadcast_that_ends_within_a_packet_is_cut_off(tmp_path):
    whole = make_clip(tmp_path / "a.ts", audio="ac3").read_bytes()
    begun = [place for place in range(0, len(whole), PACKET) if whole[place + 1 : place + 3] == SOUND_BEGINS]
    clip = tmp_path / "b.ts"
    clip.write_bytes(whole[: begun[-1] + PACKET])
    with pytest.raises(BadInputError, match="cut off after"):
        probe(clip)


def with_last_delay(clip, hundredths):
    """The GIF with another delay in the last of its graphic control extensions."""
    data = bytearray(clip.read_bytes())
    place = data.rindex(b"\x21\xf9\x04") + 4
    data[place : place + 2] = hundredths.to_bytes(2, "little")
    clip.write_bytes(data)
    return clip


def test_the_last_frame_of_a_gif_lasts_as_long_as_it_says(tmp_path):
    clip = make_clip(tmp_path / "a.gif", frames=5, rate=Fraction(10), codec="gif", pixel_format="rgb8")
    assert probe(clip).duration == pytest.approx(0.5)
    info = probe(with_last_delay(clip, 300))
    assert (info.rate, info.variable_rate) == (10, False) and info.duration == pytest.approx(3.4)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_length_of_a_varying_clip_is_that_of_its_file(tmp_path, name):
    pts = [0, 40, 80, 200, 233, 500, 533, 1000]
    clip = make_clip(tmp_path / name, frames=8, pts=pts, time_base=MILLISECONDS, coding={"bf": "0"})
    with av.open(str(clip)) as opened:
        announced = opened.duration / 1e6
    assert 1.02 < announced < 1.05  # not the mean of the steps, which is 0.143
    assert probe(clip).duration == pytest.approx(announced, abs=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "ts", "avi"])
def test_the_last_frame_of_a_steady_clip_lasts_one_step(tmp_path, suffix):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(suffix, "libx264")
    sound = {"webm": "libopus", "avi": "pcm_s16le"}.get(suffix, "aac")
    ntsc = Fraction(30000, 1001)
    info = probe(make_clip(tmp_path / f"a.{suffix}", frames=31, rate=ntsc, codec=codec, audio=sound))
    assert info.duration == pytest.approx(31 / float(ntsc), abs=2e-3) and not info.variable_rate


def test_a_copy_is_as_long_as_its_source(tmp_path):
    clip = make_clip(tmp_path / "a.gif", frames=5, rate=Fraction(10), codec="gif", pixel_format="rgb8")
    with_last_delay(clip, 300)
    for name in ("b.mp4", "b.mkv"):
        assert copy(clip, tmp_path / name).duration == pytest.approx(3.4, abs=2e-3)
