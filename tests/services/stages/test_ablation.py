"""The loss ablation: every row on the same budget, one loss more each time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sheet_cells import cell
from torch import Tensor

from datamodules.face_video import FaceVideoConfig
from datamodules.types import BadInputError
from services.evaluation.frames import HeldOutFrames
from services.registry.tracking import Run, SilentRun
from services.settings import Params, load_params
from services.stages import ablation
from services.stages import encoder as encoder_stage
from services.stages.ablation import AblationSettings, train_with, with_phase
from services.training.trainer import FrameEncoderSettings

PARAMS = load_params(environment={})
SETTINGS = PARAMS.section("ablation", AblationSettings)


def test_each_row_has_the_losses_of_the_one_before_and_more() -> None:
    rows = [dict(weights) for weights in SETTINGS.losses.values()]
    assert list(SETTINGS.losses) == ["L2", "and Lp", "and Lf", "and Lv"] and rows[0] == {"l2": 1.0}
    for fewer, more in pairwise(rows):
        assert fewer.items() < more.items()


def test_a_row_is_one_phase_of_the_encoders_own_training() -> None:
    base = PARAMS.section("frame_encoder", FrameEncoderSettings)
    phase = replace(base.training.phases[-1], name="L2", share=1.0, weights={"l2": 1.0})
    whole = with_phase(base, phase, 7, 0.9)
    assert whole.training.phases == (phase,) and whole.training.ends == (7,) and whole.training.ema_decay == 0.9
    assert whole.trainer.validate_every == 7 and whole.trainer.seed == base.trainer.seed
    assert whole.network == base.network and whole.softening == base.softening


class Row:
    """What one row is trained with; nothing is trained."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.trained = monkeypatch, list[Path]()
        self.samples, self.split, self.curves = "s", list[str](), list[str]()
        monkeypatch.setattr(ablation, "RUNS", folder)
        monkeypatch.setattr(ablation, "FaceVideoDataModule", self.data)
        monkeypatch.setattr(
            ablation, "SampleDataset", lambda folder, made_by: SimpleNamespace(fingerprints=(self.samples,))
        )
        encoder = SimpleNamespace(config=SimpleNamespace(image_size=4))
        monkeypatch.setattr(ablation, "first_encoder", lambda settings, generator: (encoder, settings))
        monkeypatch.setattr(ablation, "crops_to_learn_from", lambda data, *_: data.dataset("train"))
        monkeypatch.setattr(ablation, "FrozenParts", lambda *parts: None)
        monkeypatch.setattr(ablation, "fit_frame_encoder", self.fit)
        monkeypatch.setattr(ablation, "save_frame_encoder", lambda folder, *rest: folder.mkdir(parents=True))

    def data(self, clips: Path, config: FaceVideoConfig) -> SimpleNamespace:
        prepared = SimpleNamespace(of=lambda split: ["a clip"], data_hash=lambda split: split)
        return SimpleNamespace(config=config, prepared=prepared, dataset=self.faces)

    def faces(self, split: str) -> list[SimpleNamespace]:
        self.split.append(split)
        return [SimpleNamespace(images=torch.zeros(3, 4, 4))] * 9

    def fit(self, encoder, parts, samples, crops, held_out, settings, folder, logger, accelerator) -> None:  # type: ignore[no-untyped-def]
        assert held_out.shape == (4, 3, 4, 4)
        self.trained.append(folder)
        self.curves.append(logger.before)

    def train(self, *overrides: str, generator: str = "g", label: str = "L2") -> int:
        """How many trainings there were so far, after this one."""
        params = load_params(overrides=overrides, environment={})
        settings = params.section("ablation", AblationSettings)
        train_with(params, settings, label, SimpleNamespace(sha256=generator), SilentRun())  # type: ignore[arg-type]
        return len(self.trained)


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Row:
    return Row(tmp_path, monkeypatch)


def test_a_finished_row_is_taken_from_where_it_lies(row: Row) -> None:
    assert row.train() == row.train() == 1
    assert set(row.split) == {"train", "val"}, "what is watched is not what is learned"


def test_rows_have_curves_of_their_own_in_one_run(row: Row) -> None:
    assert row.train(label="L2") == 1 and row.train(label="and Lp") == 2
    assert row.curves == ["l2/", "and_lp/"]


