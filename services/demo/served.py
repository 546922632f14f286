"""A served instance of what the demo promoted: started on loopback, asked for the same edits, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from modules.editing.directions import EditRequest
from services.serving.serve import free_port
from services.settings import ROOT

HOST = "127.0.0.1"
HEADER = "X-Stylereel-Model"
_POLL = 0.5
_STOP_SECONDS = 20


class ServerFailedError(RuntimeError):
    """The server did not answer as it should; the message is one line and names its log."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    client: httpx.Client
    ready_seconds: float
    """From the start of the process to the first ready answer."""
    models: list[dict[str, Any]]
    """The models that ``/readyz`` named."""


@contextmanager
def serving(
    environment: Mapping[str, str], overrides: Sequence[str], log: Path, patience: float
) -> Iterator[Server]:
    """``stylereel serve`` on a free port of loopback, until the block is left.

    ``overrides`` are ``section.key=value`` for its ``--set``. What it prints goes to ``log``. Raises
    ``ServerFailedError`` where it is not ready after ``patience`` seconds.
    """
    port = free_port(HOST, 0)
    command = [sys.executable, "-m", "services.shell.cli", "serve", "--host", HOST, "--port", str(port)]
    command += [word for override in overrides for word in ("--set", override)]
    started = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=patience, trust_env=False) as client:
            about = _ready(client, process, log, started + patience)
            yield Server(client, round(time.monotonic() - started, 1), about["models"])
    except httpx.TransportError as error:
        raise ServerFailedError(f"the server went away ({error}); {log} says why") from error
    finally:
        _stop(process)


def edited_image(server: Server, image: bytes, request: EditRequest) -> tuple[bytes, str]:
    """The edited PNG and the names of the models that answered."""
    answer = _ok(
        server.client.post("/v1/edit", params={"edit": f"{request.name}={request.strength:g}"}, content=image)
    )
    return answer.content, answer.headers.get(HEADER, "")


def edited_video(
    server: Server, video: Path, request: EditRequest, end: float, steps: int, patience: float
) -> bytes:
    """The clip that a job makes of the first ``end`` seconds, refined by ``steps``; the job is deleted after."""
    fields = {"edit": f"{request.name}={request.strength:g}", "end": f"{end:g}s", "refine": str(steps)}
    with video.open("rb") as stream:
        job = _ok(server.client.post("/v1/jobs", data=fields, files={"video": stream})).json()
    late = time.monotonic() + patience
    while job["state"] in ("queued", "running"):
        if time.monotonic() > late:
            raise ServerFailedError(f"the job was still {job['state']} after {patience:g} s")
        time.sleep(_POLL)
        job = _ok(server.client.get(f"/v1/jobs/{job['id']}")).json()
    if job["state"] != "succeeded":
        raise ServerFailedError(f"the job is {job['state']}: {job['error']}")
    clip = _ok(server.client.get(f"/v1/jobs/{job['id']}/result")).content
    _ok(server.client.delete(f"/v1/jobs/{job['id']}"))
    return clip


def _ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path, late: float) -> dict[str, Any]:
    while True:
        if process.poll() is not None:
            raise ServerFailedError(f"the server ended with exit code {process.returncode}; see {log}")
        if time.monotonic() > late:
            raise ServerFailedError(f"the server was not ready in time; see {log}")
        try:
            answer = client.get("/readyz")
            if answer.status_code == httpx.codes.OK:
                about: dict[str, Any] = answer.json()
                return about
        except httpx.TransportError:
            time.sleep(_POLL)  # nobody listens yet
            continue
        time.sleep(_POLL)


def _ok(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise ServerFailedError(f"{answer.request.url.path} answered {answer.status_code}: {answer.text[:300]}")
    return answer


def _stop(process: subprocess.Popen[bytes]) -> None:
    # BentoML's supervisor and its workers are one session: none of them may stay behind.
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
