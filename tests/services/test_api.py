"""The service as BentoML builds it, in process: real faces are found in real files, the generator is a toy."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import schemathesis
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from PIL import Image
from safetensors.torch import load_file, save_file
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient
from torch import Tensor

from datamodules.alignment import SmoothingConfig
from datamodules.video import ShotConfig
from modules.assets import asset_path
from modules.editing.directions import Direction, EditSet, save_directions
from modules.perception.detection import DetectionConfig, load_face_finder
from services.engine import Engine
from services.jobs import Jobs
from services.latents import LatentStore
from services.model_names import DIRECTIONS
from services.pipeline.models import Judges, Models
from services.pipeline.options import PipelineConfig
from services.registry.connection import RegistryConfig
from services.registry.promote import ModelRegistry
from services.routes import MODEL_HEADER, State
from services.settings import Params, load_params
from services.turns import Turns

NUM_WS, W_DIM, SIDE = 4, 8, 16
LIMIT = 6_000_000


class ToyGenerator:
    """A linear map from codes to a 16 px picture, drawn larger."""

    z_dim = w_dim = W_DIM
    num_ws = NUM_WS
    resolution = 256
    layers = ()
    sha256 = "b" * 64
    w_mean = torch.zeros(W_DIM)
    basis = 0.05 * torch.randn(NUM_WS * W_DIM, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(0))

    def synthesize(self, ws: Tensor, resolution: int | None = None, **_: Any) -> Tensor:
        small = (ws.flatten(1) @ self.basis).view(-1, 3, SIDE, SIDE)
        return F.interpolate(small, resolution or self.resolution, mode="bilinear", align_corners=False)


class ToyIdentity:
    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(F.adaptive_avg_pool2d(images, 4).flatten(1), dim=1)


class ToyPerceptual:
    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return (F.adaptive_avg_pool2d(images, 8),)

    def __call__(self, images: Tensor, target: Any) -> Tensor:
        wanted = self.features(target) if isinstance(target, Tensor) else target
        return (self.features(images)[0] - wanted[0]).square().flatten(1).mean(1)


class ToyJudges(Judges):
    identity = ToyIdentity()
    perceptual = ToyPerceptual()

    def region(self, images: Tensor, head: bool) -> Tensor:
        return torch.ones(len(images), 1, *images.shape[2:])


def directions(strength: float = 1.0) -> EditSet:
    push = torch.zeros(NUM_WS, W_DIM)
    push[1, 2] = strength
    return EditSet([Direction("age", "years", push, -20.0, 30.0, ToyGenerator.sha256)])


def load_toys(params: Params) -> Models:
    detection = params.section("detection", DetectionConfig)
    judges = ToyJudges(detection, "alex", "cpu")
    judges.finder = load_face_finder(detection)
    config = replace(params.section("pipeline", PipelineConfig), measure_every=10)
    smoothing, shots = params.section("smoothing", SmoothingConfig), params.section("shots", ShotConfig)
    versions = {"stylereel-generator": ToyGenerator.sha256, DIRECTIONS: "c" * 64}
    return Models(ToyGenerator(), None, directions(), judges, config, smoothing, shots, "cpu", versions)


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
        from services import api

        @contextmanager
        def opened(_: Params) -> Iterator[State]:
            state.engine.start()
            yield state
            state.engine.stop()

        patch.setattr(api, "open_state", opened)
        service: Any = api.StyleReelService
        with TestClient(service.to_asgi(is_main=True)) as client:
            deadline = time.monotonic() + 240
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < deadline, client.get("/readyz").text
                time.sleep(0.05)
            yield client


@pytest.fixture(scope="module")
def face() -> bytes:
    with Image.open(asset_path("clips", "single_face.jpg")) as image:
        image.thumbnail((480, 480))
        target = io.BytesIO()
        # Without the profile of somebody's display: what comes back is sRGB.
        image.convert("RGB").save(target, "PNG", icc_profile=None)
    return target.getvalue()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of a real clip, small."""
    path = tmp_path_factory.mktemp("clip") / "short.mp4"
    with av.open(str(asset_path("clips", "single_face.mp4"))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index, frame in enumerate(source.decode(video=0)):
            if index == 8:
                break
            picture = frame.reformat(320, 240, "yuv420p")
            picture.pts = None
            for packet in stream.encode(picture):
                target.mux(packet)
        for packet in stream.encode():
            target.mux(packet)
    return path


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def picture(array: np.ndarray, kind: str = "PNG") -> bytes:
    target = io.BytesIO()
    Image.fromarray(array).save(target, kind)
    return target.getvalue()


def wait(client: TestClient, job: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 240
    while (found := client.get(f"/v1/jobs/{job}").json())["state"] not in states:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def refused(response: Any, status: int, *words: str) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    message: str = body["error"]
    assert "\n" not in message and "Traceback" not in message and "/tmp" not in message and "/work" not in message
    for word in words:
        assert word in message
    return message


def test_models_edits_and_health(client: TestClient) -> None:
    assert client.get("/livez").json() == {"alive": True}
    ready = client.get("/readyz").json()
    assert ready["ready"] and [m["source"] for m in ready["models"]] == ["shipped", "shipped"]
    assert any("has no champion" in note for note in ready["notes"])
    models = client.get("/v1/models")
    assert {m["generator_sha256"] for m in models.json()["models"]} == {ToyGenerator.sha256}
    assert models.headers[MODEL_HEADER] == f"stylereel-generator/{'b' * 12}, stylereel-directions/{'c' * 12}"
    edits = client.get("/v1/edits").json()["edits"]
    assert edits == [{"name": "age", "unit": "years", "lower": -20.0, "upper": 30.0}]


def test_metrics_count_by_route_and_not_by_path(client: TestClient) -> None:
    client.get(f"/v1/jobs/{'0' * 32}")
    client.get("/nothing/here")
    text = client.get("/metrics").text
    assert 'stylereel_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"}' in text
    assert 'stylereel_requests_total{method="GET",route="none",status="404"}' in text
    assert "0" * 32 not in text and "nothing" not in text
    assert 'stylereel_model_info{alias="",name="stylereel-generator"' in text


def test_openapi_and_bentos_page(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/invert", "/v1/edit", "/v1/jobs", "/v1/jobs/{job_id}/result", "/v1/edits", "/v1/models"} <= set(
        paths
    )
    flags = {
        (path, parameter["name"])
        for path, methods in paths.items()
        for parameter in methods.get("post", {}).get("parameters", [])
        if parameter["schema"].get("type") == "boolean"
    }
    assert flags == {
        ("/v1/invert", "codes"), ("/v1/edit", "balance"), ("/v1/jobs", "preview"), ("/v1/jobs", "balance")
    }  # fmt: skip
    assert "/v1/invert" in client.get("/docs.json").json()["paths"]
    assert client.get("/").status_code == 200


def test_invert_then_edit_by_id(client: TestClient, face: bytes) -> None:
    inverted = client.post("/v1/invert?codes=true", content=face)
    assert inverted.status_code == 200, inverted.text
    body = inverted.json()
    assert np.asarray(body["codes"]).shape == (NUM_WS, W_DIM)
    assert set(body["metrics"]) >= {"psnr", "lpips", "identity", "landmark_error"}
    assert body["generator_sha256"] == ToyGenerator.sha256 and inverted.headers[MODEL_HEADER]
    assert client.post("/v1/invert", files={"image": face}).json()["codes"] is None
    asked = {"latent": body["latent"], "edits": [{"name": "age", "strength": 20}]}
    by_id = client.post("/v1/edit", json=asked)
    at_once = client.post("/v1/edit?edit=age=%2B20", content=face)
    assert by_id.headers["content-type"] == "image/png" and by_id.headers[MODEL_HEADER]
    assert np.array_equal(pixels(by_id.content), pixels(at_once.content))
    assert not np.array_equal(pixels(by_id.content), pixels(face))
    form = {"edits": json.dumps(asked["edits"]), "latent": body["latent"]}
    as_form = client.post("/v1/edit", files={name: (None, value) for name, value in form.items()})
    assert np.array_equal(pixels(as_form.content), pixels(by_id.content))


def test_strength_zero_returns_the_input(client: TestClient, face: bytes) -> None:
    same = client.post("/v1/edit?edit=age=0", files={"image": ("a.png", face)})
    assert np.array_equal(pixels(same.content), pixels(face))


def test_accept_chooses_png_or_jpeg(client: TestClient, face: bytes) -> None:
    jpeg = client.post("/v1/edit?edit=age=5", content=face, headers={"Accept": "image/jpeg"})
    assert jpeg.headers["content-type"] == "image/jpeg" and jpeg.content[:3] == b"\xff\xd8\xff"
    refused(client.post("/v1/edit?edit=age=5", content=face, headers={"Accept": "text/html"}), 406)


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "video/mp4", "application/x-www-form-urlencoded", ""]
)
def test_bytes_decide_and_not_the_name_of_their_kind(client: TestClient, face: bytes, kind: str) -> None:
    assert client.post("/v1/edit?edit=age=1", content=face, headers={"Content-Type": kind}).status_code == 200
    wrong = client.post("/v1/edit?edit=age=1", content=b"just text", headers={"Content-Type": "image/png"})
    refused(wrong, 415)


