"""StyleGAN2 (Karras 2020) with skip connections: tensors carry NVlabs' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.generators.mapping import MappingNetwork, ScaledLinear, frozen
from modules.generators.protocol import NoiseMode, StyleLayer
from modules.model_folder import weights_sha256
from modules.ops import bias_act, modulated_conv2d, move_image, shrink, upfirdn2d

_NO_EFFECT = frozenset(
    {"c_dim", "img_channels", "channel_base", "channel_max", "num_fp16_res", "fp16_channels_last",
     "fused_modconv_default", "use_fp16", "mapping_kwargs", "synthesis_kwargs"}
)  # fmt: skip
"""Keywords that the tensors' own shapes say, or that change speed only."""
_FIXED: dict[str, Any] = {
    "architecture": "skip",
    "activation": "lrelu",
    "resample_filter": [1, 3, 3, 1],
    "kernel_size": 3,
    "use_noise": True,
}
"""Keywords that have one supported value."""


@dataclass(frozen=True)
class StyleGAN2Config:
    """What the tensors' names and shapes do not say."""

    img_resolution: int
    """Side of the image in pixels."""
    conv_clamp: float | None
    """Features and colours are clamped to ± this; None for not at all."""

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> StyleGAN2Config:
        """From the published ``Generator``'s keywords, nested ``synthesis_kwargs`` too.

        Without ``conv_clamp`` nothing is clamped, as rosinality has it; ``checkpoints`` adds NVlabs' defaults.
        Raises ``BadInputError`` for a conditional generator and for settings that are not supported.
        """
        flat = {**keywords, **dict(keywords.get("synthesis_kwargs") or {})}
        if flat.get("c_dim"):
            raise BadInputError("the generator is conditional (c_dim is not 0); only unconditional ones are read")
        if flat.get("img_channels", 3) != 3:
            raise BadInputError(f"the generator makes {flat['img_channels']} channels; only RGB ones are read")
        if not isinstance(flat.get("img_resolution"), int):
            raise BadInputError("the StyleGAN2 does not say its img_resolution")
        for name in sorted(set(flat) - _NO_EFFECT - {"img_resolution", "conv_clamp", "z_dim", "w_dim"}):
            if name not in _FIXED or _plain(flat[name]) != _FIXED[name]:
                raise BadInputError(f"the StyleGAN2 has {name}={flat[name]!r}, which is not supported")
        clamp = flat.get("conv_clamp")
        return cls(int(flat["img_resolution"]), None if clamp is None else float(clamp))


class _Layer(nn.Module):
    """Modulated convolution with noise, or ToRGB, which has neither noise nor demodulation."""

    noise_const: Tensor
    noise_strength: Tensor
    resample_filter: Tensor

    def __init__(self, own: Mapping[str, Tensor], up: int, resample_filter: Tensor) -> None:
        super().__init__()
        self.affine = ScaledLinear(own["affine.weight"], own["affine.bias"])
        self.weight, self.bias, self.up = frozen(own["weight"]), frozen(own["bias"]), up
        self.register_buffer("resample_filter", resample_filter, persistent=False)
        self.noisy = "noise_const" in own
        if self.noisy:
            self.register_buffer("noise_const", own["noise_const"].detach().clone().float())
            self.noise_strength = frozen(own["noise_strength"].reshape(()))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None, clamp: float | None) -> Tensor:
        """``(N, C, H, W)`` features and ``(N, C)`` style to ``(N, C', H * up, W * up)``."""
        if not self.noisy:
            style = style / self.weight[0].numel() ** 0.5
        padding = self.weight.shape[-1] // 2
        x = modulated_conv2d(x, self.weight, style, self.noisy, self.up, padding, self.resample_filter)
        if not self.noisy:
            return bias_act(x, self.bias, slope=1.0, gain=1.0, clamp=clamp)
        if noise is not None:
            x = x + (noise * self.noise_strength).to(x.dtype)
        return bias_act(x, self.bias, clamp=clamp)


