"""Signal operations that the generators share, in plain torch: any device, any float, differentiable twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def inverse_haar(bands: Tensor) -> Tensor:
    """Join wavelet bands ``(N, 4C, H, W)`` to ``(N, C, 2H, 2W)``; orthonormal, so that energy is kept.

    Channels are C low-pass ones, then per output channel the three bands (vertical detail, horizontal
    detail, both), as MobileStyleGAN lays them out.
    """
    n, channels, height, width = bands.shape
    if channels % 4:
        raise ValueError(f"inverse_haar needs four bands per channel, got {channels} channels")
    c = channels // 4
    low = bands[:, :c] * 0.5
    vertical, horizontal, both = (bands[:, c:].reshape(n, c, 3, height, width) * 0.5).unbind(2)
    top_sum, top_difference = low + vertical, horizontal + both
    bottom_sum, bottom_difference = low - vertical, horizontal - both
    pixels = (
        top_sum + top_difference,
        top_sum - top_difference,
        bottom_sum + bottom_difference,
        bottom_sum - bottom_difference,
    )
    return F.pixel_shuffle(torch.stack(pixels, 2).flatten(1, 2), 2)


def move_image(images: Tensor, transform: Tensor) -> Tensor:
    """Move images ``(N, C, H, W)`` by a ``(3, 3)`` or ``(N, 3, 3)`` similarity, bilinearly.

    The matrix sends points of the image to where they go, in units where the image spans [-0.5, 0.5] with
    y down. What comes in from outside repeats the border.
    """
    if transform.shape not in ((3, 3), (len(images), 3, 3)):
        raise ValueError(f"transform must be (3, 3) or ({len(images)}, 3, 3), got {tuple(transform.shape)}")
    # grid_sample asks where each output pixel comes from, in units of half the image: the translation doubles.
    back = torch.linalg.inv(transform.to(images)).expand(len(images), 3, 3)[:, :2]
    back = torch.cat([back[..., :2], back[..., 2:] * 2], dim=2)
    grid = F.affine_grid(back, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def shrink(images: Tensor, side: int) -> Tensor:
    """Shrink square images ``(N, C, S, S)`` to ``(N, C, side, side)`` without aliasing: means over boxes."""
    own = images.shape[-1]
    if side == own:
        return images
    if not 0 < side < own:
        raise ValueError(f"resolution must be in 1..{own}, got {side}")
    if own % side == 0:
        return F.avg_pool2d(images, own // side)
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
