"""The service that BentoML runs; ``services.serving.serve`` starts it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.memory import keep_freed_memory
from services.waiting import wait_briefly

# Before torch is imported, and before there are threads.
wait_briefly()
keep_freed_memory()

from services.serving.serve import OVERRIDES, stop_with_parent  # noqa: E402
from services.settings import Runtime, load_params  # noqa: E402
from services.version import version  # noqa: E402

_PARAMS = load_params(overrides=json.loads(os.environ.get(OVERRIDES, "[]")))
# Read by BentoML when it is imported: its home is ours, and nothing is reported to its makers.
os.environ["BENTOML_HOME"] = str(_PARAMS.runtime.state / "bentoml")
os.environ["BENTOML_DO_NOT_TRACK"] = "True"

import bentoml  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from prometheus_client import values  # noqa: E402
from starlette.routing import BaseRoute  # noqa: E402
from starlette.types import ASGIApp, Receive, Scope, Send  # noqa: E402

from services.serving.logs import configure_log  # noqa: E402

if OVERRIDES in os.environ:
    # BentoML sets it for metrics of several workers, kept in files that are mapped into memory: a full disk kills
    # whoever writes there. There is one worker.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    values.ValueClass = values.MutexValue


def seconds_allowed(runtime: Runtime) -> float:
    """What BentoML gives a request before it answers 504: its upload, the wait for a turn, the computation."""
    return runtime.upload_grace + runtime.max_bytes / runtime.slowest_upload + 2.5 * runtime.request_seconds


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


class MadeWhenServed(FastAPI):
    """The app of ``services.serving.app``, imported and made by the worker when it starts.

    BentoML's supervisor imports this module as well, before the worker does, and needs neither torch nor models.
    """

    def __init__(self) -> None:
        self._made: FastAPI | None = None
        super().__init__(title="stylereel", version=version(), lifespan=self._lifespan)

    @property
    def made(self) -> FastAPI:
        """The app itself."""
        if self._made is None:
            from services.serving.app import make_app

            self._made = make_app(_PARAMS)
        return self._made

    @property
    def routes(self) -> list[BaseRoute]:
        """What BentoML shows at ``/docs.json``."""
        return self._made.routes if self._made else super().routes

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self.made.router.lifespan_context(self.made):
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand one request on."""
        await self.made(scope, receive, send)


http = MadeWhenServed()


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
