"""A picture between two: shifts that are known, and faces whose renderings say what has to come out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.perception.flow import DenseFlow, FlowConfig
from services.pipeline.between import Motion, Standing, add_face, codes_between, laid_between
from services.settings import load_params

SIDE = 96


def texture(seed: int = 1, side: int = SIDE) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (side, side, 3)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 4) * 4 - 384


def shifted(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    return cv2.warpAffine(image, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)


def steady(dx: float = 0.0, dy: float = 0.0) -> Motion:
    forward = torch.tensor([dx, dy]).view(2, 1, 1).expand(2, SIDE, SIDE)
    return Motion(forward, -forward)


def standing(rendering: np.ndarray, x: float = 16.0, y: float = 20.0, ws: float = 0.0) -> Standing:
    mask = np.zeros((32, 32), np.float32)
    mask[6:26, 6:26] = 1
    return Standing(torch.full((1, 2, 4), ws), rendering, mask, np.array([[1.5, 0, x], [0, 1.5, y], [0, 0, 1]]))


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(-6, 6), st.integers(-6, 6))
def test_a_picture_that_moves_steadily_is_on_its_way(t: float, dx: int, dy: int) -> None:
    image = texture()
    between = laid_between(image, shifted(image, dx, dy), steady(dx, dy), t)
    inner = slice(16, -16)
    assert np.abs(between - shifted(image, t * dx, t * dy))[inner, inner].max() < 4


def test_the_flow_that_is_found_brings_it_there_too() -> None:
    flow = DenseFlow(load_params().section("flow", FlowConfig))
    first, second = (np.clip(shifted(texture(), x, 0), 0, 255) for x in (-2, 2))
    pixels = [one.astype(np.uint8) for one in (first, second)]
    motion = Motion(flow(pixels[0], pixels[1]), flow(pixels[1], pixels[0]))
    truth, inner = np.clip(texture(), 0, 255), slice(16, -16)
    missed = np.abs(laid_between(first, second, motion, 0.5) - truth)[inner, inner].mean()
    blurred = np.abs((first + second) / 2 - truth)[inner, inner].mean()
    assert missed < 0.3 * blurred


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_at_its_ends_it_is_one_of_the_two(t: float) -> None:
    first, second = texture(1), texture(2)
    random = np.random.default_rng(3).normal(0, 3, (2, 2, SIDE, SIDE)).astype(np.float32)
    between = laid_between(first, second, Motion(torch.from_numpy(random[0]), torch.from_numpy(random[1])), t)
    np.testing.assert_allclose(between, second if t else first, atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1))
def test_a_face_that_does_not_change_adds_nothing(t: float) -> None:
    rendering = np.random.default_rng(4).uniform(-1, 1, (32, 32, 3)).astype(np.float32)
    face, canvas = standing(rendering), texture()
    add_face(canvas, face, face, rendering, steady(), t)
    np.testing.assert_allclose(canvas, texture(), atol=1e-2)


def test_a_face_between_adds_how_it_differs_from_the_blend_of_its_neighbours() -> None:
    flat = np.zeros((32, 32, 3), np.float32)
    first, second = standing(flat - 0.4), standing(flat + 0.8)
    canvas = np.full((SIDE, SIDE, 3), 100, np.float32)
    add_face(canvas, first, second, flat + 0.5, steady(), 0.25)
    expected = 100 + 127.5 * (0.5 - (0.75 * -0.4 + 0.25 * 0.8))
    np.testing.assert_allclose(canvas[30:55, 30:50], expected, atol=1e-2)
    changed = np.argwhere((canvas != 100).any(2))
    assert changed.min(0).tolist() >= [20 + 7, 16 + 7] and changed.max(0).tolist() <= [20 + 41, 16 + 41]


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1))
def test_its_place_is_between_the_places(t: float) -> None:
    flat = np.zeros((32, 32, 3), np.float32)
    canvas = np.zeros((SIDE, SIDE, 3), np.float32)
    add_face(canvas, standing(flat - 1, x=4), standing(flat - 1, x=36), flat + 1, steady(), t)
    weight = canvas[..., 0].clip(0)
    middle = (weight * np.arange(SIDE)).sum() / weight.sum()
    # The mask's edge is 1.5 pixels wide: between one pixel and the next its sampled middle is off by up to 0.102.
    assert middle == pytest.approx(4 + 32 * t + 1.5 * 15.5, abs=0.15)


def test_a_face_beyond_the_frame_leaves_it_alone() -> None:
    canvas = texture()
    outside = standing(np.ones((32, 32, 3), np.float32), x=500.0)
    add_face(canvas, outside, outside, outside.rendering - 2, steady(), 0.5)
    np.testing.assert_array_equal(canvas, texture())


@given(st.floats(0, 1))
def test_codes_lie_on_the_straight_line(t: float) -> None:
    flat = np.zeros((32, 32, 3), np.float32)
    codes = codes_between(standing(flat, ws=-1.0), standing(flat, ws=3.0), t)
    assert codes.shape == (1, 2, 4)
    torch.testing.assert_close(codes, torch.full((1, 2, 4), -1 + 4 * t), atol=1e-5, rtol=0)
