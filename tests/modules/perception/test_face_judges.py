"""Identity against onnxruntime, age against NumPy and real faces, and the second judges on the same faces."""

import json

import cv2
import numpy as np
import pytest
import torch
from real_faces import calm_and_grinning
from scipy.signal import correlate

from datamodules.alignment import crop_frame, ffhq_crop
from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.perception.age import load_age_net
from modules.perception.detection import DetectionConfig, FaceDetector, load_face_finder
from modules.perception.emotion import EMOTIONS, load_emotion_net
from modules.perception.face_api import read_face_api_weights
from modules.perception.identity import load_identity
from modules.perception.landmarks import head_pose, landmarks_68
from modules.perception.mesh import load_face_mesh
from modules.perception.onnx_net import read_onnx
from modules.perception.second_identity import SAME_PERSON, _padded, load_second_identity
from modules.perception.second_judges import SecondJudges, onnx_session
from modules.perception.second_landmarks import load_second_landmarks
from modules.perception.warp import similarity_grid
from services.attributes import as_frames

PICTURES = ("15-f13-anc-ph.jpg", "45-m7-di-ph.jpg", "single_face.jpg")


CONFIG = DetectionConfig(640, 1920, 0.6, 0.3, 8, 0.5, 16, 0.2)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """FFHQ crops, 320 px."""
    finder = load_face_finder(CONFIG)
    crops = []
    for name in PICTURES:
        picture = np.ascontiguousarray(cv2.imread(str(asset_path("clips", name)))[..., ::-1])
        points = finder.find(picture[None])[0][0].landmarks
        crops.append(crop_frame(picture, ffhq_crop(points[None], 320)[0], 320))
    return np.stack(crops)


@pytest.fixture(scope="module")
def images(pictures) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture(scope="module")
def boxes(pictures) -> np.ndarray:
    detector = FaceDetector(CONFIG)
    found = [detector.detect(picture)[0] for picture in pictures]
    return np.array([[b.x0, b.y0, b.x1, b.y1] for b in found], np.float32)


def test_identity_net_answers_as_onnxruntime_does():
    net = load_identity().net
    session = onnx_session("fr_feature.onnx")
    views = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = np.concatenate([session.run(None, {"input": view[None].numpy()})[0] for view in views])
    assert np.abs(net(views).numpy() - expected).max() < 1e-5


def test_identity_holds_through_size_place_and_turn(images):
    net = load_identity()
    shape = images.shape[2:]
    theta = torch.tensor(
        [[[1.1 * np.cos(0.3), -1.1 * np.sin(0.3), 0.05], [1.1 * np.sin(0.3), 1.1 * np.cos(0.3), 0]]]
    )
    grid = torch.nn.functional.affine_grid(theta.float().expand(3, 2, 3), [3, 3, *shape], align_corners=False)
    turned = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    likeness = net.embed(images) @ net.embed(turned).T
    assert torch.allclose(net(images).norm(dim=1), torch.ones(3), atol=1e-5)
    assert likeness.diag().min() > 0.75
    assert (likeness - torch.diag_embed(likeness.diag())).max() < 0.3


def test_identity_is_differentiable(images):
    start = images[:1].clone().requires_grad_()
    net = load_identity()
    (net(start) @ net(images[1:2]).T).sum().backward()
    assert start.grad is not None and torch.isfinite(start.grad).all() and start.grad.abs().sum() > 0


def test_a_look_sees_what_the_two_nets_see(images):
    net = load_identity()
    sight = net.look(images)
    torch.testing.assert_close(sight.embedding, net(images))
    mesh = load_face_mesh()(images)
    side = images.shape[-1]
    there = (sight.landmarks[..., :2] + 1) * (side / 2) - 0.5
    torch.testing.assert_close(there, landmarks_68(mesh.points), atol=0.6, rtol=0)
    assert sight.seen.all() and not net.look(torch.zeros(1, 3, 64, 64)).seen.any()


def test_without_a_face_the_usual_places_are_taken():
    embedding = load_identity()(torch.zeros(1, 3, 64, 64))
    assert torch.isfinite(embedding).all() and embedding.norm().item() == pytest.approx(1, abs=1e-5)


