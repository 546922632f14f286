"""A linear face model on MediaPipe's mesh: what 3DDFA_V2 and BFM are to FrEN/ViEN's eq. 4, fitted here.

``V = s R (M + A alpha + B beta) + T``: M a neutral mean mesh, A its identity and B its expression components.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import roma
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

from modules.perception.landmarks import head_pose
from modules.perception.mesh import POINTS

UNIT = 256
"""Pixels: points and translations are told in a crop this wide."""
LEAST_DEVIATION = 1e-6
"""Pixels; below it a component says nothing."""
_EYES = ((33, 133), (263, 362))
_MOUTH = (61, 291)
_EYE_TO_MOUTH = 0.1
"""FFHQ centres its crop between the eyes, this share of the way to the mouth lower."""


class FaceParameters(NamedTuple):
    """Eq. 4's parameters of N faces."""

    identity: Tensor
    """``(N, I)`` alpha, in deviations of the persons the basis was fitted on."""
    expression: Tensor
    """``(N, E)`` beta, in deviations of the expressions the basis was fitted on."""
    rotation: Tensor
    """``(N, 3, 3)`` from the face's own axes (x right in the picture, y down, z inward) to the picture's."""
    translation: Tensor
    """``(N, 3)``: x and y of the face's middle in pixels of a crop 256 wide, counted from the crop's centre, and
    256 times the logarithm of the scale: what the third coordinate is to a camera without perspective."""


