"""How like its target an image is: PSNR, SSIM, MS-SSIM, LPIPS, as functions per image and as torchmetrics classes.

All take ``(N, 3, H, W)`` RGB in [-1, 1] twice; values outside are clamped first, as they are when an image is
written. A mask ``(N, 1, H, W)`` in [0, 1] restricts them to a part, e.g. the face.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from modules.losses.perceptual import PerceptualLoss


def psnr(images: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio per image, ``(N,)`` in dB; infinite for equal images. Peak to peak is 2."""
    images, target = _pair(images, target, mask)
    error = (images - target).square().mean(1, keepdim=True)
    return 10 * torch.log10(4 / _mean(error, mask))


def ssim(images: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Structural similarity per image (Gaussian window of 11 px, sigma 1.5), ``(N,)``, 1 for equal images."""
    images, target = _pair(images, target, mask)
    _, full = structural_similarity_index_measure(
        _light(images), _light(target), data_range=1.0, reduction="none", return_full_image=True
    )
    full = full.mean(1, keepdim=True)
    # Windows that reach over the edge see a mirror image; without a mask they are left out (Wang et al. 2004).
    return full[..., 5:-5, 5:-5].mean((1, 2, 3)) if mask is None else _mean(full, mask)


def ms_ssim(images: Tensor, target: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang et al. 2003, five scales) per image of at least 176 px, ``(N,)``."""
    images, target = _pair(images, target, None)
    found: Tensor = multiscale_structural_similarity_index_measure(
        _light(images), _light(target), data_range=1.0, reduction="none", normalize="relu"
    )
    return found


@torch.no_grad()
def lpips_distance(net: PerceptualLoss, images: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """LPIPS per image, ``(N,)``, 0 for equal images."""
    images, target = _pair(images, target, mask)
    distance: Tensor = net(images, target, mask)
    return distance


class MeanPerImage(Metric):
    """Mean over all images seen; each image counts once."""

    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Count ``(N,)`` values."""
        self.total += values.detach().double().sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean; NaN before anything was seen."""
        return (self.total / self.count).float()


class Psnr(MeanPerImage):
    """Mean PSNR over images, dB."""

    higher_is_better = True

    def update(self, images: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Count N images; see ``psnr``."""
        self.add(psnr(images, target, mask))


class Ssim(MeanPerImage):
    """Mean SSIM over images."""

    higher_is_better = True

    def update(self, images: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Count N images; see ``ssim``."""
        self.add(ssim(images, target, mask))


class Lpips(MeanPerImage):
    """Mean LPIPS over images, with the net that is given."""

    higher_is_better = False

    def __init__(self, net: PerceptualLoss, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net = net

    def update(self, images: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Count N images; see ``lpips_distance``."""
        self.add(lpips_distance(self.net, images, target, mask))


def _pair(images: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if images.shape != target.shape or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"two (N, 3, H, W) of one shape are needed, got {tuple(images.shape)}, {tuple(target.shape)}"
        )
    if mask is not None and mask.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(f"the mask must be (N, 1, H, W) of the images' size, got {tuple(mask.shape)}")
    return images.clamp(-1, 1), target.clamp(-1, 1)


def _light(images: Tensor) -> Tensor:
    """In [0, 1]: SSIM compares means by their ratio, which says nothing where mid grey is 0 (eq. 6)."""
    return (images + 1) / 2


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return values.mean((1, 2, 3))
    return (values * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
