"""Codes that the server keeps: used again, of another generator, forgotten, expired."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
from api_toys import NUM_WS, W_DIM, ToyGenerator, picture, pixels, refused
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from services.serving.handling import MODEL_HEADER, WARNING_HEADER, State


def test_invert_then_edit_by_id(client: TestClient, face: bytes) -> None:
    inverted = client.post("/v1/invert?codes=true", content=face)
    assert inverted.status_code == 200, inverted.text
    body = inverted.json()
    assert np.asarray(body["codes"]).shape == (NUM_WS, W_DIM)
    assert set(body["metrics"]) >= {"psnr", "lpips", "identity", "identity_distance", "landmark_error"}
    assert body["generator_sha256"] == ToyGenerator.sha256 and inverted.headers[MODEL_HEADER]
    assert client.post("/v1/invert", files={"image": face}).json()["codes"] is None
    asked = {"latent": body["latent"], "edits": [{"name": "age", "strength": 20}]}
    by_id = client.post("/v1/edit", json=asked)
    at_once = client.post("/v1/edit?edit=age=%2B20", content=face)
    assert by_id.headers["content-type"] == "image/png" and by_id.headers[MODEL_HEADER]
    assert by_id.headers[WARNING_HEADER] == at_once.headers[WARNING_HEADER] == "; ".join(body["warnings"])
    assert "refine=" in by_id.headers[WARNING_HEADER]
    assert np.array_equal(pixels(by_id.content), pixels(at_once.content))
    assert not np.array_equal(pixels(by_id.content), pixels(face))
    form = {"edits": json.dumps(asked["edits"]), "latent": body["latent"]}
    as_form = client.post("/v1/edit", files={name: (None, value) for name, value in form.items()})
    assert np.array_equal(pixels(as_form.content), pixels(by_id.content))


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


def test_codes_of_another_generator_are_refused(client: TestClient, state: State, face: bytes) -> None:
    latent = client.post("/v1/invert", content=face).json()["latent"]
    stored = state.latents.folder / latent / "latent.safetensors"
    about = json.dumps({"generator_sha256": "f" * 64, "size": 256, "metrics": {}, "warnings": []})
    save_file(load_file(stored), stored, {"about": about})
    asked = {"latent": latent, "edits": [{"name": "age", "strength": 1}]}
    refused(client.post("/v1/edit", json=asked), 422, "f" * 64, ToyGenerator.sha256)


def test_a_latent_is_forgotten_with_the_image_it_was_made_of(client: TestClient, face: bytes) -> None:
    other = picture(pixels(face)[:-1])
    gone, kept = (client.post("/v1/invert", content=content).json()["latent"] for content in (face, other))
    done = client.delete(f"/v1/subjects/anna?clip={hashlib.sha256(face).hexdigest()}").json()
    assert done["latents"] >= 1 and done["jobs"] == 0
    edits = [{"name": "age", "strength": 5}]
    refused(
        client.post("/v1/edit", json={"latent": gone, "edits": edits}), 422, "no latent", "invert the image again"
    )
    assert client.post("/v1/edit", json={"latent": kept, "edits": edits}).status_code == 200


def test_latents_are_gone_after_their_time(client: TestClient, state: State, face: bytes) -> None:
    latent = client.post("/v1/invert", content=face).json()["latent"]
    os.utime(state.latents.folder / latent, (0, 0))
    asked = {"latent": latent, "edits": [{"name": "age", "strength": 1}]}
    refused(client.post("/v1/edit", json=asked), 422, "invert the image again")
    assert state.latents.sweep() == 1 and not (state.latents.folder / latent).exists()
