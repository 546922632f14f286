"""MobileStyleGAN (Belousov 2021): StyleGAN2's mapping, separable convolutions, wavelets instead of ToRGB skips.

The published network has 23 style slots; its exported form keeps only the last to-image layer, so 16 act:
``b4.conv1`` reads row 0, block ``i`` rows ``2i+1`` (``up`` and ``conv1``) and ``2i+2`` (``conv2``), ``to_img``
row 15. StyleGAN2-FFHQ's 18 rows therefore map 0-14 to 0-14 and 17 to 15. Demodulation is folded into the
weights, strengths of noise into the noise maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.generators.openvino import read_mobilestylegan
from modules.generators.protocol import NoiseMode, StyleLayer
from modules.model_folder import weights_sha256
from modules.ops import haar_order, inverse_haar, move_image, shrink

MEAN_SAMPLES = 10_000
"""Draws of z behind ``w_mean``: the exported network carries no mean of its own."""


class _Layer(nn.Module):
    """A modulated layer: its affine map, and a convolution unless it only scales (``up``)."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        own = {
            key.removeprefix(f"synthesis.{name}."): value
            for key, value in tensors.items()
            if key.startswith(f"synthesis.{name}.")
        }
        self.affine = _linear(own["affine.weight"], own["affine.bias"])
        self.weight = _frozen(own.get("weight"))
        self.bias = _frozen(own.get("bias"))
        self.depthwise = _frozen(own.get("depthwise"))
        self.noise: Tensor | None
        self.register_buffer("noise", own.get("noise"))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None, order: Tensor | None = None) -> Tensor:
        """Convolve ``(N, C, H, W)`` under styles ``(N, C)``, add bias and noise ``(1 or N, 1, H, W)``.

        ``order`` picks the output channels. Scaling channels commutes with the depthwise step, so the style
        goes into the pointwise weight. Where a gradient of the style alone is asked for, it goes into the
        features: a sum over them is all that this gradient takes; that of a modulated weight takes a product more.
        """
        weight, bias = cast(Tensor, self.weight), cast(Tensor, self.bias)
        if order is not None:
            weight, bias = weight[order], bias[order]
        bias = bias.to(x.dtype)
        if self.depthwise is not None:
            x = F.conv2d(x, self.depthwise.to(x.dtype), padding=1, groups=x.shape[1])
            if self._asks_styles_alone(weight, style, x):
                x = F.conv2d(x * style[:, :, None, None], weight, bias)
                return x if noise is None else x.add_(noise)
        modulated = (weight * style[:, None, :, None, None]).to(x.dtype)
        n, _, height, width = x.shape
        if n == 1:
            x = F.conv2d(x, modulated[0], bias, padding=weight.shape[-1] // 2)
        elif weight.shape[-1] == 1:
            pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, -1)
            x = torch.baddbmm(bias, pixels, modulated.flatten(2).transpose(1, 2))
            x = x.reshape(n, height, width, -1).permute(0, 3, 1, 2)
        else:
            pad, merged = weight.shape[-1] // 2, x.reshape(1, -1, height, width)
            x = F.conv2d(merged, modulated.flatten(0, 1), padding=pad, groups=n).reshape(n, -1, height, width)
            x = x + bias[:, None, None]
        # In place: no gradient looks at what a convolution gave, and fresh memory costs more than the sum.
        return x if noise is None else x.add_(noise.to(x.dtype))

    @staticmethod
    def _asks_styles_alone(weight: Tensor, style: Tensor, x: Tensor) -> bool:
        # Features of bfloat16 would be rounded once more.
        frozen = style.requires_grad and not weight.requires_grad
        return torch.is_grad_enabled() and frozen and x.dtype == torch.float32


