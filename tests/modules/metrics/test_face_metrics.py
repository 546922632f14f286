"""Landmark error in closed form; identity and landmark metrics on two people of the asset clips."""

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import mean_squared_error

from modules.assets import asset_path
from modules.metrics.face import (
    IdentitySimilarity,
    LandmarkError,
    LandmarkMse,
    identity_similarity,
    landmark_error,
    landmark_error_percent,
    landmark_mse,
)
from modules.perception.identity import load_identity


@pytest.fixture(scope="module")
def identity():
    return load_identity()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    files = (asset_path("clips", name) for name in ("15-f13-anc-ph.jpg", "45-m7-di-ph.jpg"))
    faces = [cv2.resize(cv2.imread(str(f)), (256, 256), interpolation=cv2.INTER_AREA)[..., ::-1] for f in files]
    return torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_landmark_error_of_a_shift():
    target = torch.rand(4, 68, 2) * 10
    target[:, 36:42] = torch.tensor([20.0, 30.0])
    target[:, 42:48] = torch.tensor([80.0, 30.0])
    moved = target + torch.tensor([3.0, 4.0])
    assert torch.allclose(landmark_error(moved, target), torch.full((4,), 5.0), atol=1e-4)
    assert torch.allclose(landmark_error_percent(moved, target), torch.full((4,), 500 / 60), atol=1e-3)
    with pytest.raises(ValueError, match="68"):
        landmark_error(target[:, :5], target[:, :5])


def test_identity_knows_a_person_in_another_light(identity, images):
    darker = images * 0.7 - 0.2
    same = identity_similarity(identity, images, darker.flip(3))
    other = identity_similarity(identity, images, images.flip(0))
    assert (same > 0.6).all() and (other < 0.3).all()
    metric = IdentitySimilarity(identity)
    metric.update(images, darker.flip(3))
    assert metric.compute().item() == pytest.approx(same.mean().item(), abs=1e-5)
    assert metric.higher_is_better is True


def test_landmark_metric_sees_a_shift(identity, images):
    shifted = images.roll(4, 3)
    pixels, percent = (LandmarkError(identity.mesh, unit) for unit in ("pixels", "percent"))
    for metric in (pixels, percent):
        metric.update(shifted, images)
        assert metric.higher_is_better is False
    assert pixels.compute().item() == pytest.approx(4, abs=1)
    assert 2 < percent.compute().item() < 10


def test_lm_is_the_mean_squared_error_of_coordinates(identity, images):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 3, 68, 2))
    expected = mean_squared_error(a.reshape(3, -1).T, b.reshape(3, -1).T, multioutput="raw_values")
    np.testing.assert_allclose(landmark_mse(torch.from_numpy(a), torch.from_numpy(b)), expected)
    with pytest.raises(ValueError, match="68"):
        landmark_mse(torch.zeros(1, 5, 2), torch.zeros(1, 5, 2))
    metric = LandmarkMse(identity.mesh)
    metric.update(images.roll(4, 3), images)
    assert metric.compute().item() == pytest.approx(8, abs=3)  # 4 px along x, none along y
    assert metric.higher_is_better is False
