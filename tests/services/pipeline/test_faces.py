from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.types import BadInputError
from modules.perception.detection import FaceBox, FaceObservation
from services.pipeline.faces import FacesConfig, Tracker, check_face, presence, track

CONFIG = FacesConfig(overlap=0.3, same_person=0.5, gap=2, shortest=2, hold=3, fade=4)


def face(x: float, side: float = 40.0, tag: float = 0.0) -> FaceObservation:
    box = FaceBox(x, 10.0, x + side, 10.0 + side, 0.9, np.zeros((5, 2), np.float32))
    return FaceObservation(box, np.full((68, 2), tag, np.float32), np.zeros((468, 3), np.float32), 0.9)


def tracked(frames: list[list[FaceObservation]], cuts: tuple[int, ...] = ()) -> Tracker:
    return track(frames, cuts, CONFIG)


def tags(points: np.ndarray) -> list[float]:
    return [float(value) for value in points[:, 0, 0]]


def test_two_moving_faces_keep_their_identity_in_any_order() -> None:
    frames = []
    for t in range(8):
        pair = [face(10 + 3 * t, 60, tag=1), face(200 - 3 * t, 40, tag=2)]
        frames.append(pair[:: (-1) ** t])
    tracker = tracked(frames)
    assert tags(tracker.choose("largest")[0].points) == [1.0] * 8
    assert tags(tracker.choose("0")[0].points) == [1.0] * 8
    assert tags(tracker.choose("1")[0].points) == [2.0] * 8
    assert [tags(lane.points) for lane in tracker.choose("all")] == [[1.0] * 8, [2.0] * 8]


def test_a_face_that_leaves_and_returns_elsewhere_is_one_face() -> None:
    here, there = [face(10, 60, tag=1)], [face(300, 60, tag=1)]
    lane = tracked([here] * 4 + [[]] * 5 + [there] * 4).choose("largest")[0]
    np.testing.assert_array_equal(lane.valid, [True] * 4 + [False] * 5 + [True] * 4)


def test_short_glimpses_are_not_faces() -> None:
    tracker = tracked([[face(10, 60, tag=1)], [face(10, 60, tag=1), face(200, 100, tag=2)], [face(12, 60, tag=1)]])
    assert len(tracker.choose("all")) == 1
    assert tags(tracker.choose("largest")[0].points) == [1.0] * 3


def test_one_frame_is_enough_for_one_frame() -> None:
    assert tracked([[face(10)]]).choose("largest")[0].valid.all()


def test_each_shot_has_its_own_largest_face() -> None:
    first, second = [face(10, 80, tag=1), face(200, 40, tag=2)], [face(12, 40, tag=3), face(200, 90, tag=4)]
    tracker = tracked([first] * 3 + [second] * 3, cuts=(3,))
    assert tracker.cuts == [3]
    assert tags(tracker.choose("largest")[0].points) == [1.0] * 3 + [4.0] * 3
    assert tags(tracker.choose("0")[0].points) == [1.0] * 3 + [3.0] * 3


@pytest.mark.parametrize("choice", ["2", "17"])
def test_a_number_beyond_the_faces_is_refused(choice: str) -> None:
    with pytest.raises(BadInputError, match="at most 2"):
        tracked([[face(10), face(200)]] * 3).choose(choice)


@pytest.mark.parametrize("choice", ["", "-1", "left", "1.5", "²"])
def test_other_choices_are_refused(choice: str) -> None:
    with pytest.raises(BadInputError, match="'largest', 'all' or a number"):
        check_face(choice)


def test_no_face_is_refused() -> None:
    with pytest.raises(BadInputError, match="no face was found"):
        tracked([[], []]).choose("largest")


def test_hold_then_fade_then_return() -> None:
    valid = np.array([True] * 3 + [False] * 9 + [True] * 6)
    shown = presence(valid, (), CONFIG)
    assert shown.state[:3] == ("face",) * 3
    assert shown.state[3:6] == ("held",) * 3
    assert shown.state[6:10] == ("faded",) * 4
    assert shown.state[10:12] == ("none",) * 2
    assert shown.state[12:] == ("face",) * 6
    np.testing.assert_allclose(shown.weight[:6], 1)
    np.testing.assert_allclose(shown.weight[6:10], [0.8, 0.6, 0.4, 0.2], atol=1e-6)
    assert not shown.weight[10:12].any()
    np.testing.assert_allclose(shown.weight[12:], [0.2, 0.4, 0.6, 0.8, 1, 1], atol=1e-6)


def test_nothing_is_held_into_a_new_shot() -> None:
    shown = presence(np.array([True, True, False, False, True]), (2, 4), CONFIG)
    assert shown.state == ("face", "face", "none", "none", "face")
    np.testing.assert_array_equal(shown.weight, [1, 1, 0, 0, 1])


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sets(st.integers(1, 59)))
def test_the_edit_never_jumps_inside_a_shot(valid: list[bool], cuts: set[int]) -> None:
    inside = [cut for cut in cuts if cut < len(valid)]
    shown = presence(np.array(valid), inside, CONFIG)
    steps = np.abs(np.diff(shown.weight))
    assert all(step <= 0.2 + 1e-6 for at, step in enumerate(steps, 1) if at not in inside)
    for here, weight, state in zip(valid, shown.weight, shown.state, strict=True):
        assert 0 <= weight <= 1
        assert (state == "face") == here
        assert (state == "none") == (weight == 0 and not here)


