"""What the gate reads of the pose editor, and the champion measured anew on the challenger's terms."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pose_toys import NUM_WS, OFFERED, SHA, W_DIM, toy_basis, toy_editor, toy_expressions

import services.edits.pose_editor
import services.stages.evaluate
from datamodules.spread import spread
from datamodules.types import BadInputError
from modules.editing.pose import PoseEditSettings, save_pose_editor
from modules.model_folder import load_model, weights_sha256
from services.edits.encoded_codes import EncodedFrames
from services.edits.evaluation import Reading, Readings
from services.edits.instruments import Instruments
from services.edits.pose_editor import drifts
from services.edits.pose_evaluation import data_hash_of, drift_table, evaluate_pose_editor, evaluation_of
from services.edits.pose_settings import PoseEditorSettings
from services.registry.gate import Evaluation
from services.settings import load_params
from services.stages.evaluate import POSE_EDITOR, re_evaluation

PARAMS = load_params()
PITCH = PoseEditSettings("degrees", 1.0, -12, 12, 6, (-6, 6))
EDITS = {**OFFERED, "pose.pitch": PITCH}
SETTINGS = replace(PARAMS.section("pose_editor", PoseEditorSettings), edits=EDITS)
FRAMES = EncodedFrames(torch.zeros(4, NUM_WS, W_DIM), ("a", "a", "b", "b"), (0, 0, 1, 1), "data")


def entry(slope: float, seen: int = 4) -> dict[str, Any]:
    return {"slope": slope, "second_judge": {"slope": slope}, "identity": {"-10": 0.9, "10": 0.7}, "seen": seen}


def found(folder: Path, **changed: Any) -> Evaluation:
    edits = {"pose.yaw": entry(0.9), "pose.pitch": entry(1.2), "expression.smile": entry(0.5, seen=3), **changed}
    drifts = {
        "pose.yaw": {
            "expression.smile": {"mean": -0.2, "rms": 1.0, "noise": 0.1},
            "pose.pitch": {"mean": 9.0, "rms": 9.0, "noise": 0.1},
        }
    }
    return evaluation_of({"edits": edits}, drifts, folder, SETTINGS, FRAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pose_editor(
        tmp_path / "editor", toy_editor(), toy_basis(), toy_expressions(), EDITS, {}, SHA, {}, "card"
    )


def test_what_the_gate_reads(folder: Path) -> None:
    evaluation = found(folder)
    assert evaluation.metrics == {
        "yaw_slope_error": pytest.approx(0.1), "yaw_second_slope_error": pytest.approx(0.1),
        "pitch_slope_error": pytest.approx(0.2), "identity": 0.7, "expression_drift": pytest.approx(2.0),
    }  # fmt: skip
    assert (evaluation.frames, evaluation.clips) == (3, 2), "frames whose face was lost do not count"
    assert evaluation.model_sha256 == weights_sha256(load_model(folder).tensors)


def test_a_noise_that_one_picture_does_not_tell_leaves_the_cell_empty() -> None:
    offered = {name: EDITS[name] for name in ("pose.yaw", "expression.smile")}
    drifts = {
        "pose.yaw": {"expression.smile": {"mean": 0.1, "rms": 0.2, "noise": 0.1}},
        "expression.smile": {"pose.yaw": {"mean": 1.0, "rms": 1.0, "noise": 0.0}},
    }
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in drift_table(drifts, offered)[2:]]
    assert rows == [["—", "2.0"], ["—", "—"]]


def test_a_likeness_that_is_no_number_does_not_pass_as_the_other(folder: Path) -> None:
    broken = {**entry(1.0), "identity": {"-10": 0.9, "10": float("nan")}}
    assert np.isnan(found(folder, **{"pose.yaw": broken}).metrics["identity"])


def test_other_strengths_units_and_pictures_are_other_data() -> None:
    here = data_hash_of(FRAMES, SETTINGS)
    assert data_hash_of(replace(FRAMES, data_hash="other"), SETTINGS) != here
    assert data_hash_of(FRAMES, replace(SETTINGS, resolution=128)) != here
    assert (
        data_hash_of(FRAMES, replace(SETTINGS, edits={**EDITS, "pose.pitch": replace(PITCH, typical=5)})) != here
    )


def test_an_editor_without_what_is_asked_is_said(tmp_path: Path, folder: Path) -> None:
    less = save_pose_editor(
        tmp_path / "less", toy_editor(), toy_basis(), toy_expressions(), OFFERED, {}, SHA, {}, "card"
    )
    tools: Any = SimpleNamespace(generator=SimpleNamespace(sha256=SHA))
    with pytest.raises(BadInputError, match=r"lacks edits that are measured: pose\.pitch"):
        evaluate_pose_editor(less, FRAMES, SETTINGS, tools)


def test_a_champion_is_measured_where_the_challenger_was_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PoseEditorSettings] = []

    def measured(at: Path, frames: EncodedFrames, settings: PoseEditorSettings, tools: Instruments) -> Any:
        asked.append(settings)
        return [], found(at)

    tools = SimpleNamespace(generator=SimpleNamespace(sha256=SHA))
    monkeypatch.setattr(services.stages.evaluate, "load_instruments", lambda *_: tools)
    monkeypatch.setattr(services.stages.evaluate, "frames_of_test_persons", lambda *_: FRAMES)
    monkeypatch.setattr(services.stages.evaluate, "evaluate_pose_editor", measured)
    measure = re_evaluation(PARAMS, POSE_EDITOR)
    assert measure is not None
    version: Any = None
    shipped = PARAMS.section("pose_editor", PoseEditorSettings)
    challenger = replace(found(folder), data_hash=data_hash_of(FRAMES, shipped))
    assert measure(version, folder, challenger).metrics == found(folder).metrics
    assert asked == [shipped], "asked as params.yaml says, not as the folder does"
    with pytest.raises(BadInputError, match="measured on data elsewhere"):
        measure(version, folder, replace(challenger, data_hash="elsewhere"))
    assert len(asked) == 1


def test_units_are_set_over_the_strengths_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit that answers by 0.8 of what is asked of the network is asked 1.25 times as much, then no more.

    And a turn that takes a hundredth of a smile to the left, and gives half of that to the right, asks for it.
    """
    measured: list[tuple[Any, Any]] = []
    drifting = {"pose.yaw": (-0.01, 0.005)}

    def edits(editor: Any, basis: Any, expressions: Any, offered: Any, gains: Any, sha: str, held: Any) -> Any:
        return SimpleNamespace(gains=dict(gains), held=copy.deepcopy(held))

    def measure(codes: torch.Tensor, made: Any, probes: Any, *tools: Any) -> Any:
        measured.append((codes, probes))
        return made

    def left(made: Any, name: str, others: Any) -> dict[str, tuple[float, ...]]:
        asked = made.held.get(name, {}).get("expression.smile", (0.0, 0.0))
        return {"expression.smile": tuple(d + 0.8 * a for d, a in zip(drifting[name], asked, strict=True))}

    monkeypatch.setattr(services.edits.pose_editor, "pose_edits", edits)
    monkeypatch.setattr(services.edits.pose_editor, "measure_edits", measure)
    monkeypatch.setattr(services.edits.pose_editor, "drifts", left)
    monkeypatch.setattr(services.edits.pose_editor, "PoseJudge", lambda *given: None)
    monkeypatch.setattr(
        services.edits.pose_editor, "slopes_between",
        lambda made, name, names: np.array([0.8 * made.gains[name] * EDITS[name].per_unit]),
    )  # fmt: skip
    tools = SimpleNamespace(judge=SimpleNamespace(mesh=None), render=None, embed=None)
    model = SimpleNamespace(basis=None, expressions=None)
    known = torch.arange(9.0)[:, None, None]
    settings = replace(SETTINGS, calibration_codes=4, calibration_rounds=2, holding=("pose.yaw",))
    gains, held = services.edits.pose_editor.calibrate(
        None, model, tools, None, known, SHA, settings, lambda line: None  # type: ignore[arg-type]
    )  # fmt: skip
    assert gains == pytest.approx(dict.fromkeys(EDITS, 1.25))
    assert held["pose.yaw"]["expression.smile"] == pytest.approx((0.0125, -0.00625))
    assert list(held) == ["pose.yaw"]
    every, yaw = {name: edit.measured for name, edit in EDITS.items()}, {"pose.yaw": EDITS["pose.yaw"].measured}
    assert [probes for _, probes in measured] == [every, every, yaw, yaw]
    assert measured[0][0].flatten().tolist() == known[spread(9, 4)].flatten().tolist()


def test_a_drift_is_a_slope_through_0_to_each_side() -> None:
    def read(strength: float, smile: list[float]) -> Reading:
        return Reading(
            "pose.yaw", strength, {"smile": np.array(smile, np.float32)}, {}, np.ones(2, np.float32), None
        )

    start = read(0.0, [0.5, 0.7])
    rows = read(-20, [0.1, 0.3]), read(-10, [0.3, 0.5]), read(10, [0.5, np.nan]), read(20, [0.6, 0.8])
    found = drifts(Readings(start, rows), "pose.yaw", ["smile"])
    # To the right 0 and 0.1 at 10 and 20: (10 * 0 + 20 * 0.1) / (100 + 400).
    assert found["smile"] == pytest.approx((-0.02, 0.004))
    assert drifts(Readings(start, rows[:2]), "pose.yaw", ["smile"])["smile"] == pytest.approx((-0.02, 0.0))


def test_only_what_is_offered_can_hold_the_expression() -> None:
    with pytest.raises(BadInputError, match=r"holding names pose\.roll; pose_editor\.edits has no such edit"):
        load_params(overrides=["pose_editor.holding=[pose.yaw, pose.roll]"]).section(
            "pose_editor", PoseEditorSettings
        )
