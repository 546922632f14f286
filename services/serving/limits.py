"""What the service takes and what it says when it does not: the sizes of bodies, and errors."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.serving.measures import Measures, known_method
from services.serving.upload_pace import TooSlowError, UploadPace
from services.settings import ROOT

log = logging.getLogger("stylereel.http")

INTERNAL_ERROR = "internal error; the server's log has the details"
DISK_FULL = "the server's disk is full; try again later"
CLIENT_GONE = 499
"""What is counted where the client went away; nobody reads the answer."""
OUT_OF_MEMORY = "the server's memory does not hold it; send smaller frames, or have pipeline.chunk lowered"
DATABASE = re.compile(r"sqlite:///[^\s'\"()]*/([^\s'\"()/]+)")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?!v1/)(?:[^\s/'\":;,]+/)+([^\s/'\":;,]*)")
SHELL_COMMAND = r"'stylereel [^']*'"
"""A command in quotes, which somebody types as it is."""
SHELL_OPTION = re.compile(
    SHELL_COMMAND
    + r"|(?<![\w-])--(?:"
    + r"(?P<no>no-)?(?P<flag>adapt|keep-lips|stitch|preview|balance)"
    + r"|(?P<adapted>adapted)(?:[ =](?:[^\s,;:)']*/[^\s,;:)']*|[A-Z]+\b))?"
    + r"|(?P<option>refine|face|paste|region|seed|factor|start|end|edit)"
    + r"(?:[ =](?P<value>\d[\w:]*(?:\.\w+)?|all|largest|auto|difference|mixed|replace|face|head|\w+=[+-]?[\d.]*\d)"
    + r"(?![\w-]))?"
    + r")(?![\w-])"
)
"""Options of the shell that requests have too, as whole words, with their value where one follows."""


class BodyTooLargeError(Exception):
    """More bytes came than the service takes."""


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def in_api_terms(text: str) -> str:
    """A line for a client with the names that a request's options have in the place of the shell's.

    ``--refine 50`` is ``refine=50`` and ``--keep-lips`` is ``keep_lips=true``; a folder after ``--adapted`` is a
    ``subject`` of the registry. Commands in quotes stay as they are typed.
    """
    return SHELL_OPTION.sub(_in_api_terms, text)


def _in_api_terms(found: re.Match[str]) -> str:
    flag, option, value = found["flag"], found["option"], found["value"]
    if flag:
        return f"{flag.replace('-', '_')}={'false' if found['no'] else 'true'}"
    if found["adapted"]:
        return "subject=NAME"
    if option:
        return f"{option}={value}" if value else option
    return found[0]


def public_message(error: BaseException | str, uploads: Iterable[Path] = ()) -> str:
    """One line of an error for a client: uploads are called ``the upload``, other paths lose their folders.

    Options are named as requests have them.
    """
    text = in_api_terms(error if isinstance(error, str) else one_line(error))
    for path in uploads:
        text = text.replace(str(path), "the upload").replace(path.name, "the upload")
    text = text.replace(f"{ROOT}/", "/")  # whose name may have spaces
    return ABSOLUTE_PATH.sub(r"\1", DATABASE.sub(r"\1", text))[:500]


def error_response(message: str, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    """``{"error": message}``."""
    return JSONResponse({"error": message}, status, headers=headers)


def route_of(scope: Scope) -> str:
    """The route that took a request, e.g. ``/v1/jobs/{job_id}``; ``none`` where none did."""
    return str(getattr(scope.get("route"), "path", "none"))


class RangedFile(FileResponse):
    """A file, or the range of it that is asked for; a range that cannot be had is refused as all else is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        refused: Message | None = None

        async def kept(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                refused = message
            if refused is None:
                await send(message)

        await super().__call__(scope, receive, kept)
        if refused is not None:
            size = Headers(raw=refused["headers"]).get("content-range")
            headers = {"Content-Range": size} if size else None
            message = "no such range; ask for bytes=FIRST-LAST inside the file, or leave Range out"
            await error_response(message, refused["status"], headers)(scope, receive, send)


class Guard:
    """ASGI middleware: counts the bytes of bodies and how fast they come; what nobody caught becomes a plain 500.

    Each request is counted and is one line of the log, which names its route.

    It takes the whole answer back and says 413 if too much comes before the answer began. ``max_bytes`` are taken
    at ``VIDEOS``; at all other paths, where bodies stay in memory, ``max_image_bytes`` where these are fewer.
    """

    VIDEOS = "/v1/jobs"

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        max_image_bytes: int,
        measures: Measures,
        slowest_upload: float,
        upload_grace: float,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_image_bytes = min(max_bytes, max_image_bytes)
        self.measures = measures
        self.slowest_upload = slowest_upload
        self.upload_grace = upload_grace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status = CLIENT_GONE  # until an answer begins

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noted)
        finally:
            # The route, not the path, which is what a client makes of it: names of people, lines of its own.
            method, route = known_method(scope["method"]), route_of(scope)
            seconds = round(time.monotonic() - began, 4)
            self.measures.request(method, route, status, seconds)
            about = {"method": method, "route": route, "status": status, "seconds": seconds}
            log.info("%s %s %d in %.3f s", method, route, status, seconds, extra=about)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = self.max_bytes if scope["path"] == self.VIDEOS else self.max_image_bytes
        closes = {"Connection": "close"}
        too_large = error_response(f"the body is larger than the {most} bytes that are taken", 413, closes)
        too_slow = error_response("the body came too slowly; send a smaller one", 408, closes)
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(not length.isdigit() for length in lengths):
            await error_response("the Content-Length is not a number", 400)(scope, receive, send)
            return
        if any(int(length) > most for length in lengths):
            await too_large(scope, receive, send)
            return
        pace = UploadPace(receive, self.slowest_upload, self.upload_grace)
        count = 0
        started = False

        def torn() -> JSONResponse | None:
            return too_large if count > most else too_slow if pace.is_late else None

        async def counted() -> Message:
            nonlocal count
            # Who has an answer need not send the rest.
            message = await (receive() if started else pace.receive())
            count += len(message.get("body", b""))
            if count > most:
                raise BodyTooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if torn() and not started:
                return  # an answer to the torn body, e.g. a 400 of the form parser; ours follows
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            with suppress(BodyTooLargeError, TooSlowError):  # answered below
                await self.app(scope, counted, watched)
        except ClientDisconnect:
            if not started:  # an answer, though nobody reads it, ends the wait of BentoML's timeout
                await error_response("the client went away", CLIENT_GONE)(scope, receive, send)
            return
        except Exception:
            log.exception("%s %s failed", known_method(scope["method"]), route_of(scope))
            if started:
                raise
            await error_response(INTERNAL_ERROR, 500)(scope, receive, send)
            return
        refusal = torn()
        if refusal and not started:  # the app's own answer, where it caught the error, was held back
            await refusal(scope, receive, send)
