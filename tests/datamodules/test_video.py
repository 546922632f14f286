import dataclasses
import itertools
import resource
from fractions import Fraction

import av
import numpy as np
import pytest
from clip_maker import audio_packets, copy, frames_of, make_clip, make_sound, number_of, picture, psnr

from datamodules import video_read
from datamodules.disk import is_disk_full
from datamodules.types import BadInputError, FrameBatch
from datamodules.video import VideoWriter, probe, read_frames
from datamodules.video_write import kept_depth
from modules.assets import asset_path

NTSC = Fraction(30000, 1001)


def test_frames_come_in_order_with_their_pixels(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", frames=20)
    batches = list(read_frames(clip, chunk=7))
    assert [(b.first, len(b.frames)) for b in batches] == [(0, 7), (7, 7), (14, 6)]
    frames = np.concatenate([b.frames for b in batches])
    assert [number_of(f) for f in frames] == list(range(20))
    assert psnr(frames[3], picture(3, 64, 48)) > 30


@pytest.mark.parametrize("rate", [NTSC, Fraction(24000, 1001), Fraction(25), Fraction(2213, 100)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_rates_stay_exact_through_every_container(tmp_path, rate, suffix):
    info = probe(make_clip(tmp_path / f"a.{suffix}", frames=60, rate=rate))
    assert (info.rate, info.variable_rate, info.frames) == (rate, False, 60)
    again = copy(info.path, tmp_path / "b.mp4", info)
    assert (again.rate, again.variable_rate, again.frames) == (rate, False, 60)
    assert again.duration == pytest.approx(60 / float(rate), abs=2e-3)


def test_variable_rate_keeps_every_time_stamp(tmp_path):
    pts = [0, 40, 80, 200, 233, 500, 533, 1000]
    clip = make_clip(tmp_path / "a.mp4", frames=8, pts=pts, time_base=Fraction(1, 1000))
    info = probe(clip)
    assert info.variable_rate and info.rate == pytest.approx(7.0, rel=0.01)
    copy(clip, tmp_path / "b.mp4", info)
    for path in (clip, tmp_path / "b.mp4"):
        ticks = [p for b in read_frames(path) for p in b.pts]
        assert [round(1000 * t * probe(path).time_base) for t in ticks] == pts


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied_once(tmp_path, rotation):
    clip = make_clip(tmp_path / "a.mp4", frames=3, rotation=rotation)
    info = probe(clip)
    assert info.rotation == rotation
    assert (info.width, info.height) == ((64, 48) if rotation == 180 else (48, 64))
    upright = np.rot90(picture(1, 64, 48), -rotation // 90)
    assert psnr(frames_of(clip)[1], upright) > 30
    again = copy(clip, tmp_path / "b.mp4", info)
    assert again.rotation == 0 and psnr(frames_of(again.path)[1], upright) > 30


@pytest.mark.parametrize(
    "color", [(1, 1, 1, 1), (2, 1, 13, 1), (1, 9, 16, 9), (1, 6, 6, 6), (2, 5, 6, 5)], ids=str
)
def test_colours_and_their_tags_are_kept(tmp_path, color):
    clip = make_clip(tmp_path / "a.mp4", frames=3, color=color, pixel_format="yuv444p")
    info = probe(clip)
    tags = (info.color_range, info.color_primaries, info.color_trc, info.colorspace)
    assert tags == color
    assert np.abs(frames_of(clip)[1].astype(int) - picture(1, 64, 48)).mean() < 1.5
    again = copy(clip, tmp_path / "b.mp4", info)
    assert (again.color_range, again.color_primaries, again.color_trc, again.colorspace) == color
    assert again.pixel_format.endswith("444p")
    assert np.abs(frames_of(again.path)[1].astype(int) - picture(1, 64, 48)).mean() < 1.5


def test_matrix_is_the_one_the_tag_names(tmp_path):
    """Against BT.709's own formula, not against the writer."""
    solid = np.full((3, 48, 64, 3), (200, 50, 90), np.uint8)
    clip = make_clip(
        tmp_path / "a.mp4", frames=3, color=(1, 1, 1, 1), pictures=solid, pixel_format="yuv444p", crf=0
    )
    copy(clip, tmp_path / "b.mp4", crf=0)
    red, green, blue = np.array([200, 50, 90]) / 255
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = [16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748]
    for path in (clip, tmp_path / "b.mp4"):
        with av.open(str(path)) as opened:
            planes = next(opened.decode(video=0)).to_ndarray()[:, 20, 30]
        np.testing.assert_allclose(planes, expected, atol=1.5)


def test_ten_bits_in_and_out(tmp_path):
    clip = make_clip(
        tmp_path / "a.mp4", frames=4, codec="libx265", pixel_format="yuv420p10le", color=(1, 9, 16, 9)
    )
    info = probe(clip)
    assert info.bit_depth == 10
    assert psnr(frames_of(clip)[1], picture(1, 64, 48)) > 28
    for codec in ("hevc", "h264", "ffv1"):
        again = copy(clip, tmp_path / f"{codec}.mkv", info, codec=codec, bit_depth=10)
        assert (again.bit_depth, again.color_primaries, again.codec[:3]) == (
            10,
            9,
            codec[:3],
        )
        assert psnr(frames_of(again.path), frames_of(clip)) > 36
    assert copy(clip, tmp_path / "eight.mp4", info).bit_depth == 8


@pytest.mark.parametrize("size", [(65, 48), (64, 49), (65, 49)])
def test_odd_sizes_stay_as_they_are(tmp_path, size):
    clip = make_clip(tmp_path / "a.mp4", frames=3, size=size, pixel_format="yuv444p")
    again = copy(clip, tmp_path / "b.mp4", dataclasses.replace(probe(clip), pixel_format="yuv420p"))
    assert (again.width, again.height) == size
    assert psnr(frames_of(again.path), frames_of(clip)) > 36


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("grey.mkv", "ffv1", "gray"), ("alpha.mov", "prores_ks", "yuva444p10le"), ("rgb.mkv", "ffv1", "bgra")],
)
def test_grey_alpha_and_rgb_come_as_colour(tmp_path, name, codec, pixel_format):
    clip = make_clip(
        tmp_path / name,
        frames=3,
        codec=codec,
        pixel_format=pixel_format,
        color=(2, 2, 2, 5) if "grey" in name else None,
    )
    frame = frames_of(clip)[1]
    assert number_of(frame) == 1
    if "grey" in name:
        assert (frame[..., 0] == frame[..., 2]).all()
    else:
        assert psnr(frame, picture(1, 64, 48)) > 30
    again = copy(clip, tmp_path / "b.mp4")
    assert psnr(frames_of(again.path)[1], frame) > 30 and again.pixel_format.startswith("yuv")


def test_audio_packets_are_copied_untouched(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", frames=60, audio="aac", rate=NTSC)
    assert probe(clip).audio_codec == "aac"
    again = copy(clip, tmp_path / "b.mp4", audio_from=clip)
    assert again.audio_codec == "aac"
    before, after = audio_packets(clip), audio_packets(again.path)
    assert [b for _, b in after] == [b for _, b in before]
    np.testing.assert_allclose([t for t, _ in after], [t for t, _ in before], atol=1e-4)


def test_a_section_has_its_frames_and_its_audio(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", frames=90, audio="aac", rate=NTSC)
    batches = list(read_frames(clip, start=1.0, end=2.0))
    assert batches[0].first == 30 and sum(len(b.frames) for b in batches) == 30
    assert [number_of(f) for b in batches for f in b.frames] == list(range(30, 60))
    again = copy(clip, tmp_path / "b.mp4", audio_from=clip, start=1.0, end=2.0)
    assert (again.frames, again.rate) == (30, NTSC)
    zero = 30 / float(NTSC)
    expected = [(t - zero, b) for t, b in audio_packets(clip) if zero <= t < zero + 1.0]
    got = audio_packets(again.path)
    assert abs(len(got) - len(expected)) <= 1
    for (t, b), (u, c) in zip(got, expected, strict=False):
        assert b == c and t == pytest.approx(u, abs=2e-3)
    with pytest.raises(BadInputError, match="another section"):
        read_frames(clip, start=5.0)
    with pytest.raises(BadInputError, match="start must") as caught:
        read_frames(clip, start=float("nan"))
    assert caught.value.status == 400


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_every_section_is_the_same_frames_as_the_whole(tmp_path, suffix):
    pts = list(itertools.accumulate([0] + [30, 50, 41] * 15))
    clip = make_clip(tmp_path / f"a.{suffix}", frames=46, pts=pts, time_base=Fraction(1, 1000), gop=7)
    for first, last in [(0, 5), (4, 46), (13, 14), (21, 30), (45, 46)]:
        end = None if last == 46 else pts[last] / 1000
        batches = list(read_frames(clip, start=pts[first] / 1000, end=end))
        assert [number_of(f) for b in batches for f in b.frames] == list(range(first, last))
        assert batches[0].first == first


def test_huge_frames_come_in_small_batches(tmp_path, monkeypatch):
    clip = make_clip(tmp_path / "a.mp4", frames=5)
    monkeypatch.setattr(video_read, "BATCH_BYTES", 2 * 64 * 48 * 3 + 1)
    assert [len(b.frames) for b in read_frames(clip)] == [2, 2, 1]
    monkeypatch.setattr(video_read, "BATCH_BYTES", 1)
    assert [len(b.frames) for b in read_frames(clip)] == [1] * 5


def write_cut_off(tmp_path, options, suffix):
    whole = make_clip(tmp_path / f"whole.{suffix}", frames=60, size=(128, 96), options=options, crf=1)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    return path


def bad_files(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20000))
    make_clip(tmp_path / "zero.mp4", frames=0, audio="aac", rate=Fraction(1, 5))
    (tmp_path / "folder.mp4").mkdir()
    yield "no_such.mp4", 422, "does not exist"
    yield "folder.mp4", 422, "not a file"
    yield "empty.mp4", 422, "empty"
    yield "text.mp4", 415, "not a video"
    yield "list.mp4", 415, "not a video"
    yield "noise.mp4", 415, "not a video"
    yield make_sound(tmp_path / "sound.mp4").name, 415, "no video stream"
    yield "zero.mp4", 415, "no video stream"
    yield make_clip(tmp_path / "zero.mkv", frames=0).name, 422, "no index of frames"
    yield make_clip(tmp_path / "zero.avi", frames=0, codec="mpeg4").name, 422, "no frame"
    yield write_cut_off(tmp_path, {}, "mp4").name, 422, "cut off"
    yield write_cut_off(tmp_path, {"movflags": "+faststart"}, "mov").name, 422, "cut off"
    yield write_cut_off(tmp_path, {}, "mkv").name, 422, "cut off"


def test_what_is_no_usable_video_gets_one_clear_line(tmp_path):
    for name, status, words in bad_files(tmp_path):
        for use in (probe, lambda path: list(read_frames(path))):
            with pytest.raises(BadInputError, match=words) as caught:
                use(tmp_path / name)
            assert caught.value.status == status and "\n" not in str(caught.value), name


def test_zero_frames_and_one_frame(tmp_path):
    clip = make_clip(tmp_path / "one.mp4", frames=1)
    assert probe(clip).frames == 1 and len(frames_of(clip)) == 1
    assert copy(clip, tmp_path / "b.mp4").frames == 1
    with (
        pytest.raises(BadInputError, match="no frame"),
        VideoWriter(tmp_path / "c.mp4", probe(clip), codec="h264", crf=20),
    ):
        assert (tmp_path / "c.mp4").exists() is False
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.mp4", "one.mp4"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_when_writing_fails_and_the_old_file_stays(tmp_path, error):
    info = probe(make_clip(tmp_path / "a.mp4", frames=4))
    target = tmp_path / "b.mp4"
    target.write_bytes(b"before")
    with pytest.raises(error), VideoWriter(target, info, codec="h264", crf=20) as writer:
        writer.write(next(read_frames(info.path)))
        raise error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"] and target.read_bytes() == b"before"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    info = probe(make_clip(tmp_path / "a.mp4", frames=4, size=(320, 240)))
    noise = np.random.default_rng(0).integers(0, 255, (30, 240, 320, 3), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses the write as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with (
            pytest.raises(BadInputError, match="free some space") as caught,
            VideoWriter(tmp_path / "b.mp4", info, codec="h264", crf=5, preset="ultrafast") as writer,
        ):
            writer.write(FrameBatch(noise, tuple(range(0, 30 * 512, 512)), 0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.status == 507 and is_disk_full(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("moment", ["check", "enter", "leave"])
def test_an_error_that_is_handed_on_is_not_its_own_cause(tmp_path, moment):
    info = probe(make_clip(tmp_path / "a.mp4", frames=2))
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    sound = None if moment == "leave" else tmp_path / "text.mp4"
    writer = VideoWriter(tmp_path / "b.mp4", info, codec="h264", crf=20, audio_from=sound)
    with pytest.raises(BadInputError, match="no frame" if moment == "leave" else "not a video") as caught:
        if moment == "check":
            writer.check()
        with writer:
            assert moment == "leave"
    assert caught.value.__cause__ is not caught.value and not is_disk_full(caught.value)
    assert [p.name for p in tmp_path.glob("[.b]*")] == []


def test_what_cannot_be_written_is_refused(tmp_path):
    info = probe(make_clip(tmp_path / "a.mp4", frames=2))
    for name, how, words in [
        ("b.avi", {}, "must end in"),
        ("b.mp4", {"codec": "divx"}, "unknown codec"),
        ("b.mp4", {"bit_depth": 12}, "8 or 10"),
        ("b.mp4", {"crf": float("nan")}, "crf"),
        ("no/b.mp4", {}, "not a folder"),
        ("b.webm", {}, "choose .mkv"),
    ]:
        with pytest.raises(BadInputError, match=words):
            copy(info.path, tmp_path / name, info, **how)
    with pytest.raises(BadInputError, match="cannot hold"):
        VideoWriter(tmp_path / "b.mkv", info, codec="vp9", crf=20, bit_depth=10)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_check_says_the_same_as_writing_and_touches_no_file(tmp_path):
    sources = [
        probe(make_clip(tmp_path / "a.mkv", frames=2, audio="flac")),  # MOV says it at the header
        probe(make_clip(tmp_path / "b.mkv", frames=2, audio="aac")),  # WebM at the stream
    ]
    for info, name in zip(sources, ("c.mov", "c.webm"), strict=True):
        codec = "vp9" if name == "c.webm" else "h264"
        writer = VideoWriter(tmp_path / name, info, codec=codec, crf=20, audio_from=info.path)
        with pytest.raises(BadInputError, match=r"choose \.mkv") as first:
            writer.check()
        with pytest.raises(BadInputError) as second, writer:
            pass
        assert str(first.value) == str(second.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mkv", "b.mkv"]
    with pytest.raises(BadInputError, match="not a folder"):
        VideoWriter(tmp_path / "no" / "c.mp4", sources[0], codec="h264", crf=20).check()
    writer = VideoWriter(tmp_path / "c.mp4", sources[1], codec="h264", crf=20, audio_from=sources[1].path)
    writer.check()
    with writer:
        for batch in read_frames(sources[1].path):
            writer.write(batch)
    assert audio_packets(tmp_path / "c.mp4") and probe(tmp_path / "c.mp4").frames == 2


def test_the_depth_that_can_be_kept(tmp_path):
    deep = probe(make_clip(tmp_path / "a.mkv", frames=1, codec="ffv1", pixel_format="yuv420p10le"))
    flat = probe(make_clip(tmp_path / "b.mkv", frames=1))
    assert [kept_depth(deep, codec) for codec in ("h264", "hevc", "ffv1")] == [10, 10, 10]
    assert kept_depth(deep, "divx") == kept_depth(flat, "h264") == 8
    ten = [f.name for f in av.Codec("libvpx-vp9", "w").video_formats if "10le" in f.name]
    assert kept_depth(deep, "vp9") == (10 if "yuv420p10le" in ten else 8)


def test_writer_refuses_other_sizes_and_falling_time_stamps(tmp_path):
    info = probe(make_clip(tmp_path / "a.mp4", frames=2))
    batch = next(read_frames(info.path))
    with (
        pytest.raises(ValueError, match="frames are"),
        VideoWriter(tmp_path / "b.mp4", info, codec="h264", crf=20) as writer,
    ):
        writer.write(FrameBatch(batch.frames[:, :40], batch.pts, 0))
    with (
        pytest.raises(ValueError, match="does not come after"),
        VideoWriter(tmp_path / "b.mp4", info, codec="h264", crf=20) as writer,
    ):
        writer.write(batch)
        writer.write(batch)


def test_real_clip_goes_through_with_its_sound(tmp_path):
    clip = asset_path("clips", "WolfgangLanger_Pexels.mp4")
    info = probe(clip)
    assert (info.rate, info.frames, info.audio_codec) == (Fraction(24000, 1001), 472, "aac")
    again = copy(clip, tmp_path / "b.mp4", info, audio_from=clip, start=1.0, end=2.0)
    assert (again.rate, again.frames, again.colorspace) == (info.rate, 24, info.colorspace)
    assert psnr(frames_of(again.path), frames_of(clip, start=1.0, end=2.0)) > 38
    sounds = {b for _, b in audio_packets(clip)}
    assert all(b in sounds for _, b in audio_packets(again.path)) and len(audio_packets(again.path)) > 40
