"""MobileStyleGAN against OpenVINO's answers, and its promises on a toy of the same build."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conformance_cases import assert_close, case
from torch import Tensor

from datamodules.types import BadInputError
from modules.assets import asset_path
from modules.generators.mobile import MobileStyleGAN
from modules.generators.openvino import Graph, read_mobilestylegan


@pytest.fixture(scope="module")
def folder() -> Path:
    return asset_path("random-face", "SynthesisNetwork.xml").parent


@pytest.fixture(scope="module")
def face(folder: Path) -> MobileStyleGAN:
    return MobileStyleGAN.from_openvino(folder)


def toy_tensors(w_dim: int = 6) -> dict[str, Tensor]:
    stream = np.random.RandomState(1)

    def values(*shape: int) -> Tensor:
        return torch.from_numpy(stream.standard_normal(shape) / max(1, int(np.prod(shape[1:]))) ** 0.5)

    tensors = {"mapping.fc0.weight": values(w_dim, w_dim), "mapping.fc0.bias": values(w_dim)}
    tensors["synthesis.b4.const"] = values(8, 4, 4)
    # name, channels in, channels out, kernel, side
    layers = [("b4.conv1", 8, 8, 3, 4)]
    for side in (8, 16):
        layers += [
            (f"b{side}.up", 8, 0, 0, 0),
            (f"b{side}.conv1", 2, 8, 1, side),
            (f"b{side}.conv2", 8, 8, 1, side),
        ]
    layers.append(("to_img", 8, 12, 1, 0))
    for name, wide, out, kernel, side in layers:
        own = {"affine.weight": values(wide, w_dim), "affine.bias": 1 + 0.1 * values(wide)}
        if out:
            own |= {"weight": values(out, wide, kernel, kernel), "bias": 0.1 * values(out)}
        if out and kernel == 1 and side:
            own["depthwise"] = values(wide, 1, 3, 3)
        if side:
            own["noise"] = 0.3 * values(side, side)
        tensors |= {f"synthesis.{name}.{key}": value for key, value in own.items()}
    return tensors


@pytest.fixture
def toy() -> MobileStyleGAN:
    generator = MobileStyleGAN({name: value.float() for name, value in toy_tensors().items()}).double()
    generator.compute_dtype = torch.float64
    return generator


def toy_codes(toy: MobileStyleGAN, n: int = 2) -> Tensor:
    return torch.randn(n, toy.num_ws, toy.w_dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@torch.no_grad()
def test_answers_like_the_published_network(face: MobileStyleGAN) -> None:
    opened = case("mobilestylegan-ffhq-1024")
    ws = face.map(opened.normal("z"))
    assert ws.shape == (2, 16, 512)
    assert_close(ws[:, 0], opened.tensor("w"))
    images = face.synthesize(ws)
    assert images.shape == (2, 3, 1024, 1024)
    assert images.is_contiguous()
    wanted = opened.tensor("image_crop_384_640")
    # The case keeps half floats: half a unit in their last place is the case's own error.
    error = (images[:, :, 384:640, 384:640] - wanted).abs() - wanted.abs() * 2.0**-11
    assert error.max() <= 1e-3 * wanted.std()
    assert_close(F.avg_pool2d(images, 8), opened.tensor("image_mean_pooled_to_128"))
    assert_close(face.synthesize(ws, resolution=128), opened.tensor("image_mean_pooled_to_128"))
    assert_close(face.synthesize(ws[:1], resolution=512), F.avg_pool2d(images[:1], 2), 1e-4)


def test_layers_and_rows_are_the_published_ones(face: MobileStyleGAN) -> None:
    assert (face.z_dim, face.w_dim, face.num_ws, face.resolution) == (512, 512, 16, 1024)
    # Codes, directions and encoders are refused where this differs.
    assert face.sha256 == "297346c91aa67b71841ee503b5cbe050b71df74ffe858bcdb44e1f552d6fed40"
    rows = {layer.name: layer.ws_index for layer in face.layers}
    assert rows["b4.conv1"] == 0
    assert rows["b8.up"] == rows["b8.conv1"] == 1
    assert rows["b8.conv2"] == 2
    assert (rows["b512.conv1"], rows["b512.conv2"], rows["to_img"]) == (13, 14, 15)
    assert [layer.name for layer in face.layers if layer.to_rgb] == ["to_img"]
    assert [layer.channels for layer in face.layers if layer.name.endswith("conv2")] == [512] * 4 + [256, 128, 64]


@torch.no_grad()
def test_the_mean_of_w_is_the_mean_over_other_draws_too(face: MobileStyleGAN) -> None:
    w = face.map(torch.randn(4000, 512, generator=torch.Generator().manual_seed(9)))[:, 0]
    assert (w.mean(0) - face.w_mean).norm() < 0.1 * (w - face.w_mean).norm(dim=1).mean()


@torch.no_grad()
def test_truncation(face: MobileStyleGAN) -> None:
    z = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    full, half = face.map(z), face.map(z, 0.5, truncation_cutoff=4)
    torch.testing.assert_close(half[:, :4], (full[:, :4] + face.w_mean) / 2)
    assert torch.equal(half[:, 4:], full[:, 4:])
    torch.testing.assert_close(face.map(z, 0.0), face.w_mean.expand(1, 16, 512))
    with pytest.raises(ValueError, match="z must be"):
        face.map(z[0])


@torch.no_grad()
def test_bfloat16_stays_near(face: MobileStyleGAN) -> None:
    ws = face.map(torch.randn(1, 512, generator=torch.Generator().manual_seed(0)), 0.7)
    exact = face.synthesize(ws, resolution=256)
    face.compute_dtype = torch.bfloat16
    try:
        rough = face.synthesize(ws, resolution=256)
    finally:
        face.compute_dtype = torch.float32
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).square().mean() < 4 * 10**-4.3, "less than 43 dB"


def test_gradients_reach_every_row(toy: MobileStyleGAN) -> None:
    ws = toy_codes(toy, 1).requires_grad_()
    assert torch.autograd.gradcheck(toy.synthesize, (ws,), fast_mode=True)
    toy.synthesize(ws).square().sum().backward()
    assert ws.grad is not None
    assert (ws.grad.abs().sum(2) > 0).all()


def test_a_batch_is_its_images_one_by_one(toy: MobileStyleGAN) -> None:
    ws = toy_codes(toy, 3)
    batch = toy.synthesize(ws)
    assert batch.shape == (3, 3, 32, 32)
    torch.testing.assert_close(batch, torch.cat([toy.synthesize(one[None]) for one in ws]))
    # Features take the whole batch at once, as images do on a GPU.
    for side, channels in ((4, 8), (8, 8), (16, 8)):
        features = toy.features(ws, side)
        assert features.shape == (3, channels, side, side)
        torch.testing.assert_close(features, torch.cat([toy.features(one[None], side) for one in ws]))
    with pytest.raises(ValueError, match="4, 8, 16"):
        toy.features(ws, 32)


def test_a_batch_as_a_gpu_takes_it_is_its_images_one_by_one(toy: MobileStyleGAN) -> None:
    """A CPU renders one after the other; what a GPU runs at once is the same sum, and runs here too."""
    ws = toy_codes(toy, 3)
    at_once = toy._image(toy.styles(ws), {}, "const", toy.resolution)
    torch.testing.assert_close(at_once, torch.cat([toy.synthesize(one[None]) for one in ws]))


def test_compiled_renderings_and_their_gradients_are_the_same(
    toy: MobileStyleGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled, by a backend that counts and runs what it is given, is only what gradients are asked of."""
    ran: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        def run(*given: Tensor) -> object:
            ran.append(1)
            return graph(*given)

        return run

    def rendered() -> tuple[Tensor, Tensor | None]:
        ws = toy_codes(toy, 2).requires_grad_()
        image = toy.synthesize(ws)
        image.square().sum().backward()
        return image.detach(), ws.grad

    before = rendered()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, fullgraph=True))
    toy.compile_gradients(counting)
    torch.testing.assert_close(rendered(), before)
    assert len(ran) == 2, "one image at a time on a CPU"
    torch.testing.assert_close(toy.synthesize(toy_codes(toy, 2)), before[0])
    with torch.no_grad():
        toy.synthesize(toy_codes(toy, 2).requires_grad_())
    assert len(ran) == 2
    # As a GPU takes it, three at once.
    styles = {name: value.requires_grad_() for name, value in toy.styles(toy_codes(toy, 3)).items()}
    assert toy._compiled is not None
    at_once = toy._compiled(styles, {}, "const", toy.resolution)
    torch.testing.assert_close(at_once, toy._image(styles, {}, "const", toy.resolution))
    assert len(ran) == 3


