"""Refining directions: what is asked of which attribute, codes that are rendered once, runs that are resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from datamodules.types import BadInputError
from modules.editing.directions import Direction, EditSet, save_directions
from modules.lit.direction_training import DirectionTraining
from modules.lit.directions import LitDirections
from modules.losses.edits import Edited, Judged
from services.attributes import AttributeJudge
from services.direction_settings import DirectionSettings, RefineSettings
from services.edits import directions, refinement
from services.edits.refinement import Goal, Pool, attribute_term, refine, render_pool
from services.settings import load_params

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


NONE = directions.KeptFaces({}, "")


class Judge:
    """Attributes that are linear in the codes, which the pictures are."""

    mesh = None

    def measure(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = images[:, 0].flatten(1) @ EFFECTS.T / GREY
        return dict(zip(("age", "smile", "roll"), found.unbind(1), strict=True))


JUDGE = cast(AttributeJudge, Judge())


def render(ws: torch.Tensor) -> torch.Tensor:
    return ws[:, None].expand(-1, 3, -1, -1) * GREY


def embed(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.ones(len(images), 2), dim=1)


def everywhere(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images), dtype=torch.bool)


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


def train(folder: Path, settings: RefineSettings = SETTINGS, sign: float = 1.0, made_of: str = "code") -> EditSet:
    return refine(
        start(sign), GOALS, pool(), np.eye(WIDTH), render, JUDGE, embed, everywhere, settings, made_of, folder
    )


def test_an_attribute_is_asked_its_unit_and_counted_in_its_usual_strength() -> None:
    term, asked = attribute_term(JUDGE, GOALS, SETTINGS)
    torch.testing.assert_close(asked, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.1, 0.0]]))
    torch.testing.assert_close(term.scales, torch.tensor([10.0, 0.05, 3.0]))
    ws = torch.zeros(1, ROWS, WIDTH)
    changes = torch.tensor([[3.0, 0.02, -1.0]])
    moved = ws + (changes @ torch.linalg.pinv(EFFECTS).T).reshape(1, ROWS, WIDTH)
    left = (changes - 2 * asked[:1]) / term.scales
    found, _ = term(Edited(render(ws), render(moved), torch.tensor([0]), 2 * asked[:1]))
    torch.testing.assert_close(found, ((1 + left**2).sqrt() - 1).sum(1), rtol=1e-3, atol=1e-3)


def test_what_is_free_is_asked_nothing() -> None:
    goals = {**GOALS, "smile": replace(GOALS["smile"], free=frozenset({"age"}))}
    _, asked = attribute_term(JUDGE, goals, SETTINGS)
    assert asked[1].isnan().tolist() == [True, False, False] and asked[0].isfinite().all()


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
    train(tmp_path, short, made_of="other code")
    assert len(list(tmp_path.iterdir())) == 3
    none = train(tmp_path, replace(short, training=replace(short.training, steps=0)))
    for name, edit in start().items():
        torch.testing.assert_close(none[name].vector, edit.vector)


def test_an_edit_that_goes_on_alone_leaves_the_others_and_is_asked_its_own_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(SETTINGS, training=replace(SETTINGS.training, steps=4))
    asked: list[object] = []
    original = refinement.EditBatches
    monkeypatch.setattr(refinement, "EditBatches", lambda *given: asked.append(given[2]) or original(*given))
    parts = np.eye(WIDTH), render, JUDGE, embed, everywhere, short, "code", tmp_path
    found = refine(start(), GOALS, pool(), *parts, alone=("age", (-5.0, 7.0)))
    assert torch.equal(found["smile"].vector, start()["smile"].vector)
    assert not torch.allclose(found["age"].vector, start()["age"].vector)
    assert asked == [[(-5.0, 7.0)]], "not the bounds that it is offered in"
    assert (found["age"].lower, found["age"].upper) == (start()["age"].lower, start()["age"].upper)


def test_a_face_can_be_held_where_it_is_too(tmp_path: Path) -> None:
    """A term that counts every change, weighed heavily, leaves next to nothing of the edit."""

    def moved(pair: Edited) -> Judged:
        start = pair.before[pair.code]
        return Judged((pair.after - start).flatten(1).norm(dim=1), everywhere(pair.after, start))

    held = replace(SETTINGS.training, weights={**SETTINGS.training.weights, "mesh": 100.0})
    free = train(tmp_path)
    kept = refine(
        start(), GOALS, pool(), np.eye(WIDTH), render, JUDGE, embed, everywhere,
        replace(SETTINGS, training=held), "code", tmp_path, further={"mesh": moved},
    )  # fmt: skip
    assert kept["age"].vector.norm() < 0.2 * free["age"].vector.norm()


@pytest.mark.parametrize("weights", [{}, {"mesh": 1.0}, {"mesh": 1.0, "landmark_features": 1.0}])
def test_only_the_terms_of_faces_that_weights_name_are_loaded(weights: dict[str, float]) -> None:
    params = load_params(environment={})
    settings = params.section("directions", DirectionSettings)
    own = settings.alone["age"]
    training = replace(own.training, weights={"attributes": 1.0, **weights})
    faces = directions.kept_faces(params, replace(settings, alone={"age": replace(own, training=training)}))
    assert set(faces.terms) == set(weights)
    assert bool(faces.judged_by) is bool(weights)
    assert faces.of(settings.refine.training) == directions.KeptFaces({}, ""), "all edits together have none"


def test_the_stage_refines_an_edit_alone_as_its_own_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr(directions, "refine", lambda *these: given.append(these))
    monkeypatch.setattr(directions, "_single_codes", lambda generator: np.eye(WIDTH))
    settings = load_params().section("directions", DirectionSettings)
    own = settings.alone["age"]
    toy = SimpleNamespace(sha256="g", w_mean=torch.zeros(WIDTH))
    tools = SimpleNamespace(generator=toy, render=render, judge=JUDGE, embed=embed)
    faces = directions.KeptFaces(
        {"mesh": lambda edited: Judged(edited.asked[:, 0], edited.asked[:, 0] == 0)}, "judge"
    )
    directions.refine_on(pool(), start(), tools, settings, faces, False, lambda line: None, "age")  # type: ignore[arg-type]
    (_, goals, *_rest), only = given[0], given[0][-2]
    assert given[0][-1] == faces.terms and "judge" in str(given[0][9])
    config = given[0][8]
    assert isinstance(goals, dict) and goals["age"].rows == own.rows and goals["yaw"].rows != own.rows
    assert isinstance(config, RefineSettings)
    assert (config.training, config.identity) == (own.training, own.identity)
    assert only == ("age", own.reach)
    assert goals["age"].free == {"surprise", "anger"}, "an expression is free where nothing is said to keep it"
    assert {"mouth_open", "eyes_open", "smile"} <= goals["surprise"].free
    assert not {"surprise", "age", "yaw", "gender"} & goals["surprise"].free


def test_edits_that_are_gone_on_from_are_those_that_params_names(tmp_path: Path) -> None:
    settings = load_params().section("directions", DirectionSettings)
    sets = [Direction(name, "old", torch.zeros(1, 2), -1, 1, "g") for name in (*settings.edits, "grin")]
    folder, said = save_directions(tmp_path / "edits", EditSet(sets), "card"), []
    found = directions.edits_to_go_on_from(folder, "g", settings, said.append)
    assert list(found) == list(settings.edits) and len(said) == 1 and "grin" in said[0]
    age = settings.edits["age"]
    assert (found["age"].unit, found["age"].lower, found["age"].upper) == (age.unit, age.lower, age.upper)
    few = replace(settings, start_from="edits", learned=("surprise", "anger"))
    assert list(directions.edits_to_go_on_from(folder, "g", few, said.append)) == list(settings.edits)[:-2]
    less = save_directions(tmp_path / "less", EditSet(sets[1:]), "card")
    with pytest.raises(BadInputError, match=f"lacks {sets[0].name}, which directions.edits names"):
        directions.edits_to_go_on_from(less, "g", settings, said.append)


@pytest.mark.parametrize("other", ["code", "generator", "resolution", "least_score", "shrink"])
def test_the_stage_says_what_its_runs_are_made_of(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    """What ``refine`` cannot see: with ``start_from``, other judges would read the finished run of these."""
    said: list[str] = []
    monkeypatch.setattr(directions, "refine", lambda *given: said.append(given[9]))
    monkeypatch.setattr(directions, "_single_codes", lambda generator: np.eye(WIDTH))
    settings = load_params().section("directions", DirectionSettings)

    def go(settings: DirectionSettings, generator: str = "g") -> None:
        toy = SimpleNamespace(sha256=generator, w_mean=torch.zeros(WIDTH))
        tools = SimpleNamespace(generator=toy, render=render, judge=JUDGE, embed=embed)
        directions.refine_on(pool(), start(), tools, settings, NONE, False, lambda line: None)  # type: ignore[arg-type]

    go(settings)
    go(settings)
    if other == "code":
        monkeypatch.setattr(directions, "code_sha256", lambda stage: f"other code of {stage}")
    changed = {other: 64} if other in ("resolution", "least_score", "shrink") else {}
    go(replace(settings, **changed), "other" if other == "generator" else "g")  # type: ignore[arg-type]
    assert said[0] == said[1] != said[2]


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


def test_an_edit_that_learns_in_no_steps_stays_as_it_is(tmp_path: Path) -> None:
    """As when units are set anew: its terms are there all the same."""
    none = replace(SETTINGS, training=replace(SETTINGS.training, steps=0))
    found = train(tmp_path, none)
    assert all(torch.equal(found[name].vector, start()[name].vector) for name in GOALS)
    settings = load_params(environment={}).section("directions", DirectionSettings)
    own = settings.alone["age"]
    still = replace(settings, alone={"age": replace(own, training=replace(own.training, steps=0))})
    faces = directions.kept_faces(load_params(environment={}), still)
    assert set(faces.of(own.training).terms) == {"landmark_features", "mesh"}
