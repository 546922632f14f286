"""How slowly a body may come: whoever sends one holds a place that others wait for."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Receive


class TooSlowError(Exception):
    """The body of a request came too slowly."""


class UploadPace:
    """Receives one request; raises ``TooSlowError`` while its body comes too slowly, or does not come at all.

    What counts is the time that the server waits for the client, not the time that it writes to its own disk.
    """

    def __init__(self, receive: Receive, slowest: float, grace: float) -> None:
        """``slowest`` in bytes per second; ``grace`` in seconds, on top of what the bytes take.

        ``is_late`` says whether the body came too slowly.
        """
        self._receive = receive
        self._slowest = slowest
        self._allowed = grace
        self._whole = False
        self.is_late = False

    async def receive(self) -> Message:
        """What comes next; after the body nothing needs to come."""
        if self._whole:
            return await self._receive()
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self._allowed)):
                message = await self._receive()
        except TimeoutError as error:
            self.is_late = True
            raise TooSlowError from error
        self._allowed += len(message.get("body", b"")) / self._slowest - (time.monotonic() - began)
        self._whole = not message.get("more_body", False)
        return message
