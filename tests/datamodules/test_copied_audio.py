from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from av.stream import Disposition
from clip_maker import copy, frames_of, make_clip

UNSHUFFLED = {"bf": "0"}
"""Frames in the file as they are shown, so that each packet has all of its time stamps."""


def remade(source, target, change):
    """The same packets in another file; ``change`` is given each of sound with its number."""
    with av.open(str(source)) as read, av.open(str(target), "w") as out:
        to = {stream.index: out.add_stream_from_template(stream) for stream in read.streams}
        sounds = 0
        for packet in read.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    change(sounds, packet)
                    sounds += 1
                packet.stream = to[packet.stream.index]
                out.mux(packet)
    return target


def heard(path):
    """(seconds, bytes) of the packets of sound that no edit list trims away, and how many it does."""
    with av.open(str(path)) as opened:
        packets = [packet for packet in opened.demux(audio=0) if packet.size]
    kept = [(float(p.pts * p.time_base), bytes(p)) for p in packets if not p.is_discard]
    return kept, len(packets) - len(kept)


def samples(path):
    with av.open(str(path)) as opened:
        return np.concatenate([frame.to_ndarray()[0] for frame in opened.decode(audio=0)])


def begin_of_pictures(path):
    with av.open(str(path)) as opened:
        frame = next(opened.decode(video=0))
        return float(frame.pts * frame.time_base)


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_two_packets_of_one_time_are_copied(tmp_path, name):
    def doubled(number, packet):
        if number == 20:
            packet.pts -= 20
            packet.dts -= 20

    whole = make_clip(tmp_path / "whole.mkv", audio="libopus", coding=UNSHUFFLED)
    clip = remade(whole, tmp_path / "a.mkv", doubled)
    before, _ = heard(clip)
    assert before[20][0] == before[19][0]
    copy(clip, tmp_path / name, audio_from=clip)
    after, _ = heard(tmp_path / name)
    assert [packet for _, packet in after] == [packet for _, packet in before]
    np.testing.assert_allclose([time for time, _ in after], [time for time, _ in before], atol=1.01e-3)
    assert len(frames_of(tmp_path / name)) == 30


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_a_clock_that_jitters_is_smoothed(tmp_path, name):
    whole = make_clip(tmp_path / "whole.ts", audio="aac", coding=UNSHUFFLED, rate=Fraction(25))
    data = bytearray(whole.read_bytes())
    turned = [place for place in range(0, len(data), 188) if data[place + 1 : place + 3] == b"\x41\x01"]
    # Each packet of sound that bears a time stamp bears the one of the next, and that its own.
    for first, second in zip(turned[1::4], turned[2::4], strict=False):
        one, two = (data.index(b"\x00\x00\x01\xc0", place) + 9 for place in (first, second))
        data[one : one + 5], data[two : two + 5] = data[two : two + 5], data[one : one + 5]
    clip = tmp_path / "a.ts"
    clip.write_bytes(data)
    with av.open(str(clip)) as opened:
        stamps = [packet.dts for packet in opened.demux(audio=0) if packet.size]
    assert any(after < before for before, after in pairwise(stamps))
    copy(clip, tmp_path / name, audio_from=clip)
    # Both containers leave out the header of seven bytes that broadcasts have before each.
    assert [packet for _, packet in heard(tmp_path / name)[0]] == [packet[7:] for _, packet in heard(clip)[0]]


def early(seconds):
    """The sound begins before 0, where the muxer's edit list trims it away."""

    def change(number, packet):
        packet.pts -= round(seconds / packet.time_base)
        packet.dts -= round(seconds / packet.time_base)

    return change


@pytest.mark.parametrize("name", ["b.mp4", "b.mov", "b.mkv"])
def test_sound_that_was_trimmed_away_stays_away(tmp_path, name):
    whole = make_clip(tmp_path / "whole.mp4", frames=60, audio="aac", coding=UNSHUFFLED)
    clip = remade(whole, tmp_path / "a.mp4", early(1))
    before, trimmed = heard(clip)
    assert trimmed > 30 and begin_of_pictures(clip) == 0
    copy(clip, tmp_path / name, audio_from=clip)
    after, left = heard(tmp_path / name)
    assert [packet for _, packet in after] == [packet for _, packet in before]
    assert left == (0 if name == "b.mkv" else 1)
    began = begin_of_pictures(tmp_path / name)
    assert began < 0.025 and after[0][0] - began == pytest.approx(before[0][0], abs=2e-3)
    if name != "b.mkv":
        # Decoders get the packet that they start with; AAC's fill what is not stored with noise.
        np.testing.assert_allclose(samples(tmp_path / name), samples(clip), atol=1e-3)


def two_tracks(path):
    """A second of silence in two languages beside ten frames."""
    with av.open(str(path), "w") as out:
        pictures = out.add_stream("libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sounds = [out.add_stream("aac", rate=48000, layout="mono") for _ in range(2)]
        for sound, language, title in zip(sounds, ("fra", "eng"), ("Original", "For the blind"), strict=True):
            sound.metadata.update({"language": language, "title": title})
        sounds[0].disposition = Disposition.original
        sounds[1].disposition = Disposition.default | Disposition.visual_impaired
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(pictures.encode(frame))
        for sound in sounds:
            for number in range(20):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                frame.pts, frame.sample_rate, frame.time_base = 1024 * number, 48000, Fraction(1, 48000)
                out.mux(sound.encode(frame))
        for stream in (pictures, *sounds):
            out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["b.mkv", "b.mp4"])
def test_tracks_keep_their_languages_and_what_they_are_for(tmp_path, name):
    clip = two_tracks(tmp_path / "a.mkv")
    copy(clip, tmp_path / name, audio_from=clip)
    known = []
    for path in (clip, tmp_path / name):
        with av.open(str(path)) as opened:
            known.append(
                [(s.metadata["language"], s.metadata.get("title"), s.disposition) for s in opened.streams.audio]
            )
    assert [language for language, _, _ in known[1]] == ["fra", "eng"]
    if name == "b.mkv":
        assert known[1] == known[0] and known[0][1][1] == "For the blind"
    assert [bool(kind & Disposition.default) for _, _, kind in known[1]] == [False, True]
