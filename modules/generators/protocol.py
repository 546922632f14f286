"""The one face of every generator; nothing outside this package asks which one it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

NoiseMode = Literal["const", "random", "none"]


@dataclass(frozen=True)
class StyleLayer:
    """One modulated layer: the split into coarse and fine codes and S space are read off these."""

    name: str
    """Key of the layer in the dict that ``styles`` returns."""
    resolution: int
    """Side of the feature map the layer writes, in pixels."""
    channels: int
    """Length of the layer's style vector (its input channels)."""
    ws_index: int
    """Row of ``ws`` that the layer reads."""
    to_rgb: bool
    """Whether it writes colours (or wavelet bands of colours) rather than features."""


class Generator(Protocol):
    """A StyleGAN: ``map`` z to codes, ``synthesize`` images from codes or from styles.

    Codes ``ws`` are ``(N, num_ws, w_dim)`` float32. Images are ``(N, 3, H, W)`` RGB, nominally in [-1, 1]
    and not clamped.
    """

    z_dim: int
    w_dim: int
    num_ws: int
    resolution: int
    w_mean: Tensor
    """``(w_dim,)``: mean of W."""
    layers: tuple[StyleLayer, ...]
    sha256: str
    """Hex digest over names, shapes and values of the base weights: codes of one generator fit no other."""

    def map(self, z: Tensor, truncation_psi: float = 1.0, truncation_cutoff: int | None = None) -> Tensor:
        """``(N, z_dim)`` to ``(N, num_ws, w_dim)``; rows below the cutoff are pulled towards the mean."""
        ...

    def synthesize(
        self,
        ws: Tensor,
        noise_mode: NoiseMode = "const",
        noise: dict[str, Tensor] | None = None,
        transform: Tensor | None = None,
        resolution: int | None = None,
    ) -> Tensor:
        """``(N, num_ws, w_dim)`` to images ``(N, 3, r, r)``, ``r`` the given or own resolution.

        ``transform`` is the ``(3, 3)`` or ``(N, 3, 3)`` similarity that moves the image, in units where the
        image spans [-0.5, 0.5] with y down. ``noise`` replaces noise maps by layer name.
        """
        ...

    def styles(self, ws: Tensor) -> dict[str, Tensor]:
        """S space: layer name to ``(N, channels)``, one entry for each of ``layers``, in their order."""
        ...

    def synthesize_from_styles(
        self,
        styles: dict[str, Tensor],
        noise_mode: NoiseMode = "const",
        noise: dict[str, Tensor] | None = None,
        transform: Tensor | None = None,
        resolution: int | None = None,
    ) -> Tensor:
        """Like ``synthesize``, from S space."""
        ...


@runtime_checkable
class HasPrecision(Protocol):
    """A generator whose features can be computed in another precision than float32."""

    compute_dtype: torch.dtype


@runtime_checkable
class CompilesGradients(Protocol):
    """A generator whose renderings torch can compile where gradients are asked of them."""

    def compile_gradients(self) -> None:
        """From now on they are."""
        ...
