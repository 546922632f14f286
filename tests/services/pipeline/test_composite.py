from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.pipeline.composite import (
    CompositeConfig,
    composite,
    feathered_mask,
    resized_transform,
    synthesis_size,
    to_frame,
)

CONFIG = CompositeConfig(grow=0.05, grow_replaced=0.05, feather=0.04, border=0.05)
SIZE = 32


def similarity(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, x], [s, c, y], [0.0, 0.0, 1.0]])


transforms = st.builds(
    similarity, st.floats(0.2, 3.0), st.floats(-180, 180), st.floats(-80, 120), st.floats(-80, 120)
)
seeds = st.integers(0, 2**32 - 1)


def material(seed: int, height: int = 61, width: int = 83) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (height, width, 3), np.uint8)
    crops = rng.uniform(-1.2, 1.2, (2, SIZE, SIZE, 3)).astype(np.float32)
    region = np.zeros((SIZE, SIZE), np.float32)
    region[rng.integers(2, 10) : rng.integers(16, 30), rng.integers(2, 10) : rng.integers(16, 30)] = 1
    return frame, crops[0], crops[1], feathered_mask(region, CONFIG)


@settings(max_examples=60)
@given(seeds, transforms, st.sampled_from(["difference", "replace"]))
def test_pixels_outside_the_mask_keep_their_bits(seed, matrix, paste) -> None:
    frame, reconstruction, edit, mask = material(seed)
    out = composite(frame, reconstruction, edit, mask, matrix, paste=paste)
    patch = to_frame(mask, matrix, *frame.shape[:2])
    whole = np.zeros(frame.shape[:2], np.float32)
    whole[patch.rows, patch.columns] = patch.values
    assert out.shape == frame.shape and out.dtype == np.uint8
    np.testing.assert_array_equal(out[whole == 0], frame[whole == 0])


@settings(max_examples=60)
@given(seeds, transforms, st.floats(0, 1), st.sampled_from(["difference", "replace"]))
def test_it_is_the_formula_over_the_whole_frame_bit_for_bit(seed, matrix, weight, paste) -> None:
    frame, reconstruction, edit, mask = material(seed)
    edit, reconstruction = np.clip(edit, -1, 1), np.clip(reconstruction, -1, 1)
    source = (edit + 1) if paste == "replace" else edit - reconstruction
    patch = to_frame(np.dstack([source * 127.5, mask]), matrix, *frame.shape[:2])
    below = frame[patch.rows, patch.columns].astype(np.float32)
    alpha = weight * np.clip(patch.values[..., 3:], 0, 1)
    above = below + alpha * (patch.values[..., :3] - (below if paste == "replace" else 0))
    expected = frame.copy()
    expected[patch.rows, patch.columns] = np.clip(np.rint(above), 0, 255)
    np.testing.assert_array_equal(composite(frame, reconstruction, edit, mask, matrix, weight, paste), expected)


@settings(max_examples=60)
@given(seeds, transforms)
def test_no_change_returns_the_frame(seed, matrix) -> None:
    frame, reconstruction, edit, mask = material(seed)
    np.testing.assert_array_equal(composite(frame, reconstruction, reconstruction, mask, matrix), frame)
    for paste in ("difference", "replace"):
        np.testing.assert_array_equal(composite(frame, reconstruction, edit, mask, matrix, 0.0, paste), frame)
        np.testing.assert_array_equal(composite(frame, edit, edit, 0 * mask, matrix, 1.0, paste), frame)


@settings(max_examples=40)
@given(seeds, transforms, st.floats(0, 1))
def test_mixed_is_the_difference_where_nothing_moved_and_the_face_where_all_did(seed, matrix, weight) -> None:
    frame, reconstruction, edit, mask = material(seed)
    given_ = (frame, reconstruction, edit, mask, matrix, weight)
    none = np.zeros_like(mask)
    added, put = composite(*given_, "difference"), composite(*given_, "replace")
    np.testing.assert_array_equal(composite(*given_, "mixed", none), added)
    # Along its border, where the mask is next to nothing, the crop itself fades.
    patch = to_frame(none + 1, matrix, *frame.shape[:2])
    inside = np.zeros(frame.shape[:2], bool)
    inside[patch.rows, patch.columns] = patch.values > 0.999
    whole, half = (composite(*given_, "mixed", none + share).astype(float) for share in (1.0, 0.5))
    assert np.abs(whole - put)[inside].max(initial=0) <= 1
    clear = inside[..., None] & (added > 0) & (added < 255)
    assert np.abs(half - (added.astype(float) + put) / 2)[clear].max(initial=0) <= 1
    outside = composite(frame, reconstruction, edit, 0 * mask, matrix, weight, "mixed", none + 0.5)
    np.testing.assert_array_equal(outside, frame)


