"""Distances of distributions against torchmetrics, SciPy and closed forms; the interval against simulation."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from modules.losses.perceptual import load_lpips
from modules.metrics.distribution import (
    FrechetDistance,
    KernelDistance,
    VggFeatures,
    frechet_distance,
    kernel_distance,
    kernel_distance_interval,
)


class Toy(nn.Module):
    """Six means of parts of an image."""

    num_features = 6

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float(), (1, 2)).flatten(1)


def features(count: int, seed: int, size: int = 6, shift: float = 0.0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, size)) @ np.random.default_rng(9).normal(size=(size, size))
    return torch.from_numpy(mixed + shift).float()


def images(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("n", "m", "size"), [(200, 150, 6), (12, 9, 30), (7, 40, 12)])
def test_frechet_is_what_scipy_gives(n, m, size):
    a, b = features(n, 0, size), features(m, 1, size, 0.5)
    x, y = a.double().numpy(), b.double().numpy()
    one, two = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(one + 1e-12 * np.eye(size)) if min(n, m) > size else None
    # tr (S1 S2)^(1/2) is tr of the symmetric root of S1^(1/2) S2 S1^(1/2), which exists for singular ones too.
    values, vectors = np.linalg.eigh(one)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(half @ two @ half).clip(0)).sum()
    if root is not None:
        assert np.trace(sqrtm(one @ two)).real == pytest.approx(shared, rel=1e-6)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * shared
    assert frechet_distance(a, b).item() == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(b, a).item() == pytest.approx(expected, rel=1e-5)


def test_frechet_of_a_shift_and_of_a_scale():
    a = features(300, 0)
    assert frechet_distance(a, a + 2).item() == pytest.approx(6 * 4, rel=1e-5)
    centred = a - a.mean(0)
    variance = centred.var(0).sum().item()
    assert frechet_distance(centred, 3 * centred).item() == pytest.approx(4 * variance, rel=1e-4)
    assert frechet_distance(a, a).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.filterwarnings("ignore:Metric `Kernel")
def test_the_classes_are_torchmetrics():
    frechet, kernel = FrechetDistance(Toy()), KernelDistance(Toy())
    theirs = FrechetInceptionDistance(feature=Toy())
    polynomial = KernelInceptionDistance(feature=Toy(), subsets=1, subset_size=30)
    real, fake = images(30, 0), images(30, 1) * 0.6 + 0.3
    for first in (0, 10, 20):
        some = slice(first, first + 10)
        frechet.update(fake[some], real[some])
        kernel.update(fake[some], real[some], first)
    for metric in (theirs, polynomial):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    assert frechet.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-3)
    found = kernel.compute()
    assert found.value.item() == pytest.approx(polynomial.compute()[0].item(), rel=1e-3)
    assert found.low < found.value < found.high
    assert frechet.higher_is_better is False and kernel.higher_is_better is False
    frechet.reset()
    frechet.update(real, real)
    assert frechet.compute().item() == pytest.approx(0, abs=1e-6)


def test_kernel_distance_by_loops():
    a, b = features(7, 0).double(), features(5, 1).double()

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return (float(x @ y) / 6 + 1) ** 3

    within = [np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (a, b)]
    across = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b).item() == pytest.approx(sum(within) - 2 * across, rel=1e-9)


def test_kernel_distance_of_one_distribution_is_about_nothing_whatever_the_number():
    for count in (20, 80):
        values = torch.stack(
            [
                kernel_distance(
                    torch.from_numpy(r.normal(size=(count, 4))), torch.from_numpy(r.normal(size=(count, 4)))
                )
                for r in map(np.random.default_rng, range(200))
            ]
        )
        assert abs(values.mean()) < 3 * values.std() / 200**0.5
        assert (values < 0).double().mean() > 0.3


def test_the_interval_is_as_wide_as_the_estimate_spreads_and_needs_the_clips():
    """Frames of a clip are alike: over frames the interval is too narrow, over clips it is right."""
    clips = torch.arange(12).repeat_interleave(6)
    values, errors = [], {"clips": [], "frames": []}
    for seed in range(150):
        random = np.random.default_rng(seed)
        draw = [random.normal(size=(12, 1, 3)) + 0.02 * random.normal(size=(12, 6, 3)) for _ in range(2)]
        a, b = (torch.from_numpy(x.reshape(72, 3)) for x in draw)
        for name, by, student in (("clips", clips, 2.201), ("frames", torch.arange(72), 1.994)):
            found = kernel_distance_interval(a + 0.5, b, by, by)
            errors[name].append((found.high - found.value).item() / student)
        values.append(found.value.item())
    spread = np.std(values)
    assert 0.9 * spread < np.sqrt(np.mean(np.square(errors["clips"]))) < 1.6 * spread
    assert np.sqrt(np.mean(np.square(errors["frames"]))) < 0.6 * spread


def test_groups_of_one_are_the_plain_jackknife():
    a, b = features(8, 0), features(8, 1, shift=1.0)
    found = kernel_distance_interval(a, b)
    left = []
    for i in range(8):
        keep = [j for j in range(8) if j != i]
        left.append(kernel_distance(a[keep], b[keep]).item())
    error = np.sqrt(7 / 8 * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert found.value.item() == pytest.approx(kernel_distance(a, b).item())
    assert (found.high - found.value).item() == pytest.approx(2.3646 * error, rel=1e-3)  # Student, 7 degrees
    assert (found.value - found.low).item() == pytest.approx(2.3646 * error, rel=1e-3)
    few = kernel_distance_interval(a[:2], b[:2])
    assert few.low.isnan() and few.high.isnan() and few.value == kernel_distance(a[:2], b[:2])
    one = kernel_distance_interval(a, b, torch.zeros(8), torch.zeros(8))
    assert one.low.isnan() and one.high.isnan() and one.value == found.value


def test_vgg_features_see_what_is_in_a_picture_not_where():
    net = VggFeatures(load_lpips("vgg"))
    pictures = images(2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3)
    found = net(pictures)
    assert found.shape == (2, 512) and (found >= 0).all()
    mirrored, other = net(pictures.flip(3))[0], found[1]
    assert (found[0] - mirrored).norm() < (found[0] - other).norm()


def test_features_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="features must be"):
        frechet_distance(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="two images"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="as many"):
        kernel_distance_interval(torch.rand(4, 3), torch.rand(5, 3))
    with pytest.raises(ValueError, match="one group number"):
        kernel_distance_interval(torch.rand(4, 3), torch.rand(5, 3), torch.zeros(4), torch.zeros(4))
