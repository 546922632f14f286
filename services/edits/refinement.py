"""Second half of the stage ``directions``: the fitted directions go on learning, on codes of three kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.edit_batches import EditBatches
from datamodules.shards import Shard, metadata_of, save_shard
from datamodules.types import Frames
from modules.editing.directions import EditSet
from modules.lit.directions import LitDirections
from modules.losses.edits import AttributeTerm, EditTerm, Embed, IdentityFloor
from modules.losses.face import Seen
from services.attributes import AttributeJudge
from services.direction_settings import RefineSettings
from services.edits.evaluation import Progress, Render
from services.training.trainer import fit_steps

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

REMAKE = "stylereel train directions"


@dataclass(frozen=True)
class Pool:
    """Codes and what the generator makes of them."""

    ws: Tensor
    """``(M, num_ws, w_dim)`` float32."""
    pictures: Frames
    """``(M, r, r, 3)`` uint8."""


@dataclass(frozen=True)
class Goal:
    """What one edit is to do, in the judge's numbers."""

    rows: tuple[int, int]
    """Rows ``[first, last)`` of the codes that it moves."""
    per_unit: float
    """Change of its own attribute per unit."""
    typical: float
    """Usual strength."""
    free: frozenset[str] = frozenset()
    """Attributes of other edits that may move along."""


def render_pool(ws: Tensor, render: Render, path: Path, made_from: str, progress: Progress) -> Pool:
    """Pictures of codes, kept in ``path`` for as long as ``made_from`` and the codes stay the same."""
    fingerprint = hashlib.sha256(ws.numpy().tobytes() + made_from.encode()).hexdigest()
    if (metadata_of(path) or {}).get("fingerprint") != fingerprint:
        pictures = []
        with torch.no_grad():
            for done, one in enumerate(torch.split(ws, 1), start=1):
                pixels = render(one).clamp(-1, 1).mul(127.5).add(127.5).round().to(torch.uint8)
                pictures.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
                progress(done, len(ws))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_shard(path, {"pictures": np.concatenate(pictures)}, [], {"fingerprint": fingerprint})
    return Pool(ws, Shard(path, REMAKE).array("pictures"))


def attribute_term(
    judge: AttributeJudge, goals: Mapping[str, Goal], settings: RefineSettings
) -> tuple[AttributeTerm, Tensor]:
    """The term of all attributes, and ``(E, K)`` what one unit of each edit asks of them; NaN of what is free."""
    names = (*goals, *settings.kept)
    usual = [*(abs(goal.typical * goal.per_unit) for goal in goals.values()), *settings.kept.values()]

    def measure(images: Tensor) -> Tensor:
        found = judge.measure(images)
        return torch.stack([found[name] for name in names], dim=1)

    asked = torch.zeros(len(goals), len(names))
    for k, goal in enumerate(goals.values()):
        asked[k, [names.index(name) for name in sorted(goal.free)]] = torch.nan
        asked[k, k] = goal.per_unit
    return AttributeTerm(measure, torch.tensor(usual) * settings.tolerance), asked


def refine(
    edits: EditSet,
    goals: Mapping[str, Goal],
    pool: Pool,
    spread: NDArray[np.float64],
    render: Render,
    judge: AttributeJudge,
    embed: Embed,
    seen: Seen,
    settings: RefineSettings,
    made_of: str,
    runs: Path,
    logger: Logger | bool = False,
    accelerator: str = "auto",
    alone: tuple[str, tuple[float, float]] | None = None,
    further: Mapping[str, EditTerm] | None = None,
) -> EditSet:
    """Train the directions on from where they are; goes on from the last checkpoint of the same run in ``runs``.

    ``goals`` are those of all edits, since each is to leave alone what the others are for. ``alone`` names the one
    edit that learns, and the strengths between which it does; without, all learn, within their bounds. ``spread``
    is a symmetric root of W's covariance, ``seen`` says where there is a face to embed. ``made_of`` says what else
    the outcome hangs on, for the run's name: code, networks and what ``render``, ``judge``, ``embed`` and ``seen``
    were made with. ``further`` are terms by the names that weights give them (eq. S2's L_f and L_v). Units and
    bounds stay.
    """
    names = [alone[0]] if alone else list(goals)
    attributes, asked = attribute_term(judge, goals, settings)
    terms: dict[str, EditTerm] = {
        "attributes": attributes,
        "identity": IdentityFloor(embed, settings.identity, seen),
        **(further or {}),
    }
    asked = asked[[list(goals).index(name) for name in names]]
    start = torch.stack([edits[name].vector for name in names])
    rows = [goals[name].rows for name in names]
    lit = LitDirections(
        start, rows, torch.from_numpy(spread), asked, settings.training, render, terms
    )  # fmt: skip
    bounds = [alone[1]] if alone else [(edits[name].lower, edits[name].upper) for name in names]
    plan = settings.training

    def batches(first_step: int) -> EditBatches:
        return EditBatches(
            pool.ws, pool.pictures, bounds, plan.codes, plan.steps, settings.seed, plan.least_strength, first_step
        )

    told = [{**asdict(goal), "free": sorted(goal.free)} for goal in goals.values()]
    said = json.dumps([asdict(replace(settings, checkpoint_every=0)), told, bounds, names, made_of])
    codes = b"".join(tensor.numpy().tobytes() for tensor in (start, pool.ws))
    fingerprint = hashlib.sha256(said.encode() + codes).hexdigest()[:12]
    folder = runs / f"directions-{fingerprint}"
    fit_steps(lit, plan.steps, batches, settings.checkpoint_every, folder, logger, accelerator=accelerator)
    trained = lit.directions().detach().cpu()
    learned = dict(zip(names, trained, strict=True))
    return EditSet(replace(edit, vector=learned.get(name, edit.vector)) for name, edit in edits.items())
