"""The demo's own steps with toy networks around a real clip; the real ones run in ``make demo``."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from datamodules.images import read_image
from datamodules.shards import to_tensor
from datamodules.video import VideoWriter, probe, read_frames
from modules.editing.directions import EditRequest
from services.attributes import NAMES
from services.code_hash import PACKAGES
from services.demo import run as demo_run
from services.demo.clips import Recorded
from services.demo.lifecycle import Standing
from services.demo.measure import crops_of, frames_at, measure_edit, measure_reconstruction, places, reconstructed
from services.demo.options import DemoConfig
from services.demo.run import Demo, demo_params
from services.pipeline.encoders import NAMES as ENCODERS
from services.pipeline.options import PipelineConfig

FRAMES = 6
OVERRIDES = ["demo.edits={age: 20, yaw: 10}", "demo.columns=3", "demo.measured_frames=2", "demo.steps=0"]


@pytest.fixture(scope="module")
def short(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the clip, with their sound."""
    target = tmp_path_factory.mktemp("short") / "short.mp4"
    info, end = probe(clip), FRAMES / 30
    with VideoWriter(target, info, codec="h264", crf=18, audio_from=clip, end=end) as writer:
        for batch in read_frames(clip, end=end):
            writer.write(batch)
    return target


@pytest.fixture
def demo(short: Path, tmp_path: Path, toy_models, toy_model, monkeypatch: pytest.MonkeyPatch):
    """Makes a demo whose networks and server are toys."""
    folder = toy_model(3, kind="directions")
    served: list[int] = []

    def judge(images: torch.Tensor) -> dict[str, np.ndarray]:
        brightness = images.mean((1, 2, 3)).numpy()
        return {name: brightness * (10 if name == "age" else 1) for name in NAMES}

    def compare(clip: Path, work: Path, request, frame: int, *rest: object) -> dict[str, object]:
        served.append(frame)
        answers = {"frame.png": {"models": "toy/1", "mean": 0.0, "largest": 0}}
        return {"answers": answers, "agrees": request.name == "age", "ready_seconds": 1.0, "models": []}

    monkeypatch.setattr(demo_run, "SHIPPED", {"stylereel-directions": folder})
    monkeypatch.setattr(demo_run, "METRICS_FOLDER", tmp_path / "metrics")
    monkeypatch.setattr(demo_run, "ROOT", tmp_path)
    for room in PACKAGES:
        (tmp_path / room).mkdir()
    monkeypatch.setattr(demo_run, "asset_path", lambda asset, file: short)
    monkeypatch.setattr(demo_run, "fetch", lambda name: None)
    monkeypatch.setattr(demo_run, "load_models", lambda params, *chosen: toy_models)
    monkeypatch.setattr(demo_run, "load_attribute_judge", lambda *arguments: judge)
    monkeypatch.setattr(demo_run, "compare_served", compare)

    def make(*more: str) -> Demo:
        params = demo_params([*OVERRIDES, *more], {"STYLEREEL_DEVICE": "cpu"}, tmp_path / "state")
        return Demo(params, lambda line: None, quiet=True, out=tmp_path / "demo")

    make.served = served  # type: ignore[attr-defined]
    return make


def sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


