"""StyleGAN3 against NVlabs' own answers, its filters against NVlabs' buffers, its tiles against the whole."""

from __future__ import annotations

import math
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from conformance_cases import Case, assert_close, case, tensors

from datamodules.types import BadInputError
from modules.generators.alias_free import filtered_lrelu_in_tiles
from modules.generators.stylegan3 import StyleGAN3
from modules.generators.stylegan3_layout import StyleGAN3Config, plan_layers
from modules.ops import filtered_lrelu

SMALL = ("stylegan3-t-64-small", "stylegan3-r-64-small")
LARGE = ("stylegan3-t-ffhq-1024", "stylegan3-r-ffhq-1024")


def _build(opened: Case) -> StyleGAN3:
    own = tensors(opened)
    own["synthesis.input.transform"] = torch.eye(3)
    return StyleGAN3.from_state(own, opened.json["init"])


def _cropped(opened: Case, images: torch.Tensor) -> torch.Tensor:
    crop = opened.json["crop"]
    first = (images.shape[-1] - crop) // 2 if crop else 0
    return images[..., first : first + crop, first : first + crop] if crop else images


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_answer_as_published(name: str) -> None:
    opened = case(name)
    generator = _build(opened)
    assert generator.num_ws == opened.json["num_ws"] == 16
    z = opened.normal("z")
    assert_close(generator.map(z)[:, 0], opened.tensor("w"))
    assert_close(generator.map(z, 0.7)[:, -1], opened.tensor("w_truncated_psi07"))
    ws = opened.tensor("w_plus")
    styles = generator.styles(ws)
    assert [layer.name for layer in generator.layers] == list(styles)
    for layer in generator.layers:
        assert layer.channels == styles[layer.name].shape[1]
        assert_close(styles[layer.name], opened.tensor(f"style/{layer.name}.affine"))
    assert_close(generator.synthesize(opened.tensor("w")[:, None].repeat(1, 16, 1)), opened.tensor("image_from_w"))
    image = generator.synthesize_from_styles(styles, noise_mode="none")
    assert_close(image, opened.tensor("image_from_w_plus"))
    moved = generator.synthesize(ws, transform=torch.linalg.inv(opened.tensor("transform_inverse")))
    assert_close(moved, opened.tensor("image_rotated20_translated"))
    assert_close(generator.synthesize(ws, resolution=16), torch.nn.functional.avg_pool2d(image, 4))


@pytest.mark.timeout(1800)  # 20 and 35 s of CPU, but a loaded machine may give little of it
@pytest.mark.parametrize("name", LARGE)
def test_1024_networks_answer_as_published_in_4_gb(name: str) -> None:
    # In a process of its own, whose peak is this network's alone.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(_peak_of_published_answers, name).result() < 4 << 20


