"""Boundaries on codes whose attributes are known functions of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.editing.boundaries import (
    RowGroups,
    block_covariance,
    fit_classes,
    fit_regression,
    part,
    slope,
    symmetric_root,
    unmix,
)

RANDOM = np.random.default_rng(3)
GROUPS = RowGroups((0, 2, 5), 6)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_features_are_means_of_rows_and_directions_go_back_to_them() -> None:
    ws = RANDOM.standard_normal((4, 6, 3)).astype(np.float32)
    features = GROUPS.features(ws)
    np.testing.assert_allclose(features[:, 3:6], ws[:, 2:5].mean(1), rtol=1e-5)
    moved = GROUPS.features(ws + GROUPS.rows(np.arange(9.0))[None])
    np.testing.assert_allclose(moved - features, np.tile(np.arange(9.0), (4, 1)), atol=1e-5)
    assert GROUPS.allowed((2, 6), 3).tolist() == [False] * 3 + [True] * 6
    assert GROUPS.allowed((1, 5), 3).tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_groups_that_overlap_or_do_not_fit_are_refused() -> None:
    for starts in ((1, 2), (0, 3, 3), (0, 7), ()):
        with pytest.raises(ValueError, match="groups must start"):
            RowGroups(starts, 6)
    with pytest.raises(ValueError, match="no group"):
        GROUPS.allowed((3, 4), 3)


def test_regression_finds_the_normal_and_scores_what_it_did_not_see() -> None:
    features, normal = RANDOM.standard_normal((600, 8)) * 2, RANDOM.standard_normal(8)
    values = features @ normal + 30
    found = fit_regression(features, values, 1e-9, 100)
    np.testing.assert_allclose(found.normal, normal, rtol=1e-5)
    assert found.score == pytest.approx(1.0)
    noise = fit_regression(features, RANDOM.standard_normal(600), 1e-9, 100)
    assert noise.score < 0.1


def test_classes_find_the_normal_whatever_the_scale() -> None:
    normal = RANDOM.standard_normal(5)
    for scale in (0.01, 100.0):
        features = RANDOM.standard_normal((1500, 5)) * scale
        found = fit_classes(features, features @ normal > 0, 1e-4, 300)
        assert cosine(found.normal, normal) > 0.99
        assert found.score > 0.95
    with pytest.raises(ValueError, match="one of the two classes"):
        fit_classes(features, np.ones(1500, bool), 1e-4, 300)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_parting_moves_one_attribute_by_one_and_the_kept_ones_not(seed: int) -> None:
    random = np.random.default_rng(seed)
    normals = random.standard_normal((4, 10))
    root = random.standard_normal((10, 10))
    allowed = np.arange(10) < 8
    direction = part(normals, 2, root @ root.T + np.eye(10), allowed, [0, 3])
    got = normals @ direction
    np.testing.assert_allclose(got[[0, 2, 3]], [0, 1, 0], atol=1e-6)
    assert (direction[~allowed] == 0).all()


def test_with_the_identity_parting_is_orthogonal_projection() -> None:
    normals = RANDOM.standard_normal((2, 6))
    direction = part(normals, 0, np.eye(6), np.ones(6, bool), [1])
    own, other = normals
    projected = own - (own @ other) / (other @ other) * other
    assert cosine(direction, projected) == pytest.approx(1.0)


def test_parting_takes_the_likeliest_of_all_ways() -> None:
    root = RANDOM.standard_normal((6, 6))
    covariance, normals = root @ root.T, RANDOM.standard_normal((2, 6))
    best = part(normals, 0, covariance, np.ones(6, bool), [1])
    free = RANDOM.standard_normal((50, 6))
    free -= free @ np.linalg.pinv(normals) @ normals  # changes that move neither attribute
    cost = np.linalg.inv(covariance)
    assert all(best @ cost @ best < (best + f) @ cost @ (best + f) for f in free * 0.1)


def test_attributes_that_are_one_cannot_be_parted() -> None:
    normal = RANDOM.standard_normal(6)
    with pytest.raises(ValueError, match="told apart"):
        part(np.stack([normal, 2 * normal]), 0, np.eye(6), np.ones(6, bool), [1])


def test_covariance_is_that_of_w_in_every_group() -> None:
    w = RANDOM.standard_normal((500, 3)) * [1.0, 2.0, 3.0]
    covariance = block_covariance(w, 2, 0.25)
    own = np.cov(w.T)
    np.testing.assert_allclose(covariance[3:, 3:], 0.75 * own + 0.25 * np.trace(own) / 3 * np.eye(3))
    assert (covariance[:3, 3:] == 0).all()


def test_the_root_is_symmetric_and_squares_to_the_covariance_also_without_full_rank() -> None:
    factor = RANDOM.standard_normal((5, 3))
    covariance = factor @ factor.T
    root = symmetric_root(covariance)
    np.testing.assert_allclose(root, root.T, atol=1e-9)
    np.testing.assert_allclose(root @ root, covariance, atol=1e-6)
    assert np.linalg.eigvalsh(root).min() > -1e-6


def test_unmixing_a_linear_world_makes_every_edit_pure() -> None:
    effects, directions = RANDOM.standard_normal((3, 7)), RANDOM.standard_normal((3, 7))
    per_unit = np.array([1.0, 0.1, 5.0])
    pure = unmix(directions, directions @ effects.T, per_unit, ~np.eye(3, dtype=bool))
    np.testing.assert_allclose(pure @ effects.T, np.diag(per_unit), atol=1e-9)
    # One that need not keep the third is only freed from the second.
    held = np.array([[False, True, False], [True, False, True], [True, True, False]])
    freed = unmix(directions, directions @ effects.T, per_unit, held) @ effects.T
    np.testing.assert_allclose(freed[0, :2], [1.0, 0.0], atol=1e-9)
    assert abs(freed[0, 2]) > 1e-3
    with pytest.raises(ValueError, match="told apart"):
        unmix(directions, np.ones((3, 3)), per_unit, ~np.eye(3, dtype=bool))


def test_slope_is_least_squares() -> None:
    asked, got = RANDOM.standard_normal(9), RANDOM.standard_normal(9)
    assert slope(asked, got) == pytest.approx(np.polyfit(asked, got, 1)[0])
    with pytest.raises(ValueError, match="two strengths"):
        slope(np.ones(3), np.ones(3))