def test_grey_alpha_and_odd_sizes_are_taken(client: TestClient, face: bytes) -> None:
    rgb = pixels(face)[:-1, :-1]
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    for array in (rgb.mean(2).astype(np.uint8), alpha):
        answer = client.post("/v1/edit?edit=age=10", content=picture(array))
        assert answer.status_code == 200 and pixels(answer.content).shape == rgb.shape


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("edit=beauty=1", ["no edit 'beauty'", "age"]),
        ("edit=age=31", ["-20 to +30 years"]),
        ("edit=age=20&edit=age=20", ["+40"]),
        ("edit=age=nan", ["finite"]),
        ("edit=age=inf", ["finite"]),
        ("edit=age", ["NAME=STRENGTH"]),
        ("", ["no edit was asked"]),
        ("edit=age=1&face=nose", ["face must be"]),
        ("edit=age=1&face=7", ["face 7"]),
        ("edit=age=1&refine=-1", ["refine"]),
        ("edit=age=1&refine=many", ["refine"]),
        ("edit=age=1&paste=glue", ["paste"]),
        ("edit=age=1&balance=maybe", ["balance", "true or false"]),
        ("&".join(["edit=age=0"] * 33), ["at most 32"]),
    ],
)
def test_edits_and_options_that_cannot_be_met(
    client: TestClient, face: bytes, query: str, words: list[str]
) -> None:
    refused(client.post(f"/v1/edit?{query}", content=face), 422, *words)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b'{"latent": "x"}', 422),
        (b'{"latent": "x", "edits": [{"name": "age", "strength": NaN}]}', 422),
        (b'{"latent": "x", "edits": [{"name": "age", "strength": 1}], "strenght": 2}', 422),
        (b'{"latent": "../../etc", "edits": [{"name": "age", "strength": 1}]}', 422),
        (b'{"latent": "00000000000000000000000000000000", "edits": [{"name": "age", "strength": 1}]}', 422),
        (b'{"latent": "\xff", "edits": []}', 400),
    ],
)
def test_json_that_cannot_be_used(client: TestClient, body: bytes, status: int) -> None:
    refused(client.post("/v1/edit", content=body, headers={"Content-Type": "application/json"}), status)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"GIF? no", 415),
        (b"\x89PNG\r\n\x1a\nrest is missing", 422),
        (b"\x00\x00\x00\x18ftypmp42", 415),
    ],
)
def test_images_that_cannot_be_used(client: TestClient, data: bytes, status: int) -> None:
    refused(client.post("/v1/invert", content=data), status)
    refused(client.post("/v1/invert", files={"image": ("face.png", data, "image/png")}), status)


