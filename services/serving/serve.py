"""``stylereel serve``: checks the address, hands the settings to the worker, and lets BentoML serve."""

from __future__ import annotations

import ctypes
import dataclasses
import ipaddress
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from datamodules.types import BadInputError
from services.serving.jobs_lock import lock_jobs
from services.serving.private_folder import private_folder
from services.settings import PREFIX, ROOT, Runtime

SERVICE = "services.serving.api:StyleReelService"
OVERRIDES = PREFIX + "OVERRIDES"
"""Environment variable that holds the overrides as JSON."""
_SET_PARENT_DEATH_SIGNAL = 1
"""Linux's number, of sys/prctl.h."""


def serve(runtime: Runtime, overrides: Sequence[str] = ()) -> NoReturn:
    """Serve on ``runtime``'s host and port until SIGINT or SIGTERM; prints where. This process becomes the server.

    The worker is a process of its own and reads ``params.yaml`` itself; what ``runtime`` says otherwise reaches
    it as ``STYLEREEL_*``, and ``overrides`` (``section.key=value``) with it. Raises ``BadInputError`` for a host
    that is no address of this machine, a port that is taken, and a state folder that another server works on.
    """
    host = "127.0.0.1" if runtime.host == "localhost" else runtime.host
    port = free_port(host, runtime.port)
    lock_jobs(private_folder(runtime.state / "jobs")).release()
    for field in dataclasses.fields(runtime):
        os.environ[PREFIX + field.name.upper()] = str(getattr(runtime, field.name))
    os.environ[OVERRIDES] = json.dumps(list(overrides))
    os.environ["BENTOML_HOME"] = str(runtime.state / "bentoml")
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    (runtime.state / "bentoml").mkdir(parents=True, exist_ok=True)
    print(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--working-dir", str(ROOT)]
    command += ["--host", host, "--port", str(port), "--timeout-graceful-shutdown", str(runtime.stop_seconds)]
    # In the place of this process, so that signals reach BentoML's supervisor itself.
    os.execv(sys.executable, command)  # noqa: S606


def stop_with_parent() -> None:
    """Have the system send this process SIGTERM when its parent ends, however that ended; Linux only.

    The worker of a supervisor that was killed would go on serving, holding the port and the jobs, and the next
    start would be refused.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; raises ``BadInputError`` where it cannot be had."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError as error:
        raise BadInputError(f"host {host!r} is no IP address; 127.0.0.1 is this machine only") from error
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise BadInputError(
            f"cannot listen on {host}:{port} ({error}); choose another --port or --host"
        ) from error
