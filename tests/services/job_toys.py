"""An editor that copies bytes behind the jobs, and what the tests of the jobs wait for."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dbos._dbos import _get_dbos_instance
from sqlalchemy import event

from datamodules.types import BadInputError
from services.progress import CancelledError
from services.serving.job import Job
from services.serving.jobs import Jobs
from services.serving.turns import Turns


class Copier:
    """An editor that copies bytes: the workflows are what is tested here, the pipeline has its own tests."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.hold = threading.Event()
        self.hold.set()
        self.error: Exception | None = None
        self.renders = 0

    def analyse(self, source: Path, request: dict[str, Any]) -> dict[str, Any]:
        if not source.read_bytes():
            raise BadInputError(f"{source} is empty", 400)
        return {"bytes": source.stat().st_size}

    def check(self, request: dict[str, Any]) -> None:
        if not request["edits"]:
            raise BadInputError("name an edit")

    def render(
        self,
        source: Path,
        target: Path,
        request: dict[str, Any],
        report: Callable[[str, float], None],
        cancelled: Callable[[], bool],
    ) -> dict[str, Any]:
        self.renders += 1
        report("frames", 0.5)
        self.hold.wait()
        while not self.go_on.wait(0.01):
            if cancelled():
                raise CancelledError
        if self.error:
            raise self.error
        target.write_bytes(source.read_bytes()[::-1])
        report("frames", 1.0)
        return {"asked": request["edits"]}


@pytest.fixture
def copier() -> Copier:
    return Copier()


@pytest.fixture
def jobs(tmp_path: Path, copier: Copier) -> Iterator[Jobs]:
    opened = Jobs(tmp_path / "jobs", copier, Turns(), keep_hours=1.0, poll_seconds=0.05)
    yield opened
    opened.close()


def submit(jobs: Jobs, data: bytes = b"abc") -> Job:
    upload = jobs.place_for_upload()
    upload.write_bytes(data)
    return jobs.submit(upload, {"edits": ["age"]})


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def no_room(*_: object, **__: object) -> None:
    """SQLite's own error for a full disk, made by a database that may not grow."""
    with sqlite3.connect(":memory:") as database:
        database.execute("PRAGMA max_page_count = 1")
        database.execute("CREATE TABLE t (x)")


@contextmanager
def full_disk() -> Iterator[None]:
    """DBOS can write nothing down."""
    engine = _get_dbos_instance()._sys_db.engine

    def written(_: object, __: object, statement: str, *___: object) -> None:
        if statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE")):
            no_room()

    event.listen(engine, "before_cursor_execute", written)
    yield
    event.remove(engine, "before_cursor_execute", written)


def wait(jobs: Jobs, job: str, *states: str) -> Job:
    deadline = time.monotonic() + 120
    while (found := jobs.get(job)).state not in states:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found
