"""A clip's audio beside other pictures: its packets as they are, only their time stamps shifted."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

KEPT_WORDS = ("language", "title")
"""What is known of a track and copied; the rest is of the file, not of the sound."""


class CopiedAudio:
    """Packets of a clip's audio streams, handed on in time.

    What an edit list trims away stays away. In MP4 and MOV (``trimming``) the packet before the first one that is
    heard comes along, which decoders start with.
    """

    def __init__(self, source: Any, out: Any, trimming: bool) -> None:
        streams = [stream for stream in source.streams.audio if stream.codec_context is not None]
        self._to = {stream.index: _added(out, stream) for stream in streams}
        self._packets: Iterator[Any] = source.demux(*streams) if streams else iter(())
        self._out = out
        self._trimming = trimming
        self._waiting: Any = None
        self._trimmed: dict[int, Any] = {}
        self._handed: dict[int, int] = {}
        self._zero = Fraction(0)
        self._whole = True

    def begin(self, zero: Fraction, whole: bool) -> None:
        """``zero`` is the source's time in seconds that becomes 0; a section's audio begins there."""
        self._zero, self._whole = zero, whole

    def copy_until(self, end: Fraction | None) -> None:
        """Hand on what begins before ``end``, in seconds of the output."""
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = None
            if packet.size == 0 or packet.pts is None:
                continue
            index = packet.stream.index
            time = packet.pts * packet.time_base - self._zero
            if packet.is_discard:
                if self._trimming and self._whole and time < 0:
                    self._trimmed[index] = packet
                continue
            if end is not None and time >= end:
                self._waiting = packet
                return
            if time < 0 and not self._whole:
                continue
            if (before := self._trimmed.pop(index, None)) is not None:
                self._hand_on(before)
            self._hand_on(packet)

    def _hand_on(self, packet: Any) -> None:
        stream = self._to[packet.stream.index]
        shift = round(self._zero / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        # MP4 refuses two packets of one time, as a file in milliseconds may have; nothing takes a falling one.
        dts = round(packet.dts * packet.time_base / stream.time_base)
        least = self._handed.get(stream.index, dts - 1) + (1 if self._trimming else 0)
        if dts < least:
            packet.pts = max(round(packet.pts * packet.time_base / stream.time_base), least)
            packet.dts = dts = least
            packet.duration = round((packet.duration or 0) * packet.time_base / stream.time_base)
            packet.time_base = stream.time_base
        self._handed[stream.index] = dts
        packet.stream = stream
        self._out.mux(packet)


def _added(out: Any, source: Any) -> Any:
    """A stream for the packets of another, with what is known of it."""
    stream = out.add_stream_from_template(source)
    stream.disposition = source.disposition
    for word in KEPT_WORDS:
        if word in source.metadata:
            stream.metadata[word] = source.metadata[word]
    return stream
