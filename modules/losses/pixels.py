"""The distance of pixels that every training counts in (FrEN/ViEN, eq. 1)."""

from __future__ import annotations

from torch import Tensor


def rms_distance(reconstruction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Eq. 1 per image, ``(N,)``: the norm itself, not its square, over the root of the number of values.

    The division makes it independent of the resolution, and leaves it on LPIPS's scale so that lambda_p keeps
    its meaning. ``weight`` ``(N, 1, S, S)`` says how much each place counts; an image whose weights are all 0 gets
    next to nothing, and a gradient of 0.
    """
    squares = (reconstruction - target).square()
    if weight is None:
        mean = squares.flatten(1).mean(1)
    else:
        weighed = (squares.mean(1, keepdim=True) * weight).sum((1, 2, 3))
        mean = weighed / weight.sum((1, 2, 3)).clamp_min(1e-6)
    return mean.clamp_min(1e-12).sqrt()
