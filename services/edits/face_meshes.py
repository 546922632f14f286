"""Meshes of prepared pictures, kept in ``build/meshes``: what the face model and the pose editor are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.clips import Prepared
from datamodules.people import Split
from datamodules.shards import Shard, metadata_of, save_shard, to_tensor
from modules.perception.face_shape import UNIT
from modules.perception.mesh import FaceMesh
from services.code_hash import judges_sha256
from services.settings import ROOT

REMAKE = "stylereel train pose-editor"
_BATCH = 8

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ShardMeshes:
    """The meshes of one shard, in its order."""

    shard: Shard
    person: int
    """Number of the person; -1 where each picture shows another."""
    points: Tensor
    """``(N, 468, 3)`` in pixels of a crop 256 wide."""
    score: NDArray[np.float32]
    """``(N,)``: how sure the mesh was of a face."""


def clip_meshes(
    prepared: Prepared, split: Split, mesh: FaceMesh, folder: Path, progress: Progress = lambda done, total: None
) -> list[ShardMeshes]:
    """The meshes of every clip of a split; those of shards that did not change are read, not measured again."""
    clips = [clip for clip in prepared.of(split) if clip.person >= 0]
    found = []
    for done, clip in enumerate(clips, start=1):
        found.append(_measured(Shard(prepared.folder / clip.shard, REMAKE), clip.person, mesh, folder))
        progress(done, len(clips))
    return found


def sample_meshes(
    paths: Sequence[Path], mesh: FaceMesh, folder: Path, progress: Progress = lambda done, total: None
) -> list[ShardMeshes]:
    """The same of shards of generator samples."""
    found = []
    for done, path in enumerate(paths, start=1):
        found.append(_measured(Shard(path, REMAKE), -1, mesh, folder))
        progress(done, len(paths))
    return found


def _measured(shard: Shard, person: int, mesh: FaceMesh, folder: Path) -> ShardMeshes:
    path = folder / f"meshes-{shard.path.name}"
    judged_by = f"mediapipe mesh ({judges_sha256(ROOT, 'mediapipe')[:12]})"
    made_from = {"pictures": shard.metadata.get("fingerprint", ""), "judged_by": judged_by}
    if metadata_of(path) != made_from:
        folder.mkdir(parents=True, exist_ok=True)
        points, scores = [], []
        for first in range(0, len(shard), _BATCH):
            rows = range(first, min(first + _BATCH, len(shard)))
            images = torch.stack([to_tensor(shard.pixels(row)) for row in rows])
            with torch.no_grad():
                seen = mesh(images.to(next(mesh.buffers()).device))
            points.append((seen.points * (UNIT / images.shape[3])).cpu().numpy())
            scores.append(seen.score.cpu().numpy())
        save_shard(path, {"points": np.concatenate(points), "score": np.concatenate(scores)}, [], made_from)
    kept = Shard(path, REMAKE)
    return ShardMeshes(shard, person, torch.from_numpy(kept.array("points")), kept.array("score"))