def test_no_face_is_said(client: TestClient) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    refused(client.post("/v1/invert", content=picture(noise)), 422, "no face")


def test_too_many_pixels(client: TestClient) -> None:
    huge = picture(np.zeros((7000, 7000), np.uint8))
    refused(client.post("/v1/invert", content=huge), 413, "36000000")


def test_oversized_bodies_chunked_ones_too(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(LIMIT // 1_000_000 + 2):
            yield bytes(1_000_000)

    for path in ("/v1/invert", "/v1/edit?edit=age=1", "/v1/jobs?edit=age=1"):
        refused(client.post(path, content=bytes(LIMIT + 1)), 413)
        refused(client.post(path, content=chunks()), 413)


def test_forms_that_cannot_be_read(client: TestClient, face: bytes) -> None:
    refused(client.post("/v1/edit", files={"picture": face}, data={"edit": "age=1"}), 422, "picture")
    refused(client.post("/v1/edit", files={"image": face}, data={"edti": "age=1"}), 422, "edti")
    refused(client.post("/v1/invert", content=face, headers={"Content-Type": "multipart/form-data"}), 400)
    torn = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(client.post("/v1/invert", content=b"--x\r\nnonsense", headers=torn), 400)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/edit?edit=age=20&faec=1", ["'faec'", "there are face, refine, paste, region, seed, balance, edit"]),
        ("/v1/edit?edit=age=20&codes=true", ["'codes'"]),
        ("/v1/edit?edit=age=20&start=1", ["'start'"]),
        ("/v1/jobs?edit=age=20&begin=1", ["'begin'", "start, end, preview, task, edit"]),
        ("/v1/invert?edit=age=20", ["'edit'", "there are face, refine, codes"]),
        ("/v1/invert?codes=perhaps", ["codes='perhaps'"]),
    ],
)
def test_query_options_that_are_not_known_are_refused(
    client: TestClient, face: bytes, path: str, words: list[str]
) -> None:
    refused(client.post(path, content=face), 422, *words)


