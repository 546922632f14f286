"""Refining directions: what is asked of which attribute, codes that are rendered once, runs that are resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from modules.editing.directions import Direction, EditSet
from modules.lit.directions import DirectionTraining, LitDirections
from modules.losses.edits import Edited
from services.attributes import AttributeJudge
from services.refinement import Goal, Pool, RefineSettings, attribute_term, refine, render_pool

ROWS, WIDTH = 3, 4
USUAL = torch.tensor([20.0, 0.1, 6.0])
EFFECTS = USUAL[:, None] * torch.randn(3, ROWS * WIDTH, generator=torch.Generator().manual_seed(0)) / 3
GREY = 0.2
"""Of a code's unit in a picture: small enough that none is clamped."""
GOALS = {"age": Goal((0, 2), 1.0, 20.0), "smile": Goal((1, 3), 0.1, -1.0)}
SETTINGS = RefineSettings(
    training=DirectionTraining(60, 2, 0.05, 0.0, 0.5, {"attributes": 1.0, "identity": 1.0}),
    singles=0, mixed=0, per_clip=0, tolerance=0.5, identity=0.5, kept={"roll": 6.0}, checkpoint_every=4, seed=2,
)  # fmt: skip


class Judge:
    """Attributes that are linear in the codes, which the pictures are."""

    def measure(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = images[:, 0].flatten(1) @ EFFECTS.T / GREY
        return dict(zip(("age", "smile", "roll"), found.unbind(1), strict=True))


JUDGE = cast(AttributeJudge, Judge())


def render(ws: torch.Tensor) -> torch.Tensor:
    return ws[:, None].expand(-1, 3, -1, -1) * GREY


def embed(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.ones(len(images), 2), dim=1)


def start(sign: float = 1.0) -> EditSet:
    """Each moves its own attribute by half of what it is to, and all the others too."""
    directions = []
    for k, (name, goal) in enumerate(GOALS.items()):
        vector = torch.zeros(ROWS, WIDTH)
        vector[slice(*goal.rows)] = EFFECTS[k].reshape(ROWS, WIDTH)[slice(*goal.rows)]
        vector *= sign * goal.per_unit / 2 / (vector.flatten() @ EFFECTS[k])
        directions.append(Direction(name, "units", vector, -1.5 * abs(goal.typical), abs(goal.typical), "a" * 64))
    return EditSet(directions)


def pool() -> Pool:
    ws = torch.randn(6, ROWS, WIDTH, generator=torch.Generator().manual_seed(1)) / 2
    pixels = render(ws).mul(127.5).add(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Pool(ws, pixels)


def train(folder: Path, settings: RefineSettings = SETTINGS, sign: float = 1.0) -> EditSet:
    return refine(start(sign), GOALS, pool(), np.eye(WIDTH), render, JUDGE, embed, settings, folder)


def test_an_attribute_is_asked_its_unit_and_counted_in_its_usual_strength() -> None:
    term, asked = attribute_term(JUDGE, GOALS, SETTINGS)
    torch.testing.assert_close(asked, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.1, 0.0]]))
    torch.testing.assert_close(term.scales, torch.tensor([10.0, 0.05, 3.0]))
    ws = torch.zeros(1, ROWS, WIDTH)
    changes = torch.tensor([[3.0, 0.02, -1.0]])
    moved = ws + (changes @ torch.linalg.pinv(EFFECTS).T).reshape(1, ROWS, WIDTH)
    left = (changes - 2 * asked[:1]) / term.scales
    found = term(Edited(render(ws), render(moved), torch.tensor([0]), 2 * asked[:1]))
    torch.testing.assert_close(found, ((1 + left**2).sqrt() - 1).sum(1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_refined_edits_do_what_they_are_named_for_and_less_else(tmp_path: Path, sign: float) -> None:
    """A start that goes the wrong way is turned round."""
    longer = replace(SETTINGS, training=replace(SETTINGS.training, steps=250, learning_rate=0.1))
    before, after = start(sign), train(tmp_path, longer, sign)
    effects = {
        which: torch.stack(
            [e.vector.flatten() @ EFFECTS.T * abs(GOALS[n].typical) / USUAL for n, e in edits.items()]
        )
        for which, edits in (("before", before), ("after", after))
    }
    wanted = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    errors = {which: (found - wanted).abs().max() for which, found in effects.items()}
    assert errors["after"] < 0.2 and errors["after"] < 0.5 * errors["before"]
    for name, (first, last) in ((name, goal.rows) for name, goal in GOALS.items()):
        assert (after[name].vector[[row for row in range(ROWS) if not first <= row < last]] == 0).all()
        assert (after[name].unit, after[name].lower) == (before[name].unit, before[name].lower)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SETTINGS, training=replace(SETTINGS.training, steps=10))
    whole = train(tmp_path / "whole", settings)
    steps: list[int] = []
    original = LitDirections.training_step

    def counted(self: LitDirections, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        steps.append(self.global_step)
        if len(steps) == 7:
            raise RuntimeError("killed")
        return original(self, batch, index)

    monkeypatch.setattr(LitDirections, "training_step", counted)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "killed", settings)
    resumed = train(tmp_path / "killed", settings)
    assert steps[7:] == [4, 5, 6, 7, 8, 9]
    again = train(tmp_path / "killed", settings)
    assert len(steps) == 13, "a finished run is not trained again"
    for name in GOALS:
        torch.testing.assert_close(resumed[name].vector, whole[name].vector)
        torch.testing.assert_close(again[name].vector, whole[name].vector)


def test_other_settings_are_another_run_and_no_steps_are_none(tmp_path: Path) -> None:
    short = replace(SETTINGS, training=replace(SETTINGS.training, steps=2))
    train(tmp_path, short)
    train(tmp_path, replace(short, identity=0.7))
    assert len(list(tmp_path.iterdir())) == 2
    none = train(tmp_path, replace(short, training=replace(short.training, steps=0)))
    for name, edit in start().items():
        torch.testing.assert_close(none[name].vector, edit.vector)


def test_pictures_are_rendered_once_for_the_same_codes(tmp_path: Path) -> None:
    rendered: list[int] = []

    def counted(ws: torch.Tensor) -> torch.Tensor:
        rendered.append(len(ws))
        return render(ws)

    ws, path = pool().ws, tmp_path / "sub" / "codes.safetensors"
    made = render_pool(ws, counted, path, "a", lambda done, total: None)
    np.testing.assert_array_equal(made.pictures, pool().pictures)
    assert sum(rendered) == 6
    render_pool(ws, counted, path, "a", lambda done, total: None)
    assert sum(rendered) == 6
    render_pool(ws, counted, path, "b", lambda done, total: None)
    render_pool(ws + 1, counted, path, "b", lambda done, total: None)
    assert sum(rendered) == 18
