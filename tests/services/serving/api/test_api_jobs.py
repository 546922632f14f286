"""Video jobs over HTTP, to their result, their end or their refusal."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
from api_toys import ToyGenerator, black_clip, refused, until, wait
from starlette.testclient import TestClient

from services.serving.routes import MODEL_HEADER, State


def test_a_video_job(client: TestClient, state: State, clip: bytes) -> None:
    files, edits = {"video": ("name.mp4", clip)}, [{"name": "age", "strength": 20}]
    answer = client.post("/v1/jobs", files=files, data={"edits": json.dumps(edits), "preview": "false"})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" and answer.headers[MODEL_HEADER]
    assert set(job) == {"id", "state", "stage", "progress", "error", "status", "result"}
    done = wait(client, job["id"], "succeeded", "failed")
    assert done["state"] == "succeeded", done
    report = done["result"]["report"]
    assert report["frames"] == 8 and report["edits"] == edits
    assert report["models"]["stylereel-generator"] == ToyGenerator.sha256[:12]
    assert report["input"] == {"sha256": hashlib.sha256(clip).hexdigest(), "bytes": len(clip)}
    models = state.engine.session().models
    assert report["hashes"] == models.versions and report["hashes"]["stylereel-generator"] == ToyGenerator.sha256
    assert report["params"] == json.loads(json.dumps(models.numbers())) and report["params"]["pipeline"]
    assert "name.mp4" not in json.dumps(report), "what a client calls its file is nobody's business"
    video = client.get(done["result"]["video"])
    assert video.headers["content-type"] == "video/mp4" and "stylereel-generator" in video.headers[MODEL_HEADER]
    with av.open(io.BytesIO(video.content)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    refused(client.get(f"/v1/jobs/{job['id']}"), 404)
    refused(client.get(f"/v1/jobs/{job['id']}/result"), 404)


def test_ranges_of_a_clip_are_answered_as_openapi_says(client: TestClient, clip: bytes) -> None:
    job = client.post("/v1/jobs?edit=age=5&preview=true", content=clip).json()["id"]
    assert wait(client, job, "succeeded", "failed")["state"] == "succeeded"
    path = "/v1/jobs/{job_id}/result"
    operation = client.get("/openapi.json").json()["paths"][path]["get"]
    assert "Range" in {parameter["name"] for parameter in operation["parameters"]}
    whole = client.get(path.format(job_id=job)).content
    for asked, status in [
        ("bytes=0-9", 206), ("bytes=0-1,5-6", 206), ("", 200), ("bytes=999999999-", 416), ("bytes=nonsense", 400),
    ]:  # fmt: skip
        answer = client.get(path.format(job_id=job), headers={"Range": asked} if asked else {})
        assert answer.status_code == status
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in operation["responses"][str(status)]["content"], "OpenAPI does not know of it"
        if status >= 400:
            refused(answer, status, "bytes=FIRST-LAST")
        elif kind == "video/mp4":
            assert answer.content == (whole[:10] if status == 206 else whole)
    assert client.get(path.format(job_id=job), headers={"Range": "bytes=999999999-"}).headers["content-range"]


def test_a_job_can_be_cancelled_and_has_no_result(client: TestClient, state: State, clip: bytes) -> None:
    with state.turns.turn():
        job = client.post("/v1/jobs?edit=age=5", content=clip).json()["id"]
        refused(client.get(f"/v1/jobs/{job}/result"), 409)
        assert client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    refused(client.get(f"/v1/jobs/{job}/result"), 409, "cancelled")
    refused(client.post(f"/v1/jobs/{'0' * 32}/cancel"), 404)


def test_no_more_jobs_than_there_is_room_for(
    client: TestClient, state: State, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path.name for path in state.jobs.folder.iterdir())
    with state.turns.turn(), monkeypatch.context() as patched:
        job = client.post("/v1/jobs?edit=age=5", content=clip).json()["id"]
        patched.setattr(state.jobs, "_max_jobs", 1)
        full = client.post("/v1/jobs?edit=age=5", content=clip)
        refused(full, 503, "1 jobs are queued or running", "try again later")
        assert full.headers["retry-after"] == "60"
        assert client.delete(f"/v1/jobs/{job}").status_code == 204
        again = client.post("/v1/jobs?edit=age=5", content=clip)
        assert again.status_code == 202
        client.delete(f"/v1/jobs/{again.json()['id']}")
    assert sorted(path.name for path in state.jobs.folder.iterdir()) == before


def test_jobs_are_in_the_metrics(client: TestClient, state: State, clip: bytes) -> None:
    def shown(line: str) -> float:
        found = re.search(rf"^{re.escape(line)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    failed = 'stylereel_jobs_ended_total{kind="edit",outcome="failed"}'
    before = shown(failed)
    with state.turns.turn():
        one, two = (client.post("/v1/jobs?edit=age=5", content=black_clip(64, 64, 3)).json()["id"] for _ in "12")
        until(lambda: shown('stylereel_jobs{state="running"}') == 1)
        assert shown('stylereel_jobs{state="queued"}') == 1
    for job in (one, two):
        wait(client, job, "failed", "succeeded")
    until(lambda: shown(failed) == before + 2)
    assert shown('stylereel_jobs{state="running"}') == shown('stylereel_jobs{state="queued"}') == 0
    assert shown('stylereel_job_seconds_bucket{kind="edit",le="14400.0",outcome="failed"}') >= 2


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
    job = client.post("/v1/jobs?edit=age=5", content=black_clip(64, 64, 3)).json()["id"]
    failed = wait(client, job, "failed", "succeeded")
    assert failed["state"] == "failed" and "no face" in failed["error"] and failed["status"] == 422
    schema = client.get("/openapi.json").json()["components"]["schemas"]["JobOut"]["properties"]["status"]
    assert schema["anyOf"] == [{"type": "integer"}, {"type": "null"}]
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
    client: TestClient, state: State, clip: bytes, query: str, content: bytes | None, status: int
) -> None:
    if content is None:
        content = black_clip(64, 64, 6, rate=1)
    before = sorted(path.name for path in state.jobs.folder.iterdir())
    refused(client.post(f"/v1/jobs?{query}", content=content, headers={"Content-Type": "video/mp4"}), status)
    refused(client.post(f"/v1/jobs?{query}", files={"video": ("a.mp4", content)}), status)
    assert sorted(path.name for path in state.jobs.folder.iterdir()) == before


def test_a_section_that_holds_no_frame_is_refused_at_once(client: TestClient, state: State, clip: bytes) -> None:
    before = sorted(path.name for path in state.jobs.folder.iterdir())
    refused(client.post("/v1/jobs?edit=age=5&start=3", content=clip), 422, "has no frame from 3 s to its end")
    assert sorted(path.name for path in state.jobs.folder.iterdir()) == before


def test_a_subject_without_an_adaptation_is_404_and_forgetting_it_is_no_error(
    client: TestClient, state: State, clip: bytes
) -> None:
    before = set(state.jobs.folder.glob("*/request.json"))
    refused(client.post("/v1/jobs?edit=age=5&subject=anna", content=clip), 404, "no adaptation of anna", "promote")
    refused(client.post("/v1/jobs?edit=age=5&subject=An%20na", content=clip), 422, "small letters")
    refused(client.post("/v1/jobs?task=colourise&subject=anna", content=clip), 422, "subject cannot be asked")
    assert set(state.jobs.folder.glob("*/request.json")) == before
    forgotten = client.delete("/v1/subjects/anna")
    assert forgotten.status_code == 200
    assert forgotten.json() == {"versions": 0, "adaptations": 0, "jobs": 0, "latents": 0}
    refused(client.delete("/v1/subjects/An%20na"), 422, "small letters")
    # With a slip in its name the clip would be forgotten in words alone.
    refused(client.delete(f"/v1/subjects/anna?clips={'0' * 64}"), 422, "'clips' is not known; there are clip")
    answers = client.get("/openapi.json").json()["paths"]["/v1/subjects/{subject}"]["delete"]["responses"]
    assert "409" in answers


def test_forgetting_a_subject_deletes_the_jobs_that_asked_for_it(
    client: TestClient, state: State, clip: bytes
) -> None:
    kept = client.post("/v1/jobs?edit=age=5", content=clip).json()["id"]
    gone = client.post("/v1/jobs?edit=age=5", content=clip).json()["id"]
    request = state.jobs.folder / gone / "request.json"
    request.write_text(json.dumps(json.loads(request.read_text()) | {"subject": "anna"}))
    # As servers leave them that were killed: before the job was queued, and while it was deleted.
    torn = [state.jobs.folder / name for name in ("e" * 32, f".deleted-{'f' * 32}")]
    for folder in torn:
        folder.mkdir()
        (folder / "input").write_bytes(clip)
        (folder / "request.json").write_text(json.dumps({"subject": "anna", "created": 1.0}))
    assert client.delete("/v1/subjects/anna").json()["jobs"] == 3
    assert not any(folder.exists() for folder in torn)
    assert client.get(f"/v1/jobs/{gone}").status_code == 404
    assert client.get(f"/v1/jobs/{kept}").status_code == 200
    assert not (state.jobs.folder / gone).exists()
    refused(client.delete("/v1/subjects/anna?clip=abc"), 422, "clip")
    # Both jobs had this clip; nothing but the caller knows whose it is.
    sha256 = hashlib.sha256(clip).hexdigest()
    assert client.delete(f"/v1/subjects/anna?clip={'0' * 64}&clip={sha256}").json()["jobs"] >= 1
    assert client.get(f"/v1/jobs/{kept}").status_code == 404
