"""The face model: rotations against scipy, what is put in comes out again, the basis finds what made the data."""

from __future__ import annotations

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from modules.perception.face_shape import (
    UNIT,
    FaceBasis,
    FaceParameters,
    difference,
    fit_face_basis,
    rotation_vector,
)
from modules.perception.landmarks import head_pose

POINTS = 468
SIZES = (3, 2)


def random_basis(seed: int = 0, turned: float = 0.0) -> FaceBasis:
    """A cloud of points with orthogonal components."""
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(POINTS, 3, generator=random) * torch.tensor([60.0, 80.0, 40.0])
    axes = torch.linalg.qr(torch.randn(POINTS * 3, sum(SIZES), generator=random)).Q.T.view(-1, POINTS, 3)
    parts = 20 * axes
    effects = turned * torch.randn(6, POINTS, 3, generator=random)
    weights = torch.rand(POINTS, generator=random) + 0.5
    return FaceBasis(mean, parts[: SIZES[0]], parts[SIZES[0] :], effects, weights / weights.mean())


def random_parameters(count: int, seed: int = 1, turn: float = 0.4) -> FaceParameters:
    """Faces in every pose up to about ``turn`` radians."""
    random = torch.Generator().manual_seed(seed)
    draw = [torch.randn(count, n, generator=random) for n in (*SIZES, 3, 3)]
    return FaceParameters(draw[0], draw[1], roma.rotvec_to_rotmat(turn * draw[2]), 5 * draw[3])


def test_the_rigid_fit_is_scipys_kabsch_with_weights() -> None:
    basis = random_basis()
    meshes = basis.points(random_parameters(5)) + torch.randn(5, POINTS, 3)
    _, rotations, places = basis.own_axes(meshes)
    source = basis.mean.double().numpy()
    weights = basis.weights.double().numpy()
    centre = np.average(source, axis=0, weights=weights)
    for mesh, rotation, place in zip(meshes.double().numpy(), rotations, places, strict=True):
        middle = np.average(mesh, axis=0, weights=weights)
        found, _ = Rotation.align_vectors(mesh - middle, source - centre, weights=weights)
        np.testing.assert_allclose(rotation.numpy(), found.as_matrix(), atol=1e-4)
        turned = found.apply(source - centre)
        scale = (weights[:, None] * (mesh - middle) * turned).sum() / (weights[:, None] * turned**2).sum()
        assert float(place[2]) == pytest.approx(UNIT * np.log(scale), abs=1e-2)
        shift = middle - scale * found.apply(centre)
        np.testing.assert_allclose(place[:2].numpy(), shift[:2] - (UNIT - 1) / 2, atol=1e-2)


def test_a_turned_mean_face_gives_back_pose_place_and_scale_and_no_shape() -> None:
    basis, given_ = random_basis(), random_parameters(6)
    still = given_._replace(identity=torch.zeros(6, 3), expression=torch.zeros(6, 2))
    found = basis.parameters(basis.points(still))
    for ours, theirs in zip(found, still, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


@pytest.mark.parametrize("turned", [0.0, 0.3])
def test_eq_4_comes_back_from_its_own_parameters(turned: float) -> None:
    basis = random_basis(turned=turned)
    meshes = basis.points(random_parameters(6))
    again = basis.points(basis.parameters(meshes))
    # The rigid fit takes the part of a shape that looks like a turn; what is rebuilt is the same mesh.
    assert float((again - meshes).square().mean().sqrt()) < 0.2


def test_moved_by_a_difference_the_first_face_is_the_second() -> None:
    basis = random_basis(turned=0.2)
    first, second = (basis.parameters(basis.points(random_parameters(4, seed))) for seed in (1, 2))
    start, end = basis.points(first), basis.points(second)
    change = difference(basis.parameters(start), basis.parameters(end))
    moved = basis.moved(start, change)
    assert float((moved - end).square().mean().sqrt()) < 0.2
    still = basis.moved(start, torch.zeros_like(change))
    torch.testing.assert_close(still[..., :2], start[..., :2], atol=1e-3, rtol=0)


angles = st.tuples(*[st.floats(-1.2, 1.2)] * 3)


@settings(max_examples=30)
@given(angles, angles)
def test_rotations_compose_as_scipy_says_and_do_not_subtract(
    one: tuple[float, ...], other: tuple[float, ...]
) -> None:
    first, second = (Rotation.from_rotvec(v) for v in (one, other))

    def face(rotation: Rotation) -> FaceParameters:
        matrix = torch.from_numpy(rotation.as_matrix())[None]
        none = torch.zeros(1, 1, dtype=torch.double)
        return FaceParameters(none, none, matrix, torch.zeros(1, 3, dtype=torch.double))

    change = difference(face(first), face(second))[0, 2:5].numpy()
    between = Rotation.from_rotvec(change)
    np.testing.assert_allclose((between * first).as_matrix(), second.as_matrix(), atol=1e-6)


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(15.0, 0.0, 0.0), (0.0, -12.0, 0.0), (0.0, 0.0, 7.0)])
def test_degrees_have_the_signs_of_head_pose(fitted: FaceBasis, yaw: float, pitch: float, roll: float) -> None:
    neutral = fitted.mean
    turn = roma.rotvec_to_rotmat(rotation_vector(*(torch.tensor([v]) for v in (yaw, pitch, roll))))
    seen = head_pose(neutral[None] @ turn.transpose(1, 2))
    torch.testing.assert_close(torch.cat(list(seen)), torch.tensor([yaw, pitch, roll]), atol=0.2, rtol=0)


