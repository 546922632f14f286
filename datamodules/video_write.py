"""Encode: frames to a video file that appears whole or not at all, audio copied untouched beside them."""

from __future__ import annotations

import io
import math
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from datamodules.copied_audio import CopiedAudio
from datamodules.disk import not_written
from datamodules.last_frame import LastFrame
from datamodules.scratch import scratch_beside
from datamodules.types import BadInputError, ClipInfo, FrameBatch
from datamodules.video_read import (
    BOTTOM_FIRST,
    FULL,
    SCALING,
    TOP_FIRST,
    holds_rgb,
    matrix_of,
    opened,
    range_of,
    video_stream,
)

ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "ffv1": "ffv1"}
"""Codec as users name it to FFmpeg's encoder; ffv1 is lossless."""
FINE = 100
"""Ticks per frame where the source's own ticks cannot hold its rate."""
CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Ending of a file's name to FFmpeg's name of the container."""
WITH_EDITS = (".mp4", ".mov")
"""Containers whose edit lists say from when to when the tracks are shown."""
RGB_MATRIX = 0
TOP_ORDERS = (TOP_FIRST, 4)
"""FFmpeg's numbers of the orders in which the upper field is shown first."""
WITH_FIELDS = ("h264", "ffv1")
"""Codecs whose frames can say that they hold two fields."""
WITHOUT_PIXEL_ASPECT = ("vp9", "ffv1")
"""Codecs that leave the shape of a pixel to the container, and PyAV cannot tell Matroska and WebM of it."""


