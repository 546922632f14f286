"""How StyleGAN3 divides the spectrum between its layers, and the low-pass filters that follow from it.

Karras 2021, section 3.2 and appendix C.1 (frequencies), C.3 (filters).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.types import BadInputError

_PUBLISHED: dict[str, Any] = {
    "channel_base": 32768,
    "channel_max": 512,
    "num_layers": 14,
    "num_critical": 2,
    "first_cutoff": 2.0,
    "first_stopband": 2.0**2.1,
    "last_stopband_rel": 2.0**0.3,
    "margin_size": 10,
    "output_scale": 0.25,
    "conv_kernel": 3,
    "filter_size": 6,
    "lrelu_upsampling": 2,
    "use_radial_filters": False,
    "conv_clamp": 256.0,
}
"""What a published checkpoint means where it does not say: the defaults of its own code."""
_NO_EFFECT = frozenset({"img_channels", "c_dim", "num_fp16_res", "magnitude_ema_beta"})
_MOST_LAYERS = 64
_LARGEST = 1 << 20


@dataclass(frozen=True)
class StyleGAN3Config:
    """The published generator's keywords."""

    z_dim: int
    w_dim: int
    img_resolution: int
    """Side of the image in pixels."""
    channel_base: int
    """Channels times cutoff frequency, doubled."""
    channel_max: int
    num_layers: int
    """Layers between the input and ToRGB."""
    num_critical: int
    """Last layers that are sampled critically."""
    first_cutoff: float
    """Cutoff of the first layer in cycles per image."""
    first_stopband: float
    """Where the first layer's filter stops, in cycles per image."""
    last_stopband_rel: float
    """Where the last layer's filter stops, relative to its cutoff."""
    margin_size: int
    """Pixels of extra canvas on every side."""
    output_scale: float
    conv_kernel: int
    """3 for T, 1 for R."""
    filter_size: int
    """Taps per phase of the low-pass filters."""
    lrelu_upsampling: int
    """Oversampling around the nonlinearity."""
    use_radial_filters: bool
    """Whether downsampling filters are radially symmetric (R)."""
    conv_clamp: float | None
    """Features and colours are clamped to ± this; None for not at all."""

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> StyleGAN3Config:
        """From the published ``Generator``'s keywords, nested ``synthesis_kwargs`` too.

        Raises ``BadInputError`` for a conditional generator and for keywords that are not known.
        """
        flat = {**keywords, **dict(keywords.get("synthesis_kwargs") or {})}
        if flat.get("c_dim"):
            raise BadInputError("the generator is conditional (c_dim is not 0); only unconditional ones are read")
        if flat.get("img_channels", 3) != 3:
            raise BadInputError(f"the generator makes {flat['img_channels']} channels; only RGB ones are read")
        names = {field.name for field in fields(cls)}
        unknown = set(flat) - names - _NO_EFFECT - {"mapping_kwargs", "synthesis_kwargs"}
        if unknown:
            raise BadInputError(f"the StyleGAN3 has settings that are not known: {', '.join(sorted(unknown))}")
        chosen = {**_PUBLISHED, **{name: flat[name] for name in names if name in flat}}
        missing = names - set(chosen)
        if missing:
            raise BadInputError(f"the StyleGAN3 does not say its {', '.join(sorted(missing))}")
        for name in sorted(names - {"use_radial_filters", "conv_clamp"}):
            value, least = chosen[name], 0 if name == "margin_size" else 1e-6
            if not isinstance(value, int | float) or not least <= value <= _LARGEST:
                raise BadInputError(f"the StyleGAN3 has {name}={value!r}, which is not supported")
        if not chosen["num_critical"] < chosen["num_layers"] <= _MOST_LAYERS:
            raise BadInputError(f"the StyleGAN3 has {chosen['num_layers']} layers, which is not supported")
        return cls(**chosen)


