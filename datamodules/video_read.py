"""Decode: what a video file says of itself, and its frames, a few at a time."""

from __future__ import annotations

import bisect
import math
import struct
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from datamodules.claimed_samples import check_claimed_samples
from datamodules.time_stamps import COUNTED, frame_rate, times_shown
from datamodules.types import BadInputError, ClipInfo, FrameBatch

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,gif,ivf,h264,hevc,mxf,wav,mp3,aac,flac"
)
"""What FFmpeg may take a file for. Its playlist formats are left out: they read other files and addresses."""
UNSOUGHT = (*COUNTED, "mpeg")
"""Containers that are read from their start: where frames are counted, and where FFmpeg lands on wrong ones."""
GROWTH, SMALL = 2, 1 << 22
"""Times as many pixels as the first frame has are taken of any later one; so many are always decoded."""
BATCH_BYTES = 1 << 28
"""A batch is never larger than this, whatever chunk is asked for: 8K frames come three at a time."""
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
FULL, LIMITED = 2, 1
TOP_FIRST, BOTTOM_FIRST = 2, 3


@dataclass(frozen=True)
class _Scan:
    """What only reading every packet tells."""

    info: ClipInfo
    pts: tuple[int, ...]
    """Time stamps of the frames in order of showing."""
    format: str
    """FFmpeg's name of the container."""


def probe(path: Path, most_pixels: int | None = None) -> ClipInfo:
    """Read a clip's properties; every packet is read, one frame is decoded, if it has at most ``most_pixels``.

    Raises ``BadInputError``: 415 for what is no video, 422 for one that is missing, empty, cut off, damaged,
    joined of several whose clocks differ, or without frames, 413 for frames with more than ``most_pixels``.
    """
    return _scan(path, most_pixels).info


def read_frames(
    path: Path, chunk: int = 16, start: float | None = None, end: float | None = None
) -> Iterator[FrameBatch]:
    """Decode a clip in batches of ``chunk`` frames (fewer for huge frames), as shown: turned upright, RGB.

    ``start`` and ``end`` are seconds from the first frame: frames with start ≤ t < end come, and
    ``FrameBatch.first`` still counts from the clip's first frame. 10-bit video is rounded to 8 bits, alpha is
    dropped, grey is repeated. Where the stream changes size midway, frames are scaled to the first one's.
    Raises ``BadInputError`` like ``probe``, and for a section without frames.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or more, got {chunk}")
    scan = _scan(path)
    first, last = section(scan.pts, scan.info, start, end)
    return _batches(path, scan, chunk, first, last)


def section(pts: tuple[int, ...], info: ClipInfo, start: float | None, end: float | None) -> tuple[int, int]:
    """Indices ``[first, last)`` of the frames shown from ``start`` to before ``end``, in seconds."""

    def index(seconds: float) -> int:
        # A frame that begins within half a tick of the asked time begins at it.
        return bisect.bisect_left(pts, pts[0] + float(seconds / info.time_base) - 0.5)

    for name, value in (("start", start), ("end", end)):
        if value is not None and not 0 <= value < float("inf"):
            raise BadInputError(f"{name} must be 0 s or later, got {value}", status=400)
    first = 0 if start is None else index(start)
    last = len(pts) if end is None else index(end)
    if first >= last:
        raise BadInputError(
            f"{info.path.name} lasts {info.duration:.2f} s and has no frame from {start or 0:g} s "
            f"to {'its end' if end is None else f'{end:g} s'}; choose another section"
        )
    return first, last


@contextmanager
def opened(path: Path, most_pixels: int | None = None) -> Iterator[Any]:
    """An input container, of frames of about ``most_pixels`` at most, or the right ``BadInputError``."""
    if not path.exists():
        raise BadInputError(f"{path} does not exist; check the name")
    if not path.is_file():
        raise BadInputError(f"{path} is not a file; give a video file")
    if path.stat().st_size == 0:
        raise BadInputError(f"{path.name} is empty; give a video file")
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    # Of a file of a few megabytes a frame may fill gigabytes: before it is decoded is the time to say no.
    # FFmpeg counts rows as it keeps them, filled up to a multiple of 64.
    limit = {} if most_pixels is None else {"max_pixels": str(max(2 * most_pixels, SMALL))}
    try:
        check_claimed_samples(path)
        container = av.open(str(path.resolve()), options=limit, container_options=options)
    except BadInputError:
        raise
    except PermissionError as error:
        raise BadInputError(f"{path} may not be read; change its permissions") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _unreadable(path) from error
    with container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                stream.codec_context.options = limit
        yield container


def video_stream(container: Any, path: Path) -> Any:
    """The first stream of moving pictures; covers of audio files are none."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            return stream
    raise BadInputError(f"{path.name} has no video stream; give a file with pictures", status=415)


