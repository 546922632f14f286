"""The service as BentoML builds it, in process, one for each file of tests."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from api_toys import LIMIT, load_toys, ready, short_clip
from PIL import Image
from starlette.testclient import TestClient

from modules.assets import asset_path
from services.serving.engine import Engine
from services.serving.jobs import Jobs
from services.serving.latents import LatentStore
from services.serving.routes import State
from services.serving.turns import Turns
from services.settings import Params, load_params


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    folder = tmp_path_factory.mktemp("served")
    settings = {"state": folder, "device": "cpu", "max_bytes": LIMIT, "max_seconds": 4, "poll_seconds": 0.1}
    return load_params(environment={f"STYLEREEL_{name.upper()}": str(value) for name, value in settings.items()})


@pytest.fixture(scope="module")
def state(params: Params) -> Iterator[State]:
    turns, folder = Turns(), params.runtime.state
    engine = Engine(params, turns, load_toys)
    jobs = Jobs(folder / "jobs", engine, turns, 1.0, 0.05)
    yield State(engine, jobs, LatentStore(folder / "latents", 1.0), turns, params.runtime)
    jobs.close()


@pytest.fixture(scope="module")
def client(params: Params, state: State) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in params.environment.items():
            patch.setenv(name, value)
        from services.serving import api, app

        @contextmanager
        def opened(_: Params) -> Iterator[State]:
            state.engine.start()
            yield state
            state.engine.stop()

        patch.setattr(app, "open_state", opened)
        service: Any = api.StyleReelService
        with TestClient(service.to_asgi(is_main=True), "http://127.0.0.1") as client:
            ready(client)
            yield client


@pytest.fixture(scope="module")
def face() -> bytes:
    with Image.open(asset_path("clips", "single_face.jpg")) as image:
        image.thumbnail((480, 480))
        target = io.BytesIO()
        # Without the profile of somebody's display: what comes back is sRGB.
        image.convert("RGB").save(target, "PNG", icc_profile=None)
    return target.getvalue()


@pytest.fixture(scope="session")
def clip() -> bytes:
    """A second of a real clip, small."""
    return short_clip(320, 240, 8)
