"""What the service takes and what it says when it does not: the sizes of bodies, and errors."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.measures import Measures

log = logging.getLogger("stylereel.http")

INTERNAL_ERROR = "internal error; the server's log has the details"
DISK_FULL = "the server's disk is full; try again later"
OUT_OF_MEMORY = "the server's memory does not hold it; send smaller frames, or have pipeline.chunk lowered"
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":;,]+/)+([^\s/'\":;,]*)")


class BodyTooLargeError(Exception):
    """More bytes came than the service takes."""


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def in_api_terms(text: str) -> str:
    """A line for a client with the names that a request's options have in the place of the shell's."""
    return text.replace("--refine ", "refine=").replace("--adapt", "adapt=true")


def public_message(error: BaseException | str, uploads: Iterable[Path] = ()) -> str:
    """One line of an error for a client: uploads are called ``the upload``, other paths lose their folders.

    Options are named as requests have them.
    """
    text = in_api_terms(error if isinstance(error, str) else one_line(error))
    for path in uploads:
        text = text.replace(str(path), "the upload").replace(path.name, "the upload")
    return ABSOLUTE_PATH.sub(r"\1", text)[:500]


def error_response(message: str, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    """``{"error": message}``."""
    return JSONResponse({"error": message}, status, headers=headers)


class Guard:
    """ASGI middleware: counts the bytes of bodies, chunked ones too; what nobody caught becomes a plain 500.

    It takes the whole answer back and says 413 if too much comes before the answer began.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, measures: Measures) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status = 499  # the client went away before an answer began

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.measures.request(scope["method"], route, status, time.monotonic() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        too_large = error_response(
            f"the body is larger than the {self.max_bytes} bytes that are taken", 413, {"Connection": "close"}
        )
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(not length.isdigit() for length in lengths):
            await error_response("the Content-Length is not a number", 400)(scope, receive, send)
            return
        if any(int(length) > self.max_bytes for length in lengths):
            await too_large(scope, receive, send)
            return
        count = 0
        started = False

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self.max_bytes:
                raise BodyTooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if count > self.max_bytes and not started:
                return  # an answer to the torn body, e.g. a 400 of the form parser; ours follows
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except BodyTooLargeError:
            log.info("%s %s: body larger than %d bytes", scope["method"], scope["path"], self.max_bytes)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            await error_response(INTERNAL_ERROR, 500)(scope, receive, send)
            return
        if count > self.max_bytes and not started:
            await too_large(scope, receive, send)
