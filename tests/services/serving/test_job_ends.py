"""Jobs across stops, kills and full disks: they go on, or end with nothing left behind."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dbos import DBOS
from dbos._dbos import _get_dbos_instance
from job_toys import Copier, copier, full_disk, jobs, no_room, submit, until, wait

from datamodules.types import BadInputError
from services.serving.jobs import Jobs
from services.serving.turns import Turns
from services.settings import ROOT

__all__ = ["copier", "jobs"]


def test_a_start_on_a_full_disk_says_so_and_the_next_one_works(
    tmp_path: Path, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(DBOS, "register_queue", no_room)
        with pytest.raises(BadInputError, match=r"no space is left .* free some") as refused:
            Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.01)
    assert refused.value.status == 507
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.01)
    try:
        assert wait(jobs, submit(jobs).id, "succeeded").state == "succeeded"
    finally:
        jobs.close()


def test_a_job_whose_end_cannot_be_written_down_goes_on_when_there_is_space(
    jobs: Jobs, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    copier.go_on.clear()
    job = wait(jobs, submit(jobs).id, "running").id
    until(lambda: copier.renders == 1)
    with full_disk():
        copier.go_on.set()
        until(lambda: not _get_dbos_instance()._active_workflows_set.activeList())
    assert jobs.get(job).state == "running"
    jobs.sweep()
    assert jobs.get(job).state == "running"  # its thread might be about to start
    monkeypatch.setattr("services.serving.jobs.LOST_AFTER", -1.0)
    jobs.sweep()
    done = wait(jobs, job, "succeeded", "failed", "cancelled")
    assert done.output is not None and done.output.read_bytes() == b"cba" and copier.renders == 2
    copier.go_on.clear()
    other = wait(jobs, submit(jobs).id, "running").id
    until(lambda: copier.renders == 3)
    jobs.sweep()
    time.sleep(0.5)
    assert copier.renders == 3  # it runs, and is not begun twice
    copier.go_on.set()
    assert wait(jobs, other, "succeeded", "failed").state == "succeeded"


def test_orderly_stops_end_no_job(tmp_path: Path, copier: Copier) -> None:
    copier.go_on.clear()
    job, text = "", ""
    for start in range(8):
        jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05)
        job = job or submit(jobs).id
        assert wait(jobs, job, "running", "failed").state == "running"
        until(lambda expected=start + 1: copier.renders == expected)
        jobs.close()
        until(lambda stopped=jobs: not stopped._at_work)
        text += jobs.measures.text({}).decode()
    assert "stylereel_jobs_ended_total{" not in text
    copier.go_on.set()
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05)
    try:
        assert wait(jobs, job, "succeeded", "failed").state == "succeeded"
    finally:
        jobs.close()


def test_a_stop_is_orderly_though_the_thread_does_not_notice_it(tmp_path: Path, copier: Copier) -> None:
    copier.hold.clear()
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05)
    starts = jobs.folder / submit(jobs).id / "starts.json"
    until(lambda: copier.renders == 1)
    assert starts.exists()
    jobs.close()
    assert not starts.exists()
    copier.hold.set()


def test_a_step_in_which_the_server_is_killed_again_and_again_is_given_up(tmp_path: Path, copier: Copier) -> None:
    copier.go_on.clear()
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05)
    job = wait(jobs, submit(jobs).id, "running").id
    until(lambda: copier.renders == 1)
    jobs.close()
    until(lambda: not jobs._at_work)
    # As five servers leave it that were killed.
    (jobs.folder / job / "starts.json").write_text('{"starts": 5}')
    (jobs.folder / job / "work").mkdir()
    jobs = Jobs(tmp_path / "jobs", copier, Turns(), 1.0, 0.05)
    try:
        failed = wait(jobs, job, "failed", "succeeded")
        assert failed.status == 500 and failed.error is not None
        assert failed.error.startswith(
            "the server was killed 5 times while it worked on this; send smaller frames"
        )
        assert copier.renders == 1 and not (jobs.folder / job / "work").exists()
    finally:
        jobs.close()


def test_nothing_of_the_face_is_left_of_a_job_that_no_thread_ends(jobs: Jobs, copier: Copier) -> None:
    copier.go_on.clear()
    done = wait(jobs, submit(jobs).id, "running", "succeeded").id
    waiting = submit(jobs).id
    (jobs.folder / waiting / "work").mkdir()  # of a server that was killed; it is not dequeued again yet
    jobs.cancel(waiting)
    assert not (jobs.folder / waiting / "work").exists()
    (jobs.folder / done / "work").mkdir()
    jobs.sweep()
    assert (jobs.folder / done / "work").exists()
    copier.go_on.set()
    wait(jobs, done, "succeeded")
    until(lambda: not jobs._at_work)
    (jobs.folder / done / "work").mkdir()
    jobs.sweep()
    assert not (jobs.folder / done / "work").exists() and jobs.get(done).state == "succeeded"


def test_nothing_of_the_face_is_left_where_a_job_is_cancelled_between_two_steps(jobs: Jobs) -> None:
    folder = jobs.folder / ("a" * 32)
    (folder / "work").mkdir(parents=True)
    with jobs.at_work(folder.name):
        (folder / "cancelled").touch()
    assert not (folder / "work").exists()


KILLED = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from services.serving.jobs import Jobs
from services.serving.turns import Turns
from services.settings import ROOT

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
    assert json.loads((tmp_path / "jobs" / job / "starts.json").read_text()) == {"starts": 1}
    with start(0, job) as server:
        output, _ = server.communicate(timeout=240)
    assert json.loads(output.strip().splitlines()[-1]) == ["succeeded", "abcabc"]
    # once at the request and once in the workflow: the step that was done is not done again
    assert (tmp_path / "analysed").read_text() == "xx"
    assert not (tmp_path / "jobs" / job / "starts.json").exists()
