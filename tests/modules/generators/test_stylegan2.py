"""StyleGAN2 against the published networks' answers, in NVlabs' names and in rosinality's."""

from __future__ import annotations

import resource

import pytest
import torch
from conformance_cases import Case, assert_close, case, tensors
from torch import Tensor

from datamodules.types import BadInputError
from modules.generators.rosinality import from_rosinality
from modules.generators.stylegan2 import StyleGAN2

NVLABS = ("stylegan2-64-small", "stylegan2-ffhq-256", "stylegan2-ffhq-1024")
ROSINALITY = ("rosinality-stylegan2-256", "rosinality-stylegan2-1024")
MEMORY = 4 * 2**30


def peak() -> int:
    """Bytes; of the whole test run so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def middle(images: Tensor, opened: Case) -> Tensor:
    side = opened.json["crop"] or images.shape[-1]
    first = (images.shape[-1] - side) // 2
    return images[..., first : first + side, first : first + side]


def check_images(generator: StyleGAN2, opened: Case) -> None:
    w, w_plus = opened.tensor("w"), opened.tensor("w_plus")
    images = generator.synthesize(w_plus)
    assert_close(middle(images, opened), opened.tensor("image_from_w_plus"))
    deviation = opened.tensor("image_from_w_plus_std")
    assert ((images.mean((2, 3)) - opened.tensor("image_from_w_plus_mean")).abs() <= 1e-3 * deviation).all()
    torch.testing.assert_close(images.std((2, 3)), deviation, rtol=1e-3, atol=0)
    same_row = w[:, None].expand(-1, generator.num_ws, -1)
    assert_close(middle(generator.synthesize(same_row), opened), opened.tensor("image_from_w"))


@pytest.mark.parametrize("name", NVLABS)
@torch.no_grad()
def test_nvlabs_cases(name: str) -> None:
    before, opened = peak(), case(name)
    generator = StyleGAN2.from_state(tensors(opened), opened.json["init"])
    assert generator.num_ws == opened.json["num_ws"]
    z, w_plus = opened.normal("z"), opened.tensor("w_plus")
    assert_close(generator.map(z)[:, 0], opened.tensor("w"))
    assert_close(generator.map(z, truncation_psi=0.7)[:, 0], opened.tensor("w_truncated_psi07"))
    assert_close(generator.map(z, 0.5, truncation_cutoff=4), opened.tensor("w_truncated_psi05_cutoff4"))
    published = [key.removeprefix("style/") for key in opened.npz.files if key.startswith("style/")]
    styles = generator.styles(w_plus)
    assert list(styles) == published == [layer.name for layer in generator.layers]
    for layer in published:
        assert_close(styles[layer], opened.tensor(f"style/{layer}"))
    check_images(generator, opened)
    silent = generator.synthesize(w_plus, noise_mode="none")
    assert_close(middle(silent, opened), opened.tensor("image_without_noise"))
    assert peak() - before < MEMORY


@pytest.mark.parametrize("name", ROSINALITY)
@torch.no_grad()
def test_rosinality_cases(name: str) -> None:
    before, opened = peak(), case(name)
    config, renamed = from_rosinality(tensors(opened))
    generator = StyleGAN2.from_state(renamed, config)
    del renamed
    assert generator.num_ws == opened.json["num_ws"]
    assert_close(generator.map(opened.normal("z"))[:, 0], opened.tensor("w"))
    check_images(generator, opened)
    assert peak() - before < MEMORY


@pytest.fixture(scope="module")
def small() -> StyleGAN2:
    opened = case("stylegan2-64-small")
    return StyleGAN2.from_state(tensors(opened), opened.json["init"])


@pytest.fixture
def ws(small: StyleGAN2) -> Tensor:
    return small.map(torch.randn(2, 32, generator=torch.Generator().manual_seed(0)))


def test_layers(small: StyleGAN2) -> None:
    rows = {layer.name: layer.ws_index for layer in small.layers}
    assert (rows["b4.conv1"], rows["b4.torgb"], rows["b8.conv0"], rows["b8.conv1"], rows["b8.torgb"]) == (
        0,
        1,
        1,
        2,
        3,
    )
    assert rows["b64.torgb"] == small.num_ws - 1
    assert [layer.resolution for layer in small.layers if layer.to_rgb] == [4, 8, 16, 32, 64]


def test_styles_make_the_same_image(small: StyleGAN2, ws: Tensor) -> None:
    assert torch.equal(small.synthesize_from_styles(small.styles(ws)), small.synthesize(ws))
    with pytest.raises(ValueError, match=r"b4\.torgb"):
        small.synthesize_from_styles({**small.styles(ws), "b4.torgb": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="ws must be"):
        small.styles(ws[0])


def test_noise_maps_are_what_const_uses(small: StyleGAN2, ws: Tensor) -> None:
    const = small.synthesize(ws)
    assert torch.equal(small.synthesize(ws, noise_mode="none", noise=small.noise_maps), const)
    torch.manual_seed(0)
    first = small.synthesize(ws, noise_mode="random")
    assert (small.synthesize(ws, noise_mode="random") - first).abs().max() > 1e-3
    torch.manual_seed(0)
    assert torch.equal(small.synthesize(ws, noise_mode="random"), first)
    with pytest.raises(ValueError, match=r"b4\.conv0"):
        small.synthesize(ws, noise={"b4.conv0": torch.zeros(4, 4)})


def test_noise_and_codes_carry_gradients(small: StyleGAN2, ws: Tensor) -> None:
    generator = StyleGAN2.from_state(small.state_dict(), small.config).double()
    codes = ws[:1].double().detach().requires_grad_()
    noise = small.noise_maps["b8.conv0"].double().detach().requires_grad_()

    def image(codes: Tensor, noise: Tensor) -> Tensor:
        return generator.synthesize(codes, noise={"b8.conv0": noise}, resolution=16)

    assert torch.autograd.gradcheck(image, (codes, noise), fast_mode=True)


def test_smaller_and_moved_images(small: StyleGAN2, ws: Tensor) -> None:
    image = small.synthesize(ws)
    boxes = image.reshape(2, 3, 16, 4, 16, 4).mean((3, 5))
    torch.testing.assert_close(small.synthesize(ws, resolution=16), boxes)
    move = torch.eye(3)
    move[1, 2] = 3 / 64
    moved = small.synthesize(ws, transform=move)
    torch.testing.assert_close(moved[:, :, 3:], image[:, :, :-3], atol=1e-4, rtol=1e-4)


def test_features(small: StyleGAN2, ws: Tensor) -> None:
    assert small.features(ws, 16).shape == (2, 32, 16, 16)
    with pytest.raises(ValueError, match="no block writes 128"):
        small.features(ws, 128)


def test_clamped_features_stay_within(small: StyleGAN2, ws: Tensor) -> None:
    clamped = StyleGAN2.from_state(small.state_dict(), {**small.config, "conv_clamp": 0.5})
    assert small.features(ws, 64).abs().max() > 0.5
    assert clamped.features(ws, 64).abs().max() == 0.5


def test_state_and_config_make_the_same_generator(small: StyleGAN2, ws: Tensor) -> None:
    again = StyleGAN2.from_state(small.state_dict(), small.config)
    assert again.sha256 == small.sha256
    assert torch.equal(again.synthesize(ws), small.synthesize(ws))
    other = small.state_dict()
    other["mapping.w_avg"] = other["mapping.w_avg"] + 1
    assert StyleGAN2.from_state(other, small.config).sha256 == small.sha256, "the mean is no part of the base"
    other["synthesis.b8.conv0.weight"] = other["synthesis.b8.conv0.weight"] + 1
    assert StyleGAN2.from_state(other, small.config).sha256 != small.sha256


def test_a_missing_mean_is_measured(small: StyleGAN2) -> None:
    state = {name: value for name, value in small.state_dict().items() if name != "mapping.w_avg"}
    mean = StyleGAN2.from_state(state, small.config).w_mean
    w = small.map(torch.randn(5000, 32, generator=torch.Generator().manual_seed(1)))[:, 0]
    assert (mean - w.mean(0)).norm() < 0.1 * w.std(0).norm()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"c_dim": 10}, "conditional"),
        ({"img_channels": 1}, "1 channels"),
        ({"synthesis_kwargs": {"architecture": "resnet"}}, "architecture='resnet'"),
        ({"surprise": 1}, "surprise"),
        ({"img_resolution": 48}, "not 48"),
        ({"img_resolution": "64"}, "does not say its img_resolution"),
        ({"img_resolution": 128}, "missing"),
    ],
)
def test_other_settings_are_refused(small: StyleGAN2, config: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        StyleGAN2.from_state(small.state_dict(), {"img_resolution": 64, **config})


def test_other_tensors_are_refused(small: StyleGAN2) -> None:
    state = small.state_dict()
    with pytest.raises(BadInputError, match="noise_const has shape"):
        StyleGAN2.from_state({**state, "synthesis.b8.conv1.noise_const": torch.zeros(4, 4)}, small.config)
    with pytest.raises(BadInputError, match="resample_filter"):
        StyleGAN2.from_state({**state, "synthesis.b8.resample_filter": torch.ones(4, 4)}, small.config)
    with pytest.raises(BadInputError, match="missing"):
        from_rosinality(state)


def test_the_mean_comes_with_rosinality_where_it_is_known() -> None:
    opened = case("rosinality-stylegan2-256")
    state, mean = tensors(opened), torch.randn(512)
    for given in (mean, mean[None], mean.expand(14, 512)):
        assert torch.equal(from_rosinality(state, given)[1]["mapping.w_avg"], mean)
