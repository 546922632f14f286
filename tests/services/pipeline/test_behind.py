"""The frame's background and body around a head that moved, on drawn pictures whose every place is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pipeline.behind import BehindConfig, Surroundings, carried_in, frames_background, surely
from services.pipeline.options import PipelineConfig
from services.settings import load_params

SIDE = 128
CONFIG = load_params(environment={}).section("pipeline", PipelineConfig).behind
HEAD, WALL, HAZE = 0.8, -0.3, 0.4


def disc(x: float, radius: float = 0.3) -> np.ndarray:
    """A head of that radius, ``x`` from the middle, in halves of the side."""
    at = np.linspace(-1, 1, SIDE, dtype=np.float32)
    return (np.square(at[:, None]) + np.square(at[None] - x) < radius**2).astype(np.float32)


def drawn(region: np.ndarray, background: float) -> np.ndarray:
    grey = np.where(region > 0.5, HEAD, background).astype(np.float32)
    return np.dstack([grey, 0.5 * grey, -grey])


def pasted(frame: np.ndarray, edit: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return frame + mask[..., None] * (edit - frame)


def test_a_head_that_moved_stands_before_the_frames_own_wall() -> None:
    """The generator's wall is another; all of it is pasted, as if the mask had been grown far too wide."""
    was, now = disc(0.0), disc(0.25)
    frame, edit = drawn(was, WALL), drawn(now, HAZE)
    around = Surroundings(was, 1 - was, now, 1 - now)
    found, mask, share = frames_background(edit, np.ones((SIDE, SIDE), np.float32), frame, around, CONFIG)
    wanted = drawn(now, WALL)
    inside, edge = disc(0.25, 0.26), disc(0.25, 0.34) - disc(0.25, 0.26)
    result = pasted(frame, found, mask)
    assert np.abs(result - wanted)[edge == 0].max() < 0.02
    assert np.abs(pasted(frame, edit, np.ones_like(mask)) - wanted)[edge == 0].max() > 0.6
    # Where the frame shows its wall nothing is pasted over it, and the head itself is the edit's.
    far = 1 - np.maximum(disc(0.0, 0.5), disc(0.25, 0.5))
    assert mask[far > 0].max() < 1e-6 and np.array_equal(result[far > 0], frame[far > 0])
    np.testing.assert_allclose(found[inside > 0], edit[inside > 0], atol=2e-3)
    assert mask[inside > 0].min() > 0.999 and share[inside > 0].max() < 1e-3 and share[far > 0].min() > 0.999


def test_where_the_frame_is_all_head_nothing_is_carried_in() -> None:
    whole = np.ones((SIDE, SIDE), np.float32)
    edit, mask = drawn(disc(0.2), HAZE), disc(0.0, 0.9)
    around = Surroundings(whole, 1 - whole, disc(0.2), 1 - disc(0.2))
    found = frames_background(edit, mask, drawn(whole, WALL), around, CONFIG)
    assert found.edit is edit and not found.share.any()
    np.testing.assert_array_equal(found.mask, mask)


def test_where_the_frame_shows_no_background_its_body_stays_all_the_same() -> None:
    was, now = disc(0.0), disc(0.25)
    edit, none = drawn(now, HAZE), np.zeros((SIDE, SIDE), np.float32)
    found = frames_background(edit, 1 - none, drawn(was, WALL), Surroundings(was, none, now, 1 - now), CONFIG)
    assert found.edit is edit and not found.share.any()
    far = 1 - np.maximum(disc(0.0, 0.36), disc(0.25, 0.36))
    assert found.mask[far > 0].max() < 1e-3
    assert found.mask[disc(0.0, 0.24) > 0].min() > 0.99 and found.mask[disc(0.25, 0.24) > 0].min() > 0.99


