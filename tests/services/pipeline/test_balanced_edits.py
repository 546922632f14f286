"""Edits as they are served: set right on the face, once per face, by what the pictures show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pipeline_toys import NUM_WS, SIDE, W_DIM, ToyJudges
from torch import Tensor

from datamodules.video import read_frames
from modules.editing.directions import EditRequest
from services.balancing import balancing_of
from services.pipeline.edit import edit_image
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.stream import edit_video
from services.settings import load_params

OLDER = [EditRequest("age", 5.0)]
FACTOR, TURNS = 0.8, 0.1
"""How much of an asked year this judge sees, and how many degrees it sees a year turn the head."""


class SeeingJudges(ToyJudges):
    """Reads the codes back from the toy's pictures."""

    basis: Tensor
    asked = 0

    def attributes(self, images: Tensor) -> dict[str, np.ndarray]:  # type: ignore[override]
        self.asked += 1
        small = F.adaptive_avg_pool2d(images, SIDE).flatten(1)
        codes = torch.linalg.lstsq(self.basis.T, small.T).solution.T.view(-1, NUM_WS, W_DIM)
        age, yaw = codes[:, 1, 2], codes[:, 0, 0] / 0.1
        nothing = torch.zeros_like(age)
        measures = dict.fromkeys(balancing_of(load_params()).units, nothing)
        return {n: v.numpy() for n, v in (measures | {"age": FACTOR * age, "yaw": yaw + TURNS * age}).items()}


@pytest.fixture
def models(toy_models: Models) -> Models:
    judges = SeeingJudges(toy_models.judges.detection, "alex", "cpu")
    judges.finder = toy_models.judges.finder
    # What the pictures are made by, drawn as large as they are looked at and averaged again.
    generator = toy_models.generator
    shown = generator.synthesize(torch.eye(NUM_WS * W_DIM).view(-1, NUM_WS, W_DIM))  # type: ignore[call-arg]
    judges.basis = F.adaptive_avg_pool2d(shown, SIDE).flatten(1)
    return replace(toy_models, judges=judges, balancing=balancing_of(load_params()))


@pytest.fixture
def frame(clip) -> np.ndarray:
    return next(iter(read_frames(clip))).frames[0]


def test_an_image_gets_the_years_that_were_asked_and_no_turn(models: Models, frame: np.ndarray) -> None:
    (strengths,) = edit_image(frame, OLDER, models, EditOptions()).strengths
    assert strengths["age"] == pytest.approx(5.0 / FACTOR, abs=0.25)
    assert strengths["yaw"] == pytest.approx(-TURNS * strengths["age"], abs=0.1)


@pytest.mark.parametrize("options", [EditOptions(balance=False), EditOptions(preview=True)])
def test_edits_stay_as_they_are_where_that_is_asked(
    models: Models, frame: np.ndarray, options: EditOptions
) -> None:
    assert edit_image(frame, OLDER, models, options).strengths == ({"age": 5.0},)
    assert models.judges.asked == 0  # type: ignore[attr-defined]


def test_what_is_taken_back_does_not_say_how_it_is_pasted(models: Models, frame: np.ndarray) -> None:
    """A turn that takes one back is no turned head, which would be replaced with all its hair."""
    areas = []
    for options in (EditOptions(balance=False), EditOptions()):
        made = edit_image(frame, OLDER, models, options)
        areas.append(int((made.image != frame).any(axis=2).sum()))
    assert 0 < areas[1] < 1.05 * areas[0]


def test_a_clip_is_set_right_once_for_all_its_frames(models: Models, clip, tmp_path) -> None:
    models = replace(models, config=replace(models.config, chunk=4))
    report = edit_video(clip, tmp_path / "out.mp4", OLDER, models, EditOptions(start=0.5, end=0.9))
    assert report.frames > 8
    assert report.faces[0].strengths["age"] == pytest.approx(5.0 / FACTOR, abs=0.25)
    rounds = load_params().raw["balance"]["rounds"]
    assert models.judges.asked == 1 + rounds  # type: ignore[attr-defined]