def test_styles_make_the_same_image_and_can_be_changed(toy: MobileStyleGAN) -> None:
    ws = toy_codes(toy)
    styles = toy.styles(ws)
    assert list(styles) == [layer.name for layer in toy.layers]
    assert all(styles[layer.name].shape == (2, layer.channels) for layer in toy.layers)
    image = toy.synthesize(ws)
    assert torch.equal(toy.synthesize_from_styles(styles), image)
    for name, value in styles.items():
        changed = toy.synthesize_from_styles({**styles, name: value + torch.eye(2, value.shape[1])})
        assert (changed - image).flatten(1).abs().amax(1).min() > 1e-6, f"{name} does nothing"
    with pytest.raises(ValueError, match="to_img"):
        toy.synthesize_from_styles({name: value for name, value in styles.items() if name != "to_img"})
    with pytest.raises(ValueError, match="ws must be"):
        toy.styles(ws[:, 1:])


def test_noise_that_is_added_in_place_has_its_gradient_and_leaves_that_of_the_codes(toy: MobileStyleGAN) -> None:
    """One image at a time, and two together, which go other ways; maps of one and of each."""
    names, maps = zip(*toy.noise_maps.items(), strict=True)
    together = [torch.stack([value, -value])[:, None].clone().requires_grad_() for value in maps]
    alone = [value.clone().requires_grad_() for value in maps]
    ws = toy_codes(toy).requires_grad_()

    def features(ws: Tensor, *noise: Tensor) -> Tensor:
        return toy.features(ws, 16, noise=dict(zip(names, noise, strict=True)))

    def images(ws: Tensor, *noise: Tensor) -> Tensor:
        return toy.synthesize(ws, noise=dict(zip(names, noise, strict=True)))

    for noise in (alone, together):
        before = [value.detach().clone() for value in noise]
        assert torch.autograd.gradcheck(features, (ws, *noise), fast_mode=True)
        assert torch.autograd.gradcheck(images, (ws, *noise), fast_mode=True)
        assert all(torch.equal(value, start) for value, start in zip(noise, before, strict=True))


