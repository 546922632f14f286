"""What edits move of an expression beside the judge's noise: by hand on toys, and on a face that comes to grin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from real_faces import calm_and_grinning

from modules.editing.directions import Direction, EditSet
from modules.editing.expression import QUANTITIES
from modules.perception.mesh import load_face_mesh
from services.balancing import balancing_of
from services.direction_settings import DirectionSettings
from services.edits.encoded_codes import EncodedFrames
from services.edits.expression_drift import ExpressionJudge, age_drift, drift_markdown
from services.edits.instruments import Instruments
from services.edits.judge_noise import judge_noise, moved
from services.settings import load_params

PARAMS = load_params()
SETTINGS = PARAMS.section("directions", DirectionSettings)
AS_THEY_ARE = replace(balancing_of(PARAMS), config=replace(balancing_of(PARAMS).config, rounds=0))


def judge(images: torch.Tensor) -> dict[str, np.ndarray]:
    """The smile is the first pixel; its mirror image has another, which is the judge's error. The turn flips."""
    return {"smile": images[:, 0, 0, 0].numpy(), "turn": images[:, 0, 0, 0].numpy() - images[:, 0, 0, -1].numpy()}


def test_noise_is_what_a_mirror_image_should_not_change() -> None:
    images = torch.zeros(2, 3, 1, 2)
    images[:, 0, 0] = torch.tensor([[0.5, 0.1], [0.2, 0.4]])
    noise = judge_noise(judge, images, ("turn",))
    assert noise["smile"] == pytest.approx(np.sqrt((0.4**2 + 0.2**2) / 2 / 2))
    assert noise["turn"] == pytest.approx(0, abs=1e-7), "the opposite, as it should be"
    assert judge_noise(judge, images[:1], ("turn",))["turn"] == 0, "of one picture there is no other to compare"
    assert judge_noise(judge, images)["turn"] == pytest.approx(np.sqrt((0.8**2 + 0.4**2) / 2 / 2))


def test_no_rows_move_nothing() -> None:
    start: Any = None
    assert moved(start, [], {}, ["smile"]) == {}


def test_age_is_measured_at_every_strength_on_frames_that_it_was_not_balanced_on() -> None:
    """A year raises the smile by 0.001; a picture differs from its mirror image by twice its second number."""
    ws = torch.tensor([[[9.0, 9.0]], [[0.3, 0.01]], [[9.0, 9.0]], [[0.1, -0.02]]])
    frames = EncodedFrames(ws, ("a", "a", "b", "b"), (0, 0, 1, 1), "data")

    def render(codes: torch.Tensor) -> torch.Tensor:
        both = torch.stack([codes[:, 0, 0] + codes[:, 0, 1], codes[:, 0, 0] - codes[:, 0, 1]], 1)
        return both[:, None, None].expand(-1, 3, 1, 2)

    def attributes(images: torch.Tensor) -> dict[str, np.ndarray]:
        return {name: images[:, 0, 0, 0].numpy() for name in AS_THEY_ARE.units}

    generator: Any = None
    tools = Instruments(generator, render, attributes, lambda images: images[:, 0, 0])  # type: ignore[arg-type]
    age = SETTINGS.edits["age"]
    edits = EditSet([Direction("age", age.unit, torch.tensor([[0.001, 0.0]]), age.lower, age.upper, "toy")])
    found = age_drift(frames, edits, SETTINGS, AS_THEY_ARE, tools, judge)
    assert list(found) == ["-20", "-10", "+10", "+20", "+30"], "as params.yaml has them"
    noise = np.sqrt(2) * np.sqrt((0.02**2 + 0.04**2) / 2 / 2)
    for strength, row in found.items():
        assert row["smile"]["mean"] == pytest.approx(0.001 * float(strength), abs=1e-6)
        assert row["smile"]["rms"] == pytest.approx(0.001 * abs(float(strength)), abs=1e-6)
        assert row["smile"]["noise"] == pytest.approx(noise, rel=1e-5)
    lines = drift_markdown("age", found)
    assert lines[0].startswith("| age | smile |") and lines[-1].startswith(f"| +30 | {0.03 / noise:+.1f} (")


def test_the_expression_judge_sees_a_grin_and_no_face_where_there_is_none() -> None:
    pictures = torch.cat([calm_and_grinning(), torch.zeros(1, 3, 256, 256)])
    found = ExpressionJudge(load_face_mesh(), SETTINGS.least_score)(pictures)
    assert list(found) == list(QUANTITIES)
    assert found["smile"][1] > found["smile"][0] and np.isnan(found["smile"][2])