@pytest.fixture(scope="module")
def fitted() -> FaceBasis:
    """Fitted to ``population``."""
    points, people, filmed, _ = population()
    return fit_face_basis(points, people, filmed, SIZES)


def population() -> tuple[Tensor, Tensor, Tensor, FaceBasis]:
    """Meshes of persons with their own shapes: 12 filmed, who change expressions, and 200 seen once."""
    true = random_basis(3)
    random = torch.Generator().manual_seed(4)
    people = torch.cat([torch.arange(12).repeat_interleave(25), 100 + torch.arange(200)])
    filmed = people < 100
    shapes = 0.2 * torch.randn(300, SIZES[0], generator=random)
    identity = shapes[torch.unique(people, return_inverse=True)[1]]
    expression = 0.3 * torch.randn(len(people), SIZES[1], generator=random)
    rotation = roma.rotvec_to_rotmat(0.2 * torch.randn(len(people), 3, generator=random))
    place = torch.randn(len(people), 3, generator=random)
    return true.points(FaceParameters(identity, expression, rotation, place)), people, filmed, true


def test_the_fit_finds_who_and_what_was_put_in(fitted: FaceBasis) -> None:
    points, people, filmed, true = population()
    basis = fitted
    torch.testing.assert_close(torch.cat(list(head_pose(basis.mean[None]))), torch.zeros(3), atol=0.2, rtol=0)
    found = basis.parameters(points)
    frames = found.expression[people == 3]
    others = found.expression[~filmed]
    # Deviations of what was fitted: filmed persons move by about one, and no component is another's.
    assert 0.6 < float(frames.std(0).mean()) < 1.6 and others.isfinite().all()
    one = basis.expression.flatten(1)
    gram = one @ one.T
    assert float((gram - torch.diag(gram.diagonal())).abs().max()) < 1e-2 * float(gram.diagonal().max())
    cross = basis.identity.flatten(1) @ one.T
    assert float(cross.abs().max()) < 1e-2 * float(gram.diagonal().max())
    assert float(found.identity[people == 3].std(0).max()) < 0.35 * float(found.identity[~filmed].std(0).min())
    assert true.sizes == basis.sizes


def test_the_fit_is_differentiable_by_the_points() -> None:
    basis = random_basis(turned=0.1)
    start = basis.points(random_parameters(1))[:, :, :].double().requires_grad_(True)
    double = FaceBasis(**{name: value.double() for name, value in basis.tensors().items()})
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(5), dtype=torch.double)

    def value(points: Tensor) -> Tensor:
        found = double.parameters(points)
        return sum((part.square().sum() for part in found), torch.zeros(()).double())

    (gradient,) = torch.autograd.grad(value(start), start)
    step = 1e-4
    with torch.no_grad():
        slope = (value(start + step * direction) - value(start - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-3)


def test_the_basis_follows_the_precision_of_what_comes_in() -> None:
    """As it follows to another device: a float32 basis takes double meshes and parameters."""
    basis, given_ = random_basis(turned=0.1), random_parameters(3)
    double = FaceParameters(*(part.double() for part in given_))
    meshes = basis.points(double)
    found = basis.parameters(meshes)
    change = difference(found, basis.parameters(meshes.flip(0)))
    moved = basis.moved(meshes, change)
    assert {x.dtype for x in (meshes, *found, change, moved)} == {torch.double}
    torch.testing.assert_close(meshes.float(), basis.points(given_), atol=1e-3, rtol=0)
    for ours, theirs in zip(found, basis.parameters(basis.points(given_)), strict=True):
        torch.testing.assert_close(ours.float(), theirs, atol=1e-3, rtol=1e-3)


def test_too_few_faces_and_wrong_shapes_are_refused() -> None:
    points, people, filmed, true = population()
    with pytest.raises(ValueError, match="too few"):
        fit_face_basis(points[:40], people[:40], filmed[:40], SIZES)
    with pytest.raises(ValueError, match="468"):
        true.parameters(points[:, :68])
    with pytest.raises(ValueError, match="changes must be"):
        true.moved(points[:2], torch.zeros(2, 3))
    with pytest.raises(ValueError, match="6 effects"):
        FaceBasis(true.mean, true.identity, true.expression, true.turned[:3], true.weights)
