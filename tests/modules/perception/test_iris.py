"""The iris net against LiteRT's own answer, its views against closed forms, and what it says of the gaze."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from modules.perception.iris import Irises, gaze, lids_open, load_iris_net
from modules.perception.mesh import load_face_mesh

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def iris():
    return load_iris_net()


@pytest.fixture(scope="module")
def face(frame) -> tuple[torch.Tensor, torch.Tensor]:
    crop = torch.from_numpy(frame[20:340, 130:450].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return crop, load_face_mesh()(crop).points


def test_net_answers_as_litert_does(frame, iris) -> None:
    reference = np.load(DATA / "litert_iris_landmark.npz")
    x0, y0, x1, y1 = reference["box"]
    eye = cv2.resize(frame[y0:y1, x0:x1], (64, 64), interpolation=cv2.INTER_AREA)
    lids, points = iris.net(torch.from_numpy(eye).permute(2, 0, 1)[None].float() / 255)
    assert np.abs(lids.reshape(71, 3).numpy() - reference["lids"]).max() < 2e-3
    assert np.abs(points.reshape(5, 3).numpy() - reference["iris"]).max() < 2e-3


def test_points_are_where_litert_sees_them_in_the_frame(face, iris) -> None:
    reference = np.load(DATA / "litert_iris_landmark.npz")
    x0, y0, x1, _ = reference["box"]
    scale = (x1 - x0) / 64
    wanted = (reference["lids"][:, :2] + 0.5) * scale - 0.5 + [x0 - 130, y0 - 20]
    # The reference's square is upright and of whole pixels, ours follows the corners.
    assert np.abs(iris(*face).lids[0, 0].numpy() - wanted).mean() < 1.0


def test_irises_lie_in_their_eyes_and_lids_on_the_mesh(face, iris) -> None:
    image, points = face
    eyes = iris(image, points)
    assert eyes.lids.shape == (1, 2, 71, 2) and eyes.iris.shape == (1, 2, 5, 2)
    for side, (outer, inner) in enumerate(((33, 133), (263, 362))):
        corners = points[0, [outer, inner], :2]
        width = (corners[0] - corners[1]).norm()
        assert (eyes.lids[0, side, [0, 8]] - corners).norm(dim=1).max() < 0.35 * width
        assert (eyes.iris[0, side, 0] - corners.mean(0)).norm() < 0.4 * width
        assert (eyes.iris[0, side, 1:] - eyes.iris[0, side, 0]).norm(dim=1).max() < 0.4 * width


def test_a_mirrored_face_looks_the_other_way(face, iris) -> None:
    image, points = face
    mirrored = points.clone()
    mirrored[..., 0] = image.shape[3] - 1 - points[..., 0]
    for right, left in ((33, 263), (133, 362)):
        mirrored[:, [right, left]] = mirrored[:, [left, right]]
    there, back = iris(image, points), iris(image.flip(3), mirrored)
    assert gaze(back).item() == pytest.approx(-gaze(there).item(), abs=1e-3)
    assert lids_open(back).item() == pytest.approx(lids_open(there).item(), abs=1e-3)


def test_points_follow_the_pictures_size(face, iris) -> None:
    image, points = face
    larger = torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear")
    scaled = torch.cat([(points[..., :2] + 0.5) * 2 - 0.5, points[..., 2:]], -1)
    near, far = iris(image, points), iris(larger, scaled)
    assert ((near.iris + 0.5) * 2 - 0.5 - far.iris).abs().max() < 1.0


def test_views_are_turned_squares_around_the_corners(iris) -> None:
    corners = torch.tensor([[[[10.0, 20.0], [10.0, 40.0]], [[90.0, 30.0], [60.0, 30.0]]]])
    places = iris.places(corners)
    assert places.shape == (1, 2, 64, 64, 2)
    step = places[0, :, :, 1:] - places[0, :, :, :-1]
    # The first eye stands upright: rightwards in the view is downwards in the picture, by 2.3 times 20 over 64.
    assert torch.allclose(step[0], torch.tensor([0.0, 2.3 * 20 / 64]).expand_as(step[0]), atol=1e-4)
    # The second is mirrored: rightwards in the view is leftwards, downwards stays downwards.
    assert torch.allclose(step[1], torch.tensor([-2.3 * 30 / 64, 0.0]).expand_as(step[1]), atol=1e-4)
    down = places[0, 1, 1:] - places[0, 1, :-1]
    assert torch.allclose(down, torch.tensor([0.0, 2.3 * 30 / 64]).expand_as(down), atol=1e-4)
    assert torch.allclose(places[0].mean((1, 2)), torch.tensor([[10.0, 30.0], [75.0, 30.0]]), atol=1e-4)


def test_gaze_and_lids_in_closed_form() -> None:
    lids = torch.zeros(1, 2, 71, 2)
    lids[0, :, 0, 0], lids[0, :, 8, 0] = torch.tensor([0.0, 50.0]), torch.tensor([20.0, 30.0])
    lids[0, :, 3:6, 1], lids[0, :, 11:14, 1] = 3.0, -2.0
    iris = torch.zeros(1, 2, 5, 2)
    iris[0, :, 0, 0] = torch.tensor([12.0, 41.0])
    eyes = Irises(lids, iris)
    assert gaze(eyes).item() == pytest.approx((2 / 20 + 1 / 20) / 2)
    assert lids_open(eyes).item() == pytest.approx(5 / 20)


def test_gradient_reaches_the_picture_and_no_weight(face, iris) -> None:
    image = face[0].clone().requires_grad_()
    gaze(iris(image, face[1])).sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in iris.parameters())


def test_other_shapes_are_refused(iris) -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        iris(torch.zeros(1, 1, 64, 64), torch.zeros(1, 468, 3))
    with pytest.raises(ValueError, match="468"):
        iris(torch.zeros(2, 3, 64, 64), torch.zeros(1, 468, 3))
