"""ViEN: coarse codes from the frame and the code before it, fine codes kept (FrEN/ViEN, section 3.2, Fig. 2b)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from datamodules.types import BadInputError
from modules.encoders.vit import FrameEncoder, made_for, network_config, require_frame_encoder
from modules.model_folder import load_model, require_generator, save_model

KIND = "video-encoder"


@dataclass(frozen=True)
class VideoEncoderConfig:
    """Shape of what ViEN has beside FrEN's transformer."""

    coarse_resolution: int
    """Rows that modulate features of this many pixels or smaller are predicted, the finer ones are kept."""
    code_width: int
    """Numbers that each row of the previous code is reduced to before the projector mixes them."""


class Sight(NamedTuple):
    """What ViEN sees in N frames, whatever came before them."""

    token: Tensor
    """``(N, width)``: the class token after the last block, and what the face nets add to it."""
    keys: tuple[Tensor, ...]
    """Per block ``(N, heads, 1 + P, width / heads)``."""
    values: tuple[Tensor, ...]
    """Per block, as the keys."""

    def at(self, index: int, of: int) -> Sight:
        """Frames ``index``, ``index + of``, ...: one step of sequences that are ``of`` frames long."""
        pick = slice(index, None, of)
        return Sight(self.token[pick], tuple(k[pick] for k in self.keys), tuple(v[pick] for v in self.values))


