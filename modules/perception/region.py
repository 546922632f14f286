"""What cuts faces and heads out of crops: MediaPipe's parser, or BiSeNet, which the papers use, in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from datamodules.types import BadInputError
from modules.perception.bisenet import load_bisenet
from modules.perception.parsing import Regions, load_face_parser


@dataclass(frozen=True)
class ParsingConfig:
    """Section ``parsing``: which network parts face, hair and background."""

    net: Literal["selfie", "bisenet"]
    """MediaPipe's selfie_multiclass, fetched from a registry, or the papers' BiSeNet."""
    bisenet_weights: str
    """Path of face-parsing.PyTorch's 79999_iter.pth, which no package registry has."""


class RegionParser(Protocol):
    """Soft masks of FFHQ crops ``(N, 3, H, W)`` RGB in [-1, 1]."""

    def regions(self, images: Tensor, mesh_points: Tensor | None = None) -> Regions:
        """Where they show the face, the head, and what is behind."""
        ...


def load_region_parser(config: ParsingConfig, device: str | torch.device = "cpu") -> RegionParser:
    """The network that ``config`` chooses, frozen; raises ``BadInputError`` where its weights are not there."""
    if config.net == "selfie":
        return load_face_parser(device)
    if not config.bisenet_weights:
        raise BadInputError("parsing.net is bisenet, but bisenet_weights is empty; name 79999_iter.pth there")
    return load_bisenet(Path(config.bisenet_weights), str(device))
