"""How a generator is tuned, whatever for: here a small real StyleGAN2 is adapted to frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from tuned_toys import PLAN, pairs, trained

from datamodules.coded_frames import CodedFrames
from modules.generators.adaptation import adaptable, adapted
from modules.generators.protocol import Generator
from modules.lit.video_adaptation import LitVideoAdaptation
from modules.losses.perceptual import PerceptualLoss
from services.training.trainer import fit_steps


def test_a_stopped_training_ends_as_an_undisturbed_one(
    base: Generator, perceptual: PerceptualLoss, tmp_path: Path
) -> None:
    data = pairs(base, tmp_path)
    whole = LitVideoAdaptation(base, PLAN, perceptual)
    trained(whole, data, 12, tmp_path / "whole")

    def stop(step: int) -> None:
        if step == 7:
            raise KeyError("stopped")

    half = LitVideoAdaptation(base, PLAN, perceptual)
    with pytest.raises(KeyError, match="stopped"):
        fit_steps(
            half, 12, lambda first: CodedFrames(*data, 2, 12, 0, first), 5, tmp_path / "half",
            accelerator="cpu", after_step=stop,
        )  # fmt: skip
    rest = LitVideoAdaptation(base, PLAN, perceptual)
    trained(rest, data, 12, tmp_path / "half")
    batch = CodedFrames(*data, 4, 1, 0).batch(0)
    with torch.no_grad():
        one, other = (lit.kept.synthesize(batch["ws"]) for lit in (whole, rest))
    psnr = 10 * np.log10(4 / (float((one - other).square().mean()) + 1e-20))
    assert psnr >= 50


def test_a_step_goes_as_far_as_the_parameter_is_large(
    base: Generator, perceptual: PerceptualLoss, tmp_path: Path
) -> None:
    lit = LitVideoAdaptation(base, PLAN, perceptual)
    trained(lit, pairs(base, tmp_path), 1, tmp_path / "run")
    own = adaptable(base)
    for name, change in lit.difference().items():
        size = float(own[name].square().mean().sqrt())
        # Adam's first step is its rate along every coordinate that has a gradient.
        assert float(change.abs().max()) == pytest.approx(PLAN.learning_rate * size, rel=0.05), name


@pytest.mark.parametrize("over", [0.0, 0.1, 0.5])
def test_what_is_kept_is_the_average_of_the_weights(
    base: Generator, perceptual: PerceptualLoss, tmp_path: Path, over: float
) -> None:
    data, seen = pairs(base, tmp_path), list[dict[str, Tensor]]()
    lit = LitVideoAdaptation(base, replace(PLAN, average_over=over), perceptual)
    fit_steps(
        lit, 6, lambda first: CodedFrames(*data, 2, 6, 0, first), 6, tmp_path / "run", accelerator="cpu",
        after_step=lambda _: seen.append({n: p.detach().clone() for n, p in adaptable(lit.learner).items()}),
    )  # fmt: skip
    # Shamir and Zhang's eta: the n-th weights are taken by (eta + 1) / (n + eta); infinite without an average.
    shares = [1.0]
    for n in range(2, 7):
        new = (1 / over) / (n + 1 / over - 1) if over else 1.0
        shares = [*(share * (1 - new) for share in shares), new]
    for name, kept in adaptable(lit.kept).items():
        wanted = sum(share * weights[name] for share, weights in zip(shares, seen, strict=True))
        torch.testing.assert_close(kept.detach(), wanted)
        assert not kept.requires_grad
        assert kept.equal(seen[-1][name]) == (over == 0.0)


class _Fails(nn.Module):
    """LPIPS whose value, or gradient, is no number from the third call on."""

    def __init__(self, net: PerceptualLoss, gradient: bool) -> None:
        super().__init__()
        self.net, self.gradient, self.calls = net, gradient, 0

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        distance: Tensor = self.net(images, target)
        if self.calls < 3:
            return distance
        return distance + (images - images).abs().sqrt().sum() if self.gradient else distance * torch.nan


@pytest.mark.parametrize("gradient", [False, True])
def test_a_loss_that_is_no_number_stops_with_the_last_good_weights(
    base: Generator, perceptual: PerceptualLoss, tmp_path: Path, gradient: bool
) -> None:
    data = pairs(base, tmp_path)
    good = LitVideoAdaptation(base, PLAN, perceptual)
    # What two steps led to is what gave no number.
    trained(good, data, 1, tmp_path / "good")
    lit = LitVideoAdaptation(base, PLAN, cast(PerceptualLoss, _Fails(perceptual, gradient)))
    trained(lit, data, 20, tmp_path / "run")
    # Taken up again it has ended: nothing is looked at any more.
    unseen = _Fails(perceptual, gradient)
    again = LitVideoAdaptation(base, PLAN, cast(PerceptualLoss, unseen))
    trained(again, data, 20, tmp_path / "run")
    assert unseen.calls == 0
    for one in (lit, again):
        assert one.stopped_at == 2
        assert one.difference().keys() == good.difference().keys()
        for name, change in one.difference().items():
            torch.testing.assert_close(change, good.difference()[name])


def test_what_is_begun_anew_forgets_all_steps(base: Generator, perceptual: PerceptualLoss, tmp_path: Path) -> None:
    data = pairs(base, tmp_path)
    start = adapted(base, {name: 0.01 * value.detach() for name, value in adaptable(base).items()})
    once, twice = (LitVideoAdaptation(base, PLAN, perceptual, start=start) for _ in range(2))
    trained(twice, data, 3, tmp_path / "before")
    twice.restart()
    for lit, run in ((once, "once"), (twice, "twice")):
        trained(lit, data, 3, tmp_path / run)
    for name, change in once.difference().items():
        torch.testing.assert_close(twice.difference()[name], change)