def _peak_of_published_answers(name: str) -> int:
    """KiB of memory at most, once the answers have been found equal."""
    opened = case(name)
    generator = _build(opened)
    ws = opened.tensor("w_plus")
    with torch.no_grad():
        image = generator.synthesize(ws)
        assert_close(_cropped(opened, image), opened.tensor("image_from_w_plus"))
        torch.testing.assert_close(image.mean((2, 3)), opened.tensor("image_from_w_plus_mean"), rtol=0, atol=1e-4)
        torch.testing.assert_close(image.std((2, 3)), opened.tensor("image_from_w_plus_std"), rtol=1e-3, atol=0)
        del image
        moved = generator.synthesize(ws, transform=torch.linalg.inv(opened.tensor("transform_inverse")))
        assert_close(_cropped(opened, moved), opened.tensor("image_rotated20_translated"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", (*SMALL, *LARGE))
def test_filters_are_the_ones_the_format_stores(name: str) -> None:
    opened = case(name)
    for plan in plan_layers(StyleGAN3Config.from_keywords(opened.json["init"])):
        for part, design in (("up_filter", plan.up_filter()), ("down_filter", plan.down_filter())):
            stored = f"buffer/synthesis.{plan.name}.{part}"
            assert (design is not None) == (stored in opened.npz.files)
            if design is not None:
                torch.testing.assert_close(design, opened.tensor(stored), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", SMALL)
def test_tiles_give_what_the_whole_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.generators.alias_free._TILE", 40_000)
    torch.manual_seed(0)
    for plan in plan_layers(StyleGAN3Config.from_keywords(case(name).json["init"])):
        x = torch.randn(2, 20, plan.in_size + plan.kernel - 1, plan.in_size + plan.kernel - 1)
        bias, filters = torch.randn(20), (plan.up_filter(), plan.down_filter())
        whole = filtered_lrelu(x, *filters, bias, plan.up, plan.down, plan.padding, 1.4, 0.2, 0.8)
        tiled = filtered_lrelu_in_tiles(x, *filters, bias, plan, 1.4, 0.2, 0.8)
        assert tiled.shape[2:] == (plan.out_size, plan.out_size)
        torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-5)


def test_a_shift_by_whole_pixels_moves_the_image() -> None:
    """Equivariance (section 3.1): T's image, shifted by its input, is the shifted image away from the border."""
    opened = case("stylegan3-t-64-small")
    generator, ws = _build(opened), opened.tensor("w_plus")[:1]
    shift = torch.eye(3)
    shift[0, 2], shift[1, 2] = 6 / 64, -3 / 64
    moved = generator.synthesize(ws, transform=shift)[..., 16:45, 16:45]
    still = generator.synthesize(ws)[..., 19:48, 10:39]
    unmoved = generator.synthesize(ws)[..., 16:45, 16:45]
    assert (moved - still).square().mean() < 0.05 * (moved - unmoved).square().mean()


def test_gradients_reach_every_row_and_match_finite_differences() -> None:
    opened = case("stylegan3-t-64-small")
    generator = _build(opened).double()
    ws = opened.tensor("w_plus")[:1].double().requires_grad_()
    weights = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (generator.synthesize(ws) * weights).sum().backward()
    assert ws.grad is not None
    assert bool((ws.grad.abs().amax(2) > 0).all())
    slope = float(ws.grad.norm())
    # A step so small that few of the leaky ReLUs pass their corner.
    step = 1e-8 * ws.grad / slope
    with torch.no_grad():
        ends = [(generator.synthesize(ws + sign * step) * weights).sum() for sign in (1, -1)]
    assert math.isclose(float(ends[0] - ends[1]) / 2e-8, slope, rel_tol=1e-3)


def test_a_batch_is_its_images() -> None:
    opened = case("stylegan3-t-64-small")
    generator, ws = _build(opened), opened.tensor("w_plus")
    turn = torch.eye(3).repeat(2, 1, 1)
    turn[1, 0, 2] = 0.1
    both = generator.synthesize(ws, transform=turn)
    for i in range(2):
        assert_close(generator.synthesize(ws[i : i + 1], transform=turn[i]), both[i : i + 1], 1e-5)


def test_the_clamp_is_the_one_that_is_given() -> None:
    opened = case("stylegan3-t-64-small")
    own, init = tensors(opened) | {"synthesis.input.transform": torch.eye(3)}, opened.json["init"]
    ws = opened.tensor("w_plus")[:1]
    images = {
        clamp: StyleGAN3.from_state(own, init | {"conv_clamp": clamp}).synthesize(ws) for clamp in (None, 256, 0.1)
    }
    assert_close(images[256], opened.tensor("image_from_w_plus")[:1])
    assert torch.equal(images[256], images[None])
    assert images[None].abs().max() > 0.025 >= images[0.1].abs().max()
    # Features far beyond the default bound are cut by it, and by nothing where there is none.
    loud = own | {"synthesis.L14_64_3.bias": own["synthesis.L14_64_3.bias"] + 3000}
    assert StyleGAN3.from_state(loud, init).synthesize(ws).max() == 64
    assert StyleGAN3.from_state(loud, init | {"conv_clamp": None}).synthesize(ws).max() > 700
    generator = StyleGAN3.from_state(own, init | {"conv_clamp": None})
    assert StyleGAN3.from_state(generator.state_dict(), generator.config).settings.conv_clamp is None


@pytest.mark.parametrize(
    "config",
    [{"img_resolution": "64"}, {"num_layers": 10**9}, {"num_critical": 14}, {"filter_size": 0}, {"z_dim": None}],
)
def test_settings_that_are_none_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match="is not supported"):
        StyleGAN3Config.from_keywords(case("stylegan3-t-64-small").json["init"] | config)


def test_wrong_tensors_and_arguments_are_refused() -> None:
    opened = case("stylegan3-t-64-small")
    own, init = tensors(opened) | {"synthesis.input.transform": torch.eye(3)}, opened.json["init"]
    with pytest.raises(BadInputError, match=r"L3_36_32\.weight|weight"):
        StyleGAN3.from_state({k: v for k, v in own.items() if k != "synthesis.L3_36_32.weight"}, init)
    with pytest.raises(BadInputError, match="shape"):
        StyleGAN3.from_state(own | {"synthesis.L3_36_32.bias": torch.zeros(5)}, init)
    with pytest.raises(BadInputError, match="up_filter"):
        StyleGAN3.from_state(own | {"synthesis.L3_36_32.up_filter": torch.zeros(12)}, init)
    with pytest.raises(BadInputError, match="conditional"):
        StyleGAN3.from_state(own, init | {"c_dim": 10})
    with pytest.raises(BadInputError, match="colour_space"):
        StyleGAN3.from_state(own, init | {"colour_space": "lab"})
    generator = StyleGAN3.from_state(own, init)
    with pytest.raises(ValueError, match="ws must be"):
        generator.synthesize(torch.zeros(1, 18, 32))
    with pytest.raises(ValueError, match="no noise"):
        generator.synthesize(torch.zeros(1, 16, 32), noise={"L3_36_32": torch.zeros(36, 36)})
    with pytest.raises(ValueError, match="transform"):
        generator.synthesize(torch.zeros(1, 16, 32), transform=torch.eye(2))
    assert generator.sha256 != StyleGAN3.from_state(own | {"synthesis.L3_36_32.bias": torch.ones(32)}, init).sha256
