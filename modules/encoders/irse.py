"""The image encoders people own checkpoints of: pSp, e4e and ReStyle, all on IR-SE50."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.types import BadInputError
from modules.generators.protocol import Generator
from modules.generators.rows import row_map
from modules.generators.torch_archive import read_archive
from modules.perception.arcface import ir_se50_body, ir_se50_input
from modules.perception.state import build_with_state

Kind = Literal["psp", "e4e", "restyle-psp", "restyle-e4e"]
INPUT_SIZE = 256
_PREFIX = "encoder."

# The value of ``opts.encoder_type`` in a checkpoint.
_KINDS: dict[str, Kind] = {
    "GradualStyleEncoder": "psp",
    "Encoder4Editing": "e4e",
    "BackboneEncoder": "restyle-psp",
    "ProgressiveBackboneEncoder": "restyle-e4e",
}
# Units of IR-SE50 whose outputs are the fine, middle and coarse features, and the first fine and middle row.
_FINE, _MIDDLE, _COARSE = 6, 20, 23
_FIRST_MIDDLE_ROW, _FIRST_FINE_ROW = 3, 7


class _UnitGainLinear(nn.Module):
    """StyleGAN2's linear layer: weights of unit variance, scaled when it runs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)


class MapToStyle(nn.Module):
    """One row of the codes: strided convolutions down to one pixel, then a linear layer."""

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(side.bit_length() - 1):
            layers += [nn.Conv2d(channels, channels, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = _UnitGainLinear(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, side, side)`` to ``(N, channels)``."""
        style: Tensor = self.linear(self.convs(x).flatten(1))
        return style


class StyleEncoder(nn.Module):
    """Images to codes relative to the mean code.

    pSp (Richardson et al. 2021, section 3) reads each row from one of three levels of a feature pyramid;
    e4e (Tov et al. 2021, section 4) reads the first row so and adds an offset for each other row; ReStyle
    (Alaluf et al. 2021, section 4.2) reads all rows from the coarsest features.
    """

    def __init__(self, kind: Kind, rows: int, channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.input_layer = ir_se50_input(channels)
        self.body = ir_se50_body()
        self.styles = nn.ModuleList(MapToStyle(self._side(row), 512) for row in range(rows))
        if not kind.startswith("restyle"):
            self.latlayer1 = nn.Conv2d(256, 512, 1)
            self.latlayer2 = nn.Conv2d(128, 512, 1)

    def _side(self, row: int) -> int:
        if self.kind.startswith("restyle") or row < _FIRST_MIDDLE_ROW:
            return 16
        return 32 if row < _FIRST_FINE_ROW else 64

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], kind: Kind) -> StyleEncoder:
        """Build from a checkpoint's ``encoder.*`` tensors, the prefix removed.

        The number of rows and of input channels are read off the tensors. Raises ``BadInputError``.
        """
        rows = {int(match[1]) for match in (re.match(r"styles\.(\d+)\.", name) for name in state) if match}
        first = state.get("input_layer.0.weight")
        if first is None or first.ndim != 4 or not rows:
            raise BadInputError(
                f"these are not the weights of a {kind} encoder: input_layer or styles are missing"
            )
        make = partial(cls, kind, max(rows) + 1, first.shape[1])
        return build_with_state(make, state, f"a {kind} encoder on IR-SE50")

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, 256, 256)`` in [-1, 1] to ``(N, rows, 512)``.

        C is 3, RGB, or for ReStyle 6: the image, then its current reconstruction.
        """
        channels = self.input_layer[0].in_channels
        if x.ndim != 4 or x.shape[1:] != (channels, INPUT_SIZE, INPUT_SIZE):
            raise ValueError(
                f"the encoder takes (N, {channels}, {INPUT_SIZE}, {INPUT_SIZE}), got {tuple(x.shape)}"
            )
        levels = self._levels(x)
        styles = [style(levels[self._side(row)]) for row, style in enumerate(self.styles)]
        if self.kind.endswith("e4e"):
            styles = [styles[0], *(styles[0] + offset for offset in styles[1:])]
        return torch.stack(styles, dim=1)

    def _levels(self, x: Tensor) -> dict[int, Tensor]:
        x = self.input_layer(x)
        kept: dict[int, Tensor] = {}
        for index, unit in enumerate(self.body):
            x = unit(x)
            if index in (_FINE, _MIDDLE, _COARSE):
                kept[index] = x
        if self.kind.startswith("restyle"):
            return {16: kept[_COARSE]}
        middle = _upsample(kept[_COARSE], kept[_MIDDLE]) + self.latlayer1(kept[_MIDDLE])
        fine = _upsample(middle, kept[_FINE]) + self.latlayer2(kept[_FINE])
        return {16: kept[_COARSE], 32: middle, 64: fine}


class PublishedEncoder(nn.Module):
    """A single-image encoder with the common call: ``encoder(frames, state=None) -> (ws, state)``."""

    mean: Tensor

    def __init__(self, net: StyleEncoder, mean: Tensor, generator: Generator, steps: int) -> None:
        """``mean`` ``(rows, 512)`` is added to the codes; ReStyle runs ``steps`` times, the others once."""
        super().__init__()
        if mean.shape != (len(net.styles), 512):
            raise ValueError(f"the mean code must be ({len(net.styles)}, 512), got {tuple(mean.shape)}")
        if steps < 1:
            raise ValueError(f"ReStyle needs at least one step, got {steps}")
        self.net = net
        self.register_buffer("mean", mean)
        self._steps = steps
        self._rows = list(row_map(len(net.styles), generator))
        # In a tuple, so that the generator's weights are not taken for this encoder's.
        self._generator = (generator,)

    def forward(self, frames: Tensor, state: None = None) -> tuple[Tensor, None]:
        """FFHQ-aligned ``(N, 3, H, W)`` RGB in [-1, 1] to ``(N, num_ws, 512)`` of the generator.

        Frames of another size than 256 px are resized. There is nothing to remember: ``state`` is ignored.
        """
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"frames must be (N, 3, H, W), got {tuple(frames.shape)}")
        images = frames
        if frames.shape[2:] != (INPUT_SIZE, INPUT_SIZE):
            images = functional.interpolate(frames, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
        codes = self.mean.expand(len(frames), -1, -1)
        if not self.net.kind.startswith("restyle"):
            return (codes + self.net(images))[:, self._rows], None
        # ReStyle's eq. 2 and 3, starting from the mean code and its image.
        for step in range(self._steps):
            shown = self._reconstruct(codes[:1]).expand_as(images) if step == 0 else self._reconstruct(codes)
            codes = codes + self.net(torch.cat([images, shown], dim=1))
        return codes[:, self._rows], None

    def _reconstruct(self, codes: Tensor) -> Tensor:
        images = self._generator[0].synthesize(codes[:, self._rows])
        return functional.adaptive_avg_pool2d(images, INPUT_SIZE)


def encoder_from_checkpoint(checkpoint: Mapping[str, Any], generator: Generator, steps: int) -> PublishedEncoder:
    """Build from a pSp, e4e or ReStyle ``.pt`` as read: ``state_dict``, ``opts``, optional ``latent_avg``.

    ``latent_avg`` may be (512), (1, 512) or (rows, 512). Without it, and where the options start from the
    mean, the generator's own mean stands in, as the published code does. ``steps`` counts ReStyle's
    refinements (5 were published). Raises ``BadInputError`` for other encoders and other files.
    """
    state, options = checkpoint.get("state_dict"), checkpoint.get("opts")
    if not isinstance(state, Mapping) or options is None:
        raise BadInputError("no pSp, e4e or ReStyle checkpoint: it needs 'state_dict' and 'opts'")
    options = options if isinstance(options, Mapping) else vars(options)
    name = options.get("encoder_type")
    if name not in _KINDS:
        raise BadInputError(f"encoder type {name!r} cannot be read; known are {', '.join(_KINDS)}")
    weights = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    net = StyleEncoder.from_state(weights, _KINDS[name])
    mean = torch.zeros(512)
    if options.get("start_from_latent_avg", True):
        found = checkpoint.get("latent_avg")
        mean = (found if isinstance(found, Tensor) else generator.w_mean).detach().float().cpu()
    if mean.shape[-1:] != (512,) or mean.numel() not in (512, len(net.styles) * 512):
        raise BadInputError(
            f"latent_avg is {tuple(mean.shape)}; it must be (512), (1, 512) or ({len(net.styles)}, 512)"
        )
    rows = mean.reshape(-1, 512).expand(len(net.styles), -1).clone()
    return PublishedEncoder(net, rows, generator, steps)


def load_encoder(path: Path, generator: Generator, steps: int, device: str = "cpu") -> PublishedEncoder:
    """Read a pSp, e4e or ReStyle ``.pt``, nothing in it executed; see ``encoder_from_checkpoint``."""
    checkpoint = read_archive(path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise BadInputError(f"{path} is no pSp, e4e or ReStyle checkpoint: it has no 'state_dict'")
    # The tensors are views of the mapped file, which may change or vanish.
    kept = {name: value.clone() for name, value in state.items() if name.startswith(_PREFIX)}
    return encoder_from_checkpoint({**checkpoint, "state_dict": kept}, generator, steps).to(device)


def _upsample(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)
