import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from services.bodies import accepted_image
from services.limits import Guard, RangedFile, public_message
from services.measures import Measures

LIMIT, VIDEO_LIMIT = 1000, 5000


async def reading(scope: Any, receive: Any, send: Any) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


async def forgiving(scope: Any, receive: Any, send: Any) -> None:
    """As a form parser does it: whatever happens to the body becomes its own 400."""
    try:
        await Request(scope, receive).body()
        status = 200
    except Exception:
        status = 400
    await JSONResponse({}, status)(scope, receive, send)


async def failing(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("password=hunter2")


def call(
    app: Any,
    chunks: list[bytes],
    headers: dict[str, str] | None = None,
    path: str = "/x",
    method: str = "POST",
    measures: Measures | None = None,
    leaves: bool = False,
) -> tuple[int, str]:
    """What is answered to a client that waits for it, or goes away in the middle of its body."""
    sent: list[dict[str, Any]] = []
    messages = [
        {"type": "http.request", "body": chunk, "more_body": leaves or i < len(chunks) - 1}
        for i, chunk in enumerate(chunks)
    ]

    async def receive() -> dict[str, Any]:
        if not messages and not leaves:
            await asyncio.Event().wait()
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": encoded, "query_string": b""}
    asyncio.run(Guard(app, VIDEO_LIMIT, LIMIT, measures or Measures())(scope, receive, send))
    assert [m["type"] for m in sent].count("http.response.start") == 1
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent).decode()


def test_the_last_byte_that_fits_fits() -> None:
    assert call(reading, [b"x" * 600, b"x" * 400]) == (200, "1000")


@pytest.mark.parametrize("app", [reading, forgiving])
def test_chunks_are_counted_whatever_the_app_makes_of_it(app: Any) -> None:
    status, text = call(app, [b"x" * 600, b"x" * 401, b"never read" * 1000])
    assert status == 413 and text == '{"error":"the body is larger than the 1000 bytes that are taken"}'


def test_a_content_length_is_believed_when_it_is_too_large_and_counted_when_it_lies() -> None:
    assert call(reading, [b"x"], {"Content-Length": "1001"})[0] == 413
    assert call(reading, [b"x" * 1001], {"Content-Length": "10"})[0] == 413
    assert call(reading, [b"x"], {"Content-Length": "ten"})[0] == 400


def test_a_video_may_be_larger_than_what_stays_in_memory() -> None:
    assert call(reading, [b"x" * 3000, b"x" * 2000], path="/v1/jobs") == (200, "5000")
    for headers in ({}, {"Content-Length": "5001"}):
        status, text = call(reading, [b"x" * 3000, b"x" * 2001], headers, path="/v1/jobs")
        assert status == 413 and "the 5000 bytes" in text
    for path in ("/v1/invert", "/v1/edit", "/v1/enlarge"):
        assert call(reading, [b"x" * 3000], path=path)[0] == 413
    few = Guard(reading, 10, 1000, Measures())
    assert few.max_image_bytes == 10


def test_a_client_that_goes_away_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stylereel.http")
    measures = Measures()
    assert call(reading, [b"x"], measures=measures, leaves=True)[0] == 499
    assert 'status="499"} 1.0' in measures.text([], 0, 0).decode()
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("INFO", None)]


def test_methods_that_a_client_invents_are_counted_as_one() -> None:
    measures = Measures()
    for method in ("DELETE", "FOO1", "FOO2"):
        call(reading, [b""], method=method, measures=measures)
    text = measures.text([], 0, 0).decode()
    assert 'method="other",route="none",status="200"} 2.0' in text and 'method="DELETE"' in text
    assert "FOO" not in text


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [("bytes=2-4", 206, "cde"), ("bytes=500-600", 416, None), ("bytes=z", 400, None), ("pages=1-2", 400, None)],
)
def test_a_range_that_cannot_be_had_is_refused_as_all_else_is(
    tmp_path: Path, asked: str, status: int, content: str | None
) -> None:
    (tmp_path / "clip").write_bytes(b"abcdefgh")
    app = RangedFile(tmp_path / "clip", media_type="video/mp4")
    refused = '{"error":"no such range; ask for bytes=FIRST-LAST inside the file, or leave Range out"}'
    assert call(app, [b""], {"Range": asked}, method="GET") == (status, content or refused)


def test_what_nobody_caught_says_nothing_of_itself() -> None:
    status, text = call(failing, [b""])
    assert status == 500 and text == '{"error":"internal error; the server\'s log has the details"}'


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("cannot read /var/lib/x/y.bin: gone", "cannot read y.bin: gone"),
        ("two\nlines\tof  it", "two lines of it"),
        ("age goes from -20 to +30 years", "age goes from -20 to +30 years"),
        ("/srv/jobs/1/input is cut off", "the upload is cut off"),
        ("input is cut off", "the upload is cut off"),
        ("at http://host/path/to it", "at http://host/path/to it"),
    ],
)
def test_errors_lose_the_folders_of_the_server(text: str, public: str) -> None:
    assert public_message(RuntimeError(text), [Path("/srv/jobs/1/input")]) == public


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/png"),
        ("", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("image/*, image/png;q=0.5", "image/jpeg"),
        ("image/png;q=0, */*", "image/jpeg"),
        ("text/html, application/json", None),
        ("image/webp", None),
        ("image/jpeg;q=nonsense", None),
    ],
)
def test_accept_is_weighed(accept: str, kind: str | None) -> None:
    assert accepted_image(accept) == kind
