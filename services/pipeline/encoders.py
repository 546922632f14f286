"""Which encoder inverts: FrEN frame by frame, or ViEN with the FrEN it was trained with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.encoders.video_vit import KIND as VIDEO
from modules.encoders.video_vit import load_video_encoder
from modules.encoders.vit import load_frame_encoder
from modules.generators.protocol import Generator
from modules.model_folder import load_model
from services.model_names import FRAME_ENCODER, VIDEO_ENCODER
from services.settings import ROOT

EncoderKind = Literal["frame", "video"]
SHIPPED: dict[EncoderKind, Path] = {
    "frame": ROOT / "assets" / "frame-encoder",
    "video": ROOT / "assets" / "video-encoder",
}
NAMES: dict[EncoderKind, str] = {"frame": FRAME_ENCODER, "video": VIDEO_ENCODER}
FindFrameEncoder = Callable[[str], Path | None]
"""Hash of a FrEN's weights to its model folder, None where it is not known."""


class Encoder(Protocol):
    """Crops ``(N, 3, 256, 256)`` in [-1, 1], in order, to ``ws`` and a state for the crops that follow."""

    def __call__(self, frames: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Codes ``(N, num_ws, w_dim)`` and the new state."""
        ...


def shipped_frame_encoder(sha256: str) -> Path | None:
    """The FrEN in ``assets/``, where it has these weights."""
    folder = SHIPPED["frame"]
    return folder if folder.is_dir() and load_model(folder).weights_sha256 == sha256 else None


def find_frame_encoder(download: Callable[[str, str], Path | None]) -> FindFrameEncoder:
    """The FrEN in ``assets/``, or else what ``download`` finds by registered name and hash."""
    return lambda wanted: shipped_frame_encoder(wanted) or download(FRAME_ENCODER, wanted)


def asked_for(encoder: Path | None, usual: EncoderKind) -> tuple[Path | None, EncoderKind]:
    """A user's ``--encoder``, which may be a file, a folder, ``frame`` or ``video``, and the kind where it is one.

    The path is None where a shipped encoder is meant.
    """
    for kind in SHIPPED:
        if encoder == Path(kind) and not encoder.exists():
            return None, kind
    return encoder, usual


def shipped_encoder(kind: EncoderKind, generator_sha256: str) -> Path | None:
    """The shipped encoder of a kind, None where none is shipped for the generator.

    Raises ``BadInputError`` where a video encoder is missing beside a frame encoder: that one is no substitute.
    """
    made_for = {
        name: load_model(folder).config.get("generator_sha256")
        for name, folder in SHIPPED.items()
        if folder.is_dir()
    }
    if made_for.get(kind) == generator_sha256:
        return SHIPPED[kind]
    if made_for.get("frame") == generator_sha256:
        raise BadInputError(
            "there is no assets/video-encoder for this generator: 'stylereel train video-encoder' makes one, "
            "--encoder frame does without"
        )
    return None


def name_of(folder: Path) -> str:
    """The registry's name for what an encoder's folder holds."""
    return NAMES["video" if load_model(folder).config["kind"] == VIDEO else "frame"]


def load_encoder(
    folder: Path, generator: Generator, device: str, find: FindFrameEncoder = shipped_frame_encoder
) -> tuple[Encoder, str]:
    """The encoder in a model folder and its identity, the hashes of its weights and of its config.

    For ViEN, ``find`` says where its FrEN is. Raises ``BadInputError`` for an encoder of another generator, and
    for a ViEN whose own FrEN is not there: it is never joined to another.
    """
    model = load_model(folder)
    if model.config["kind"] != VIDEO:
        return load_frame_encoder(folder, generator.sha256).to(torch.device(device)), model.identity
    first = load_frame_encoder(
        trained_with(folder, find, "take the encoder 'frame', or another video encoder"), generator.sha256
    )
    return load_video_encoder(folder, first, generator.sha256).to(torch.device(device)), model.identity


def trained_with(folder: Path, find: FindFrameEncoder, instead: str) -> Path:
    """Where the FrEN lies that the model in ``folder`` was trained with.

    Raises ``BadInputError`` where there is none at all; ``instead`` is what can be done then.
    """
    wanted = str(load_model(folder).config.get("frame_encoder_sha256"))
    place = find(wanted)
    if place is None:
        # The shipped one is refused with both hashes; without any there is only one to name.
        place = SHIPPED["frame"]
        if not place.is_dir():
            raise BadInputError(
                f"{folder} was trained with frame encoder {wanted}, which is neither shipped nor registered; "
                f"{instead}"
            )
    return place
