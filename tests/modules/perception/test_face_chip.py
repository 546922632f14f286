"""Chips of faces against dlib's geometry in closed form."""

import numpy as np
import pytest
import torch

from modules.perception.face_chip import face_chip
from modules.perception.landmarks import MESH_TO_68
from modules.perception.second_identity import _CORNERS

AMONG_68 = (45, 42, 36, 39, 33)
SIDE, PADDING = 64, 0.2


def chip_of_places(turn: float, large: float, shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """What a chip shows of an image whose pixels say where they are, and what it must: ``(64, 64, 2)`` each."""
    cos, sin = np.cos(turn) * large, np.sin(turn) * large
    matrix = np.array([[cos, -sin], [sin, cos]])
    points = torch.zeros(1, 468, 3)
    corners = np.array(_CORNERS) @ matrix.T + shift
    points[0, [MESH_TO_68[k] for k in AMONG_68], :2] = torch.from_numpy(corners).float()
    steps = torch.arange(256.0)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    chip = face_chip(torch.stack([x, y, 0 * x])[None], points, SIDE, PADDING)[0]
    # dlib: the mean face with 0.2 of itself on every side, from the first pixel's middle to the last one's.
    along = np.linspace(-PADDING, 1 + PADDING, SIDE)
    there = np.stack(np.meshgrid(along, along), -1) @ matrix.T + shift
    assert chip.shape == (3, SIDE, SIDE) and chip[2].abs().max() == 0
    return chip[:2].permute(1, 2, 0).numpy(), there


@pytest.mark.parametrize(("turn", "large"), [(0.0, 100.0), (0.3, 140.0), (-0.5, 60.0)])
def test_a_chip_shows_dlibs_part_of_the_face(turn: float, large: float) -> None:
    """Upright, turned, smaller than the chip and twice as large."""
    corner = 128 - np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ (0.5, 0.5) * large
    chip, there = chip_of_places(turn, large, tuple(corner))
    np.testing.assert_allclose(chip, there, atol=0.02)


def test_a_chip_beyond_the_image_repeats_its_edge() -> None:
    chip, there = chip_of_places(0.0, 100.0, (-40.0, 20.0))
    np.testing.assert_allclose(chip[:, 0, 0], 0)
    np.testing.assert_allclose(chip[1:, -1], there[1:, -1], atol=0.02)


def test_fine_stripes_are_averaged_and_not_missed() -> None:
    """Stripes of one pixel, each chip pixel over 2.2 of them: the chip is grey."""
    points = torch.zeros(1, 468, 3)
    points[0, [MESH_TO_68[k] for k in AMONG_68], :2] = torch.tensor(_CORNERS) * 100 + 78
    stripes = torch.zeros(1, 3, 256, 256)
    stripes[..., ::2] = 255
    chip = face_chip(stripes, points, SIDE, PADDING)
    assert chip.min() > 80 and chip.max() < 175


def test_only_square_pictures_are_taken() -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, H, H\)"):
        face_chip(torch.zeros(1, 3, 64, 60), torch.zeros(1, 468, 3), SIDE, PADDING)