def test_an_inversion_takes_codes_but_no_edits_in_its_form(client: TestClient, face: bytes) -> None:
    for name, value in (("edit", "age=1"), ("edits", "[]"), ("latent", "x")):
        refused(client.post("/v1/invert", files={"image": face}, data={name: value}), 422, repr(name))
    asked = client.post("/v1/invert", files={"image": face}, data={"codes": "true"})
    assert np.asarray(asked.json()["codes"]).shape == (NUM_WS, W_DIM)


def test_what_a_latent_leaves_no_place_for_is_refused(client: TestClient, face: bytes) -> None:
    latent = client.post("/v1/invert", content=face).json()["latent"]
    asked = {"latent": latent, "edits": [{"name": "age", "strength": 1}]}
    words = "face and refine are chosen at POST /v1/invert"
    refused(client.post("/v1/edit?refine=5", json=asked), 422, words)
    form = {"latent": latent, "edit": "age=1"}
    refused(client.post("/v1/edit", files={"face": (None, "0")}, data=form), 422, words)
    refused(client.post("/v1/edit", files={"image": face}, data=form), 422, "send one of them")
    assert client.post("/v1/edit?region=head", json=asked).status_code == 200
    assert client.post("/v1/edit", files={"image": ("none.png", b"")}, data=form).status_code == 200


def test_unknown_paths_and_methods_are_json_too(client: TestClient) -> None:
    refused(client.get("/v2/invert"), 404)
    refused(client.get("/v1/invert"), 405)
    assert "POST" in client.get("/v1/invert").headers["allow"]