ANNA, BERT = np.eye(3, dtype=np.float32)[:2]


def followed(frames: list[list[FaceObservation]], persons: list[list[np.ndarray | None]]) -> Tracker:
    return track(frames, (), CONFIG, persons)


def test_another_person_in_the_same_place_is_another_face() -> None:
    frames = [[face(10, 60, tag=1)]] * 6 + [[face(12, 60, tag=2)]] * 4
    who: list[list[np.ndarray | None]] = [
        [None],
        [None],
        [ANNA],
        [None],
        [ANNA],
        [ANNA],
        [BERT],
        [BERT],
        [None],
        [None],
    ]
    tracker = followed(frames, who)
    assert tracker.changes("all") == (6,)
    largest, other = tracker.choose("all")
    np.testing.assert_array_equal(largest.valid, [True] * 6 + [False] * 4)
    assert tags(other.points[6:]) == [2.0] * 4 and not other.valid[:6].any()


def test_two_who_change_places_are_followed_by_who_they_are() -> None:
    frames, who = [], []
    for t in range(10):
        left, right = face(10, 60, tag=1 if t < 5 else 2), face(200, 50, tag=2 if t < 5 else 1)
        frames.append([left, right])
        who.append([ANNA, BERT] if t < 5 else [BERT, ANNA])
    tracker = followed(frames, who)
    assert [tags(lane.points) for lane in tracker.choose("all")] == [[1.0] * 10, [2.0] * 10]
    assert tracker.changes("all") == (5,)


def test_a_change_among_others_is_none_of_the_face_that_is_edited() -> None:
    frames = [[face(100, 90, tag=1), face(10, 30, tag=2 if t < 6 else 3)] for t in range(12)]
    stranger = np.eye(3, dtype=np.float32)[2]
    who: list[list[np.ndarray | None]] = [[ANNA, BERT if t < 6 else stranger] for t in range(12)]
    tracker = followed(frames, who)
    assert tracker.choose("largest")[0].valid.all()
    assert tracker.changes("largest") == tracker.changes("2") == ()  # counted from the left, over the shot
    assert tracker.changes("0") == tracker.changes("1") == tracker.changes("all") == (6,)


def test_a_glance_that_looks_like_nobody_parts_no_face() -> None:
    frames = [[face(10, 60, tag=1)]] * 9
    strange = np.array([0, 0, 1], np.float32)
    who: list[list[np.ndarray | None]] = [[ANNA]] * 4 + [[strange]] + [[ANNA]] * 4
    tracker = followed(frames, who)
    assert tracker.changes("all") == ()
    (lane,) = tracker.choose("all")
    np.testing.assert_array_equal(lane.valid, [True] * 4 + [False] + [True] * 4)


def test_a_stranger_who_comes_after_somebody_left_is_not_taken_for_him() -> None:
    frames = (
        [[face(10, 60, tag=1)]] * 4
        + [[]] * 4
        + [[face(200, 50, tag=2)]] * 3
        + [[]] * 4
        + [[face(10, 60, tag=3)]] * 3
    )
    who: list[list[np.ndarray | None]] = (
        [[ANNA]] * 4 + [[]] * 4 + [[BERT]] * 3 + [[]] * 4 + [[None]] * 2 + [[ANNA]]
    )
    lanes = followed(frames, who).choose("all")
    assert [sorted({tag for tag in tags(lane.points) if tag == tag}) for lane in lanes] == [[1.0, 3.0], [2.0]]


def test_who_comes_after_a_cut_is_a_stranger_unless_he_was_there_before() -> None:
    frames = [[face(10, 60), face(200, 40)]] * 12
    who: list[list[np.ndarray | None]] = (
        [[ANNA, BERT]] * 3 + [[BERT, ANNA]] * 3 + [[None, None]] * 3 + [[ANNA, BERT]] * 3
    )
    tracker = track(frames, (3, 6, 9), CONFIG, who)
    assert tracker.strangers("largest") == tracker.strangers("0") == tracker.strangers("all") == (3,)
    assert tracker.strangers("1") == (3,) and tracker.changes("all") == ()
    stays = track(frames, (3, 6, 9), CONFIG, [[ANNA, BERT]] * 12)
    assert stays.strangers("largest") == stays.strangers("all") == ()


def test_who_takes_a_place_inside_a_shot_is_a_stranger_too() -> None:
    frames = [[face(10, 60)]] * 4 + [[]] * 6 + [[face(200, 50)]] * 4
    tracker = followed(frames, [[ANNA]] * 4 + [[]] * 6 + [[BERT]] * 4)
    assert tracker.strangers("largest") == () and tracker.strangers("0") == ()  # two faces: one of them is chosen
    assert followed(frames, [[ANNA]] * 4 + [[]] * 6 + [[ANNA]] * 4).strangers("largest") == ()
