"""What each loss of FrEN does: the same start, the same frames, the same few steps, one loss more each time.

The lower part of Table 1 in FrEN/ViEN (section 4.3, Fig. 5). Trainings go on from their last checkpoint, and
finished ones are taken from where they lie, so that it can be stopped at any time. The cost is that of the
renderings, 0.4 s forward and backward on two idle cores: the 480 steps of four frames that ``params.yaml`` asks
for are some half an hour, and measuring five encoders is ten minutes more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from datamodules.disk import write_whole
from datamodules.face_video import FaceVideoConfig, FaceVideoDataModule
from datamodules.samples import SampleDataset
from modules.encoders.vit import load_frame_encoder, save_frame_encoder
from modules.generators import Generator
from modules.lit.frame_encoder import FrozenParts, Phase
from services.evaluation.report import replace_block
from services.evaluation.sheets import video_sheet
from services.evaluation.table import VideoTable, markdown
from services.evaluation.video import CodeSource, mean_face, streamed
from services.places import CLIPS, METRICS_FOLDER, RESULTS, RUNS, SAMPLES
from services.precise_generator import generator_sha256
from services.progress import Cancelled, Report, never, silent
from services.registry.tracking import Run
from services.settings import ROOT, Params
from services.stages.encoder import crops_to_learn_from, fingerprint, first_encoder, validation_crops
from services.stages.evaluate_table import load_table_parts, shortened
from services.training.generator import generator_to_train_through
from services.training.parts import OF_FACES, face_seen, image_losses
from services.training.runs import training_run
from services.training.trainer import FrameEncoderSettings, fit_frame_encoder

METRICS = "ablation.json"
BLOCK = "ablation"
OTHERS = ("input", "mean_face", "start")
"""Names of the rows that are not trained here."""


@dataclass(frozen=True)
class AblationSettings:
    """Section ``ablation``: FrEN trained with one loss more each time, otherwise equal."""

    start_from: str
    """Model folder that every training begins at; empty begins at the linear guess of ``frame_encoder``."""
    steps: int
    """Optimiser steps of each training."""
    batch_size: int
    """Real frames per step; all of them are rendered."""
    learning_rate: float
    """Of Ranger."""
    ema_decay: float
    """Of the averaged weights that are measured; few steps ask for a short memory."""
    losses: Mapping[str, Mapping[str, float]]
    """Label of a row to the weights of its losses."""
    frames_per_clip: int
    """Of the test clips that each is measured on, the first of ``evaluation.video``'s."""
    judge_every: int
    """As in ``evaluation.video``."""

    def __post_init__(self) -> None:
        if not self.losses or any(not weights for weights in self.losses.values()):
            raise ValueError("each row needs at least one loss")
        if any(not re.fullmatch(r"[\w ]+", label) for label in self.losses):
            raise ValueError("label rows with letters, digits and spaces alone: MLflow takes nothing else")
        names = [*OTHERS, *map(_name_of, self.losses)]
        if len(set(names)) < len(names):
            raise ValueError(f"rows need labels that differ, and none of {', '.join(OTHERS)}")


@dataclass(frozen=True)
class Ablation:
    """What came of it."""

    table: VideoTable
    """The input, the mean face, the start where there is one, and a row per set of losses."""
    notes: tuple[str, ...]
    """Budget and cost, for people."""


def run_ablation(
    params: Params, overrides: Sequence[str] = (), report: Report = silent, cancelled: Cancelled = never
) -> str:
    """Train and measure, as a run in MLflow; returns the table.

    It goes into ``metrics/`` and ``docs/results.md``; with ``overrides`` of ``params.yaml`` only into the state's
    ``metrics/``, as with ``stylereel evaluate``. Raises ``BadInputError``.
    """
    command = " ".join(["stylereel train ablation", *(f"--set {override}" for override in overrides)])
    folder = params.runtime.state / "metrics" if overrides else METRICS_FOLDER
    with training_run("ablation", params, {"command": command}, _run_folder(params, command)) as run:
        found = ablate(params, run, report, cancelled)
        folder.mkdir(parents=True, exist_ok=True)
        numbers = found.table.numbers()
        write_whole(folder / METRICS, json.dumps(numbers, indent=2, allow_nan=False) + "\n")
        text = markdown([found.table], command, found.notes)
        if not overrides:
            replace_block(RESULTS, BLOCK, text)
        run.log_metrics(numbers)
        run.log_file(folder / METRICS)
    return text


