"""The pose editor: nothing asked is nothing done, least squares against scikit-learn, what its folder keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pose_toys import NUM_WS, OFFERED, ROWS, SHA, W_DIM, toy_basis, toy_editor, toy_expressions
from sklearn.linear_model import Ridge

from datamodules.types import BadInputError
from modules.editing.directions import EditRequest
from modules.editing.pose import (
    NAMES,
    PoseEdit,
    PoseEditor,
    PoseEditorConfig,
    load_pose_editor,
    pose_edits,
    request,
    save_pose_editor,
)

HELD = {"pose.yaw": {"expression.smile": (0.02, -0.03)}}
"""A smile falls when the head turns to the left, and rises to the right."""


def test_no_change_moves_no_code_whatever_was_learned() -> None:
    editor = toy_editor()
    with torch.no_grad():
        assert torch.equal(editor(torch.zeros(3, 11)), torch.zeros(3, NUM_WS, W_DIM))
        moved = editor(torch.randn(3, 11))
    assert moved[:, :ROWS].abs().min() > 0
    assert torch.equal(moved[:, ROWS:], torch.zeros(3, NUM_WS - ROWS, W_DIM))
    ws = torch.randn(2, NUM_WS, W_DIM)
    edits = pose_edits(editor, toy_basis(), toy_expressions(), OFFERED, {}, SHA)
    assert torch.equal(edits.apply(ws, [EditRequest("pose.yaw", 0.0)]), ws)


def test_a_turn_asks_for_more_of_the_expression_to_each_side_by_itself() -> None:
    editor, basis, expressions = toy_editor(), toy_basis(), toy_expressions()
    ws = torch.zeros(1, NUM_WS, W_DIM)
    held = pose_edits(editor, basis, expressions, OFFERED, {}, SHA, HELD)
    plain = pose_edits(editor, basis, expressions, OFFERED, {}, SHA)
    for strength, amount in ((-10.0, 0.02), (10.0, -0.03)):
        asked = request("pose.yaw", strength, basis, expressions)
        asked += request("expression.smile", 10 * amount, basis, expressions)
        with torch.no_grad():
            torch.testing.assert_close(held["pose.yaw"](ws, strength), editor(asked[None]))
        assert not torch.allclose(plain["pose.yaw"](ws, strength), held["pose.yaw"](ws, strength))
    assert torch.equal(held["expression.smile"](ws, 1.0), plain["expression.smile"](ws, 1.0))
    assert torch.equal(held["pose.yaw"](ws, 0.0), ws)


def test_every_frame_is_moved_by_the_same() -> None:
    ws = torch.randn(7, NUM_WS, W_DIM)
    edits = pose_edits(toy_editor(), toy_basis(), toy_expressions(), OFFERED, {}, SHA)
    moved = edits.apply(ws, [EditRequest("pose.yaw", 12.0), EditRequest("expression.smile", 1.0)]) - ws
    torch.testing.assert_close(moved, moved[:1].expand_as(moved))


def test_the_linear_part_is_ridge_regression() -> None:
    random = torch.Generator().manual_seed(2)
    x = torch.randn(200, 4, generator=random) * torch.tensor([1.0, 5.0, 0.1, 2.0]) + 3
    ws = torch.randn(200, NUM_WS, W_DIM, generator=random) + 0.5 * x[:, :1, None]
    editor = PoseEditor(PoseEditorConfig(8, ROWS), NUM_WS, x.std(0), torch.randn(W_DIM, W_DIM, generator=random))
    editor.solve(x, ws, 0.05)
    scaled = (x / x.std(0)).double().numpy()
    target = ws[:, :ROWS].flatten(1).double().numpy()
    theirs = Ridge(alpha=0.05 * 200).fit(scaled, target)
    change = torch.randn(3, 4, generator=random)
    expected = (change / x.std(0)).double().numpy() @ theirs.coef_.T
    with torch.no_grad():
        ours = editor(change)[:, :ROWS].flatten(1)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-3, rtol=1e-3)


def test_a_request_is_told_in_the_face_models_numbers() -> None:
    basis, expressions = toy_basis(), toy_expressions()
    yaw = request("pose.yaw", 30.0, basis, expressions)
    expected = torch.zeros(11)
    expected[6] = -torch.pi / 6
    torch.testing.assert_close(yaw, expected)
    smile = request("expression.smile", 2.0, basis, expressions)
    torch.testing.assert_close(smile[2:5], 2 * expressions[1])
    assert smile[[0, 1, *range(5, 11)]].abs().max() == 0
    assert float(request("pose.nearer", 10.0, basis, expressions)[10]) == pytest.approx(25.6)
    with pytest.raises(BadInputError, match=r"pose\.yaw"):
        request("pose.jaw", 1.0, basis, expressions)
    assert len({tuple(request(name, 1.0, basis, expressions).tolist()) for name in NAMES}) == len(NAMES)


def test_a_folder_gives_back_what_was_saved(tmp_path: Path) -> None:
    editor, basis = toy_editor(), toy_basis()
    gains = {"pose.yaw": 1.5}
    folder = save_pose_editor(
        tmp_path / "editor", editor, basis, toy_expressions(), OFFERED, gains, SHA, HELD, "# Card\n"
    )
    loaded = load_pose_editor(folder, SHA)
    for name, value in basis.tensors().items():
        assert torch.equal(getattr(loaded.basis, name), value)
    assert loaded.offered == OFFERED
    assert loaded.gains == {"pose.yaw": 1.5, "expression.smile": 1.0}
    assert loaded.held == HELD
    ws = torch.randn(2, NUM_WS, W_DIM)
    asked = [EditRequest("pose.yaw", 10.0)]
    ours = pose_edits(editor, basis, toy_expressions(), OFFERED, gains, SHA, HELD).apply(ws, asked)
    theirs = loaded.edits().apply(ws, asked)
    # The network is kept in half precision.
    assert float((ours - theirs).abs().max()) < 5e-3 * float((ours - ws).abs().max())
    assert {row.name for row in loaded.edits().describe()} == set(OFFERED)


def test_bad_folders_and_bad_strengths_are_one_line(tmp_path: Path) -> None:
    folder = save_pose_editor(
        tmp_path / "editor", toy_editor(), toy_basis(), toy_expressions(), OFFERED, {}, SHA, {}, "# Card\n"
    )
    edits = load_pose_editor(folder, SHA).edits()
    for strength in (float("nan"), 21.0):
        with pytest.raises(BadInputError, match=r"pose\.yaw") as refusal:
            edits["pose.yaw"](torch.zeros(1, NUM_WS, W_DIM), strength)
        assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="does not move codes"):
        edits["pose.yaw"](torch.zeros(1, NUM_WS + 1, W_DIM), 1.0)
    with pytest.raises(BadInputError, match="b" * 64):
        load_pose_editor(folder, "b" * 64)
    config = json.loads((folder / "config.json").read_text())
    for held in ({"pose.pitch": [0, 0]}, {"expression.smile": [0]}):
        config["edits"]["pose.yaw"]["held"] = held
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(BadInputError, match="damaged"):
            load_pose_editor(folder, SHA)
    del config["edits"]["pose.yaw"]["held"], config["edits"]["pose.yaw"]["gain"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match="damaged"):
        load_pose_editor(folder, SHA)


def test_shapes_that_do_not_fit_are_refused() -> None:
    editor = toy_editor()
    with pytest.raises(ValueError, match="changes must be"):
        editor(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="do not fit"):
        PoseEditor(PoseEditorConfig(8, NUM_WS + 1), NUM_WS, torch.ones(3), torch.eye(W_DIM))
    with pytest.raises(ValueError, match="do not go with"):
        editor.solve(torch.zeros(3, 11), torch.zeros(2, NUM_WS, W_DIM), 0.1)


@pytest.mark.parametrize("size, upper", [(1.0, float("inf")), (float("nan"), 20.0)])
def test_an_edit_without_finite_numbers_is_refused(size: float, upper: float) -> None:
    editor = toy_editor()
    change, none = torch.full_like(editor.scale, size), torch.zeros(2, len(editor.scale))
    with pytest.raises(ValueError, match="finite"):
        PoseEdit("pose.yaw", "degrees", change, -20.0, upper, SHA, editor, none)
    with pytest.raises(ValueError, match="finite"):
        PoseEdit("pose.yaw", "degrees", editor.scale, -20.0, 20.0, SHA, editor, none + torch.nan)
