"""The shipped generator and judges behind the HTTP routes, without a toy in between."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from modules.assets import asset_path
from modules.editing.directions import Direction, EditSet, save_directions
from modules.generators import load_generator
from services.model_names import DIRECTIONS
from services.registry.connection import RegistryConfig
from services.registry.promote import ModelRegistry
from services.serving.engine import Engine
from services.serving.jobs import Jobs
from services.serving.latents import LatentStore
from services.serving.routes import MODEL_HEADER, State, create_app
from services.serving.turns import Turns
from services.settings import Params, load_params


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    folder = tmp_path_factory.mktemp("served")
    return load_params(environment={"STYLEREEL_STATE": str(folder), "STYLEREEL_DEVICE": "cpu"})


@pytest.fixture(scope="module")
def champion(params: Params, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registered direction of the real generator: towards the mean of 64 faces' first principal change."""
    generator = load_generator()
    with torch.no_grad():
        ws = generator.map(torch.randn(64, generator.z_dim, generator=torch.Generator().manual_seed(0)))[:, 0]
    axis = torch.linalg.svd(ws - ws.mean(0), full_matrices=False).Vh[0]
    vector = axis.expand(generator.num_ws, -1).contiguous()
    edits = EditSet([Direction("first", "deviations", vector, -10.0, 10.0, generator.sha256)])
    folder = save_directions(tmp_path_factory.mktemp("made") / "directions", edits, "# First axis\n")
    runtime = params.runtime
    config = params.section("registry", RegistryConfig)
    registry = ModelRegistry(runtime.tracking(), runtime.state / "models", config)
    version = registry.register(folder, DIRECTIONS)
    with registry.connection.reach() as mlflow:
        mlflow.set_registered_model_alias(DIRECTIONS, "champion", version.version)
    return f"{DIRECTIONS}/{version.version}"


@pytest.fixture(scope="module")
def turns() -> Turns:
    return Turns()


@pytest.fixture(scope="module")
def engine(params: Params, turns: Turns, champion: str) -> Engine:
    return Engine(params, turns)


@pytest.fixture(scope="module")
def client(params: Params, turns: Turns, engine: Engine) -> Iterator[TestClient]:
    @contextmanager
    def opened() -> Iterator[State]:
        runtime = params.runtime
        jobs = Jobs(runtime.state / "jobs", engine, turns, 1.0, 0.05)
        engine.start()
        yield State(engine, jobs, LatentStore(runtime.state / "latents", 1.0), turns, runtime)
        jobs.close()
        engine.stop()

    with TestClient(create_app(opened, params.runtime), "http://127.0.0.1") as client:
        assert client.get("/livez").status_code == 200
        deadline = time.monotonic() + 300
        while (answer := client.get("/readyz")).status_code != 200:
            assert time.monotonic() < deadline and "loading" in answer.text, answer.text
            time.sleep(0.2)
        yield client


def test_every_judge_is_there_before_the_first_request(client: TestClient, engine: Engine) -> None:
    """The edit that is served here is of no measured attribute, so no request asks for them."""
    judges = vars(engine.session().models.judges)
    assert {"finder", "parser", "identity", "perceptual", "attributes"} <= judges.keys()


def test_a_real_face_is_inverted_and_edited(client: TestClient, champion: str) -> None:
    with Image.open(asset_path("clips", "single_face.jpg")) as image:
        image.thumbnail((320, 320))
        target = io.BytesIO()
        image.save(target, "PNG", icc_profile=None)  # its colours as they are, so that 0 changes no pixel
        before = np.asarray(image).astype(int)
    inverted = client.post("/v1/invert?codes=true", content=target.getvalue())
    assert inverted.status_code == 200, inverted.text
    body = inverted.json()
    assert np.isfinite(np.asarray(body["codes"])).all() and body["metrics"]["psnr"] > 8
    assert champion in inverted.headers[MODEL_HEADER]
    answers = [
        client.post("/v1/edit", json={"latent": body["latent"], "edits": [{"name": "first", "strength": s}]})
        for s in (0, 8)
    ]
    same, changed = (np.asarray(Image.open(io.BytesIO(answer.content))).astype(int) for answer in answers)
    assert np.array_equal(same, before)
    difference = np.abs(changed - before).max(2)
    assert changed.shape == before.shape and difference.max() > 10
    assert difference[0].max() == difference[:, 0].max() == 0, "the edge of the image is not the face"
    assert 0.01 < (difference > 0).mean() < 0.9


def test_the_codes_of_the_shipped_generator_name_it(client: TestClient) -> None:
    models = {m["name"]: m for m in client.get("/v1/models").json()["models"]}
    assert models[DIRECTIONS]["alias"] == "champion" and models[DIRECTIONS]["source"] == "registry"
    assert models[DIRECTIONS]["generator_sha256"] == models["stylereel-generator"]["generator_sha256"]
