"""How far two sets of images lie apart in the features of a net: Fréchet and kernel distance.

With FID's Inception net (``modules.perception.inception``) these are FID and KID. Without its weights the distance
is named for the net whose features are compared, e.g. ``fd_vgg``: numbers of different nets do not compare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from modules.losses.perceptual import PerceptualLoss

Features = Callable[[Tensor], Tensor]
"""``(N, 3, H, W)`` RGB in [-1, 1] to ``(N, D)``."""
LEVEL = 0.95
"""Of the interval beside a kernel distance."""


class Interval(NamedTuple):
    """An estimate and where it lies with ``LEVEL``."""

    value: Tensor
    low: Tensor
    high: Tensor


def frechet_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared Fréchet distance of the Gaussians that fit features ``(N, D)`` and ``(M, D)``; a scalar, float64.

    Heusel et al. 2017, eq. 6, with unbiased covariances. Few samples make it too large, the more so the fewer, so
    compare only numbers of equal N and M; fewer than D are allowed, since nothing is inverted.
    """
    _check(ours, theirs)
    means, roots = [], []
    for features in (ours.double(), theirs.double()):
        mean = features.mean(0)
        root = (features - mean) / (len(features) - 1) ** 0.5
        means.append(mean)
        # R of a QR decomposition has the same Gram matrix, the covariance, and at most D rows.
        roots.append(torch.linalg.qr(root, mode="r")[1] if len(root) > root.shape[1] else root)
    # tr (S1 S2)^(1/2) is the sum of the singular values of A B^T, where S1 = A^T A and S2 = B^T B.
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = sum(root.square().sum() for root in roots)
    distance: Tensor = (means[0] - means[1]).square().sum() + spread - 2 * shared
    return distance.clamp_min(0)


def kernel_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared maximum mean discrepancy with the kernel (x y / D + 1)^3, unbiased; a scalar, float64.

    Bińkowski et al. 2018. Features ``(N, D)`` and ``(M, D)``; about 0, and negative as often, for equal
    distributions, whatever N and M are.
    """
    _check(ours, theirs)
    sums = _KernelSums(ours, theirs)
    return sums.distance(torch.ones(len(ours)), torch.ones(len(theirs)))


def kernel_distance_interval(
    ours: Tensor, theirs: Tensor, our_groups: Tensor | None = None, their_groups: Tensor | None = None
) -> Interval:
    """``kernel_distance`` with its interval from the jackknife that leaves out one group after the other.

    Frames of one clip are no independent samples, so an interval over frames would be too narrow: ``our_groups``
    ``(N,)`` and ``their_groups`` ``(M,)`` number the clips, and the same number in both is left out of both.
    Without them each place is a group, and N must be M. The bounds are NaN with fewer than two groups, and where
    two images are not left without one of them.
    """
    _check(ours, theirs)
    if our_groups is None or their_groups is None:
        if len(ours) != len(theirs):
            raise ValueError(f"without groups there must be as many of each, got {len(ours)} and {len(theirs)}")
        our_groups = their_groups = torch.arange(len(ours))
    if our_groups.shape != (len(ours),) or their_groups.shape != (len(theirs),):
        raise ValueError("there must be one group number for each image")
    sums = _KernelSums(ours, theirs)
    value = sums.distance(torch.ones(len(ours)), torch.ones(len(theirs)))
    groups = sorted({*our_groups.tolist(), *their_groups.tolist()})
    if len(groups) < 2:
        return Interval(value, *(torch.full_like(value, torch.nan),) * 2)
    left = torch.stack([sums.distance(our_groups != group, their_groups != group) for group in groups])
    count = len(groups)
    error = ((count - 1) / count * (left - left.mean()).square().sum()).sqrt()
    margin = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Interval(value, value - margin, value + margin)


class VggFeatures(nn.Module):
    """The last layer of LPIPS's VGG-16, relu5_3, averaged over the picture: ``(N, 3, H, W)`` to ``(N, 512)``."""

    def __init__(self, perceptual: PerceptualLoss) -> None:
        """``perceptual`` is that of ``load_lpips("vgg")``."""
        super().__init__()
        self.perceptual = perceptual

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features of images in [-1, 1]."""
        net = self.perceptual.net
        last: Tensor = net.net(net.scaling_layer(images))[-1]
        return last.mean((2, 3))


class _TwoSets(Metric):
    """Collects the features of two sets of images."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    ours: list[Tensor]
    theirs: list[Tensor]

    def __init__(self, features: Features, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = features
        for name in ("ours", "theirs"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def add(self, images: Tensor, target: Tensor) -> None:
        """Count both sets' features; values outside [-1, 1] are clamped, as they are when an image is written."""
        self.ours.append(self.features(images.clamp(-1, 1)).detach().float())
        self.theirs.append(self.features(target.clamp(-1, 1)).detach().float())

    def both(self) -> tuple[Tensor, Tensor]:
        """All features, ``(N, D)`` and ``(M, D)``."""
        return dim_zero_cat(self.ours), dim_zero_cat(self.theirs)


class FrechetDistance(_TwoSets):
    """Fréchet distance over all images seen, in the features that are handed in."""

    def update(self, images: Tensor, target: Tensor) -> None:
        """Count ``(N, 3, H, W)`` images and ``(M, 3, H, W)`` of what they should be like, both in [-1, 1]."""
        self.add(images, target)

    def compute(self) -> Tensor:
        """See ``frechet_distance``."""
        return frechet_distance(*self.both()).float()


class KernelDistance(_TwoSets):
    """Kernel distance over all images seen, with its interval over groups."""

    our_groups: list[Tensor]
    their_groups: list[Tensor]

    def __init__(self, features: Features, **kwargs: Any) -> None:
        super().__init__(features, **kwargs)
        for name in ("our_groups", "their_groups"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, images: Tensor, target: Tensor, group: int) -> None:
        """Count images and targets, as ``FrechetDistance``; ``group`` numbers the clip that both are of."""
        self.add(images, target)
        self.our_groups.append(torch.full((len(images),), group))
        self.their_groups.append(torch.full((len(target),), group))

    def compute(self) -> Interval:
        """See ``kernel_distance_interval``."""
        groups = dim_zero_cat(self.our_groups), dim_zero_cat(self.their_groups)
        return Interval(*(x.float() for x in kernel_distance_interval(*self.both(), *groups)))


class _KernelSums:
    """Kernel matrices of two sets, from which the distance of any of their subsets is read."""

    def __init__(self, ours: Tensor, theirs: Tensor) -> None:
        x, y = ours.double(), theirs.double()
        self._xx, self._yy, self._xy = (_kernel(a, b) for a, b in ((x, x), (y, y), (x, y)))
        self._xx.fill_diagonal_(0)
        self._yy.fill_diagonal_(0)

    def distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of the rows where the masks ``(N,)`` and ``(M,)`` are not 0."""
        a, b = ours.to(self._xx), theirs.to(self._yy)
        n, m = a.sum(), b.sum()
        return (
            a @ self._xx @ a / (n * (n - 1)) + b @ self._yy @ b / (m * (m - 1)) - 2 * (a @ self._xy @ b) / (n * m)
        )


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    matrix: Tensor = (x @ y.T / x.shape[1] + 1) ** 3
    return matrix


def _check(ours: Tensor, theirs: Tensor) -> None:
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {tuple(ours.shape)}, {tuple(theirs.shape)}")
    if min(len(ours), len(theirs)) < 2:
        raise ValueError("two images of each are needed at least")
