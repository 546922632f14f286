"""TC against a second implementation in NumPy and SciPy, and against closed forms."""

import math
import weakref

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from modules.metrics.temporal import (
    OFFSETS,
    NeighbourFlows,
    Neighbours,
    TemporalConsistency,
    accumulated_errors,
    temporal_consistency,
)
from modules.perception.flow import DenseFlow, FlowConfig, consistent

FLOW = DenseFlow(FlowConfig("medium", 0.01, 0.5))


def texture(side: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return ((smooth / np.abs(smooth).max() * 0.5 + 0.5) * 255).astype(np.uint8)


def moving(count: int = 9, step: int = 2, side: int = 96) -> np.ndarray:
    """A window that slides over a texture."""
    ground = texture(side + step * count)
    return np.stack([ground[step * t : step * t + side, step * t : step * t + side] for t in range(count)])


def to_images(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def still(count: int, side: int) -> list[Neighbours]:
    return [
        Neighbours(torch.zeros(6, 2, side, side), torch.ones(6, side, side, dtype=torch.bool))
        for _ in range(count - 6)
    ]


def reference(frames: np.ndarray, source: np.ndarray, config: FlowConfig) -> np.ndarray:
    """Fig. 3 written down a second time: loops, OpenCV and SciPy."""
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in source]
    height, width = grey[0].shape
    y, x = np.mgrid[:height, :width].astype(np.float64)
    values = (frames.clip(-1, 1) + 1) / 2
    maps = []
    for t in range(3, len(frames) - 3):
        total, counted = np.zeros((height, width)), np.zeros((height, width))
        for s in (t - 3, t - 2, t - 1, t + 1, t + 2, t + 3):
            there, back = search.calc(grey[t], grey[s], None), search.calc(grey[s], grey[t], None)
            px, py = x + there[..., 0], y + there[..., 1]
            way = [
                map_coordinates(back[..., k].astype(np.float64), [py, px], order=1, mode="nearest") for k in (0, 1)
            ]
            missed = (there[..., 0] + way[0]) ** 2 + (there[..., 1] + way[1]) ** 2
            lengths = (there**2).sum(-1) + way[0] ** 2 + way[1] ** 2
            seen = missed <= config.relative * lengths + config.absolute
            seen &= (px >= 0) & (px <= width - 1) & (py >= 0) & (py <= height - 1)
            squares = [
                (map_coordinates(values[s, c], [py, px], order=1, mode="nearest") - values[t, c]) ** 2
                for c in range(3)
            ]
            total += np.where(seen, np.sqrt(np.mean(squares, axis=0)), 0)
            counted += seen
        with np.errstate(invalid="ignore"):
            maps.append(6 * total / counted)
    return np.stack(maps)


def test_it_is_the_second_implementations_number():
    source = moving()
    random = np.random.default_rng(0)
    frames = to_images(source).numpy() + random.normal(0, 0.1, (9, 3, 96, 96))
    alignment = NeighbourFlows(source, FLOW)
    maps = accumulated_errors(torch.from_numpy(frames).float(), alignment).numpy()
    expected = reference(frames, source, FLOW.config)
    # The masks are thresholds, and float32 may fall on the other side of them.
    assert np.mean(np.abs(maps - expected) > 1e-3) < 0.002
    values = temporal_consistency(torch.from_numpy(frames).float(), alignment).numpy()
    np.testing.assert_allclose(values, np.nanmean(expected, axis=(1, 2)), rtol=1e-3)


def test_a_video_that_moves_as_the_input_does_has_none_and_a_still_one_is_charged():
    source = moving()
    alignment = NeighbourFlows(source, FLOW)
    follows = temporal_consistency(to_images(source), alignment)
    stands = temporal_consistency(to_images(np.repeat(source[:1], len(source), 0)), alignment)
    assert follows.shape == (3,)
    assert (follows < 0.05).all() and (stands > 10 * follows).all()
    # The same motion seen in other colours is as consistent: only motion and light count.
    assert (temporal_consistency(-0.5 * to_images(source), alignment) < 0.03).all()


@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_noise_on_a_still_video_has_its_known_number(sigma):
    noise = torch.randn(13, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * sigma
    values = temporal_consistency(2 * noise, still(13, 64))  # [-1, 1] is twice as wide as [0, 1]
    assert values.mean().item() == pytest.approx(6 * sigma * math.sqrt(2) * math.sqrt(8 / (3 * math.pi)), rel=0.01)


def test_a_flash_is_seen_by_its_neighbours():
    frames = torch.zeros(13, 3, 8, 8)
    frames[6] = 0.4
    expected = [0.2 if abs(t - 6) <= 3 else 0 for t in range(3, 10)]
    expected[3] = 6 * 0.2  # the flash itself differs from all six
    np.testing.assert_allclose(temporal_consistency(frames, still(13, 8)), expected, atol=1e-6)


def test_neighbours_that_do_not_show_a_place_are_stood_for():
    alignment = still(7, 4)
    frames = torch.zeros(7, 3, 4, 4)
    frames[0] = 0.6
    maps = accumulated_errors(frames, alignment)
    assert torch.allclose(maps, torch.full((1, 4, 4), 0.3))
    alignment[0].seen[:3, 0] = False  # the three before do not show the top row
    alignment[0].seen[:, 1] = False
    maps = accumulated_errors(frames, alignment)
    assert (maps[0, 0] == 0).all() and maps[0, 1].isnan().all()
    assert temporal_consistency(frames, alignment).item() == pytest.approx(0.3 * 2 / 3)


def test_the_class_weighs_frames() -> None:
    source = moving(8)
    frames = to_images(source)
    metric = TemporalConsistency(FLOW)
    metric.update(frames, source)
    metric.update(frames.flip(1)[:7], source[:7])
    values = [
        *temporal_consistency(frames, NeighbourFlows(source, FLOW)),
        *temporal_consistency(frames.flip(1)[:7], NeighbourFlows(source[:7], FLOW)),
    ]
    assert metric.compute().item() == pytest.approx(float(np.mean(values)), rel=1e-4)
    assert metric.higher_is_better is False
    assert OFFSETS == (-3, -2, -1, 1, 2, 3)


class Counted:
    """A toy flow that is another for each pair, and counts how many of its answers are still held."""

    config = FlowConfig("medium", 0.01, 0.5)

    def __init__(self) -> None:
        self.answers: list[weakref.ref[torch.Tensor]] = []
        self.most = self.calls = 0

    def __call__(self, first: np.ndarray, second: np.ndarray) -> torch.Tensor:
        way = float(second.flat[0]) - float(first.flat[0])
        waves = torch.sin(torch.arange(32.0) * 0.3 + way)
        found = torch.stack([0.5 * way + 0.2 * waves.expand(32, 32), 0.3 * waves[:, None].expand(32, 32)])
        self.calls += 1
        self.answers = [ref for ref in self.answers if ref() is not None] + [weakref.ref(found)]
        self.most = max(self.most, len(self.answers))
        return found


def all_at_once(source: np.ndarray, flow: Counted) -> list[Neighbours]:
    """Every flow of the clip, held together."""
    pairs = {
        (a, a + k): flow(source[a], source[a + k])
        for a in range(len(source)) for k in OFFSETS if 0 <= a + k < len(source)
    }  # fmt: skip
    found = []
    for centre in range(3, len(source) - 3):
        there = torch.stack([pairs[centre, centre + k] for k in OFFSETS])
        back = torch.stack([pairs[centre + k, centre] for k in OFFSETS])
        found.append(Neighbours(there, consistent(there, back, flow.config)))
    return found


def test_found_centre_by_centre_it_is_the_same_and_no_more_than_a_neighbourhood_is_held() -> None:
    flow = Counted()
    source = np.zeros((40, 32, 32, 3), np.uint8)
    source[:] = np.arange(40)[:, None, None, None]
    frames = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    alignment = NeighbourFlows(source, flow)  # type: ignore[arg-type]
    whole = all_at_once(source, Counted())
    values = temporal_consistency(frames, alignment)
    assert flow.most <= 24 < flow.calls, "of 40 frames there are over 200 pairs"
    torch.testing.assert_close(values, accumulated_errors(frames, whole).nanmean((1, 2)), rtol=0, atol=1e-6)
    maps = accumulated_errors(frames, alignment)  # a second time
    torch.testing.assert_close(maps, accumulated_errors(frames, whole), rtol=0, atol=1e-6, equal_nan=True)
    assert maps.isfinite().any() and len(alignment) == len(values) == 34


def test_clips_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="at least 7"):
        NeighbourFlows(moving(6), FLOW)
    with pytest.raises(ValueError, match="do not go with"):
        accumulated_errors(torch.zeros(9, 3, 8, 8), still(10, 8))
    with pytest.raises(ValueError, match="frames must be"):
        accumulated_errors(torch.zeros(9, 8, 8), still(9, 8))
