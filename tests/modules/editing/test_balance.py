"""Edits balanced on a face whose answer to them is known in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from modules.editing.balance import BalanceConfig, balance
from modules.editing.directions import Direction, Edit, EditRequest, EditSet

NAMES = ("age", "smile", "yaw")
TYPICAL = {"age": 20.0, "smile": 1.0, "yaw": 10.0}
BOUNDS = {"age": (-20.0, 30.0), "smile": (-1.0, 1.5), "yaw": (-20.0, 20.0)}
CONFIG = BalanceConfig(frames=2, rounds=6, rate=0.8, most=0.5)


def edit_set(more: tuple[str, ...] = ()) -> EditSet[Edit]:
    """Each edit moves the number of its own place by one per unit."""
    names = (*NAMES, *more)
    return EditSet(
        Direction(n, "units", torch.eye(len(names), 4)[k][None], *BOUNDS.get(n, (-5.0, 5.0)), "toy")
        for k, n in enumerate(names)
    )


class Face:
    """Answers edits of two equal faces by a matrix: what the three edits do to their three attributes."""

    def __init__(self, answer: NDArray[np.float64]) -> None:
        self.answer, self.looks = answer, 0

    def __call__(self, requests: Sequence[EditRequest]) -> NDArray[np.float64]:
        self.looks += 1
        ws = edit_set().apply(torch.zeros(2, 1, 4), requests)
        return 7.0 + ws[:, 0, :3].double().numpy() @ self.answer


def got(face: Face, requests: list[EditRequest], more: tuple[EditRequest, ...]) -> NDArray[np.float64]:
    return (face([*requests, *more]) - face([]))[0]


def test_what_was_not_asked_is_taken_back_and_what_was_asked_arrives() -> None:
    # Ten years bring 0.2 of a smile, and age itself comes out a fifth too strong.
    face = Face(np.array([[1.2, 0.02, 0.1], [0.0, 0.9, 0.0], [0.0, 0.0, 1.1]]))
    asked = [EditRequest("age", 20.0)]
    np.testing.assert_allclose(got(face, asked, ()), [24.0, 0.4, 2.0])
    more = balance(asked, edit_set(), TYPICAL, face, CONFIG)
    np.testing.assert_allclose(got(face, asked, more), [20.0, 0.0, 0.0], atol=0.05)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-0.4, 0.4), min_size=9, max_size=9),
    st.floats(-20, 30), st.floats(-1, 1.5), st.floats(-20, 20),
)  # fmt: skip
def test_it_never_ends_farther_off_than_it_began_nor_out_of_bounds(
    errors: list[float], age: float, smile: float, yaw: float
) -> None:
    usual = np.array(list(TYPICAL.values()))
    # An error is a share of the usual strengths, so that it means the same for years and for smiles.
    face = Face((np.eye(3) + np.array(errors).reshape(3, 3)) * usual / usual[:, None])
    asked = [EditRequest("age", age), EditRequest("smile", smile), EditRequest("yaw", yaw)]
    edits = edit_set()
    more = balance(asked, edits, TYPICAL, face, CONFIG)
    edits.check([*asked, *more])
    wanted = np.array([age, smile, yaw])
    before, after = (np.linalg.norm((got(face, asked, m) - wanted) / usual) for m in ((), more))
    assert after <= before + 1e-5
    assert all(abs(r.strength) <= CONFIG.most * TYPICAL[r.name] + 1e-6 for r in more)


def test_a_face_that_answers_more_than_edits_say_is_gone_back_on() -> None:
    # What is taken back of the smile comes out three times as strong: each whole step would end farther off.
    face = Face(np.array([[1.0, 0.02, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]]))
    asked = [EditRequest("age", 20.0)]
    few = BalanceConfig(frames=1, rounds=3, rate=0.8, most=0.5)
    more = balance(asked, edit_set(), TYPICAL, face, few)
    np.testing.assert_allclose(got(face, asked, more), [20.0, 0.4 - 0.4 * 0.4 * 3, 0.0], atol=1e-4)


def test_a_strength_is_asked_once_however_many_requests_it_came_in() -> None:
    face = Face(np.diag([0.8, 1.0, 1.0]))
    edits = edit_set()
    once = balance([EditRequest("age", 10.0)], edits, TYPICAL, face, CONFIG)
    twice = balance([EditRequest("age", 4.0), EditRequest("age", 6.0)], edits, TYPICAL, face, CONFIG)
    assert once == twice and once[0].strength == pytest.approx(2.5, abs=0.05)


def test_edits_that_nobody_measures_are_left_as_they_are() -> None:
    face, edits = Face(np.eye(3) + 0.1), edit_set(("lips",))
    assert balance([EditRequest("lips", 2.0)], edits, TYPICAL, face, CONFIG) == ()
    assert face.looks == 0
    both = balance([EditRequest("age", 10.0), EditRequest("lips", 2.0)], edits, TYPICAL, face, CONFIG)
    assert both == balance([EditRequest("age", 10.0)], edits, TYPICAL, face, CONFIG)
    assert "lips" not in {request.name for request in both}


def test_nothing_is_looked_at_where_nothing_is_to_be_done() -> None:
    face = Face(np.eye(3) + 0.1)
    off = BalanceConfig(frames=1, rounds=0, rate=0.8, most=0.5)
    assert balance([EditRequest("age", 10.0)], edit_set(), TYPICAL, face, off) == ()
    assert balance([EditRequest("age", 0.0)], edit_set(), TYPICAL, face, CONFIG) == ()
    assert face.looks == 0


def test_a_face_that_is_lost_under_the_edit_gets_it_as_it_is() -> None:
    def lost(requests: Sequence[EditRequest]) -> NDArray[np.float64]:
        return np.full((2, 3), np.nan if requests else 0.0)

    assert balance([EditRequest("age", 20.0)], edit_set(), TYPICAL, lost, CONFIG) == ()


def test_a_face_that_is_lost_later_keeps_the_best_that_was_seen() -> None:
    face = Face(np.diag([0.5, 1.0, 1.0]))

    def losing(requests: Sequence[EditRequest]) -> NDArray[np.float64]:
        found = face(requests)
        return np.where(found[:, :1] > 7.0 + 8.0, np.nan, found)

    # 10 years give 5, then 14 give 7; 16.4 would give 8.2 and are lost. Half as far, 15.2 give 7.6; 16.2 are lost.
    more = balance([EditRequest("age", 10.0)], edit_set(), TYPICAL, losing, CONFIG)
    assert more == (EditRequest("age", pytest.approx(5.68)),)


@pytest.mark.parametrize("lost_before", [True, False])
def test_a_face_that_is_not_seen_has_no_part_and_the_others_are_balanced(lost_before: bool) -> None:
    face = Face(np.diag([0.8, 1.0, 1.0]))
    asked = [EditRequest("age", 10.0)]

    def half_seen(requests: Sequence[EditRequest]) -> NDArray[np.float64]:
        found = face(requests)
        if lost_before or requests:
            found[1] = np.nan
        return found

    said: list[str] = []
    more = balance(asked, edit_set(), TYPICAL, half_seen, CONFIG, said.append)
    assert more == balance(asked, edit_set(), TYPICAL, face, CONFIG) != ()
    assert len(said) == 1 and "on 1 of 2 frames" in said[0]


def test_rounds_are_compared_on_the_same_faces() -> None:
    """Where the face that answers badly is lost later, that round does not look better for it."""

    def answer(requests: Sequence[EditRequest]) -> NDArray[np.float64]:
        asked = sum(request.strength for request in requests)
        well, badly = 10.0 * bool(asked), 0.0 if asked <= 10.0 else np.nan
        return np.array([[well, 0.0, 0.0], [badly, 0.0, 0.0]])

    # 10 years give 10 and nothing. More of them lose the second face, and the first alone would seem right.
    assert balance([EditRequest("age", 10.0)], edit_set(), TYPICAL, answer, CONFIG) == ()


def test_where_no_face_is_left_it_is_said_that_edits_are_as_asked() -> None:
    said: list[str] = []

    def in_turns(requests: Sequence[EditRequest]) -> NDArray[np.float64]:
        return np.where([[bool(requests)], [not requests]], np.nan, np.zeros((2, 3)))

    assert balance([EditRequest("age", 20.0)], edit_set(), TYPICAL, in_turns, CONFIG, said.append) == ()
    assert len(said) == 1 and "not balanced" in said[0]
