"""What the run of an evaluation keeps: the numbers of every table, and a sheet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sheet_cells import cell
from torch import Tensor

from modules.encoders.video_vit import VideoEncoder, VideoEncoderConfig, start_from_frame_encoder
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig
from modules.perception.flow import FlowConfig
from services.evaluation.drift import Drift
from services.evaluation.frames import HeldOutFrames
from services.evaluation.reconstruction import EvaluationConfig
from services.evaluation.table import VideoTable
from services.evaluation.video import METRICS, VideoRow
from services.registry.tracking import SilentRun
from services.settings import load_params
from services.stages import evaluate, evaluate_video
from services.stages.evaluate import EvaluateOptions

PARAMS = load_params(environment={})
PIXELS = np.full((9, 256, 256, 3), 60, np.uint8)
CLIP = HeldOutFrames(PIXELS, ("clip",) * 9, (0,) * 9, "d" * 64)
MODEL = SimpleNamespace(weights_sha256="w" * 64, config_sha256="c" * 64)


class Keeping(SilentRun):
    """Remembers metrics and images."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, Any] = {}
        self.images: dict[str, Any] = {}

    def log_metrics(self, metrics: Any, step: int = 0) -> None:
        self.metrics |= metrics

    def log_image(self, name: str, image: Any, step: int | None = None) -> None:
        self.images[name] = image


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Keeping:
    run = Keeping()

    @contextmanager
    def stage_run(*about: object) -> Iterator[Keeping]:
        yield run

    monkeypatch.setattr(evaluate, "stage_run", stage_run)
    monkeypatch.setattr(evaluate, "read_prepared", lambda folder: None)
    return run


def table(*names: str, psnr: float = 20.0) -> VideoTable:
    rows = tuple(VideoRow(name, name, dict.fromkeys(METRICS, psnr)) for name in names)
    return VideoTable(rows, (CLIP,), 1, "vgg", "g" * 64)


def test_both_tables_are_kept(kept: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [table("fren"), table("fren", "optimised", psnr=31.0)]
    looked = SimpleNamespace(see=None, sheet=lambda labels: np.zeros((2, 2, 3), np.uint8))
    found = SimpleNamespace(model_sha256="m", generator_sha256="g"), SimpleNamespace(fixed=["input"])
    for name, stand_in in {
        "encoder_folder": tmp_path, "name_of": "frame", "_frames": CLIP, "Shown": looked, "markdown": "text",
        "evaluate_folder": found, "write_evaluation": None, "metrics_of": {"psnr": 1.0},
        "evaluate_table": (tables, []),
    }.items():  # fmt: skip
        monkeypatch.setattr(evaluate, name, lambda *_, answer=stand_in: answer)
    evaluate.evaluate(PARAMS, EvaluateOptions(metrics=tmp_path, optimise=True, table=True))
    assert kept.metrics["video"]["rows"]["fren"]["psnr"] == 20.0
    assert kept.metrics["video_optimised"]["rows"]["optimised"]["psnr"] == 31.0


class Parts:
    """As much of a table's parts as a video encoder is measured with: codes are drawn as their mean."""

    def __init__(self) -> None:
        self.clips, self.device, self.generator = (CLIP,), "cpu", SimpleNamespace(sha256="g" * 64)
        self.config = PARAMS.section("evaluation", EvaluationConfig)
        self.judges = SimpleNamespace(flow=SimpleNamespace(config=PARAMS.section("flow", FlowConfig)))

    def table(self, *about: object) -> VideoTable:
        return table("fren", "vien")

    def meter(self, judge_every: int) -> SimpleNamespace:
        def render(ws: Tensor) -> Tensor:
            return torch.tanh(ws.mean((1, 2)))[:, None, None, None].expand(-1, 3, 32, 32)

        return SimpleNamespace(render=render)


def test_a_video_encoder_is_shown_beside_its_frame_encoder(
    kept: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = FrameEncoderConfig(256, (4, 4, 4, 4, 4), 8, 1, 2, 4, 0)
    first = FrameEncoder(network, 3, torch.full((1,), 0.25), torch.eye(1)).eval()
    video = VideoEncoder(first, start_from_frame_encoder(first, 1, VideoEncoderConfig(32, 4)))
    curves = {name: np.array([[30.0, 28.0, 26.0]]) for name in ("FrEN", "ViEN")}
    for module, name, answer in (
        (evaluate, "encoder_folder", tmp_path), (evaluate, "name_of", evaluate.NAMES["video"]),
        (evaluate_video, "load_table_parts", Parts()), (evaluate_video, "load_encoder", (video, "id")),
        (evaluate_video, "consecutive_frames", [CLIP]), (evaluate_video, "load_model", MODEL),
        (evaluate_video, "measure_drift", Drift((0, 100, 200), curves, ("clip",))),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_, answer=answer, **__: answer)
    evaluate.evaluate(PARAMS, EvaluateOptions(metrics=tmp_path))
    sheet = kept.images["reconstructions"]
    with torch.no_grad():
        shown = torch.tanh(first(torch.full((1, 3, 256, 256), 60 / 127.5 - 1))[0].mean())
    assert cell(sheet, 0, 0) == 60
    assert abs(cell(sheet, 0, 1) - round((float(shown) + 1) * 127.5)) <= 1, "FrEN's"
    cell(sheet, 0, 2)  # ViEN's, in one piece
    assert kept.metrics["video"]["rows"]["vien"]["psnr"] == 20.0
