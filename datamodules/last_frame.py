"""How long a file's last frame is shown, which encoders do not know: its packet waits until that can be said."""

from __future__ import annotations

from fractions import Fraction
from typing import Any


class LastFrame:
    """Holds back the packet of the frame that is shown last so far, and the few stored after it.

    ``summed`` is for MP4 and MOV, where a frame lasts until the next one in the file.
    """

    def __init__(self, summed: bool) -> None:
        self._summed = summed
        self._first: tuple[int, int] | None = None
        self._held: list[Any] = []

    def passed(self, packet: Any) -> list[Any]:
        """Those that can be written now that this one came from the encoder."""
        if self._first is None:
            self._first = packet.pts, packet.dts
        ready: list[Any] = []
        if self._held and packet.pts > self._held[0].pts:
            ready, self._held = self._held, []
        self._held.append(packet)
        return ready

    def ended(self, shown: Fraction | None) -> list[Any]:
        """The rest, after the last frame was told to be ``shown`` so many seconds; None leaves it as it is."""
        held, self._held = self._held, []
        if shown is None or not held or self._first is None:
            return held
        held[0].duration = round(shown / held[0].time_base)
        if self._summed:
            # The steps between stored frames and the length of the last of them are the clip's length there.
            pts, dts = self._first
            held[-1].duration = held[0].pts + held[0].duration - pts - (held[-1].dts - dts)
        return held