def matrix_of(info: ClipInfo) -> int:
    """FFmpeg's number of the YUV matrix; where the clip does not say, by size as players do."""
    if info.colorspace in (1, 4, 5, 6, 7, 9):
        # swscale has one entry for both names of BT.601.
        return 5 if info.colorspace == 6 else info.colorspace
    if info.colorspace == 10:
        return 9
    return 1 if max(info.width, info.height) >= 1280 or min(info.width, info.height) >= 720 else 5


def range_of(info: ClipInfo) -> int:
    """1 limited or 2 full; where the clip does not say, what its pixel format implies."""
    if info.color_range in (LIMITED, FULL):
        return info.color_range
    full = info.pixel_format.startswith(("yuvj", "gray", "ya8", "ya16", "mono"))
    return FULL if full or holds_rgb(info) else LIMITED


def holds_rgb(info: ClipInfo) -> bool:
    """Whether the clip's pixels are red, green and blue, or of a palette, not luma and chroma."""
    kind = av.VideoFormat(info.pixel_format)
    return kind.is_rgb or kind.has_palette


def to_rgb(reformatter: VideoReformatter, frame: Any, info: ClipInfo) -> NDArray[np.uint8]:
    """One decoded frame as ``(H, W, 3)`` uint8, turned and mirrored as the metadata asks."""
    sideways = info.rotation in (90, 270)
    converted = reformatter.reformat(
        frame,
        width=info.height if sideways else info.width,
        height=info.width if sideways else info.height,
        format="rgb24",
        src_colorspace=matrix_of(info),
        dst_colorspace=matrix_of(info),
        src_color_range=range_of(info),
        dst_color_range=FULL,
        interpolation=SCALING,
    )
    turned: NDArray[np.uint8] = np.rot90(converted.to_ndarray(), -(info.rotation // 90))
    return turned[:, ::-1] if info.mirrored else turned


def _scan(path: Path, most_pixels: int | None = None) -> _Scan:
    with opened(path, most_pixels) as container:
        _check_size(video_stream(container, path), path, most_pixels)
        shown = times_shown(container, video_stream(container, path), path)
    pts = shown.pts
    with opened(path, most_pixels) as container:
        stream = video_stream(container, path)
        frame = _first_frame(container, stream, path)
        rotation, mirrored = orientation(frame, path)
        width, height = (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)
        time_base = Fraction(stream.time_base)
        rate, variable = frame_rate(pts, time_base, (stream.guessed_rate, stream.base_rate, stream.average_rate))
        last = shown.last * time_base
        if not last or (not variable and last < Fraction(3, 2) / rate):
            last = 1 / rate  # rounded to ticks, or of one field
        audio = container.streams.audio
        info = ClipInfo(
            path=path,
            width=width,
            height=height,
            rate=rate,
            time_base=time_base,
            frames=len(pts),
            duration=float((pts[-1] - pts[0]) * time_base + last),
            rotation=rotation,
            mirrored=mirrored,
            pixel_aspect=_pixel_aspect(stream, rotation),
            field_order=_field_order(stream, frame),
            variable_rate=variable,
            codec=stream.codec_context.name,
            pixel_format=frame.format.name,
            bit_depth=max(component.bits for component in frame.format.components),
            color_range=int(frame.color_range),
            color_primaries=int(frame.color_primaries),
            color_trc=int(frame.color_trc),
            colorspace=int(frame.colorspace),
            audio_codec=audio[0].codec_context.name if audio and audio[0].codec_context else None,
        )
        return _Scan(info, pts, container.format.name)


def _check_size(stream: Any, path: Path, most_pixels: int | None) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if most_pixels is not None and width * height > most_pixels:
        raise BadInputError(
            f"{path.name} is {width}x{height}, at most {most_pixels} pixels per frame are taken", 413
        )


def orientation(frame: Any, path: Path) -> tuple[int, bool]:
    """Degrees clockwise to turn a decoded frame by, in quarters, and whether to exchange left and right then.

    Raises ``BadInputError`` where the frame is to be turned and its matrix cannot be read.
    """
    try:
        stored = frame.side_data.get("DISPLAYMATRIX")
    except ValueError as error:
        # PyAV does not know every kind of side data, and then gives none; its angle is wrong for mirrored frames.
        if not frame.rotation:
            return 0, False
        raise BadInputError(
            f"{path.name} asks to be turned in a way that cannot be read; convert it to upright H.264"
        ) from error
    if stored is None:
        return 0, False
    a, b, _, c, d = struct.unpack_from("=5i", bytes(stored))
    if a * d == b * c:
        return 0, False  # no turn at all; players show it as stored
    mirrored = a * d < b * c
    if mirrored:
        a, c = -a, -c
    angle = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))
    return round(angle / 90) * 90 % 360, mirrored


