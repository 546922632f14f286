"""What is told of moved heads, on frames of which it is known where their heads stand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pipeline_toys import NUM_WS, W_DIM, ToyJudges
from torch import Tensor

from datamodules.video import read_frames
from modules.editing.placement import NAMES, PlacementConfig, PlacementSettings, placements
from modules.ops import move_image
from services.evaluation.placement import markdown, measure_placements
from services.pipeline.models import Models

SIDE = 256


class Judges(ToyJudges):
    """Everything in the crop is head."""

    def region(self, images: Tensor, head: bool) -> Tensor:
        return torch.ones(len(images), 1, *images.shape[2:])

    def second_identity(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return torch.zeros(len(images), 2)


@pytest.fixture
def models(toy_models: Models, clip) -> Models:
    """A generator that draws the first frame's face, whatever it is asked."""
    frame = next(iter(read_frames(clip))).frames[0]
    face = toy_models.judges.finder.find(frame[None])[0][0].box  # type: ignore[union-attr]
    middle_x, middle_y = int(face.x0 + face.x1) // 2, int(face.y0 + face.y1) // 2
    crop = frame[middle_y - 160 : middle_y + 160, middle_x - 160 : middle_x + 160]
    drawn = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    drawn = torch.nn.functional.interpolate(drawn, SIDE, mode="area")

    class Drawn(type(toy_models.generator)):  # type: ignore[misc]
        picture = drawn

        def synthesize(self, ws: Tensor, transform: Tensor | None = None, **how: object) -> Tensor:
            shown = drawn.expand(len(ws), -1, -1, -1)
            return shown if transform is None else move_image(shown, transform)

    judges = Judges(toy_models.judges.detection, "alex", "cpu")
    judges.finder = toy_models.judges.finder
    config = PlacementConfig({name: PlacementSettings("steps", -20, 20) for name in NAMES})
    return replace(toy_models, generator=Drawn(), judges=judges, edits=placements(config, "toy"))


def test_what_is_got_is_told_in_the_moves_own_units(models: Models) -> None:
    picture = models.generator.picture  # type: ignore[attr-defined]
    frames = ((picture + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy().repeat(2, axis=0)
    asked = dict.fromkeys(NAMES, (-8.0, 8.0))
    rows = list(measure_placements(frames, torch.zeros(2, NUM_WS, W_DIM), asked, models))
    assert [(row.name, row.asked) for row in rows] == [(name, s) for name in NAMES for s in (-8.0, 8.0)]
    for row in rows:
        assert row.got == pytest.approx(row.asked, abs=1.6), row
        assert row.found == 2 and row.spread < 0.5 and row.distance == 0
    assert len(markdown(rows)) == 2 + len(rows)


def test_a_head_that_is_not_found_again_is_counted_out(models: Models) -> None:
    frames = np.full((1, SIDE, SIDE, 3), 128, np.uint8)
    (row,) = measure_placements(frames, torch.zeros(1, NUM_WS, W_DIM), {"pose.roll": (5.0,)}, models)
    assert row.found == 0 and np.isnan(row.got)
