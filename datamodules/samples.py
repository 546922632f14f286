"""Generator-made training pairs: codes mixed between layers, their images, and shards of both on disk.

The generator is handed in as two callables, so nothing here knows which one it is. A shard is a safetensors
file: ``ws`` float16 ``(N, num_ws, w_dim)``, ``jpeg`` uint8 bytes one image after the other, ``offsets`` int64
``(N + 1,)``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from datamodules.shards import Shard, encode_jpeg, metadata_of, save_shard, to_tensor
from datamodules.types import BadInputError

REMAKE = "dvc repro samples"
W_STD_CODES = 512
"""How many codes the spread of W is estimated from, for the jitter."""

Draw = Callable[[int, int], Tensor]
"""``draw(n, seed)`` gives ``(n, num_ws, w_dim)`` codes, the same for the same arguments."""
Render = Callable[[Tensor], Tensor]
"""``render(ws)`` gives images ``(N, 3, r, r)`` RGB, nominally in [-1, 1]."""


class MapZ(Protocol):
    """``Generator.map``: ``(N, z_dim)`` and a truncation to ``(N, num_ws, w_dim)``."""

    def __call__(self, z: Tensor, truncation_psi: float = ..., /) -> Tensor:
        """Codes of z, pulled to the mean by psi."""
        ...


@dataclass(frozen=True)
class SamplesConfig:
    """What samples are drawn and how they are kept."""

    count: int
    """Number of samples."""
    shard_size: int
    """Samples per file; also how much a killed run loses at most."""
    seed: int
    """Every shard's own seed follows from this and its number."""
    resolution: int
    """Side of the kept images in pixels; larger renderings are averaged down."""
    jpeg_quality: int
    """1 to 100; colour is kept in full resolution."""
    render_batch: int
    """Codes per call of ``render``."""
    two_codes: float
    """Probability that a sample changes from one z to another at a random layer."""
    three_codes: float
    """Probability that it changes twice; the rest are of one z."""
    truncation_low: float
    """Truncation psi is drawn evenly per sample, from here"""
    truncation_high: float
    """to here."""
    jitter: float
    """Largest noise added to every row on its own, in standard deviations of W; drawn evenly from 0 per sample."""

    def __post_init__(self) -> None:
        sizes = (self.count, self.shard_size, self.resolution, self.render_batch)
        if min(sizes) < 1 or not 1 <= self.jpeg_quality <= 100:
            raise ValueError(
                "count, shard_size, resolution, render_batch must be 1 or more, jpeg_quality 1 to 100"
            )
        if min(self.two_codes, self.three_codes) < 0 or self.two_codes + self.three_codes > 1:
            raise ValueError("two_codes and three_codes are probabilities that add up to 1 at most")
        if self.truncation_low > self.truncation_high or self.jitter < 0:
            raise ValueError("truncation_low must not exceed truncation_high, jitter must not be negative")


class Sample(NamedTuple):
    """One training pair; batches of it collate to the same type."""

    image: Tensor
    """``(3, r, r)`` float32 RGB in [-1, 1]."""
    ws: Tensor
    """``(num_ws, w_dim)`` float32."""


def draw_codes(
    map_z: MapZ, n: int, seed: int, config: SamplesConfig, z_dim: int = 512, device: torch.device | str = "cpu"
) -> Tensor:
    """``(n, num_ws, w_dim)`` float32 codes on the CPU, mixed between layers.

    One, two or three z's share the rows of a sample, changing at layers drawn without preference; each sample
    is pulled to the mean of W by its own psi, then jittered. The same seed gives the same codes wherever
    ``map_z``, which gets its z on ``device``, gives the same values.
    """
    random = torch.Generator().manual_seed(seed)

    def mapped(count: int, psi: float) -> Tensor:
        z = torch.randn(count, z_dim, generator=random)
        return map_z(z.to(device), psi).to("cpu", torch.float32)

    with torch.no_grad():
        mean = mapped(1, 0.0)
        sources = torch.stack([mapped(n, 1.0) for _ in range(3)])
        spread = mapped(W_STD_CODES, 1.0).std(dim=0, keepdim=True) if config.jitter else None
    num_ws = sources.shape[2]
    choice = torch.rand(n, generator=random)
    changes = (choice < config.two_codes + config.three_codes).int() + (choice < config.three_codes).int()
    # A change at layer num_ws never happens; one at 0 would hide the first z, so it starts at 1.
    layers = torch.stack([torch.randperm(max(num_ws - 1, 2), generator=random)[:2] + 1 for _ in range(n)])
    only, (lower, upper) = layers[:, 0], layers.sort(dim=1).values.unbind(dim=1)
    first = torch.where(changes == 2, lower, torch.where(changes == 1, only, num_ws))
    second = torch.where(changes == 2, upper, num_ws)
    row = torch.arange(num_ws)
    which = (row >= first[:, None]).long() + (row >= second[:, None]).long()
    ws = sources.gather(0, which[None, :, :, None].expand(1, -1, -1, sources.shape[3]))[0]
    psi = torch.empty(n, 1, 1).uniform_(config.truncation_low, config.truncation_high, generator=random)
    ws = mean + psi * (ws - mean)
    if spread is not None:
        strength = torch.rand(n, 1, 1, generator=random) * config.jitter
        ws = ws + strength * spread * torch.randn(ws.shape, generator=random)
    return ws


