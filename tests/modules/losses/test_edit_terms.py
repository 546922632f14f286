"""Terms of an edit's loss against closed forms on pictures whose attributes are known functions of the pixels."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modules.losses.edits import AttributeTerm, Edited, FaceKept, IdentityFloor, Judged, judged_means
from modules.losses.face import FaceLoss, FaceTerm
from modules.perception.mesh import load_face_mesh
from services.training.parts import seen_by


def measure(images: torch.Tensor) -> torch.Tensor:
    """Means of the first two channels; no face where the third is dark."""
    means = images.mean((2, 3))
    return torch.where(means[:, 2:] > -0.5, means[:, :2], torch.nan)


def flat(*colours: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(colours)[:, :, None, None].expand(-1, 3, 4, 4).clone()


def everywhere(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images), dtype=torch.bool)


BEFORE = flat((0.1, 0.2, 0.0), (-0.2, 0.4, 0.0))


def test_attributes_are_held_to_what_was_asked_of_their_own_code() -> None:
    after = flat((0.4, 0.2, 0.0), (0.1, 0.4, 0.0), (-0.2, 0.9, 0.0)).requires_grad_()
    asked = torch.tensor([[0.3, 0.0], [0.0, 0.0], [0.0, 0.1]])
    edited = Edited(BEFORE, after, torch.tensor([0, 0, 1]), asked)
    scales = torch.tensor([0.1, 0.2])
    found, seen = AttributeTerm(measure, scales)(edited)
    assert seen.all()
    left = np.array([[0.0, 0.0], [0.0, 0.2], [0.0, 0.4]]) / scales.numpy()
    np.testing.assert_allclose(found.detach().numpy(), (np.sqrt(1 + left**2) - 1).sum(1), atol=1e-6)
    (slope,) = torch.autograd.grad(found.sum(), after)
    # d/dr (sqrt(1 + r^2) - 1) = r / sqrt(1 + r^2); each of 16 pixels moves the mean by 1/16.
    expected = left / np.sqrt(1 + left**2) / scales.numpy() / 16
    np.testing.assert_allclose(slope[:, :2, 0, 0].numpy(), expected, atol=1e-6)


def test_what_is_not_seen_says_nothing_and_breaks_no_gradient() -> None:
    after = flat((0.9, 0.9, -1.0), (0.3, 0.4, 0.0)).requires_grad_()
    edited = Edited(BEFORE, after, torch.tensor([0, 1]), torch.zeros(2, 2))
    found, seen = AttributeTerm(measure, torch.ones(2))(edited)
    assert found[0] == 0 and found[1] > 0 and seen.tolist() == [False, True]
    (slope,) = torch.autograd.grad(found.sum(), after)
    assert slope.isfinite().all() and (slope[0] == 0).all()


def test_what_may_move_counts_as_met() -> None:
    after = flat((0.9, 0.9, 0.0), (0.3, 0.4, 0.0)).requires_grad_()
    asked = torch.tensor([[0.8, torch.nan], [torch.nan, 0.1]])
    found, seen = AttributeTerm(measure, torch.ones(2))(Edited(BEFORE, after, torch.tensor([0, 1]), asked))
    np.testing.assert_allclose(found.detach().numpy(), [0, np.sqrt(1.01) - 1], atol=1e-6)
    assert seen.all(), "what may move was looked at"
    (slope,) = torch.autograd.grad(found.sum(), after)
    assert slope.isfinite().all() and (slope[0, 1] == 0).all() and (slope[1, 0] == 0).all()


def test_attributes_that_were_not_asked_are_refused() -> None:
    edited = Edited(BEFORE, BEFORE, torch.tensor([0, 1]), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="asked"):
        AttributeTerm(measure, torch.ones(2))(edited)
    with pytest.raises(ValueError, match="scales"):
        AttributeTerm(measure, torch.ones(3))(Edited(BEFORE, BEFORE, torch.tensor([0, 1]), torch.zeros(2, 2)))


def test_identity_counts_below_its_floor_alone_and_is_pulled_up() -> None:
    def embed(images: torch.Tensor) -> torch.Tensor:
        return F.normalize(images.mean((2, 3)), dim=1)

    angles = torch.tensor([0.2, 1.3])
    before = flat((1.0, 0.0, 0.0))
    after = flat(*[(float(a.cos()), float(a.sin()), 0.0) for a in angles]).requires_grad_()
    floor = IdentityFloor(embed, 0.6, everywhere)
    found, _ = floor(Edited(before, after, torch.tensor([0, 0]), torch.zeros(2, 1)))
    np.testing.assert_allclose(found.detach().numpy(), [0.0, 0.6 - np.cos(1.3)], atol=1e-6)
    (slope,) = torch.autograd.grad(found.sum(), after)
    assert (slope[0] == 0).all()
    nearer = (after - 0.5 * slope / slope.abs().max()).detach()
    assert floor(Edited(before, nearer, torch.tensor([0, 0]), torch.zeros(2, 1))).errors[1] < found[1]


def test_a_face_is_kept_where_its_own_code_had_it() -> None:
    """Eq. S2's L_v of a shifted picture against the norm written out, and each edit against its own code."""
    random = torch.Generator().manual_seed(0)
    before = F.interpolate(torch.rand(2, 3, 12, 12, generator=random) * 2 - 1, size=(192, 192), mode="bilinear")
    after = torch.cat([before[1:].roll(4, 3), before[:1], before[1:]]).requires_grad_()
    mesh = load_face_mesh()
    edited = Edited(before, after, torch.tensor([1, 0, 1]), torch.zeros(3, 1))
    loss = FaceTerm(FaceLoss(mesh), "mesh")
    found, _ = FaceKept(loss, everywhere)(edited)
    with torch.no_grad():
        moved = mesh(after[:1]).points - mesh(before[1:]).points
    torch.testing.assert_close(found[0].detach(), moved.norm() * 256 / 192, rtol=1e-4, atol=0)
    assert found[1:].abs().max() < 1e-3 and found[0] > 1
    (slope,) = torch.autograd.grad(found[0], after)
    assert slope[0].abs().max() > 0 and not slope[1:].any()
    # Noise shows no face, and a net that says when it sees one has all of them left out.
    unseen = {
        "mesh": FaceKept(loss, seen_by(mesh, 0.5)),
        "likeness": IdentityFloor(flatly, 2.0, seen_by(mesh, 0.5)),
    }
    means, failed = judged_means(unseen, edited)
    assert not any(means.values()) and failed == 3
    (slope,) = torch.autograd.grad(sum(means.values()), after)
    assert not slope.any()