def test_second_identity_net_tells_persons_apart(images):
    """Three persons, turned, shifted and in another size; a wrong layer or place breaks it."""
    net = load_second_identity()
    cos, sin = 1.05 * np.cos(0.2), 1.05 * np.sin(0.2)
    turn = torch.tensor([[[cos, -sin, 0.03], [sin, cos, 0]]]).float().expand(3, 2, 3)
    grid = torch.nn.functional.affine_grid(turn, [3, 3, 256, 256], align_corners=False)
    turned = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    distance = torch.cdist(net(images), net(turned))
    assert distance.diag().max() < 0.3 * SAME_PERSON
    assert (distance + 9 * torch.eye(3)).min() > 0.75 * SAME_PERSON
    assert not any(parameter.requires_grad for parameter in net.parameters())
    with pytest.raises(ValueError, match=r"\(N, 3, H, H\)"):
        net(images[:, :, :200])


def test_a_down_block_of_the_second_identity_net_by_hand(images):
    """Its first convolution by SciPy, and what is padded where a block halves the image."""
    net = load_second_identity()
    face = torch.nn.functional.interpolate(images[:1], (150, 150))
    x = ((face + 1) * 127.5 - torch.tensor([122.782, 117.001, 104.298]).view(1, 3, 1, 1)) / 255
    kernel, bias = net._weight("conv32_down/conv/filters")[7], net._weight("conv32_down/conv/bias")[7]
    by_hand = sum(correlate(x[0, c].numpy(), kernel[c].numpy(), "valid") for c in range(3))[::2, ::2] + bias.item()
    scale, shift = (net._weight(f"conv32_down/scale/{part}")[7].item() for part in ("weights", "biases"))
    ours = net._convolve(x, "conv32_down", 2, 0)[0, 7].numpy()
    assert np.abs(ours - (by_hand * scale + shift)).max() < 1e-3
    small = _padded(torch.ones(1, 2, 3, 3), torch.zeros(1, 4, 4, 4))
    assert small.shape == (1, 4, 4, 4) and small.sum() == 18 and small[:, :2, :3, :3].min() == 1


def test_onnx_files_with_more_are_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"text, and no model")
    with pytest.raises(BadInputError, match="not an ONNX file"):
        read_onnx(tmp_path / "x.onnx")
    with pytest.raises(BadInputError, match=r"operators .*MaxPool"):
        read_onnx(asset_path("face-recognition-plugin", "fr_eye.onnx"))


def test_first_layer_of_the_age_net_by_hand(images):
    """Bytes, order of axes and padding: the first convolution by SciPy from the file itself."""
    manifest = asset_path("face-api", "age_gender_model-weights_manifest.json")
    entry = json.loads(manifest.read_text())[0]["weights"][0]
    raw = np.frombuffer(asset_path("face-api", "age_gender_model.bin").read_bytes(), np.uint8, 3 * 3 * 3 * 32)
    quantised = entry["quantization"]
    kernel = (raw * quantised["scale"] + quantised["min"]).reshape(3, 3, 3, 32)
    arrays = read_face_api_weights(manifest, asset_path("face-api", "age_gender_model.bin"))
    image = np.random.default_rng(0).normal(size=(112, 112, 3))
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)))
    by_hand = sum(correlate(padded[..., c], kernel[:, :, c, 5], "valid") for c in range(3))[::2, ::2]
    net = load_age_net()
    x = torch.tensor(np.pad(image, ((0, 1), (0, 1), (0, 0)))).permute(2, 0, 1)[None].float()
    ours = net._convolve(x, "entry_flow/conv_in", 2)[0, 5].numpy() - arrays["entry_flow/conv_in/bias"][5]
    assert np.abs(ours - by_hand).max() < 1e-4


def test_age_and_gender_of_three_people(images):
    """A young woman and two young men. The net calls all three men, but her the least."""
    out = load_age_net()(images)
    assert out.age.shape == (3,) and out.female.shape == (3,)
    assert out.age.min() > 14 and out.age.max() < 40
    assert out.female[0] > 2 * out.female[1:].max()


def test_age_net_is_differentiable_and_frozen(images):
    net = load_age_net()
    start = images[:1].clone().requires_grad_()
    net(start).age.sum().backward()
    assert start.grad.abs().sum() > 0 and not any(p.requires_grad for p in net.parameters())


def test_a_short_weights_file_is_refused(tmp_path):
    short = tmp_path / "short.bin"
    short.write_bytes(asset_path("face-api", "age_gender_model.bin").read_bytes() + b"x")
    with pytest.raises(ValueError, match="adds up"):
        read_face_api_weights(asset_path("face-api", "age_gender_model-weights_manifest.json"), short)


def test_second_judges_agree_with_the_first(pictures, images, boxes):
    judges = SecondJudges()
    pose, other = head_pose(load_face_mesh()(images).points), judges.pose(pictures, boxes)
    assert np.abs(pose.yaw.numpy() - other.yaw).max() < 12
    shares = judges.expression(pictures, boxes)
    assert shares.shape == (3, 7) and np.allclose(shares.sum(1), 1, atol=1e-4)