def test_with_more_background_in_the_frame_it_comes_in_by_and_by() -> None:
    """No step as a head comes near: what is seen of the wall goes through ``least`` in small steps."""
    now, edit = disc(0.25), drawn(disc(0.25), HAZE)
    shares = []
    for columns in range(24):
        was = np.ones((SIDE, SIDE), np.float32)
        was[:, :columns] = 0
        around = Surroundings(was, 1 - was, now, 1 - now)
        shares.append(frames_background(edit, disc(0, 0.9), drawn(was, WALL), around, CONFIG).share.max())
    assert shares[0] == 0 and shares[-1] > 0.99
    assert (np.diff(shares) >= 0).all() and np.diff(shares).max() < 0.5


def test_neck_and_clothes_stay_the_frames_where_the_head_does_not_come() -> None:
    """Right up to the chin, which is no soft hair. Where the frame's head was, the generator's neck shows."""
    lower = np.zeros((SIDE, SIDE), np.float32)
    lower[SIDE // 2 + 8 :] = 1  # shoulders, of which the chin hangs over a part
    was, now = disc(0.0), disc(0.25)
    frame, edit = drawn(was, WALL), drawn(now, HAZE)
    body, other = lower * (1 - was), lower * (1 - now)
    around = Surroundings(was, (1 - was) * (1 - body), now, (1 - now) * (1 - other))
    found, mask, _ = frames_background(edit, np.ones((SIDE, SIDE), np.float32), frame, around, CONFIG)
    edge = np.maximum(disc(0.0, 0.34) - disc(0.0, 0.26), disc(0.25, 0.34) - disc(0.25, 0.26))
    edge[SIDE // 2 + 4 : SIDE // 2 + 12] = 1
    stays, drawn_neck = body * (1 - now) * (1 - edge), was * other * (1 - edge)
    assert stays.sum() > 1000 and mask[stays > 0].max() < 0.01
    assert (disc(0.0, 0.38) * stays).sum() > 50  # within the reach of 'clear'
    assert drawn_neck.sum() > 20 and mask[drawn_neck > 0].min() > 0.99
    np.testing.assert_allclose(found[drawn_neck > 0], edit[drawn_neck > 0], atol=0.02)
    inside = now * (1 - edge) > 0
    assert mask[inside].min() > 0.99 and np.abs(found - edit)[inside].max() < 0.02


@given(st.integers(3, 70), st.floats(-1, 1, width=32), st.integers(0, 2**31))
def test_a_constant_is_carried_in_as_it_is(side: int, value: float, seed: int) -> None:
    known = np.random.default_rng(seed).random((side, side)).astype(np.float32)
    known[known < 0.7] = 0
    known[side // 2, side // 2] = 1
    colours = np.full((side, side, 3), value, np.float32)
    colours[known == 0] = 5.0
    np.testing.assert_allclose(carried_in(colours, known), value, atol=2e-5)


def test_what_is_known_stays_and_what_is_near_says_more_than_what_is_far() -> None:
    known = np.zeros((SIDE, SIDE), np.float32)
    known[:, :20], known[:, -20:] = 1, 1
    colours = np.zeros((SIDE, SIDE, 3), np.float32)
    colours[:, SIDE // 2 :] = 1
    found = carried_in(colours, known)
    assert np.array_equal(found[known == 1], colours[known == 1])
    middle = found[SIDE // 2, :, 0]
    assert middle[30] < 0.2 and middle[-31] > 0.8 and abs(middle[SIDE // 2] - 0.5) < 0.2
    assert (np.diff(middle) > -0.05).all()


def test_half_sure_is_not_sure() -> None:
    np.testing.assert_allclose(surely(np.float32([0, 0.5, 0.75, 1])), [0, 0, 0.5, 1])


def test_shapes_and_numbers_that_do_not_fit_are_refused() -> None:
    flat = np.zeros((8, 8), np.float32)
    around = Surroundings(flat, flat, flat, flat)
    with pytest.raises(ValueError, match="needs a mask"):
        frames_background(np.zeros((8, 8, 3), np.float32), flat[:4], flat, around, CONFIG)
    for wrong in ({"side": 1}, {"clear": 0.0}, {"soften": 0.0}, {"least": 1.0}):
        with pytest.raises(ValueError, match="side must be"):
            replace(CONFIG, **wrong)
    assert isinstance(CONFIG, BehindConfig)
