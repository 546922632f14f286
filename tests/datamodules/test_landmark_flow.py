from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.landmark_flow import GreyFrame, LandmarkFlowConfig, blend, carry, eye_distance, grey_frame

CONFIG = LandmarkFlowConfig(long_side=640, window=21, levels=3, weight=0.5, tolerance=0.0025, reset=0.1)
HEIGHT, WIDTH = 240, 320


def texture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH, sigma: float = 2.0) -> np.ndarray:
    """``(H, W, 3)`` uint8: smooth noise, as sharp as a lens draws it."""
    rough = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(rough, (0, 0), sigma)
    grey = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def shifted(frame: np.ndarray, x: float, y: float) -> np.ndarray:
    """What was at p is at p + (x, y)."""
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float64)
    return cv2.warpAffine(frame, matrix, frame.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def face(x: float = 160.0, y: float = 110.0, eyes: float = 80.0) -> np.ndarray:
    """``(68, 2)`` float32 points around (x, y), ``eyes`` pixels from eye to eye."""
    points = np.random.default_rng(1).uniform(-0.6, 0.6, (68, 2))
    points[36:42], points[42:48] = (-0.5, 0), (0.5, 0)
    return (points * eyes + [x, y]).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(x=st.floats(-6, 6), y=st.floats(-6, 6))
def test_points_go_where_a_known_shift_takes_them(x: float, y: float) -> None:
    frame, points = texture(), face()
    frames = grey_frame(frame, 640), grey_frame(shifted(frame, x, y), 640)
    carried, error = carry(*frames, points, CONFIG)
    assert np.abs(carried - points - [x, y]).max() < 0.1
    assert error.max() < 0.1


def test_a_large_frame_is_looked_at_reduced_and_answers_in_its_own_pixels() -> None:
    frame, points = texture(height=HEIGHT * 8, width=WIDTH * 8 + 4, sigma=12.0), face() * 8
    before, after = grey_frame(frame, 640), grey_frame(shifted(frame, 13.6, -7.2), 640)
    assert before.image.shape == (479, 640)
    np.testing.assert_allclose(before.to_frame(before.from_frame(points)), points, atol=1e-9)
    carried, error = carry(before, after, points, CONFIG)
    # A tenth of a pixel of the picture that is looked at.
    assert np.abs(carried - points - [13.6, -7.2]).max() < 0.1 * WIDTH * 8 / 640
    assert error.max() < 0.1 * WIDTH * 8 / 640


def test_a_small_frame_is_looked_at_as_it_is() -> None:
    grey = grey_frame(texture(), 640)
    assert grey.image.shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(grey.image, texture()[..., 0])
    np.testing.assert_array_equal(grey.scale, [1, 1])


def test_points_that_are_carried_into_noise_have_no_weight() -> None:
    frame, points = texture(), face()
    after = shifted(frame, 2, 1)
    after[:, WIDTH // 2 :] = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH // 2, 3))
    carried, error = carry(grey_frame(frame, 640), grey_frame(after, 640), points, CONFIG)
    lost, kept = points[:, 0] > WIDTH / 2 + 15, points[:, 0] < WIDTH / 2 - 15
    assert lost.sum() > 10 and kept.sum() > 10
    blended = blend(points, carried, error, CONFIG)
    np.testing.assert_array_equal(blended[lost], points[lost])
    assert (blended[kept] != points[kept]).any(axis=1).all()


def test_what_has_no_texture_or_leaves_the_frame_is_lost() -> None:
    flat = grey_frame(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), 640)
    points = face()
    assert np.isinf(carry(flat, flat, points, CONFIG)[1]).all()
    frame = grey_frame(texture(), 640)
    carried, error = carry(frame, frame, points + 10_000, CONFIG)
    assert np.isinf(error).all()
    np.testing.assert_array_equal(blend(points, carried, error, CONFIG), points)


def test_the_blend_is_the_share_between_detection_and_flow() -> None:
    """By hand: 80 px between the eyes, the half of the tolerance missed, a fifth of the reset apart."""
    detected = face()
    eyes = eye_distance(detected)
    assert eyes == pytest.approx(80)
    carried = detected + np.array([0.2 * CONFIG.reset * eyes, 0])
    blended = blend(detected, carried, np.full(68, 0.5 * CONFIG.tolerance * eyes), CONFIG)
    np.testing.assert_allclose(blended - detected, [[0.5 * 0.5 * 0.8 * 1.6, 0]] * 68, atol=1e-4)


@given(
    seed=st.integers(0, 10**6),
    weight=st.floats(0, 0.99),
    move=st.floats(0, 30),
    error=st.lists(st.floats(0, 4) | st.just(float("inf")), min_size=68, max_size=68),
)
def test_blended_landmarks_lie_between_and_are_detected_where_flow_has_no_say(
    seed: int, weight: float, move: float, error: list[float]
) -> None:
    config, detected, missed = replace(CONFIG, weight=weight), face(), np.array(error)
    carried = detected + np.random.default_rng(seed).normal(0, 1, (68, 2)) + [move, 0]
    blended = blend(detected, carried, missed, config)
    whole, part = (carried - detected).astype(np.float64), blended.astype(np.float64) - detected
    assert (np.abs(part) <= weight * np.abs(whole) + 1e-3).all() and (part * whole >= -1e-2).all()
    unbelieved = missed >= config.tolerance * eye_distance(detected)
    np.testing.assert_array_equal(blended[unbelieved], detected[unbelieved])
    if weight == 0:
        np.testing.assert_array_equal(blended, detected)


@pytest.mark.parametrize("shares", [1.0, 1.01, 5.0])
def test_flow_and_detection_far_apart_leave_the_detection(shares: float) -> None:
    detected = face()
    carried = detected + np.array([0.0, shares * CONFIG.reset * eye_distance(detected) + 1e-3])
    np.testing.assert_array_equal(blend(detected, carried, np.zeros(68), CONFIG), detected)


def test_eyes_in_one_place_leave_the_detection() -> None:
    detected = np.zeros((68, 2), np.float32)
    assert blend(detected, detected + 0.5, np.zeros(68), CONFIG) is detected


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 1.0},
        {"weight": -0.1},
        {"weight": float("nan")},
        {"tolerance": 0.0},
        {"reset": 0.0},
        {"window": 2},
        {"levels": -1},
        {"long_side": 20},
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(CONFIG, **wrong)


def test_wrong_shapes_are_refused() -> None:
    frame = grey_frame(texture(), 640)
    with pytest.raises(ValueError, match="differ in size"):
        carry(frame, GreyFrame(frame.image[1:], frame.scale), face(), CONFIG)
    with pytest.raises(ValueError, match="are needed"):
        blend(face()[:5], face().astype(np.float64), np.zeros(68), CONFIG)
    with pytest.raises(ValueError, match="uint8"):
        grey_frame(np.zeros((10, 10, 3), np.float32), 640)  # type: ignore[arg-type]
