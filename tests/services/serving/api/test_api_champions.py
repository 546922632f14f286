"""The registry's champions over HTTP: followed while they move, kept where the registry goes away."""

from __future__ import annotations

import time
from pathlib import Path

from api_toys import directions, load_toys, until
from starlette.testclient import TestClient

from modules.editing.directions import save_directions
from services.model_names import DIRECTIONS
from services.registry.connection import RegistryConfig
from services.registry.promote import ModelRegistry
from services.serving.engine import Engine
from services.serving.routes import MODEL_HEADER
from services.serving.turns import Turns
from services.settings import Params


def test_an_alias_that_moves_is_followed_without_a_failed_request(
    client: TestClient, params: Params, face: bytes, tmp_path: Path
) -> None:
    registry = ModelRegistry(
        params.runtime.tracking(), params.runtime.state / "models", params.section("registry", RegistryConfig)
    )
    versions, images = set(), set()
    for strength in (1.0, 3.0):
        folder = save_directions(tmp_path / f"{strength}", directions(strength), "# Toy\n")
        version = registry.register(folder, DIRECTIONS)
        with registry.connection.reach() as mlflow:
            mlflow.set_registered_model_alias(DIRECTIONS, "champion", version.version)
        deadline = time.monotonic() + 120
        while True:
            answer = client.post("/v1/edit?edit=age=20", content=face)
            assert answer.status_code == 200, answer.text
            if f"{DIRECTIONS}/{version.version}" in answer.headers[MODEL_HEADER]:
                break
            assert time.monotonic() < deadline, client.get("/readyz").text
        versions.add(answer.headers[MODEL_HEADER])
        images.add(answer.content)
    assert len(versions) == len(images) == 2
    (served,) = [m for m in client.get("/v1/models").json()["models"] if m["name"] == DIRECTIONS]
    assert served["alias"] == "champion" and served["source"] == "registry"
    database = params.runtime.state / "mlflow.db"
    away = database.with_suffix(".away")
    database.rename(away)
    try:
        until(lambda: any("cannot be reached" in note for note in client.get("/readyz").json()["notes"]))
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/edit?edit=age=20", content=face).content in images
        again = Engine(params, Turns(), load_toys)
        again.start()
        good = "the last good model, version 2, serves from the local cache"
        until(lambda: any(good in note for note in again.notes()), again.notes)
        assert [m.source for m in again.session().served if m.name == DIRECTIONS] == ["cache"]
        again.stop()
    finally:
        away.rename(database)
