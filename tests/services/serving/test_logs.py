"""Lines of the log as somebody else's program reads them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from services.serving.logs import JOBS_LIBRARY, OURS, configure_log


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    kept = [(logging.getLogger(n), *_settings(logging.getLogger(n))) for n in (*OURS, JOBS_LIBRARY)]
    yield
    for logger, handlers, level, propagate in kept:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def _settings(logger: logging.Logger) -> tuple[list[logging.Handler], int, bool]:
    return list(logger.handlers), logger.level, logger.propagate


def test_a_line_of_json_says_what_it_is_about() -> None:
    stream = io.StringIO()
    configure_log("info", "json", stream)
    log = logging.getLogger("stylereel.jobs")
    log.info("job %s\nends", "a1", extra={"job": "a1", "kind": "edit", "state": "failed", "seconds": 1.5})
    logging.getLogger("services.serving.slots").warning("the registry is down")
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.exception("job a1 failed")
    job, slot, broken = (json.loads(line) for line in stream.getvalue().splitlines())
    assert {n: job[n] for n in ("level", "logger", "message")} == {
        "level": "info",
        "logger": "stylereel.jobs",
        "message": "job a1\nends",
    }
    assert {n: job[n] for n in ("job", "kind", "state", "seconds")} == {
        "job": "a1", "kind": "edit", "state": "failed", "seconds": 1.5,
    }  # fmt: skip
    age = datetime.now(UTC) - datetime.fromisoformat(job["time"])
    assert timedelta(seconds=-1) < age < timedelta(minutes=1)
    assert set(slot) == {"time", "level", "logger", "message"} and slot["level"] == "warning"
    assert broken["level"] == "error" and broken["exception"].endswith("RuntimeError: broken")


def test_what_the_jobs_library_says_is_json_too_from_its_own_level_on() -> None:
    stream = io.StringIO()
    library = logging.getLogger(JOBS_LIBRARY)
    library.setLevel("WARNING")
    configure_log("debug", "json", stream)
    library.debug("polling")
    library.error("the database is locked")
    (said,) = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (said["logger"], said["message"]) == ("dbos", "the database is locked")


def test_text_levels_and_a_second_call(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_log("warning", "text", first)
    log = logging.getLogger("stylereel.http")
    log.info("GET /livez 200")
    log.warning("it is full")
    assert first.getvalue().endswith(" WARNING stylereel.http: it is full\n") and "livez" not in first.getvalue()
    configure_log("debug", "text", second)
    log.debug("here")
    assert "here" not in first.getvalue() and second.getvalue().count("here") == 1
    configure_log("info", "text")
    log.info("to the shell")
    out, err = capfd.readouterr()
    assert "to the shell" in err and not out
