import asyncio
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from services.serving.bodies import accepted_image
from services.serving.handling import WARNING_HEADER, headers_of
from services.serving.limits import Guard, RangedFile, in_api_terms, public_message
from services.serving.measures import Measures
from services.settings import ROOT

LIMIT, VIDEO_LIMIT = 1000, 5000
SLOWEST, GRACE = 1000, 0.2


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
    stalls: bool = False,
) -> tuple[int, str]:
    """What is answered to a client that waits for it, or goes away or falls silent in the middle of its body."""
    sent: list[dict[str, Any]] = []
    messages = [
        {"type": "http.request", "body": chunk, "more_body": leaves or stalls or i < len(chunks) - 1}
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
    guard = Guard(app, VIDEO_LIMIT, LIMIT, measures or Measures(), SLOWEST, GRACE)
    asyncio.run(guard(scope, receive, send))
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
    few = Guard(reading, 10, 1000, Measures(), SLOWEST, GRACE)
    assert few.max_image_bytes == 10


@pytest.mark.parametrize("app", [reading, forgiving])
def test_a_body_that_does_not_come_is_not_waited_for(app: Any) -> None:
    status, text = call(app, [b"x"], stalls=True)
    assert status == 408 and text == '{"error":"the body came too slowly; send a smaller one"}'


def test_who_is_answered_at_once_need_not_send_the_body() -> None:
    async def answers(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        with pytest.raises(TimeoutError):  # as a streaming answer waits for a client that goes away
            await asyncio.wait_for(receive(), 2 * GRACE)
        await send({"type": "http.response.body", "body": b"done"})

    assert call(answers, [b"x"], stalls=True) == (200, "done")


def test_a_client_that_goes_away_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stylereel.http")
    measures = Measures()
    assert call(reading, [b"x"], measures=measures, leaves=True)[0] == 499
    assert 'status="499"} 1.0' in measures.text([], 0, 0).decode()
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("INFO", None)]


def test_a_request_is_one_line_of_the_log_without_what_the_client_wrote(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stylereel.http")

    async def routed(scope: Any, receive: Any, send: Any) -> None:
        scope["route"] = SimpleNamespace(path="/v1/subjects/{subject}")
        await reading(scope, receive, send)

    call(routed, [b"secret"], path="/v1/subjects/anna\nnot a line", method="DELETE")
    call(reading, [b"x" * 1001], path="/anna", method="X\nY")
    call(failing, [b""], path="/anna")
    about = [(r.method, r.route, r.status) for r in caplog.records if hasattr(r, "status")]  # type: ignore[attr-defined]
    assert about == [("DELETE", "/v1/subjects/{subject}", 200), ("other", "none", 413), ("POST", "none", 500)]
    assert all(0 <= r.seconds < 60 for r in caplog.records if hasattr(r, "seconds"))
    assert caplog.records[0].getMessage().startswith("DELETE /v1/subjects/{subject} 200 in 0.")
    assert not any(word in caplog.text for word in ("anna", "secret", "not a line"))


def test_long_requests_are_told_apart_in_the_measures() -> None:
    measures = Measures()
    for seconds in (45.0, 250.0, 500.0):
        measures.request("POST", "/v1/slow", 200, seconds)
    text = measures.text([], 0, 0).decode()
    counts = re.findall(r'request_seconds_bucket\{le="(\S+)",route="/v1/slow"\} (\S+)', text)
    assert dict(counts).items() >= {"30.0": "0.0", "60.0": "1.0", "300.0": "2.0", "600.0": "3.0"}.items()


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
        ("one of GET /v1/edits, or /v1/jobs/1", "one of GET /v1/edits, or /v1/jobs/1"),
        ("cannot read /srv/v1/x/y.bin", "cannot read y.bin"),
        ("at sqlite:////srv/state/mlflow.db cannot be", "at mlflow.db cannot be"),
        (f"cannot read {ROOT}/var/models/y.bin", "cannot read y.bin"),
    ],
)
def test_errors_lose_the_folders_of_the_server(text: str, public: str) -> None:
    assert public_message(RuntimeError(text), [Path("/srv/jobs/1/input")]) == public


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("try --adapt, or --refine 50", "try adapt=true, or refine=50"),
        ("take --refine 0 (pipeline.follow.steps)", "take refine=0 (pipeline.follow.steps)"),
        ("at frame 3, 9: --face all edits everybody", "at frame 3, 9: face=all edits everybody"),
        ("use --adapted models/anna.", "use subject=NAME"),
        ("--adapted FOLDER, or --adapt", "subject=NAME, or adapt=true"),
        ("--adapted takes one that was learned", "subject=NAME takes one that was learned"),
        ("--keep-lips and --stitch; --no-balance", "keep_lips=true and stitch=true; balance=false"),
        ("(--paste replace --region head)", "(paste=replace region=head)"),
        ("from --start 1:30 to --end=2.5s.", "from start=1:30 to end=2.5s."),
        ("again with --edit age=+20, --seed 7", "again with edit=age=+20, seed=7"),
        ("choose one with --face; --refined 3, --adaptive", "choose one with face; --refined 3, --adaptive"),
        ("--face allows one, x--adapt", "face allows one, x--adapt"),
        ("'stylereel adapt --subject a --start 2s' makes it", "'stylereel adapt --subject a --start 2s' makes it"),
    ],
)
def test_options_of_the_shell_are_called_as_requests_have_them(text: str, said: str) -> None:
    assert in_api_terms(text) == said
    assert in_api_terms(said) == said
    assert public_message(text) == said
    assert headers_of("m/1", ["poor", text])[WARNING_HEADER] == f"poor; {said}"


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