def test_styles_have_the_gradients_that_they_have_beside_learned_weights(face: MobileStyleGAN) -> None:
    """Of frozen weights the style scales the features, of learned ones the weights: two ways to one sum."""
    ws = face.map(torch.randn(2, face.z_dim, generator=torch.Generator().manual_seed(1)))
    wanted = torch.randn(2, 512, 64, 64, generator=torch.Generator().manual_seed(2))

    def seen() -> tuple[Tensor, Tensor]:
        codes = ws.clone().requires_grad_()
        features = face.features(codes, 64)
        (gradient,) = torch.autograd.grad((features * wanted).sum(), codes)
        return features.detach(), gradient

    features, gradient = seen()
    with torch.no_grad():
        torch.testing.assert_close(features, face.features(ws, 64), rtol=1e-4, atol=1e-4)
    face.requires_grad_(True)
    try:
        beside_features, beside = seen()
    finally:
        face.requires_grad_(False)
    torch.testing.assert_close(features, beside_features, rtol=1e-4, atol=1e-4)
    assert (gradient - beside).norm() < 1e-3 * beside.norm() and gradient[:, :9].abs().amax(2).all()


def test_noise(toy: MobileStyleGAN) -> None:
    ws = toy_codes(toy)
    const, none = toy.synthesize(ws), toy.synthesize(ws, noise_mode="none")
    assert (const - none).abs().max() > 1e-3
    maps = toy.noise_maps
    assert [tuple(value.shape) for value in maps.values()] == [(4, 4), (8, 8), (8, 8), (16, 16), (16, 16)]
    assert all(value.square().mean().isclose(torch.tensor(1.0).double()) for value in maps.values())
    torch.testing.assert_close(toy.synthesize(ws, noise_mode="none", noise=maps), const)
    doubled = {name: torch.stack([value, value * 2])[:, None] for name, value in maps.items()}
    torch.testing.assert_close(toy.synthesize(ws, noise=doubled)[:1], const[:1])
    assert (toy.synthesize(ws, noise=doubled)[1] - const[1]).abs().max() > 1e-3
    torch.manual_seed(0)
    first = toy.synthesize(ws, noise_mode="random")
    assert (toy.synthesize(ws, noise_mode="random") - first).abs().max() > 1e-3
    torch.manual_seed(0)
    assert torch.equal(toy.synthesize(ws, noise_mode="random"), first)
    with pytest.raises(ValueError, match="to_img"):
        toy.synthesize(ws, noise={"to_img": torch.zeros(16, 16)})


