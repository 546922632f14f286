from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from real_faces import calm_and_grinning
from scipy.ndimage import gaussian_filter, grey_closing

from modules.editing.directions import EditRequest, load_directions
from modules.encoders.vit import load_frame_encoder
from services.pipeline.composite import composite
from services.pipeline.crops import _mixed, edit_crops, to_pixels
from services.pipeline.models import load_bare_models
from services.pipeline.moved import closed, moved_share
from services.pipeline.options import EditOptions, PipelineConfig
from services.places import DIRECTIONS, FRAME_ENCODER
from services.settings import load_params

CONFIG = load_params().section("pipeline", PipelineConfig).moved
SIZE = 64
seeds = st.integers(0, 2**32 - 1)


def crops(seed: int, count: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (count, SIZE, SIZE, 3))
    return np.clip(gaussian_filter(noise, (0, 2, 2, 0)) * 3, -1, 1).astype(np.float32)


@settings(max_examples=30)
@given(seeds)
def test_it_is_zero_where_nothing_near_changes_and_a_share_everywhere(seed) -> None:
    before, after, frame = crops(seed)
    assert not moved_share(before, before, frame, CONFIG).any()
    half = before.copy()
    half[:, SIZE // 2 :] = after[:, SIZE // 2 :]
    share = moved_share(before, half, frame, CONFIG)
    assert share.shape == (SIZE, SIZE) and share.min() >= 0 and share.max() <= 1
    # Windows of a pixel or two, and what reaches beyond, blurred by less than a pixel: not a quarter of the crop.
    assert not share[:, : SIZE // 4].any() and share[:, 3 * SIZE // 4 :].mean() > 0.2


def test_it_is_the_second_factor_of_ssim() -> None:
    before, after, frame = crops(1)
    plain = replace(
        CONFIG, begins=0.0, whole=1.0, reach=0.0, unknown=0.0, close=0.0, soften=1e-3, window=2.0 / SIZE
    )
    one, other = ((crop + 1) * 127.5 @ [0.299, 0.587, 0.114] for crop in (before, after))

    def mean(values):
        return gaussian_filter(values.astype(np.float64), 2.0, mode="mirror", radius=8)

    both = mean(one * other) - mean(one) * mean(other)
    own = mean(one**2) - mean(one) ** 2 + mean(other**2) - mean(other) ** 2
    lost = np.clip(1 - (2 * both + plain.noise) / (own + plain.noise), 0, 1)
    # OpenCV's window is a little narrower.
    np.testing.assert_allclose(moved_share(before, after, frame, plain), lost**2 * (3 - 2 * lost), atol=0.02)


def test_light_is_no_movement() -> None:
    before, _, frame = crops(2)
    assert not moved_share(before, before + 0.3, frame, CONFIG).any()
    sunset = before + np.linspace(-0.2, 0.2, SIZE, dtype=np.float32)[None, :, None]
    assert moved_share(before, sunset, frame, CONFIG).max() < 0.01


def test_what_the_codes_do_not_know_holds_the_edit_back() -> None:
    """A lid that is shut in the frame and open in the codes, and an edit that moves the open one a little."""
    before, other, frame = crops(3)
    after = before + 0.25 * (other - before)
    known = moved_share(before, after, before, CONFIG).mean()
    assert known > moved_share(before, after, frame, CONFIG).mean()
    assert moved_share(before, after, frame, replace(CONFIG, unknown=0.0)).mean() >= known


def test_a_bar_that_moves_is_not_left_where_it_was() -> None:
    """The frame's bar lies two pixels beside the reconstruction's; the edit draws it elsewhere."""
    rng = np.random.default_rng(5)
    texture = rng.normal(0, 0.03, (SIZE, SIZE, 3)).astype(np.float32)

    def scene(row: int, ground: np.ndarray | float) -> np.ndarray:
        made = np.zeros((SIZE, SIZE, 3), np.float32) + ground
        made[row : row + 5, 16:48] = -0.8
        return made

    frame, before, after = scene(26, texture), scene(28, 0.0), scene(36, 0.0)
    wanted = scene(36, texture)
    share, mask = moved_share(before, after, frame, CONFIG), np.ones((SIZE, SIZE), np.float32)
    below = to_pixels(frame)
    mixed = composite(below, before, after, mask, np.eye(3), paste="mixed", moved=share).astype(float)
    added = composite(below, before, after, mask, np.eye(3)).astype(float)
    put = composite(below, before, after, mask, np.eye(3), paste="replace").astype(float)

    def error(made: np.ndarray, rows: slice) -> float:
        return float(np.abs(made - (wanted + 1) * 127.5)[rows].mean())

    assert error(mixed, slice(22, 44)) < 0.6 * error(added, slice(22, 44))
    assert error(mixed, slice(0, 12)) < 0.51 < error(put, slice(0, 12)), "texture stays where nothing moves"


def test_what_moved_is_shown_in_the_light_of_the_frame() -> None:
    """The frame is a little brighter and redder than its codes, and a bar moves."""
    before, after = np.zeros((2, SIZE, SIZE, 3), np.float32)
    before[20:30, 10:54], after[36:46, 10:54] = -0.5, -0.5
    shade = np.array([0.12, 0.08, 0.02], np.float32)
    crop = _mixed(before, after, before + shade, np.ones((SIZE, SIZE), np.float32), CONFIG)
    assert crop.moved is not None and crop.moved.max() > 0.9
    np.testing.assert_allclose(crop.edit - after, crop.moved[..., None] * shade, atol=0.01)
    assert np.array_equal(crop.reconstruction, before)


@settings(max_examples=20)
@given(seeds, st.integers(0, 6))
def test_closing_fills_gaps_and_nothing_else(seed, radius) -> None:
    """As SciPy closes, away from the border; nothing becomes less, and what is closed stays as it is."""
    share = np.clip(gaussian_filter(np.random.default_rng(seed).normal(0, 4, (SIZE, SIZE)), 2), 0, 1)
    share = share.astype(np.float32)
    made = closed(share, radius)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    inside = slice(3 * radius, SIZE - 3 * radius)
    assert (made >= share).all()
    np.testing.assert_array_equal(closed(made, radius), made)
    np.testing.assert_array_equal(made[inside, inside], grey_closing(share, footprint=disc)[inside, inside])


def test_a_gap_between_things_that_moved_gives_way_and_what_lies_apart_does_not() -> None:
    """Two bars move, 6 or 28 pixels of 64 apart; the frame and the codes agree."""

    def share(gap: int, close: float) -> np.ndarray:
        before, after = np.zeros((2, SIZE, SIZE, 3), np.float32)
        stripes = np.sin(np.arange(SIZE) * 1.5)[None, :, None]
        for row in (8, 20 + gap):
            before[row : row + 12], after[row : row + 12] = 0.6 * stripes, -0.6 * stripes
        return moved_share(before, after, before, replace(CONFIG, reach=0.0, close=close))

    middle = slice(16, SIZE - 16)
    near, apart = share(6, 0.08), share(28, 0.08)
    assert share(6, 0.0)[23, middle].max() < 0.5 and near[23, middle].min() > 0.95
    assert apart[34, middle].max() == 0
    np.testing.assert_allclose(apart[:6, middle], share(28, 0.0)[:6, middle], atol=0.02)


def test_a_gap_that_the_codes_do_not_know_stays_the_frames_longer() -> None:
    """Between two bars that move the frame shows a third, which the codes miss."""
    before, after = np.zeros((2, SIZE, SIZE, 3), np.float32)
    stripes = np.sin(np.arange(SIZE) * 1.5)[None, :, None].astype(np.float32)
    for row in (8, 28):
        before[row : row + 12], after[row : row + 12] = 0.05 * stripes, -0.05 * stripes
    frame = before.copy()
    frame[21:27] = 0.6 * stripes
    wide = replace(CONFIG, reach=0.0, close=0.1)

    def gap(frame: np.ndarray, unknown: float) -> float:
        return float(moved_share(before, after, frame, replace(wide, unknown=unknown))[23:25, 16:48].mean())

    assert gap(frame, 0.6) < 0.3 < 0.9 < gap(before, 0.6)
    assert gap(frame, 0.0) > 0.9


def test_crops_of_any_size_are_compared_at_the_smallest() -> None:
    before, after, frame = crops(7)
    small = np.ascontiguousarray(frame[::2, ::2])
    assert moved_share(before, after, small, CONFIG).shape == (32, 32)
    assert moved_share(before, after, frame, replace(CONFIG, side=16)).shape == (16, 16)
    with pytest.raises(ValueError, match=r"crops must be square, \(S, S, 3\), got \(64, 63, 3\)"):
        moved_share(before, after[:, :-1], frame, CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [
        {"begins": 0.5},
        {"whole": 1.1},
        {"side": 1},
        {"window": 0.0},
        {"reach": -0.1},
        {"unknown": 2.0},
        {"close": -0.01},
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(CONFIG, **wrong)


def test_a_real_mouth_that_opens_shows_once_and_skin_keeps_its_detail() -> None:
    """Shipped models on a person they were not trained on: beyond frame and edit lies what shows twice."""
    models = load_bare_models(load_params())
    sha256 = models.generator.sha256
    models = replace(models, edits=load_directions(DIRECTIONS, sha256))
    faces = calm_and_grinning()
    with torch.no_grad():
        encoder = load_frame_encoder(FRAME_ENCODER, sha256)
        ws = torch.cat([encoder(face[None])[0] for face in faces])
    frames = to_pixels(np.ascontiguousarray(faces.permute(0, 2, 3, 1).numpy()))

    def pasted(way):
        options = EditOptions(paste=way, region="face")  # with skin that stays
        made = edit_crops(ws, faces, [EditRequest("mouth_open", 1.0)], models, options, 256)
        for frame, crop in zip(frames, made, strict=True):
            shown = composite(frame, crop.reconstruction, crop.edit, crop.mask, np.eye(3), 1.0, way, crop.moved)
            edit = np.clip((crop.edit + 1) * 127.5, 0, 255)
            beyond = np.maximum(np.minimum(frame, edit) - shown, shown - np.maximum(frame, edit))
            yield shown.astype(float), np.square(np.maximum(beyond - 8.0, 0.0))[crop.mask > 0.9].mean(), crop

    for frame, (added, twice, _), (mixed, once, crop) in zip(
        frames, pasted("difference"), pasted("mixed"), strict=True
    ):
        assert crop.moved is not None and once < 0.5 * twice
        stays = (crop.moved == 0) & (crop.mask > 0.9)
        assert stays.sum() > 0.1 * (crop.mask > 0.9).sum()
        np.testing.assert_array_equal(mixed[stays], added[stays])
        assert np.array_equal(mixed[crop.mask == 0], frame[crop.mask == 0])


def test_strength_zero_is_mixed_to_nothing(toy_models) -> None:
    ws = torch.zeros(1, toy_models.generator.num_ws, toy_models.generator.w_dim)
    face = calm_and_grinning()[:1, :, ::4, ::4]
    (crop,) = edit_crops(ws, face, [], toy_models, EditOptions(), 64)
    assert crop.moved is not None and not crop.moved.any()
    assert np.array_equal(crop.edit, crop.reconstruction)
