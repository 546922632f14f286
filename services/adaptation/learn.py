"""A generator adapted to the face of a clip (StylePortraitVideo, section 3.2): from the file to a model folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.coded_frames import CodedFrames
from datamodules.disk import write_whole
from datamodules.rows import Rows
from datamodules.shards import to_tensor
from datamodules.spread import spread
from datamodules.types import BadInputError
from modules.generators.adaptation import KIND, Adaptation, adapted, copy_of, save_adaptation
from modules.generators.protocol import Generator
from modules.lit.video_adaptation import LitVideoAdaptation, VideoAdaptationTraining
from modules.losses.perceptual import load_lpips
from modules.model_folder import require_replaceable
from services.adaptation.card import adaptation_card
from services.adaptation.options import check_one_face
from services.adaptation.subjects import WHOSE
from services.consent import Subject, handed_on
from services.pipeline.crops import crop_synthesis_size
from services.pipeline.follow import Follower
from services.pipeline.invert import mean_measured, measure
from services.pipeline.models import Models
from services.pipeline.options import EditOptions
from services.pipeline.plan import plan_clip, taken_frames
from services.pipeline.sidecar import file_sha256, plain
from services.progress import Cancelled, Meter, Report, never, silent
from services.training.tuning import tune

COLLECTED = "collected.json"
"""Says that codes and crops of a work folder are whole, and what they are."""
LOOKED_AT = ("face", "start", "end", "preview")
"""The options that say which face is learned, from which frames, at which size."""


@dataclass(frozen=True)
class AdaptationSettings:
    """Section ``adaptation``: how a generator learns one clip, and how many adaptations are kept."""

    iterations: int
    """Steps of Adam."""
    batch_size: int
    """Frames per step; halved, and said so, where the memory does not hold them."""
    frames: int
    """Frames of the clip that are learned from, at most, spread over it."""
    training: VideoAdaptationTraining
    """Losses and learning rate."""
    lpips_net: Literal["vgg", "alex"]
    """Backbone of LPIPS; a step with vgg takes twice as long."""
    checkpoint_every: int
    """Steps between checkpoints, which a killed adaptation goes on from."""
    measured: int
    """Frames on which before and after are compared."""
    keep: int
    """How many adaptations ``edit --adapt`` leaves for the next edit of the same clip."""
    served: int
    """How many adapted generators a server holds in memory; the least recently used makes room."""
    seed: int
    """Of the order of the frames."""


@dataclass(frozen=True)
class Collected:
    """Frames of one face on disk, with the codes that the encoder gives for them."""

    codes: Rows[np.float32]
    crops: Rows[np.uint8]
    size: int
    """Side of the crops: that at which the face is synthesised."""
    strangers: tuple[int, ...]
    """Numbers of the clip's frames from which it is another person's face than before."""


@dataclass(frozen=True)
class AdaptationReport:
    """What was learned."""

    frames: int
    """Frames learned from."""
    size: int
    """Their side in pixels."""
    iterations: int
    """Steps that were made."""
    seconds: float
    """Time that it took."""
    before: dict[str, float | None]
    """Mean ``psnr`` (dB), ``identity`` and ``landmark_error`` (%) of what the generator made before; all but the
    first are None where no measured frame shows the face."""
    after: dict[str, float | None]
    """The same of the adapted one."""
    warnings: tuple[str, ...]
    """One line each."""


def adapt_clip(
    source: Path,
    folder: Path,
    models: Models,
    options: EditOptions,
    settings: AdaptationSettings,
    work: Path,
    report: Report = silent,
    cancelled: Cancelled = never,
    start_from: Adaptation | None = None,
    subject: Subject | None = None,
) -> AdaptationReport:
    """Adapt the generator to the face that ``options`` choose, and write the difference as a model folder.

    ``work`` keeps frames and checkpoints: called again with it after having been killed, the adaptation goes on.
    ``start_from`` is an earlier adaptation of the same person (section 4.3), whose name and consent stay where
    ``subject`` has none. Raises ``BadInputError`` for a consent that does not cover it, for a clip that cannot be
    used, and where others than a named subject would be learned too, and ``CancelledError`` soon after
    ``cancelled`` says so.
    """
    require_replaceable(folder, KIND)
    started = time.monotonic()
    asked = asked_of(source, models, options, settings, start_from, subject)
    work.mkdir(parents=True, exist_ok=True)
    write_whole(work / WHOSE, json.dumps({name: asked[name] for name in ("subject", "source")}))
    collected = collect(source, models, options, settings.frames, work, report, cancelled)
    others = _others(collected)
    if others and asked["subject"]["name"]:
        shutil.rmtree(work)
        raise BadInputError(f"{others[0]}; the consent is one person's")
    start = adapted(models.generator, start_from.difference) if start_from else models.generator
    lit = LitVideoAdaptation(
        models.generator, settings.training, load_lpips(settings.lpips_net, models.device), settings.seed, start
    )
    steps, warnings = tune(
        lit,
        _batches(collected, settings),
        settings,
        collected.size,
        models.device,
        work / "run",
        Meter("adapt", settings.iterations, report, cancelled),
        "adaptation.training.learning_rate",
    )
    moved = copy_of(lit.kept, models.device)
    meter = Meter("measure", 2 * min(settings.measured, len(collected.codes)), report, cancelled)
    before = _measured(start, collected, models, settings.measured, meter)
    after = _measured(moved, collected, models, settings.measured, meter)
    seconds, said = time.monotonic() - started, (*others, *warnings)
    done = AdaptationReport(len(collected.codes), collected.size, steps, seconds, before, after, said)
    extra = {
        **asked,
        "report": dataclasses.asdict(done),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    card = adaptation_card(extra, models.generator.sha256)
    save_adaptation(folder, lit.difference(), models.generator.sha256, card, extra)
    shutil.rmtree(work)
    return done


def asked_of(
    source: Path,
    models: Models,
    options: EditOptions,
    settings: AdaptationSettings,
    start_from: Adaptation | None,
    subject: Subject | None,
) -> dict[str, Any]:
    """What the folder's config says of how the face is learned, as JSON; raises as ``handed_on`` does."""
    about = subject or Subject()
    if start_from is not None:
        about = handed_on(Subject.of(start_from.config), about)
    asked: dict[str, Any] = plain(
        {
            "subject": about,
            "source": {"name": source.name, "sha256": file_sha256(source)},
            "options": {name: getattr(options, name) for name in LOOKED_AT},
            "models": models.versions,
            "start_from": start_from.sha256 if start_from else None,
            "settings": settings,
        }
    )
    return asked


