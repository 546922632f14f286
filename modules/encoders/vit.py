"""FrEN: the vision transformer that sends a face crop to codes in one pass (FrEN/ViEN, section 3.2, Fig. 2a)."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from modules.model_folder import load_model, require_generator, save_model

KIND = "frame-encoder"


@dataclass(frozen=True)
class FrameEncoderConfig:
    """Shape of the network."""

    image_size: int
    """Side of the crops in pixels; a multiple of the stem's total stride, 2 per stage."""
    stem_channels: tuple[int, ...]
    """Channels of the convolutional stem's stages; each halves the side."""
    width: int
    """Length of a token."""
    depth: int
    """Number of transformer blocks."""
    heads: int
    """Attention heads per block."""
    thumbnail: int
    """Side of the averaged image that the class token starts from."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stem_channels", tuple(self.stem_channels))
        if self.image_size % 2 ** len(self.stem_channels):
            raise ValueError(f"image_size {self.image_size} is not a multiple of {2 ** len(self.stem_channels)}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")


class StemStage(nn.Module):
    """Halve the side, then refine with one residual block; group norm, so a batch of one trains too."""

    def __init__(self, incoming: int, channels: int) -> None:
        super().__init__()
        groups = max(1, channels // 16)
        self.reduce = nn.Conv2d(incoming, channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, channels)
        self.refine = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.refine_norm = nn.GroupNorm(groups, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, channels, H/2, W/2)``."""
        x = nn.functional.gelu(self.norm(self.reduce(x)))
        return x + nn.functional.gelu(self.refine_norm(self.refine(x)))