@pytest.mark.parametrize(
    "other",
    [
        "ablation.steps=3", "face_video.stills=7", "face_judge.min_score=0.9", "identity_loss.net=arcface",
        "samples", "start", "generator", "code",
    ],
)  # fmt: skip
def test_a_row_is_trained_again_with_anything_else(row: Row, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    assert row.train() == 1
    if other == "samples":
        row.samples = "others"
    elif other == "start":
        monkeypatch.setattr(encoder_stage, "_start_sha256", lambda settings: "other weights in the same folder")
    elif other == "code":
        monkeypatch.setattr(encoder_stage, "code_sha256", lambda stage: f"other code of {stage}")
    generator = "other" if other == "generator" else "g"
    assert row.train(*([other] if "=" in other else []), generator=generator) == 2


@pytest.mark.parametrize(
    "other",
    ["frame_encoder.trainer.workers=3", "frame_encoder.trainer.checkpoint_every=7", "face_video.batch_size=3"],
)
def test_a_row_is_not_trained_again_for_what_changes_no_weight(row: Row, other: str) -> None:
    assert row.train() == row.train(other) == 1
    assert row.train("frame_encoder.trainer.seed=7") == 2


def test_a_command_goes_on_with_its_run_until_it_is_done(
    row: Row, tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    runs: list[str] = []

    def broken(params: Params, run: Run, *rest: object) -> ablation.Ablation:
        runs.append(run.run_id)
        if len(runs) == 1:
            raise KeyboardInterrupt
        return ablation.Ablation(SimpleNamespace(numbers=lambda: {"l2.psnr": 1.0}), ())  # type: ignore[arg-type]

    monkeypatch.setattr(ablation, "ablate", broken)
    monkeypatch.setattr(ablation, "markdown", lambda *shown: "the table")

    def call(*overrides: str) -> str:
        params = load_params(overrides=overrides, environment={"STYLEREEL_STATE": str(tmp_path)})
        return ablation.run_ablation(params, overrides)

    same = "ablation.steps=3"
    with pytest.raises(KeyboardInterrupt):
        call(same)
    call("ablation.steps=4")
    assert call(same) == call(same) == "the table"
    killed, other, again, anew = runs
    assert killed == again and len({killed, other, anew}) == 3


@pytest.mark.parametrize(
    "losses", ["{Mean face: {l2: 1.0}}", "{start: {l2: 1.0}}", "{a b: {l2: 1.0}, A_b: {l2: 1.0}}"]
)
def test_rows_that_would_share_a_name_are_refused(losses: str) -> None:
    with pytest.raises(BadInputError, match="labels that differ"):
        load_params(overrides=[f"ablation.losses={losses}"], environment={}).section("ablation", AblationSettings)


@pytest.mark.parametrize("override", ["ablation.losses={}", "ablation.losses={L2: {}}"])
def test_a_row_without_losses_is_refused(override: str) -> None:
    with pytest.raises(BadInputError, match="at least one loss"):
        load_params(overrides=[override], environment={}).section("ablation", AblationSettings)


def test_a_label_that_mlflow_would_not_take_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(BadInputError, match="letters, digits and spaces"):
        load_params(overrides=["ablation.losses={+ Lp: {l2: 1.0}}"], environment={}).section(
            "ablation", AblationSettings
        )


def test_what_came_of_each_row_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders stand in as functions that answer one number whatever they see; it is the grey that is drawn."""
    answers = {"start": 0.1, "L2": 0.2, "and Lp": 0.3, "and Lf": 0.4, "and Lv": 0.5}
    clip = HeldOutFrames(np.full((60, 256, 256, 3), 60, np.uint8), ("clip",) * 60, (0,) * 60, "d" * 64)
    images: dict[str, np.ndarray] = {}

    class Parts:
        clips, device = (clip,), "cpu"
        generator = SimpleNamespace(sha256="g", w_mean=torch.full((1,), 0.05), num_ws=1)

        def table(self, clips: object, rows: object, *rest: object) -> list[object]:
            return list(rows)  # type: ignore[call-overload, no-any-return]

        def meter(self, judge_every: int) -> SimpleNamespace:
            return SimpleNamespace(render=lambda ws: ws[:, :, :, None].expand(-1, 3, 32, 32))

    class Answering(torch.nn.Module):
        def __init__(self, label: str) -> None:
            super().__init__()
            self.label = label

        def forward(self, frames: Tensor, state: None = None) -> tuple[Tensor, None]:
            return torch.full((len(frames), 1, 1), answers[self.label]), state

    class Keeping(SilentRun):
        def log_image(self, name: str, image: np.ndarray, step: int | None = None) -> None:
            images[name] = image

    for name, stand_in in {
        "generator_to_train_through": lambda *_: None,
        "FaceVideoDataModule": lambda *_: SimpleNamespace(prepared=None),
        "load_table_parts": lambda *_: Parts(),
        "train_with": lambda params, settings, label, *_: label,
        "load_frame_encoder": lambda folder, sha256: Answering(folder if folder in answers else "start"),
    }.items():
        monkeypatch.setattr(ablation, name, stand_in)
    ablation.ablate(PARAMS, Keeping())
    greys = [60, *(round((answer + 1) * 127.5) for answer in (0.05, *answers.values()))]
    found = [cell(images["reconstructions"], 0, column) for column in range(len(greys))]
    assert np.abs(np.subtract(found, greys)).max() <= 1
