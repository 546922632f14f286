"""``stylereel serve`` as a user has it: a process of its own, with the shipped models, asked over a socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.images import read_image
from datamodules.video import read_frames
from modules.assets import asset_path
from services.serving.serve import free_port
from services.settings import ROOT

STARTS = """
import subprocess, sys
server = subprocess.Popen([sys.executable, "-m", "services.shell.cli", "serve", "--port", sys.argv[1]],
                          start_new_session=True, stdout=subprocess.DEVNULL, stderr=open(sys.argv[2], "w"))
print(server.pid)
"""
PATIENCE = 240


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server whose starter has ended before it serves."""
    folder = tmp_path_factory.mktemp("served")
    port = free_port("127.0.0.1", 0)
    environment = os.environ | {"STYLEREEL_STATE": str(folder / "state"), "STYLEREEL_DEVICE": "cpu"}
    command = [sys.executable, "-c", STARTS, str(port), str(folder / "log")]
    started = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    pid = int(started.stdout)
    try:
        wait(lambda: answers(f"http://127.0.0.1:{port}"), folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.kill(pid, signal.SIGKILL)
    # The worker does not outlive its supervisor, and lets go of the port.
    wait(lambda: not answers(f"http://127.0.0.1:{port}"), folder / "log")


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait(done: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


def asked(address: str, body: bytes, kind: str = "image/png") -> tuple[bytes, Message]:
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read(), answer.headers


@pytest.fixture(scope="module")
def face() -> bytes:
    frame = next(read_frames(asset_path("clips", "single_face.mp4"), 1)).frames[0]
    return cv2.imencode(".png", frame[..., ::-1])[1].tobytes()


def test_a_real_face_is_inverted_and_edited(address: str, face: bytes) -> None:
    inverted, headers = asked(f"{address}/v1/invert", face)
    told = json.loads(inverted)
    assert told["metrics"]["identity"] > 0.4 and "stylereel-frame-encoder" in headers["X-Stylereel-Model"]
    wanted = {"latent": told["latent"], "edits": [{"name": "age", "strength": 20}]}
    edited, _ = asked(f"{address}/v1/edit", json.dumps(wanted).encode(), "application/json")
    after = read_image(edited, 10**8)
    before = read_image(face, 10**8)
    assert after.shape == before.shape and np.abs(after.astype(int) - before).max() > 30
