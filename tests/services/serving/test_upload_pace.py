import asyncio
import time
from typing import Any

from services.serving.upload_pace import TooSlowError, UploadPace

SLOWEST, GRACE = 1000, 0.1


def receive_all(waits: list[tuple[float, int, bool]], pause: float = 0.0) -> tuple[int, UploadPace]:
    """Bytes read of a body; its pieces come after (seconds, bytes, more to come), ``pause`` is the server's."""
    pieces = iter(waits)
    count = 0

    async def receive() -> Any:
        seconds, size, more = next(pieces)
        await asyncio.sleep(seconds)
        return {"type": "http.request", "body": bytes(size), "more_body": more}

    pace = UploadPace(receive, SLOWEST, GRACE)

    async def read() -> None:
        nonlocal count
        for _ in waits:
            count += len((await pace.receive())["body"])
            await asyncio.sleep(pause)

    try:
        asyncio.run(read())
    except TooSlowError:
        assert pace.is_late
    return count, pace


def test_who_sends_nothing_is_not_waited_for() -> None:
    began = time.monotonic()
    assert receive_all([(60, 1, True)])[1].is_late
    assert GRACE <= time.monotonic() - began < 30


def test_bytes_that_trickle_do_not_hold_a_place() -> None:
    count, pace = receive_all([(0.02, 1, True)] * 100)
    assert pace.is_late and 0 < count < 30


def test_bytes_that_came_fast_earn_the_time_that_they_take_at_the_slowest_rate() -> None:
    assert not receive_all([(0, 1000, True), (0.4, 1, False)])[1].is_late
    assert receive_all([(0, 100, True), (0.4, 1, False)])[1].is_late


def test_the_time_that_the_server_takes_is_not_the_clients() -> None:
    count, pace = receive_all([(0, 1, True)] * 5, pause=0.1)
    assert count == 5 and not pace.is_late


def test_after_the_body_nothing_needs_to_come() -> None:
    assert not receive_all([(0, 1, False), (0.5, 0, False)])[1].is_late
