from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from services.pipeline.light import ComplexionConfig, LightConfig, at_size, complexion, smooth_change

CONFIG = LightConfig(side=64, reach=0.08, alike=60.0)
SHADE = np.array([0.1, 0.05, -0.08], np.float32)


def face(seed: int, size: int = 64) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (size, size, 3))
    return np.clip(gaussian_filter(noise, (2, 2, 0)), -0.4, 0.4).astype(np.float32)


def test_it_is_what_differs_smoothly_around_what_is_another_thing() -> None:
    before = face(4)
    after = before + SHADE
    after[20:24, 20:24] = 1.0
    found = smooth_change(before, after, CONFIG)
    assert found.shape == (64, 64, 3)
    np.testing.assert_allclose(found, np.broadcast_to(SHADE, found.shape), atol=0.02)


def test_what_is_fine_is_no_light_and_what_is_equal_has_none() -> None:
    before = face(5)
    assert not smooth_change(before, before, CONFIG).any()
    lines = np.zeros_like(before)
    lines[::4] = 0.2
    lines[2::4] = -0.2
    assert np.abs(smooth_change(before, before + lines, CONFIG)).max() < 0.02


def test_a_shade_that_changes_over_the_face_is_followed() -> None:
    before = face(6)
    ramp = np.linspace(-0.15, 0.15, 64, dtype=np.float32)[None, :, None] * np.ones((64, 64, 3), np.float32)
    found = smooth_change(before, before + ramp, CONFIG)
    middle = slice(16, 48)
    np.testing.assert_allclose(found[:, middle], ramp[:, middle], atol=0.01)


def test_it_looks_where_it_is_told_to() -> None:
    before = face(7)
    after = before.copy()
    after[:, :32] += SHADE
    within = np.zeros((32, 32), np.float32)
    within[:, :16] = 1
    assert smooth_change(before, after, CONFIG, within)[:, :32] == pytest.approx(
        np.broadcast_to(SHADE, (64, 32, 3)), abs=0.01
    )
    everywhere = smooth_change(before, after, CONFIG)[:, 31, 0]
    np.testing.assert_allclose(
        everywhere, SHADE[0] / 2, atol=0.01, err_msg="at the border both halves have their say"
    )
    assert not smooth_change(before, after, CONFIG, 0 * within).any()


def test_complexion_is_found_where_it_changed_and_nowhere_else() -> None:
    """All skin but a patch gets paler, and in the middle a mouth opens: beside it nothing is darkened for that."""
    before, whole = face(9, 128), np.ones((128, 128), np.float32)
    mouth = before.copy()
    mouth[60:70, 50:78] -= 0.3
    config = ComplexionConfig(side=128, reach=0.1, alike=60.0, near=0.02)
    spread = smooth_change(before, mouth, config)
    assert np.abs(spread[40:50, 50:78]).max() > 0.02, "what is smooth reaches the cheek"
    kept = complexion(before, mouth, config, whole)
    assert np.abs(kept[40:50, 50:78]).max() < 0.002 and np.abs(kept).max() <= np.abs(spread).max()
    pale = before + np.float32(0.1)
    pale[:, :32] = before[:, :32]
    found = complexion(before, pale, config, whole)
    np.testing.assert_allclose(found[:, 96:], 0.1, atol=0.01)
    assert np.abs(found[:, :22]).max() < 0.002
    assert not complexion(before, before, config, whole).any()
    with pytest.raises(ValueError, match="near"):
        replace(config, near=0.2)


@pytest.mark.parametrize("size", [64, 256])
def test_a_map_keeps_its_bounds_when_enlarged(size) -> None:
    values = np.random.default_rng(6).random((64, 64)).astype(np.float32)
    large = at_size(values, size)
    assert large.shape == (size, size) and large.min() >= values.min() and large.max() <= values.max()
    assert not at_size(0 * values, size).any()


def test_crops_of_any_size_are_compared_at_the_smallest() -> None:
    before, after = face(8), face(8, 32)
    assert smooth_change(before, after, CONFIG).shape == (32, 32, 3)
    assert smooth_change(before, after, replace(CONFIG, side=16)).shape == (16, 16, 3)
    with pytest.raises(ValueError, match=r"crops must be square, \(S, S, 3\), got \(64, 64, 1\)"):
        smooth_change(before[..., :1], after, CONFIG)
    with pytest.raises(ValueError, match="within must be"):
        smooth_change(before, after, CONFIG, before)


@pytest.mark.parametrize("wrong", [{"side": 1}, {"reach": 0.0}, {"alike": -1.0}])
def test_numbers_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(CONFIG, **wrong)
