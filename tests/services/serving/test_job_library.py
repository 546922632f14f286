"""What the log says of jobs that were cancelled, deleted, or lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from dbos import error as dbos_error
from job_toys import Copier, copier, jobs, submit, until, wait

from services.serving.job_library import LIBRARY_LOG, CancelledQuietly
from services.serving.jobs import Jobs

__all__ = ["copier", "jobs"]


@pytest.fixture
def said(jobs: Jobs) -> Iterator[list[logging.LogRecord]]:
    """What passes the logger's filters."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    LIBRARY_LOG.addHandler(handler)
    yield records
    LIBRARY_LOG.removeHandler(handler)


def test_a_running_job_that_is_cancelled_or_deleted_is_no_error(
    jobs: Jobs, copier: Copier, said: list[logging.LogRecord]
) -> None:
    for number, end in enumerate((jobs.cancel, jobs.delete), 1):
        copier.go_on.clear()
        running = wait(jobs, submit(jobs).id, "running").id
        until(lambda number=number: copier.renders == number)  # type: ignore[misc]
        end(running)
        until(lambda: not jobs._at_work)
        copier.go_on.set()
        assert wait(jobs, submit(jobs).id, "succeeded").state == "succeeded"
        copier.renders = number
    assert [(record.getMessage(), record.exc_info) for record in said] == []
    LIBRARY_LOG.warning("the database is locked")
    assert [record.getMessage() for record in said] == ["the database is locked"]


@pytest.mark.parametrize("left", ["running", "cancelled", "deleted"])
def test_a_job_that_vanished_from_the_database_alone_is_one(tmp_path: Path, left: str) -> None:
    job = "a1" * 16
    if left != "deleted":
        (tmp_path / job).mkdir()
    if left == "cancelled":
        (tmp_path / job / "cancelled").touch()
    quiet = CancelledQuietly(tmp_path)
    for error in (
        dbos_error.DBOSNonExistentWorkflowError("target", job),
        dbos_error.DBOSAwaitedWorkflowCancelledError(job),
    ):
        record = logging.LogRecord("dbos", logging.ERROR, "", 0, "failed", (), (type(error), error, None))
        assert quiet.filter(record) is (left == "running")
    lost = logging.LogRecord("dbos", logging.WARNING, "", 0, f"Workflow {job} is no longer owned", (), None)
    assert quiet.filter(lost) is (left == "running")
    lost.levelno = logging.ERROR
    assert quiet.filter(lost)


def test_the_logger_is_as_before_when_the_jobs_are_closed(jobs: Jobs) -> None:
    assert any(isinstance(one, CancelledQuietly) for one in LIBRARY_LOG.filters)
    jobs.close()
    assert not any(isinstance(one, CancelledQuietly) for one in LIBRARY_LOG.filters)
