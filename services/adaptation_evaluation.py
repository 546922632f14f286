"""What adapting the generator brings on persons not trained on: Table 1 of StylePortraitVideo, and its edits."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.coded_frames import CodedFrames
from datamodules.disk import write_whole
from datamodules.rows import Rows
from datamodules.shards import to_tensor
from modules.editing.directions import Edit, EditSet
from modules.generators.adaptation import copy_of
from modules.generators.protocol import Generator
from modules.lit.video_adaptation import LitVideoAdaptation
from modules.losses.perceptual import load_lpips
from modules.metrics.face import identity_similarity
from modules.metrics.fidelity import lpips_distance, ms_ssim, psnr
from services.adaptation import AdaptationSettings
from services.evaluation_edits import ImageJudge, measure_edits, slopes_between
from services.evaluation_frames import SIDE, HeldOutFrames, spread
from services.pipeline.invert import CodesState, invert_crops
from services.pipeline.models import Models
from services.training import fit_steps

METRICS = ("lpips", "mse", "psnr", "ms_ssim", "identity")
"""The columns of Table 1; ``mse`` is of values in [0, 1]."""
ENOUGH = 28.0
"""dB to which the steps are counted."""


@dataclass(frozen=True)
class TableSettings:
    """What is measured of each clip."""

    iterations: tuple[int, ...]
    """After how many steps a row is measured, rising."""
    measured: int
    """Frames that are measured, spread over those learned from."""
    counted_every: int
    """Steps between two looks at whether ``ENOUGH`` is reached."""
    edits: Mapping[str, Sequence[float]]
    """Edit to the strengths at which its slope is measured."""
    edited: int
    """Frames that edits are measured on."""


def table_of_clip(
    frames: HeldOutFrames,
    models: Models,
    settings: AdaptationSettings,
    table: TableSettings,
    judge: ImageJudge,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """The rows of one clip's consecutive frames, its own likeness from frame to frame, and slopes of edits."""
    net = load_lpips(settings.lpips_net, models.device)
    with torch.no_grad():
        ws = torch.cat([invert_crops(part[None], models, 0, CodesState())[0] for part in frames.pixels])
    refined, _ = invert_crops(frames.pixels, models, models.config.follow.steps or 3, CodesState())
    chosen = spread(len(frames), table.measured)
    crops = to_tensor(frames.pixels, models.device)

    def row(generator: Generator, codes: Tensor) -> dict[str, float]:
        with torch.no_grad():
            shown = torch.cat(
                [generator.synthesize(one, resolution=SIDE) for one in torch.split(codes[chosen], 1)]
            )
        return measured(shown.float().clamp(-1, 1), crops[chosen], models)

    rows = {"encoder": row(models.generator, ws), "encoder + refinement": row(models.generator, refined)}
    tell(f"{frames.clips[0]}: encoder {rows['encoder']['psnr']:.2f} dB")
    enough: int | None = None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        codes, pixels = (
            Rows(folder / "codes", ws.shape[1:], np.float32),
            Rows(folder / "crops", (SIDE, SIDE, 3), np.uint8),
        )
        codes.append(ws.float().cpu().numpy())
        pixels.append(frames.pixels)
        lit = LitVideoAdaptation(models.generator, settings.training, net, settings.seed)

        def look(step: int) -> None:
            nonlocal enough
            if step in table.iterations:
                rows[f"adapted, {step} iterations"] = row(lit.adapted, ws)
                tell(f"{frames.clips[0]}: {step} iterations {rows[f'adapted, {step} iterations']['psnr']:.2f} dB")
            if enough is None and step % table.counted_every == 0 and row(lit.adapted, ws)["psnr"] >= ENOUGH:
                enough = step

        last = table.iterations[-1]
        fit_steps(
            lit, last, lambda first: CodedFrames(codes, pixels, settings.batch_size, last, settings.seed, first),
            last, folder / "run", accelerator="gpu" if models.device == "cuda" else "cpu", after_step=look,
        )  # fmt: skip
        adapted = copy_of(lit.adapted)
    with torch.no_grad():
        embedded = torch.cat([models.judges.identity.embed(one) for one in torch.split(crops, 8)])
    few = spread(len(frames), table.edited)
    return {
        "clip": frames.clips[0],
        "person": frames.people[0],
        "frames": len(frames),
        "rows": rows,
        "steps_to_enough": enough,
        "frame_to_frame": float((embedded[1:] * embedded[:-1]).sum(1).mean()),
        "slopes": {
            name: slopes(generator, ws[few], models, table.edits, judge)
            for name, generator in (("base", models.generator), ("adapted", adapted))
        },
    }


