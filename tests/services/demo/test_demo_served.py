import os
import textwrap
from pathlib import Path

import numpy as np
import pytest

from modules.editing.directions import EditRequest
from services.demo import served
from services.demo.compare import difference
from services.demo.served import ServerFailedError, edited_image, edited_video, serving

AGE = EditRequest("age", 20)
FAKE = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

asked = {"ready": 0, "job": 0}

class Answers(BaseHTTPRequestHandler):
    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_GET(self):
        if self.path == "/readyz":
            asked["ready"] += 1
            models = [{"name": "toy", "pid": os.getpid(), "state": os.environ["STYLEREEL_STATE"]}]
            self.answer(503 if asked["ready"] < 2 else 200, json.dumps({"models": models}).encode())
        elif self.path == "/v1/jobs/7":
            asked["job"] += 1
            state = "running" if asked["job"] < 2 else OUTCOME
            self.answer(200, json.dumps({"id": "7", "state": state, "error": "why"}).encode())
        else:
            self.answer(200, b"clip")

    def do_POST(self):
        body = self.body()
        if self.path.startswith("/v1/edit"):
            edit = parse_qs(urlsplit(self.path).query)["edit"][0]
            if body == b"no face":
                self.answer(422, b'{"error": "no face is found"}')
            else:
                self.answer(200, body + edit.encode(), X_Stylereel_Model="toy/1")
        else:
            assert b"age=20" in body and b"0.5s" in body and b"source" in body
            self.answer(202, json.dumps({"id": "7", "state": "queued"}).encode())

    def do_DELETE(self):
        self.answer(204, b"")

    def log_message(self, *arguments):
        print(*arguments)

print("fake", sys.argv, flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answers).serve_forever()
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program in the place of the server."""
    package = tmp_path / "services" / "shell"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    monkeypatch.setattr(served, "ROOT", tmp_path)

    def put(program: str) -> Path:
        (package / "cli.py").write_text(textwrap.dedent(program))
        return tmp_path / "serve.log"

    return put


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "STYLEREEL_STATE": str(tmp_path)}


def test_the_server_is_asked_and_stopped(checkout, tmp_path: Path) -> None:
    log = checkout(f"OUTCOME = 'succeeded'\n{FAKE}")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"source")
    with serving(environment(tmp_path), ["pipeline.encoder=video"], log, 60) as server:
        assert server.models[0]["state"] == str(tmp_path) and server.ready_seconds > 0
        assert edited_image(server, b"png", AGE) == (b"pngage=20", "toy/1")
        assert edited_video(server, clip, AGE, 0.5, 0, 30) == b"clip"
        with pytest.raises(ServerFailedError, match=r"/v1/edit answered 422.*no face"):
            edited_image(server, b"no face", AGE)
        pid = server.models[0]["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    words = " ".join(log.read_text().replace("'", "").replace(",", "").split())
    assert "--host 127.0.0.1" in words and "--set pipeline.encoder=video" in words


def test_a_job_that_fails_is_told(checkout, tmp_path: Path) -> None:
    log = checkout(f"OUTCOME = 'failed'\n{FAKE}")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"source")
    with (
        serving(environment(tmp_path), ["pipeline.encoder=video"], log, 60) as server,
        pytest.raises(ServerFailedError, match="the job is failed: why"),
    ):
        edited_video(server, clip, AGE, 0.5, 0, 30)


def test_a_server_that_ends_or_never_answers_is_told(checkout, tmp_path: Path) -> None:
    log = checkout("import sys; sys.exit(3)")
    with pytest.raises(ServerFailedError, match=r"exit code 3.*serve\.log"), serving(os.environ, [], log, 60):
        raise AssertionError
    log = checkout("import time; time.sleep(600)")
    with pytest.raises(ServerFailedError, match="not ready in time"), serving(os.environ, [], log, 1):
        raise AssertionError


def test_difference_of_frames() -> None:
    one = np.zeros((2, 4, 4, 3), np.uint8)
    other = one.copy()
    other[0, 0, 0, 0] = 255
    assert difference(one, one) == {"mean": 0.0, "largest": 0}
    assert difference(one, other) == {"mean": 255 / other.size, "largest": 255} == difference(other, one)
    assert difference(one, one[:1])["mean"] == float("inf")
