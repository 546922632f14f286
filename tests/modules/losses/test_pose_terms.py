"""The asked mesh as a term: 0 where the face is where it was asked, and a gradient that points there."""

from __future__ import annotations

from typing import cast

import pytest
import roma
import torch
from torch import Tensor, nn

from modules.losses.edits import Edited
from modules.losses.pose import AskedMesh
from modules.perception.face_shape import FaceBasis, FaceParameters
from modules.perception.mesh import FaceMesh, MeshOutput

SIDE = 256


class PaintedMesh(nn.Module):
    """A judge that reads the points out of the picture's values, so that every answer is known."""

    def forward(self, images: Tensor) -> MeshOutput:
        """The first 1,404 values, in pixels; a face is seen where the last value is positive."""
        values = images.flatten(1)
        return MeshOutput(100 * values[:, :1404].view(-1, 468, 3), (values[:, -1] > 0).float(), values)


def paint(points: Tensor, seen: bool = True) -> Tensor:
    """A picture in which ``PaintedMesh`` sees these points ``(N, 468, 3)``."""
    values = torch.zeros(len(points), 3 * SIDE * SIDE).to(points)
    values[:, :1404] = points.flatten(1) / 100
    values[:, -1] = 1.0 if seen else -1.0
    return values.view(-1, 3, SIDE, SIDE)


def basis() -> FaceBasis:
    random = torch.Generator().manual_seed(0)
    mean = 40 * torch.randn(468, 3, generator=random, dtype=torch.double)
    parts = 5 * torch.randn(5, 468, 3, generator=random, dtype=torch.double)
    return FaceBasis(mean, parts[:2], parts[2:], torch.zeros(6, 468, 3).double(), torch.ones(468).double())


def term(least: float = 0.5) -> AskedMesh:
    return AskedMesh(cast(FaceMesh, PaintedMesh()), basis(), 1.0, torch.full((4,), 0.05), least)


def errors(before: Tensor, after: Tensor, code: Tensor, asked: Tensor) -> Tensor:
    found, seen = term()(Edited(before, after, code, asked))
    assert seen.all()
    return found


def faces() -> tuple[Tensor, Tensor]:
    """Two faces and a change asked of each."""
    random = torch.Generator().manual_seed(1)
    draw = [torch.randn(2, n, generator=random, dtype=torch.double) for n in (2, 3, 3, 3)]
    points = basis().points(FaceParameters(draw[0], draw[1], roma.rotvec_to_rotmat(0.2 * draw[2]), draw[3]))
    return points, 0.2 * torch.randn(2, 11, generator=random, dtype=torch.double)


def test_a_face_that_went_where_it_was_asked_costs_nothing() -> None:
    start, asked = faces()
    there = basis().moved(start, asked)
    code = torch.arange(2)
    assert float(errors(paint(start), paint(there), code, asked).max()) < 1e-6
    stayed = errors(paint(start), paint(start), code, asked)
    assert float(stayed.min()) > 0.5
    half = errors(paint(start), paint(basis().moved(start, asked / 2)), code, asked)
    assert (half < stayed).all()


def test_depth_alone_is_not_told_by_a_picture() -> None:
    start, asked = faces()
    there = basis().moved(start, asked) + torch.tensor([0.0, 0.0, 7.0], dtype=torch.double)
    assert float(errors(paint(start), paint(there), torch.arange(2), asked).max()) < 1e-6


def test_a_face_that_is_not_seen_before_or_after_is_said_not_to_be() -> None:
    start, asked = faces()
    lost = torch.cat([paint(start[:1]), paint(start[1:], seen=False)])
    for before, after in ((paint(start), lost), (lost, paint(start))):
        assert term()(Edited(before, after, torch.arange(2), asked)).seen.tolist() == [True, False]


def test_edits_name_the_code_that_they_are_of() -> None:
    start, asked = faces()
    code = torch.tensor([1, 0, 1])
    three = Edited(paint(start), paint(start[code]), code, asked[code])
    two = errors(paint(start), paint(start), torch.arange(2), asked)
    torch.testing.assert_close(errors(*three), two[code])


def test_its_gradient_is_the_slope_of_its_value() -> None:
    start, asked = faces()
    after = paint(start + 0.5).requires_grad_(True)
    code = torch.arange(2)
    (gradient,) = torch.autograd.grad(errors(paint(start), after, code, asked).sum(), after)
    direction = torch.zeros_like(after)
    direction.flatten(1)[:, :1404] = torch.randn(2, 1404, dtype=torch.double)
    step = 1e-5
    with torch.no_grad():
        ends = [errors(paint(start), after + s * direction, code, asked).sum() for s in (step, -step)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-4)
