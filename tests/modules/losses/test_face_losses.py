"""Eq. 3 and eq. 5 of FrEN: norms as printed, over everything one image gives."""

import cv2
import numpy as np
import pytest
import torch

from modules.assets import asset_path
from modules.losses.face import UNIT, FaceLoss, FaceTerm, IdentityLoss
from modules.perception.identity import load_identity
from modules.perception.mesh import load_face_mesh


@pytest.fixture(scope="module")
def loss() -> FaceLoss:
    return FaceLoss(load_face_mesh())


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    files = (asset_path("clips", name) for name in ("15-f13-anc-ph.jpg", "45-m7-di-ph.jpg"))
    faces = [cv2.resize(cv2.imread(str(f)), (UNIT, UNIT), interpolation=cv2.INTER_AREA)[..., ::-1] for f in files]
    return torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_norms_are_as_printed(loss, images):
    target = loss.target(images.flip(0))
    out = loss(images, target)
    a, b = (loss.mesh(x) for x in (images, images.flip(0)))
    for k in (0, 1):
        assert out.landmark[k].item() == pytest.approx(np.linalg.norm(a.features[k] - b.features[k]), rel=1e-4)
        assert out.mesh[k].item() == pytest.approx(np.linalg.norm(a.points[k] - b.points[k]), rel=1e-4)


def test_equal_images_have_distance_and_gradient_zero(loss, images):
    same = images.clone().requires_grad_()
    out = loss(same, loss.target(images))
    (out.landmark + out.mesh).sum().backward()
    assert out.landmark.abs().max() == 0 and out.mesh.abs().max() == 0
    assert torch.isfinite(same.grad).all()


def test_mesh_distance_does_not_hang_on_the_images_size(loss, images):
    double = torch.nn.functional.interpolate(images, scale_factor=2, mode="bilinear")
    near = loss(images, loss.target(images.flip(0))).mesh
    far = loss(double, loss.target(double.flip(0))).mesh
    assert torch.allclose(near, far, rtol=0.05)


def test_autocast_leaves_points_the_digits_that_pixels_need(loss, images):
    exact = loss(images[:1], loss.target(images[1:2]))
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(images[:1], loss.target(images[1:2]))
    torch.testing.assert_close(inside.mesh, exact.mesh, rtol=0, atol=0)
    torch.testing.assert_close(inside.landmark, exact.landmark, rtol=0, atol=0)


def test_a_step_against_the_gradient_comes_nearer(loss, images):
    target = loss.target(images[1:])
    start = images[:1].clone().requires_grad_()
    distance = loss(start, target).landmark
    (slope,) = torch.autograd.grad(distance.sum(), start)
    with torch.no_grad():
        assert loss(start - 0.02 * slope.sign(), target).landmark < 0.95 * distance


def test_each_term_is_its_distance_and_pulls_the_image_alone(loss, images):
    expected = loss(images, loss.target(images.flip(0)))
    for part, wanted in (("landmark", expected.landmark), ("mesh", expected.mesh)):
        start, target = images.clone().requires_grad_(), images.flip(0).clone().requires_grad_()
        distance = FaceTerm(loss, part)(start, target)
        torch.testing.assert_close(distance.detach(), wanted)
        slope, none = torch.autograd.grad(distance.sum(), [start, target], allow_unused=True)
        assert slope.abs().sum() > 0 and none is None


def test_targets_of_other_images_are_refused(loss, images):
    with pytest.raises(ValueError, match="targets"):
        loss(images, loss.target(images[:1]))


def test_identity_distance_is_one_minus_the_cosine_and_pulls_the_image_alone(images):
    net = load_identity()
    loss = IdentityLoss(net)
    start, target = images[:1].clone().requires_grad_(), images[1:].clone().requires_grad_()
    distance = loss(start, target)
    a, b = (net.embed(x).detach().numpy()[0] for x in (images[:1], images[1:]))
    assert distance.item() == pytest.approx(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    slope, none = torch.autograd.grad(distance.sum(), [start, target], allow_unused=True)
    assert none is None
    with torch.no_grad():
        assert loss(start - 0.02 * slope.sign(), target).item() < 0.95 * distance.item()


def test_identity_of_one_and_two_images_is_refused(images):
    with pytest.raises(ValueError, match="differ"):
        IdentityLoss(load_identity())(images, images[:1])
