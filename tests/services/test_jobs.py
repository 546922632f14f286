import os
import shutil
import time

import pytest
from job_toys import Copier, copier, jobs, submit, wait

from datamodules.types import BadInputError
from services.jobs import Job, Jobs, lock_jobs

__all__ = ["copier", "jobs"]
NO_ROOM = BadInputError("cannot write output.part.mp4 (No space left on device); free some space")
NO_ROOM.__cause__ = OSError(28, "No space left on device")


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
