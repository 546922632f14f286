import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.mixture import BatchMixture, BatchPlan
from datamodules.samples import SampleDataset, SamplesConfig, write_samples
from datamodules.variation import SofteningConfig, VariationConfig

NONE = SofteningConfig(probability=0.0, smallest_side=8, noise=0.0)
STILL = VariationConfig(0.0, 0.0, 0.0, 0.0, 0.0)
PLANS = [BatchPlan(steps=3, samples=4, frames=0), BatchPlan(steps=4, samples=1, frames=2)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> SampleDataset:
    folder = tmp_path_factory.mktemp("samples")
    config = SamplesConfig(
        count=12, shard_size=12, seed=1, resolution=16, jpeg_quality=95, render_batch=4, two_codes=0.0,
        three_codes=0.0, truncation_low=1.0, truncation_high=1.0, jitter=0.0,
    )  # fmt: skip

    def draw(n: int, seed: int) -> torch.Tensor:
        return torch.linspace(-1, 1, n)[:, None, None].expand(n, 2, 3)

    def render(ws: torch.Tensor) -> torch.Tensor:
        return ws.mean((1, 2))[:, None, None, None].expand(-1, 3, 16, 16)

    write_samples(folder, draw, render, config)
    return SampleDataset(folder)


@pytest.fixture
def frames() -> list[torch.Tensor]:
    ramp = torch.linspace(-1, 1, 16).expand(3, 16, 16)
    return [ramp, ramp * 0.5]


def test_batches_follow_the_plan_and_pairs_stay_together(samples, frames) -> None:
    batches = list(BatchMixture(samples, frames, PLANS, NONE, STILL, seed=0))
    assert [len(batch["images"]) for batch in batches] == [4, 4, 4, 3, 3, 3, 3]
    assert [len(batch["ws"]) for batch in batches] == [4, 4, 4, 1, 1, 1, 1]
    for batch in batches:
        known = batch["ws"].mean((1, 2))
        torch.testing.assert_close(batch["targets"][: len(known)].mean((1, 2, 3)), known, atol=0.02, rtol=0)


def test_frames_come_as_they_are_or_mirrored(samples, frames) -> None:
    mixture = BatchMixture(samples, frames, [BatchPlan(20, 0, 4)], NONE, STILL, seed=0)
    seen = torch.cat([batch["targets"] for batch in mixture])
    mirrored = seen[:, 0, 0, 0] > 0
    assert 20 < int(mirrored.sum()) < 60
    straight = torch.where(mirrored[:, None, None, None], seen.flip(-1), seen)
    for frame in straight:
        assert any(torch.equal(frame, known) for known in frames)


def test_a_resumed_run_gets_the_batches_it_would_have_had(samples, frames) -> None:
    whole = list(BatchMixture(samples, frames, PLANS, NONE, STILL, seed=5))
    rest = list(BatchMixture(samples, frames, PLANS, NONE, STILL, seed=5, first_step=4))
    assert len(rest) == 3
    for late, again in zip(whole[4:], rest, strict=True):
        torch.testing.assert_close(late, again)


def test_workers_share_the_batches_and_ranks_draw_their_own(samples, frames) -> None:
    mixture = BatchMixture(samples, frames, PLANS, NONE, STILL, seed=5)
    alone = [batch["images"].sum().item() for batch in mixture]
    shared = [b["images"].sum().item() for b in DataLoader(mixture, batch_size=None, num_workers=2)]
    np.testing.assert_allclose(shared, alone, rtol=1e-5)
    other = [b["images"].sum().item() for b in BatchMixture(samples, frames, PLANS, NONE, STILL, seed=5, rank=1)]
    assert not np.allclose(other, alone)


def test_real_frames_are_varied_and_samples_are_not(samples, frames) -> None:
    """Codes belong to a sample as it is; a real frame is its own target, varied or not."""
    varied = VariationConfig(0.05, 0.0, 0.0, 0.2, 0.0)
    plain, other = (
        BatchMixture(samples, frames, [BatchPlan(1, 2, 3)], NONE, how, seed=0) for how in (STILL, varied)
    )
    (before,), (after,) = plain, other
    torch.testing.assert_close(before["targets"][:2], after["targets"][:2])
    assert (before["targets"][2:] - after["targets"][2:]).abs().amax((1, 2, 3)).min() > 0.02
    torch.testing.assert_close(after["images"][2:], after["targets"][2:])


def test_a_plan_with_frames_needs_frames(samples) -> None:
    with pytest.raises(ValueError, match="real frames"):
        BatchMixture(samples, [], PLANS, NONE, STILL, seed=0)