def collect(
    source: Path,
    models: Models,
    options: EditOptions,
    most: int,
    work: Path,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> Collected:
    """Crops of the chosen face at the size it is synthesised at, and the encoder's codes, in files of ``work``.

    At most ``most`` frames, spread over all that show the face. What an earlier call left whole is taken as it is.
    """
    check_one_face(options)
    known = _known(work, models)
    if known is not None:
        return known
    plan = plan_clip(source, models, options, report, cancelled)
    face = plan.faces[0]
    alignment = face.alignment
    size = crop_synthesis_size(alignment.crop_to_frame[alignment.valid], alignment.size, models, options)
    found = _files(work, models, size, [plan.numbers[at] for at in plan.strangers])
    for rows in (found.codes, found.crops):
        rows.path.unlink(missing_ok=True)
    chosen = set(face.spread(most))
    follower = Follower(face, plan.cuts, models, steps=0)
    meter = Meter("encode", len(plan.numbers), report, cancelled)
    for place, batch in taken_frames(source, models, options):
        for seen, at, crop in follower.chosen(batch.frames, place, chosen, size, meter.check):
            found.crops.append(crop[None])
            found.codes.append(seen.ws[at : at + 1].float().cpu().numpy())
        meter.advance(len(batch.frames))
    said = {"size": size, "frames": len(found.codes), "strangers": found.strangers}
    write_whole(work / COLLECTED, json.dumps(said))
    return found


def _others(collected: Collected) -> tuple[str, ...]:
    """One line where more than one person is learned."""
    if not collected.strangers:
        return ()
    where = ", ".join(map(str, collected.strangers))
    return (f"another person is learned too, from frame {where} on: choose a section that shows one",)


def _batches(collected: Collected, settings: AdaptationSettings) -> Callable[[int, int], CodedFrames]:
    def left(batch_size: int, first: int) -> CodedFrames:
        return CodedFrames(collected.codes, collected.crops, batch_size, settings.iterations, settings.seed, first)

    return left


def _measured(
    generator: Generator, collected: Collected, models: Models, most: int, meter: Meter
) -> dict[str, float | None]:
    """Means over frames that are spread over the collected ones, at the size that crops are compared at."""
    side, count = models.config.crop_size, len(collected.codes)
    found: list[dict[str, NDArray[np.float64]]] = []
    for row in spread(count, most):
        crop = cv2.resize(collected.crops.read(row, row + 1)[0], (side, side), interpolation=cv2.INTER_AREA)
        ws = torch.from_numpy(collected.codes.read(row, row + 1)).to(models.device)
        with torch.no_grad():
            shown = generator.synthesize(ws, resolution=side).clamp(-1, 1)
        found.append(measure(to_tensor(np.asarray(crop, np.uint8)[None], models.device), shown, models))
        meter.advance()
    means = {name: mean_measured(np.concatenate([one[name] for one in found])) for name in found[0]}
    return {name: None if mean is None else round(mean, 4) for name, mean in means.items()}


def _known(work: Path, models: Models) -> Collected | None:
    try:
        said = json.loads((work / COLLECTED).read_text())
        found = _files(work, models, int(said["size"]), said["strangers"])
    except (OSError, ValueError, KeyError):
        return None
    return found if len(found.codes) == len(found.crops) == said["frames"] else None


def _files(work: Path, models: Models, size: int, strangers: Sequence[int]) -> Collected:
    generator = models.generator
    return Collected(
        Rows(work / "codes", (generator.num_ws, generator.w_dim), np.float32),
        Rows(work / "crops", (size, size, 3), np.uint8),
        size,
        tuple(strangers),
    )