class VideoWriter:
    """Write a clip beside its place and move it there when it is whole; on any error nothing is left.

    What a killed process left there of the same clip goes when the next one begins.

    ``info`` gives size, time base, rate and colour, usually the source's own. ``crf`` is the codec's quality
    number (lower is better; H.264 18 is near transparent). ``bit_depth`` is 8 or 10; None keeps what 8-bit
    frames hold. ``audio_from`` is the clip whose audio packets are copied; ``start`` and ``end`` (seconds from
    its first frame) say which section the frames are of. The file begins at 0 s where that is said, and where
    the source begins later, as broadcasts do, or before 0. The last frame is shown until the clip's end. Chroma
    is kept as the source samples it where the codec can; odd sizes, which 4:2:0 cannot hold, are written as
    4:4:4. RGB sources stay RGB in ffv1, and become 4:2:0 elsewhere, which every player shows. Pixels that are
    not square stay so, and frames of two fields are marked as such where the codec can (``loses_fields``).
    Raises ``BadInputError`` for containers, codecs and settings that do not go together, and when the disk
    is full.
    """

    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        *,
        codec: str,
        crf: float,
        bit_depth: int | None = None,
        preset: str | None = None,
        audio_from: Path | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> None:
        if path.suffix.lower() not in CONTAINERS:
            raise BadInputError(f"cannot write {path.name}: the name must end in {', '.join(CONTAINERS)}")
        if codec not in ENCODERS:
            raise BadInputError(f"unknown codec {codec!r}; there are {', '.join(ENCODERS)}")
        if bit_depth not in (None, 8, 10):
            raise BadInputError(f"bit depth must be 8 or 10, got {bit_depth}")
        if not 0 <= crf <= 63:
            raise BadInputError(f"crf must be from 0 to 63, got {crf}")
        self.path, self.info, self._codec = path, info, codec
        if info.pixel_aspect != 1 and codec in WITHOUT_PIXEL_ASPECT and path.suffix.lower() in (".mkv", ".webm"):
            raise BadInputError(
                f"{codec} in {path.suffix.lower()} cannot keep pixels that are not square; "
                "choose .mp4, or the codec h264 or hevc"
            )
        self._pixel_format = pixel_format(info, codec, bit_depth or 8)
        self._as_rgb = not self._pixel_format.startswith("yuv")
        self._range = FULL if self._as_rgb else range_of(info)
        self._fields = _fields(info, codec, self._pixel_format)
        self._marker = _field_marker(info, self._fields) if self._fields else None
        self._edited = path.suffix.lower() in WITH_EDITS
        self._options = _options(codec, crf, preset, self._fields)
        self._audio_from, self._start, self._end = audio_from, start, end
        self._reformatter = VideoReformatter()
        self._stack = ExitStack()
        self._out: Any = None
        self._stream: Any = None
        step = 1 / (info.rate * info.time_base)
        # A steady clip whose ticks are too coarse for its rate (milliseconds) gets its exact rate back.
        self._step = step if not info.variable_rate and step.denominator != 1 else None
        self._time_base = 1 / (info.rate * FINE) if self._step else info.time_base
        self._first: int | None = None
        self._zero = 0
        self._last: int | None = None
        self._last_pts: int | None = None
        self._latest = LastFrame(self._edited)
        self._audio: CopiedAudio | None = None
        self._sound_begins: Fraction | None = None
        self._source_begins: Fraction | None = None

    def check(self) -> None:
        """Raise what entering would raise for a container that does not hold the codecs; touches no file.

        For callers that work long before their first frame. The writer can be entered afterwards.
        """
        self._check_folder()
        try:
            self._out = av.open(io.BytesIO(), "w", format=CONTAINERS[self.path.suffix.lower()])
            self._begin()
        except BaseException as error:
            self._raise_explained(error)
        finally:
            self._abandon()
            self._out = self._stream = self._audio = None

    def __enter__(self) -> Self:
        self._check_folder()
        try:
            self._part = self._stack.enter_context(scratch_beside(self.path)) / self.path.name
            options = {"movflags": "+faststart"} if self._edited else {}
            self._out = av.open(str(self._part.resolve()), "w", container_options=options)
            self._begin()
        except BaseException as error:
            self._abandon()
            self._raise_explained(error)
        return self

    def write(self, batch: FrameBatch) -> None:
        """Encode a batch; time stamps must rise from batch to batch and are kept."""
        size = (self.info.height, self.info.width)
        if batch.frames.shape[1:3] != size:
            raise ValueError(f"frames are {batch.frames.shape[1:3]}, the clip is {size}")
        try:
            for frame, pts in zip(batch.frames, batch.pts, strict=True):
                self._write_frame(frame, pts)
        except (av.FFmpegError, OSError) as error:
            self._raise_explained(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            if self._last is None:
                raise BadInputError(f"nothing was written to {self.path.name}: there was no frame")
            self._encode(None)
            self._mux(self._latest.ended(self._shown_last()))
            if self._audio is not None:
                self._audio.copy_until(self._audio_end())
            self._out.close()
            self._part.replace(self.path)
        except BaseException as failure:
            self._abandon()
            self._raise_explained(failure)
        self._stack.close()

    def _check_folder(self) -> None:
        if not self.path.parent.is_dir():
            raise BadInputError(f"{self.path.parent} is not a folder; make it first")

    def _begin(self) -> None:
        """Streams and header: some containers refuse a codec at the one, some at the other."""
        self._stream = self._add_video()
        if self._audio_from is not None:
            source = self._stack.enter_context(opened(self._audio_from))
            started = [s.start_time * s.time_base for s in source.streams.audio if s.start_time is not None]
            self._sound_begins = min(started, default=None)
            self._audio = CopiedAudio(source, self._out, self._edited)
        if self._start:
            with opened(self.info.path) as source:
                pictures = video_stream(source, self.info.path)
                if pictures.start_time is not None:
                    self._source_begins = pictures.start_time * pictures.time_base
        self._out.start_encoding()

    def _add_video(self) -> Any:
        stream = self._out.add_stream(ENCODERS[self._codec], rate=self.info.rate, options=self._options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = self.info.width, self.info.height, self._pixel_format
        context.time_base = self._time_base
        if self._codec == "hevc" and self._edited:
            context.codec_tag = "hvc1"  # QuickTime and Safari do not play hev1
        if self.info.pixel_aspect != 1:
            context.sample_aspect_ratio = self.info.pixel_aspect
        if self._fields:
            context.field_order = TOP_FIRST if self._fields == "tff" else BOTTOM_FIRST
        # Unspecified stays unspecified, except full range, which no player would guess.
        context.color_range = FULL if self._range == FULL else self.info.color_range
        # Where the source was RGB, the matrix that was chosen for it has to be said.
        from_rgb = self.info.colorspace == RGB_MATRIX
        context.colorspace = _tag(matrix_of(self.info)) if from_rgb else self.info.colorspace
        if self._as_rgb:
            context.colorspace = RGB_MATRIX
        context.color_primaries, context.color_trc = self.info.color_primaries, self.info.color_trc
        return stream

    def _write_frame(self, pixels: NDArray[np.uint8], pts: int) -> None:
        if self._first is None:
            self._first = pts
            self._zero = self._ticks(pts) if self._start else self._late(pts)
            if self._audio is not None:
                self._audio.begin(self._zero * self._time_base, whole=not self._start)
            if not self._start:
                self._source_begins = pts * self.info.time_base
        ticks = self._ticks(pts) - self._zero
        if self._last is not None and ticks <= self._last:
            raise ValueError(f"time stamp {pts} does not come after the frame before it")
        self._last, self._last_pts = ticks, pts
        rgb: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        if self._marker is not None:
            # Before the conversion, which then takes each field's colours from its own lines.
            self._marker.vpush(rgb)
            rgb = self._marker.vpull()
        frame: Any = self._reformatter.reformat(
            rgb,
            format=self._pixel_format,
            src_colorspace=matrix_of(self.info),
            dst_colorspace=matrix_of(self.info),
            src_color_range=FULL,
            dst_color_range=self._range,
            interpolation=SCALING,
        )
        context = self._stream.codec_context
        frame.colorspace, frame.color_range = context.colorspace, context.color_range
        frame.color_primaries, frame.color_trc = context.color_primaries, context.color_trc
        frame.pts, frame.time_base = ticks, self._time_base
        self._encode(frame)

    def _ticks(self, pts: int) -> int:
        """A time stamp of the source in ticks of the output."""
        if self._step is None or self._first is None:
            return pts
        frames = round((pts - self._first) / self._step)
        return round(self._first / self._step * FINE) + frames * FINE

    def _late(self, pts: int) -> int:
        """Ticks of the output before picture and sound begin: broadcasts count from the sender's start.

        A clip whose pictures begin before 0 begins with them, since no container shows what lies there. Sound
        that leads them is not waited for then.
        """
        if pts < 0:
            return self._ticks(pts)
        begins = pts * self.info.time_base
        if self._sound_begins is not None:
            begins = min(begins, self._sound_begins)
        return max(0, math.floor(begins / self._time_base))

    def _encode(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._mux(self._latest.passed(packet))

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if self._audio is not None and packet.dts is not None:
                # Audio keeps pace, or the muxer would hold the whole video back.
                self._audio.copy_until(packet.dts * packet.time_base)
            self._out.mux(packet)

    def _shown_last(self) -> Fraction | None:
        """Seconds that the clip's length leaves for the last frame; None where that is one step, or not known."""
        cut = self._end is not None and self._end < self.info.duration
        if cut or self._last_pts is None or self._source_begins is None:
            return None
        end = self._source_begins + Fraction(self.info.duration)
        shown = end - self._last_pts * self.info.time_base
        least = self.info.time_base if self.info.variable_rate else Fraction(3, 2) / self.info.rate
        return shown if shown > least else None

    def _audio_end(self) -> Fraction | None:
        """Seconds in the output after which no more audio is copied; None is all of it."""
        if self._end is None or self._last is None:
            return None
        return self._last * self._time_base + (self._shown_last() or 1 / self.info.rate)

    def _abandon(self) -> None:
        """Close and forget; what goes wrong while closing a file that is thrown away does not matter."""
        if self._out is not None:
            with suppress(av.FFmpegError, OSError, ValueError):
                self._out.close()
        self._stack.close()

    def _raise_explained(self, error: BaseException) -> NoReturn:
        told = self._explained(error)
        if told is error:
            raise error  # from itself, it would be its own cause
        raise told from error

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, (BadInputError, KeyboardInterrupt, SystemExit)):
            return error
        if isinstance(error, OSError):
            return not_written(self.path, error)
        # PyAV itself says with a ValueError that a container does not take a codec.
        if isinstance(error, (av.FFmpegError, ValueError)):
            return BadInputError(
                f"cannot write {self.path.name} as {self._codec} ({getattr(error, 'strerror', error)}); "
                "choose .mkv, which holds every codec, or another codec"
            )
        return error


def kept_depth(info: ClipInfo, codec: str) -> int:
    """Bits to write a clip at: 10 where it has more than 8 and the encoder holds 10 at its size, 8 otherwise."""
    if info.bit_depth <= 8 or codec not in ENCODERS:
        return 8
    try:
        pixel_format(info, codec, 10)
    except BadInputError:
        return 8
    return 10


def loses_fields(info: ClipInfo, codec: str) -> bool:
    """Whether an interlaced clip is written without a word of its fields, so that players show combs.

    That is so where the codec cannot say it, where the clip is turned sideways, so that its lines stand upright,
    and for HEVC, which has a frame for each field.
    """
    return info.interlaced and _fields(info, codec, pixel_format(info, codec, kept_depth(info, codec))) is None


def _fields(info: ClipInfo, codec: str, pixels: str) -> str | None:
    """Which field of a frame is shown first as FFmpeg says it, ``tff`` or ``bff``; None for whole frames."""
    # H.264 halves a frame's lines, and 4:2:0 those of its colours once more.
    lines = 4 if "420" in pixels else 2
    # HEVC's frames are single fields.
    woven = info.interlaced and info.codec != "hevc" and info.rotation % 180 == 0
    if not woven or codec not in WITH_FIELDS or info.height % lines:
        return None
    # Upside down, the upper field is the lower one.
    return "tff" if (info.field_order in TOP_ORDERS) != (info.rotation == 180) else "bff"


def _field_marker(info: ClipInfo, fields: str) -> av.filter.Graph:
    """A filter that says of RGB frames that they are two fields: PyAV has no other way to."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=info.width, height=info.height, format=av.VideoFormat("rgb24"), time_base=info.time_base
    )
    graph.link_nodes(source, graph.add("setfield", fields), graph.add("buffersink")).configure()
    return graph


def pixel_format(info: ClipInfo, codec: str, bit_depth: int) -> str:
    """Planar YUV with the source's chroma where size and encoder allow it; RGB for an RGB source in ffv1."""
    rgb = holds_rgb(info)
    if rgb and codec == "ffv1":
        return "gbrp10le" if bit_depth == 10 else "bgr0"
    sampling = "420" if rgb else _sampling(info.pixel_format)
    if (info.width % 2 and sampling != "444") or (info.height % 2 and sampling == "420"):
        sampling = "444"
    wanted = f"yuv{sampling}p{'10le' if bit_depth == 10 else ''}"
    offered = {f.name for f in av.Codec(ENCODERS[codec], "w").video_formats or ()}
    if wanted in offered:
        return wanted
    fallback = wanted.replace(sampling, "420")
    if info.width % 2 or info.height % 2 or fallback not in offered:
        raise BadInputError(
            f"{codec} cannot hold {info.width}×{info.height} at {bit_depth} bits; choose h264 or ffv1"
        )
    return fallback


def _sampling(name: str) -> str:
    """By the format's own numbers, as not every name says it (``nv16``, ``p410le``)."""
    kind = av.VideoFormat(name)
    # Grey has no chroma, which FFmpeg counts as chroma of full size.
    known = {(16, 16): "444", (8, 16): "422"} if len(kind.components) >= 3 else {}
    return known.get((kind.chroma_width(16), kind.chroma_height(16)), "420")


def _options(codec: str, crf: float, preset: str | None, fields: str | None) -> dict[str, str]:
    options = {"crf": f"{crf:g}"} if codec != "ffv1" else {}
    if codec == "vp9":
        options["b"] = "0"
    if codec == "hevc":
        options["x265-params"] = "log-level=error"
    if codec == "h264" and fields:
        # x264 has no weighted prediction of fields, and would say so.
        options["x264-params"] = f"{fields}=1:weightp=0"
    if preset is not None and codec in ("h264", "hevc"):
        options["preset"] = preset
    return options


def _tag(matrix: int) -> int:
    """swscale's number of a matrix as the number that files carry."""
    return 6 if matrix == 5 else matrix