class MobileStyleGAN(nn.Module):
    """The generator; satisfies ``protocol.Generator``. Its parameters are frozen until told otherwise.

    ``compute_dtype`` is the precision of the features (float32 or bfloat16); images come out as the codes came in.
    Raises ``BadInputError`` where tensors (named as ``read_mobilestylegan`` says) are missing.
    """

    w_mean: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.compute_dtype = torch.float32
        self._compiled: Callable[..., Tensor] | None = None
        self.sha256 = weights_sha256(dict(tensors))
        try:
            self._build(tensors)
        except KeyError as error:
            raise BadInputError(f"these are not the weights of a MobileStyleGAN: {error} is missing") from error
        self.register_buffer("w_mean", self._mean_of_mapping(), persistent=False)

    def _build(self, tensors: Mapping[str, Tensor]) -> None:
        depth = sum(key.startswith("mapping.") and key.endswith(".weight") for key in tensors)
        self.mapping = nn.ModuleDict(
            {
                f"fc{i}": _linear(tensors[f"mapping.fc{i}.weight"], tensors[f"mapping.fc{i}.bias"])
                for i in range(depth)
            }
        )
        first = nn.ModuleDict({"conv1": _Layer(tensors, "b4.conv1")})
        first.register_parameter("const", _frozen(tensors["synthesis.b4.const"]))
        self.synthesis = nn.ModuleDict({"b4": first})
        layers = [("b4.conv1", 4, 0)]
        resolution, row = 8, 1
        while f"synthesis.b{resolution}.up.affine.weight" in tensors:
            parts = {part: _Layer(tensors, f"b{resolution}.{part}") for part in ("up", "conv1", "conv2")}
            self.synthesis[f"b{resolution}"] = nn.ModuleDict(parts)
            layers += [(f"b{resolution}.{part}", resolution, row + (part == "conv2")) for part in parts]
            resolution, row = resolution * 2, row + 2
        self.synthesis["to_img"] = _Layer(tensors, "to_img")
        layers.append(("to_img", resolution // 2, row))
        self.layers = tuple(
            StyleLayer(name, side, self._layer(name).affine.out_features, index, name == "to_img")
            for name, side, index in layers
        )
        self.resolution, self.num_ws = resolution, row + 1
        self.z_dim = int(tensors["mapping.fc0.weight"].shape[1])
        self.w_dim = self._layer("to_img").affine.in_features

    @classmethod
    def from_openvino(cls, folder: Path) -> Self:
        """Read the folder with ``{MappingNetwork,SynthesisNetwork}.{xml,bin}`` of the PyPI package random-face."""
        return cls(read_mobilestylegan(folder))

    def map(self, z: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None) -> Tensor:
        """``(N, z_dim)`` to ``(N, num_ws, w_dim)``; rows below the cutoff (or all) are pulled to the mean."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z must be (N, {self.z_dim}), got {tuple(z.shape)}")
        ws = self._mapped(z)[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi != 1.0:
            ws[:, :truncation_cutoff] = self.w_mean.lerp(ws[:, :truncation_cutoff], truncation_psi)
        return ws

    def styles(self, ws: Tensor) -> dict[str, Tensor]:
        """S space: layer name to ``(N, channels)``, in the order of ``layers``."""
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

        A smaller ``resolution`` is the whole network's output averaged over boxes; half of the full one costs
        nothing, since it is the low-pass wavelet band. ``transform`` warps the output.
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
        self._check(styles, noise)
        side = self.resolution if resolution is None else resolution
        learned = torch.is_grad_enabled() and any(style.requires_grad for style in styles.values())
        render = self._compiled if self._compiled and learned else self._image
        # On a CPU, one image at a time stays in the cache and is faster than a batch.
        if next(iter(styles.values())).device.type == "cpu":
            images = torch.cat([render(*one, noise_mode, side) for one in _singles(styles, noise or {})])
        else:
            images = render(styles, noise or {}, noise_mode, side)
        return images if transform is None else move_image(images, transform)

    def compile_gradients(self, backend: str = "inductor") -> None:
        """Let torch compile the renderings that gradients are asked of, once for each of up to 8 batch sizes.

        For trainings on a GPU, where the wavelets' many small steps are bound by memory: on an H200, 48 images of
        256 px there and back took 1.0 ms each in the place of 4.6, after a minute or two.
        """
        self._compiled = torch.compile(self._image, dynamic=False, backend=backend)

    def _image(
        self, styles: Mapping[str, Tensor], noise: Mapping[str, Tensor], mode: NoiseMode, side: int
    ) -> Tensor:
        x = self._features(styles, noise, mode, self.resolution // 2)
        full = 2 * side > self.resolution
        # Half the low-pass band is the mean of each 2x2 box of the full image.
        order = haar_order(12) if full else torch.arange(3)
        bands = self._layer("to_img")(x, styles["to_img"], None, order.to(x.device)).to(styles["to_img"].dtype)
        return shrink(inverse_haar(bands) if full else bands * 0.5, side).contiguous()

    def features(
        self,
        ws: Tensor,
        resolution: int,
        noise_mode: NoiseMode = "const",
        noise: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """Feature map ``(N, C, r, r)`` after the block that writes ``resolution`` (128: 256 channels)."""
        styles = self.styles(ws)
        self._check(styles, noise)
        if f"b{resolution}" not in self.synthesis:
            known = ", ".join(name[1:] for name in self.synthesis if name != "to_img")
            raise ValueError(f"no block writes {resolution} px features; there are {known}")
        return self._features(styles, noise or {}, noise_mode, resolution).to(ws.dtype)

    @property
    def noise_maps(self) -> dict[str, Tensor]:
        """The constant noise by layer name, ``(H, W)``, at unit root mean square: what ``noise`` replaces."""
        maps = {layer.name: self._layer(layer.name).noise for layer in self.layers}
        return {name: value / _rms(value) for name, value in maps.items() if value is not None}

    def _features(
        self, styles: Mapping[str, Tensor], noise: Mapping[str, Tensor], mode: NoiseMode, until: int
    ) -> Tensor:
        n = len(styles["b4.conv1"])
        x = cast(Tensor, self.synthesis.get_parameter("b4.const")).to(self.compute_dtype).expand(n, -1, -1, -1)
        resolution = 4
        while True:
            parts = [part for part in ("conv1", "conv2") if f"b{resolution}.{part}" in styles]
            for part in parts:
                name = f"b{resolution}.{part}"
                layer = self._layer(name)
                # The wavelets are joined from runs of channels: the last convolution before writes them so.
                runs = part == parts[-1] and resolution != until
                order = haar_order(len(cast(Tensor, layer.bias))).to(x.device) if runs else None
                x = F.leaky_relu_(layer(x, styles[name], self._noise(name, n, mode, noise), order), 0.2)
            if resolution == until:
                return x
            resolution *= 2
            scale = styles[f"b{resolution}.up"]
            scale = scale[:, haar_order(scale.shape[1]).to(x.device)].to(x.dtype)
            x = inverse_haar(x * scale[:, :, None, None])

    def _noise(self, name: str, n: int, mode: NoiseMode, given: Mapping[str, Tensor]) -> Tensor | None:
        constant = self._layer(name).noise
        if constant is None or (mode == "none" and name not in given):
            return None
        if name in given:
            return given[name].to(constant).reshape(-1, 1, *constant.shape) * _rms(constant)
        if mode == "random":
            # The export multiplied strength and map; the map had unit variance, so its size is the strength.
            shape = (n, 1, *constant.shape)
            return torch.randn(shape, device=constant.device, dtype=constant.dtype) * _rms(constant)
        return constant[None, None]

    def _check(self, styles: Mapping[str, Tensor], noise: Mapping[str, Tensor] | None) -> None:
        for layer in self.layers:
            if layer.name not in styles or styles[layer.name].shape[1:] != (layer.channels,):
                raise ValueError(f"styles need {layer.name!r} of shape (N, {layer.channels})")
        unknown = set(noise or {}) - set(self.noise_maps)
        if unknown:
            raise ValueError(f"no layer takes noise {sorted(unknown)}; there are {sorted(self.noise_maps)}")

    def _layer(self, name: str) -> _Layer:
        return cast(_Layer, self.synthesis.get_submodule(name))

    def _mapped(self, z: Tensor) -> Tensor:
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping.values():
            x = F.leaky_relu(layer(x), 0.2) * 2**0.5
        return x

    @torch.no_grad()
    def _mean_of_mapping(self) -> Tensor:
        z = np.random.RandomState(0).standard_normal((MEAN_SAMPLES, self.z_dim)).astype(np.float32)
        return self._mapped(torch.from_numpy(z)).mean(0)


def _singles(
    styles: Mapping[str, Tensor], noise: Mapping[str, Tensor]
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    count = len(next(iter(styles.values())))
    for i in range(count):
        one = {name: value[i : i + 1] for name, value in styles.items()}
        maps = {
            name: value[i : i + 1] if value.ndim == 4 and len(value) > 1 else value
            for name, value in noise.items()
        }
        yield one, maps


def _frozen(value: Tensor | None) -> nn.Parameter | None:
    return None if value is None else nn.Parameter(value.detach().clone(), requires_grad=False)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = (
        nn.Parameter(weight.detach().clone(), False),
        nn.Parameter(bias.detach().clone(), False),
    )
    return layer


def _rms(value: Tensor) -> Tensor:
    return value.square().mean().sqrt().clamp_min(1e-12)
