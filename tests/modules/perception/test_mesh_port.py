"""The torch ports of the TensorFlow Lite nets against LiteRT's own answers on a real frame."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datamodules.types import BadInputError
from modules.perception.landmarks import MESH_TO_68, eyes_open, head_pose, landmarks_68, mouth_open, smile
from modules.perception.mesh import load_face_mesh
from modules.perception.parsing import CLASSES, load_face_parser
from modules.perception.tflite import read_tflite

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def mesh():
    return load_face_mesh()


def cut(frame: np.ndarray, box: np.ndarray, size: int) -> torch.Tensor:
    x0, y0, x1, y1 = box
    image = cv2.resize(frame[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_mesh_answers_as_litert_does(frame, mesh):
    reference = np.load(DATA / "litert_face_landmark.npz")
    image = cut(frame, reference["box"], 192)
    out = mesh(image.repeat(2, 1, 1, 1))
    assert out.points.shape == (2, 468, 3)
    assert np.abs(out.points[1].numpy() - reference["points"]).max() < 2e-3
    assert out.score.tolist() == pytest.approx([1 / (1 + np.exp(-reference["logit"].item()))] * 2)


def test_points_follow_the_images_size_and_flip(frame, mesh):
    box = np.load(DATA / "litert_face_landmark.npz")["box"]
    small, large = cut(frame, box, 192), cut(frame, box, 320)
    near, far = mesh(small).points, mesh(large).points
    expected = (near[..., :2] + 0.5) * (320 / 192) - 0.5
    assert (far[..., :2] - expected).abs().max() < 2.5
    assert (far[..., :2] - expected).mean().abs() < 0.3
    flipped = mesh(small.flip(3)).points
    for right, left in ((33, 263), (61, 291), (1, 1), (152, 152)):
        assert (near[0, right, 0] + flipped[0, left, 0]).item() == pytest.approx(191, abs=3)


def test_mesh_is_frozen_and_differentiable(frame, mesh):
    image = cut(frame, np.load(DATA / "litert_face_landmark.npz")["box"], 192).requires_grad_()
    mesh(image).points[..., 1].mean().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in mesh.parameters()) and not mesh.training


def test_gradient_is_the_slope(frame, mesh):
    net = mesh.net.double()
    random = torch.Generator().manual_seed(0)
    image = (cut(frame, np.load(DATA / "litert_face_landmark.npz")["box"], 192).double() + 1) / 2
    # Flat parts make windows whose largest value is there twice: no slope is the right one there.
    image = image + 0.01 * torch.rand(image.shape, generator=random, dtype=torch.float64)
    direction = torch.randn(image.shape, generator=random, dtype=torch.float64)
    image.requires_grad_()
    (slope,) = torch.autograd.grad(net(image)[0].mean(), image)
    step = 1e-7
    with torch.no_grad():
        measured = (net(image + step * direction)[0] - net(image - step * direction)[0]).mean() / (2 * step)
    mesh.net.float()
    assert (slope * direction).sum().item() == pytest.approx(measured.item(), rel=1e-3)


def test_parser_answers_as_litert_does(frame):
    reference = np.load(DATA / "litert_selfie_multiclass.npz")
    parser = load_face_parser()
    image = cut(frame, reference["box"], 256)
    with torch.no_grad():
        shares = parser(image.repeat(2, 1, 1, 1))
        larger = parser(cut(frame, reference["box"], 300))
    assert shares.shape == (2, len(CLASSES), 256, 256) and larger.shape[2:] == (300, 300)
    assert torch.allclose(shares.sum(1), torch.ones(2, 256, 256), atol=1e-5)
    classes = shares[1].argmax(0)[4::8, 4::8].numpy()
    assert (classes == reference["classes"]).mean() > 0.995


def test_face_mask_covers_eyes_and_mouth(frame, mesh):
    box = np.load(DATA / "litert_face_landmark.npz")["box"]
    image = cut(frame, box, 256)
    points = mesh(image).points
    with torch.no_grad():
        mask = load_face_parser().regions(image, points).face
    assert mask.shape == (1, 1, 256, 256) and mask.min() >= 0 and mask.max() <= 1
    for index in (159, 386, 13, 4):
        x, y = points[0, index, :2].round().long()
        assert mask[0, 0, y, x] > 0.9
    assert mask[0, 0, :10].max() < 0.1


def test_68_points_lie_in_their_order(frame, mesh):
    points = mesh(cut(frame, np.load(DATA / "litert_face_landmark.npz")["box"], 256)).points
    face = landmarks_68(points)[0]
    assert face.shape == (68, 2) and len(set(MESH_TO_68)) == 68
    assert (face[:17, 0].diff() > -2).all()
    assert face[8, 1] == face[:, 1].max()
    assert face[36:42, 0].mean() < face[27:36, 0].mean() < face[42:48, 0].mean()
    assert face[17:27, 1].mean() < face[36:48, 1].mean() < face[30, 1] < face[51, 1] < face[57, 1] < face[8, 1]
    assert face[48, 0] < face[51, 0] < face[54, 0] and face[39, 0] < face[42, 0]


def turned(points: torch.Tensor, yaw: float, pitch: float, roll: float) -> torch.Tensor:
    """The points turned in space, in degrees, by matrices written down here."""
    y, p, r = (torch.deg2rad(torch.tensor(v)) for v in (yaw, pitch, roll))
    about_y = torch.tensor([[y.cos(), 0, -y.sin()], [0, 1, 0], [y.sin(), 0, y.cos()]])
    about_x = torch.tensor([[1, 0, 0], [0, p.cos(), p.sin()], [0, -p.sin(), p.cos()]])
    about_z = torch.tensor([[r.cos(), -r.sin(), 0], [r.sin(), r.cos(), 0], [0, 0, 1]])
    return points @ (about_y @ about_x @ about_z).T


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(20, 0, 0), (-20, 0, 0), (0, 15, 0), (0, 0, 25), (10, -8, 5)])
def test_pose_is_the_turn_that_was_made(frame, mesh, yaw, pitch, roll):
    points = mesh(cut(frame, np.load(DATA / "litert_face_landmark.npz")["box"], 192)).points
    start = head_pose(points)
    back = turned(
        turned(turned(points, 0, 0, -start.roll.item()), -start.yaw.item(), 0, 0), 0, -start.pitch.item(), 0
    )
    for _ in range(6):
        now = head_pose(back)
        back = turned(back, -now.yaw.item(), -now.pitch.item(), -now.roll.item())
    level = head_pose(back)
    assert max(abs(v.item()) for v in level) < 0.1
    pose = head_pose(turned(back, yaw, pitch, roll))
    assert pose.yaw.item() == pytest.approx(yaw, abs=2)
    assert pose.pitch.item() == pytest.approx(pitch, abs=2)
    assert pose.roll.item() == pytest.approx(roll, abs=2)


def test_expression_measures_do_not_change_with_pose_or_scale(frame, mesh):
    points = mesh(cut(frame, np.load(DATA / "litert_face_landmark.npz")["box"], 192)).points
    for measure in (mouth_open, smile, eyes_open):
        assert measure(3 * turned(points, 20, 10, 30) + 50).item() == pytest.approx(
            measure(points).item(), abs=1e-4
        )
    wider = points.clone()
    wider[:, 14, 1] += 10
    assert mouth_open(wider) > mouth_open(points) + 0.1
    lifted = points.clone()
    lifted[:, [61, 291], 1] -= 10
    assert smile(lifted) > smile(points) + 0.1


def test_other_files_and_sizes_are_refused(tmp_path, mesh):
    (tmp_path / "x.tflite").write_bytes(b"not a model at all")
    with pytest.raises(BadInputError, match="not a TensorFlow Lite file"):
        read_tflite(tmp_path / "x.tflite")
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        mesh(torch.zeros(1, 1, 192, 192))
    with pytest.raises(ValueError, match="192"):
        mesh.net(torch.zeros(1, 3, 100, 100))
    with pytest.raises(ValueError, match="468"):
        landmarks_68(torch.zeros(1, 68, 3))
