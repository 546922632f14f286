"""The HTTP app of one server: its engine, jobs and latents, from its start to its stop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from services.adaptation.subjects import LATENTS
from services.serving.engine import Engine
from services.serving.handling import State
from services.serving.jobs import Jobs
from services.serving.latents import LatentStore
from services.serving.private_folder import private_folder
from services.serving.routes import create_app
from services.serving.turns import Turns
from services.settings import Params


def make_app(params: Params) -> FastAPI:
    """The routes over what ``open_state`` opens."""
    return create_app(lambda: open_state(params), params.runtime)


@contextmanager
def open_state(params: Params) -> Iterator[State]:
    """The engine, the jobs and the latents of a server, from its start to its stop."""
    runtime, turns = params.runtime, Turns()
    private_folder(runtime.state / "models")  # what is downloaded there was learned from persons too
    engine = Engine(params, turns)
    latents = LatentStore(runtime.state / LATENTS, runtime.keep_latents_hours)
    keep, poll = runtime.keep_jobs_hours, min(1.0, runtime.poll_seconds)
    jobs = Jobs(runtime.state / "jobs", engine, turns, keep, poll, runtime.max_jobs)
    try:
        engine.start()
        yield State(engine, jobs, latents, turns, runtime)
    finally:
        jobs.close()
        engine.stop()