def flatly(images: torch.Tensor) -> torch.Tensor:
    return F.normalize(images.mean((2, 3)), dim=1)


def test_edits_that_a_judge_does_not_see_have_no_part_in_its_mean_and_are_counted_once() -> None:
    after = torch.rand(4, 3, 4, 4).requires_grad_()
    edited = Edited(BEFORE, after, torch.tensor([0, 0, 1, 1]), torch.zeros(4, 2))

    def term(*seen: bool) -> Callable[[Edited], Judged]:
        return lambda pair: Judged(pair.after.sum((1, 2, 3)), torch.tensor(seen))

    errors = after.detach().sum((1, 2, 3))
    terms = {
        "all": term(True, True, True, True),
        "some": term(False, True, True, False),
        "one": term(True, True, True, False),
        "none": term(False, False, False, False),
    }
    means, failed = judged_means(terms, edited)
    torch.testing.assert_close(means["all"].detach(), errors.mean())
    torch.testing.assert_close(means["some"].detach(), errors[1:3].mean())
    torch.testing.assert_close(means["one"].detach(), errors[:3].mean())
    assert means["none"] == 0 and failed == 4
    (slope,) = torch.autograd.grad(means["some"] + means["none"], after)
    assert (slope[[0, 3]] == 0).all() and (slope[[1, 2]] == 0.5).all()
    assert judged_means({name: terms[name] for name in ("all", "some", "one")}, edited)[1] == 2
    assert judged_means({}, edited) == ({}, 0)
