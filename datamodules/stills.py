"""Pictures of faces that are FFHQ-aligned already: those that may be trained on, as crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.alignment import crop_frame
from datamodules.images import read_image
from datamodules.people import Embed
from datamodules.shards import encode_jpeg, to_tensor
from datamodules.types import BadInputError

HELD_OUT = "it shows a person that is tested or validated on"
_AT_ONCE = 32
"""Stills whose pixels are in memory at once."""


@dataclass(frozen=True)
class HeldOut:
    """The persons of the clips that are not trained on, whom no still that is trained on may show."""

    identities: Sequence[NDArray[np.float32]]
    """``(S, D)`` unit embeddings per clip."""
    same_person: float
    """Cosine from which a still shows one of them."""
    embed: Embed

    def reasons(self, crops: Sequence[NDArray[np.uint8]]) -> list[str]:
        """For each of ``(size, size, 3)`` crops why it may not be trained on; empty where it may."""
        if not self.identities or not crops:
            return [""] * len(crops)
        with torch.no_grad():
            found = self.embed(to_tensor(np.stack(crops))).detach().float().cpu().numpy()
        cosines = (found @ np.concatenate(self.identities).T).max(axis=1)
        # Below, not above: a face whose embedding is NaN could be anyone's.
        return ["" if cosine < self.same_person else HELD_OUT for cosine in cosines]


def pack_stills(
    files: Sequence[Path], size: int, jpeg_quality: int, max_pixels: int, held_out: HeldOut
) -> tuple[list[bytes], list[tuple[str, str]]]:
    """JPEGs ``size`` wide of the stills that can be trained on, and names and reasons of the others."""
    jpegs: list[bytes] = []
    refused: list[tuple[str, str]] = []
    for first in range(0, len(files), _AT_ONCE):
        crops: dict[Path, NDArray[np.uint8]] = {}
        for path in files[first : first + _AT_ONCE]:
            try:
                crops[path] = _crop(path, size, max_pixels)
            except BadInputError as error:
                refused.append((path.name, str(error)))
        for (path, crop), reason in zip(crops.items(), held_out.reasons([*crops.values()]), strict=True):
            if reason:
                refused.append((path.name, reason))
            else:
                jpegs.append(encode_jpeg(crop, jpeg_quality))
    return jpegs, refused


def _crop(path: Path, size: int, max_pixels: int) -> NDArray[np.uint8]:
    """A whole aligned picture as a ``(size, size, 3)`` crop. Raises ``BadInputError``."""
    pixels = read_image(path, max_pixels)
    if pixels.shape[0] != pixels.shape[1]:
        raise BadInputError("it is not square, so it is not FFHQ-aligned")
    scale = pixels.shape[0] / size
    middle = (scale - 1) / 2
    whole = np.array([[scale, 0, middle], [0, scale, middle], [0, 0, 1]])
    return crop_frame(pixels, whole, size)
