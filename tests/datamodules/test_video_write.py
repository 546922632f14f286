import dataclasses
from fractions import Fraction

import av
import numpy as np
import pytest
from clip_maker import audio_packets, copy, frames_of, make_clip, number_of, psnr

from datamodules.types import BadInputError
from datamodules.video import VideoWriter, loses_fields, probe, read_frames
from datamodules.video_write import pixel_format

NOISE = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize(
    ("codec", "name"),
    [("h264", "b.mp4"), ("h264", "b.mkv"), ("h264", "b.mov"), ("hevc", "b.mkv"), ("ffv1", "b.mp4")],
)
def test_pixels_that_are_not_square_stay_so(tmp_path, codec, name, rotation):
    # x265 writes beyond its memory where frames are less than 64 wide.
    clip = make_clip(
        tmp_path / "a.mp4", frames=12, size=(128, 96), pixel_aspect=Fraction(16, 11), rotation=rotation
    )
    info = probe(clip)
    again = copy(clip, tmp_path / name, codec=codec)
    assert again.pixel_aspect == info.pixel_aspect != 1
    assert (again.width, again.height) == (info.width, info.height)
    assert psnr(frames_of(again.path), frames_of(clip)) > 36


def test_a_container_that_would_make_pixels_square_is_refused(tmp_path):
    wide = probe(make_clip(tmp_path / "a.mp4", frames=1, pixel_aspect=Fraction(16, 11)))
    for codec, name in [("ffv1", "b.mkv"), ("vp9", "b.mkv"), ("vp9", "b.webm")]:
        with pytest.raises(BadInputError, match=r"not square; choose \.mp4"):
            VideoWriter(tmp_path / name, wide, codec=codec, crf=20)
        VideoWriter(tmp_path / name, dataclasses.replace(wide, pixel_aspect=Fraction(1)), codec=codec, crf=20)


@pytest.mark.parametrize(
    ("codec", "stored", "source"),
    [
        ("ffv1", "bgra", "a.mkv"),
        ("ffv1", "bgr0", "a.mkv"),
        ("libx264rgb", "rgb24", "a.mp4"),
        ("gif", "rgb8", "a.gif"),
    ],
)
def test_rgb_is_kept_to_the_bit_in_ffv1(tmp_path, codec, stored, source):
    rate = 25 if codec == "gif" else 30
    clip = make_clip(
        tmp_path / source, frames=3, codec=codec, pixel_format=stored, pictures=NOISE, crf=0, rate=Fraction(rate)
    )
    before = frames_of(clip)
    for target in ("b.mkv", "b.mp4"):
        again = copy(clip, tmp_path / target, codec="ffv1")
        np.testing.assert_array_equal(frames_of(again.path), before)
    # Full range is said even where the source's tags are wrong.
    again = copy(clip, tmp_path / "d.mkv", dataclasses.replace(probe(clip), color_range=1), codec="ffv1")
    assert (again.color_range, again.colorspace) == (2, 0)
    # What every player shows.
    assert copy(clip, tmp_path / "c.mp4").pixel_format in ("yuv420p", "yuvj420p")


def test_ten_bits_of_rgb_stay_rgb(tmp_path):
    clip = make_clip(tmp_path / "a.mkv", frames=3, codec="ffv1", pixel_format="gbrp10le", pictures=NOISE)
    again = copy(clip, tmp_path / "b.mkv", codec="ffv1", bit_depth=10)
    assert (again.bit_depth, again.pixel_format) == (10, "gbrp10le")
    np.testing.assert_allclose(frames_of(again.path).astype(int), frames_of(clip), atol=1)


@pytest.mark.parametrize(
    ("stored", "codec", "depth", "written"),
    [
        ("nv12", "h264", 8, "yuv420p"),
        ("nv16", "h264", 8, "yuv422p"),
        ("yuyv422", "hevc", 8, "yuv422p"),
        ("p210le", "ffv1", 10, "yuv422p10le"),
        ("nv24", "h264", 8, "yuv444p"),
        ("p410le", "h264", 10, "yuv444p10le"),
        ("yuv411p", "h264", 8, "yuv420p"),
        ("gray", "ffv1", 8, "yuv420p"),
        ("argb", "h264", 8, "yuv420p"),
        ("argb", "ffv1", 8, "bgr0"),
    ],
)
def test_chroma_is_the_source_s_whatever_its_format_is_called(tmp_path, stored, codec, depth, written):
    info = dataclasses.replace(probe(make_clip(tmp_path / "a.mp4", frames=1)), pixel_format=stored)
    assert pixel_format(info, codec, depth) == written


def first_field(path):
    """The field that FFmpeg shows first, by its own filter."""
    graph = av.filter.Graph()
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        nodes = graph.add_buffer(template=stream), graph.add("separatefields"), graph.add("buffersink")
        graph.link_nodes(*nodes).configure()
        for frame in list(opened.decode(stream))[:2]:
            graph.vpush(frame)
    return graph.vpull().to_ndarray(format="gray")


def lines(upper, lower):
    """Three frames whose fields have a colour each."""
    frames = np.empty((3, 48, 64, 3), np.uint8)
    frames[:, 0::2], frames[:, 1::2] = upper, lower
    return frames


