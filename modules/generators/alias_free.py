"""StyleGAN3's filtered leaky ReLU in tiles: the enlarged signal exists for a few channels and rows at a time.

At 1024 px a layer's enlarged signal would take 3 GB; a tile's fits into a cache, and its memory is reused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.generators.stylegan3_layout import LayerPlan
from modules.ops import filtered_lrelu

_CHANNELS = 16
"""Channels per tile: as many as depthwise convolutions vectorise over."""
_TILE = 1 << 22
"""Numbers in a tile's enlarged signal; 16 MB in float32."""


def filtered_lrelu_in_tiles(
    x: Tensor,
    up_filter: Tensor | None,
    down_filter: Tensor | None,
    bias: Tensor,
    plan: LayerPlan,
    gain: float,
    slope: float,
    clamp: float | None,
) -> Tensor:
    """``(N, C, H, H)`` to ``(N, C, out, out)`` channels-last, the same as ``filtered_lrelu`` on the whole."""
    left, right, _, _ = plan.padding
    width = x.shape[3] * plan.up + left + right
    rows = max(plan.down_taps, _TILE // (len(x) * _CHANNELS * width * plan.down))
    blocks = []
    for channel in range(0, x.shape[1], _CHANNELS):
        part, part_bias = x[:, channel : channel + _CHANNELS], bias[channel : channel + _CHANNELS]
        strips = []
        for first in range(0, plan.out_size, rows):
            top, bottom, begin, end = _rows_behind(plan, x.shape[2], first, min(first + rows, plan.out_size))
            strip = filtered_lrelu(
                part[:, :, begin:end].contiguous(memory_format=torch.channels_last),
                up_filter,
                down_filter,
                part_bias,
                up=plan.up,
                down=plan.down,
                padding=(left, right, top, bottom),
                gain=gain,
                slope=slope,
                clamp=clamp,
            )
            strips.append(strip)
        blocks.append(torch.cat(strips, 2))
    return torch.cat(blocks, 1)


def _rows_behind(plan: LayerPlan, height: int, first: int, last: int) -> tuple[int, int, int, int]:
    """Padding above and below, and the input rows ``begin:end``, from which output rows ``first:last`` come."""
    _, _, above, _ = plan.padding
    start = first * plan.down
    stop = (last - 1) * plan.down + plan.down_taps + plan.up_taps - 1
    begin = min(max(0, (start - above) // plan.up), height - 1)
    end = max(min(height, -((above - stop) // plan.up)), begin + 1)
    top = above - start + begin * plan.up
    return top, stop - start - (end - begin) * plan.up - top, begin, end
