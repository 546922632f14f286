"""Codes that the shipped encoder gives for frames of real persons: what edits will meet in a user's clip."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.clips import Prepared, read_prepared
from datamodules.people import Split
from datamodules.shards import to_tensor
from datamodules.spread import spread
from datamodules.types import BadInputError
from modules.encoders.vit import load_frame_encoder
from modules.model_folder import load_model
from services.direction_settings import DirectionSettings
from services.edits.pose_settings import PoseEditorSettings
from services.evaluation.frames import held_out_frames
from services.places import CLIPS, FRAME_ENCODER


@dataclass(frozen=True)
class EncodedFrames:
    """N frames of a split, as codes."""

    ws: Tensor
    """``(N, num_ws, w_dim)``."""
    clips: tuple[str, ...]
    """Name of each frame's clip."""
    people: tuple[int, ...]
    """Number of each frame's person."""
    data_hash: str
    """Of the frames and of the encoder."""


def encoded_frames(
    encoder: Path, clips: Path, per_clip: int, generator_sha256: str, split: Split
) -> EncodedFrames | None:
    """``per_clip`` frames of each clip of a split; None where that is 0 or where the split has no person.

    Raises ``BadInputError`` for folders that are missing or damaged, and for an encoder of another generator.
    """
    prepared: Prepared | None = read_prepared(clips) if per_clip else None
    if prepared is None or not any(clip.person >= 0 for clip in prepared.of(split)):
        return None
    frames = held_out_frames(prepared, per_clip, split)
    net = load_frame_encoder(encoder, generator_sha256)
    with torch.no_grad():
        ws = torch.cat([net(to_tensor(frames.pixels[i : i + 1]))[0] for i in range(len(frames.pixels))]).float()
    made_of = f"{frames.data_hash} {load_model(encoder).weights_sha256}"
    return EncodedFrames(ws, frames.clips, frames.people, hashlib.sha256(made_of.encode()).hexdigest())


def frames_of_test_persons(
    settings: DirectionSettings | PoseEditorSettings, generator_sha256: str
) -> EncodedFrames:
    """``measured_per_clip`` frames of each clip of the test persons; raises ``BadInputError``."""
    frames = encoded_frames(FRAME_ENCODER, CLIPS, settings.measured_per_clip, generator_sha256, "test")
    if frames is None:
        raise BadInputError(
            f"edits are measured on test persons, and {CLIPS} has none: run 'stylereel train prepare' on clips "
            "that datamodules/test_people.toml names, the registry's (data.root: registry) among them"
        )
    return frames


def unseen_codes(encoder: Path, clips: Path, per_clip: int, generator_sha256: str) -> Tensor:
    """``(N, num_ws, w_dim)`` of validation persons; ``(0,)`` where there are none.

    The encoder was not trained on them, so their codes are as a user's will be, and nothing is tested on them.
    """
    frames = encoded_frames(encoder, clips, per_clip, generator_sha256, "val")
    return torch.empty(0) if frames is None else frames.ws


def training_codes(encoder: Path, clips: Path, per_clip: int, generator_sha256: str) -> Tensor:
    """``(N, num_ws, w_dim)`` of the persons that are trained on; ``(0,)`` where there are none."""
    frames = encoded_frames(encoder, clips, per_clip, generator_sha256, "train")
    return torch.empty(0) if frames is None else frames.ws


def codes_for_units(encoder: Path, clips: Path, per_clip: int, generator_sha256: str, count: int) -> Tensor:
    """About ``count`` codes ``(N, num_ws, w_dim)`` that edits are set to their units on, none of a test person's.

    Half are of validation persons, half of persons that the encoder was trained on; of one kind alone where there
    is no other, and ``(0,)`` where there is neither. ``per_clip`` frames of each clip are chosen from.
    """
    given = encoder, clips, per_clip, generator_sha256
    halves = [codes for codes in (unseen_codes(*given), training_codes(*given)) if len(codes) and count]
    picked = [codes[spread(len(codes), -(-count // len(halves)))] for codes in halves]
    return torch.cat(picked) if picked else torch.empty(0)
