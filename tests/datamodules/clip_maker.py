"""Videos made for tests: every frame says its own number in the grey of its left half; how they are compared."""

from fractions import Fraction

import av
import numpy as np

from datamodules.video import VideoWriter, probe, read_frames


def picture(index, width, height):
    """Left half a grey that counts, right half smooth colour with its brightest corner top right."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    frame = np.stack([255 * x * (1 - y), 200 * x, 255 * y * x], -1)
    frame[:, : width // 2] = 40 + 3 * (index % 60)
    return frame.round().astype(np.uint8)


def number_of(frame):
    """Which frame (modulo 60) a picture is."""
    height, width = frame.shape[:2]
    return round((float(frame[height // 4 : -height // 4, width // 8 : 3 * width // 8].mean()) - 40) / 3)


def make_clip(
    path, frames=30, size=(64, 48), rate=Fraction(30), codec="libx264", pixel_format="yuv420p", crf=8, pts=None,
    time_base=None, rotation=0, audio=None, color=None, pictures=None, options=None, gop=None, mirrored=False,
    pixel_aspect=None, coding=None,
):  # fmt: skip
    """Write a clip; `pts` in ticks of `time_base`, `color` = (range, primaries, transfer, matrix).

    `options` are the container's, `coding` the encoder's.
    """
    width, height = size
    with av.open(str(path), "w", options=options or {}) as out:
        stream = out.add_stream(
            codec, rate=rate, options=({"crf": str(crf)} if "x26" in codec else {}) | (coding or {})
        )
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = time_base or 1 / Fraction(rate)
        if gop:
            stream.codec_context.gop_size = gop
        if rotation or mirrored:
            stream.set_display_rotation(-rotation, hflip=mirrored)
        context = stream.codec_context
        if pixel_aspect:
            context.sample_aspect_ratio = pixel_aspect
        if color:
            context.color_range, context.color_primaries, context.color_trc, context.colorspace = color
        sound = out.add_stream(audio, rate=48000, layout="mono") if audio else None
        out.start_encoding()
        if sound:
            seconds = frames / float(rate) if pts is None else pts[-1] * float(time_base)
            _write_sound(out, sound, seconds)
        for index in range(frames):
            image = picture(index, width, height) if pictures is None else pictures[index]
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            matrix, full = (color[3], color[0]) if color else (5, 1)
            frame = frame.reformat(
                format=pixel_format, src_color_range=2, dst_color_range=full, dst_colorspace=matrix,
                src_colorspace=matrix, interpolation="BICUBIC",
            )  # fmt: skip
            frame.pts = index if pts is None else pts[index]
            frame.time_base = stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def frames_of(path, **section):
    return np.concatenate([batch.frames for batch in read_frames(path, chunk=7, **section)])


def copy(source, target, info=None, codec="h264", crf=8, **how):
    """Read and write again; what the copy says of itself."""
    section = {key: how[key] for key in ("start", "end") if key in how}
    with VideoWriter(target, info or probe(source), codec=codec, crf=crf, preset="ultrafast", **how) as writer:
        for batch in read_frames(source, chunk=7, **section):
            writer.write(batch)
    assert [p.name for p in target.parent.iterdir() if p.name.startswith(".")] == []
    return probe(target)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-6))


def _write_sound(out, sound, seconds):
    times = np.arange(round(48000 * seconds)) / 48000
    wave = (np.sin(2 * np.pi * 440 * times) * 0.3).astype(np.float32)[None]
    size = sound.codec_context.frame_size or 1024
    for start in range(0, wave.shape[1], size):
        chunk = wave[:, start : start + size]
        kind = sound.codec_context.format.name
        if kind.startswith("s16"):
            chunk = (chunk * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(chunk, format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        out.mux(sound.encode(frame))
    out.mux(sound.encode(None))


def make_sound(path, seconds=1.0):
    """A file with sound only."""
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=48000, layout="mono")
        _write_sound(out, sound, seconds)
    return path


def audio_packets(path):
    """(pts in seconds, bytes) of every audio packet."""
    with av.open(str(path)) as clip:
        return [(float(p.pts * p.time_base), bytes(p)) for p in clip.demux(audio=0) if p.size]
