"""What every handler of the HTTP API works with: the server's state, its threads, its clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import anyio.to_thread
from fastapi import Request

from services.serving.engine import Engine
from services.serving.jobs import Jobs
from services.serving.latents import LatentStore
from services.serving.limits import in_api_terms
from services.serving.turns import Turns
from services.settings import Runtime

Value = TypeVar("Value")
MODEL_HEADER = "X-Stylereel-Model"
WARNING_HEADER = "X-Stylereel-Warning"


@dataclass
class State:
    """What the handlers work with; made when the server starts."""

    engine: Engine
    jobs: Jobs
    latents: LatentStore
    turns: Turns
    runtime: Runtime


def state_of(request: Request) -> State:
    """The state of the server that a request came to."""
    state: State = request.app.state.state
    return state


def headers_of(models: str, warnings: Sequence[str]) -> dict[str, str]:
    """Headers of an answer that is an image: which models made it, and what to beware of."""
    return {MODEL_HEADER: models} | ({WARNING_HEADER: in_api_terms("; ".join(warnings))} if warnings else {})


def deadline(seconds: float) -> Callable[[], bool]:
    """Says whether that many seconds have passed since now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


async def admitted(request: Request) -> AsyncIterator[None]:
    """Be one of those who wait or are at work, from before the body is read; raises ``BusyError``.

    For ``scope="function"``: who reads a finished answer slowly takes nobody's place.
    """
    with state_of(request).turns.admitted():
        yield


async def in_thread(work: Callable[[], Value]) -> Value:
    """Do what takes a while beside the event loop."""
    return await anyio.to_thread.run_sync(work)
