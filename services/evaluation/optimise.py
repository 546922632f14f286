"""W+ optimisation of single frames whose results are kept, so that hours of it survive being killed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.disk import beside, not_written
from datamodules.shards import to_tensor
from modules.generators.protocol import Generator, HasPrecision
from services.evaluation.frames import HeldOutFrames
from services.pipeline.refine import Embeds, LossNets, Perceptual, RefineConfig, refine

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ChosenNets:
    """Nets of which LPIPS has the backbone that the settings name."""

    perceptual: Perceptual
    identity: Embeds


class Optimised(NamedTuple):
    """Frames after optimisation."""

    ws: Tensor
    """``(n, num_ws, w_dim)``."""
    seconds: tuple[float, ...]
    """What each took where it was optimised; NaN for those kept before this was written down."""


def optimised_codes(
    frames: HeldOutFrames,
    indices: Sequence[int],
    start: Tensor,
    start_name: str,
    generator: Generator,
    nets: LossNets,
    config: RefineConfig,
    precision: Precision,
    folder: Path,
    batch: int = 1,
    advance: Callable[[int], None] = lambda frames: None,
) -> Optimised:
    """Codes of the frames at ``indices``, each optimised for itself for ``config.steps``.

    ``start`` are the codes at the beginning; ``start_name`` names them for the cache: a model's hash, or ``mean``.
    Finished frames lie in ``folder`` and are read from there by whoever asks for the same again. ``advance`` is
    told how many frames are done. Raises ``NotWrittenError`` where the folder cannot be written.
    """
    if len(start) != len(indices):
        raise ValueError(
            f"{len(indices)} frames are to be optimised, but there are {len(start)} codes to start at"
        )
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**asdict(config), "precision": precision}
    if not config.identity_weight:  # frames that were kept before there was one are the same
        del settings["identity_weight"]
    paths = [folder / f"{_key(frames, i, start_name, generator.sha256, settings)}.safetensors" for i in indices]
    kept = [_kept(path, start.shape[1:]) for path in paths]
    advance(sum(one is not None for one in kept))
    missing = [place for place, one in enumerate(kept) if one is None]
    for first in range(0, len(missing), batch):
        places = missing[first : first + batch]
        targets = to_tensor(frames.pixels[[indices[place] for place in places]]).to(start.device)
        began = time.perf_counter()
        with computing_in(generator, precision):
            found = refine(start[places], targets, generator, nets, config, config.steps).ws.cpu()
        each = (time.perf_counter() - began) / len(places)
        for place, ws in zip(places, found, strict=True):
            _keep(paths[place], ws, each)
            kept[place] = ws, each
        advance(len(places))
    codes, seconds = zip(*(one for one in kept if one is not None), strict=True)
    return Optimised(torch.stack(codes).to(start.device), seconds)


@contextmanager
def computing_in(generator: Generator, precision: Precision) -> Iterator[None]:
    """Let a generator that can compute its features in another precision for a while; others stay in float32."""
    if not isinstance(generator, HasPrecision):
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


def _kept(path: Path, shape: torch.Size) -> tuple[Tensor, float] | None:
    """Codes and seconds that an earlier run left; None where there are none, or where they are damaged."""
    if not path.is_file():
        return None
    try:
        found = load_file(path)
        ws = found["ws"]
    except (OSError, KeyError, SafetensorError):
        return None
    if ws.shape != shape or not bool(ws.isfinite().all()):
        return None
    return ws, float(found.get("seconds", torch.tensor(torch.nan)))


def _keep(path: Path, ws: Tensor, seconds: float) -> None:
    try:
        with beside(path) as part:
            save_file({"ws": ws.contiguous(), "seconds": torch.tensor(seconds)}, part)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from error
