"""A few steps of training on a small generator: it learns, repeats itself when resumed, and leaves FrEN alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conformance_cases import case, tensors
from torch import Tensor

from modules.encoders.restoring import RestoringEncoder, Task, copy_of, degrade
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, w_statistics
from modules.generators.stylegan2 import StyleGAN2
from modules.lit.frame_encoder import PartsWithFrameEncoder, Phase
from modules.lit.restoring import LitRestoringEncoder, RestoringTraining

CODES = Phase("codes", 0.8, 8, 5e-3, 0.5, 0, {"codes": 1.0})
IMAGES = Phase("images", 0.2, 4, 1e-3, 0.5, 2, {"codes": 1.0, "l2": 1.0})
PLAN = RestoringTraining(
    50, (CODES, IMAGES), ema_decay=0.9, gradient_clip=1.0, warmup_steps=4, trunk_rate=1.0, factors=(2.0, 6.0)
)


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    small = case("stylegan2-64-small")
    return StyleGAN2.from_state(tensors(small), small.json["init"])


@pytest.fixture(scope="module")
def teacher(generator: StyleGAN2) -> FrameEncoder:
    torch.manual_seed(0)
    w = generator.map(torch.randn(500, generator.z_dim))[:, 0]
    encoder = FrameEncoder(
        FrameEncoderConfig(64, (16, 32), 32, 1, 2, 8, 0), generator.num_ws, *w_statistics(w)
    ).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return encoder.requires_grad_(False)


@pytest.fixture(scope="module")
def batch(generator: StyleGAN2) -> dict[str, Tensor]:
    with torch.no_grad():
        images = generator.synthesize(generator.map(torch.randn(8, generator.z_dim))).clamp(-1, 1)
    return {"images": images, "targets": images, "ws": torch.zeros(4, generator.num_ws, generator.w_dim)}


def lit_of(task: Task, teacher: FrameEncoder, generator: StyleGAN2, seed: int = 1) -> LitRestoringEncoder:
    encoder = RestoringEncoder(task, copy_of(teacher))
    return LitRestoringEncoder(encoder, PLAN, PartsWithFrameEncoder(generator, teacher, {}), seed)


def fit(lit: LitRestoringEncoder, batch: dict[str, Tensor], steps: int) -> list[float]:
    optimizer = lit.configure_optimizers()["optimizer"]
    assert not isinstance(optimizer, list)
    for group in optimizer.param_groups:
        group["lr"] = 5e-3
    values = []
    for _ in range(steps):
        loss = lit.losses(batch, CODES)["codes"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    return values


@pytest.mark.parametrize("task", ["colourise", "enlarge"])
def test_the_loss_falls_and_the_trunk_stays(task, teacher, generator, batch) -> None:
    lit = lit_of(task, teacher, generator)
    values = fit(lit, batch, 60)
    assert values[-1] < 0.7 * values[0]
    before, entry = teacher.state_dict(), lit.encoder.entry()
    assert all(torch.equal(v, before[k]) for k, v in lit.encoder.net.state_dict().items() if k not in entry)
    assert any(not torch.equal(v, before[k]) for k, v in entry.items())


def test_what_is_to_be_answered_is_frens_answer_for_the_frame_as_it_was(teacher, generator, batch) -> None:
    """Undegraded, the copy answers it already; and the known codes of samples have no say."""
    lit = lit_of("colourise", teacher, generator)
    grey = {**batch, "images": degrade(batch["images"], "colourise")}
    assert float(lit.losses(grey, CODES)["codes"].detach()) < 1e-6
    assert float(lit.losses(batch, CODES)["codes"].detach()) > 1e-3
    other = {**batch, "ws": batch["ws"] + 1}
    torch.testing.assert_close(lit.losses(other, CODES), lit.losses(batch, CODES))


def test_rendered_images_are_held_against_the_frames_as_they_were(teacher, generator, batch) -> None:
    lit = lit_of("colourise", teacher, generator)
    found = lit.losses(batch, IMAGES)
    assert set(found) == {"codes", "l2"}
    lighter = lit.losses({**batch, "targets": batch["targets"] + 9.0}, IMAGES)
    assert lighter["l2"] > found["l2"] + 5 and lighter["codes"] == found["codes"]


def test_a_step_draws_the_same_factor_whenever_it_is_done(teacher, generator, batch, monkeypatch) -> None:
    def factors(seed: int, steps: list[int]) -> list[float]:
        drawn: list[float] = []
        lit = lit_of("enlarge", teacher, generator, seed)

        def keep(images: Tensor, task: Task, factor: float) -> Tensor:
            drawn.append(factor)
            return degrade(images, task, factor)

        monkeypatch.setattr("modules.lit.restoring.degrade", keep)
        for step in steps:
            monkeypatch.setattr(LitRestoringEncoder, "global_step", step)
            lit.losses(batch, CODES)
        return drawn

    whole = factors(1, list(range(12)))
    assert factors(1, [5, 6, 7]) == whole[5:8]
    assert len(set(whole)) == 12 and all(2.0 <= factor <= 6.0 for factor in whole)
    assert factors(2, list(range(12))) != whole


def test_the_teacher_is_in_no_checkpoint_and_no_average(teacher, generator) -> None:
    lit = lit_of("colourise", teacher, generator)
    assert all(name.startswith("encoder.") for name in lit.state_dict())
    assert copy.deepcopy(lit).frozen.first is teacher
    assert {id(p) for g in lit.configure_optimizers()["optimizer"].param_groups for p in g["params"]} == {  # type: ignore[union-attr]
        id(p) for n, p in lit.encoder.net.named_parameters() if n in lit.encoder.entry()
    }


def test_the_teacher_goes_where_the_encoder_is(teacher, generator) -> None:
    parts = PartsWithFrameEncoder(copy.deepcopy(generator), copy.deepcopy(teacher), {})
    parts.to(torch.device("meta"))
    assert {p.device.type for p in parts.first.parameters()} == {"meta"}


@pytest.mark.parametrize("factors", [(0.5, 4.0), (5.0, 4.0)])
def test_factors_rise_from_one(factors) -> None:
    with pytest.raises(ValueError, match="factors must rise"):
        replace(PLAN, factors=factors)


def test_its_phases_share_its_steps_too() -> None:
    with pytest.raises(ValueError, match="must add up to 1"):
        replace(PLAN, phases=(CODES,))