def measured(shown: Tensor, crops: Tensor, models: Models) -> dict[str, float]:
    """The mean of each of ``METRICS`` over ``(N, 3, 256, 256)`` in [-1, 1]."""
    values = {
        "lpips": lpips_distance(models.judges.perceptual, shown, crops),
        "mse": ((shown - crops) / 2).square().mean((1, 2, 3)),
        "psnr": psnr(shown, crops),
        "ms_ssim": ms_ssim(shown, crops),
        "identity": identity_similarity(models.judges.identity, shown, crops),
    }
    return {name: float(value.mean()) for name, value in values.items()}


def slopes(
    generator: Generator,
    ws: Tensor,
    models: Models,
    edits: Mapping[str, Sequence[float]],
    judge: ImageJudge,
) -> dict[str, float]:
    """How much of what is asked of each edit is got on a generator, mean over the codes."""

    def render(codes: Tensor) -> Tensor:
        shown = [generator.synthesize(one.to(models.device), resolution=SIDE) for one in torch.split(codes, 1)]
        return torch.cat(shown).float().clamp(-1, 1)

    known: EditSet[Edit] = models.edits
    readings = measure_edits(ws, known, edits, render, judge, models.judges.identity.embed)
    return {name: float(slopes_between(readings, name, [name])[0]) for name in edits}


def kept_table(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier call left in a file, or what ``make`` gives, which is then left there."""
    if path.is_file():
        known: dict[str, Any] = json.loads(path.read_text())
        return known
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(made, indent=1))
    return made


def as_markdown(clips: Sequence[Mapping[str, Any]], units: Mapping[str, float]) -> list[str]:
    """Table 1, and what else is asked of an adapted generator; means over clips, each of a person of its own.

    ``units`` is what one unit of each edit comes to in the judge's numbers.
    """
    head = "| | LPIPS ↓ | MSE × 10⁻⁴ ↓ | PSNR, dB ↑ | MS-SSIM ↑ | identity ↑ |"
    lines = [head, "|---|--:|--:|--:|--:|--:|"]
    for name in clips[0]["rows"]:
        mean = {metric: float(np.mean([clip["rows"][name][metric] for clip in clips])) for metric in METRICS}
        lines.append(
            f"| {name} | {mean['lpips']:.3f} | {1e4 * mean['mse']:.1f} | {mean['psnr']:.2f} "
            f"| {mean['ms_ssim']:.3f} | {mean['identity']:.3f} |"
        )
    lines += ["", "| clip | encoder, dB | adapted, dB | steps to 28 dB | identity | from frame to frame |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for clip in clips:
        first, last = clip["rows"]["encoder"], list(clip["rows"].values())[-1]
        steps = "not reached" if clip["steps_to_enough"] is None else clip["steps_to_enough"]
        lines.append(
            f"| {clip['clip']} | {first['psnr']:.2f} | {last['psnr']:.2f} | {steps} "
            f"| {last['identity']:.3f} | {clip['frame_to_frame']:.3f} |"
        )
    lines += ["", "| edit | slope on the base | on the adapted | share |", "|---|--:|--:|--:|"]
    for name, unit in units.items():
        base, adapted = (
            float(np.mean([clip["slopes"][which][name] for clip in clips])) / unit for which in ("base", "adapted")
        )
        lines.append(f"| {name} | {base:.2f} | {adapted:.2f} | {adapted / base:.2f} |")
    return lines