@pytest.mark.parametrize(
    ("order", "rotation", "first"), [(2, 0, 255), (3, 0, 0), (4, 0, 255), (2, 180, 0), (5, 180, 255)]
)
@pytest.mark.parametrize(
    ("codec", "name"), [("h264", "b.mp4"), ("h264", "b.mkv"), ("h264", "b.mov"), ("ffv1", "b.mkv")]
)
def test_the_field_that_is_shown_first_stays_so(tmp_path, codec, name, order, rotation, first):
    clip = make_clip(tmp_path / "a.mp4", frames=3, pictures=lines(255, 0))
    info = dataclasses.replace(probe(clip), field_order=order, rotation=rotation)
    assert not loses_fields(info, codec)
    again = copy(clip, tmp_path / name, info, codec=codec)
    assert again.field_order == (2 if first == 255 else 3)
    assert abs(first_field(again.path).mean() - first) < 20
    # And once more, from what is now a clip of fields.
    third = copy(again.path, tmp_path / f"c{tmp_path.joinpath(name).suffix}", codec=codec)
    assert third.field_order == again.field_order
    assert abs(first_field(third.path).mean() - first) < 20


def test_a_field_keeps_its_own_colours(tmp_path):
    clip = make_clip(
        tmp_path / "a.mkv", frames=3, codec="ffv1", pixel_format="bgr0", pictures=lines((255, 0, 0), (0, 0, 255))
    )
    info = dataclasses.replace(probe(clip), field_order=2)
    again = copy(clip, tmp_path / "b.mp4", info, crf=1)
    assert again.pixel_format.endswith("420p")
    assert np.abs(frames_of(again.path).astype(int) - frames_of(clip)).mean() < 8


@pytest.mark.parametrize(
    ("codec", "changes"),
    [
        ("hevc", {}),
        ("vp9", {}),
        ("h264", {"rotation": 90}),
        ("ffv1", {"rotation": 270}),
        ("h264", {"height": 98}),
        ("h264", {"codec": "hevc"}),
    ],
)
def test_fields_that_cannot_be_kept_are_told(tmp_path, codec, changes):
    info = probe(make_clip(tmp_path / "a.mp4", frames=12, size=(128, changes.get("height", 96))))
    fields = dataclasses.replace(info, field_order=2, **changes)
    assert loses_fields(fields, codec)
    assert not loses_fields(dataclasses.replace(info, field_order=1), codec)
    assert not copy(info.path, tmp_path / "b.mkv", fields, codec=codec).interlaced


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.mov"])
@pytest.mark.parametrize("sound", [None, "aac"])
def test_what_a_sender_had_sent_before_is_not_waited_for(tmp_path, name, sound):
    clip = make_clip(
        tmp_path / "a.ts", audio=sound, rate=Fraction(25), frames=25, options={"output_ts_offset": "36000"}
    )
    with av.open(str(clip)) as began:
        assert began.start_time > 35999 * 10**6
    again = copy(clip, tmp_path / name, audio_from=clip if sound else None)
    with av.open(str(again.path)) as container:
        assert container.start_time < 0.2 * 10**6 and container.duration < 1.3 * 10**6
    assert frames_of(again.path).shape == frames_of(clip).shape
    if sound:
        apart = [
            audio_packets(path)[0][0] - next(read_frames(path)).pts[0] * float(probe(path).time_base)
            for path in (clip, again.path)
        ]
        assert apart[0] == pytest.approx(apart[1], abs=0.02)


def test_sound_that_leads_begins_the_file(tmp_path):
    clip = make_clip(
        tmp_path / "a.ts", audio="aac", rate=Fraction(25), frames=25, pts=range(10, 35), time_base=Fraction(1, 25),
        options={"output_ts_offset": "36000"},
    )  # fmt: skip
    again = copy(clip, tmp_path / "b.mp4", audio_from=clip)
    first = next(read_frames(again.path)).pts[0] * float(again.time_base)
    assert 0 <= audio_packets(again.path)[0][0] < 0.05 and first == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("name", ["b.mp4", "b.mov", "b.mkv"])
@pytest.mark.parametrize("sound", [None, "aac"])
def test_pictures_before_0_are_shown(tmp_path, name, sound):
    # Where the clock of a broadcast begins anew, FFmpeg counts what lies before as negative.
    clip = make_clip(
        tmp_path / "a.ts", audio=sound, rate=Fraction(25), frames=50, options={"output_ts_offset": "95442.2"}
    )
    with av.open(str(clip)) as opened:
        assert opened.start_time < -0.5e6
    again = copy(clip, tmp_path / name, audio_from=clip if sound else None)
    assert [number_of(frame) for frame in frames_of(again.path)] == list(range(50))
    with av.open(str(again.path)) as opened:
        frames = list(opened.decode(video=0))
    assert len(frames) == 50 and 0 <= frames[0].pts * frames[0].time_base < 0.05
    if sound:
        apart = [
            audio_packets(path)[-1][0] - next(read_frames(path)).pts[0] * float(probe(path).time_base)
            for path in (clip, again.path)
        ]
        assert apart[0] == pytest.approx(apart[1], abs=2e-3)


@pytest.mark.parametrize("name", ["b.mp4", "b.mov"])
def test_hevc_is_named_as_players_ask(tmp_path, name):
    clip = make_clip(tmp_path / "a.mp4", frames=3, size=(128, 96))
    copy(clip, tmp_path / name, codec="hevc")
    data = (tmp_path / name).read_bytes()
    assert b"hvc1" in data and b"hev1" not in data
