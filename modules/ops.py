"""Signal operations that the networks share, in plain torch: any device, any float, differentiable twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = int | tuple[int, int, int, int]
"""Pixels on every side, or (left, right, top, bottom); negative ones crop."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (BT.601)."""


def luma(images: Tensor) -> Tensor:
    """``(..., 3, H, W)`` RGB to ``(..., 1, H, W)``: how light each pixel is, in the same range."""
    if images.ndim < 3 or images.shape[-3] != 3:
        raise ValueError(f"luma needs (..., 3, H, W), got {tuple(images.shape)}")
    grey: Tensor = (images * images.new_tensor(LUMA).view(3, 1, 1)).sum(-3, keepdim=True)
    return grey


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    gain: float = 1.0,
    flip: bool = False,
) -> Tensor:
    """Put ``up - 1`` zeros after each pixel, pad, filter, keep every ``down``-th pixel.

    x is ``(N, C, H, W)``. f is ``(taps,)`` for a separable filter, ``(rows, columns)``, or None for none. The
    filter is convolved with the image; ``flip`` correlates instead. ``gain`` scales the result (an upsampling
    filter of unit sum needs ``up ** 2``). Conventions of the StyleGAN2-ADA code; the output has
    ``(H * up + top + bottom - rows) // down + 1`` rows.
    """
    if x.ndim != 4 or up < 1 or down < 1:
        raise ValueError(f"upfirdn2d needs (N, C, H, W) and factors from 1, got {tuple(x.shape)}, {up}, {down}")
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    if f is None:
        return _resample(x, x.new_ones(1, 1) * gain, (up, up), (down, down), (left, right, top, bottom))
    f = f.to(x)
    if flip:
        f = f.flip(list(range(f.ndim)))
    if f.ndim == 2:
        return _resample(x, f * gain, (up, up), (down, down), (left, right, top, bottom))
    if f.ndim != 1:
        raise ValueError(f"a filter is (taps,) or (rows, columns), got {tuple(f.shape)}")
    f = f * gain**0.5
    x = _resample(x, f[:, None], (up, 1), (down, 1), (0, 0, top, bottom))
    return _resample(x, f[None], (1, up), (1, down), (left, right, 0, 0))


def _resample(
    x: Tensor, f: Tensor, up: tuple[int, int], down: tuple[int, int], padding: tuple[int, int, int, int]
) -> Tensor:
    channels = x.shape[1]
    left, right, top, bottom = padding
    kernel = f.expand(channels, 1, *f.shape)
    if up == (1, 1):
        x = F.pad(x, [left, right, top, bottom]) if any(padding) else x
        return F.conv2d(x, kernel.flip(2, 3), stride=down, groups=channels)
    # A transposed convolution never multiplies the zeros; it gives every position that the filter touches.
    rows, columns = f.shape
    height, width = (
        side * factor + before + after - taps + 1
        for side, factor, before, after, taps in zip(
            x.shape[2:], up, (top, left), (bottom, right), (rows, columns), strict=True
        )
    )
    x = F.conv_transpose2d(x, kernel, stride=up, groups=channels)
    first_row, first_column = rows - 1 - top, columns - 1 - left
    crop = [-first_column, first_column + width - x.shape[3], -first_row, first_row + height - x.shape[2]]
    x = F.pad(x, crop) if any(crop) else x
    return x[:, :, :: down[0], :: down[1]]