class FrameEncoder(nn.Module):
    """FrEN: convolutional stem, transformer, and all ``num_ws`` codes read from the class token.

    The head answers in units of W's own spread: ``ws = w_mean + head(token) @ w_basis``, where ``w_basis`` is
    the symmetric root of W's covariance. Beyond the paper, the class token starts from a thumbnail of the image
    and the blocks start as the identity, so that ``start_linear`` can solve the first guess.
    """

    w_mean: Tensor
    w_basis: Tensor

    def __init__(self, config: FrameEncoderConfig, num_ws: int, w_mean: Tensor, w_basis: Tensor) -> None:
        super().__init__()
        (w_dim,) = w_mean.shape
        if w_basis.shape != (w_dim, w_dim):
            raise ValueError(f"w_basis must be ({w_dim}, {w_dim}), got {tuple(w_basis.shape)}")
        self.config, self.num_ws, self.w_dim = config, num_ws, w_dim
        self.register_buffer("w_mean", w_mean.clone())
        self.register_buffer("w_basis", w_basis.clone())
        channels = (3, *config.stem_channels)
        self.stem = nn.Sequential(*(StemStage(a, b) for a, b in itertools.pairwise(channels)))
        self.project = nn.Conv2d(channels[-1], config.width, 1)
        side = config.image_size // 2 ** len(config.stem_channels)
        self.class_token = nn.Linear(3 * config.thumbnail**2, config.width)
        self.positions = nn.Parameter(torch.zeros(1, side * side, config.width))
        blocks = (Block(config.width, config.heads, qkv_bias=True) for _ in range(config.depth))
        self.blocks = nn.Sequential(*blocks)
        # No norm before the head: the token's length carries how far from the mean face the codes lie.
        self.head = nn.Linear(config.width, num_ws * w_dim)
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        for block in self.blocks:
            for last in (block.get_submodule("attn.proj"), block.get_submodule("mlp.fc2")):
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, frames: Tensor, state: None = None) -> tuple[Tensor, None]:
        """FFHQ crops ``(N, 3, image_size, image_size)`` in [-1, 1] to ``ws`` ``(N, num_ws, w_dim)``; no state."""
        return self.codes(self.blocks(self.tokens(frames))[:, 0]), None

    def tokens(self, frames: Tensor) -> Tensor:
        """Frames ``(N, 3, S, S)`` to what enters the blocks: class token, then patches, ``(N, 1 + P, width)``."""
        size = self.config.image_size
        if frames.ndim != 4 or frames.shape[1:] != (3, size, size):
            raise ValueError(f"frames must be (N, 3, {size}, {size}), got {tuple(frames.shape)}")
        patches = self.project(self.stem(frames)).flatten(2).transpose(1, 2) + self.positions
        return torch.cat([self.class_token(self.thumbnails(frames))[:, None], patches], dim=1)

    def codes(self, token: Tensor) -> Tensor:
        """What the head reads from a token ``(N, width)``: ``(N, num_ws, w_dim)``."""
        answer = self.head(token).float().unflatten(1, (self.num_ws, self.w_dim))
        codes: Tensor = self.w_mean + answer @ self.w_basis
        return codes

    def thumbnails(self, frames: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, 3 * thumbnail²)``, averaged."""
        return nn.functional.adaptive_avg_pool2d(frames, self.config.thumbnail).flatten(1)

    @torch.no_grad()
    def start_linear(self, thumbnails: Tensor, ws: Tensor, ridge: float) -> None:
        """Solve class token and head: the best linear map of rank ``width`` from thumbnails to codes.

        ``thumbnails`` ``(N, 3 * thumbnail²)``, ``ws`` ``(N, num_ws, w_dim)``; ``ridge`` is relative to N. Reduced
        rank regression: ridge, then the leading singular directions of what it predicts.
        """
        if len(thumbnails) != len(ws) or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"{tuple(thumbnails.shape)} thumbnails do not go with codes {tuple(ws.shape)}")
        x, y = thumbnails.double(), (ws - self.w_mean).double().flatten(1)
        x_mean, y_mean = x.mean(0), y.mean(0)
        x, y = x - x_mean, y - y_mean
        scatter = x.T @ x / len(x)
        eye = torch.eye(len(scatter), dtype=x.dtype)
        full = torch.linalg.solve(scatter + ridge * eye, x.T @ y / len(x))
        root = torch.linalg.cholesky(scatter + 1e-9 * eye)
        _, _, directions = torch.linalg.svd(root.T @ full, full_matrices=False)
        directions = directions[: self.config.width]
        down = full @ directions.T
        spread = (x @ down).std(0).clamp_min(1e-9)
        rank = len(directions)
        self.class_token.weight.zero_()
        self.class_token.bias.zero_()
        self.class_token.weight[:rank] = (down / spread).T.float()
        self.class_token.bias[:rank] = -(x_mean @ down / spread).float()
        # The head answers in W's own spread, so what is solved in W goes back through the basis.
        up = torch.cat([directions * spread[:, None], y_mean[None]]).reshape(-1, self.num_ws, self.w_dim)
        up = (up @ torch.linalg.pinv(self.w_basis.double())).flatten(1).float()
        self.head.weight[:, :rank] = up[:-1].T
        self.head.bias.copy_(up[-1])


def w_statistics(w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(w_dim,)`` and symmetric root of the covariance ``(w_dim, w_dim)`` of samples ``(N, w_dim)``."""
    if w.ndim != 2 or len(w) <= w.shape[1]:
        raise ValueError(f"more samples than dimensions are needed, got {tuple(w.shape)}")
    mean = w.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((w - mean).double().T))
    basis = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return mean, basis.to(w.dtype)


def save_frame_encoder(
    folder: Path, encoder: FrameEncoder, generator_sha256: str, card: str, extra: dict[str, Any] | None = None
) -> Path:
    """Write the encoder as a model folder in float16; ``extra`` joins the config (steps, data)."""
    config = {
        "kind": KIND,
        "generator_sha256": generator_sha256,
        "network": asdict(encoder.config),
        "num_ws": encoder.num_ws,
        **(extra or {}),
    }
    return save_model(folder, config, {k: v.half() for k, v in encoder.state_dict().items()}, card)


def load_frame_encoder(folder: Path, generator_sha256: str | None) -> FrameEncoder:
    """Read an encoder, frozen and in evaluation mode.

    Raises ``BadInputError`` where the folder is damaged or belongs to a generator other than the given one.
    """
    model = load_model(folder, KIND)
    if generator_sha256 is not None:
        require_generator(model.config, generator_sha256, f"encoder {folder.name}")
    tensors = {name: value.float() for name, value in model.tensors.items()}
    config = FrameEncoderConfig(**model.config["network"])
    encoder = FrameEncoder(config, model.config["num_ws"], tensors["w_mean"], tensors["w_basis"])
    encoder.load_state_dict(tensors)
    return encoder.eval().requires_grad_(False)
