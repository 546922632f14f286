"""StyleGAN3-T and -R (Karras 2021): alias-free layers between a Fourier input and the image.

Row 0 of ``ws`` steers the input, row ``i + 1`` layer ``i``. Tensors carry NVlabs' names; the filters that the
format stores beside them follow from the configuration, are designed here, and are checked against the file's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.generators.alias_free import filtered_lrelu_in_tiles
from modules.generators.mapping import MappingNetwork, ScaledLinear, frozen
from modules.generators.protocol import NoiseMode, StyleLayer
from modules.generators.stylegan3_layout import LayerPlan, StyleGAN3Config, plan_layers
from modules.model_folder import weights_sha256
from modules.ops import shrink


class _Input(nn.Module):
    """Fourier features, rotated and shifted by a code's row and by the image's transform (section 3.2)."""

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, own: Mapping[str, Tensor], plan: LayerPlan) -> None:
        super().__init__()
        self.weight = frozen(own["weight"])
        self.affine = ScaledLinear(own["affine.weight"], own["affine.bias"])
        for name in ("freqs", "phases", "transform"):
            self.register_buffer(name, own[name].detach().clone().float())
        self._size, self._rate, self._band = plan.in_size, plan.in_rate, plan.in_cutoff

    def forward(self, style: Tensor, moved: Tensor | None) -> Tensor:
        """Style ``(N, 4)`` and the image's ``(3, 3)`` or ``(N, 3, 3)`` transform to ``(N, C, size, size)``."""
        n = len(style)
        cosine, sine, right, down = (style / style[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
        turn = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], 1).view(n, 3, 3)
        shift = torch.stack([one, zero, -right, zero, one, -down, zero, zero, one], 1).view(n, 3, 3)
        # Features are looked up where an output pixel comes from, hence the inverse of what moves the image.
        placed = self.transform if moved is None else self.transform @ torch.linalg.inv(moved.to(self.transform))
        matrix = turn @ shift @ placed
        phases = self.phases + (self.freqs @ matrix[:, :2, 2:]).squeeze(2)
        freqs = self.freqs @ matrix[:, :2, :2]
        # Frequencies that a magnification pushes past the band fade out before they would alias.
        fade = 1 - (freqs.norm(dim=2) - self._band) / (self._rate / 2 - self._band)
        axis = (torch.arange(self._size, device=style.device) + 0.5 - self._size / 2) / self._rate
        x = (
            axis[None, None, :, None] * freqs[:, None, None, :, 0]
            + axis[None, :, None, None] * freqs[:, None, None, :, 1]
        )
        x = torch.sin((x + phases[:, None, None]) * (2 * np.pi)) * fade.clamp(0, 1)[:, None, None]
        weight = self.weight / math.sqrt(self.weight.shape[1])
        features: Tensor = x @ weight.t()
        return features.permute(0, 3, 1, 2)


class _Layer(nn.Module):
    """Modulated convolution and filtered leaky ReLU (section 3.2, figure 4)."""

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(self, own: Mapping[str, Tensor], plan: LayerPlan, clamp: float | None) -> None:
        super().__init__()
        self.plan, self._clamp = plan, clamp
        self.weight, self.bias = frozen(own["weight"]), frozen(own["bias"])
        self.affine = ScaledLinear(own["affine.weight"], own["affine.bias"])
        self.register_buffer("magnitude_ema", own["magnitude_ema"].detach().clone().float())
        for name, design in (("up_filter", plan.up_filter()), ("down_filter", plan.down_filter())):
            if design is not None and name in own and not _same(own[name], design):
                raise BadInputError(
                    f"{name} of {plan.name} is not what this configuration designs; nothing is read"
                )
            self.register_buffer(name, design, persistent=False)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """``(N, C, in, in)`` features and ``(N, C)`` style to ``(N, C', out, out)``."""
        plan, kernels = self.plan, self._kernels(style)
        pad = plan.kernel - 1
        # One sample after the other: a sample's kernels are small, its features are not.
        parts = [F.conv2d(x[i : i + 1], kernels[i], padding=pad) for i in range(len(x))]
        return filtered_lrelu_in_tiles(
            torch.cat(parts) if len(parts) > 1 else parts[0],
            self.up_filter,
            self.down_filter,
            self.bias,
            plan,
            gain=1.0 if plan.to_rgb else 2**0.5,
            slope=1.0 if plan.to_rgb else 0.2,
            clamp=self._clamp,
        )

    def _kernels(self, style: Tensor) -> Tensor:
        """``(N, C', C, k, k)``: weights scaled by the style, demodulated, over the input's expected magnitude."""
        weight: Tensor = self.weight
        if self.plan.to_rgb:
            kernels = weight * (style / math.sqrt(weight[0].numel()))[:, None, :, None, None]
        else:
            # Demodulation cancels both scales; they keep its epsilon negligible.
            weight = weight * weight.square().mean((1, 2, 3), keepdim=True).rsqrt()
            style = style * style.square().mean(1, keepdim=True).rsqrt()
            kernels = weight * style[:, None, :, None, None]
            kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        return kernels * self.magnitude_ema.rsqrt()