def bias_act(
    x: Tensor, bias: Tensor | None, slope: float = 0.2, gain: float = 2**0.5, clamp: float | None = None
) -> Tensor:
    """Add a bias ``(C,)`` to ``(N, C, ...)``, leaky ReLU, scale, clamp to ±clamp; slope 1 is linear."""
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(-1, *[1] * (x.ndim - 2))
    if slope != 1.0:
        x = F.leaky_relu(x, slope)
    if gain != 1.0:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    b: Tensor | None,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    gain: float = 2**0.5,
    slope: float = 0.2,
    clamp: float | None = None,
    channels_per_block: int | None = None,
) -> Tensor:
    """StyleGAN3's alias-free nonlinearity (Karras 2021, 3.2): bias, upsample, leaky ReLU, downsample.

    Shapes and filters as in ``upfirdn2d``; b is ``(C,)``. ``channels_per_block`` bounds memory: the enlarged
    signal exists for that many channels at a time.
    """
    if channels_per_block is not None and x.shape[1] > channels_per_block:
        parts = torch.split(x, channels_per_block, dim=1)
        biases = [None] * len(parts) if b is None else list(torch.split(b, channels_per_block))
        done = [
            filtered_lrelu(part, fu, fd, bias, up, down, padding, gain, slope, clamp)
            for part, bias in zip(parts, biases, strict=True)
        ]
        return torch.cat(done, dim=1)
    x = bias_act(x, b, slope=1.0, gain=1.0)
    x = upfirdn2d(x, fu, up=up, padding=padding, gain=float(up**2))
    x = bias_act(x, None, slope, gain, clamp)
    return upfirdn2d(x, fd, down=down)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool = True,
    up: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
) -> Tensor:
    """Convolution whose weights are scaled per sample (Karras 2020, eq. 1 and 3).

    x ``(N, C, H, W)``, weight ``(out, C, k, k)``, styles ``(N, C)``. With ``up=2`` the output is
    ``(N, out, 2H, 2W)``, smoothed by ``resample_filter`` after a transposed convolution. Scaling the input by
    the styles and the output by the demodulation is the same as scaling the weights, and keeps one weight for
    the whole batch.
    """
    if styles.shape != x.shape[:2] or weight.shape[1] != x.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)}, weight {tuple(weight.shape)} and styles {tuple(styles.shape)} differ"
        )
    kernel = weight.shape[-1]
    y = x * styles.to(x.dtype)[:, :, None, None]
    if up == 1:
        y = F.conv2d(y, weight.to(x.dtype), padding=padding)
    else:
        y = F.conv_transpose2d(y, weight.to(x.dtype).transpose(0, 1), stride=up)
        taps = 1 if resample_filter is None else resample_filter.shape[-1]
        before = padding + (taps + up - 1) // 2 - (kernel - 1)
        after = padding + (taps - up) // 2 - (kernel - up)
        y = upfirdn2d(y, resample_filter, padding=(before, after, before, after), gain=float(up**2))
    if demodulate:
        energy = styles.square() @ weight.square().sum((2, 3)).t()
        y = y * (energy + 1e-8).rsqrt().to(y.dtype)[:, :, None, None]
    return y


def haar_order(channels: int) -> Tensor:
    """Indices ``(channels,)`` that bring MobileStyleGAN's wavelet layout into ``inverse_haar``'s four runs.

    The published layout is C low-pass channels, then per output channel its three bands.
    """
    c = channels // 4
    details = torch.arange(c, channels).reshape(c, 3).t().flatten()
    return torch.cat([torch.arange(c), details])


def inverse_haar(bands: Tensor) -> Tensor:
    """Join wavelet bands ``(N, 4C, H, W)`` to ``(N, C, 2H, 2W)``; orthonormal, so that energy is kept.

    Channels are four runs of C: low-pass, vertical detail, horizontal detail, both. The result lies in
    memory channels-last, which is also the fast way in.
    """
    if bands.ndim != 4 or bands.shape[1] % 4:
        raise ValueError(f"inverse_haar needs (N, 4C, H, W), got {tuple(bands.shape)}")
    low, vertical, horizontal, both = (bands.permute(0, 2, 3, 1) * 0.5).chunk(4, dim=3)
    top, top_step = low + vertical, horizontal + both
    bottom, bottom_step = low - vertical, horizontal - both
    n, height, width, c = low.shape
    rows = [
        torch.stack((mean + step, mean - step), dim=3).reshape(n, height, 2 * width, c)
        for mean, step in ((top, top_step), (bottom, bottom_step))
    ]
    return torch.stack(rows, dim=2).reshape(n, 2 * height, 2 * width, c).permute(0, 3, 1, 2)


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