def test_codes_of_another_generator_are_refused(client: TestClient, state: State, face: bytes) -> None:
    latent = client.post("/v1/invert", content=face).json()["latent"]
    stored = state.latents.folder / latent / "latent.safetensors"
    about = json.dumps({"generator_sha256": "f" * 64, "size": 256, "metrics": {}, "warnings": []})
    save_file(load_file(stored), stored, {"about": about})
    asked = {"latent": latent, "edits": [{"name": "age", "strength": 1}]}
    refused(client.post("/v1/edit", json=asked), 422, "f" * 64, ToyGenerator.sha256)


def test_latents_are_gone_after_their_time(client: TestClient, state: State, face: bytes) -> None:
    latent = client.post("/v1/invert", content=face).json()["latent"]
    os.utime(state.latents.folder / latent, (0, 0))
    asked = {"latent": latent, "edits": [{"name": "age", "strength": 1}]}
    refused(client.post("/v1/edit", json=asked), 422, "invert the image again")
    assert state.latents.sweep() == 1 and not (state.latents.folder / latent).exists()


def test_a_busy_device_is_said_after_the_time_to_wait(client: TestClient, state: State, face: bytes) -> None:
    before = state.runtime
    state.runtime = replace(before, request_seconds=0.05)
    try:
        with state.turns.turn():
            answer = client.post("/v1/invert", content=face)
    finally:
        state.runtime = before
    refused(answer, 503, "busy")
    assert answer.headers["retry-after"]


def test_a_computation_that_takes_too_long_is_stopped(client: TestClient, state: State, face: bytes) -> None:
    before = state.runtime
    state.runtime = replace(before, request_seconds=0.5)
    try:
        refused(client.post("/v1/invert?refine=10000", content=face), 503, "longer than the server allows")
    finally:
        state.runtime = before
    assert client.post("/v1/invert?refine=2", content=face).status_code == 200