class StyleGAN3(nn.Module):
    """The generator; satisfies ``protocol.Generator``. Its parameters are frozen until told otherwise."""

    def __init__(self, tensors: Mapping[str, Tensor], config: StyleGAN3Config) -> None:
        """Build from NVlabs' names. Raises ``BadInputError`` where tensors are missing or of another shape."""
        super().__init__()
        self.settings = config
        plans = plan_layers(config)
        try:
            self._build(tensors, plans)
        except KeyError as error:
            raise BadInputError(f"these are not the weights of a StyleGAN3: {error} is missing") from error
        self._check_shapes(plans)
        self.z_dim, self.w_dim, self.resolution = config.z_dim, config.w_dim, config.img_resolution
        self.num_ws = len(plans) + 1
        self.layers = (
            StyleLayer("input", plans[0].in_size, 4, 0, False),
            *(
                StyleLayer(plan.name, plan.out_size, plan.in_channels, index + 1, plan.to_rgb)
                for index, plan in enumerate(plans)
            ),
        )
        # The mean only serves truncation; a checkpoint without one must not become another generator.
        base = {name: value for name, value in self.state_dict().items() if name != "mapping.w_avg"}
        self.sha256 = weights_sha256(base)

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Build from NVlabs' names and the keywords that the published ``Generator`` was made with."""
        return cls(tensors, StyleGAN3Config.from_keywords(config))

    @property
    def config(self) -> dict[str, Any]:
        """What ``from_state`` needs beside the tensors of ``state_dict``."""
        return asdict(self.settings)

    def _build(self, tensors: Mapping[str, Tensor], plans: tuple[LayerPlan, ...]) -> None:
        self.mapping = MappingNetwork(tensors)
        self.synthesis = nn.ModuleDict({"input": _Input(_under(tensors, "synthesis.input."), plans[0])})
        for plan in plans:
            own = _under(tensors, f"synthesis.{plan.name}.")
            self.synthesis[plan.name] = _Layer(own, plan, self.settings.conv_clamp)
        self._names = tuple(plan.name for plan in plans)

    def _check_shapes(self, plans: tuple[LayerPlan, ...]) -> None:
        config, first = self.settings, plans[0].in_channels
        wanted: dict[str, tuple[int, ...]] = {
            "mapping.fc0.weight": (config.w_dim, config.z_dim),
            "mapping.w_avg": (config.w_dim,),
            "synthesis.input.weight": (first, first),
            "synthesis.input.freqs": (first, 2),
            "synthesis.input.phases": (first,),
            "synthesis.input.transform": (3, 3),
            "synthesis.input.affine.weight": (4, config.w_dim),
        }
        for plan in plans:
            kernel = (plan.kernel, plan.kernel)
            wanted[f"synthesis.{plan.name}.weight"] = (plan.out_channels, plan.in_channels, *kernel)
            wanted[f"synthesis.{plan.name}.bias"] = (plan.out_channels,)
            wanted[f"synthesis.{plan.name}.affine.weight"] = (plan.in_channels, config.w_dim)
        state = self.state_dict()
        for name, shape in wanted.items():
            if tuple(state[name].shape) != shape:
                raise BadInputError(f"{name} has shape {tuple(state[name].shape)}, the configuration says {shape}")

    @property
    def w_mean(self) -> Tensor:
        """``(w_dim,)``: mean of W."""
        return self.mapping.w_avg

    def map(self, z: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None) -> Tensor:
        """``(N, z_dim)`` to ``(N, num_ws, w_dim)``; rows below the cutoff (or all) go towards the mean."""
        return self.mapping.rows(z, self.num_ws, truncation_psi, truncation_cutoff)

    def styles(self, ws: Tensor) -> dict[str, Tensor]:
        """S space: layer name to ``(N, channels)``, in the order of ``layers``; ``input`` has four numbers.

        Those are cosine and sine of the input's rotation, to any scale, and its shift in the same scale.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be (N, {self.num_ws}, {self.w_dim}), got {tuple(ws.shape)}")
        affine = {name: cast(ScaledLinear, part.affine) for name, part in self.synthesis.items()}
        return {layer.name: affine[layer.name](ws[:, layer.ws_index]) for layer in self.layers}

    def synthesize(
        self,
        ws: Tensor,
        noise_mode: NoiseMode = "const",
        noise: dict[str, Tensor] | None = None,
        transform: Tensor | None = None,
        resolution: int | None = None,
    ) -> Tensor:
        """``(N, num_ws, w_dim)`` to images ``(N, 3, r, r)``; see ``protocol.Generator``.

        There is no noise, so ``noise_mode`` changes nothing. ``transform`` acts on the Fourier input, so what
        comes in at the border is painted, not repeated. A smaller ``resolution`` is the output averaged.
        """
        return self.synthesize_from_styles(self.styles(ws), noise_mode, noise, transform, resolution)

    def synthesize_from_styles(
        self,
        styles: dict[str, Tensor],
        noise_mode: NoiseMode = "const",
        noise: dict[str, Tensor] | None = None,
        transform: Tensor | None = None,
        resolution: int | None = None,
    ) -> Tensor:
        """Like ``synthesize``, from S space."""
        if noise:
            raise ValueError(f"StyleGAN3 has no noise, got maps for {sorted(noise)}")
        for layer in self.layers:
            if layer.name not in styles or styles[layer.name].shape[1:] != (layer.channels,):
                raise ValueError(f"styles need {layer.name!r} of shape (N, {layer.channels})")
        n = len(styles["input"])
        if transform is not None and transform.shape not in ((3, 3), (n, 3, 3)):
            raise ValueError(f"transform must be (3, 3) or ({n}, 3, 3), got {tuple(transform.shape)}")
        x = self.synthesis["input"](styles["input"], transform)
        for name in self._names:
            x = self.synthesis[name](x, styles[name])
        x = x * self.settings.output_scale
        return x if resolution is None else shrink(x, resolution)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _same(given: Tensor, design: Tensor) -> bool:
    return given.shape == design.shape and bool((given.float() - design).abs().max() <= 1e-4 * design.abs().max())
