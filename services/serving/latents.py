"""Inverted images kept for a while under an id, so that edits of one image invert it once."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save

from datamodules.types import BadInputError
from services.pipeline.invert import Inversion
from services.pipeline.sidecar import INPUT_SHA256, plain
from services.serving.private_folder import private_folder

LATENT_ID = re.compile(r"[0-9a-f]{32}")


class LatentStore:
    """A folder of latents; each is gone after the retention time."""

    def __init__(self, folder: Path, keep_hours: float) -> None:
        self.folder = private_folder(folder)
        self.keep_seconds = keep_hours * 3600

    def put(self, latent: Inversion, generator_sha256: str, input_sha256: str) -> str:
        """Keep the latent and return its id; nothing is left where it cannot be written.

        ``input_sha256`` is of the file that was sent: a person is forgotten by it.
        """
        name = secrets.token_hex(16)
        part = self.folder / f".part-{name}"
        part.mkdir()
        try:
            # First, so that what a killed server leaves is found too.
            (part / INPUT_SHA256).write_text(input_sha256)
            about: dict[str, Any] = {
                "generator_sha256": generator_sha256,
                "size": latent.size,
                "metrics": plain(latent.metrics),
                "warnings": list(latent.warnings),
            }
            tensors = {"ws": latent.ws.detach().cpu().contiguous()}
            tensors["crop_to_frame"] = torch.from_numpy(np.ascontiguousarray(latent.crop_to_frame))
            (part / "latent.safetensors").write_bytes(save(tensors, {"about": json.dumps(about)}))
            _write_png(part / "image.png", latent.image)
            os.replace(part, self.folder / name)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return name

    def get(self, name: str, generator_sha256: str) -> Inversion:
        """The latent of that id.

        Raises ``BadInputError`` for an id that is not known, or no longer, and for codes of another generator,
        with both hashes in the message.
        """
        folder = self.folder / name
        hours = f"{self.keep_seconds / 3600:g} h"
        unknown = BadInputError(f"no latent {name[:64]!r}; ids answer for {hours}: invert the image again")
        if not LATENT_ID.fullmatch(name) or not folder.is_dir() or self._expired(folder):
            raise unknown
        try:
            with safe_open(folder / "latent.safetensors", framework="pt") as stored:
                about = json.loads(stored.metadata()["about"])
                ws, crop_to_frame = stored.get_tensor("ws"), stored.get_tensor("crop_to_frame").numpy()
            encoded = np.frombuffer((folder / "image.png").read_bytes(), np.uint8)
        except FileNotFoundError as error:  # its time came in between
            raise unknown from error
        if about["generator_sha256"] != generator_sha256:
            raise BadInputError(
                f"latent {name} belongs to generator {about['generator_sha256']}, but the one in use is "
                f"{generator_sha256}; invert the image again"
            )
        image = np.ascontiguousarray(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
        metrics = {key: math.nan if value is None else float(value) for key, value in about["metrics"].items()}
        return Inversion(image, ws, crop_to_frame, about["size"], metrics, tuple(about["warnings"]))

    def sweep(self) -> int:
        """Remove what is past its time; returns how many."""
        old = [path for path in self.folder.iterdir() if self._expired(path)]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
        return len(old)

    def _expired(self, path: Path) -> bool:
        return path.stat().st_mtime < time.time() - self.keep_seconds


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    done, encoded = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as PNG")
    path.write_bytes(encoded.tobytes())
