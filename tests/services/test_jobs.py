import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS

from datamodules.types import BadInputError
from services.jobs import Job, Jobs, lock_jobs
from services.pipeline.progress import CancelledError
from services.turns import Turns

ROOT = Path(__file__).resolve().parents[2]


NO_ROOM = BadInputError("cannot write output.part.mp4 (No space left on device); free some space")
NO_ROOM.__cause__ = OSError(28, "No space left on device")


class Copier:
    """An editor that copies bytes: the workflows are what is tested here, the pipeline has its own tests."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

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
        report("frames", 0.5)
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


def wait(jobs: Jobs, job: str, *states: str) -> Job:
    deadline = time.monotonic() + 120
    while (found := jobs.get(job)).state not in states:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def test_a_job_runs_and_keeps_its_result_and_report(jobs: Jobs) -> None:
    job = submit(jobs)
    done = wait(jobs, job.id, "succeeded", "failed")
    assert done.state == "succeeded" and done.stage == "finish" and done.progress == 1.0
    assert done.output is not None and done.output.read_bytes() == b"cba"
    assert done.report == {"asked": ["age"]}
    assert not (done.output.parent / "input").exists()


def test_a_clip_that_is_not_taken_leaves_nothing(jobs: Jobs) -> None:
    with pytest.raises(BadInputError):
        submit(jobs, b"")
    assert not [path for path in jobs.folder.iterdir() if path.is_dir() or "upload" in path.name]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (BadInputError("no face in /secret/place/clip.mp4"), 422, "no face in clip.mp4"),
        (OSError(28, "No space left on device"), 507, "the server's disk is full; try again later"),
        (NO_ROOM, 507, "the server's disk is full; try again later"),
        (RuntimeError("token=abc"), 500, "internal error; the server's log has the details"),
    ],
)
def test_a_failed_job_says_why_in_one_line(
    jobs: Jobs, copier: Copier, error: Exception, status: int, message: str
) -> None:
    copier.error = error
    failed = wait(jobs, submit(jobs).id, "failed", "succeeded")
    assert (failed.state, failed.status, failed.error) == ("failed", status, message)
    assert failed.output is None


def test_cancel_stops_the_running_and_the_queued(jobs: Jobs, copier: Copier) -> None:
    copier.go_on.clear()
    running = wait(jobs, submit(jobs).id, "running")
    queued = submit(jobs)
    assert jobs.cancel(queued.id).state == "cancelled"
    assert jobs.cancel(running.id).state == "cancelled"
    copier.go_on.set()
    after = wait(jobs, submit(jobs).id, "succeeded")
    assert after.output is not None
    assert jobs.get(running.id).state == "cancelled" and jobs.get(running.id).output is None
    assert jobs.cancel(after.id).state == "succeeded"


def test_delete_removes_everything_even_of_a_running_job(jobs: Jobs, copier: Copier) -> None:
    copier.go_on.clear()
    running = wait(jobs, submit(jobs).id, "running")
    jobs.delete(running.id)
    with pytest.raises(KeyError):
        jobs.get(running.id)
    copier.go_on.set()
    other = wait(jobs, submit(jobs).id, "succeeded")
    jobs.delete(other.id)
    assert not [path for path in jobs.folder.iterdir() if path.is_dir()]


@pytest.mark.parametrize("job", ["", "..", "../jobs.db", "0" * 32, "A" * 32])
def test_unknown_ids_are_unknown(jobs: Jobs, job: str) -> None:
    with pytest.raises(KeyError):
        jobs.get(job)


def test_sweep_deletes_what_is_over_and_old(jobs: Jobs, copier: Copier) -> None:
    old, young = wait(jobs, submit(jobs).id, "succeeded"), wait(jobs, submit(jobs).id, "succeeded")
    copier.go_on.clear()
    running = wait(jobs, submit(jobs).id, "running")
    long_ago = time.time() - 7200
    leftover = jobs.place_for_upload()
    leftover.write_bytes(b"")
    for path in (jobs.folder / old.id, jobs.folder / running.id, leftover):
        os.utime(path, (long_ago, long_ago))
    cut_short = jobs.folder / f"{int(old.id, 16) ^ 1:032x}"
    cut_short.mkdir()
    (cut_short / "request.json").write_text("")
    os.utime(cut_short, (long_ago, long_ago))
    assert sorted(jobs.sweep()) == sorted([old.id, cut_short.name])
    assert not leftover.exists() and not cut_short.exists()
    assert jobs.get(young.id).state == "succeeded" and jobs.get(running.id).state == "running"


def test_what_cannot_be_removed_keeps_nothing_else(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [wait(jobs, submit(jobs).id, "succeeded").id for _ in range(2)]
    for job in old:
        os.utime(jobs.folder / job, (0, 0))
    first, delete = min(old), jobs.delete

    def stuck(job: str) -> None:
        if job == first:
            raise PermissionError("somebody has it open")
        delete(job)

    monkeypatch.setattr(jobs, "delete", stuck)
    assert jobs.sweep() == [max(old)]


def test_a_job_that_somebody_else_deletes_is_unknown(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    done = wait(jobs, submit(jobs).id, "succeeded")
    monkeypatch.setattr(jobs, "cancel", lambda job: shutil.rmtree(jobs.folder / job))
    with pytest.raises(KeyError):
        jobs.delete(done.id)


def test_a_job_that_is_deleted_while_it_is_cancelled_is_unknown(
    jobs: Jobs, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    copier.go_on.clear()
    running = wait(jobs, submit(jobs).id, "running")

    def gone(job: str) -> Job:
        shutil.rmtree(jobs.folder / job, ignore_errors=True)
        return running

    monkeypatch.setattr(jobs, "get", gone)
    with pytest.raises(KeyError):
        jobs.cancel(running.id)
    copier.go_on.set()


def test_two_servers_do_not_share_a_folder(jobs: Jobs) -> None:
    with pytest.raises(BadInputError, match="another server"):
        lock_jobs(jobs.folder)


def test_a_start_on_a_full_disk_says_so_and_the_next_one_works(
    tmp_path: Path, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        # SQLite's own error for it, made by a database that may not grow.
        with sqlite3.connect(tmp_path / "small.db") as database:
            database.execute("PRAGMA max_page_count = 1")
            database.execute("CREATE TABLE t (x)")

    with monkeypatch.context() as patched:
        patched.setattr(DBOS, "register_queue", full)
        with pytest.raises(BadInputError, match=r"no space is left .* free some") as refused:
            Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.01)
    assert refused.value.status == 507
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.01)
    try:
        assert wait(jobs, submit(jobs).id, "succeeded").state == "succeeded"
    finally:
        jobs.close()


def test_a_stopped_server_takes_its_job_up_again(tmp_path: Path, copier: Copier) -> None:
    copier.go_on.clear()
    first = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05)
    job = wait(first, submit(first).id, "running").id
    first.close()
    copier.go_on.set()
    second = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05)
    try:
        assert wait(second, job, "succeeded", "failed").state == "succeeded"
    finally:
        second.close()


KILLED = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from services.jobs import Jobs
from services.turns import Turns

class Slow:
    def check(self, request):
        self.checked = request
    def analyse(self, source, request):
        with (folder / "analysed").open("a") as log:
            log.write("x")
        return {{}}
    def render(self, source, target, request, report, cancelled):
        target.write_bytes(b"half")
        print("rendering", flush=True)
        time.sleep(float(sys.argv[2]))
        target.write_bytes(source.read_bytes() * 2)
        return {{"runs": 1}}

folder = Path(sys.argv[1])
jobs = Jobs(folder / "jobs", Slow(), Turns(), 1.0, 0.05)
if sys.argv[3] == "submit":
    upload = jobs.place_for_upload()
    upload.write_bytes(b"abc")
    job = jobs.submit(upload, {{}}).id
    print(job, flush=True)
else:
    job = sys.argv[3]
while jobs.get(job).state in ("queued", "running"):
    time.sleep(0.05)
print(json.dumps([jobs.get(job).state, (jobs.folder / job / "output.mp4").read_text()]), flush=True)
jobs.close()
"""


def test_a_killed_server_resumes_the_job_at_its_next_start(tmp_path: Path) -> None:
    script = KILLED.format(root=str(ROOT))

    def start(seconds: float, job: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", script, str(tmp_path), str(seconds), job]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    with start(60, "submit") as server:
        assert server.stdout is not None
        lines = {server.stdout.readline().strip(), server.stdout.readline().strip()}
        (job,) = lines - {"rendering"}
        server.send_signal(signal.SIGKILL)
    assert not (tmp_path / "jobs" / job / "output.mp4").exists()
    with start(0, job) as server:
        output, _ = server.communicate(timeout=240)
    assert json.loads(output.strip().splitlines()[-1]) == ["succeeded", "abcabc"]
    # once at the request and once in the workflow: the step that was done is not done again
    assert (tmp_path / "analysed").read_text() == "xx"
