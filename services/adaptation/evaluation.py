"""What adapting the generator brings on persons not trained on: Table 1 of StylePortraitVideo, and its edits."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.coded_frames import CodedFrames
from datamodules.disk import write_whole
from datamodules.rows import Rows
from datamodules.shards import to_tensor
from datamodules.spread import spread
from datamodules.types import BadInputError, Frames
from modules.editing.directions import Edit, EditRequest, EditSet
from modules.generators.adaptation import copy_of
from modules.generators.protocol import Generator
from modules.lit.video_adaptation import LitVideoAdaptation
from modules.losses.perceptual import load_lpips
from modules.metrics.face import identity_similarity
from modules.metrics.fidelity import lpips_distance, ms_ssim, psnr
from services.adaptation.learn import AdaptationSettings
from services.edits.evaluation import ImageJudge, measure_edits, slopes_between
from services.evaluation.frames import SIDE, HeldOutFrames
from services.pipeline.balance import balanced
from services.pipeline.invert import CodesState, invert_crops
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.shot_starts import start_of
from services.progress import Meter, never
from services.training.tuning import tune

METRICS = ("lpips", "mse", "psnr", "ms_ssim", "identity")
"""The columns of Table 1; ``mse`` is of values in [0, 1]."""
ENOUGH = 28.0
"""dB to which the steps are counted."""
AS_SERVED = ", balanced"
"""Ends the names of slopes of edits that were balanced on the face first."""


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
    ws = codes_of(frames.pixels, models)
    follow = models.config.follow
    looked_at = frames.pixels[spread(len(frames), follow.shared_frames)]
    refined, _ = invert_crops(frames.pixels, models, follow.steps or 3, start_of(looked_at, models))
    chosen = spread(len(frames), table.measured)
    crops = to_tensor(frames.pixels, models.device)

    def row(generator: Generator, codes: Tensor) -> dict[str, float]:
        return measured(rendered(generator, codes[chosen]), crops[chosen], models)

    rows = {"encoder": row(models.generator, ws), "encoder + refinement": row(models.generator, refined)}
    tell(f"{frames.clips[0]}: encoder {rows['encoder']['psnr']:.2f} dB")
    enough: int | None = None

    def look(step: int, generator: Generator) -> None:
        nonlocal enough
        if step in table.iterations:
            rows[f"adapted, {step} iterations"] = row(generator, ws)
            tell(f"{frames.clips[0]}: {step} iterations {rows[f'adapted, {step} iterations']['psnr']:.2f} dB")
        if enough is None and step % table.counted_every == 0 and row(generator, ws)["psnr"] >= ENOUGH:
            enough = step

    adapted = learned(frames.pixels, ws, models, settings, table.iterations[-1], look=look)
    with torch.no_grad():
        embedded = torch.cat([models.judges.identity.embed(one) for one in torch.split(crops, 8)])
    few = spread(len(frames), table.edited)
    tried = [row for row in range(len(frames)) if row not in few] or few
    return {
        "clip": frames.clips[0],
        "person": frames.people[0],
        "frames": len(frames),
        "rows": rows,
        "steps_to_enough": enough,
        "frame_to_frame": float((embedded[1:] * embedded[:-1]).sum(1).mean()),
        "slopes": {
            f"{name}{served}": slopes(replace(models, generator=generator), ws[few], table.edits, judge, looked_at)
            for name, generator in (("base", models.generator), ("adapted", adapted))
            for served, looked_at in (("", None), (AS_SERVED, ws[tried]))
        },
    }


def codes_of(pixels: Frames, models: Models) -> Tensor:
    """What the encoder says of each of ``(N, 256, 256, 3)`` crops by itself, ``(N, num_ws, w_dim)``."""
    with torch.no_grad():
        return torch.cat([invert_crops(one[None], models, 0, CodesState())[0] for one in pixels])


def rendered(generator: Generator, ws: Tensor) -> Tensor:
    """``(N, 3, 256, 256)`` in [-1, 1] of N codes, one at a time."""
    with torch.no_grad():
        shown = [generator.synthesize(one, resolution=SIDE) for one in torch.split(ws, 1)]
    return torch.cat(shown).float().clamp(-1, 1)


def learned(
    pixels: Frames,
    ws: Tensor,
    models: Models,
    settings: AdaptationSettings,
    iterations: int,
    start: Generator | None = None,
    look: Callable[[int, Generator], None] = lambda step, generator: None,
) -> Generator:
    """The generator adapted to N crops at their codes for so many steps, from ``start`` or the base.

    ``look`` is shown the step and the generator, at step 0 and after each. Raises ``BadInputError`` where the loss
    is no number.
    """
    if not iterations:
        return start or models.generator
    net = load_lpips(settings.lpips_net, models.device)
    lit = LitVideoAdaptation(models.generator, settings.training, net, settings.seed, start)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        codes, crops = (
            Rows(folder / "codes", ws.shape[1:], np.float32),
            Rows(folder / "crops", pixels.shape[1:], np.uint8),
        )
        codes.append(ws.float().cpu().numpy())
        crops.append(pixels)
        steps, said = tune(
            lit,
            lambda count, done: CodedFrames(codes, crops, count, iterations, settings.seed, done),
            replace(settings, iterations=iterations),
            SIDE,
            models.device,
            folder / "run",
            Meter("adapt", iterations, lambda progress: look(progress.done, lit.kept), never),
            "adaptation.training.learning_rate",
        )
    if steps < iterations:
        raise BadInputError(said[-1])
    return copy_of(lit.kept, models.device)


def continual(
    first: HeldOutFrames,
    second: HeldOutFrames,
    models: Models,
    settings: AdaptationSettings,
    earlier: int,
    steps: Sequence[int],
    looked_at: int,
) -> dict[str, dict[str, float]]:
    """The second clip of a person under generators that know the first one, or not, by how they were made (4.3).

    ``earlier`` is how many steps the first clip was learned for, ``steps`` those on the second, a row for each.
    ``looked_at`` frames of the second are measured, which are among those learned.
    """
    start = learned(first.pixels, codes_of(first.pixels, models), models, settings, earlier)
    ws, chosen = codes_of(second.pixels, models), spread(len(second), looked_at)
    crops = to_tensor(second.pixels[chosen], models.device)
    rows = {}
    for name, begin in (("the base", None), ("the first clip", start)):
        for count in steps:
            made = learned(second.pixels, ws, models, settings, count, begin)
            rows[f"{count} from {name}"] = measured(rendered(made, ws[chosen]), crops, models)
    return rows


def table_lines(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Table 1's columns, a line for each row."""
    lines = ["| | LPIPS ↓ | MSE × 10⁻⁴ ↓ | PSNR, dB ↑ | MS-SSIM ↑ | identity ↑ |", "|---|--:|--:|--:|--:|--:|"]
    for name, of in rows.items():
        lines.append(
            f"| {name} | {of['lpips']:.3f} | {1e4 * of['mse']:.1f} | {of['psnr']:.2f} "
            f"| {of['ms_ssim']:.3f} | {of['identity']:.3f} |"
        )
    return lines


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
    models: Models,
    ws: Tensor,
    edits: Mapping[str, Sequence[float]],
    judge: ImageJudge,
    looked_at: Tensor | None = None,
) -> dict[str, float]:
    """How much of what is asked of each edit is got on the models' generator, mean over the codes.

    With ``looked_at`` edits are balanced on renderings of those codes of the same face first.
    """
    known: EditSet[Edit] = models.edits

    def move(codes: Tensor, request: EditRequest) -> Tensor:
        asked: Sequence[EditRequest] = [request]
        if looked_at is not None:
            asked = balanced(looked_at, asked, models, EditOptions())
        return known.apply(codes, asked)

    readings = measure_edits(
        ws, known, edits, partial(rendered, models.generator), judge, models.judges.identity.embed, move=move
    )
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
    mean = {
        name: {metric: float(np.mean([clip["rows"][name][metric] for clip in clips])) for metric in METRICS}
        for name in clips[0]["rows"]
    }
    lines = table_lines(mean)
    lines += ["", "| clip | encoder, dB | adapted, dB | steps to 28 dB | identity | from frame to frame |"]
    lines += ["|---|--:|--:|--:|--:|--:|"]
    for clip in clips:
        first, last = clip["rows"]["encoder"], list(clip["rows"].values())[-1]
        steps = "not reached" if clip["steps_to_enough"] is None else clip["steps_to_enough"]
        lines.append(
            f"| {clip['clip']} | {first['psnr']:.2f} | {last['psnr']:.2f} | {steps} "
            f"| {last['identity']:.3f} | {clip['frame_to_frame']:.3f} |"
        )
    lines += ["", "| edit | slope on the base | on the adapted | share | balanced: base | adapted | share |"]
    lines += ["|---|--:|--:|--:|--:|--:|--:|"]
    for name, unit in units.items():
        cells = []
        for served in ("", AS_SERVED):
            base, adapted = (
                float(np.mean([clip["slopes"][which + served][name] for clip in clips])) / unit
                for which in ("base", "adapted")
            )
            cells += [f"{base:.2f}", f"{adapted:.2f}", f"{adapted / base:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
