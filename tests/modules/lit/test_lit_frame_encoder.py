import copy
from dataclasses import replace

import pytest
import torch
from conformance_cases import case, tensors

from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, sighted, w_statistics
from modules.generators.stylegan2 import StyleGAN2
from modules.lit.frame_encoder import (
    FrameEncoderTraining,
    FrozenParts,
    LitFrameEncoder,
    Phase,
    code_loss,
)

CODES = Phase("codes", 1 / 3, 8, 1e-3, 1.0, 0, {"codes": 1.0})
IMAGES = Phase("images", 2 / 3, 4, 5e-4, 0.5, 2, {"codes": 1.0, "l2": 1.0, "half": 0.5})
PLAN = FrameEncoderTraining(
    30, (CODES, IMAGES), ema_decay=0.9, gradient_clip=1.0, warmup_steps=4, trunk_rate=1.0,
    linear_start=0, linear_ridge=0.0, told_start=0, told_ridge=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    small = case("stylegan2-64-small")
    return StyleGAN2.from_state(tensors(small), small.json["init"])


@pytest.fixture
def lit(generator: StyleGAN2) -> LitFrameEncoder:
    torch.manual_seed(0)
    w = generator.map(torch.randn(500, generator.z_dim))[:, 0]
    config = FrameEncoderConfig(64, (16, 32), 32, 1, 2, 8, 0)
    encoder = FrameEncoder(config, generator.num_ws, *w_statistics(w))
    losses = {"half": lambda a, b: (a - b).abs().mean((1, 2, 3)) / 2}
    return LitFrameEncoder(encoder, PLAN, FrozenParts(generator, losses))


def batch(generator: StyleGAN2, samples: int, frames: int) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        random = torch.Generator().manual_seed(3)
        ws = generator.map(torch.randn(samples + frames, generator.z_dim, generator=random))
        images = generator.synthesize(ws)
    return {"images": images, "targets": images, "ws": ws[:samples]}


def test_phases_follow_one_another_and_rates_rise_and_fall() -> None:
    assert PLAN.ends == (10, 30)
    assert [PLAN.at(step)[1].name for step in (0, 9, 10, 29, 99)] == ["codes"] * 2 + ["images"] * 3
    rates = [PLAN.learning_rate(step) for step in range(30)]
    assert rates[0] == pytest.approx(1e-3 / 4)
    assert rates[4] == pytest.approx(1e-3)
    assert rates[9] < 0.3e-3
    assert rates[15] == pytest.approx(5e-4)
    assert min(rates) > 0


def test_the_code_loss_of_the_mean_face_is_one() -> None:
    basis = torch.diag(torch.tensor([2.0, 1.0]))
    ws = torch.randn(4000, 3, 2) @ basis
    assert code_loss(torch.zeros_like(ws), ws, basis) == pytest.approx(1.0, abs=0.05)


def test_only_the_last_images_are_rendered_and_only_samples_have_codes(lit, generator) -> None:
    drawn = batch(generator, 2, 2)
    drawn["targets"] = drawn["targets"].clone()
    before = lit.losses(drawn, IMAGES)
    assert set(before) == {"codes", "l2", "half"}
    drawn["targets"][:2] += 1.0
    torch.testing.assert_close(lit.losses(drawn, IMAGES), before)
    drawn["targets"][2:] += 1.0
    assert lit.losses(drawn, IMAGES)["l2"] > before["l2"]


def test_the_total_is_the_weighted_sum_and_reaches_the_encoder(lit, generator) -> None:
    drawn = batch(generator, 2, 2)
    found = lit.losses(drawn, IMAGES)
    total = sum(IMAGES.weights[name] * value for name, value in found.items())
    total.backward()
    assert lit.encoder.class_token.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_all_but_what_reads_the_face_nets_may_learn_more_slowly(lit, generator) -> None:
    def rates(encoder: FrameEncoder) -> dict[str, float]:
        plan = replace(PLAN, trunk_rate=0.25)
        optimizer = LitFrameEncoder(encoder, plan, lit.frozen).configure_optimizers()["optimizer"]
        names = {id(parameter): name for name, parameter in encoder.named_parameters()}
        return {names[id(p)]: group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}

    seeing = rates(sighted(lit.encoder, 4))
    assert {name.split(".")[0] for name, rate in seeing.items() if rate == 1.0} == {"told_reduce", "told_expand"}
    assert seeing["head.weight"] == 0.25 and len(seeing) == len(list(lit.encoder.parameters())) + 3
    assert set(rates(lit.encoder).values()) == {1.0}, "without face nets there is nothing to go before it"


def test_frozen_parts_stay_out_of_checkpoints_and_copies(lit) -> None:
    assert all(name.startswith("encoder.") for name in lit.state_dict())
    assert copy.deepcopy(lit).frozen is lit.frozen


def test_autocast_leaves_renderings_in_the_generators_own_precision(lit, generator) -> None:
    ws = batch(generator, 1, 0)["ws"]
    with torch.autocast("cpu", torch.bfloat16):
        inside = lit.frozen.render(ws, 32)
        assert generator.synthesize(ws, resolution=32).dtype == torch.bfloat16, "which it would not be otherwise"
    torch.testing.assert_close(inside, generator.synthesize(ws, resolution=32), rtol=0, atol=0)


def test_a_plan_that_cannot_be_trained_is_refused(lit, generator) -> None:
    with pytest.raises(ValueError, match="image losses need rendered images"):
        replace(CODES, weights={"l2": 1.0})
    with pytest.raises(ValueError, match="no other loss"):
        replace(CODES, sample_share=0.0)
    with pytest.raises(ValueError, match="no loss named lpips_vgg"):
        plan = replace(PLAN, phases=(replace(IMAGES, share=1.0, weights={"lpips_vgg": 1.0}),))
        LitFrameEncoder(lit.encoder, plan, FrozenParts(generator, {}))
