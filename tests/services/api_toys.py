"""Toys behind the HTTP routes, and what the tests of the routes ask and check in common."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from pipeline_toys import NUM_WS, W_DIM, ToyJudges
from pipeline_toys import ToyGenerator as PipelineGenerator
from starlette.testclient import TestClient

from datamodules.alignment import SmoothingConfig
from datamodules.landmark_flow import LandmarkFlowConfig
from datamodules.video import ShotConfig
from modules.assets import asset_path
from modules.editing.directions import Direction, EditSet
from modules.perception.detection import DetectionConfig, load_face_finder
from services.model_names import DIRECTIONS
from services.pipeline.models import Models
from services.pipeline.options import PipelineConfig
from services.settings import Params

LIMIT = 6_000_000
"""Bytes of a body."""


class ToyGenerator(PipelineGenerator):
    """With a hash as real ones have."""

    sha256 = "b" * 64


def directions(strength: float = 1.0) -> EditSet:
    """One edit, age."""
    push = torch.zeros(NUM_WS, W_DIM)
    push[1, 2] = strength
    return EditSet([Direction("age", "years", push, -20.0, 30.0, ToyGenerator.sha256)])


def load_toys(params: Params) -> Models:
    """What an ``Engine`` loads: real faces are found in real files, the generator is a toy."""
    detection = params.section("detection", DetectionConfig)
    judges = ToyJudges(detection, "alex", "cpu")
    judges.finder = load_face_finder(detection)
    config = replace(params.section("pipeline", PipelineConfig), measure_every=10)
    smoothing, shots = params.section("smoothing", SmoothingConfig), params.section("shots", ShotConfig)
    carried = params.section("landmark_flow", LandmarkFlowConfig)
    versions = {"stylereel-generator": ToyGenerator.sha256, DIRECTIONS: "c" * 64}
    return Models(ToyGenerator(), None, directions(), judges, config, smoothing, carried, shots, "cpu", versions)


def short_clip(width: int, height: int, frames: int) -> bytes:
    """The first frames of a real clip, small, ten a second."""
    target = io.BytesIO()
    with (
        av.open(str(asset_path("clips", "single_face.mp4"))) as source,
        av.open(target, "w", format="mp4") as made,
    ):
        stream = made.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, frame in zip(range(frames), source.decode(video=0), strict=False):
            picture = frame.reformat(width, height, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 10)
            made.mux(stream.encode(picture))
        made.mux(stream.encode())
    return target.getvalue()


def black_clip(width: int, height: int, frames: int, rate: int = 10) -> bytes:
    """A clip without a face."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as made:
        stream = made.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8))))
        made.mux(stream.encode())
    return target.getvalue()


def pixels(data: bytes) -> np.ndarray:
    """What an image file shows."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def picture(array: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file."""
    target = io.BytesIO()
    Image.fromarray(array).save(target, kind)
    return target.getvalue()


def ready(client: TestClient, seconds: float = 240.0) -> None:
    """Wait until the server answers."""
    until(lambda: client.get("/readyz").status_code == 200, lambda: client.get("/readyz").text, seconds)


def until(reached: Callable[[], bool], why_not: Callable[[], object] = lambda: "", seconds: float = 120.0) -> None:
    """Wait for something that the server does by itself."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, why_not()
        time.sleep(0.05)


def wait(client: TestClient, job: str, *states: str) -> dict[str, Any]:
    """A job when it has reached one of the states."""
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