@dataclass(frozen=True)
class FaceBasis:
    """M, A and B, and the weight of each point in the rigid fit. All float32.

    Meshes and parameters may lie on another device, or be of another precision: answers are where they are.
    """

    mean: Tensor
    """``(468, 3)`` M, pixels of a crop 256 wide, looking ahead; its origin is where FFHQ centres a crop."""
    identity: Tensor
    """``(I, 468, 3)``: the change of the mesh by one deviation, for each component of A."""
    expression: Tensor
    """``(E, 468, 3)``: the same of B."""
    turned: Tensor
    """``(6, 468, 3)``: what the net says of a shape changes a little as the head turns, by this much per radian of
    the rotation vector's three parts and per square radian of each."""
    weights: Tensor
    """``(468,)`` of the rigid fit, mean 1: points that talking moves count less."""

    def __post_init__(self) -> None:
        shape = (POINTS, 3)
        if self.mean.shape != shape or self.weights.shape != (POINTS,):
            given = tuple(self.mean.shape), tuple(self.weights.shape)
            raise ValueError(f"mean and weights must be {shape} and ({POINTS},), got {given}")
        if {part.shape[1:] for part in (self.identity, self.expression, self.turned)} != {shape}:
            raise ValueError(f"components must be (K, {POINTS}, 3), got {tuple(self.identity.shape)}")
        if len(self.turned) != 6:
            raise ValueError(f"a turn has 6 effects on the shape, got {len(self.turned)}")

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of identity and of expression components."""
        return len(self.identity), len(self.expression)

    @property
    def width(self) -> int:
        """Numbers in a ``difference``: all components and 6 of the pose."""
        return sum(self.sizes) + 6

    def tensors(self) -> dict[str, Tensor]:
        """Its parts by name; ``FaceBasis(**tensors)`` is the same basis."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def parameters(self, points: Tensor) -> FaceParameters:
        """Parameters of meshes ``(N, 468, 3)`` in pixels of a crop 256 wide; differentiable.

        Rotation, scale and translation by Kabsch and Umeyama, then the components by least squares.
        """
        own, rotation, translation = self.own_axes(points)
        basis = torch.cat([self.identity, self.expression]).flatten(1)
        inverse = torch.linalg.pinv(basis.double()).to(own)
        answer = (own - self.mean.to(own) - self._apparent(rotation)).flatten(1) @ inverse
        identity, expression = answer.split(self.sizes, dim=1)
        return FaceParameters(identity, expression, rotation, translation)

    def own_axes(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Meshes ``(N, 468, 3)`` with pose and scale taken off, the rotations and the translations."""
        if points.ndim != 3 or points.shape[1:] != (POINTS, 3):
            raise ValueError(f"mesh points must be (N, {POINTS}, 3), got {tuple(points.shape)}")
        # In single precision the gradient of the decomposition loses digits where two axes are alike.
        target = points.double()
        mean, weights = self.mean.to(target).expand_as(target), self.weights.to(target).expand(len(target), -1)
        rotation, shift, scale = roma.rigid_points_registration(mean, target, weights, compute_scaling=True)
        own = ((target - shift[:, None]) / scale[:, None, None]) @ rotation
        place = torch.cat([shift[:, :2] - (UNIT - 1) / 2, UNIT * scale.log()[:, None]], dim=1)
        return own.to(points), rotation.to(points), place.to(points)

    def points(self, parameters: FaceParameters) -> Tensor:
        """Eq. 4: meshes ``(N, 468, 3)``, with z counted from the face's middle."""
        identity, expression, rotation, translation = parameters
        shape = self._shape(torch.cat([identity, expression], dim=1))
        own = self.mean.to(shape) + shape + self._apparent(rotation)
        return _placed(own, rotation, translation)

    def moved(self, points: Tensor, change: Tensor) -> Tensor:
        """Meshes ``(N, 468, 3)`` as they would be after a change as ``difference`` gives it, ``(N, I + E + 6)``.

        What the components cannot say of a mesh stays as it is. z is counted from the face's middle.
        """
        if change.shape != (len(points), self.width):
            raise ValueError(f"changes must be ({len(points)}, {self.width}), got {tuple(change.shape)}")
        shape, turn, shift = torch.split(change, [sum(self.sizes), 3, 3], dim=1)
        own, rotation, translation = self.own_axes(points)
        turned = roma.rotvec_to_rotmat(turn) @ rotation
        own = own + self._shape(shape) + self._apparent(turned) - self._apparent(rotation)
        return _placed(own, turned, translation + shift)

    def _apparent(self, rotation: Tensor) -> Tensor:
        effect: Tensor = torch.einsum("nk,kpc->npc", _turn_terms(rotation), self.turned.to(rotation))
        return effect

    def _shape(self, components: Tensor) -> Tensor:
        basis = torch.cat([self.identity, self.expression])
        shaped: Tensor = torch.einsum("nk,kpc->npc", components, basis.to(components))
        return shaped


def difference(first: FaceParameters, second: FaceParameters) -> Tensor:
    """``(N, I + E + 6)``: how the second faces differ from the first, ``[d alpha, d beta, d R, d T]``.

    FrEN/ViEN 4.4 subtracts rotation parameters; here ``R2 R1^T`` is what turns the first head into the second,
    about the picture's axes, and ``d R`` is its rotation vector in radians.
    """
    turn = roma.rotmat_to_rotvec(second.rotation @ first.rotation.transpose(1, 2))
    return torch.cat(
        [
            second.identity - first.identity,
            second.expression - first.expression,
            turn,
            second.translation - first.translation,
        ],
        dim=1,
    )


def fit_face_basis(
    points: Tensor, people: Tensor, filmed: Tensor, sizes: tuple[int, int], rounds: int = 3
) -> FaceBasis:
    """Fit M, A and B to meshes.

    ``points`` ``(N, 468, 3)`` in pixels of a crop 256 wide; ``people`` ``(N,)`` whose face each is, of whom every
    one counts the same; ``filmed`` ``(N,)`` bool: frames of clips, whose persons change their expression.
    ``sizes`` are the numbers of components. M is the mean of all meshes without pose, B the principal components
    of what moves within a filmed person, A those of the persons' means with B taken out. Raises ``ValueError``
    where there are fewer persons or frames than components.
    """
    inside = torch.unique(people, return_inverse=True)[1]
    count = torch.bincount(inside)
    if len(count) <= sizes[0] or int(filmed.sum()) <= sizes[1]:
        raise ValueError(f"{len(count)} persons and {int(filmed.sum())} frames are too few for {sizes} components")
    share = 1.0 / count[inside].double()
    none = torch.zeros(0, POINTS, 3)
    mean = _looking_ahead(_mean(points.double(), share)).float()
    basis = FaceBasis(mean, none, none, torch.zeros(6, POINTS, 3), torch.ones(POINTS))
    for _ in range(rounds):
        own = basis.own_axes(points)[0].double()
        moves = _within(own, inside, len(count))[filmed]
        spread = (share[filmed, None, None] * moves.square()).sum((0, 2))
        weights = 1 / (spread + spread.median())
        mean = _looking_ahead(_mean(own, share)).float()
        basis = replace(basis, mean=mean, weights=(weights / weights.mean()).float())
    own, rotation, _ = basis.own_axes(points)
    terms = torch.cat([torch.ones(len(own), 1), _turn_terms(rotation)], dim=1).double()
    root = share.sqrt()[:, None]
    effects = torch.linalg.lstsq(root * terms, root * (own - basis.mean).double().flatten(1)).solution
    basis = replace(
        basis, mean=basis.mean + effects[0].float().view(POINTS, 3), turned=effects[1:].float().view(6, POINTS, 3)
    )
    shapes = (own - basis.mean).double().flatten(1) - terms[:, 1:] @ effects[1:]
    moves = _within(shapes, inside, len(count))
    expression = _principal(moves[filmed], share[filmed], sizes[1])
    axes = torch.nn.functional.normalize(expression, dim=1)
    means = shapes - moves
    identity = _principal(means - means @ axes.T @ axes, share, sizes[0])
    parts = [part.float().view(-1, POINTS, 3) for part in (identity, expression)]
    return replace(basis, identity=parts[0], expression=parts[1])


def _turn_terms(rotation: Tensor) -> Tensor:
    """``(N, 6)``: rotation vectors of ``(N, 3, 3)`` in radians, and the squares of their parts."""
    turn = roma.rotmat_to_rotvec(rotation)
    return torch.cat([turn, turn.square()], dim=1)


def _placed(own: Tensor, rotation: Tensor, translation: Tensor) -> Tensor:
    scale = (translation[:, 2] / UNIT).exp()[:, None, None]
    shift = torch.cat([translation[:, :2] + (UNIT - 1) / 2, torch.zeros_like(translation[:, :1])], dim=1)
    placed: Tensor = scale * own @ rotation.transpose(1, 2) + shift[:, None]
    return placed


def _mean(points: Tensor, share: Tensor) -> Tensor:
    return (share[:, None, None] * points).sum(0) / share.sum()


def _within(own: Tensor, inside: Tensor, people: int) -> Tensor:
    """Each mesh without the mean of its person."""
    total = own.new_zeros(people, *own.shape[1:]).index_add(0, inside, own).flatten(1)
    means: Tensor = total / torch.bincount(inside, minlength=people)[:, None]
    return own - means[inside].view_as(own)


def _principal(rows: Tensor, share: Tensor, count: int) -> Tensor:
    """The first principal components ``(count, D)`` of weighed rows ``(N, D)``, one deviation long."""
    scatter = (rows * (share / share.sum())[:, None]).T @ rows
    # The first few of 1,404: finding all would take twenty times as long. A fixed start makes it repeatable.
    values, vectors = eigsh(scatter.numpy(), k=count, v0=np.ones(len(scatter)))
    order = values.argsort()[::-1]
    lengths = np.sqrt(np.maximum(values[order], LEAST_DEVIATION**2))
    return torch.from_numpy((vectors[:, order] * lengths).T.copy())


def _looking_ahead(mesh: Tensor) -> Tensor:
    """A mesh ``(468, 3)`` turned so that yaw, pitch and roll are 0, with its origin where FFHQ centres a crop."""
    for _ in range(4):
        pose = head_pose(mesh[None])
        turn = roma.rotvec_to_rotmat(rotation_vector(pose.yaw, pose.pitch, pose.roll))[0]
        mesh = mesh @ turn
    return mesh - _middle(mesh)


def _middle(mesh: Tensor) -> Tensor:
    """Where FFHQ centres a crop, on a mesh ``(468, 3)``."""
    eyes = mesh[list(sum(_EYES, ()))].mean(0)
    return eyes + _EYE_TO_MOUTH * (mesh[list(_MOUTH)].mean(0) - eyes)


def rotation_vector(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Degrees ``(N,)``, signs as in ``landmarks.Pose``, to rotation vectors ``(N, 3)`` about the picture's axes.

    For one angle alone this is that rotation; for several, the shortest one whose vector has these parts.
    """
    return torch.deg2rad(torch.stack([-pitch, -yaw, roll], dim=1))
