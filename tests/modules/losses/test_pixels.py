from __future__ import annotations

import pytest
import torch

from modules.losses.pixels import rms_distance


def test_it_is_the_norm_over_the_root_of_the_number_of_values() -> None:
    a, b = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    expected = torch.linalg.vector_norm((a - b).flatten(1), dim=1) / (3 * 8 * 8) ** 0.5
    torch.testing.assert_close(rms_distance(a, b), expected)
    torch.testing.assert_close(rms_distance(a, b, torch.full((2, 1, 8, 8), 0.3)), expected)


def test_places_count_as_much_as_they_weigh() -> None:
    images, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    target[..., 0, 0], target[..., 1, 1] = 0.5, 1.0
    weight = torch.tensor([[0.5, 0.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    assert rms_distance(images, target, weight).tolist() == pytest.approx([0.5])
    weight[..., 1, 1] = 0.5
    assert rms_distance(images, target, weight).tolist() == pytest.approx([(1.25 / 2) ** 0.5])


def test_nothing_to_weigh_is_nothing_and_moves_nothing() -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    found = rms_distance(images, torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))
    found.sum().backward()
    assert float(found.detach().max()) < 1e-5 and images.grad is not None and not images.grad.any()
