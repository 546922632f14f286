"""Linear edits: arithmetic against NumPy, bounds, units, one-line errors, and the way to disk and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules.types import BadInputError
from modules.editing.directions import (
    Direction,
    EditRequest,
    EditSet,
    load_directions,
    parse_edit,
    save_directions,
)

SHA = "a" * 64
VALUES = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)


def edits(sha: str = SHA) -> EditSet:
    vectors = torch.from_numpy(VALUES)
    return EditSet(
        [
            Direction("age", "years", vectors[0], -20, 30, sha),
            Direction("yaw", "degrees", vectors[1], -15, 15, sha),
        ]
    )


def codes() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((3, 4, 6)).astype(np.float32))


def test_whether_an_edit_is_for_colours_is_kept_and_unknown_of_older_folders(tmp_path) -> None:
    age, yaw = edits().values()
    folder = save_directions(tmp_path / "edits", EditSet([replace(age, recolours=False), yaw]), "# card\n")
    assert [edit.recolours for edit in load_directions(folder, SHA).values()] == [False, True]
    config = json.loads((folder / "config.json").read_text())
    for row in config["directions"]:
        del row["recolours"]
    (folder / "config.json").write_text(json.dumps(config))
    assert [edit.recolours for edit in load_directions(folder, SHA).values()] == [True, True]


def test_an_attribute_is_kept_and_where_there_is_none_the_config_is_what_it_was(tmp_path) -> None:
    age, yaw = edits().values()
    folder = save_directions(tmp_path / "edits", EditSet([replace(age, attribute="age"), yaw]), "# card\n")
    assert [edit.attribute for edit in load_directions(folder, SHA).values()] == ["age", ""]
    rows = json.loads((folder / "config.json").read_text())["directions"]
    assert [set(row) - {"name", "unit", "lower", "upper", "recolours"} for row in rows] == [{"attribute"}, set()]


def test_requests_add_up_in_the_codes() -> None:
    got = edits().apply(codes(), [EditRequest("yaw", -7.5), EditRequest("age", 20)])
    wanted = codes().numpy().astype(np.float64) + 20 * VALUES[0] - 7.5 * VALUES[1]
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_nothing_asked_and_strength_zero_change_no_bit() -> None:
    ws = codes()
    assert torch.equal(edits().apply(ws, []), ws)
    assert torch.equal(edits().apply(ws, [EditRequest("age", 0.0), EditRequest("yaw", 0.0)]), ws)


@given(st.floats(-10, 15), st.floats(-10, 15))
def test_two_halves_are_the_whole(first: float, second: float) -> None:
    once = edits().apply(codes(), [EditRequest("age", first + second)])
    twice = edits().apply(codes(), [EditRequest("age", first), EditRequest("age", second)])
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("strengths", "total"),
    [((40.0, -20.0), 20.0), ((-5.0, -30.0, 25.0), -10.0), ((20.0, 20.0, -15.0), 25.0), ((10.0, -25.0), -15.0)],
)
def test_the_sum_of_what_is_asked_of_an_edit_is_held_to_its_bounds(
    strengths: tuple[float, ...], total: float
) -> None:
    """A strength that no edit goes to is not passed through on the way."""
    first, *others = (EditRequest("age", strength) for strength in strengths)
    requests, once = (
        [first, EditRequest("yaw", 5.0), *others],
        [EditRequest("age", total), EditRequest("yaw", 5.0)],
    )
    assert edits().merged(requests) == once
    edits().check(requests)
    assert torch.equal(edits().apply(codes(), requests), edits().apply(codes(), once))


def test_what_is_in_bounds_is_applied_as_it_was_asked() -> None:
    asked = [EditRequest("age", 10.0), EditRequest("yaw", 5.0), EditRequest("age", -12.0)]
    assert edits().merged(asked) == asked


def test_description_says_name_unit_and_bounds() -> None:
    described = [(d.name, d.unit, d.lower, d.upper) for d in edits().describe()]
    assert described == [("age", "years", -20, 30), ("yaw", "degrees", -15, 15)]


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([EditRequest("beard", 1)], ["'beard'", "age, yaw"]),
        ([EditRequest("age", 31)], ["'age'", "-20", "+30", "years", "+31"]),
        ([EditRequest("yaw", -15.1)], ["'yaw'", "-15", "degrees"]),
        ([EditRequest("age", 20), EditRequest("age", 20)], ["'age'", "+30 years", "+40"]),
        ([EditRequest("age", 40), EditRequest("age", -5)], ["'age'", "+30 years", "+35"]),
        ([EditRequest("age", math.inf), EditRequest("age", -math.inf)], ["'age'", "finite"]),
        ([EditRequest("age", math.nan)], ["'age'", "finite"]),
        ([EditRequest("age", -math.inf)], ["'age'", "finite"]),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(requests: list[EditRequest], said: list[str]) -> None:
    with pytest.raises(BadInputError) as raised:
        edits().apply(codes(), requests)
    assert raised.value.status == 422
    assert "\n" not in str(raised.value)
    for part in said:
        assert part in str(raised.value)


def test_codes_of_another_generator_do_not_fit() -> None:
    with pytest.raises(ValueError, match="age moves codes"):
        edits().apply(torch.zeros(1, 5, 6), [EditRequest("age", 1)])


@pytest.mark.parametrize(
    ("text", "name", "strength"),
    [("age=+20", "age", 20.0), ("smile=-0.5", "smile", -0.5), (" eyes_open = 1e-1 ", "eyes_open", 0.1)],
)
def test_text_is_read(text: str, name: str, strength: float) -> None:
    assert parse_edit(text) == EditRequest(name, strength)


@pytest.mark.parametrize("text", ["age", "age=", "=3", "", "age=old", "age=nan", "age=inf", "age=1=2"])
def test_text_that_is_no_edit_is_refused(text: str) -> None:
    with pytest.raises(BadInputError) as raised:
        parse_edit(text)
    assert "\n" not in str(raised.value)


def test_saved_set_comes_back(tmp_path: Path) -> None:
    folder = save_directions(tmp_path / "directions", edits(), "# Card\n")
    assert (folder / "card.md").read_text() == "# Card\n"
    loaded = load_directions(folder, SHA)
    assert loaded.describe() == edits().describe()
    for name in edits():
        assert torch.equal(loaded[name].vector, edits()[name].vector)


def test_directions_of_another_generator_are_refused_with_both_hashes(tmp_path: Path) -> None:
    folder = save_directions(tmp_path / "directions", edits(), "")
    with pytest.raises(BadInputError, match=f"{SHA}.*{'b' * 64}"):
        load_directions(folder, "b" * 64)


def test_a_set_holds_one_generator_and_each_name_once() -> None:
    age = edits()["age"]
    with pytest.raises(ValueError, match="one name"):
        EditSet([age, age])
    with pytest.raises(ValueError, match="one generator"):
        EditSet([age, edits("b" * 64)["yaw"]])
    with pytest.raises(ValueError, match="no directions"):
        save_directions(Path("unused"), EditSet([]), "")


@pytest.mark.parametrize(("lower", "upper"), [(1, 2), (-2, -1), (-math.inf, 1), (0, math.nan)])
def test_bounds_enclose_zero(lower: float, upper: float) -> None:
    with pytest.raises(ValueError, match="bounds"):
        Direction("age", "years", torch.zeros(4, 6), lower, upper, SHA)
