import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conformance_cases import case, tensors
from scipy.ndimage import gaussian_filter1d

from modules.encoders.video_vit import VideoEncoderConfig, start_from_frame_encoder
from modules.encoders.vit import FrameEncoder, FrameEncoderConfig, w_statistics
from modules.generators.stylegan2 import StyleGAN2
from modules.lit.frame_encoder import FrozenParts, PartsWithFrameEncoder, code_loss
from modules.lit.video_encoder import (
    LitVideoEncoder,
    VideoEncoderTraining,
    VideoPhase,
    change_distance,
    smoothed,
)
from modules.losses.face import trusted_mean
from modules.losses.pixels import rms_distance

PAIRS = VideoPhase("pairs", 0.5, 2, 1, 1, 0.0, 0.0, 0.0, 1e-3, {"codes": 1.0, "l2": 1.0, "half": 0.5})
ROLLS = VideoPhase("rolls", 0.5, 2, 4, 2, 0.5, 0.0, 1.0, 1e-3, {"codes": 1.0, "l2": 1.0, "change": 2.0})
PLAN = VideoEncoderTraining(10, (PAIRS, ROLLS), 0.9, 1.0, 2, 0.1)
COARSE = 4


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    small = case("stylegan2-64-small")
    return StyleGAN2.from_state(tensors(small), small.json["init"])


@pytest.fixture
def lit(generator) -> LitVideoEncoder:
    torch.manual_seed(0)
    w = generator.map(torch.randn(500, generator.z_dim))[:, 0]
    first = FrameEncoder(FrameEncoderConfig(64, (16, 32), 32, 1, 2, 8, 0), generator.num_ws, *w_statistics(w))
    first.eval().requires_grad_(False)
    video = start_from_frame_encoder(first, COARSE, VideoEncoderConfig(8, 4))
    losses = {"half": lambda a, b: (a - b).abs().mean((1, 2, 3)) / 2}
    return LitVideoEncoder(video, PLAN, PartsWithFrameEncoder(generator, first, losses))


def batch(length: int, shown: list[int]) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    frames = torch.rand(len(shown), 2 + length, 3, 64, 64, generator=random) * 2 - 1
    return {"frames": frames, "shown": torch.tensor(shown)}


def test_the_losses_are_those_of_the_roll_out_from_the_frame_encoders_codes(lit) -> None:
    drawn, first = batch(4, [2, 0]), lit.frozen.first
    found = lit.losses(drawn, ROLLS)
    frames = drawn["frames"]
    known = torch.stack([first(episode)[0] for episode in frames])
    # The fine rows are those of the earlier frame, the coarse ones those of the frame before the first.
    start = torch.cat([known[:, 1, :COARSE], known[:, 0, COARSE:]], dim=1)
    ws = lit.encoder.roll_out(frames[:, 2:], start)
    assert torch.equal(ws[:, -1, COARSE:], known[:, 0, COARSE:])
    shown = torch.cat([ws[0, 2:4], ws[1, 0:2]])
    target = torch.cat([frames[0, 4:6], frames[1, 2:4]])
    images = lit.frozen.render(shown, 64)
    torch.testing.assert_close(found["l2"], rms_distance(images, target).mean())
    change = rms_distance(images[1::2] - images[::2], target[1::2] - target[::2]).mean()
    torch.testing.assert_close(found["change"], change)
    steady = gaussian_filter1d(known[:, 1:, :COARSE].numpy(), 1.0, axis=1, radius=2)
    # Only the middle one of the five frames has the whole window at hand: the second of the roll-out.
    expected = code_loss(ws[:, 1, :COARSE], torch.from_numpy(steady[:, 2]), first.w_basis)
    torch.testing.assert_close(found["codes"], expected, rtol=1e-3, atol=1e-6)


def test_a_pair_begins_as_the_frame_encoder_and_reaches_every_part(lit) -> None:
    found = lit.losses(batch(1, [0, 0]), PAIRS)
    assert set(found) == {"codes", "l2", "half"}
    assert found["codes"] < 1e-8, "the coarse rows are FrEN's own before anything is learned"
    found["l2"].backward()
    assert lit.encoder.correct.weight.grad.abs().sum() > 0
    assert lit.encoder.trunk.head.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in lit.frozen.first.parameters())