class VideoTransformer(nn.Module):
    """ViEN without the FrEN that encodes its first frames.

    A transformer like FrEN's looks at the frame; the previous code enters as an extra token, projected by an
    MLP. The extra token sees class token and patches in every block, they do not see it: what is seen in a
    frame then does not hang on the past, so that the frames of a chunk go through together and only the extra
    token goes frame by frame. What it found is added to the class token before the head reads the coarse rows.

    Beyond the paper, each coarse row may also stay near the previous one: ``answer + hold * (previous - answer)``
    with ``hold`` in (-1, 1) read from the frame and the previous code, so that an error made once fades.
    The extra parts end in zeros: at first the answer is that of the transformer alone.
    """

    def __init__(self, trunk: FrameEncoder, num_ws: int, config: VideoEncoderConfig) -> None:
        """``trunk`` answers the coarse rows of ``num_ws``."""
        super().__init__()
        if not 0 < trunk.num_ws < num_ws:
            raise ValueError(f"{trunk.num_ws} of {num_ws} rows leave no fine ones to keep")
        self.config, self.num_ws, self.w_dim, self.coarse = config, num_ws, trunk.w_dim, trunk.num_ws
        self.trunk = trunk
        width = trunk.config.width
        self.reduce = nn.Linear(trunk.w_dim, config.code_width)
        self.projector = nn.Sequential(
            nn.GELU(), nn.Linear(num_ws * config.code_width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.compare = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.GELU())
        self.correct = nn.Linear(width, width)
        self.hold = nn.Linear(width, self.coarse)
        for last in (self.correct, self.hold):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def look(self, frames: Tensor) -> Sight:
        """What is in frames ``(N, 3, image_size, image_size)`` in [-1, 1], each on its own."""
        tokens, keys, values = self.trunk.tokens(frames), [], []
        for block in self._blocks():
            query, key, value = _heads(block, tokens)
            tokens = _after(block, tokens, F.scaled_dot_product_attention(query, key, value))
            keys.append(key)
            values.append(value)
        return Sight(tokens[:, 0] + self.trunk.told(frames), tuple(keys), tuple(values))

    def follow(self, sight: Sight, previous: Tensor) -> Tensor:
        """Codes ``(N, num_ws, w_dim)`` of what is seen, after ``previous`` ``(N, num_ws, w_dim)``."""
        self._require_codes(previous, len(sight.token))
        extra = self._extra(previous)
        for block, keys, values in zip(self._blocks(), sight.keys, sight.values, strict=True):
            query, key, value = _heads(block, extra)
            seen = F.scaled_dot_product_attention(
                query, torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
            )
            extra = _after(block, extra, seen)
        return self._answer(sight.token, extra[:, 0], previous)

    def step(self, frames: Tensor, previous: Tensor) -> Tensor:
        """``follow(look(frames), previous)`` in one pass, which reads each weight once: for one frame at a time.

        The extra token alone would cost a CPU the reading of all blocks again, a fifth of the time of a frame.
        """
        self._require_codes(previous, len(frames))
        tokens = torch.cat([self.trunk.tokens(frames), self._extra(previous)], dim=1)
        for block in self._blocks():
            query, key, value = _heads(block, tokens)
            seen = F.scaled_dot_product_attention(query[:, :, :-1], key[:, :, :-1], value[:, :, :-1])
            past = F.scaled_dot_product_attention(query[:, :, -1:], key, value)
            tokens = _after(block, tokens, torch.cat([seen, past], dim=2))
        return self._answer(tokens[:, 0] + self.trunk.told(frames), tokens[:, -1], previous)

    def roll_out(self, frames: Tensor, previous: Tensor) -> Tensor:
        """Codes ``(N, T, num_ws, w_dim)`` of N sequences ``(N, T, 3, S, S)``, each on its own outputs.

        ``previous`` ``(N, num_ws, w_dim)`` are the codes of the frames before the first.
        """
        length = frames.shape[1]
        sight, codes = self.look(frames.flatten(0, 1)), []
        for step in range(length):
            previous = self.follow(sight.at(step, length), previous)
            codes.append(previous)
        return torch.stack(codes, dim=1)

    def _require_codes(self, previous: Tensor, frames: int) -> None:
        wanted = (frames, self.num_ws, self.w_dim)
        if previous.shape != wanted:
            raise ValueError(f"the previous codes must be {wanted}, got {tuple(previous.shape)}")

    def _extra(self, previous: Tensor) -> Tensor:
        """The previous codes as a token, ``(N, 1, width)``."""
        spread = self.trunk.w_basis.square().sum().div(self.w_dim).sqrt()
        extra: Tensor = self.projector(self.reduce((previous - self.trunk.w_mean) / spread).flatten(1))
        return extra[:, None]

    def _answer(self, token: Tensor, extra: Tensor, previous: Tensor) -> Tensor:
        """Codes from the class token and the extra one after the last block, both ``(N, width)``."""
        found = self.compare(torch.cat([token, extra], dim=1))
        answer = self.trunk.codes(token + self.correct(found))
        hold = torch.tanh(self.hold(found).float())[:, :, None]
        coarse = answer + hold * (previous[:, : self.coarse] - answer)
        return torch.cat([coarse, previous[:, self.coarse :]], dim=1)

    def _blocks(self) -> list[Block]:
        return [block for block in self.trunk.blocks if isinstance(block, Block)]


class VideoEncoder(nn.Module):
    """FrEN for the first frame, ViEN for those that follow; both frozen.

    ``encoder(frames, state) -> (ws, state)`` takes consecutive frames of one face. The state is the codes of
    the last frame, ``(1, num_ws, w_dim)``: a plain tensor, which may be kept and sent elsewhere.
    """

    def __init__(self, first: FrameEncoder, video: VideoTransformer) -> None:
        super().__init__()
        self.first, self.video = first, video
        self.eval().requires_grad_(False)

    def forward(self, frames: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """FFHQ crops ``(T, 3, S, S)`` in [-1, 1], in order, to ``ws`` ``(T, num_ws, w_dim)`` and the state.

        Without a state the first frame is FrEN's. A CPU looks at one frame at a time, which is as fast there
        and makes the codes the same to the bit however the frames are divided into calls.
        """
        if not len(frames):
            return frames.new_empty(0, self.video.num_ws, self.video.w_dim), state
        if state is None:
            previous, _ = self.first(frames[:1])
            codes, rest = [previous], frames[1:]
        else:
            previous, codes, rest = state.to(frames.device, torch.float32), [], frames
        if rest.is_cuda and len(rest):
            codes.append(self.video.roll_out(rest[None], previous)[0])
        elif len(rest):
            for frame in torch.split(rest, 1):
                codes.append(self.video.step(frame, previous))
                previous = codes[-1]
        return torch.cat(codes), codes[-1][-1:]


def start_from_frame_encoder(first: FrameEncoder, coarse: int, config: VideoEncoderConfig) -> VideoTransformer:
    """A ViEN whose answer is FrEN's own in the first ``coarse`` rows, before it has learned anything."""
    trunk = FrameEncoder(first.config, coarse, first.w_mean, first.w_basis, first.face_nets)
    weights = first.state_dict()
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name][: coarse * first.w_dim]
    trunk.load_state_dict(weights)
    return VideoTransformer(trunk, first.num_ws, config)


def go_on_from(video: VideoTransformer, folder: Path) -> None:
    """Give ``video`` the weights of a trained ViEN; what that one does not have yet stays as FrEN has it.

    Its FrEN may be another than ``video`` begins with. Raises ``BadInputError`` where the folder is damaged or its
    ViEN has another shape.
    """
    own = video.state_dict()
    taken = {name: value.float() for name, value in load_model(folder, KIND).tensors.items()}
    missing = {name for name in own if name not in taken and not name.startswith("trunk.told_")}
    if missing or any(name not in own or value.shape != own[name].shape for name, value in taken.items()):
        raise BadInputError(
            f"the video encoder in {folder} has another shape than video_encoder.network and its frame encoder: "
            "make them the same, or leave video_encoder.start_from empty"
        )
    video.load_state_dict(own | taken)


def save_video_encoder(
    folder: Path,
    video: VideoTransformer,
    first: FrameEncoder,
    generator_sha256: str,
    card: str,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write ViEN as a model folder in float16; FrEN is named by its hash, ``extra`` joins the config."""
    config = {
        "kind": KIND,
        **made_for(first, generator_sha256),
        "network": asdict(video.trunk.config),
        "video": asdict(video.config),
        "num_ws": video.num_ws,
        "coarse_rows": video.coarse,
        **(extra or {}),
    }
    return save_model(folder, config, {k: v.half() for k, v in video.state_dict().items()}, card)


def load_video_encoder(folder: Path, first: FrameEncoder, generator_sha256: str | None) -> VideoEncoder:
    """Read ViEN and join it to the FrEN it was trained with; frozen, in evaluation mode.

    Raises ``BadInputError`` where the folder is damaged, belongs to another generator, or was trained with
    another FrEN than ``first``.
    """
    model = load_model(folder, KIND)
    if generator_sha256 is not None:
        require_generator(model.config, generator_sha256, f"encoder {folder.name}")
    require_frame_encoder(model.config, first, f"encoder {folder.name}", "video-encoder")
    tensors = {name: value.float() for name, value in model.tensors.items()}
    network = network_config(model.config["network"])
    mean, basis = tensors["trunk.w_mean"], tensors["trunk.w_basis"]
    trunk = FrameEncoder(network, model.config["coarse_rows"], mean, basis, first.face_nets)
    video = VideoTransformer(trunk, model.config["num_ws"], VideoEncoderConfig(**model.config["video"]))
    video.load_state_dict(tensors)
    return VideoEncoder(first, video)


def _heads(block: Block, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values ``(N, heads, L, width / heads)`` of tokens ``(N, L, width)``."""
    attention = block.get_submodule("attn")
    normed = block.get_submodule("norm1")(tokens)
    whole = attention.get_submodule("qkv")(normed).unflatten(2, (3, attention.num_heads, -1))
    query, key, value = whole.permute(2, 0, 3, 1, 4)
    return query, key, value


def _after(block: Block, tokens: Tensor, seen: Tensor) -> Tensor:
    """Tokens ``(N, L, width)`` after a block whose attention saw ``(N, heads, L, width / heads)``."""
    tokens = tokens + block.get_submodule("attn.proj")(seen.transpose(1, 2).flatten(2))
    out: Tensor = tokens + block.get_submodule("mlp")(block.get_submodule("norm2")(tokens))
    return out