def test_second_landmarks_lie_where_the_mesh_has_them_and_move_with_the_picture(images):
    net = load_second_landmarks()
    first, second = landmarks_68(load_face_mesh()(images).points), net(images)
    eyes = (first[:, 36:42].mean(1) - first[:, 42:48].mean(1)).norm(dim=1)
    assert ((second - first).norm(dim=2).mean(1) / eyes).max() < 0.15
    moved = net(torch.roll(images, (3, 5), (2, 3)))
    assert (moved - second - torch.tensor([5.0, 3.0])).norm(dim=2).mean() < 0.02 * eyes.mean()
    with pytest.raises(ValueError, match=r"\(N, 3, H, H\)"):
        net(images[:, :, :200])


def test_second_landmarks_are_those_of_the_published_steps(pictures, images):
    """The square cut, reduced and made grey by OpenCV, as the JavaScript does it."""
    session, found = onnx_session("fr_landmark.onnx"), load_second_landmarks()(images)
    for picture, ours in zip(pictures, found, strict=True):
        face = picture[80 : 80 + 224, 48 : 48 + 224]
        grey = cv2.cvtColor(cv2.resize(face, (64, 64), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        (points,) = session.run(None, {"input": grey[None, None].astype(np.float32) / 256})
        assert np.abs(points.reshape(68, 2) * 224 + [47.5, 79.5] - ours.numpy()).mean() < 0.5


def test_second_judge_of_pose_sees_a_flip(pictures, boxes):
    judges = SecondJudges()
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = 319 - boxes[:, [2, 0]]
    straight, flipped = (
        judges.pose(p, b) for p, b in ((pictures, boxes), (pictures[:, :, ::-1].copy(), mirrored))
    )
    assert np.abs(straight.yaw + flipped.yaw).max() < 12


def test_second_judge_of_age_says_what_dlib_says(pictures, images):
    """dlib 20.0.1 itself: its detector, its five landmarks, its chip, and the net by onnxruntime."""
    ages = SecondJudges().age(pictures, load_face_mesh()(images).points)
    np.testing.assert_allclose(ages, [17.98, 18.98, 25.40], atol=1.5)


def test_second_judge_of_gender_is_plausible(pictures, boxes):
    female = SecondJudges().female(pictures, boxes)
    assert ((female > -0.3) & (female < 1.3)).all()


def test_second_judge_of_expression_by_the_names_of_the_first(pictures, boxes):
    """A woman asked to look angry ("an" in the file's name), a man who smiles, another one calm."""
    judges, calm = SecondJudges(), calm_and_grinning()[:1]
    found = judges.expression(pictures, boxes)
    still = judges.expression(*as_frames(calm, load_face_mesh()(calm).points))
    assert [EMOTIONS[k] for k in found[[0, 2]].argmax(1)] == ["angry", "happy"]
    assert EMOTIONS[still[0].argmax()] == "neutral" and still.max() > 0.9
    assert EMOTIONS[load_emotion_net()(calm)[0].argmax()] == "neutral"


def test_second_judge_of_expression_sees_light_and_no_colour(pictures, boxes):
    """Red and blue exchanged, and the luma by BT.601 written into all channels."""
    grey = np.repeat(np.rint(pictures @ np.array([0.299, 0.587, 0.114]))[..., None], 3, -1).astype(np.uint8)
    judges = SecondJudges()
    found = judges.expression(pictures, boxes)
    np.testing.assert_allclose(judges.expression(grey, boxes), found, atol=0.02)
    assert np.abs(judges.expression(np.ascontiguousarray(pictures[..., ::-1]), boxes) - found).max() > 0.02


def test_a_similarity_is_found_again():
    """Points moved by a known turn, scale and shift: the view looks back exactly through it."""
    wanted = torch.tensor([[10.0, 12.0], [40.0, 12.0], [25.0, 30.0], [14.0, 44.0], [36.0, 44.0]])
    turn, scale, shift = 0.4, 1.7, torch.tensor([31.0, 17.0])
    matrix = scale * torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).float()
    points = wanted @ matrix.T + shift
    grid = similarity_grid(points[None], wanted, 128, 50)
    pixels = torch.stack(torch.meshgrid(torch.arange(50.0), torch.arange(50.0), indexing="xy"), -1)
    expected = ((pixels @ matrix.T + shift) + 0.5) * (2 / 128) - 1
    torch.testing.assert_close(grid[0], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="points"):
        similarity_grid(points, wanted, 128, 50)
