"""Colours that drift at the seam: closed forms of what is taken out, and of what is measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.pipeline.composite import CompositeConfig, composite, feathered_mask
from services.pipeline.seam import SeamConfig, SeamCorrector, SeamMeter, corrected

SIZE = 128
CONFIG = SeamConfig(side=64, reach=0.016, falloff=0.5, limit=24.0, strength=1.0, trusted=0.3, memory=0.0)
PLACE = np.array([[1.0, 0.0, 11.0], [0.0, 1.0, 7.0], [0.0, 0.0, 1.0]])
INSIDE = (slice(7, 7 + SIZE), slice(11, 11 + SIZE))
seeds = st.integers(0, 2**32 - 1)
shifts = st.tuples(*[st.floats(-20, 20)] * 3).map(lambda shift: np.array(shift, np.float32))


def disc(radius: float = 40.0) -> np.ndarray:
    """A feathered mask ``(SIZE, SIZE)``."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    region = (np.hypot(x, y) < radius).astype(np.float32)
    return feathered_mask(region, CompositeConfig(grow=0.0, grow_replaced=0.0, feather=0.03, border=0.05))


MASK = disc()


def crop(seed: int, low: float = 40.0, high: float = 215.0) -> np.ndarray:
    """A smooth picture with some texture, ``(SIZE, SIZE, 3)`` whole levels within the bounds."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(low + 10, high - 10, (4, 4, 3)).repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)
    return np.rint(coarse + rng.uniform(-10, 10, coarse.shape))


def as_values(levels: np.ndarray) -> np.ndarray:
    return (levels / 127.5 - 1).astype(np.float32)


def in_frame(levels: np.ndarray) -> np.ndarray:
    frame = np.full((SIZE + 20, SIZE + 30, 3), 90, np.uint8)
    frame[INSIDE] = levels
    return frame


def levels_taken(rendering: np.ndarray, frame: np.ndarray, config: SeamConfig = CONFIG, mask=MASK) -> np.ndarray:
    return SeamCorrector(config).correction(as_values(rendering), as_values(frame), mask)


@settings(max_examples=25, deadline=None)
@given(seeds, shifts)
def test_one_shift_of_all_colours_is_taken_out(seed, shift) -> None:
    there = crop(seed)
    taken = levels_taken(there + shift, there)
    assert taken.shape == (64, 64, 3) and taken.dtype == np.float32
    np.testing.assert_allclose(taken, np.broadcast_to(shift, taken.shape), atol=0.02)
    frame = in_frame(there)
    pasted = composite(
        frame, 0 * as_values(there), corrected(as_values(there + shift), taken), MASK, PLACE, paste="replace"
    )
    assert np.abs(pasted.astype(int) - frame).max() <= 1


def test_light_that_falls_from_one_side_is_followed_along_the_border() -> None:
    there = np.full((SIZE, SIZE, 3), 128.0)
    ramp = np.linspace(-16, 16, SIZE)[None, :, None] * np.array([1.0, 0.5, -1.0])
    taken = levels_taken(there + ramp, there)
    left = corrected(as_values(there + ramp), taken)
    border = (MASK > 0.1) & (MASK < 0.9)
    drifted = 127.5 * np.abs(as_values(there + ramp) - as_values(there))[border].mean()
    kept = 127.5 * np.abs(left - as_values(there))[border].mean()
    assert kept < 0.25 * drifted
    # Inwards it is a mean of the border: between both sides, and in the middle nothing.
    assert np.abs(taken).max() <= 16.0
    np.testing.assert_allclose(taken[30:34, 30:34].mean(axis=(0, 1)), 0.0, atol=0.05)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_what_does_not_drift_keeps_its_bits(seed) -> None:
    there = as_values(crop(seed))
    taken = SeamCorrector(CONFIG).correction(there, there, MASK)
    assert not taken.any()
    assert corrected(there, taken) is there


@settings(max_examples=20, deadline=None)
@given(seeds, shifts)
def test_pixels_without_a_mask_keep_their_bits(seed, shift) -> None:
    there, other = crop(seed), crop(seed + 1)
    edit = corrected(as_values(other), levels_taken(other + shift, there))
    frame = in_frame(there)
    out = composite(frame, 0 * edit, edit, MASK, PLACE, paste="replace")
    outside = np.ones(frame.shape[:2], bool)
    outside[INSIDE] = MASK == 0
    np.testing.assert_array_equal(out[outside], frame[outside])


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0, 1))
def test_no_correction_is_larger_than_its_limit(seed, strength) -> None:
    there, other = crop(seed, 0, 255), crop(seed + 1, 0, 255)
    whole = levels_taken(other, there)
    assert np.abs(whole).max() <= CONFIG.limit
    part = levels_taken(other, there, replace(CONFIG, strength=strength))
    np.testing.assert_allclose(part, strength * whole, atol=1e-4)


def test_content_beside_the_face_is_no_drift() -> None:
    there = np.full((SIZE, SIZE, 3), 200.0)
    rendering = there + 6.0
    rendering[:, : SIZE // 4 + 8] = 60.0  # hair where the frame has a wall
    taken = levels_taken(rendering, there)
    np.testing.assert_allclose(taken[20:44, 36:52], 6.0, atol=0.1)
    everything = np.full_like(there, 60.0)
    assert np.abs(levels_taken(everything, there)).max() == 0


def test_no_seam_no_correction() -> None:
    there = crop(1)
    for mask in (0 * MASK, np.ones_like(MASK)):
        assert not levels_taken(there + 9, there, mask=mask).any()


def test_frames_before_count_until_the_next_shot() -> None:
    there = crop(3)
    corrector = SeamCorrector(replace(CONFIG, memory=0.75))

    def taken(shift: float) -> float:
        return float(corrector.correction(as_values(there + shift), as_values(there), MASK).mean())

    assert taken(0.0) == pytest.approx(0.0, abs=0.02)
    assert [taken(8.0), taken(8.0)] == pytest.approx([2.0, 3.5], abs=0.02)
    corrector.restart()
    assert taken(8.0) == pytest.approx(8.0, abs=0.02)


def test_a_small_crop_is_compared_at_its_own_size() -> None:
    small = np.zeros((32, 32, 3), np.float32)
    mask = np.zeros((32, 32), np.float32)
    mask[8:24, 8:24] = 0.5
    assert SeamCorrector(CONFIG).correction(small, small, mask).shape == (32, 32, 3)


@settings(max_examples=20, deadline=None)
@given(seeds, shifts)
def test_what_the_frames_show_is_measured(seed, shift) -> None:
    there = crop(seed)
    frame, meter = in_frame(there), SeamMeter(CONFIG)
    for strength in (0.0, 1.0):
        config = replace(CONFIG, strength=strength)
        meter = SeamMeter(config)
        for _ in range(2):
            taken = levels_taken(there + shift, there, config)
            edit = corrected(as_values(there + shift), taken)
            meter.add(frame, composite(frame, 0 * edit, edit, MASK, PLACE, paste="replace"), taken, MASK, PLACE)
        report = meter.report()
        assert report is not None and report.frames == 2
        assert report.alike == pytest.approx(1.0, abs=0.01)
        # A change is rounded to whole levels where the mask is thin.
        np.testing.assert_allclose(report.before.whole.mean, shift, atol=1.0)
        np.testing.assert_allclose(report.after.whole.mean, 0 * shift if strength else shift, atol=1.0)
        assert report.before.alike.rms == pytest.approx(float(np.sqrt((shift**2).mean())), abs=1.0)
        assert (report.after.alike.rms < 1.0) or not strength


@pytest.mark.parametrize("beyond", [40, 60])
def test_a_face_that_the_frames_edge_cuts_is_measured_where_there_is_a_frame(beyond: int) -> None:
    frame, shift = np.full((SIZE + 20, SIZE + 30, 3), 90, np.uint8), 10.0
    place = PLACE.copy()
    place[0, 2] = -beyond
    edit = as_values(np.full((SIZE, SIZE, 3), 90.0 + shift))
    meter, none = SeamMeter(CONFIG), np.zeros((CONFIG.side, CONFIG.side, 3), np.float32)
    meter.add(frame, composite(frame, 0 * edit, edit, MASK, place, paste="replace"), none, MASK, place)
    report = meter.report()
    assert report is not None
    np.testing.assert_allclose(report.after.whole.mean, shift, atol=1.0)
    assert report.after.whole.rms == pytest.approx(shift, abs=1.0) and report.alike == pytest.approx(1.0, abs=0.01)


def test_nothing_pasted_is_nothing_measured() -> None:
    frame, meter = in_frame(crop(0)), SeamMeter(CONFIG)
    assert meter.report() is None
    meter.add(frame, frame, np.zeros((64, 64, 3), np.float32), 0 * MASK, PLACE)
    assert meter.report() is None


def test_a_seam_that_is_all_content_says_so() -> None:
    frame, meter = in_frame(np.full((SIZE, SIZE, 3), 200.0)), SeamMeter(CONFIG)
    edit = np.full((SIZE, SIZE, 3), -1.0, np.float32)
    above = composite(frame, edit, edit, MASK, PLACE, paste="replace")
    meter.add(frame, above, np.zeros((64, 64, 3), np.float32), MASK, PLACE)
    report = meter.report()
    assert report is not None and report.alike == 0.0 and report.after.alike.rms == 0.0
    np.testing.assert_allclose(report.after.whole.mean, [-200.0] * 3, atol=3.0)


def test_shapes_and_numbers_are_checked() -> None:
    there, corrector = as_values(crop(0)), SeamCorrector(CONFIG)
    for given_, line in (
        ((there, there, MASK[:-1]), "mask must be square"),
        ((there[:-1], there, MASK), "rendering must be"),
        ((there, there[..., :2], MASK), "frame must be"),
    ):
        with pytest.raises(ValueError, match=line):
            corrector.correction(*given_)
    for wrong in (
        {"side": 1},
        {"reach": 0.0},
        {"limit": 0.0},
        {"strength": 1.1},
        {"trusted": 0.0},
        {"memory": 1.0},
    ):
        with pytest.raises(ValueError, match="must be"):
            replace(CONFIG, **wrong)
