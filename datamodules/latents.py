"""Pairs of a code and what its picture shows: tables of attributes beside the shards of samples.

Whoever looks at the pictures is handed in, so nothing here knows a network. To ``samples-00012.safetensors``
belongs ``labels-00012.safetensors``: one float32 array ``(N,)`` per attribute, and what made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.disk import beside, not_written
from datamodules.samples import REMAKE
from datamodules.shards import Shard, metadata_of, to_tensor
from datamodules.types import BadInputError

Judge = Callable[[Tensor], Mapping[str, NDArray[np.float32]]]
"""``judge(images)`` takes ``(N, 3, r, r)`` in [-1, 1] and gives ``(N,)`` per attribute."""


def label_samples(
    samples: Path,
    folder: Path,
    judge: Judge,
    count: int,
    batch: int = 32,
    judged_by: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write the labels of at least the first ``count`` of ``samples`` into ``folder``, whole shards at a time.

    Shards that were labelled by the same judges (``judged_by``) from the same samples are kept. Returns the paths
    of the labels in order. Raises ``BadInputError`` for a folder without samples.
    """
    shards = [Shard(path, REMAKE) for path in sorted(samples.glob("samples-*.safetensors"))]
    if not shards:
        raise BadInputError(f"{samples} has no samples; make them with `{REMAKE}`")
    folder.mkdir(parents=True, exist_ok=True)
    total = min(count, sum(map(len, shards)))
    paths: list[Path] = []
    done = 0
    for shard in shards:
        if done >= total:
            break
        path = folder / shard.path.name.replace("samples-", "labels-")
        made_from = {"samples": shard.metadata.get("fingerprint", ""), "judged_by": judged_by}
        if metadata_of(path) != made_from:
            _write(path, _judged(shard, judge, batch), made_from)
        paths.append(path)
        done += len(shard)
        progress(min(done, total), total)
    return paths


class AttributeDataset(Dataset[tuple[Tensor, Tensor]]):
    """``(ws, attributes)``: codes ``(num_ws, w_dim)`` float32, attributes ``(K,)`` in the order of ``names``.

    Only samples with finite attributes are in it. Raises ``BadInputError`` where labels are missing or damaged.
    """

    def __init__(self, samples: Path, labels: Sequence[Path], names: Sequence[str]) -> None:
        if not labels:
            raise BadInputError("no labels were given; make them with `dvc repro directions`")
        ws, tables = [], []
        for path in labels:
            shard = Shard(samples / path.name.replace("labels-", "samples-"), REMAKE)
            table = read_labels(path, names)
            if len(table) != len(shard):
                raise BadInputError(
                    f"{path} labels {len(table)} samples, {shard.path} has {len(shard)}; remove it"
                )
            known = np.isfinite(table).all(axis=1)
            ws.append(shard.array("ws")[known])
            tables.append(table[known])
        self.names = tuple(names)
        self.ws = torch.from_numpy(np.concatenate(ws))
        """``(N, num_ws, w_dim)`` float16, as the samples keep them."""
        self.attributes = torch.from_numpy(np.concatenate(tables))
        """``(N, K)`` float32."""

    def __len__(self) -> int:
        return len(self.ws)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.ws[index].float(), self.attributes[index]


def read_labels(path: Path, names: Sequence[str]) -> NDArray[np.float32]:
    """``(N, len(names))`` attributes of one shard; raises ``BadInputError``."""
    try:
        with safe_open(path, "numpy") as table:
            columns = [table.get_tensor(name) for name in names]
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path} holds no such labels ({error}); remove it and label again") from error
    return np.stack(columns, axis=1).astype(np.float32)


def _judged(shard: Shard, judge: Judge, batch: int) -> dict[str, NDArray[np.float32]]:
    parts: list[Mapping[str, NDArray[np.float32]]] = []
    for first in range(0, len(shard), batch):
        last = min(first + batch, len(shard))
        images = torch.stack([to_tensor(shard.pixels(index)) for index in range(first, last)])
        parts.append(judge(images))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _write(path: Path, table: Mapping[str, NDArray[np.float32]], metadata: dict[str, str]) -> None:
    try:
        with beside(path) as part:
            save_file({name: np.ascontiguousarray(v, np.float32) for name, v in table.items()}, part, metadata)
    except (OSError, SafetensorError) as error:
        raise not_written(path, error) from error
