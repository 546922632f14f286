"""The stages of dvc.yaml on two real clips and small numbers: one run each, with what it is to hold."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA
from mlflow.entities import Run as Kept

import services.edits.directions
import services.stages.encoder
import services.stages.prepare
from datamodules.clips import read_prepared
from datamodules.images import read_image
from datamodules.shards import metadata_of
from modules.assets import asset_path, manifest
from modules.lit.frame_encoder import LitFrameEncoder
from modules.sheet import GAP
from services.evaluation.sheets import SIDE
from services.registry.connection import Connection, RegistryConfig
from services.registry.tracking import Run
from services.settings import ROOT, Params, load_params
from services.stages.evaluate import EvaluateOptions, evaluate
from services.training.runs import code_sha256, sections_of, stage_run, training_run

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PHASES = [
    {"name": "codes", "share": 0.6, "batch_size": 2, "learning_rate": 1e-4, "sample_share": 1.0, "rendered": 0,
     "weights": {"codes": 1.0}},
    {"name": "images", "share": 0.4, "batch_size": 2, "learning_rate": 1e-4, "sample_share": 0.5, "rendered": 1,
     "weights": {"codes": 1.0, "l2": 1.0}},
]  # fmt: skip
SMALL = {
    "clips.max_frames": 10, "samples.count": 3, "samples.shard_size": 2,
    "frame_encoder.training.steps": 3, "frame_encoder.training.phases": PHASES,
    "frame_encoder.training.linear_start": 0,
    "frame_encoder.start_from": "''", "frame_encoder.trainer.precision": "32-true",
    "frame_encoder.trainer.validate_every": 1, "frame_encoder.trainer.checkpoint_every": 1,
    "frame_encoder.trainer.validation_frames": 2, "evaluation.frames_per_clip": 1, "evaluation.lpips_net": "alex",
}  # fmt: skip


class Place:
    """A folder with videos, a registry, and everything that the stages write."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        self.database = Path(shutil.copy(database, folder / "mlflow.db"))
        (folder / "videos").mkdir()
        for asset, file in (("clips", "single_face.mp4"), ("franck", "franck.mp4")):
            shutil.copy(asset_path(asset, file), folder / "videos")
        said = [f"{key}={value}" for key, value in {**SMALL, "data.root": folder / "videos"}.items()]
        self.params: Params = load_params(overrides=said, environment={
            "STYLEREEL_STATE": str(folder), "STYLEREEL_DEVICE": "cpu",
        })  # fmt: skip
        self.registry = Connection(self.params.runtime.tracking(), self.params.section("registry", RegistryConfig))

    def runs(self, stage: str) -> list[Kept]:
        with self.registry.reach() as client:
            found = client.search_runs([self.registry.experiment_id()])
        return [run for run in found if run.info.run_name == stage]

    def run(self, stage: str) -> Kept:
        [run] = self.runs(stage)
        assert run.info.status == "FINISHED" and run.data.tags["stage"] == stage
        assert run.data.metrics["seconds"] > 0
        for section in sections_of(stage):
            assert any(name.startswith(f"{section}.") for name in run.data.params), f"{stage}: {section}"
        return run

    def file(self, run: Kept, path: str) -> Path:
        with self.registry.reach() as client:
            return Path(client.download_artifacts(run.info.run_id, path, str(self.folder / "stored.d")))

    def image(self, run: Kept, path: str) -> Any:
        return read_image(self.file(run, path), 10**8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("stages"), empty_database)
    (made.folder / "stored.d").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CLIPS", "SAMPLES", "RUNS", "FRAME_ENCODER"):
            for stage in (services.stages.prepare, services.stages.encoder):
                patch.setattr(stage, name, made.folder / name.lower(), raising=False)
        patch.setattr(services.stages.prepare, "REGISTRY_CLIPS", ())
        services.stages.prepare.prepare(made.params)
        services.stages.prepare.make_samples(made.params)
        yield made


def test_prepare_shows_every_clip_and_counts(place: Place) -> None:
    run = place.run("prepare")
    counted = {name: run.data.metrics[name] for name in ("clips", "persons", "frames", "left_out")}
    assert counted == {"clips": 2, "persons": 2, "frames": 20, "left_out": 0}
    assert run.data.params["clips.max_frames"] == "10"
    sheet = place.image(run, "images/clips.png")
    assert sheet.shape[0] == 2 * SIDE + GAP and sheet.shape[1] > 8 * SIDE
    assert read_prepared(place.file(run, "index.json").parent).clips[0].frames == 10


def test_samples_say_how_fast_they_were(place: Place) -> None:
    run = place.run("samples")
    assert run.data.metrics["count"] == run.data.metrics["rendered"] == 3
    assert 0 < run.data.metrics["images_per_second"] < 1000
    for shard in (place.folder / "samples").glob("samples-*.safetensors"):
        assert (metadata_of(shard) or {})["code"] == code_sha256("samples"), "other code makes other samples"
    sheet = place.image(run, "images/samples.png")
    assert sheet.shape == (SIDE, 3 * SIDE + 2 * GAP, 3)
    assert sheet[:, :SIDE].std() > 10


