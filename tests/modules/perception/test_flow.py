"""Optical flow on pictures whose motion is known; warping against SciPy; the mask where something is hidden."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from modules.perception.flow import DenseFlow, FlowConfig, consistent, inside, warp

CONFIG = FlowConfig("medium", 0.01, 0.5)


def texture(side: int = 160, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return ((smooth / np.abs(smooth).max() * 0.5 + 0.5) * 255).astype(np.uint8)


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_the_flow_of_a_shift_points_to_where_things_went(preset):
    first = texture()
    second = np.roll(first, (2, 5), (0, 1))  # down by 2, right by 5
    flow = DenseFlow(FlowConfig(preset, 0.01, 0.5))(first, second)
    middle = flow[:, 30:-30, 30:-30].numpy()
    assert np.abs(middle - np.array([5, 2])[:, None, None]).mean() < 0.2
    brought_back = warp(torch.from_numpy(second).permute(2, 0, 1)[None].float(), flow[None])[0]
    error = (brought_back - torch.from_numpy(first).permute(2, 0, 1)).abs()[:, 30:-30, 30:-30]
    assert error.mean() < 2


def test_warp_is_scipys_interpolation():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 20, 30, generator=generator)
    flow = torch.rand(2, 2, 20, 30, generator=generator) * 8 - 4
    found = warp(images, flow).numpy()
    y, x = np.mgrid[:20, :30]
    for n in range(2):
        places = [y + flow[n, 1].numpy(), x + flow[n, 0].numpy()]
        for c in range(3):
            expected = map_coordinates(images[n, c].numpy(), places, order=1, mode="nearest")
            np.testing.assert_allclose(found[n, c], expected, atol=1e-4)


def test_warp_has_the_right_gradients():
    images = torch.rand(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    # Bilinear interpolation has kinks on whole pixels; these places lie between them.
    flow = (torch.rand(1, 2, 6, 7, dtype=torch.float64) * 0.6 + 0.2).requires_grad_()
    inner = (slice(None), slice(None), slice(0, 5), slice(0, 6))
    assert torch.autograd.gradcheck(lambda i, f: warp(i, f)[inner], (images, flow))


def test_inside_the_picture():
    flow = torch.zeros(1, 2, 4, 5)
    flow[0, 0] = 1.5
    assert inside(flow)[0].all(0).tolist() == [True, True, True, False, False]
    flow[0, 0], flow[0, 1] = 0, -1
    assert inside(flow)[0].all(1).tolist() == [False, True, True, True]


def test_there_and_back_must_meet_within_the_tolerance():
    there = torch.full((1, 2, 8, 8), 1.0)
    assert consistent(there, -there, CONFIG)[0, :7, :7].all()
    lengths = 1 + 1 + 0.5**2 + 1
    limit = (CONFIG.relative * lengths + CONFIG.absolute) ** 0.5
    for missed, believed in ((limit * 0.99, True), (limit * 1.02, False)):
        back = -there.clone()
        back[:, 0] += missed
        assert consistent(there, back, CONFIG)[0, :7, :7].all() == believed


def test_what_a_moving_square_hides_is_not_believed():
    ground, square = texture(seed=2), texture(seed=3)[:48, :48]
    frames = []
    for left in (56, 68):
        frame = ground.copy()
        frame[56:104, left : left + 48] = square
        frames.append(frame)
    flow = DenseFlow(CONFIG)
    mask = consistent(flow(*frames)[None], flow(*frames[::-1])[None], CONFIG)[0].numpy()
    hidden = mask[60:100, 105:115]  # ground of the first frame that the second covers
    assert hidden.mean() < 0.3
    assert mask[62:98, 62:98].mean() > 0.8 and mask[:40].mean() > 0.95


@pytest.mark.parametrize("shapes", [((40, 40, 3), (40, 41, 3)), ((40, 40), (40, 40)), ((16, 40, 3), (16, 40, 3))])
def test_other_frames_are_refused(shapes):
    with pytest.raises(ValueError):
        DenseFlow(CONFIG)(*(np.zeros(shape, np.uint8) for shape in shapes))
    with pytest.raises(ValueError, match="flow must be"):
        warp(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, 8, 9))