@dataclass(frozen=True)
class LayerPlan:
    """Everything about one layer but its weights. Rates and frequencies are per image side."""

    name: str
    to_rgb: bool
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    in_rate: float
    out_rate: float
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    kernel: int
    up: int
    up_taps: int
    down: int
    down_taps: int
    down_radial: bool

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Of the enlarged signal (left, right, top, bottom), so that the canvas stays centred."""
        total = (self.out_size - 1) * self.down + 1
        total -= (self.in_size + self.kernel - 1) * self.up
        total += self.up_taps + self.down_taps - 2
        before = (total + self.up) // 2
        return before, total - before, before, total - before

    def up_filter(self) -> Tensor | None:
        """``(up_taps,)``, or None."""
        return _lowpass(self.up_taps, self.in_cutoff, self.in_half_width * 2, self.in_rate * self.up, False)

    def down_filter(self) -> Tensor | None:
        """``(down_taps,)``, ``(down_taps, down_taps)`` where it is radial, or None."""
        rate = self.out_rate * self.down
        return _lowpass(self.down_taps, self.out_cutoff, self.out_half_width * 2, rate, self.down_radial)


def plan_layers(config: StyleGAN3Config) -> tuple[LayerPlan, ...]:
    """The layers in order, ToRGB last (appendix C.1: cutoffs and stopbands grow geometrically)."""
    last, critical = config.num_layers, config.num_layers - config.num_critical
    last_cutoff = config.img_resolution / 2
    exponents = np.minimum(np.arange(last + 1) / critical, 1)
    cutoffs = config.first_cutoff * (last_cutoff / config.first_cutoff) ** exponents
    stopbands = (
        config.first_stopband * (last_cutoff * config.last_stopband_rel / config.first_stopband) ** exponents
    )
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, config.img_resolution))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + config.margin_size * 2
    sizes[-2:] = config.img_resolution
    channels = np.rint(np.minimum(config.channel_base / 2 / cutoffs, config.channel_max))
    channels[-1] = 3
    plans = []
    for i in range(last + 1):
        before, to_rgb = max(i - 1, 0), i == last
        inner = max(rates[before], rates[i]) * (1 if to_rgb else config.lrelu_upsampling)
        up, down = int(np.rint(inner / rates[before])), int(np.rint(inner / rates[i]))
        plans.append(
            LayerPlan(
                name=f"L{i}_{int(sizes[i])}_{int(channels[i])}",
                to_rgb=to_rgb,
                in_channels=int(channels[before]),
                out_channels=int(channels[i]),
                in_size=int(sizes[before]),
                out_size=int(sizes[i]),
                in_rate=float(rates[before]),
                out_rate=float(rates[i]),
                in_cutoff=float(cutoffs[before]),
                out_cutoff=float(cutoffs[i]),
                in_half_width=float(half_widths[before]),
                out_half_width=float(half_widths[i]),
                kernel=1 if to_rgb else config.conv_kernel,
                up=up,
                up_taps=config.filter_size * up if up > 1 and not to_rgb else 1,
                down=down,
                down_taps=config.filter_size * down if down > 1 and not to_rgb else 1,
                down_radial=config.use_radial_filters and i < critical,
            )
        )
    return tuple(plans)


def _lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool) -> Tensor | None:
    """Kaiser-windowed low-pass filter of unit sum (appendix C.3); a jinc where it is radial (eq. 16)."""
    if taps == 1:
        return None
    # It takes a second to import, in every command that loads any generator; only this one's filters need it.
    from scipy.signal import firwin, kaiser_atten, kaiser_beta

    if not radial:
        return torch.as_tensor(firwin(taps, cutoff, width=width, fs=rate), dtype=torch.float32)
    axis = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(axis[:, None], axis[None])
    jinc: NDArray[np.float64] = scipy.special.j1(2 * cutoff * np.pi * radius) / (np.pi * radius)
    window = np.kaiser(taps, kaiser_beta(kaiser_atten(taps, width / (rate / 2))))
    jinc = jinc * np.outer(window, window)
    return torch.as_tensor(jinc / jinc.sum(), dtype=torch.float32)
