"""FrEN: the vision transformer that sends a face crop to codes in one pass (FrEN/ViEN, section 3.2, Fig. 2a)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.model_folder import load_model, require_generator, save_model, weights_sha256
from modules.perception.identity import FaceSight, IdentityNet, load_identity

KIND = "frame-encoder"
_EMBEDDING = 512
_TOLD = _EMBEDDING + 68 * 3
_FAR = 6.0
"""Standard deviations beyond which a number of the face nets is not believed."""


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
    told_width: int
    """Numbers that the face nets' embedding and landmarks are reduced to; 0 is an encoder without face nets."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stem_channels", tuple(self.stem_channels))
        if self.image_size % 2 ** len(self.stem_channels):
            raise ValueError(f"image_size {self.image_size} is not a multiple of {2 ** len(self.stem_channels)}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")

    @property
    def sighted(self) -> bool:
        """Whether the encoder asks the face nets."""
        return self.told_width > 0


class FaceNets:
    """The frozen nets that an encoder asks: they go where the frames are, and are no part of its weights."""

    def __init__(self, identity: IdentityNet) -> None:
        self.identity = identity

    def look(self, frames: Tensor) -> FaceSight:
        """What they see in frames ``(N, 3, S, S)`` in [-1, 1]."""
        if self.identity.reference.device != frames.device:
            self.identity.to(frames.device)
        return self.identity.look(frames.float())

    def __deepcopy__(self, memo: dict[int, Any]) -> FaceNets:
        return self


def load_face_nets() -> FaceNets:
    """The identity net and the mesh in front of it."""
    return FaceNets(load_identity())


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

    Also beyond the paper, where ``config.told_width`` says so: a frozen identity net and the face mesh, trained
    on more faces than an encoder sees, look at the frame too. What they tell, an embedding and landmarks, goes
    through a linear map of that rank, which can be solved (``start_told``), and is added to the class token at
    the end.
    """

    w_mean: Tensor
    w_basis: Tensor
    told_mean: Tensor
    told_spread: Tensor

    def __init__(
        self,
        config: FrameEncoderConfig,
        num_ws: int,
        w_mean: Tensor,
        w_basis: Tensor,
        face_nets: FaceNets | None = None,
    ) -> None:
        """``face_nets`` are asked where ``config.sighted``; None loads them there."""
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
        self.face_nets: FaceNets | None = None
        if config.sighted:
            self.face_nets = face_nets or load_face_nets()
            self.told_reduce = nn.Linear(_TOLD, config.told_width, bias=False)
            self.told_expand = nn.Linear(config.told_width, config.width)
            self.register_buffer("told_mean", torch.zeros(_TOLD))
            self.register_buffer("told_spread", torch.ones(_TOLD))
            for parameter in self.told_expand.parameters():
                nn.init.zeros_(parameter)
        nn.init.trunc_normal_(self.positions, std=0.02)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        for block in self.blocks:
            for last in (block.get_submodule("attn.proj"), block.get_submodule("mlp.fc2")):
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, frames: Tensor, state: None = None) -> tuple[Tensor, None]:
        """FFHQ crops ``(N, 3, image_size, image_size)`` in [-1, 1] to ``ws`` ``(N, num_ws, w_dim)``; no state."""
        return self.codes(self.blocks(self.tokens(frames))[:, 0] + self.told(frames)), None

    def tokens(self, frames: Tensor) -> Tensor:
        """Frames ``(N, 3, S, S)`` to what enters the blocks: class token, then patches, ``(N, 1 + P, width)``."""
        size = self.config.image_size
        if frames.ndim != 4 or frames.shape[1:] != (3, size, size):
            raise ValueError(f"frames must be (N, 3, {size}, {size}), got {tuple(frames.shape)}")
        patches = self.project(self.stem(frames)).flatten(2).transpose(1, 2) + self.positions
        return torch.cat([self.class_token(self.thumbnails(frames))[:, None], patches], dim=1)

    def told(self, frames: Tensor) -> Tensor:
        """What the face nets add to the class tokens of frames ``(N, 3, S, S)``: ``(N, width)``."""
        if self.face_nets is None:
            return frames.new_zeros(len(frames), self.config.width)
        answer: Tensor = self.told_expand(self.told_reduce(self._scaled(self.face_nets.look(frames))))
        return answer

    def _scaled(self, sight: FaceSight) -> Tensor:
        """``(N, 716)`` on the scale of the samples; landmarks of no face say as little as the average's."""
        numbers = ((_numbers(sight) - self.told_mean) / self.told_spread).clamp(-_FAR, _FAR)
        return torch.cat([numbers[:, :_EMBEDDING], numbers[:, _EMBEDDING:] * sight.seen[:, None]], dim=1)

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

    @torch.no_grad()
    def start_told(self, frames: Iterable[Tensor], ws: Tensor, ridge: float, real: Iterable[Tensor] = ()) -> None:
        """Solve what is made of the face nets' numbers: the best map, of rank ``told_width``, to what codes miss.

        ``frames`` are batches ``(n, 3, S, S)`` of N images with the codes ``ws`` ``(N, num_ws, w_dim)``; ``ridge``
        is relative to N. The regression has the class tokens to explain by as well, and that part is left out:
        what the encoder itself makes of a frame, in which real frames differ from these samples, stays as it is.
        For the same reason nothing is added on average over ``real`` frames, where there are some. Raises
        ``BadInputError`` where there are not two faces.
        """
        if self.face_nets is None:
            raise ValueError("this encoder asks no face nets")
        sights, tokens = [], []
        for batch in frames:
            sights.append(self.face_nets.look(batch))
            tokens.append(self.blocks(self.tokens(batch))[:, 0])
        sight, token = FaceSight(*(torch.cat(part) for part in zip(*sights, strict=True))), torch.cat(tokens)
        if len(token) != len(ws) or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"{len(token)} frames do not go with codes {tuple(ws.shape)}")
        if int(sight.seen.sum()) < 2:
            raise BadInputError("the mesh sees no faces in the samples; make more with `stylereel train samples`")
        seen = _numbers(sight)[sight.seen]
        self.told_mean.copy_(seen.mean(0))
        self.told_spread.copy_(seen.std(0).clamp_min(1e-3))
        numbers, token = self._scaled(sight).double(), token.double()
        # The head and the basis of W as one map, and what of the missing codes lies in its reach.
        head = self.head.weight.double().reshape(self.num_ws, self.w_dim, -1)
        reach, triangle = torch.linalg.qr(torch.einsum("rdt,de->ret", head, self.w_basis.double()).flatten(0, 1))
        missing = (ws - self.codes(token.float())).double().flatten(1) @ reach
        x = torch.cat([numbers, token / token.std(0).mean(), torch.ones_like(token[:, :1])], dim=1)
        penalty = ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        full = torch.linalg.solve(x.T @ x + penalty, x.T @ missing)[:_TOLD]
        _, _, directions = torch.linalg.svd(numbers @ full, full_matrices=False)
        directions = directions[: self.config.told_width]
        reduce = torch.zeros_like(self.told_reduce.weight)
        reduce[: len(directions)] = (full @ directions.T).T.float()
        expand = torch.zeros_like(self.told_expand.weight)
        expand[:, : len(directions)] = torch.linalg.solve(triangle, directions.T).float()
        spread = (numbers.float() @ reduce.T).std(0).clamp_min(1e-9)
        self.told_reduce.weight.copy_(reduce / spread[:, None])
        self.told_expand.weight.copy_(expand * spread)
        nn.init.zeros_(self.told_expand.bias)
        added = [self.told(batch) for batch in real]
        if added:
            self.told_expand.bias.sub_(torch.cat(added).mean(0))