def test_a_video_job(client: TestClient, clip: Path) -> None:
    files, edits = {"video": clip.read_bytes()}, [{"name": "age", "strength": 20}]
    answer = client.post("/v1/jobs", files=files, data={"edits": json.dumps(edits), "preview": "false"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" and answer.headers[MODEL_HEADER]
    assert set(job) == {"id", "state", "stage", "progress", "error", "result"}
    done = wait(client, job["id"], "succeeded", "failed")
    assert done["state"] == "succeeded", done
    report = done["result"]["report"]
    assert report["frames"] == 8 and report["edits"] == edits
    assert report["models"]["stylereel-generator"] == ToyGenerator.sha256[:12]
    video = client.get(done["result"]["video"])
    assert video.headers["content-type"] == "video/mp4" and "stylereel-generator" in video.headers[MODEL_HEADER]
    with av.open(io.BytesIO(video.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    refused(client.get(f"/v1/jobs/{job['id']}"), 404)
    refused(client.get(f"/v1/jobs/{job['id']}/result"), 404)


def test_a_job_can_be_cancelled_and_has_no_result(client: TestClient, state: State, clip: Path) -> None:
    with state.turns.turn():
        job = client.post("/v1/jobs?edit=age=5", content=clip.read_bytes()).json()["id"]
        refused(client.get(f"/v1/jobs/{job}/result"), 409)
        assert client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    refused(client.get(f"/v1/jobs/{job}/result"), 409, "cancelled")
    refused(client.post(f"/v1/jobs/{'0' * 32}/cancel"), 404)


def test_sound_that_mp4_cannot_hold_is_said_at_once(client: TestClient, state: State, tmp_path: Path) -> None:
    clip = tmp_path / "a.avi"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("adpcm_ms", rate=48000, layout="mono")
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        quiet = np.zeros((1, sound.codec_context.frame_size), np.int16)
        frame = av.AudioFrame.from_ndarray(quiet, format=sound.codec_context.format.name, layout="mono")
        frame.sample_rate = 48000
        container.mux(sound.encode(frame))
        container.mux(stream.encode())
        container.mux(sound.encode())
    before = sorted(path.name for path in state.jobs.folder.iterdir())
    answer = client.post("/v1/jobs?edit=age=5", content=clip.read_bytes())
    refused(answer, 422, "jobs write MP4, which cannot hold the clip's sound (adpcm_ms)")
    assert sorted(path.name for path in state.jobs.folder.iterdir()) == before


def test_a_clip_without_a_face_fails_with_the_reason(client: TestClient) -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    job = client.post("/v1/jobs?edit=age=5", content=target.getvalue()).json()["id"]
    failed = wait(client, job, "failed", "succeeded")
    assert failed["state"] == "failed" and "no face" in failed["error"]
    refused(client.get(f"/v1/jobs/{job}/result"), 409, "no face")


@pytest.mark.parametrize(
    ("query", "content", "status"),
    [
        ("edit=age=5", b"", 400),
        ("edit=age=5", b"text that says it is an mp4", 415),
        ("edit=age=5", None, 413),  # six seconds where four are taken
        ("edit=age=50", b"x", 422),
        ("", b"x", 422),
        ("edit=age=5&start=2&end=1", b"x", 422),
        ("edit=age=5&start=nan", b"x", 422),
        ("edit=age=5&preview=perhaps", b"x", 422),
    ],
)
def test_videos_that_cannot_be_used(
    client: TestClient, state: State, clip: Path, query: str, content: bytes | None, status: int
) -> None:
    if content is None:
        long = io.BytesIO()
        with av.open(long, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=1)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for _ in range(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
            container.mux(stream.encode())
        content = long.getvalue()
    before = sorted(path.name for path in state.jobs.folder.iterdir())
    refused(client.post(f"/v1/jobs?{query}", content=content, headers={"Content-Type": "video/mp4"}), status)
    refused(client.post(f"/v1/jobs?{query}", files={"video": ("a.mp4", content)}), status)
    assert sorted(path.name for path in state.jobs.folder.iterdir()) == before


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
        deadline = time.monotonic() + 120
        while not any("cannot be reached" in note for note in client.get("/readyz").json()["notes"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/edit?edit=age=20", content=face).content in images
        again = Engine(params, Turns(), load_toys)
        again.start()
        good = "the last good model, version 2, serves from the local cache"
        deadline = time.monotonic() + 120
        while not any(good in note for note in again.notes()):
            assert time.monotonic() < deadline, again.notes()
            time.sleep(0.05)
        assert [m.source for m in again.session().served if m.name == DIRECTIONS] == ["cache"]
        again.stop()
    finally:
        away.rename(database)


def test_the_api_keeps_to_its_own_openapi(client: TestClient) -> None:
    from services import api

    async def running(scope: Any, receive: Any, send: Any) -> None:
        """The app that ``client`` has started; it is not started again for each request."""
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        else:
            await api.http(scope, receive, send)

    schema = schemathesis.openapi.from_asgi("/openapi.json", running)
    calm = settings(max_examples=5, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    tried = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @calm
        def fuzz(case: schemathesis.Case) -> None:
            tried.add(case.path)
            case.call_and_validate(checks=checks)

        fuzz()
    assert {"/v1/invert", "/v1/edit", "/v1/jobs", "/v1/jobs/{job_id}", "/readyz"} <= tried


def test_a_full_disk_is_said_with_507_and_when_to_come_back(
    client: TestClient, state: State, face: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(state.latents, "put", full)
        answer = client.post("/v1/invert", content=face)
    assert answer.status_code == 507 and answer.headers["Retry-After"] == "60"
    assert answer.json() == {"error": "the server's disk is full; try again later"}
    assert client.post("/v1/invert", content=face).status_code == 200
