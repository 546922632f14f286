"""Profiles of a scan line and groups of codes, against lines that are known and against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.types import BadInputError
from services.evaluation.analyses import clusters, profile


def moving_edge(count: int = 20, step: int = 2) -> list[np.ndarray]:
    """Black frames of 48 x 64 whose right part, from an edge on that moves, is white."""
    frames = []
    for t in range(count):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[:, 10 + step * t :] = 255
        frames.append(frame)
    return frames


def test_a_moving_edge_gives_a_slanted_line() -> None:
    strip = profile(moving_edge(), row=0.5)
    assert strip.shape == (64, 20, 3)
    edge = (strip[..., 0] == 0).sum(axis=0)  # black pixels above the edge, per frame
    np.testing.assert_array_equal(edge, 10 + 2 * np.arange(20))


def test_a_column_is_as_high_as_the_frame_and_sees_the_edge_pass() -> None:
    strip = profile(iter(moving_edge()), column=20 / 63)
    assert strip.shape == (48, 20, 3)
    np.testing.assert_array_equal(strip[0, :, 0], [255 if 10 + 2 * t <= 20 else 0 for t in range(20)])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_lines_reach_from_edge_to_edge(share: float) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(profile([frame], row=share)[:, 0], frame[-1 if share else 0])
    np.testing.assert_array_equal(profile([frame], column=share)[:, 0], frame[:, -1 if share else 0])


@pytest.mark.parametrize(
    "where", [{}, {"row": 0.1, "column": 0.1}, {"row": 1.1}, {"column": -0.1}, {"row": float("nan")}]
)
def test_a_line_that_does_not_lie_in_the_frame_is_refused(where: dict[str, float]) -> None:
    with pytest.raises(BadInputError, match="0 to 1"):
        profile(moving_edge(), **where)


def test_no_frames_give_no_profile() -> None:
    with pytest.raises(BadInputError, match="no frame"):
        profile([], row=0.5)


def test_two_groups_of_codes_get_two_labels() -> None:
    random = np.random.default_rng(2)
    ws = 0.1 * random.standard_normal((30, 4, 8))
    second = random.permutation(np.arange(30) % 2).astype(bool)
    second[0] = False
    ws[second] += 5
    points, labels = clusters(ws, 2, seed=3)
    np.testing.assert_array_equal(labels, second)  # in order of appearance, so the first one is 0
    assert points[second, 0].min() > points[~second, 0].max() or points[second, 0].max() < points[~second, 0].min()


def test_points_are_those_of_numpys_singular_values_up_to_sign() -> None:
    ws = np.random.default_rng(4).standard_normal((25, 3, 6)).astype(np.float32)
    points, labels = clusters(ws, 7, seed=5)
    flat = ws.reshape(25, -1).astype(np.float64)
    u, s, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), atol=1e-6)
    assert set(labels) == set(range(7)) and labels[0] == 0
    first = [int(np.flatnonzero(labels == label)[0]) for label in range(7)]
    assert first == sorted(first)
    np.testing.assert_array_equal(clusters(ws, 7, seed=5)[1], labels)


@pytest.mark.parametrize(("count", "k"), [(3, 7), (5, 0), (1, 1)])
def test_too_few_codes_are_refused(count: int, k: int) -> None:
    with pytest.raises(BadInputError, match="groups"):
        clusters(np.zeros((count, 2, 4)), k, seed=1)
