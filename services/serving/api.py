"""The service that BentoML runs; ``services.serving.serve`` starts it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from services.memory import keep_freed_memory
from services.waiting import wait_briefly

# Before torch is imported, and before there are threads.
wait_briefly()
keep_freed_memory()

from services.serving.serve import OVERRIDES, stop_with_parent  # noqa: E402
from services.settings import Params, Runtime, load_params  # noqa: E402

_PARAMS = load_params(overrides=json.loads(os.environ.get(OVERRIDES, "[]")))
# Read by BentoML when it is imported: its home is ours, and nothing is reported to its makers.
os.environ["BENTOML_HOME"] = str(_PARAMS.runtime.state / "bentoml")
os.environ["BENTOML_DO_NOT_TRACK"] = "True"

import bentoml  # noqa: E402
from prometheus_client import values  # noqa: E402
from starlette.types import ASGIApp, Receive, Scope, Send  # noqa: E402

from services.serving.engine import Engine  # noqa: E402
from services.serving.handling import State  # noqa: E402
from services.serving.jobs import Jobs  # noqa: E402
from services.serving.latents import LatentStore  # noqa: E402
from services.serving.logs import configure_log  # noqa: E402
from services.serving.routes import create_app  # noqa: E402
from services.serving.turns import Turns  # noqa: E402

if OVERRIDES in os.environ:
    # BentoML sets it for metrics of several workers, kept in files that are mapped into memory: a full disk kills
    # whoever writes there. There is one worker.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    values.ValueClass = values.MutexValue


def seconds_allowed(runtime: Runtime) -> float:
    """What BentoML gives a request before it answers 504: its upload, the wait for a turn, the computation."""
    return runtime.max_bytes / runtime.slowest_upload + 2.5 * runtime.request_seconds


@contextmanager
def open_state(params: Params) -> Iterator[State]:
    """The engine, the jobs and the latents of a server, from its start to its stop."""
    runtime, turns = params.runtime, Turns()
    engine = Engine(params, turns)
    latents = LatentStore(runtime.state / "latents", runtime.keep_latents_hours)
    keep, poll = runtime.keep_jobs_hours, min(1.0, runtime.poll_seconds)
    jobs = Jobs(runtime.state / "jobs", engine, turns, keep, poll, runtime.max_jobs)
    try:
        engine.start()
        yield State(engine, jobs, latents, turns, runtime)
    finally:
        jobs.close()
        engine.stop()


class OwnPaths:
    """ASGI middleware: what is not a file of BentoML's goes to our app, its 404 and its health checks included.

    BentoML asks its own ``/livez`` and ``/readyz`` before what is mounted, and these know nothing of models.
    """

    BENTOML = ("/docs.json", "/schema.json", "/healthz")

    def __init__(self, app: ASGIApp, ours: ASGIApp) -> None:
        self.app, self.ours = app, ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on."""
        path = scope.get("path", "")
        theirs = path in self.BENTOML or path.startswith(("/static_content/", "/assets/"))
        await (self.app if scope["type"] != "http" or theirs else self.ours)(scope, receive, send)


http = create_app(lambda: open_state(_PARAMS), _PARAMS.runtime.max_bytes, _PARAMS.runtime.max_image_bytes)


@bentoml.service(
    name="stylereel",
    workers=1,  # the models, the job queue and the turns are one each
    traffic={"timeout": seconds_allowed(_PARAMS.runtime)},
    # BentoML counts by path, so that each id would leave a series behind; ours counts by route.
    metrics={"enabled": False},
    # It logs paths, which hold the ids of jobs and the names of persons; ours has one line for each request.
    logging={"access": {"enabled": False}},
)
class StyleReelService:
    """Inverts and edits faces in images and videos; the API is at /openapi.json."""

    def __init__(self) -> None:
        # Made by the worker, in its main thread. The supervisor imports this module too, and is to outlive the
        # shell that started it.
        if OVERRIDES in os.environ:
            stop_with_parent()
            configure_log(_PARAMS.runtime.log_level, _PARAMS.runtime.log_format)


# BentoML's stubs call what the decorator returns the class itself.
_service: Any = StyleReelService
_service.mount_asgi_app(http, path="/", name="stylereel")
_service.add_asgi_middleware(OwnPaths, ours=http)