def test_everything_is_left_and_a_second_run_redoes_only_what_changed(demo, short: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    first = demo()
    assert first.run()
    assert all(step.redone for step in first.done.values())
    for name in ("reconstruction.mp4", "age+20.mp4", "yaw+10.mp4"):
        info = probe(out / name)
        assert (info.frames, info.width, info.height, info.rate) == (FRAMES, 640, 360, 30)
        assert sound(out / name) == sound(short)
    sheet = read_image(out / "sheet.png", 10**8)
    assert sheet.shape[0] > 4 * 240 and sheet.shape[1] > 3 * 240  # four rows, three moments
    numbers = json.loads((out / "metrics.json").read_text())
    assert set(numbers["rows"]) == {"mean face", "reconstruction", "age+20", "yaw+10"}
    assert numbers["edits"]["age+20"]["asked"] == 20 and numbers["edits"]["age+20"]["unit"] == "years"
    assert numbers["registry"][0]["why"].startswith("refused")
    table = (out / "metrics.md").read_text()
    assert "| age+20 | +20 years |" in table and "stylereel-directions" in table
    assert json.loads((out / "age+20.mp4.json").read_text())["edits"] == [{"name": "age", "strength": 20.0}]

    again = demo()
    assert again.run()
    assert not any(step.redone for step in again.done.values())
    assert "models" not in again.__dict__  # nothing was loaded for it

    (out / "age+20.mp4").unlink()
    third = demo()
    assert third.run()
    assert {name for name, step in third.done.items() if step.redone} == {"age+20"}

    other = demo("demo.edits={age: 10, yaw: 10}")
    other.run()
    redone = {name for name, step in other.done.items() if step.redone}
    assert redone == {"age+10", "serve", "measure", "sheet"}
    assert len(demo.served) == 2


def test_all_clips_share_what_the_codes_show(demo, tmp_path: Path, toy_models) -> None:
    """Without a memory each of the three clips draws every frame's codes; the clips are the same either way."""
    drawn, made = [], []
    for most in (0, 10**9):
        before = toy_models.generator.calls
        done = demo(f"demo.remembered_bytes={most}")
        for name in ("invert", "reconstruction", "age+20", "yaw+10"):
            (done.work / f"{name}.json").unlink(missing_ok=True)
        done.run()
        drawn.append(toy_models.generator.calls - before)
        made.append([(tmp_path / "demo" / f"{name}.mp4").read_bytes() for name in ("reconstruction", "age+20")])
        assert (done.models.unedited.bytes > 0) == (most > 0)
    assert drawn[0] - drawn[1] >= 2 * FRAMES
    assert made[0] == made[1]


def test_how_far_an_edit_went_is_measured_at_the_strengths_that_were_used(demo, tmp_path, toy_models) -> None:
    """They stand in the clip's sidecar: what was asked, balanced on the face."""
    done = demo()
    done.run()
    clip, sidecar = tmp_path / "demo" / "age+20.mp4", tmp_path / "demo" / "age+20.mp4.json"

    def brightness(images: torch.Tensor) -> dict[str, np.ndarray]:
        return {name: images.mean((1, 2, 3)).numpy() for name in NAMES}

    def went() -> float:
        at = done._places()
        request = EditRequest("age", 20.0)
        before = reconstructed(done.codes, at, toy_models)
        found = measure_edit(done.clip, clip, done.codes, before, request, 1.0, at, toy_models, brightness)
        return found["size_face"]

    before, said = went(), json.loads(sidecar.read_text())
    said["report"]["faces"][0]["strengths"] = {"age": 2.0}
    sidecar.write_text(json.dumps(said))
    assert 0 < abs(went()) < 0.5 * abs(before)


def test_the_mean_face_is_compared_with_every_frame(demo, toy_models) -> None:
    done = demo("demo.edits={age: 20}")
    done.run()
    at = done._places()
    shown = reconstructed(done.codes, at, toy_models)
    found = measure_reconstruction(done.clip, shown, at, toy_models)
    target = to_tensor(crops_of(done.clip, at))
    with torch.no_grad():
        mean = toy_models.generator.synthesize(toy_models.mean_codes(len(shown)), resolution=shown.shape[-1])
    for row, picture in (("mean face", mean.clamp(-1, 1)), ("reconstruction", shown)):
        squares = ((picture - target) / 2).square().flatten(1).mean(1)
        assert found[row]["psnr"] == pytest.approx(float((-10 * squares.log10()).mean()), abs=1e-3), row


def test_clips_hang_on_every_section_that_their_sidecars_name(demo, toy_models) -> None:
    asked = demo()
    asked._registry()
    named = toy_models.numbers().keys() - {"runtime"}
    assert asked.inputs["params"].keys() == named and "parsing" in named
    for setting in ("parsing.net=bisenet", "balance.rounds=1"):
        other = demo(setting)
        other._registry()
        assert other.inputs != asked.inputs


@pytest.mark.parametrize("gone", ["models", "mlflow.db"])
def test_the_registry_is_asked_again_where_its_downloads_or_itself_are_gone(
    demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    state = tmp_path / "state"

    def promoted(registry, gates, name: str, *_: object) -> Standing:
        folder = state / "models" / name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        (state / "mlflow.db").touch()
        return Standing(name, "w c", "1", "w c", str(folder), True, "passed")

    def redone() -> bool:
        asked = demo()
        asked._registry()
        assert all(Path(row["folder"]).is_dir() for row in asked.standing.values())
        return asked.done["registry"].redone

    monkeypatch.setattr(demo_run, "promote_shipped", promoted)
    assert [redone(), redone()] == [True, False]
    shutil.rmtree(state / gone) if gone == "models" else (state / gone).unlink()
    assert [redone(), redone()] == [True, False]


def test_a_frame_whose_face_is_not_seen_is_left_out_of_the_means(
    demo, toy_models, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = demo("demo.edits={age: 20}")
    done._registry()
    done._clips()
    at = done._places()
    shown = reconstructed(done.codes, at, toy_models)
    assert len(shown) == 2

    def measured(*_: object) -> dict[str, np.ndarray]:
        seen, nothing = np.array([np.nan, 0.5]), np.full(2, np.nan)
        return {
            "psnr": np.array([20.0, 30.0]),
            "identity": seen,
            "identity_distance": seen,
            "landmark_error": nothing,
        }

    monkeypatch.setattr("services.demo.measure.measure", measured)
    row = measure_reconstruction(done.clip, shown, at, toy_models)["reconstruction"]
    assert (row["psnr"], row["identity"], row["identity_distance"], row["landmark_error"]) == (25, 0.5, 0.5, None)
    numbers = {"edits": {}, "rows": {"reconstruction": row | {"identity": None}}}
    assert demo_run._note(numbers, "reconstruction") == "25.0 dB\nidentity -"


def test_answers_that_differ_are_told(demo) -> None:
    assert demo("demo.edits={yaw: 10}").run() is False


def test_the_recorded_codes_come_in_order_and_not_more() -> None:
    ws = torch.arange(12.0).view(3, 2, 2)
    recorded = Recorded(ws)
    images = torch.zeros(2, 3, 8, 8)
    assert torch.equal(recorded(images)[0], ws[:2])
    assert torch.equal(recorded(images[:1], "state")[0], ws[2:])
    with pytest.raises(ValueError, match="3"):
        recorded(images)


def test_measured_frames_are_spread_over_those_that_show_the_face() -> None:
    frames = [{"frame": n, "state": "face" if n > 1 else "none", "crop": [0.5, 0.1, 7.0, n]} for n in range(8)]
    at = places({"faces": [{"crop_size": 256, "frames": frames}]}, 3)
    assert at.numbers == (2, 4, 7) and at.rows == (0, 2, 5)
    assert np.allclose(at.matrices[0], [[0.5, -0.1, 7], [0.1, 0.5, 2], [0, 0, 1]])


def test_frames_are_read_by_their_numbers(short: Path) -> None:
    everything = np.concatenate([batch.frames for batch in read_frames(short)])
    assert np.array_equal(frames_at(short, [1, 4]), everything[[1, 4]])
    assert not np.array_equal(everything[1], everything[4])


def test_the_demo_has_its_own_state_and_the_precision_asked_for(tmp_path: Path) -> None:
    params = demo_params([], {"STYLEREEL_STATE": "elsewhere", "STYLEREEL_TRACKING_URI": "https://x"}, tmp_path)
    assert params.runtime.state == tmp_path and params.runtime.tracking().startswith("sqlite:///")
    assert demo_params([], {"STYLEREEL_PRECISION": "float32"}, tmp_path).runtime.precision == "float32"
    capable = torch.cpu.get_capabilities()
    expected = capable.get("avx512_bf16") or capable.get("amx_bf16")
    if torch.cuda.is_available():
        expected = torch.cuda.get_device_capability()[0] >= 8
    assert params.runtime.bfloat16() is bool(expected)
    assert params.section("pipeline", PipelineConfig).encoder == params.section("demo", DemoConfig).encoder
    assert set(demo_run.SHIPPED) == {*ENCODERS.values(), "stylereel-directions"}
