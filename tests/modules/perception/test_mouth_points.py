"""What is told of a mouth from points that are put by hand."""

import pytest
import torch

from modules.perception.landmarks import eye_distance, lip_gaps, mouth_corners


def points() -> torch.Tensor:
    """Eyes 40 px apart around (100, 80), corners of the mouth at (85, 120) and (115, 124)."""
    made = torch.zeros(2, 468, 3)
    for outer, inner, x in ((33, 133, 80.0), (362, 263, 120.0)):
        made[:, outer, :2], made[:, inner, :2] = torch.tensor([x - 8, 80.0]), torch.tensor([x + 8, 80.0])
    made[:, 61, :2], made[:, 291, :2] = torch.tensor([85.0, 120.0]), torch.tensor([115.0, 124.0])
    made[:, 13, :2], made[:, 14, :2] = torch.tensor([100.0, 118.0]), torch.tensor([101.0, 125.0])
    return made


def test_corners_are_told_from_the_middle_of_the_eyes() -> None:
    assert mouth_corners(points()).tolist() == [[[-15.0, 40.0], [15.0, 44.0]]] * 2
    assert eye_distance(points()).tolist() == pytest.approx([40.0, 40.0])
    moved = points() + torch.tensor([7.0, -3.0, 2.0])
    torch.testing.assert_close(mouth_corners(moved), mouth_corners(points()))
    with pytest.raises(ValueError, match="468"):
        mouth_corners(points()[:, :100])


def test_the_middle_gap_goes_from_the_upper_lip_to_the_lower() -> None:
    gaps = lip_gaps(points())
    assert gaps.shape == (2, 9, 2) and gaps[0, 4].tolist() == [1.0, 7.0]