@settings(max_examples=40)
@given(seeds, transforms, st.floats(0, 1))
def test_the_difference_is_linear_in_the_edit(seed, matrix, part) -> None:
    frame, reconstruction, edit, mask = material(seed)
    frame = np.full_like(frame, 128)  # far from both ends, so that nothing is clamped
    reconstruction, edit = reconstruction / 4, edit / 4
    whole = composite(frame, reconstruction, edit, mask, matrix).astype(float) - frame
    between = reconstruction + np.float32(part) * (edit - reconstruction)
    for partial in (
        composite(frame, reconstruction, between, mask, matrix),
        composite(frame, reconstruction, edit, mask, matrix, part),
    ):
        assert np.abs(partial.astype(float) - frame - part * whole).max() <= 1.0


@pytest.mark.parametrize("scale", [0.35, 1.0, 2.5])
def test_a_smooth_picture_lands_where_the_matrix_says(scale) -> None:
    matrix = similarity(scale, 20.0, 40.0, 12.0)
    at = np.arange(SIZE, dtype=np.float32)
    ramp = np.dstack(np.meshgrid(at, at)).astype(np.float32)  # each pixel holds its own x, y
    patch = to_frame(ramp, matrix, 120, 140)
    rows, columns = np.mgrid[patch.rows, patch.columns]
    back = np.linalg.inv(matrix) @ np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
    expected = back[:2].T.reshape(*rows.shape, 2)
    inner = ((expected > 4) & (expected < SIZE - 5)).all(axis=-1)
    assert inner.sum() > 20
    assert np.abs(patch.values - expected)[inner].max() < 0.05 / min(scale, 1.0)


def test_shrinking_averages_instead_of_aliasing() -> None:
    stripes = np.tile(np.array([0.0, 1.0], np.float32), SIZE // 2)[None].repeat(SIZE, 0)
    patch = to_frame(stripes, similarity(0.25, 0.0, 10.0, 10.0), 60, 60)
    inner = patch.values[3:-3, 3:-3]
    assert inner.size and np.abs(inner - 0.5).max() < 0.01


def test_replace_shows_the_edit_where_the_mask_is_full() -> None:
    frame = np.zeros((SIZE, SIZE, 3), np.uint8)
    edit = np.random.default_rng(0).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
    mask = np.ones((SIZE, SIZE), np.float32)
    out = composite(frame, 0 * edit, edit, mask, np.eye(3), paste="replace")
    assert np.abs(out.astype(float) - (edit + 1) * 127.5).max() <= 0.51


@settings(max_examples=40)
@given(hnp.arrays(np.float32, (SIZE, SIZE), elements=st.floats(0, 1, width=32)))
def test_masks_are_bounded_and_end_before_the_border(region) -> None:
    mask = feathered_mask(region, CONFIG)
    assert mask.min() >= 0 and mask.max() <= 1
    assert not np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).any()


def test_feathering_widens_the_region() -> None:
    region = np.zeros((64, 64), np.float32)
    region[20:44, 20:44] = 1
    mask = feathered_mask(region, CONFIG)
    assert mask[32, 32] == pytest.approx(1, abs=1e-3)
    assert (mask > 0.5).sum() > region.sum()
    assert 0 < mask[32, 17] < 1 and mask[32, 2] < 1e-3


@pytest.mark.parametrize(("side", "size"), [(90, 256), (256, 256), (257, 512), (700, 1024), (3000, 1024)])
def test_synthesis_follows_the_crop(side, size) -> None:
    assert synthesis_size(side, (256, 512, 1024), 1024) == size
    assert synthesis_size(side, (256, 512, 1024), 64) == 64


def test_resized_transform_keeps_the_corners() -> None:
    matrix = similarity(1.7, 33.0, 5.0, 9.0)
    other = resized_transform(matrix, 256, 1024)
    for corner, same in (((-0.5, -0.5), (-0.5, -0.5)), ((255.5, 100.0), (1023.5, 401.5))):
        np.testing.assert_allclose(matrix @ [*corner, 1], other @ [*same, 1])


def test_shapes_are_checked() -> None:
    frame, reconstruction, edit, mask = material(0)
    with pytest.raises(TypeError):
        composite(frame.astype(np.float32), reconstruction, edit, mask, np.eye(3))
    with pytest.raises(ValueError, match="crops must be"):
        composite(frame, reconstruction[:-1], edit, mask, np.eye(3))
    with pytest.raises(ValueError, match="weight"):
        composite(frame, reconstruction, edit, mask, np.eye(3), 1.5)
    for paste, moved in (("mixed", None), ("replace", mask), ("mixed", mask[:-1])):
        with pytest.raises(ValueError, match="moved"):
            composite(frame, reconstruction, edit, mask, np.eye(3), paste=paste, moved=moved)
    with pytest.raises(ValueError, match="crop_to_frame"):
        to_frame(mask, np.eye(2), 5, 5)


def test_what_is_replaced_is_covered_wider_than_what_is_changed() -> None:
    region = np.zeros((100, 100), np.float32)
    region[40:60, 40:60] = 1.0
    config = CompositeConfig(grow=0.0, grow_replaced=0.1, feather=0.0, border=0.0)
    assert np.array_equal(feathered_mask(region, config) > 0.5, region > 0.5)
    replaced = feathered_mask(region, config, "replace") > 0.5
    assert replaced[30:70, 45:55].all() and not replaced[:29].any()