def _numbers(sight: FaceSight) -> Tensor:
    """What the nets say in numbers, ``(N, 716)``: a unit embedding and 68 landmarks."""
    return torch.cat([sight.embedding.float(), sight.landmarks.flatten(1)], dim=1)


def sighted(encoder: FrameEncoder, told_width: int) -> FrameEncoder:
    """A copy of an encoder that asks the face nets too; nothing that they tell moves its codes yet."""
    config = replace(encoder.config, told_width=told_width)
    grown = FrameEncoder(config, encoder.num_ws, encoder.w_mean, encoder.w_basis)
    grown.load_state_dict(grown.state_dict() | encoder.state_dict())
    return grown


def w_statistics(w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(w_dim,)`` and symmetric root of the covariance ``(w_dim, w_dim)`` of samples ``(N, w_dim)``."""
    if w.ndim != 2 or len(w) <= w.shape[1]:
        raise ValueError(f"more samples than dimensions are needed, got {tuple(w.shape)}")
    mean = w.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((w - mean).double().T))
    basis = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return mean, basis.to(w.dtype)


def network_config(network: dict[str, Any]) -> FrameEncoderConfig:
    """The shape that a model folder names; those of before there were face nets do not name ``told_width``."""
    return FrameEncoderConfig(**{"told_width": 0, **network})


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
    config = network_config(model.config["network"])
    encoder = FrameEncoder(config, model.config["num_ws"], tensors["w_mean"], tensors["w_basis"])
    encoder.load_state_dict(tensors)
    return encoder.eval().requires_grad_(False)


def made_for(first: FrameEncoder, generator_sha256: str) -> dict[str, str]:
    """What the config of a model says that goes with one generator and one FrEN only: the hashes of both."""
    return {"generator_sha256": generator_sha256, "frame_encoder_sha256": weights_sha256(first.state_dict())}


def require_frame_encoder(config: dict[str, Any], first: FrameEncoder, what: str, stage: str) -> None:
    """Refuse a FrEN other than the one that ``what`` was trained with, with both hashes in the message.

    ``stage`` is the training that makes it anew.
    """
    trained_with, given = config.get("frame_encoder_sha256"), weights_sha256(first.state_dict())
    if trained_with != given:
        raise BadInputError(
            f"{what} was trained with frame encoder {trained_with}, but the one in use is {given}; "
            f"load the one it was trained with, or train it again with 'stylereel train {stage}'"
        )
