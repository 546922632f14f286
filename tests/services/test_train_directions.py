"""The shipped directions: whole, made for the generator, and doing on renderings what their units say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from datamodules.types import BadInputError
from modules.editing.directions import EditRequest, EditSet, load_directions
from modules.model_folder import load_model, weights_sha256
from services.directions import (
    EVALUATION,
    FOLDER,
    METRICS,
    DirectionSettings,
    Instruments,
    draw_single,
    evaluation_of,
    load_instruments,
)
from services.registry.gate import Evaluation
from services.settings import load_params


@pytest.fixture(scope="module")
def tools() -> Instruments:
    return load_instruments(load_params().section("directions", DirectionSettings), load_params())


@pytest.fixture(scope="module")
def edits(tools: Instruments) -> EditSet:
    return load_directions(FOLDER, tools.generator.sha256)


def test_what_the_issue_asks_for_is_offered_within_its_range(edits: EditSet) -> None:
    bounds = {d.name: (d.lower, d.upper) for d in edits.describe()}
    assert {"age", "yaw", "pitch", "smile", "mouth_open", "eyes_open", "gender"} <= set(bounds)
    assert bounds["age"][0] <= -20 and bounds["age"][1] >= 30
    assert bounds["yaw"][0] <= -15 and bounds["yaw"][1] >= 15
    assert edits["age"].unit == "years" and edits["yaw"].unit == "degrees"


def test_params_card_and_metrics_belong_to_the_shipped_folder(edits: EditSet, tools: Instruments) -> None:
    settings = load_params().section("directions", DirectionSettings)
    assert list(settings.edits) == list(edits)
    for name, edit in settings.edits.items():
        assert (edit.lower, edit.upper, edit.unit) == (edits[name].lower, edits[name].upper, edits[name].unit)
    card = load_model(FOLDER, "directions").card
    assert tools.generator.sha256 in card and "non-commercial" in card
    summary = json.loads((FOLDER / METRICS).read_text())
    assert set(summary["edits"]) == set(edits)
    assert summary["edits"]["age"]["slope"] == pytest.approx(1, abs=0.2)
    assert summary["edits"]["yaw"]["slope"] == pytest.approx(1, abs=0.2)


def test_another_generator_is_refused_with_both_hashes(edits: EditSet) -> None:
    with pytest.raises(BadInputError, match=f"{edits['age'].generator_sha256}.*{'0' * 64}"):
        load_directions(FOLDER, "0" * 64)


@pytest.mark.parametrize(
    ("name", "down", "up", "per_unit"), [("age", -10.0, 20.0, 1.0), ("yaw", -10.0, 10.0, 1.0)]
)
def test_a_rendered_edit_moves_what_it_names_by_its_unit(
    tools: Instruments, edits: EditSet, name: str, down: float, up: float, per_unit: float
) -> None:
    # Codes that no unit was set on.
    ws = draw_single(tools.generator, 6, 2024, 0.7)
    with torch.no_grad():
        low, high = (tools.render(edits.apply(ws, [EditRequest(name, s)])).clamp(-1, 1) for s in (down, up))
    change = tools.judge(high)[name] - tools.judge(low)[name]
    assert np.isfinite(change).all()
    assert (change > 0).all()
    assert change.mean() / per_unit / (up - down) == pytest.approx(1, abs=0.35)


def test_the_gate_reads_what_was_measured() -> None:
    """Slopes as distances from 1, and the least identity, taken at the strength at or above the usual one."""
    settings = load_params().section("directions", DirectionSettings)
    edits = {name: {"slope": 1.0, "identity": {"-1": 0.2, "100": 0.9}} for name in settings.edits}
    edits["age"] = {"slope": 0.7, "identity": {"-20": 0.1, "10": 0.2, "20": 0.6, "30": 0.3}}
    edits["yaw"] = {"slope": 1.25, "identity": {"15": 0.8}}
    found = evaluation_of({"edits": edits}, FOLDER, settings)
    assert found.metrics == pytest.approx({"age_slope_error": 0.3, "yaw_slope_error": 0.25, "identity": 0.6})
    assert found.model_sha256 == weights_sha256(load_model(FOLDER).tensors)
    shipped = Evaluation.from_json(EVALUATION.read_text())
    assert (shipped.model_sha256, shipped.data_hash) == (found.model_sha256, found.data_hash)
