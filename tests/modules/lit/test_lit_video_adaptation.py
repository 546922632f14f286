"""What the adaptation of a small real StyleGAN2 is trained for; how it is trained is the tuned generator's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import lpips
import numpy as np
import pytest
import torch
from torch import nn
from tuned_toys import PLAN, pairs, trained

from datamodules.coded_frames import CodedFrames
from datamodules.rows import Rows
from modules.generators.adaptation import adapted
from modules.generators.protocol import Generator
from modules.lit.video_adaptation import LitVideoAdaptation, LocalityConfig
from modules.losses.perceptual import PerceptualLoss

ALPHA = 15.0
"""Over ten rows: 5 in each."""


def loss_over(generator: Generator, data: tuple[Rows[np.float32], Rows[np.uint8]], net: PerceptualLoss) -> float:
    batch = CodedFrames(*data, len(data[0]), 1, 0).batch(0)
    with torch.no_grad():
        shown = generator.synthesize(batch["ws"]).clamp(-1, 1)
        return float(
            (net(shown, batch["images"]) + (shown - batch["images"]).square().mean((1, 2, 3)).sqrt()).mean()
        )


def test_the_terms_are_eq_1_by_the_published_lpips(
    base: Generator, perceptual: PerceptualLoss, tmp_path: Path
) -> None:
    batch = CodedFrames(*pairs(base, tmp_path), 3, 1, 0).batch(0)
    found = LitVideoAdaptation(base, PLAN, perceptual).losses(batch["ws"], batch["images"])
    with torch.no_grad():
        shown = base.synthesize(batch["ws"])
        published = cast(lpips.LPIPS, perceptual.net)(shown.clamp(-1, 1), batch["images"]).mean()
    norm = np.linalg.norm((shown - batch["images"]).flatten(1).numpy(), axis=1).mean() / (3 * 64 * 64) ** 0.5
    assert found.keys() == {"lpips", "l2"}
    assert float(found["lpips"].detach()) == pytest.approx(float(published), rel=1e-4)
    assert float(found["l2"].detach()) == pytest.approx(norm, rel=1e-5)


def test_it_learns_the_frames_and_the_base_stays(
    base: Generator, perceptual: PerceptualLoss, tmp_path: Path
) -> None:
    data = pairs(base, tmp_path)
    before = {name: value.clone() for name, value in cast(nn.Module, base).state_dict().items()}
    lit = LitVideoAdaptation(base, PLAN, perceptual)
    trained(lit, data, 120, tmp_path / "run")
    assert lit.stopped_at is None
    assert loss_over(lit.kept, data, perceptual) < 0.6 * loss_over(base, data, perceptual)
    again = adapted(base, lit.difference())
    assert loss_over(again, data, perceptual) == pytest.approx(loss_over(lit.kept, data, perceptual), rel=1e-3)
    assert all(value.equal(before[name]) for name, value in cast(nn.Module, base).state_dict().items())
    assert not any(name.startswith("mapping.") for name in lit.difference())


def test_locality_keeps_the_generator_what_it_was_near_the_codes(
    base: Generator, perceptual: PerceptualLoss, tmp_path: Path
) -> None:
    data = pairs(base, tmp_path)
    with torch.no_grad():
        ws = torch.from_numpy(data[0].read(0, 4))
        z = torch.randn(4, base.z_dim, generator=torch.Generator().manual_seed(9))
        away = base.map(z, truncation_psi=0.5) - ws
        near = ws + ALPHA * away / away.flatten(1).norm(dim=1)[:, None, None]

    def moved(weight: float, run: str) -> float:
        plan = replace(PLAN, locality=LocalityConfig(weight, ALPHA))
        lit = LitVideoAdaptation(base, plan, perceptual)
        trained(lit, data, 20, tmp_path / run)
        with torch.no_grad():
            return float((lit.kept.synthesize(near) - base.synthesize(near)).square().mean())

    assert moved(3.0, "local") < 0.8 * moved(0.0, "free")


def test_locality_goes_as_far_as_ptis_code_does(base: Generator, perceptual: PerceptualLoss) -> None:
    """``get_morphed_w_code`` of PTI, written down: one norm over the code, the random one at truncation 0.5."""
    plan = replace(PLAN, locality=LocalityConfig(1.0, 30.0))
    ws = base.map(torch.randn(1, base.z_dim, generator=torch.Generator().manual_seed(4)))
    near = LitVideoAdaptation(base, plan, perceptual, seed=3)._nearby(ws)
    z = torch.randn(1, base.z_dim, generator=torch.Generator().manual_seed(3 * 1_000_003))
    random = base.w_mean + 0.5 * (base.map(z) - base.w_mean)
    direction = (random - ws) / np.linalg.norm((random - ws).numpy())
    torch.testing.assert_close(near, ws + 30.0 * direction, rtol=1e-4, atol=1e-4)
    assert float((near - ws).norm()) == pytest.approx(30.0, rel=1e-4)