def _pixel_aspect(stream: Any, rotation: int) -> Fraction:
    stored = Fraction(stream.sample_aspect_ratio or 1)
    return 1 / stored if rotation % 180 else stored


def _field_order(stream: Any, frame: Any) -> int:
    order = int(stream.codec_context.field_order)
    # Fields without an order are taken as players take them.
    return TOP_FIRST if frame.interlaced_frame and order < TOP_FIRST else order


def _first_frame(container: Any, stream: Any, path: Path) -> Any:
    try:
        frame = next(container.decode(stream), None)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadInputError(f"{path.name} cannot be decoded ({_reason(error)}); convert it to H.264") from error
    if frame is None:
        raise BadInputError(f"{path.name} holds no frame; give a video with pictures")
    return frame


def _batches(path: Path, scan: _Scan, chunk: int, first: int, last: int) -> Iterator[FrameBatch]:
    info = scan.info
    chunk = min(chunk, max(1, BATCH_BYTES // (info.width * info.height * 3)))
    reformatter = VideoReformatter()
    pending: list[tuple[int, NDArray[np.uint8]]] = []
    done = first
    counted = scan.format in COUNTED
    stamp = scan.pts[0] - 1
    sought = first and scan.format not in UNSOUGHT
    most = GROWTH * info.width * info.height
    with closing(_decoded_from(path, scan.pts[first] if sought else None, most)) as frames:
        try:
            for frame in frames:
                given = frame.pts if frame.pts is not None else frame.dts
                stamp = _after(scan.pts, stamp) if counted or given is None else max(given, stamp + 1)
                if stamp < scan.pts[first]:
                    continue
                if last < len(scan.pts) and stamp >= scan.pts[last]:
                    break
                pending.append((stamp, to_rgb(reformatter, frame, info)))
                if len(pending) == chunk:
                    yield _batch(pending, done)
                    done += len(pending)
                    pending = []
        except (av.FFmpegError, OSError) as error:
            raise BadInputError(
                f"{path.name} is damaged after frame {done + len(pending)} ({_reason(error)}); "
                "get it again, or end the section before that"
            ) from error
    if pending:
        yield _batch(pending, done)
        done += len(pending)
    if done == first:
        raise BadInputError(f"{path.name}: no frame of this section can be decoded; choose another section")


def _after(pts: tuple[int, ...], stamp: int) -> int:
    """The time stamp that follows ``stamp``."""
    index = bisect.bisect_right(pts, stamp)
    return pts[index] if index < len(pts) else stamp + 1


def _decoded_from(path: Path, pts: int | None, most_pixels: int) -> Generator[Any]:
    """Frames from a key frame at or before ``pts`` on; from the clip's start where none is found."""
    if pts is not None:
        with opened(path, most_pixels) as container:
            stream = _threaded(container, path)
            container.seek(pts, stream=stream, backward=True)
            frames = container.decode(stream)
            frame = next(frames, None)
            if frame is not None and frame.pts is not None and frame.pts <= pts:
                yield frame
                yield from frames
                return
    # Containers without an index (MPEG-TS) may land too late; and 0 is not where every clip starts.
    with opened(path, most_pixels) as container:
        yield from container.decode(_threaded(container, path))


def _threaded(container: Any, path: Path) -> Any:
    stream = video_stream(container, path)
    stream.thread_type = "AUTO"
    return stream


def _batch(pending: list[tuple[int, NDArray[np.uint8]]], first: int) -> FrameBatch:
    return FrameBatch(np.stack([frame for _, frame in pending]), tuple(stamp for stamp, _ in pending), first)


def _unreadable(path: Path) -> BadInputError:
    """The right complaint about a file that FFmpeg does not open."""
    with path.open("rb") as stream:
        head = stream.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF"):
        return BadInputError(f"{path.name} is cut off or damaged: it has no index of frames; get it again")
    return BadInputError(f"{path.name} is not a video; give an MP4, MOV, MKV, WebM or AVI file", status=415)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