def write_samples(
    folder: Path,
    draw: Draw,
    render: Render,
    config: SamplesConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
    made_by: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write ``config.count`` samples as shards; those already there from the same settings are kept.

    ``made_by`` says what ``draw`` and ``render`` are, e.g. the generator's sha256; shards made by another are
    made anew. ``progress(done, total)`` is called after every rendered batch. Shards appear whole or not at
    all; those of an earlier, larger run are deleted at the end. Returns their paths in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths, done = [], 0
    for number, first in enumerate(range(0, config.count, config.shard_size)):
        n = min(config.shard_size, config.count - first)
        path = folder / f"samples-{number:05d}.safetensors"
        paths.append(path)
        seed = shard_seed(config.seed, number)
        fingerprint = _fingerprint(config, n, seed, made_by or {})
        if (metadata_of(path) or {}).get("fingerprint") == fingerprint:
            done += n
            progress(done, config.count)
            continue
        ws = draw(n, seed)
        if ws.ndim != 3 or len(ws) != n:
            raise ValueError(f"draw({n}, seed) must give ({n}, num_ws, w_dim), got {tuple(ws.shape)}")
        # What is kept is what is rendered: the codes as float16 hold them.
        ws = ws.to(torch.float16)
        blobs: list[bytes] = []
        for batch in torch.split(ws.float(), config.render_batch):
            images = _render(render, batch, config.resolution).numpy()
            blobs += [encode_jpeg(image, config.jpeg_quality) for image in images]
            done += len(batch)
            progress(done, config.count)
        save_shard(path, {"ws": ws.numpy()}, blobs, {"fingerprint": fingerprint, **(made_by or {})})
    # What reads the folder takes every shard in it, so one that was not asked for would be trained on.
    for surplus in set(folder.glob("samples-*.safetensors")) - set(paths):
        surplus.unlink(missing_ok=True)
    return paths


def shard_seed(seed: int, number: int) -> int:
    """Seed of one shard: no two shards of any two seeds share one by accident."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:7], "big")


class SampleDataset(Dataset[Sample]):
    """Shards as a torch dataset; pixels are read and decoded when asked for.

    ``count`` limits it to the first so many. Raises ``BadInputError`` for a folder without shards, and for samples
    of another generator than ``made_by``, its sha256, where that is given.
    """

    def __init__(self, folder: Path, count: int | None = None, made_by: str | None = None) -> None:
        paths = sorted(folder.glob("samples-*.safetensors"))
        if not paths:
            raise BadInputError(f"{folder} has no samples; make them with `{REMAKE}`")
        self.shards = [Shard(path, REMAKE) for path in paths]
        said = {shard.metadata.get("generator", "nobody's") for shard in self.shards}
        if made_by is not None and said != {made_by}:
            others = ", ".join(sorted(said - {made_by}))
            raise BadInputError(
                f"{folder} has samples of generator {others}, not {made_by}; `{REMAKE}` makes them"
            )
        self.fingerprints = tuple((metadata_of(path) or {}).get("fingerprint", "") for path in paths)
        """Of each shard: what its samples were made with."""
        self._ends = np.cumsum([len(shard) for shard in self.shards])
        total = int(self._ends[-1])
        self._count = total if count is None else min(count, total)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not -self._count <= index < self._count:
            raise IndexError(f"sample {index} of {self._count}")
        index %= self._count
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self.shards[number]
        place = index - (int(self._ends[number]) - len(shard))
        ws = torch.from_numpy(shard.rows("ws", place, place + 1)[0].astype(np.float32))
        return Sample(to_tensor(shard.pixels(place)), ws)


def _render(render: Render, ws: Tensor, resolution: int) -> Tensor:
    with torch.no_grad():
        images = render(ws).detach()
        if images.ndim != 4 or images.shape[0] != len(ws) or images.shape[1] != 3:
            raise ValueError(f"render must give ({len(ws)}, 3, r, r), got {tuple(images.shape)}")
        if images.shape[-1] < resolution:
            raise ValueError(f"images of {images.shape[-1]} px are smaller than the {resolution} px to be kept")
        if images.shape[-1] != resolution:
            images = functional.interpolate(images.float(), size=(resolution, resolution), mode="area")
        pixels: Tensor = images.float().mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu()


def _fingerprint(config: SamplesConfig, n: int, seed: int, made_by: Mapping[str, str]) -> str:
    """Digest of everything the content of one shard follows from."""
    what = asdict(config)
    for name in ("count", "shard_size", "seed", "render_batch"):
        del what[name]
    text = json.dumps({**what, "n": n, "seed": seed, "made_by": dict(made_by)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