class StyleGAN2(nn.Module):
    """The generator; satisfies ``protocol.Generator``. Its parameters are frozen until told otherwise."""

    def __init__(self, tensors: Mapping[str, Tensor], config: StyleGAN2Config) -> None:
        """Build from NVlabs' names. Raises ``BadInputError`` where tensors are missing or of another shape."""
        super().__init__()
        self.settings = config
        self.resolution = config.img_resolution
        try:
            self._build(tensors)
        except KeyError as error:
            raise BadInputError(f"these are not the weights of a StyleGAN2: {error} is missing") from error
        base = {name: value for name, value in self.state_dict().items() if name != "mapping.w_avg"}
        self.sha256 = weights_sha256(base)

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Build from NVlabs' names and the keywords that the published ``Generator`` was made with."""
        return cls(tensors, StyleGAN2Config.from_keywords(config))

    @property
    def config(self) -> dict[str, Any]:
        """What ``from_state`` needs beside the tensors of ``state_dict``."""
        return asdict(self.settings)

    def _build(self, tensors: Mapping[str, Tensor]) -> None:
        self.mapping = MappingNetwork(tensors)
        self.z_dim, self.w_dim = self.mapping.z_dim, len(self.mapping.w_avg)
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        resample_filter = taps / taps.sum()
        self.register_buffer("_filter", resample_filter, persistent=False)
        self.synthesis = nn.ModuleDict()
        for name, value in tensors.items():
            square = torch.outer(resample_filter, resample_filter)
            if name.endswith("resample_filter") and not (value.shape == square.shape and value.allclose(square)):
                raise BadInputError(f"{name} is not the filter of 1, 3, 3, 1 that is supported")
        layers: list[StyleLayer] = []
        resolution, row = 4, 0
        while resolution <= self.resolution:
            block = nn.ModuleDict()
            for part in ("conv0", "conv1", "torgb"):
                name = f"b{resolution}.{part}"
                if name == "b4.conv0":
                    continue
                own = _under(tensors, f"synthesis.{name}.")
                layer = _Layer(own, 2 if part == "conv0" else 1, resample_filter)
                self._check_layer(name, layer, resolution)
                block[part] = layer
                layers.append(StyleLayer(name, resolution, layer.weight.shape[1], row, part == "torgb"))
                # ToRGB shares its row with the first convolution of the next block.
                row += part != "torgb"
            self.synthesis[f"b{resolution}"] = block
            resolution *= 2
        if resolution != 2 * self.resolution:
            raise BadInputError(f"a StyleGAN2 makes 4, 8, 16, ... pixels, not {self.resolution}")
        self.synthesis["b4"].register_parameter("const", frozen(tensors["synthesis.b4.const"]))
        self.num_ws, self.layers = row + 1, tuple(layers)

    def _check_layer(self, name: str, layer: _Layer, resolution: int) -> None:
        channels = layer.weight.shape[1]
        wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {
            "affine.weight": (layer.affine.weight, (channels, self.w_dim)),
            "affine.bias": (layer.affine.bias, (channels,)),
            "bias": (layer.bias, (layer.weight.shape[0],)),
        }
        if layer.noisy:
            wanted["noise_const"] = (layer.noise_const, (resolution, resolution))
        for part, (value, shape) in wanted.items():
            if tuple(value.shape) != shape:
                raise BadInputError(f"{name}.{part} has shape {tuple(value.shape)}, {shape} is needed")

    @property
    def w_mean(self) -> Tensor:
        """``(w_dim,)``: mean of W."""
        return self.mapping.w_avg

    @property
    def noise_maps(self) -> dict[str, Tensor]:
        """The constant noise by layer name, ``(H, W)``, of unit variance: what ``noise`` replaces."""
        layers = {layer.name: self._layer(layer.name) for layer in self.layers}
        return {name: layer.noise_const for name, layer in layers.items() if layer.noisy}

    def map(self, z: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None) -> Tensor:
        """``(N, z_dim)`` to ``(N, num_ws, w_dim)``; rows below the cutoff (or all) go towards the mean."""
        return self.mapping.rows(z, self.num_ws, truncation_psi, truncation_cutoff)

    def styles(self, ws: Tensor) -> dict[str, Tensor]:
        """S space: layer name to ``(N, channels)``, in the order of ``layers``, ToRGB included."""
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws must be (N, {self.num_ws}, {self.w_dim}), got {tuple(ws.shape)}")
        return {layer.name: self._layer(layer.name).affine(ws[:, layer.ws_index]) for layer in self.layers}

    def synthesize(
        self,
        ws: Tensor,
        noise_mode: NoiseMode = "const",
        noise: dict[str, Tensor] | None = None,
        transform: Tensor | None = None,
        resolution: int | None = None,
    ) -> Tensor:
        """``(N, num_ws, w_dim)`` to images ``(N, 3, r, r)``; see ``protocol.Generator``.

        A smaller ``resolution`` is the output averaged; ``transform`` warps the output.
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
        _, image = self._run(styles, noise_mode, noise or {}, self.resolution)
        image = shrink(image, self.resolution if resolution is None else resolution)
        return image if transform is None else move_image(image, transform)

    def features(self, ws: Tensor, resolution: int) -> Tensor:
        """Feature map ``(N, C, r, r)`` after the block that writes ``resolution``."""
        if f"b{resolution}" not in self.synthesis:
            raise ValueError(f"no block writes {resolution} px features; there are {', '.join(self.synthesis)}")
        return self._run(self.styles(ws), "const", {}, resolution)[0]

    def _run(
        self, styles: Mapping[str, Tensor], mode: NoiseMode, noise: Mapping[str, Tensor], until: int
    ) -> tuple[Tensor, Tensor]:
        for plan in self.layers:
            if plan.name not in styles or styles[plan.name].shape[1:] != (plan.channels,):
                raise ValueError(f"styles need {plan.name!r} of shape (N, {plan.channels})")
        unknown = set(noise) - set(self.noise_maps)
        if unknown:
            raise ValueError(f"no layer takes noise {sorted(unknown)}; there are {sorted(self.noise_maps)}")
        n = len(next(iter(styles.values())))
        x = self.synthesis.get_parameter("b4.const").expand(n, -1, -1, -1)
        image: Tensor | None = None
        for plan in self.layers:
            if plan.resolution > until:
                break
            layer, style = self._layer(plan.name), styles[plan.name]
            if plan.to_rgb:
                colours = layer(x, style, None, self.settings.conv_clamp)
                if image is not None:
                    image = upfirdn2d(image, cast(Tensor, self._filter), up=2, padding=(2, 1, 2, 1), gain=4.0)
                image = colours if image is None else image + colours
            else:
                given = _noise(layer, n, mode, noise.get(plan.name))
                x = layer(x, style, given, self.settings.conv_clamp)
        return x, cast(Tensor, image)

    def _layer(self, name: str) -> _Layer:
        return cast(_Layer, self.synthesis.get_submodule(name))


def _noise(layer: _Layer, n: int, mode: NoiseMode, given: Tensor | None) -> Tensor | None:
    constant = layer.noise_const
    if given is not None:
        return given.to(constant).reshape(-1, 1, *constant.shape)
    if mode == "random":
        return torch.randn((n, 1, *constant.shape), device=constant.device, dtype=constant.dtype)
    return constant if mode == "const" else None


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
