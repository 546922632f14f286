"""What the service takes and what it says when it does not: sizes of bodies, kinds of files, errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datamodules.types import BadInputError

log = logging.getLogger("stylereel.http")

Kind = Literal["png", "jpeg", "webp", "gif", "bmp", "tiff", "video", "audio", "unknown"]
IMAGES: frozenset[Kind] = frozenset({"png", "jpeg", "webp", "bmp", "tiff"})
INTERNAL_ERROR = "internal error; the server's log has the details"
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":;,]+/)+([^\s/'\":;,]*)")

_SIGNATURES: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (8, b"WEBP", "webp"),
    (0, b"GIF8", "gif"),
    (0, b"BM", "bmp"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (8, b"AVI ", "video"),
    (8, b"WAVE", "audio"),
    (0, b"\x1aE\xdf\xa3", "video"),
    (0, b"FLV", "video"),
    (0, b"\x00\x00\x01\xba", "video"),
    (0, b"\x00\x00\x01\xb3", "video"),
    (0, b"ID3", "audio"),
    (0, b"OggS", "video"),
    (0, b"fLaC", "audio"),
)


class BodyTooLargeError(Exception):
    """More bytes came than the service takes."""


def sniff(head: bytes) -> Kind:
    """What a file is by its first bytes (64 are enough); what the client calls it is never asked."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "audio" if head[8:12] in (b"M4A ", b"M4B ") else "video"
    for start, signature, kind in _SIGNATURES:
        if head[start : start + len(signature)] == signature:
            return kind
    if len(head) > 188 and head[0] == head[188] == 0x47:
        return "video"  # MPEG transport stream
    return "unknown"


def require_image(data: bytes) -> None:
    """Raise ``BadInputError`` (400 for no bytes, 415 for another kind) unless ``data`` is an image."""
    if not data:
        raise BadInputError("the body is empty; send a PNG, JPEG, WebP, BMP or TIFF image", 400)
    kind = sniff(data[:256])
    if kind not in IMAGES:
        told = "" if kind == "unknown" else f" (it looks like {kind})"
        raise BadInputError(f"this is no PNG, JPEG, WebP, BMP or TIFF image{told}", 415)


def require_video(path: Path) -> None:
    """Raise ``BadInputError`` (400 for an empty file, 415 for another kind) unless it looks like a video."""
    with path.open("rb") as stream:
        head = stream.read(256)
    if not head:
        raise BadInputError("the video is empty; send an MP4, MOV, MKV, WebM or AVI file", 400)
    kind = sniff(head)
    if kind != "video":
        told = "" if kind == "unknown" else f" (it looks like {kind})"
        raise BadInputError(f"this is no MP4, MOV, MKV, WebM or AVI video{told}", 415)


def public_message(error: BaseException, uploads: Iterable[Path] = ()) -> str:
    """One line of an error for a client: uploads are called ``the upload``, other paths lose their folders."""
    text = " ".join(str(error).split())
    for path in uploads:
        text = text.replace(str(path), "the upload")
    return ABSOLUTE_PATH.sub(r"\1", text)[:500]


def error_response(message: str, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    """``{"error": message}``."""
    return JSONResponse({"error": message}, status, headers=headers)


class Guard:
    """ASGI middleware: counts the bytes of bodies, chunked ones too; what nobody caught becomes a plain 500.

    It takes the whole answer back and says 413 if too much comes before the answer began.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
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