def test_transform_moves_the_image(toy: MobileStyleGAN) -> None:
    ws = toy_codes(toy)
    image = toy.synthesize(ws)
    move = torch.eye(3, dtype=torch.float64)
    move[0, 2] = 4 / 32
    torch.testing.assert_close(toy.synthesize(ws, transform=move)[..., 4:], image[..., :-4])


def test_tensors_come_back_from_the_state(toy: MobileStyleGAN) -> None:
    given = {name: value.float() for name, value in toy_tensors().items()}
    generator = MobileStyleGAN(given)
    state = generator.state_dict()
    assert set(state) == set(given)
    assert all(torch.equal(state[name], given[name]) for name in given)
    assert MobileStyleGAN(state).sha256 == generator.sha256
    assert not any(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.parametrize("name", ["mapping.fc0.weight", "synthesis.b4.const", "synthesis.b8.conv1.affine.bias"])
def test_missing_tensors_are_named(name: str) -> None:
    tensors = {key: value.float() for key, value in toy_tensors().items() if key != name}
    with pytest.raises(BadInputError, match=name.split(".")[-1]):
        MobileStyleGAN(tensors)


def test_the_reader_refuses_other_graphs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "MappingNetwork.xml").write_text("no XML")
    with pytest.raises(BadInputError, match="not an OpenVINO IR"):
        read_mobilestylegan(tmp_path)
    for end in ("xml", "bin"):
        for name in ("MappingNetwork", "SynthesisNetwork"):
            (tmp_path / f"{name}.{end}").write_bytes((folder / f"MappingNetwork.{end}").read_bytes())
    with pytest.raises(BadInputError, match=r"m\.input\.input"):
        read_mobilestylegan(tmp_path)


def test_the_reader_reads_what_the_graph_computes_with(folder: Path) -> None:
    tensors = read_mobilestylegan(folder)
    graph = Graph(folder / "SynthesisNetwork.xml")
    raw = graph.constant(graph.layer("m.layers.6.conv1.conv.weight_permute"))
    ratio = tensors["synthesis.b512.conv1.weight"] / raw
    # The scale of styles in the published class: the root of 9 times the channels in, depthwise kernel counted.
    torch.testing.assert_close(ratio, torch.full_like(ratio, (32 * 9) ** -0.5), atol=1e-6, rtol=1e-5)
    assert sum(value.numel() for value in tensors.values()) == pytest.approx(10_100_000, rel=0.02)