def ablate(params: Params, run: Run, report: Report = silent, cancelled: Cancelled = never) -> Ablation:
    """Train FrEN once per set of losses and measure each; ``run`` gets curves and a sheet.

    Raises ``BadInputError``.
    """
    settings = params.section("ablation", AblationSettings)
    base = params.section("frame_encoder", FrameEncoderSettings)
    generator = generator_to_train_through(params, base.trainer)
    folders = {label: train_with(params, settings, label, generator, run) for label in settings.losses}
    data = FaceVideoDataModule(CLIPS, params.section("face_video", FaceVideoConfig))
    parts = load_table_parts(params, data.prepared)
    clips = tuple(shortened(clip, min(len(clip), settings.frames_per_clip)) for clip in parts.clips)
    rows: list[CodeSource] = [mean_face(parts.generator, parts.device)]
    named = {"start": ROOT / settings.start_from} if settings.start_from else {}
    for label, folder in (named | folders).items():
        encoder = load_frame_encoder(folder, parts.generator.sha256).to(parts.device)
        rows.append(streamed(_name_of(label), label, encoder, parts.device))
    table = parts.table(clips, rows, settings.judge_every, report, cancelled)
    run.log_image("reconstructions", video_sheet(clips, rows, parts.meter(settings.judge_every).render))
    budget = (
        f"Each row: {settings.steps} steps of {settings.batch_size} real frames from "
        f"{settings.start_from or 'the linear first guess'}, learning rate {settings.learning_rate:g}."
    )
    return Ablation(table, (budget,))


def train_with(params: Params, settings: AblationSettings, label: str, generator: Generator, run: Run) -> Path:
    """Train with the losses of one row, or go on, or take what is there: its model folder."""
    weights = settings.losses[label]
    base = params.section("frame_encoder", FrameEncoderSettings)
    phase = dataclasses.replace(
        base.training.phases[-1], name=label, share=1.0, batch_size=settings.batch_size,
        learning_rate=settings.learning_rate, sample_share=0.0, rendered=settings.batch_size, weights=weights,
    )  # fmt: skip
    begun = dataclasses.replace(base, start_from=settings.start_from)
    whole = with_phase(begun, phase, settings.steps, settings.ema_decay)
    data = FaceVideoDataModule(CLIPS, params.section("face_video", FaceVideoConfig))
    samples = SampleDataset(SAMPLES, made_by=generator.sha256)
    folder = RUNS / f"ablation-{fingerprint(params, whole, data, samples, generator.sha256)}"
    done = folder / "encoder"
    if done.is_dir():
        return done
    torch.manual_seed(whole.trainer.seed)
    encoder, whole = first_encoder(whole, generator)
    parts = FrozenParts(generator, image_losses(params, weights.keys()), face_seen(params), OF_FACES)
    trained = fit_frame_encoder(
        encoder, parts, samples, crops_to_learn_from(data, samples, encoder.config.image_size),
        validation_crops(data, whole.trainer.validation_frames), whole, folder,
        run.lightning_logger(f"{_name_of(label)}/"), accelerator=params.runtime.torch_device(),
    )  # fmt: skip
    card = (
        f"# FrEN, {label}\n\nOne row of the loss ablation: {dict(weights)}, {settings.steps} steps. Not for use.\n"
    )
    return save_frame_encoder(done, trained, generator.sha256, card, {"steps": settings.steps})


def with_phase(settings: FrameEncoderSettings, phase: Phase, steps: int, ema_decay: float) -> FrameEncoderSettings:
    """The same encoder, trained in this one phase, validated only at its end.

    On one device: several would end their further processes with the first row (``fit_in_phases``).
    """
    training = dataclasses.replace(settings.training, steps=steps, phases=(phase,), ema_decay=ema_decay)
    trainer = dataclasses.replace(settings.trainer, devices=1, validate_every=steps, validation_frames=4)
    return dataclasses.replace(settings, training=training, trainer=trainer)


def _run_folder(params: Params, command: str) -> Path:
    """Where the run is noted until it is done; the checkpoints are in the folders of the rows."""
    settings = params.section("ablation", AblationSettings)
    base = params.section("frame_encoder", FrameEncoderSettings)
    start = dataclasses.replace(base, start_from=settings.start_from)
    data = FaceVideoDataModule(CLIPS, params.section("face_video", FaceVideoConfig))
    sha256 = generator_sha256(params)
    samples = SampleDataset(SAMPLES, made_by=sha256)
    what = [command, repr(settings), fingerprint(params, start, data, samples, sha256)]
    return RUNS / f"ablation-run-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"


def _name_of(label: str) -> str:
    return label.lower().replace(" ", "_")
