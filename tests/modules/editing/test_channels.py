"""Localisation on a toy whose channels' places are known, and the sparse combination against its optimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from modules.editing.channels import ChannelIndex, certainty, region_energy, sparse_combination, style_spread
from modules.generators.protocol import StyleLayer

SIDE = 12


class Painter:
    """Each channel adds a known picture: of the first layer inside the left half, of the second half and half."""

    layers = (StyleLayer("left", SIDE, 3, 0, False), StyleLayer("both", SIDE, 2, 1, False))

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.pictures = torch.randn(5, 3, SIDE, SIDE, generator=random)
        self.pictures[:3, :, :, SIDE // 2 :] = 0
        self.pictures *= torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])[:, None, None, None]

    def styles(self, ws: Tensor) -> dict[str, Tensor]:
        return {"left": ws[:, 0, :3], "both": 2 * ws[:, 1, :2]}

    def synthesize_from_styles(self, styles: dict[str, Tensor]) -> Tensor:
        row = torch.cat([styles["left"], styles["both"]], 1)
        return torch.einsum("nk,kchw->nchw", row, self.pictures)


LEFT = torch.zeros(1, 1, SIDE, SIDE)
LEFT[..., : SIDE // 2] = 1


def test_energies_are_those_of_the_painted_pictures() -> None:
    painter = Painter()
    index = ChannelIndex(painter.layers)
    styles = torch.randn(1, 5).requires_grad_()
    random = torch.Generator().manual_seed(3)
    draws = []
    for _ in range(1500):
        picture = painter.synthesize_from_styles(index.parted(styles))
        draws.append(torch.stack(region_energy(picture, styles, [LEFT], random)))
    inside, outside = torch.stack(draws).mean(0)[:, 0]
    squares = painter.pictures.square()
    wanted_in, wanted_out = (squares * LEFT).sum((1, 2, 3)), (squares * (1 - LEFT)).sum((1, 2, 3))
    # The standard error of 1,500 draws is 3.7 %.
    torch.testing.assert_close(inside, wanted_in, rtol=0.15, atol=1e-3)
    torch.testing.assert_close(outside[3:], wanted_out[3:], rtol=0.15, atol=1e-3)
    assert outside[:3].abs().max() < 1e-6


def test_one_draw_is_enough_to_tell_inside_from_outside() -> None:
    painter = Painter()
    styles = torch.zeros(1, 5, requires_grad=True)
    picture = painter.synthesize_from_styles(ChannelIndex(painter.layers).parted(styles))
    inside, outside = region_energy(picture, styles, [LEFT, 1 - LEFT], torch.Generator().manual_seed(0))
    assert (outside[0, :3] < 1e-9).all() and (outside[0, 3:] > 0).all()
    torch.testing.assert_close(inside[0], outside[1])


def test_soft_masks_and_batches_are_refused() -> None:
    styles = torch.zeros(1, 5, requires_grad=True)
    picture = Painter().synthesize_from_styles(ChannelIndex(Painter.layers).parted(styles))
    with pytest.raises(ValueError, match="zeros and ones"):
        region_energy(picture, styles, [0.5 * LEFT], torch.Generator())
    with pytest.raises(ValueError, match="one sample"):
        region_energy(picture.expand(2, -1, -1, -1), styles, [LEFT], torch.Generator())


def test_the_row_of_channels_goes_there_and_back() -> None:
    index = ChannelIndex(Painter.layers)
    styles = {"left": torch.randn(2, 3), "both": torch.randn(2, 2)}
    back = index.parted(index.joined(styles))
    assert all(torch.equal(back[name], styles[name]) for name in styles)
    assert [index.place(i) for i in range(5)] == [("left", 0), ("left", 1), ("left", 2), ("both", 0), ("both", 1)]
    with pytest.raises(IndexError):
        index.place(5)


def test_spread_is_numpys() -> None:
    ws = torch.randn(700, 2, 3)
    mean, spread = style_spread(Painter(), ws)  # type: ignore[arg-type]
    row = np.concatenate([ws[:, 0, :3].numpy(), 2 * ws[:, 1, :2].numpy()], 1)
    np.testing.assert_allclose(mean, row.mean(0), atol=1e-5)
    np.testing.assert_allclose(spread, row.std(0, ddof=1), rtol=1e-5)


def test_certainty_is_the_t_statistic() -> None:
    values = np.random.default_rng(0).standard_normal((12, 4)) + np.array([0, 1, -2, 0])
    wanted = np.abs(values.mean(0)) / (values.std(0, ddof=1) / np.sqrt(12))
    np.testing.assert_allclose(certainty(values), wanted)


def test_all_channels_give_the_constrained_optimum() -> None:
    random = np.random.default_rng(0)
    gradients, cost = random.standard_normal((3, 9)), random.uniform(0.5, 2, 9)
    change = sparse_combination(gradients, cost, np.ones(9, bool), 9)
    np.testing.assert_allclose(gradients @ change, [1, 0, 0], atol=1e-9)
    found = minimize(
        lambda d: (cost * d**2).sum(),
        np.zeros(9),
        constraints={"type": "eq", "fun": lambda d: gradients @ d - [1, 0, 0]},
        options={"ftol": 1e-12},
    )
    assert (cost * change**2).sum() == pytest.approx(found.fun, rel=1e-5)


def test_few_channels_are_those_that_cost_least_and_are_allowed() -> None:
    gradients = np.array([[1.0, 1.0, 1.0, 1.0, 0.0]])
    cost = np.array([1.0, 0.1, 0.2, 0.01, 0.001])
    allowed = np.array([True, True, True, False, True])
    change = sparse_combination(gradients, cost, allowed, 2)
    assert np.flatnonzero(change).tolist() == [1, 2]
    np.testing.assert_allclose(change[[1, 2]], [2 / 3, 1 / 3])


def test_kept_measures_stay_with_few_channels_too() -> None:
    random = np.random.default_rng(4)
    gradients, cost = random.standard_normal((3, 200)), random.uniform(0.5, 2, 200)
    change = sparse_combination(gradients, cost, np.ones(200, bool), 6)
    assert np.count_nonzero(change) == 6
    np.testing.assert_allclose(gradients @ change, [1, 0, 0], atol=1e-9)


def test_the_measures_units_do_not_matter() -> None:
    """A kept measure in thousandths is kept as well as one in degrees."""
    random = np.random.default_rng(5)
    gradients, cost = random.standard_normal((3, 40)), random.uniform(0.5, 2, 40)
    units = np.array([1.0, 1e-7, 1e5])
    change = sparse_combination(gradients, cost, np.ones(40, bool), 5)
    other = sparse_combination(gradients * units[:, None], cost, np.ones(40, bool), 5)
    np.testing.assert_allclose(other, change, rtol=1e-6, atol=1e-9)


def test_a_kept_measure_that_moves_with_the_first_is_refused() -> None:
    slopes = np.array([1.0, 2.0, -1.0, 3.0])
    with pytest.raises(ValueError, match="keep the others"):
        sparse_combination(np.stack([slopes, 2 * slopes]), np.ones(4), np.ones(4, bool), 4)
    kept = np.zeros(4)  # what none of the channels moves is no obstacle
    change = sparse_combination(np.stack([slopes, kept]), np.ones(4), np.ones(4, bool), 4)
    np.testing.assert_allclose(change, slopes / (slopes @ slopes))


def test_too_few_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="1 channels cannot"):
        sparse_combination(np.ones((2, 3)), np.ones(3), np.array([True, False, False]), 2)
    with pytest.raises(ValueError, match="slopes"):
        sparse_combination(np.ones((2, 3)), np.ones(4), np.ones(3, bool), 2)
