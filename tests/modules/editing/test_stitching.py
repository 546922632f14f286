from __future__ import annotations

import pytest
import torch

from modules.editing.stitching import border_of, inside_of, masked_rms


def test_what_mixes_is_border_and_what_stands_alone_is_inside() -> None:
    mask = torch.tensor([0.0, 0.08, 0.45, 0.625, 0.73, 0.85, 1.0]).view(1, 1, 1, 7)
    assert border_of(mask).flatten().tolist() == pytest.approx([0, 0, 1, 0.75, 0.36, 0, 0], abs=1e-6)
    assert inside_of(mask).flatten().tolist() == pytest.approx([0, 0, 0, 0, 0.54, 1, 1], abs=1e-6)


def test_places_count_as_much_as_they_weigh() -> None:
    images, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    target[..., 0, 0], target[..., 1, 1] = 0.5, 1.0
    weight = torch.tensor([[0.5, 0.0], [0.0, 0.0]]).view(1, 1, 2, 2)
    assert masked_rms(images, target, weight).tolist() == pytest.approx([0.5])
    weight[..., 1, 1] = 0.5
    assert masked_rms(images, target, weight).tolist() == pytest.approx([(1.25 / 2) ** 0.5])


def test_nothing_to_weigh_is_nothing_and_moves_nothing() -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    found = masked_rms(images, torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))
    found.sum().backward()
    assert float(found.detach().max()) < 1e-5 and images.grad is not None and not images.grad.any()
