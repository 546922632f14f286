"""The papers' own judges: published answers where there are some, else the same sums done another way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conformance_cases import assert_close, case, fill, fill_image, tensors
from face_alignment.models import FAN
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.perception.arcface import ArcFace, load_arcface
from modules.perception.bisenet import BiSeNet
from modules.perception.ddfa import (
    DenseFace,
    FaceModel,
    MobileNetV1,
    load_dense_face,
    load_face_model,
    read_mean_std,
)
from modules.perception.face_judge import FaceJudge, FaceJudgeConfig, load_face_judge
from modules.perception.fan import FILE_NAME, FaceAlignmentNet, load_fan
from modules.perception.mesh import FaceMesh, load_face_mesh
from modules.perception.state import build_with_state, read_state

PUBLISHED_3DDFA = Path(__file__).resolve().parents[4] / "shared" / "weights" / "3ddfa_v2"


@pytest.fixture(scope="module")
def arcface() -> ArcFace:
    return ArcFace.from_state(tensors(case("arcface-ir-se50")))


def test_arcface_answers_as_published(arcface: ArcFace) -> None:
    opened = case("arcface-ir-se50")
    images = torch.from_numpy(fill_image("image", (2, 3, 112, 112), opened.seed))
    assert_close(arcface(images), opened.tensor("embeddings"))


def test_arcface_looks_at_the_face_in_the_crop_only(arcface: ArcFace) -> None:
    crop = torch.from_numpy(fill_image("crop", (1, 3, 256, 256)))
    around, inside = crop.clone(), crop.clone()
    around[:, :, :30] += 1.0
    around[:, :, :, 225:] += 1.0
    inside[:, :, 100:140, 100:140] += 1.0
    embedded, same, other = arcface.embed(torch.cat([crop, around, inside]))
    assert torch.allclose(same, embedded, atol=1e-6)
    assert not torch.allclose(other, embedded, atol=1e-4)
    torch.testing.assert_close(embedded.norm(), torch.tensor(1.0))


@pytest.fixture(scope="module")
def bisenet() -> BiSeNet:
    return BiSeNet.from_state(tensors(case("bisenet-face-parsing")))


def test_bisenet_answers_as_published(bisenet: BiSeNet) -> None:
    opened = case("bisenet-face-parsing")
    logits = bisenet(torch.from_numpy(fill_image("image", (1, 3, 512, 512), opened.seed)))
    assert_close(logits[:, :, ::8, ::8], opened.tensor("logits_stride8"))


def test_bisenet_normalises_as_it_was_trained(bisenet: BiSeNet) -> None:
    image = torch.from_numpy(fill_image("image", (1, 3, 512, 512)))
    shades = (image.numpy() + 1) / 2
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = (shades - mean[None, :, None, None]) / std[None, :, None, None]
    wanted = bisenet(torch.from_numpy(normalised).float()).softmax(dim=1)
    got = bisenet.probabilities(image)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(got.sum(dim=1), torch.ones(1, 512, 512))


def made_mobilenet() -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in MobileNetV1().state_dict().items()}

    def rule(name: str) -> str:
        if name.endswith("running_var"):
            return "positive"
        return "ones+0.1" if ".bn" in f".{name}" and name.endswith("weight") else "fan_in"

    return {
        f"module.{name}": torch.from_numpy(fill(name, shape, rule(name)))
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }


def plain_mobilenet(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """MobileNetV1 0.5 over the tensors' names, without a module."""

    def normalise(x: Tensor, name: str) -> Tensor:
        parts = [state[f"module.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        mean, var, weight, bias = (part.view(1, -1, 1, 1) for part in parts)
        return F.relu((x - mean) / (var + 1e-5).sqrt() * weight + bias)

    x = normalise(F.conv2d(x, state["module.conv1.weight"], stride=2, padding=1), "bn1")
    for unit in (*(f"dw{i}_{j}" for i in (2, 3, 4) for j in (1, 2)), *(f"dw5_{j}" for j in range(1, 7)), "dw6"):
        depthwise = state[f"module.{unit}.conv_dw.weight"]
        stride = 2 if unit in ("dw2_2", "dw3_2", "dw4_2", "dw5_6") else 1
        x = F.conv2d(x, depthwise, stride=stride, padding=1, groups=len(depthwise))
        x = normalise(x, f"{unit}.bn_dw")
        x = normalise(F.conv2d(x, state[f"module.{unit}.conv_sep.weight"]), f"{unit}.bn_sep")
    return x.flatten(2).mean(dim=2) @ state["module.fc_param.weight"].T + state["module.fc_param.bias"]


SOURCES = [
    pytest.param(None, id="made"),
    # The published weights may not be copied into this repository; where they lie beside it they are held to it.
    *([pytest.param(PUBLISHED_3DDFA, id="published")] if PUBLISHED_3DDFA.is_dir() else []),
]


@pytest.mark.parametrize("folder", SOURCES)
def test_3ddfa_answers(folder: Path | None) -> None:
    opened = case("3ddfa-v2-mb05")
    images = torch.from_numpy(fill_image("image", (2, 3, 120, 120), opened.seed))
    if folder is None:
        state = made_mobilenet()
        assert_close(MobileNetV1.from_state(state)(images), plain_mobilenet(state, images))
    else:
        state = read_state(folder / "mb05_120x120.pth", "state_dict")
        assert_close(MobileNetV1.from_state(state)(images), opened.tensor("parameters"))
        mean, std = read_mean_std(folder / "param_mean_std_62d_120x120.pkl")
        assert mean.shape == std.shape == (62,)
        assert (std > 0).all()


class Answer(nn.Module):
    """Stands for the network: the same standardised parameters whatever it sees."""

    def __init__(self, parameters: Tensor) -> None:
        super().__init__()
        self.parameters_out = parameters

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return self.parameters_out


def test_3ddfa_vertices_are_the_published_sums() -> None:
    rng = np.random.default_rng(0)
    mean, shape, expression = rng.standard_normal(15), rng.standard_normal((15, 40)), rng.standard_normal((15, 10))
    shift, scale, answer = rng.standard_normal(62), rng.uniform(0.5, 2, 62), rng.standard_normal((2, 62))
    parts = [torch.from_numpy(part).float() for part in (mean, shape, expression)]
    model = FaceModel(*parts)
    net = Answer(torch.from_numpy(answer).float())
    inputs = (torch.from_numpy(shift).float(), torch.from_numpy(scale).float())
    dense = DenseFace(net, *inputs, model)  # type: ignore[arg-type]
    faces = torch.from_numpy(fill_image("faces", (2, 3, 120, 120)))
    got = dense(faces)
    for n in range(2):
        values = answer[n] * scale + shift
        pose = values[:12].reshape(3, 4)
        points = mean + shape @ values[12:52] + expression @ values[52:]
        placed = pose[:, :3] @ points.reshape(3, -1, order="F") + pose[:, 3:]
        wanted = np.stack([placed[0] - 1, 120 - placed[1], placed[2]], axis=1)
        np.testing.assert_allclose(got[n].numpy(), wanted, rtol=1e-4, atol=1e-4)
    bytes_bgr = (faces.flip(1).numpy() + 1) * 127.5
    np.testing.assert_allclose(net.seen.numpy(), (bytes_bgr - 127.5) / 128, atol=1e-5)
    # Twice the crop: pixel centres keep their place in the picture.
    torch.testing.assert_close(dense(torch.zeros(2, 3, 240, 240))[..., :2] + 0.5, 2 * (got[..., :2] + 0.5))


def test_basel_face_is_a_face() -> None:
    model = load_face_model()
    assert model.shape.shape == (159645, 40)
    assert model.expression.shape == (159645, 10)
    keypoints = np.load(asset_path("bfm", "keypoints_sim.npy"), allow_pickle=False).astype(np.int64)
    points = model.mean[keypoints].reshape(68, 3)
    right_eye, left_eye, mouth, nose = (
        points[36:42].mean(0),
        points[42:48].mean(0),
        points[48:].mean(0),
        points[30],
    )
    assert right_eye[0] < nose[0] < left_eye[0]
    assert mouth[1] < nose[1] < right_eye[1]
    assert nose[2] == points[:, 2].max()


def test_3ddfa_files_that_are_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="mb05_120x120"):
        load_dense_face(tmp_path, FaceModel(*(torch.zeros(3) for _ in range(3))))
    torch.save({"mean": 1}, tmp_path / "mean.pkl")
    with pytest.raises(BadInputError, match="62 parameters"):
        read_mean_std(tmp_path / "mean.pkl")


class Blobs(nn.Module):
    """Stands for FAN: 68 blobs at known cells of the heatmaps; remembers what it was shown."""

    def __init__(self, cells: np.ndarray) -> None:
        super().__init__()
        ys, xs = np.mgrid[:64, :64]
        squares = (xs - cells[:, 0, None, None]) ** 2 + (ys - cells[:, 1, None, None]) ** 2
        self.maps = torch.from_numpy(np.exp(-squares / 4.5)).float()[None]

    def forward(self, images: Tensor) -> list[Tensor]:
        self.seen = images
        return [torch.zeros(1, 68, 64, 64), self.maps * (0.9 + 0.1 * images[:, :1, ::4, ::4])]


def test_fan_points_lie_on_the_peaks() -> None:
    cells = np.random.default_rng(1).uniform(8, 56, (68, 2))
    net = Blobs(cells)
    image = torch.from_numpy(fill_image("face", (1, 3, 512, 512))).requires_grad_()
    points, score = FaceAlignmentNet(net)(image)
    # A cell covers 8 px of the input; its centre lies between the fourth and the fifth.
    np.testing.assert_allclose(points[0].detach().numpy(), cells * 8 + 3.5, atol=1.0)
    assert (score > 0.8).all()
    assert net.seen.shape == (1, 3, 256, 256)
    assert 0 <= net.seen.min() < net.seen.max() <= 1
    points[0, 0, 0].backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_fan_is_read_from_a_file_and_lets_gradients_through(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = FAN(4).state_dict()
    torch.save(state, tmp_path / FILE_NAME)
    fan = load_fan(tmp_path / FILE_NAME)
    assert all(torch.equal(value, state[name]) for name, value in fan.net.state_dict().items())
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    maps = fan.net(image)[-1]
    assert maps.shape == (1, 68, 16, 16)
    maps.square().mean().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in fan.parameters())


def test_face_judge_takes_each_part_from_the_chosen_network() -> None:
    image = torch.from_numpy(fill_image("face", (1, 3, 256, 256)))
    mesh = load_face_mesh()
    fan = FaceAlignmentNet(Blobs(np.full((68, 2), 30.0)))
    model = FaceModel(torch.zeros(15), torch.zeros(15, 40), torch.zeros(15, 10))
    dense = DenseFace(Answer(torch.zeros(1, 62)), torch.zeros(62), torch.ones(62), model)  # type: ignore[arg-type]
    ours, theirs = mesh(image), FaceJudge(fan, dense)(image)
    assert theirs.features.shape == (1, 68, 64, 64)
    assert theirs.points.shape == (1, 5, 3)
    assert 0.8 < theirs.score.item() <= 1.0
    mixed = FaceJudge(mesh, dense)(image)
    assert torch.equal(mixed.features, ours.features)
    assert torch.equal(mixed.score, ours.score)
    assert torch.equal(FaceJudge(fan, mesh)(image).points, ours.points)


def test_face_judge_is_chosen_by_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert isinstance(load_face_judge(FaceJudgeConfig("mesh", "mesh", "", "", 2.0, 3.0, 0.5)), FaceMesh)
    with pytest.raises(BadInputError, match=FILE_NAME):
        load_face_judge(FaceJudgeConfig("fan", "mesh", "", "", 2.0, 3.0, 0.5))
    with pytest.raises(BadInputError, match="ddfa_weights"):
        load_face_judge(FaceJudgeConfig("mesh", "3ddfa", "", "", 2.0, 3.0, 0.5))


def test_fan_says_where_its_weights_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BadInputError, match=FILE_NAME):
        load_fan()


def test_other_weights_are_refused_by_the_first_tensor_that_differs(tmp_path: Path) -> None:
    def make() -> nn.Linear:
        return nn.Linear(2, 3)

    good = {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}
    assert build_with_state(make, good, "it")(torch.ones(1, 2)).tolist() == [[2.0, 2.0, 2.0]]
    for state, said in (
        ({"weight": good["weight"]}, "bias is missing"),
        ({**good, "scale": torch.ones(1)}, "scale is not part"),
        ({**good, "bias": torch.zeros(4)}, r"bias is \(4,\)"),
    ):
        with pytest.raises(BadInputError, match=said):
            build_with_state(make, state, "it")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(BadInputError, match="no state dict"):
        load_arcface(tmp_path / "other.pth")