@pytest.mark.parametrize("sigma", [0.25, 0.5, 0.75, 1.0, 1.25, 1.75])
def test_a_phase_is_taken_exactly_where_its_codes_can_be_smoothed(sigma) -> None:
    """What it refuses at the start is what would fail in the middle of a training."""
    for length in range(1, 9):
        try:
            replace(ROLLS, length=length, rendered=1, weights={"codes": 1.0}, smoothing=sigma)
        except ValueError as error:
            taken = "too few to smooth" not in str(error)
        else:
            taken = True
        try:
            possible = bool(smoothed(torch.zeros(1, length + 1, 1, 1), sigma)[1][1:].any())
        except ValueError:
            possible = False
        assert taken == possible


def test_smoothing_agrees_with_scipy_where_the_window_is_whole() -> None:
    codes = torch.randn(2, 9, 3, 4, generator=torch.Generator().manual_seed(2))
    steady, whole = smoothed(codes, 1.5)
    assert whole.tolist() == [False] * 3 + [True] * 3 + [False] * 3
    expected = gaussian_filter1d(codes.numpy(), 1.5, axis=1, radius=3)
    np.testing.assert_allclose(steady[:, whole], expected[:, whole.numpy()], rtol=1e-4, atol=1e-5)
    same, all_of_them = smoothed(codes, 0.0)
    assert torch.equal(same, codes) and all_of_them.all()


def test_change_is_blind_to_what_stays_and_sees_what_flickers() -> None:
    video = torch.rand(1, 3, 3, 8, 8)
    assert change_distance(video + 0.3, video) < 1e-5
    flicker = torch.tensor([0.0, 0.2, 0.0]).view(1, 3, 1, 1, 1)
    assert change_distance(video + flicker, video) == pytest.approx(0.2, abs=1e-5)


def test_images_in_which_the_judge_fails_are_weighted_out_and_counted() -> None:
    """The mean is over the other images, and nothing of the failed one reaches the reconstruction."""
    target = torch.zeros(3, 3, 4, 4)
    seen = torch.tensor([True, False, True])
    losses = {"face": lambda a, b: (a - b).flatten(1).sum(1), "all": lambda a, b: (a - b).flatten(1).sum(1)}
    parts = FrozenParts(None, losses, lambda a, b: seen, ["face"])  # type: ignore[arg-type]
    images = torch.tensor([1.0, 1000.0, 3.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4).clone().requires_grad_()
    found, failed = parts.image_losses(["face", "all"], images, target)
    assert failed == 1
    assert found["face"].item() == pytest.approx(48 * 2.0)
    assert found["all"].item() == pytest.approx(48 * 1004 / 3)
    (slope,) = torch.autograd.grad(found["face"], images)
    assert torch.equal(slope.flatten(1)[:, 0], torch.tensor([0.5, 0.0, 0.5]))
    assert trusted_mean(torch.tensor([7.0, 8.0]), torch.tensor([False, False])) == 0


def test_failures_are_counted_over_the_training(lit, generator) -> None:
    frozen = PartsWithFrameEncoder(
        generator, lit.frozen.first, lit.frozen.losses, lambda a, b: torch.zeros(len(a), dtype=bool), ["half"]
    )
    judged = LitVideoEncoder(lit.encoder, PLAN, frozen)
    for _ in range(2):
        found = judged.losses(batch(1, [0, 0]), PAIRS)
    assert judged.judge_failures == 4 and found["half"] == 0


def test_frozen_parts_stay_out_of_checkpoints_and_copies(lit) -> None:
    assert all(name.startswith("encoder.") for name in lit.state_dict())
    assert copy.deepcopy(lit).frozen is lit.frozen


def test_what_comes_from_the_frame_encoder_learns_slower(lit) -> None:
    groups = lit.configure_optimizers()["optimizer"].param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(lit.encoder.parameters()))
    assert rates[id(lit.encoder.trunk.head.weight)] == pytest.approx(0.1 * rates[id(lit.encoder.correct.weight)])


def test_plans_that_cannot_be_trained_are_refused(lit) -> None:
    with pytest.raises(ValueError, match="image losses need rendered"):
        replace(PAIRS, rendered=0)
    with pytest.raises(ValueError, match="needs two that are rendered"):
        replace(PAIRS, weights={"change": 1.0})
    with pytest.raises(ValueError, match="too few to smooth"):
        replace(PAIRS, smoothing=1.0)
    with pytest.raises(ValueError, match="no loss named lpips_vgg"):
        plan = replace(PLAN, phases=(replace(PAIRS, share=1.0, weights={"lpips_vgg": 1.0}),))
        LitVideoEncoder(lit.encoder, plan, lit.frozen)
    with pytest.raises(ValueError, match="two frames to start from"):
        lit.losses({"frames": torch.zeros(1, 2, 3, 64, 64), "shown": torch.tensor([0])}, PAIRS)
