"""What every handler of the HTTP API works with: the server's state, its threads, its clock."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import anyio.to_thread
from fastapi import Request

from services.serving.engine import Engine
from services.serving.jobs import Jobs
from services.serving.latents import LatentStore
from services.serving.limits import in_api_terms
from services.serving.openapi import STRENGTHS_HEADER
from services.serving.turns import Turns
from services.settings import Runtime

Value = TypeVar("Value")
MODEL_HEADER = "X-Stylereel-Model"
WARNING_HEADER = "X-Stylereel-Warning"
LONGEST_STRENGTHS = 4000
"""Characters; proxies and clients refuse headers of more than 8 kB."""


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


def headers_of(
    models: str, warnings: Sequence[str], strengths: Sequence[Mapping[str, float]] = ()
) -> dict[str, str]:
    """Headers of an answer that is an image: which models made it, what to beware of, how strong edits were."""
    headers = {MODEL_HEADER: models}
    if warnings:
        headers[WARNING_HEADER] = in_api_terms("; ".join(warnings))
    if strengths:
        headers[STRENGTHS_HEADER] = strengths_line(strengths)
    return headers


def strengths_line(faces: Sequence[Mapping[str, float]]) -> str:
    """``age=20, smile=0.4; age=20``: of each face, ASCII, with ``...`` for those that have no room.

    Names are quoted as in URLs, so that each pair can be sent back as ``edit=``.
    """
    shown, room = list[str](), LONGEST_STRENGTHS
    for face in faces:
        line = ", ".join(f"{quote(name, safe='')}={value:.10g}" for name, value in face.items())
        room -= len(line) + 2
        if room < 0:
            shown.append("...")
            break
        shown.append(line)
    return "; ".join(shown)


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
