"""FID's Inception against torch-fidelity's own network, with the same made weights."""

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.models import Inception3

from datamodules.types import BadInputError
from modules.perception.inception import FidInception, load_fid_inception, resize_like_tensorflow


def made_state() -> dict[str, Tensor]:
    """Weights of the published shapes, so scaled that signals neither vanish nor grow."""
    random = torch.Generator().manual_seed(0)
    shapes = Inception3(1008, aux_logits=False, init_weights=False).state_dict()
    state = {}
    for name, value in shapes.items():
        if name.endswith("conv.weight"):
            fan = value[0].numel()
            state[name] = torch.randn(value.shape, generator=random) * (2 / fan) ** 0.5
        elif name.endswith("running_var"):
            state[name] = torch.rand(value.shape, generator=random) + 0.5
        elif value.is_floating_point():
            state[name] = torch.rand(value.shape, generator=random) * 0.2 + (0.9 if "weight" in name else 0.0)
    return state


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(made_state(), path)
    return path


def test_the_features_are_torch_fidelitys(published):
    pixels = torch.randint(0, 256, (2, 3, 96, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    theirs = FeatureExtractorInceptionV3("reference", ["2048"], feature_extractor_weights_path=str(published))
    (expected,) = theirs(pixels)
    found = load_fid_inception(published)(pixels.float() / 127.5 - 1)
    assert found.shape == (2, 2048) and expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_torchvisions_own_network_is_another_one(published):
    """The pools of the published net differ; had they not, this file would not be needed."""
    state = made_state()
    plain = Inception3(1008, aux_logits=False, init_weights=False).eval()
    plain.load_state_dict(state, strict=False)
    plain.fc = torch.nn.Identity()
    images = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        other = plain(((images + 1) * 127.5 - 128) / 128)
    ours = FidInception.from_state(state)(images)
    assert (ours - other).norm() > 0.01 * ours.norm()


@pytest.mark.parametrize("size", [(64, 48), (299, 299), (400, 301)])
def test_resizing_is_tensorflows(size):
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(3)) * 255
    expected = interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    torch.testing.assert_close(resize_like_tensorflow(images, 299), expected, atol=2e-2, rtol=0)


def test_it_stays_in_evaluation_and_refuses_other_files(published, tmp_path):
    net = FidInception.from_state(made_state()).train()
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    with pytest.raises(ValueError, match="Inception takes"):
        net(torch.zeros(1, 1, 64, 64))
    with pytest.raises(BadInputError, match="are not at"):
        load_fid_inception(tmp_path / "none.pth")
    lacking = {name: value for name, value in made_state().items() if name != "fc.weight"}
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(BadInputError, match=r"fc\.weight is missing"):
        load_fid_inception(tmp_path / "lacking.pth")
