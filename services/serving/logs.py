"""The log of a server: from which level on it speaks, and whether its lines are text or JSON."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal, TextIO

OURS = ("stylereel", "services")
"""Loggers by subject, and those named after their module."""
JOBS_LIBRARY = "dbos"
"""Logger of what the jobs run on, which has a format of its own where nobody gives it another."""
FIELDS = ("job", "kind", "state", "method", "route", "status", "seconds")
"""What a line of JSON has beside its message, where it is about a job or a request."""
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TIME = "%Y-%m-%dT%H:%M:%S%z"


class JsonLines(logging.Formatter):
    """A JSON object in each line: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message`` and ``FIELDS``.

    What an exception's traceback says is in ``exception``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def configure_log(
    level: Literal["warning", "info", "debug"], lines: Literal["text", "json"], stream: TextIO | None = None
) -> None:
    """Write what our loggers say to ``stream``, stderr where none is given; a second call replaces the first.

    So is what the jobs' library says, from its own level on. Other libraries' loggers are left as they are.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if lines == "json" else logging.Formatter(TEXT, TIME))
    for name in (*OURS, JOBS_LIBRARY):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        if name in OURS:
            logger.setLevel(level.upper())
        logger.propagate = False  # BentoML's handler on the root would say it a second time
