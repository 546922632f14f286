import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.types import BadInputError
from services.serving.jobs_lock import lock_jobs
from services.serving.serve import OVERRIDES, free_port, serve
from services.settings import ROOT, Runtime, load_params


class StartedError(Exception):
    """In the place of the new process."""


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return load_params(environment={"STYLEREEL_STATE": str(tmp_path / "state"), "STYLEREEL_PORT": "0"}).runtime


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    command: list[str] = []

    def execv(path: str, arguments: list[str]) -> None:
        command.extend(arguments)
        raise StartedError

    monkeypatch.setattr("os.execv", execv)
    monkeypatch.setattr("os.environ", dict(os.environ))
    return command


def test_loopback_is_the_default_and_settings_reach_the_worker(
    runtime: Runtime, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartedError):
        serve(replace(runtime, max_pixels=123, allowed_hosts="a.example, b.example"), ["pipeline.chunk=4"])
    host, port = started[started.index("--host") + 1], started[started.index("--port") + 1]
    assert host == "127.0.0.1" and int(port) > 0
    # Else a client that trickles keeps a server from stopping, and the jobs from being closed.
    assert started[started.index("--timeout-graceful-shutdown") + 1] == str(runtime.stop_seconds) == "10"
    assert capsys.readouterr().out == f"serving on http://127.0.0.1:{port}\n"
    again = load_params(overrides=json.loads(os.environ[OVERRIDES]), environment=os.environ)
    assert again.runtime.max_pixels == 123 and again.runtime.state == runtime.state
    assert again.raw["pipeline"]["chunk"] == 4 and again.runtime.allowed_hosts == "a.example, b.example"
    assert os.environ["BENTOML_DO_NOT_TRACK"] == "True"


def test_a_second_server_on_the_same_state_is_refused(runtime: Runtime, started: list[str]) -> None:
    (runtime.state / "jobs").mkdir(parents=True)
    lock = lock_jobs(runtime.state / "jobs")
    try:
        with pytest.raises(BadInputError, match="another server"):
            serve(runtime)
    finally:
        lock.release()
    assert not started


def test_ports_that_cannot_be_had() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInputError, match=f"127.0.0.1:{port}"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(BadInputError, match="no IP address"):
        free_port("nowhere", 0)
    with pytest.raises(BadInputError, match="cannot listen"):
        free_port("203.0.113.1", 0)


ORPHAN = """
import subprocess, sys, time
child = "from services.serving.serve import stop_with_parent as s; s(); print(1, flush=True); "
child += "import time; time.sleep(30); print('left behind')"
process = subprocess.Popen([sys.executable, "-c", child])
print(process.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_ends_with_a_supervisor_that_is_killed() -> None:
    command = [sys.executable, "-c", ORPHAN]
    supervisor = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    worker = int(supervisor.stdout.readline())
    assert supervisor.stdout.readline() == "1\n"
    os.kill(worker, 0)
    supervisor.kill()
    # The pipe's other end is the worker's: it is closed when the worker has ended.
    assert supervisor.stdout.read() == ""
    supervisor.wait()


COUNTING = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"], os.environ["STYLEREEL_OVERRIDES"] = sys.argv[1], "[]"
import prometheus_client
import services.serving.api
services.serving.api.http.made.state.measures.request("GET", "/livez", 200, 0.1)
print(services.serving.api.http.made.state.measures.text([], 0, 0).decode())
"""


def test_a_supervisor_loads_neither_torch_nor_models(tmp_path: Path) -> None:
    """It imports the service before the worker does: whoever starts a server waits for both."""
    program = (
        "import sys, services.serving.api as api\nassert api.http\nprint({'torch', 'mlflow'} & {*sys.modules})"
    )
    environment = {**os.environ, "STYLEREEL_STATE": str(tmp_path / "state"), "STYLEREEL_OVERRIDES": "[]"}
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "set()\n"


def test_a_worker_counts_in_memory_since_files_mapped_on_a_full_disk_kill_it(tmp_path: Path) -> None:
    environment = {**os.environ, "STYLEREEL_STATE": str(tmp_path / "state")}
    command = [sys.executable, "-c", COUNTING, str(tmp_path)]
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert 'stylereel_requests_total{method="GET",route="/livez",status="200"} 1.0' in shown
    assert not list(tmp_path.glob("*.db"))