def test_a_training_killed_and_gone_on_with_is_one_run_even_if_the_registry_goes_away(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = LitFrameEncoder.training_step
    seen = []

    def interfered(self: LitFrameEncoder, batch: Any, index: int) -> Any:
        seen.append(self.global_step)
        if seen == [0, 1]:
            raise RuntimeError("killed")
        if self.global_step == 2:
            place.database.rename(place.folder / "away.db")
        return step(self, batch, index)

    monkeypatch.setattr(LitFrameEncoder, "training_step", interfered)
    with pytest.raises(RuntimeError, match="killed"):
        services.stages.encoder.train_frame_encoder(place.params)
    [broken] = place.runs("encoder")
    assert broken.info.status == "FAILED"
    folder = services.stages.encoder.train_frame_encoder(place.params)
    assert seen == [0, 1, 1, 2] and (folder / "weights.safetensors").is_file()
    (place.folder / "away.db").rename(place.database)
    options = EvaluateOptions(
        str(folder), place.folder / "clips", "test", optimise=False, metrics=place.folder / "metrics"
    )
    evaluate(place.params, options)  # its run sends what the training's could not
    run = place.run("encoder")
    assert run.info.run_id == broken.info.run_id
    with place.registry.reach() as client:
        curve = client.get_metric_history(run.info.run_id, "val/psnr")
        shown = {file.path for file in client.list_artifacts(run.info.run_id, "images")}
        assert run.outputs.model_outputs, "the model that was made is the run's"
    assert len({point.step for point in curve}) == 3 and all(5 < point.value < 40 for point in curve)
    last = max(curve, key=lambda point: point.step).value
    card = (folder / "card.md").read_text()
    said = re.search(r"On 2 crops of \w+ persons, after its training: PSNR (\d+\.\d\d) dB", card)
    assert said is not None and float(said[1]) == pytest.approx(last, abs=0.02), "what ships is what was averaged"
    assert shown == {f"images/validation-{step:07d}.png" for step in (1, 2, 3)}
    sheet = place.image(run, "images/validation-0000003.png")
    assert sheet.shape == (SIDE, 4 * SIDE + 3 * GAP, 3)
    measured = place.run("evaluate")
    rows = {name for name in measured.data.metrics if name.startswith("all_frames.")}
    assert {"all_frames.mean_face.psnr", "all_frames.encoder.psnr", "all_frames.encoder.identity"} <= rows
    assert measured.data.params["encoder"] in (place.folder / "metrics/frame_encoder.evaluation.json").read_text()
    sheet = place.image(measured, "images/reconstructions.png")
    assert sheet.shape[0] >= SIDE and (sheet != 255).any()


def test_fetch_and_directions_are_runs_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    services.stages.prepare.fetch_parts(place.params)
    fetched = place.run("fetch")
    assert fetched.data.params["assets.random-face"] == manifest()["random-face"].sha256
    assert fetched.data.metrics["assets"] == len(manifest())
    tools = type("Tools", (), {"generator": type("Toy", (), {"sha256": "toy"})})
    monkeypatch.setattr(services.edits.directions, "training_generator", lambda *_: None)
    monkeypatch.setattr(services.edits.directions, "instruments_for", lambda *_: tools)
    for name in ("CLIPS", "SAMPLES", "RUNS"):
        monkeypatch.setattr(services.edits.directions, name, place.folder / name.lower())
    seen: list[str] = []

    def learn(settings: Any, balancing: Any, tools: Any, faces: Any, run: Run, say: Any) -> Path:
        seen.append(run.run_id)
        if len(seen) == 1:
            raise RuntimeError("killed")
        return Path("folder")

    monkeypatch.setattr(services.edits.directions, "_learn", learn)
    with pytest.raises(RuntimeError, match="killed"):
        services.edits.directions.train_directions(place.params)
    assert services.edits.directions.train_directions(place.params) == Path("folder")
    assert place.run("directions").data.params["generator_sha256"] == "toy"
    assert seen[0] == seen[1], "what was killed is gone on with"
    services.edits.directions.train_directions(place.params)
    assert seen[1] != seen[2], "what is done is not"


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_names_sections_that_there_are(stage: str) -> None:
    assert set(sections_of(stage)) <= set(load_params(environment={}).raw)


def test_dvc_takes_the_pipeline_and_its_code_is_there() -> None:
    COMPILED_MULTI_STAGE_SCHEMA(yaml.safe_load((ROOT / "dvc.yaml").read_text()))
    code = {dep for stage in STAGES.values() for dep in stage["deps"] if not dep.startswith(("build/", "assets/"))}
    assert [dep for dep in code if not (ROOT / dep).exists()] == []


def test_a_training_is_one_run_until_it_is_done(place: Place, tmp_path: Path) -> None:
    """Killed, failed, gone on with to its end; another beside it; and called again when it is done."""
    ids = []
    ends = {0: KeyboardInterrupt, 1: KeyboardInterrupt, 2: RuntimeError}
    for number, name in enumerate(("one", "other", "one", "one", "one")):
        more, folder = {"generator_sha256": "toy", "number": number}, tmp_path / name
        with suppress(*ends.values()), training_run("pose-editor", place.params, more, folder) as run:
            ids.append(run.run_id)
            run.log_metrics({"score": number})
            if number in ends:
                raise ends[number]
    killed, other, failed, done, later = ids
    assert killed == failed == done and len({done, other, later}) == 3
    kept = {found.info.run_id: found for found in place.runs("pose-editor")}
    assert kept.keys() == set(ids)
    assert [kept[run_id].info.status for run_id in (done, other, later)] == ["FINISHED", "KILLED", "FINISHED"]
    assert [kept[run_id].data.metrics["score"] for run_id in (done, other, later)] == [3, 1, 4]
    assert kept[later].data.params["number"] == "4"


def test_further_processes_of_a_training_open_no_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(place.runs("prepare"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    with stage_run("prepare", place.params) as run:
        run.log_metrics({"clips": 1})
        run.log_image("sheet", np.zeros((2, 2, 3), np.uint8))
    assert len(place.runs("prepare")) == before
