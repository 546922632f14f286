"""The shipped directions: whole, made for the generator, and doing on renderings what their units say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from real_faces import calm_and_grinning

from datamodules.types import BadInputError
from modules.editing.directions import EditRequest, EditSet, load_directions
from modules.encoders.vit import load_frame_encoder
from modules.model_folder import load_model, weights_sha256
from services.direction_settings import DirectionSettings
from services.edits.directions import EVALUATION, METRICS, _with_moved
from services.edits.instruments import Instruments, draw_single, load_instruments
from services.places import DIRECTIONS, FRAME_ENCODER
from services.registry.gate import Evaluation, Gates, judge
from services.settings import load_params


@pytest.fixture(scope="module")
def tools() -> Instruments:
    return load_instruments(load_params().section("directions", DirectionSettings), load_params())


@pytest.fixture(scope="module")
def edits(tools: Instruments) -> EditSet:
    return load_directions(DIRECTIONS, tools.generator.sha256)


def test_what_the_issue_asks_for_is_offered_within_its_range(edits: EditSet) -> None:
    bounds = {d.name: (d.lower, d.upper) for d in edits.describe()}
    assert {"age", "yaw", "pitch", "smile", "mouth_open", "eyes_open", "gender"} <= set(bounds)
    assert list(bounds)[-2:] == ["surprise", "anger"]
    assert all(bounds[name][1] >= 1 for name in ("surprise", "anger"))
    assert bounds["age"][0] <= -20 and bounds["age"][1] >= 30
    assert bounds["yaw"][0] <= -15 and bounds["yaw"][1] >= 15
    assert edits["age"].unit == "years" and edits["yaw"].unit == "degrees"


def test_params_card_and_metrics_belong_to_the_shipped_folder(edits: EditSet, tools: Instruments) -> None:
    settings = load_params().section("directions", DirectionSettings)
    assert list(settings.edits) == list(edits)
    for name, edit in settings.edits.items():
        assert (edit.lower, edit.upper, edit.unit) == (edits[name].lower, edits[name].upper, edits[name].unit)
        assert edit.recolours == edits[name].recolours
    card = load_model(DIRECTIONS, "directions").card
    assert tools.generator.sha256 in card and "non-commercial" in card
    summary = json.loads((DIRECTIONS / METRICS).read_text())
    assert set(summary["edits"]) == set(edits)
    evaluation = Evaluation.from_json(EVALUATION.read_text())
    assert evaluation.model_sha256 == weights_sha256(load_model(DIRECTIONS).tensors)
    for name in ("age", "yaw"):
        error = abs(summary["edits"][name]["slope"] - 1)
        assert evaluation.metrics[f"{name}_slope_error"] == pytest.approx(error, abs=1e-3)
    verdict = judge(evaluation, None, load_params().section("gate", Gates).of("stylereel-directions"))
    assert verdict.passed, verdict.text


def test_another_generator_is_refused_with_both_hashes(edits: EditSet) -> None:
    with pytest.raises(BadInputError, match=f"{edits['age'].generator_sha256}.*{'0' * 64}"):
        load_directions(DIRECTIONS, "0" * 64)


@pytest.mark.parametrize(
    ("name", "down", "up", "per_unit"), [("age", -10.0, 20.0, 1.0), ("yaw", -10.0, 10.0, 1.0)]
)
def test_a_rendered_edit_moves_what_it_names_by_its_unit(
    tools: Instruments, edits: EditSet, name: str, down: float, up: float, per_unit: float
) -> None:
    # Codes of one z answer more than an encoder's, which the units are set on; benchmarks/edits.py says how much.
    ws = draw_single(tools.generator, 6, 2024, 0.7)
    with torch.no_grad():
        low, high = (tools.render(edits.apply(ws, [EditRequest(name, s)])).clamp(-1, 1) for s in (down, up))
    change = tools.judge(high)[name] - tools.judge(low)[name]
    assert np.isfinite(change).all()
    assert (change > 0).all()
    assert 0.65 < change.mean() / per_unit / (up - down) < 2.0


@pytest.fixture(scope="module")
def codes(tools: Instruments) -> torch.Tensor:
    """A real person's, calm and grinning, and of two made faces."""
    with torch.no_grad():
        real = load_frame_encoder(FRAME_ENCODER, tools.generator.sha256)(calm_and_grinning())[0].float()
    return torch.cat([real, draw_single(tools.generator, 2, 2024, 0.7)])


@pytest.mark.parametrize("name", ["surprise", "anger"])
def test_an_expression_grows_with_its_strength(
    tools: Instruments, edits: EditSet, codes: torch.Tensor, name: str
) -> None:
    per_unit = load_params().section("directions", DirectionSettings).edits[name].per_unit
    with torch.no_grad():
        shown = [tools.render(edits.apply(codes, [EditRequest(name, s)])).clamp(-1, 1) for s in (0.0, 0.5, 1.0)]
    found = np.stack([tools.judge(images)[name] for images in shown])
    assert np.isfinite(found).all()
    assert (found[1:] > found[0]).all()  # not always rising: near even odds another expression may come up
    assert 0.5 < (found[2] - found[0]).mean() / per_unit < 2.0


def test_an_edit_goes_on_alone_in_its_rows_and_in_those_that_it_moves_already() -> None:
    vector = torch.zeros(16, 4)
    vector[3:6] = 1.0
    assert _with_moved((2, 11), vector) == (2, 11)
    vector[0, 2] = vector[15, 1] = 0.1
    assert _with_moved((2, 11), vector) == (0, 16)
    assert _with_moved((2, 11), torch.zeros(16, 4)) == (2, 11)
