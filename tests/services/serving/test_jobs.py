import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

import pytest
from job_toys import Copier, copier, jobs, submit, until, wait
from prometheus_client import values

from datamodules.types import BadInputError
from services.adaptation.subjects import jobs_of
from services.serving.job import Job, kind_of
from services.serving.jobs import Jobs
from services.serving.jobs_lock import lock_jobs
from services.serving.turns import BusyError, Turns

__all__ = ["copier", "jobs"]
ABC = hashlib.sha256(b"abc").hexdigest()
NO_ROOM = BadInputError("cannot write output.part.mp4 (No space left on device); free some space")
NO_ROOM.__cause__ = OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def counts_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the server (``services.serving.api``): elsewhere counts go on in BentoML's files."""
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)


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


def test_no_more_jobs_are_queued_than_there_is_room_for(tmp_path: Path, copier: Copier) -> None:
    copier.go_on.clear()
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05, max_jobs=2)
    try:
        running, queued = wait(jobs, submit(jobs).id, "running"), submit(jobs)
        assert jobs.unfinished() == {"queued": 1, "running": 1}
        with pytest.raises(BusyError, match="2 jobs are queued or running") as full:
            submit(jobs)
        assert full.value.retry_after == 60
        assert sorted(path.name for path in jobs.folder.iterdir() if path.is_dir()) == sorted(
            [running.id, queued.id]
        )
        assert not list(jobs.folder.glob(".upload-*"))
        jobs.cancel(queued.id)
        jobs.check_room()
        copier.go_on.set()
        assert wait(jobs, submit(jobs).id, "succeeded", "failed").state == "succeeded"
        assert jobs.unfinished() == {"queued": 0, "running": 0}
    finally:
        copier.go_on.set()
        jobs.close()


def test_an_upload_takes_the_place_of_a_job(tmp_path: Path, copier: Copier) -> None:
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05, max_jobs=1)
    try:
        upload = jobs.place_for_upload()
        with pytest.raises(BusyError):
            jobs.place_for_upload()
        jobs.drop(upload)
        assert wait(jobs, submit(jobs).id, "succeeded").state == "succeeded"
        jobs.check_room()
    finally:
        jobs.close()


def test_of_jobs_that_are_over_no_clip_is_kept(jobs: Jobs, copier: Copier) -> None:
    copier.error = BadInputError("no face")
    failed = wait(jobs, submit(jobs).id, "failed").id
    copier.error = None
    copier.go_on.clear()
    running, queued = wait(jobs, submit(jobs).id, "running").id, submit(jobs).id
    jobs.cancel(queued)
    assert not (jobs.folder / queued / "input").exists()
    jobs.sweep()
    assert not (jobs.folder / failed / "input").exists() and (jobs.folder / running / "input").exists()
    jobs.cancel(running)
    copier.go_on.set()
    until(lambda: not (jobs.folder / running / "input").exists())
    assert jobs.get(failed).error == "no face" and set(jobs_of("", jobs.folder, {ABC})) == {
        failed,
        running,
        queued,
    }


def test_beginnings_and_ends_are_said_and_counted_once(
    jobs: Jobs, copier: Copier, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stylereel.jobs")
    done = wait(jobs, submit(jobs).id, "succeeded").id
    copier.error = BadInputError("no face")
    bad = wait(jobs, submit(jobs).id, "failed").id
    copier.go_on.clear()
    running, queued = wait(jobs, submit(jobs).id, "running").id, submit(jobs).id
    until(lambda: copier.renders == 3)  # before that its thread may not have begun
    text = jobs.measures.text(jobs.unfinished()).decode()
    assert 'stylereel_jobs{state="queued"} 1.0' in text and 'stylereel_jobs{state="running"} 1.0' in text
    for job in (queued, running, queued):
        jobs.cancel(job)
    cancelled = 'stylereel_jobs_ended_total{kind="edit",outcome="cancelled"}'
    until(lambda: f"{cancelled} 2.0" in jobs.measures.text({}).decode())
    until(lambda: not jobs._at_work)
    jobs.delete(running)
    text = jobs.measures.text(jobs.unfinished()).decode()
    for outcome, count in (("done", 1), ("failed", 1), ("cancelled", 2)):
        assert f'stylereel_jobs_ended_total{{kind="edit",outcome="{outcome}"}} {count}.0' in text
    # What never began took no time.
    assert 'stylereel_job_seconds_count{kind="edit",outcome="cancelled"} 1.0' in text
    assert 'le="14400.0",outcome="done"} 1.0' in text
    assert 'stylereel_jobs{state="queued"} 0.0' in text and 'stylereel_jobs{state="running"} 0.0' in text
    said = [(r.job, r.kind, r.state, hasattr(r, "seconds")) for r in caplog.records if hasattr(r, "state")]  # type: ignore[attr-defined]
    assert sorted(said) == sorted([
        (done, "edit", "running", False), (done, "edit", "succeeded", True),
        (bad, "edit", "running", False), (bad, "edit", "failed", True),
        (running, "edit", "running", False), (running, "edit", "cancelled", True),
        (queued, "edit", "cancelled", False),
    ])  # fmt: skip


def test_a_job_that_is_deleted_while_it_runs_is_counted_as_cancelled(jobs: Jobs, copier: Copier) -> None:
    copier.go_on.clear()
    running = wait(jobs, submit(jobs).id, "running").id
    until(lambda: copier.renders == 1)
    jobs.delete(running)
    cancelled = 'stylereel_jobs_ended_total{kind="edit",outcome="cancelled"} 1.0'
    until(lambda: cancelled in jobs.measures.text(jobs.unfinished()).decode())


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        ({"edits": [], "task": "enlarge", "factor": None}, "enlarge"),
        ({"edits": [], "task": None, "factor": 2}, "interpolate"),
        ({"edits": [], "task": None, "factor": None}, "edit"),
        ({"edits": []}, "edit"),  # of a server before there were others
    ],
)
def test_kinds_of_jobs(request_: dict[str, object], kind: str) -> None:
    assert kind_of(request_) == kind


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


@pytest.mark.parametrize(
    "error", [PermissionError("somebody has it open"), BadInputError("cannot delete it", 500)]
)
def test_what_cannot_be_removed_keeps_nothing_else(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    old = [wait(jobs, submit(jobs).id, "succeeded").id for _ in range(2)]
    for job in old:
        os.utime(jobs.folder / job, (0, 0))
    first, delete = min(old), jobs.delete

    def stuck(job: str) -> None:
        if job == first:
            raise error
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
        # In one go, as ``delete`` does: the job writes its progress, and a folder that fills is not removed.
        os.replace(jobs.folder / job, jobs.folder / f".deleted-{job}")
        return running

    monkeypatch.setattr(jobs, "get", gone)
    with pytest.raises(KeyError):
        jobs.cancel(running.id)
    copier.go_on.set()


def test_two_servers_do_not_share_a_folder(jobs: Jobs) -> None:
    with pytest.raises(BadInputError, match="another server"):
        lock_jobs(jobs.folder)
