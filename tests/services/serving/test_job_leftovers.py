"""A folder of jobs as a killed server leaves it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from job_toys import Copier, submit, wait

from services.serving import job_leftovers
from services.serving.job_leftovers import remove_leftovers
from services.serving.jobs import Jobs
from services.serving.turns import Turns


def leave(folder: Path) -> list[Path]:
    """Clips that no job has: on its way in, half deleted, moved but without a request, and with a torn one."""
    half, unasked, torn = folder / f".deleted-{'a' * 32}", folder / ("b" * 32), folder / ("c" * 32)
    upload = folder / f".upload-{'d' * 32}"
    upload.write_bytes(b"clip of anna")
    for one in (half, unasked, torn):
        one.mkdir()
        (one / "input").write_bytes(b"clip of anna")
    (half / "request.json").write_text(json.dumps({"subject": "anna"}))
    (torn / "request.json").write_text('{"subject"')
    return [half, unasked, torn, upload]


def test_what_no_job_has_is_gone_at_the_next_start_and_jobs_stay(tmp_path: Path) -> None:
    copier = Copier()
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05)
    done = wait(jobs, submit(jobs).id, "succeeded").id
    copier.go_on.clear()
    running = wait(jobs, submit(jobs).id, "running").id
    jobs.close()
    left = leave(tmp_path / "jobs")
    copier.go_on.set()
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05)
    try:
        assert not [path for path in left if path.exists()]
        assert wait(jobs, running, "succeeded", "failed").state == "succeeded"
        assert jobs.get(done).state == "succeeded"
    finally:
        jobs.close()


def test_what_cannot_be_removed_keeps_no_server_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = leave(tmp_path)
    remove = job_leftovers.remove

    def refuse(path: Path) -> None:
        if path == left[0]:
            raise PermissionError(1, "Operation not permitted")
        remove(path)

    monkeypatch.setattr(job_leftovers, "remove", refuse)
    caplog.set_level(logging.ERROR, "stylereel.jobs")
    remove_leftovers(tmp_path)
    assert [path for path in left if path.exists()] == left[:1]
    assert caplog.messages == [f"cannot remove {left[0].name}, which a killed server left"]
