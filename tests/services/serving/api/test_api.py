"""The routes of images, and what all routes have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import schemathesis
import torch
from api_toys import LIMIT, NUM_WS, W_DIM, ToyGenerator, picture, pixels, refused
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.responses import Response
from starlette.testclient import TestClient

from modules.editing.directions import EditRequest
from services.pipeline import edit
from services.serving import routes
from services.serving.handling import MODEL_HEADER, State
from services.serving.openapi import STRENGTHS_HEADER
from services.serving.turns import MAX_WAITING
from services.settings import ROOT, Params, load_params


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


def test_openapi_and_the_page(client: TestClient) -> None:
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
        ("/v1/invert", "codes"), ("/v1/edit", "balance"), ("/v1/jobs", "preview"), ("/v1/jobs", "balance"),
        ("/v1/jobs", "adapt"), ("/v1/jobs", "keep_lips"), ("/v1/jobs", "stitch"),
    }  # fmt: skip
    assert "/v1/invert" in client.get("/docs.json").json()["paths"]
    page = client.get("/")
    assert page.status_code == 200 and "'openapi.json'" in page.text
    assert "http://" not in page.text and "https://" not in page.text, "nothing is loaded from elsewhere"
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(files) == 3 and {client.get(f"/{file}").status_code for file in files} == {200}


def test_an_edit_says_how_strong_it_was(client: TestClient, face: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly = client.post("/v1/edit?edit=age=20&edit=age=-4.5", content=face)
    assert plainly.headers[STRENGTHS_HEADER] == "age=15.5"
    monkeypatch.setattr(edit, "balanced", lambda ws, requests, *_: (*requests, EditRequest("age", -0.25)))
    balanced = client.post("/v1/edit?edit=age=20", content=face)
    assert balanced.headers[STRENGTHS_HEADER] == "age=19.75"
    monkeypatch.undo()
    again = client.post(f"/v1/edit?edit={balanced.headers[STRENGTHS_HEADER]}&balance=false", content=face)
    assert np.array_equal(pixels(again.content), pixels(balanced.content))
    assert not np.array_equal(pixels(again.content), pixels(plainly.content))
    said = client.get("/openapi.json").json()["paths"]["/v1/edit"]["post"]["responses"]["200"]["headers"]
    assert list(said) == [STRENGTHS_HEADER]


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


def test_what_openapi_and_the_manual_know_of_statuses(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    answers = [operation["responses"] for methods in paths.values() for operation in methods.values()]
    assert all({"400", "413", "422", "503", "504", "507"} <= set(known) for known in answers)
    (codes,) = [p for p in (ROOT / "docs/http.md").read_text().split("\n\n") if p.startswith("**Status codes**")]
    declared = {status for known in answers for status in known if status not in ("200", "202", "204")}
    assert not [status for status in sorted(declared) if not re.search(rf"\b{status}\b", codes)]


def test_an_upload_has_the_time_that_the_largest_one_takes(client: TestClient, params: Params) -> None:
    from services.serving import api

    service: Any = api.StyleReelService
    runtime = load_params(environment={}).runtime
    assert service.config["traffic"]["timeout"] == api.seconds_allowed(params.runtime)
    computing = 2 * runtime.request_seconds
    assert api.seconds_allowed(runtime) >= runtime.max_bytes / runtime.slowest_upload + computing > 2000


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
        (
            "/v1/jobs?edit=age=20&begin=1",
            ["'begin'", "start, end, preview, adapt, keep_lips, stitch, subject, task, factor, edit"],
        ),
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


def test_an_edit_that_names_none_says_where_they_are(client: TestClient, face: bytes) -> None:
    refused(client.post("/v1/edit", content=face), 422, "(GET /v1/edits lists them)")


def test_pages_of_others_reach_no_route(client: TestClient, face: bytes) -> None:
    refused(client.get("/v1/models", headers={"Host": "evil.example"}), 421, "'evil.example' is not served here")
    refused(client.post("/v1/invert", content=face, headers={"Origin": "http://evil.example"}), 403)
    assert 'route="none",status="421"} 1.0' in client.get("/metrics").text


def test_unknown_paths_and_methods_are_json_too(client: TestClient) -> None:
    refused(client.get("/v2/invert"), 404)
    refused(client.get("/v1/invert"), 405)
    assert "POST" in client.get("/v1/invert").headers["allow"]


@pytest.mark.parametrize("route", ["/v1/invert", "/v1/edit?edit=age%3D20"])
def test_who_comes_when_all_places_are_taken_is_refused_before_the_body_is_looked_at(
    client: TestClient, state: State, route: str
) -> None:
    with ExitStack() as inside:
        for _ in range(MAX_WAITING + 1):
            inside.enter_context(state.turns.admitted())
        answer = client.post(route, content=b"no image")
        refused(answer, 503, "are waiting already")
        assert "retry-after" in answer.headers
    assert client.post(route, content=b"no image").status_code == 415


def test_who_reads_an_answer_slowly_takes_nobodys_place(
    client: TestClient, state: State, face: bytes, monkeypatch
) -> None:
    held: list[int] = []
    send = Response.__call__

    async def sent(self: Response, *all: Any) -> None:
        held.append(state.turns._admitted)
        await send(self, *all)

    monkeypatch.setattr(Response, "__call__", sent)
    for route in ("/v1/invert", "/v1/edit?edit=age%3D20"):
        assert client.post(route, content=face).status_code == 200
    assert held and set(held) == {0}


def test_pictures_are_decoded_in_their_turn(client: TestClient, state: State, face: bytes, monkeypatch) -> None:
    held: list[bool] = []
    read = routes.read_image

    def looked(*all: Any) -> Any:
        held.append(state.turns._busy)
        return read(*all)

    monkeypatch.setattr(routes, "read_image", looked)
    assert client.post("/v1/invert", content=face).status_code == 200
    assert client.post("/v1/edit?edit=age%3D20", content=face).status_code == 200
    assert held == [True, True]


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


def test_the_api_keeps_to_its_own_openapi(client: TestClient) -> None:
    from services.serving import api

    async def running(scope: Any, receive: Any, send: Any) -> None:
        """The app that ``client`` has started; it is not started again for each request."""
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        else:
            await api.http(scope, receive, send)

    ours = {"Host": "localhost"}  # else all that is asked is refused in the same way
    schema = schemathesis.openapi.from_asgi("/openapi.json", running, headers=ours)
    calm = settings(max_examples=5, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    tried, answered = set(), set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @calm
        def fuzz(case: schemathesis.Case) -> None:
            tried.add(case.path)
            answered.add(case.call_and_validate(checks=checks, headers=ours).status_code)

        fuzz()
    assert {"/v1/invert", "/v1/edit", "/v1/jobs", "/v1/jobs/{job_id}", "/readyz"} <= tried
    assert {200, 404, 422} <= answered and 421 not in answered


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


def test_memory_that_runs_out_is_said_with_507(client: TestClient, state: State, face: bytes, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        torch.empty(10**16)

    with monkeypatch.context() as patched:
        patched.setattr(state.latents, "put", full)
        answer = client.post("/v1/invert", content=face)
    assert answer.status_code == 507 and "memory does not hold" in answer.json()["error"]
    with monkeypatch.context() as patched:
        patched.setattr(state.latents, "put", lambda *_, **__: torch.ones(2) @ torch.ones(3))
        assert client.post("/v1/invert", content=face).status_code == 500
    assert client.post("/v1/invert", content=face).status_code == 200
