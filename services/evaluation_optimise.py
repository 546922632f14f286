"""W+ optimisation of single frames whose results are kept, so that hours of it survive being killed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.shards import to_tensor
from datamodules.types import BadInputError
from modules.generators.mobile import MobileStyleGAN
from modules.generators.protocol import Generator
from services.evaluation_frames import HeldOutFrames
from services.pipeline.refine import Perceptual, RefineConfig, refine

Precision = Literal["float32", "bfloat16"]


def optimised_codes(
    frames: HeldOutFrames,
    indices: Sequence[int],
    start: Tensor,
    start_name: str,
    generator: Generator,
    perceptual: Perceptual,
    config: RefineConfig,
    precision: Precision,
    folder: Path,
    batch: int = 1,
    advance: Callable[[int], None] = lambda frames: None,
) -> Tensor:
    """Codes ``(n, num_ws, w_dim)`` of the frames at ``indices``, each optimised for itself for ``config.steps``.

    ``start`` are the codes at the beginning; ``start_name`` names them for the cache: a model's hash, or ``mean``.
    Finished frames lie in ``folder`` and are read from there by whoever asks for the same again. ``advance`` is
    told how many frames are done. Raises ``BadInputError`` where the folder cannot be written.
    """
    if len(start) != len(indices):
        raise ValueError(
            f"{len(indices)} frames are to be optimised, but there are {len(start)} codes to start at"
        )
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**asdict(config), "precision": precision}
    paths = [folder / f"{_key(frames, i, start_name, generator.sha256, settings)}.safetensors" for i in indices]
    codes = [_kept(path, start.shape[1:]) for path in paths]
    advance(sum(code is not None for code in codes))
    missing = [place for place, code in enumerate(codes) if code is None]
    for first in range(0, len(missing), batch):
        places = missing[first : first + batch]
        targets = to_tensor(frames.pixels[[indices[place] for place in places]]).to(start.device)
        with computing_in(generator, precision):
            found = refine(start[places], targets, generator, perceptual, config, config.steps)
        for place, ws in zip(places, found.ws.cpu(), strict=True):
            _keep(paths[place], ws)
            codes[place] = ws
        advance(len(places))
    return torch.stack([code for code in codes if code is not None]).to(start.device)


@contextmanager
def computing_in(generator: Generator, precision: Precision) -> Iterator[None]:
    """Let a MobileStyleGAN compute its features in another precision for a while; others stay in float32."""
    if not isinstance(generator, MobileStyleGAN):
        yield
        return
    before = generator.compute_dtype
    generator.compute_dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    try:
        yield
    finally:
        generator.compute_dtype = before


def _key(frames: HeldOutFrames, index: int, start: str, generator: str, settings: dict[str, object]) -> str:
    digest = hashlib.sha256(frames.pixels[index].tobytes())
    digest.update(json.dumps([start, generator, settings], sort_keys=True).encode())
    return digest.hexdigest()[:32]


def _kept(path: Path, shape: torch.Size) -> Tensor | None:
    """Codes that an earlier run left; None where there are none, or where they are damaged."""
    if not path.is_file():
        return None
    try:
        ws = load_file(path)["ws"]
    except (OSError, KeyError, SafetensorError):
        return None
    return ws if ws.shape == shape and bool(ws.isfinite().all()) else None


def _keep(path: Path, ws: Tensor) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        save_file({"ws": ws.contiguous()}, part)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"cannot write {path} ({error}); free some space") from error
    finally:
        part.unlink(missing_ok=True)
