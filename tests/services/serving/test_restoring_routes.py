"""Colours and lines over HTTP: with the shipped model, the registry's champion, and where there is none."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from api_toys import ToyGenerator, black_clip, load_toys, picture, pixels, ready, refused, short_clip, until, wait
from starlette.testclient import TestClient

import services.pipeline.encoders
import services.pipeline.restorers
import services.serving.served_restorers
from datamodules.images import read_image
from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.encoders.restoring import RestoringEncoder, Task, copy_of, save_restoring_encoder
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, load_frame_encoder, save_frame_encoder
from modules.model_folder import load_model, weights_sha256
from services.model_names import COLOURISER, ENLARGER
from services.pipeline.restorers import load_restorer
from services.registry.connection import RegistryConfig
from services.registry.promote import ModelRegistry
from services.serving.bodies import Body
from services.serving.engine import Engine
from services.serving.handling import MODEL_HEADER, WARNING_HEADER, State
from services.serving.jobs import Jobs
from services.serving.latents import LatentStore
from services.serving.restoring_routes import task_of
from services.serving.routes import create_app
from services.serving.turns import Turns
from services.settings import Params, load_params

SMALL = FrameEncoderConfig(
    image_size=256, stem_channels=(8, 8, 8, 16, 32), width=32, depth=1, heads=2, thumbnail=4, told_width=0
)
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass
class Made:
    """Small nets in folders."""

    at: Path
    first: FrameEncoder

    def restorer(self, name: str, task: Task, seed: int) -> Path:
        torch.manual_seed(seed)
        encoder = RestoringEncoder(task, copy_of(self.first))
        with torch.no_grad():
            for value in encoder.entry().values():
                value.add_(0.5 * torch.randn(value.shape))
        return save_restoring_encoder(self.at / name, encoder, self.first, ToyGenerator.sha256, "# Toy\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A FrEN and a colouriser are shipped, an enlarger is not."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("assets")
    net = FrameEncoder(SMALL, 4, torch.zeros(8), torch.eye(8))
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.2 * torch.randn(value.shape))
    frame = save_frame_encoder(folder / "frame-encoder", net, ToyGenerator.sha256, "")
    made = Made(folder, load_frame_encoder(frame, None))
    shipped = {"colourise": made.restorer("colouriser", "colourise", 1), "enlarge": folder / "enlarger"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services.pipeline.encoders, "SHIPPED", {"frame": frame, "video": folder / "none"})
        patch.setattr(services.pipeline.restorers, "SHIPPED", shipped)
        yield made


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    given = {"STATE": tmp_path_factory.mktemp("served"), "DEVICE": "cpu", "POLL_SECONDS": 0.1, "MAX_PIXELS": 10**6}
    return load_params(environment={f"STYLEREEL_{name}": str(value) for name, value in given.items()})


@contextmanager
def serving(params: Params) -> Iterator[TestClient]:
    @contextmanager
    def opened() -> Iterator[State]:
        turns, runtime = Turns(), params.runtime
        engine = Engine(params, turns, load_toys)
        jobs = Jobs(runtime.state / "jobs", engine, turns, 1.0, 0.05)
        engine.start()
        yield State(engine, jobs, LatentStore(runtime.state / "latents", 1.0), turns, runtime)
        jobs.close()
        engine.stop()

    with TestClient(create_app(opened, params.runtime), "http://127.0.0.1") as client:
        ready(client)
        yield client


@pytest.fixture(scope="module")
def client(params: Params, made: Made) -> Iterator[TestClient]:
    with serving(params) as client:
        yield client


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    image = read_image(asset_path("clips", "single_face.jpg"), 10**8)
    return cv2.resize(image, (200, 200), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def clip() -> bytes:
    return short_clip(160, 120, 3)


def test_the_shipped_one_answers_and_is_named(client, made, photo) -> None:
    answer = client.post("/v1/colourise", content=picture(photo))
    assert answer.status_code == 200, answer.text
    sha256 = weights_sha256(load_model(made.at / "colouriser").tensors)
    assert (
        answer.headers[MODEL_HEADER]
        == f"stylereel-generator/{ToyGenerator.sha256[:12]}, {COLOURISER}/{sha256[:12]}"
    )
    assert "another person's" in answer.headers[WARNING_HEADER]
    after = pixels(answer.content)
    assert np.abs(after @ LUMA - photo @ LUMA).max() <= 1.01 and np.ptp(after.astype(int), axis=2).max() > 10
    listed = {m["name"]: m for m in client.get("/v1/models").json()["models"]}
    assert listed[COLOURISER]["version"] == sha256[:12] and listed[COLOURISER]["source"] == "shipped"
    assert "stylereel-enlarger" not in listed
    assert f'name="{COLOURISER}"' in client.get("/metrics").text
    assert COLOURISER not in client.get("/v1/edits").headers[MODEL_HEADER]


def test_jpeg_where_it_is_asked_for_and_a_form(client, photo) -> None:
    answer = client.post("/v1/colourise", files={"image": picture(photo)}, headers={"Accept": "image/jpeg"})
    assert answer.headers["content-type"] == "image/jpeg" and answer.content[:2] == b"\xff\xd8"
    refused(
        client.post("/v1/colourise", content=picture(photo), headers={"Accept": "text/html"}), 406, "image/png"
    )


def test_a_task_without_a_model_says_how_to_get_one_and_nothing_else_minds(client, photo, clip) -> None:
    words = ("'stylereel train enlarger' makes one", "stylereel promote stylereel-enlarger")
    refused(client.post("/v1/enlarge", content=picture(photo)), 404, *words)
    refused(client.post("/v1/jobs?task=enlarge", content=clip), 404, *words)
    health = client.get("/readyz")
    assert health.status_code == 200 and health.json()["ready"]
    assert client.post("/v1/edit?edit=age=5", content=picture(photo)).status_code == 200


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("edit=age=1", ["'edit'", "there are face"]),
        ("refine=5", ["'refine'"]),
        ("face=7", ["face 7"]),
        ("face=nose", ["face must be"]),
    ],
)
def test_what_cannot_be_asked_of_a_picture(client, photo, query, words) -> None:
    refused(client.post(f"/v1/colourise?{query}", content=picture(photo)), 422, *words)


def test_pictures_that_cannot_be_used(client) -> None:
    refused(client.post("/v1/colourise", content=b""), 400, "no image came")
    refused(client.post("/v1/colourise", content=b"GIF? no"), 415)
    nobody = np.full((40, 60, 3), (200, 30, 90), np.uint8)
    answer = client.post("/v1/colourise", content=picture(nobody))
    assert answer.status_code == 200 and "no face was found" in answer.headers[WARNING_HEADER]
    assert np.ptp(pixels(answer.content).astype(int), axis=2).max() == 0


def test_a_job_that_colourises(client, clip) -> None:
    answer = client.post("/v1/jobs", files={"video": clip}, data={"task": "colourise", "end": "2s"})
    assert answer.status_code == 202, answer.text
    assert COLOURISER in answer.headers[MODEL_HEADER]
    done = wait(client, answer.json()["id"], "succeeded", "failed")
    assert done["state"] == "succeeded", done
    report = done["result"]["report"]
    assert report["task"] == "colourise" and report["edits"] == [] and COLOURISER in report["models"]
    assert report["frames"] == 3 and report["options"]["refine"] == 0 and report["options"]["region"] == "head"
    video = client.get(done["result"]["video"])
    assert COLOURISER in video.headers[MODEL_HEADER] and video.headers["content-type"] == "video/mp4"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("task=colourise&edit=age=1", ["edits and task=colourise", "two jobs"]),
        ("task=sharpen", ["task='sharpen'", "colourise or enlarge"]),
        ("task=colourise&refine=3&preview=true", ["refine, preview cannot be asked", "face, start, end can"]),
        ("task=colourise&start=2&end=1", ["end must be later"]),
        ("", ["no edit was asked"]),
    ],
)
def test_jobs_that_cannot_be_done(client, clip, query, words) -> None:
    refused(client.post(f"/v1/jobs?{query}", content=clip), 422, *words)


def test_openapi_has_both_routes_and_the_task(client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for task in ("colourise", "enlarge"):
        operation = paths[f"/v1/{task}"]["post"]
        assert "likely" in operation["description"] and "not true" in operation["description"]
        assert {p["name"] for p in operation["parameters"]} == {"face"}
        assert {"200", "404", "406", "422"} <= set(operation["responses"])
        assert set(operation["responses"]["200"]["content"]) == {"image/png", "image/jpeg"}
    assert "task" in {p["name"] for p in paths["/v1/jobs"]["post"]["parameters"]}


def champion(client: TestClient, params: Params, folder: Path, name: str, path: str, photo: np.ndarray) -> Any:
    """Register a folder, move the alias, and wait for the first answer by it."""
    runtime, config = params.runtime, params.section("registry", RegistryConfig)
    registry = ModelRegistry(runtime.tracking(), runtime.state / "models", config)
    version = registry.register(folder, name)
    with registry.connection.reach() as mlflow:
        mlflow.set_registered_model_alias(name, "champion", version.version)
    wanted, deadline = f"{name}/{version.version}", time.monotonic() + 120
    while wanted not in (answer := client.post(path, content=picture(photo))).headers.get(MODEL_HEADER, ""):
        assert time.monotonic() < deadline, client.get("/readyz").text
        time.sleep(0.05)
    return answer


def test_the_champion_is_followed_and_enlarging_begins_when_there_is_one(client, params, made, photo) -> None:
    images = {client.post("/v1/colourise", content=picture(photo)).content}
    for seed in (2, 3):
        folder = made.restorer(f"colouriser-{seed}", "colourise", seed)
        images.add(champion(client, params, folder, COLOURISER, "/v1/colourise", photo).content)
    assert len(images) == 3
    (served,) = [m for m in client.get("/v1/models").json()["models"] if m["name"] == COLOURISER]
    assert served["alias"] == "champion" and served["source"] == "registry" and served["version"] == "2"
    folder = made.restorer("enlarger-4", "enlarge", 4)
    answer = champion(client, params, folder, ENLARGER, "/v1/enlarge", photo)
    assert pixels(answer.content).shape == (800, 800, 3)
    large = np.zeros((300, 300, 3), np.uint8)
    refused(client.post("/v1/enlarge", content=picture(large)), 413, "1200x1200, and at most 1000000 pixels")


def test_a_job_whose_result_is_too_large_is_refused_when_it_is_sent(
    client, params, made, photo, state_of_jobs, clip
) -> None:
    """16 times the pixels of 160x120 are taken, those of a larger clip are not."""
    champion(client, params, made.restorer("enlarger-5", "enlarge", 5), ENLARGER, "/v1/enlarge", photo)
    before = sorted(path.name for path in state_of_jobs.iterdir())
    refused(client.post("/v1/jobs?task=enlarge", content=black_clip(320, 240, 1)), 413, "1280x960")
    assert sorted(path.name for path in state_of_jobs.iterdir()) == before
    done = wait(client, client.post("/v1/jobs?task=enlarge", content=clip).json()["id"], "succeeded", "failed")
    assert done["state"] == "succeeded", done
    with av.open(io.BytesIO(client.get(done["result"]["video"]).content)) as container:
        frames = list(container.decode(video=0))
        assert (frames[0].width, frames[0].height, len(frames)) == (640, 480, 3)


@pytest.fixture
def state_of_jobs(params: Params) -> Path:
    return params.runtime.state / "jobs"


@pytest.mark.parametrize("why", ["cut short", "the registry, which has its frame encoder, is down"])
def test_a_shipped_one_that_does_not_load_is_noted_and_nothing_else_minds(
    made, tmp_path, monkeypatch, why
) -> None:
    broken = made.restorer("broken", "enlarge", 6)
    if why == "cut short":
        (broken / "weights.safetensors").write_bytes(b"cut short")

    def load(folder: Path, task: Task, *others: Any) -> Any:
        if task == "enlarge" and why != "cut short":
            raise RuntimeError(why)
        return load_restorer(folder, task, *others)

    monkeypatch.setattr(services.serving.served_restorers, "load_restorer", load)
    monkeypatch.setitem(services.pipeline.restorers.SHIPPED, "enlarge", broken)
    params = load_params(environment={"STYLEREEL_STATE": str(tmp_path), "STYLEREEL_DEVICE": "cpu"})
    engine = Engine(params, Turns(), load_toys)
    engine.start()
    try:
        until(lambda: bool(engine.notes()))
        assert any("stylereel-enlarger" in n and "the shipped one does not load" in n for n in engine.notes())
        assert engine.session().served and engine.restoring("colourise").models.task == "colourise"
        with pytest.raises(BadInputError, match="stylereel train enlarger") as caught:
            engine.restoring("enlarge")
        assert caught.value.status == 404
    finally:
        engine.stop()


def test_a_task_is_taken_out_of_the_options() -> None:
    body = Body(options={"task": " enlarge ", "face": "all"})
    assert task_of(body) == "enlarge" and body.options == {"face": "all"}
    assert task_of(Body(options={"refine": "3"})) is None
