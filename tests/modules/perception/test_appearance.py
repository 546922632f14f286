"""Colours against OpenCV, masks against where the mesh's points lie, means against NumPy."""

import cv2
import numpy as np
import pytest
import torch

from modules.assets import asset_path
from modules.perception import appearance as a
from modules.perception.appearance import (
    REGIONS,
    forehead_mask,
    hair_share,
    lab,
    lips_mask,
    mean_in,
    region_masks,
)
from modules.perception.iris import load_iris_net
from modules.perception.landmarks import landmarks_68
from modules.perception.mesh import load_face_mesh
from modules.perception.parsing import CLASSES, load_face_parser


def oval(side: int) -> torch.Tensor:
    """Mesh points on the places of a face: only those that the masks are made of matter."""
    points = torch.full((1, 468, 3), side / 2.0)

    def ring(outline: tuple[int, ...], x: float, y: float, rx: float, ry: float) -> None:
        turn = torch.linspace(0, 2 * torch.pi, len(outline) + 1)[:-1]
        points[0, list(outline), 0] = side * (x + rx * torch.cos(turn))
        points[0, list(outline), 1] = side * (y + ry * torch.sin(turn))

    ring(a._FOREHEAD[0], 0.5, 0.25, 0.2, 0.08)
    ring(a._AROUND_EYES[0], 0.38, 0.45, 0.08, 0.05)
    ring(a._AROUND_EYES[1], 0.62, 0.45, 0.08, 0.05)
    ring(a._OUTER_LIPS, 0.5, 0.75, 0.12, 0.06)
    ring(a._INNER_LIPS, 0.5, 0.75, 0.06, 0.02)
    return points


def test_lab_is_opencvs() -> None:
    rgb = np.random.default_rng(0).uniform(0, 1, (16, 16, 3)).astype(np.float32)
    wanted = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)
    got = lab(torch.from_numpy(rgb).permute(2, 0, 1)[None] * 2 - 1)[0].permute(1, 2, 0).numpy()
    # OpenCV interpolates in a table.
    assert np.abs(got - wanted).max() < 0.3


def test_lab_of_black_and_white_is_finite_with_a_gradient() -> None:
    image = torch.tensor([-1.0, 1.0, 0.0]).expand(1, 3, 1, 3).clone().requires_grad_()
    values = lab(image)
    values.sum().backward()
    assert torch.allclose(values[0, 0, 0], torch.tensor([0.0, 100.0, 53.39]), atol=0.05)
    assert image.grad is not None and torch.isfinite(image.grad).all()


def test_lips_are_a_ring_and_the_forehead_lies_above() -> None:
    points = oval(128)
    lips = lips_mask(points, 128, 128)[0, 0]
    assert lips[96, 64] == 0 and lips[102, 64] == 1 and lips[60, 64] == 0
    area = np.pi * 128**2 * (0.12 * 0.06 - 0.06 * 0.02)
    assert abs(lips.sum().item() / area - 1) < 0.2
    assert forehead_mask(points, 128, 128)[0, 0, 32, 64] == 1


def test_regions_are_zeros_and_ones_where_they_belong() -> None:
    parsed = torch.zeros(1, len(CLASSES), 128, 128)
    parsed[:, CLASSES.index("hair"), :20] = 0.9
    regions = region_masks(parsed, oval(128))
    assert tuple(regions) == REGIONS
    assert all(set(mask.unique().tolist()) == {0.0, 1.0} for mask in regions.values())
    assert regions["hair"][0, 0, 5, 5] == 1 and regions["hair"][0, 0, 32, 64] == 1
    assert regions["lips"][0, 0, 96, 64] == 1 and regions["lips"][0, 0, 111, 64] == 1
    assert regions["eyes"][0, 0, 57, 48] == 1 and regions["eyes"][0, 0, 96, 64] == 0
    assert torch.equal(hair_share(parsed), parsed[:, CLASSES.index("hair")])


def test_on_a_face_the_masks_lie_on_what_they_are_named_after() -> None:
    """A real face: colours and other nets say where lips, irises and brows are."""
    picture = cv2.imread(str(asset_path("clips", "15-f13-anc-ph.jpg")))[..., ::-1]
    face = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
    image = torch.from_numpy(face).permute(2, 0, 1)[None].float() / 127.5 - 1
    points = load_face_mesh()(image).points
    parsed = load_face_parser()(image)
    regions, lips = region_masks(parsed, points), lips_mask(points, 256, 256)
    redness, skin = lab(image)[:, 1], parsed[:, CLASSES.index("face skin"), None] > 0.5
    assert mean_in(redness, lips) > mean_in(redness, skin & (lips == 0)) + 2
    assert (lips <= regions["lips"]).all()
    for x, y in load_iris_net()(image, points).iris[0, :, 0].round().int().tolist():
        assert regions["eyes"][0, 0, y, x] == 1
    rows = forehead_mask(points, 256, 256)[0, 0].nonzero()[:, 0].float()
    brows = landmarks_68(points)[0, 17:27, 1]
    assert 10 < rows.quantile(0.9) < brows.max() and rows.mean() < brows.min()
    assert (forehead_mask(points, 256, 256) * skin).sum() / forehead_mask(points, 256, 256).sum() > 0.2


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, 468, 3\)"):
        lips_mask(torch.zeros(1, 68, 2), 8, 8)
    with pytest.raises(ValueError, match="parsed must be"):
        region_masks(torch.zeros(2, len(CLASSES), 8, 8), torch.zeros(1, 468, 3))
    with pytest.raises(ValueError, match="need masks"):
        mean_in(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))


def test_mean_is_weighted_and_empty_is_nan() -> None:
    random = np.random.default_rng(1)
    values, mask = random.standard_normal((2, 8, 8)), random.uniform(0, 1, (2, 1, 8, 8))
    mask[1] = 0
    got = mean_in(torch.from_numpy(values), torch.from_numpy(mask))
    np.testing.assert_allclose(got[0].item(), np.average(values[0], weights=mask[0, 0]), rtol=1e-6)
    assert torch.isnan(got[1])
