"""Table 1 of StylePortraitVideo on a few real frames with the shipped models, and its numbers by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from modules.assets import asset_path
from modules.generators.protocol import Generator
from modules.metrics.fidelity import psnr
from services.adaptation.evaluation import (
    METRICS,
    TableSettings,
    as_markdown,
    codes_of,
    continual,
    kept_table,
    learned,
    measured,
    rendered,
    slopes,
    table_of_clip,
)
from services.adaptation.learn import AdaptationSettings, collect
from services.direction_settings import DirectionSettings
from services.evaluation.frames import SIDE, HeldOutFrames
from services.pipeline.models import Models, load_models
from services.pipeline.options import EditOptions
from services.settings import load_params

EDITS = {"smile": (-0.5, 0.5)}


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(load_params(overrides=["pipeline.follow.shared_steps=2", "pipeline.follow.first_steps=2"]))


@pytest.fixture(scope="module")
def settings() -> AdaptationSettings:
    return load_params().section("adaptation", AdaptationSettings)


@pytest.fixture(scope="module")
def frames(models: Models, tmp_path_factory: pytest.TempPathFactory) -> HeldOutFrames:
    clip, work = asset_path("clips", "single_face.mp4"), tmp_path_factory.mktemp("crops")
    found = collect(clip, models, EditOptions(end=0.2, preview=True), 2, work)
    crops = [cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for crop in found.crops.read(0, 2)]
    return HeldOutFrames(np.stack(crops), (clip.name,) * 2, (0, 0), "hash")


def test_a_few_steps_come_nearer_and_are_seen_one_after_the_other(
    models: Models, settings: AdaptationSettings, frames: HeldOutFrames
) -> None:
    ws = codes_of(frames.pixels, models)
    seen: dict[int, torch.Tensor] = {}

    def look(step: int, generator: Generator) -> None:
        seen[step] = rendered(generator, ws)

    moved = learned(frames.pixels, ws, models, settings, 4, look=look)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(seen[0], rendered(models.generator, ws))
    torch.testing.assert_close(rendered(moved, ws), seen[4])
    target = torch.from_numpy(frames.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    before, after = (psnr(shown, target).mean() for shown in (rendered(models.generator, ws), seen[4]))
    assert after > before + 0.5
    assert learned(frames.pixels, ws, models, settings, 0) is models.generator
    assert learned(frames.pixels, ws, models, settings, 0, moved) is moved


def test_the_numbers_of_a_row(models: Models, frames: HeldOutFrames) -> None:
    crops = torch.from_numpy(frames.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    same = measured(crops, crops, models)
    assert same["lpips"] == pytest.approx(0, abs=1e-6) and same["ms_ssim"] == pytest.approx(1, abs=1e-5)
    assert same["identity"] == pytest.approx(1, abs=1e-4)
    # A tenth of the range everywhere: MSE 0.01 of values in [0, 1], and 20 dB.
    grey = torch.zeros_like(crops)
    apart = measured(grey + 0.2, grey, models)
    assert apart["mse"] == pytest.approx(0.01, rel=1e-4) and apart["psnr"] == pytest.approx(20, abs=1e-3)


def test_a_clip_gives_its_rows_and_slopes(
    models: Models, settings: AdaptationSettings, frames: HeldOutFrames
) -> None:
    table = TableSettings((1, 2), 2, 1, EDITS, 1)
    said: list[str] = []
    found = table_of_clip(frames, models, settings, table, models.judges.attributes, said.append)
    assert list(found["rows"]) == [
        "encoder",
        "encoder + refinement",
        "adapted, 1 iterations",
        "adapted, 2 iterations",
    ]
    assert all(
        set(row) == set(METRICS) and all(map(math.isfinite, row.values())) for row in found["rows"].values()
    )
    assert found["rows"]["adapted, 2 iterations"]["psnr"] > found["rows"]["encoder"]["psnr"]
    assert 0.5 < found["frame_to_frame"] <= 1 and found["steps_to_enough"] is None
    ws = codes_of(frames.pixels[:1], models)
    assert found["slopes"]["base"] == slopes(models, ws, EDITS, models.judges.attributes)
    assert found["slopes"]["base"]["smile"] > 0 and len(said) == 3
    # Edits that are balanced on the face get nearer to what was asked.
    unit = load_params().section("directions", DirectionSettings).edits["smile"].per_unit
    plain, served = (found["slopes"][name]["smile"] / unit for name in ("base", "base, balanced"))
    assert abs(served - 1) < abs(plain - 1)
    lines = as_markdown([found, found], {"smile": found["slopes"]["base"]["smile"]})
    assert any(line.startswith("| smile | 1.00 |") for line in lines)
    assert any("not reached" in line for line in lines)


def test_what_was_learned_before_is_where_the_next_clip_begins(
    models: Models, settings: AdaptationSettings, frames: HeldOutFrames
) -> None:
    few = replace(settings, iterations=2)
    rows = continual(frames, frames, models, few, earlier=10, steps=(0, 4), looked_at=10)
    assert list(rows) == [
        "0 from the base", "4 from the base", "0 from the first clip", "4 from the first clip"
    ]  # fmt: skip
    # The clips are the same here, so what was learned of the first is known of the second.
    for steps in (0, 4):
        assert rows[f"{steps} from the first clip"]["psnr"] > rows[f"{steps} from the base"]["psnr"] + 0.5


def test_a_table_that_was_made_is_read(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"a": 1}

    path = tmp_path / "table" / "0.json"
    assert kept_table(path, make) == kept_table(path, make) == {"a": 1} and made == [1]
