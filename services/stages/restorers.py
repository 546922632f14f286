"""The stages ``colouriser`` and ``enlarger``: FrEN's entry learns to read what lacks colour or lines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from datamodules.clips import Prepared
from datamodules.disk import write_whole
from datamodules.face_video import FaceVideoConfig, FaceVideoDataModule
from datamodules.mixture import Frames
from datamodules.samples import SampleDataset
from datamodules.variation import SofteningConfig, VariationConfig
from modules.encoders.restoring import (
    FACTOR,
    STAGES,
    RestoringEncoder,
    Task,
    copy_of,
    save_restoring_encoder,
)
from modules.encoders.vit import load_frame_encoder
from modules.lit.frame_encoder import PartsWithFrameEncoder
from modules.lit.reconstructions import Show
from modules.lit.restoring import LitRestoringEncoder, RestoringTraining
from modules.model_folder import CARD, weights_sha256
from modules.sheet import Image
from services.evaluation.restoring import evaluate_restoring_encoder
from services.evaluation.sheets import pairs_sheet
from services.pipeline.restorers import SHIPPED
from services.places import CLIPS, METRICS_FOLDER, RUNS, SAMPLES
from services.precise_generator import exact_generator
from services.settings import ROOT, Params
from services.stages.encoder import crops_to_learn_from, validation_crops
from services.training.generator import generator_to_train_through
from services.training.generator_terms import terms_of
from services.training.parts import OF_FACES, face_seen, image_losses, judged_by
from services.training.runs import code_sha256, training_run
from services.training.trainer import TrainerConfig, fit_on_mixture

EVALUATIONS: dict[Task, Path] = {task: METRICS_FOLDER / f"{name}.evaluation.json" for task, name in STAGES.items()}


@dataclass(frozen=True)
class RestoringSettings:
    """Section ``restoring``: how what colourises and what enlarges are trained, each by itself."""

    frame_encoder: str
    """Model folder of the FrEN whose entry learns."""
    training: RestoringTraining
    """What it learns, in which order."""
    softening: SofteningConfig
    """What samples go through, so that they look like video."""
    variation: VariationConfig
    """What real frames go through."""
    trainer: TrainerConfig
    """Where and how often."""


def train_restoring_encoder(params: Params, task: Task, say: Callable[[str], None] = lambda line: None) -> Path:
    """Train what does a task, or go on from its last checkpoint; returns its folder in ``assets/``.

    Measures it on test persons, for the gate. Raises ``BadInputError`` where there is no FrEN for the generator,
    no training person or no test person.
    """
    settings = params.section("restoring", RestoringSettings)
    generator = generator_to_train_through(params, settings.trainer)
    samples = SampleDataset(SAMPLES, made_by=generator.sha256)
    first = load_frame_encoder(ROOT / settings.frame_encoder, generator.sha256)
    data = FaceVideoDataModule(CLIPS, params.section("face_video", FaceVideoConfig))
    frames = crops_to_learn_from(data, samples, first.config.image_size)
    held_out = validation_crops(data, settings.trainer.validation_frames)
    plan, config = settings.training, settings.trainer
    torch.manual_seed(config.seed)
    encoder = RestoringEncoder(task, copy_of(first))
    names = {name for phase in plan.phases for name in phase.weights}
    parts = PartsWithFrameEncoder(generator, first, image_losses(params, names), face_seen(params), OF_FACES)
    first_sha256, stage = weights_sha256(first.state_dict()), STAGES[task]
    counts = dataclasses.replace(settings, trainer=config.that_counts())
    what = [
        repr(counts), task, repr(data.config.that_counts()), *judged_by(params), generator.sha256, first_sha256,
        data.prepared.data_hash("train"), *samples.fingerprints, code_sha256(stage),
    ]  # fmt: skip
    run_folder = RUNS / f"{stage}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"
    more = {
        "generator_sha256": generator.sha256,
        "frame_encoder": first_sha256,
        "data": data.prepared.data_hash("train"),
        "samples": len(samples),
    }

    with training_run(stage, params, more, run_folder) as run:

        def show(step: int, inputs: list[Image], reconstructions: list[Image]) -> None:
            run.log_image("validation", pairs_sheet(inputs, reconstructions), step)

        trained = fit_restoring_encoder(
            encoder, parts, samples, frames, held_out, settings, run_folder, run.lightning_logger(), show,
            params.runtime.torch_device(),
        )  # fmt: skip
        card = _card(task, settings, data.prepared, len(samples), generator.sha256, first_sha256)
        steps = {"steps": plan.steps}
        folder = save_restoring_encoder(SHIPPED[task], trained, first, generator.sha256, card, steps)
        # As a champion is measured, which need not be in the precision of the training.
        evaluation, lines = evaluate_restoring_encoder(folder, first, exact_generator(params), params)
        table = "\n".join(lines)
        say(table)
        measured = f"\n## Metrics\n\nOn frames of persons not trained on, degraded here:\n\n{table}\n"
        write_whole(folder / CARD, card + measured)
        write_whole(EVALUATIONS[task], evaluation.to_json() + "\n")
        run.log_metrics(evaluation.metrics)
        run.log_model(folder)
    return folder


def fit_restoring_encoder(
    encoder: RestoringEncoder,
    frozen: PartsWithFrameEncoder,
    samples: SampleDataset,
    frames: Frames,
    held_out: Tensor,
    settings: RestoringSettings,
    run_folder: Path,
    logger: Logger | bool = False,
    show: Show = lambda step, inputs, reconstructions: None,
    accelerator: str = "auto",
) -> RestoringEncoder:
    """Like ``fit_frame_encoder``, for what restores; ``held_out`` are crops ``(N, 3, r, r)`` as they should be."""
    lit = LitRestoringEncoder(encoder, settings.training, frozen, settings.trainer.seed)
    fit_on_mixture(lit, samples, frames, held_out, settings, run_folder, logger, show, accelerator)
    return encoder.eval()


def _card(
    task: Task,
    settings: RestoringSettings,
    prepared: Prepared,
    samples: int,
    generator_sha256: str,
    first_sha256: str,
) -> str:
    phases = "\n".join(
        f"- {p.name}: {steps} steps of {p.batch_size}, {p.rendered} of them rendered, learning rate "
        f"{p.learning_rate}, {dict(p.weights)}"
        for p, steps in zip(settings.training.phases, settings.training.phase_steps, strict=True)
    )
    reads, trained_on = {
        "colourise": ("a grey 256 px FFHQ crop", "their luma alone"),
        "enlarge": (
            f"a 256 px FFHQ crop that was enlarged {FACTOR} times",
            f"reduced {settings.training.factors[0]:g} to {settings.training.factors[1]:g} times and enlarged "
            "again, bicubic",
        ),
    }[task]
    clips = ", ".join(clip.name for clip in prepared.of("train"))
    return (
        f"# {STAGES[task].capitalize()}\n\nReads {reads} and answers the codes of the face as it should be. The "
        "entry of FrEN, learned anew; everything behind it is FrEN's and not in this folder.\n\n"
        f"Generator: {generator_sha256}\n\nFrame encoder: {first_sha256}\n\n## Trained\n\n{phases}\n\n"
        f"On {samples} generator samples and on real crops, {trained_on}, each varied by "
        f"{dataclasses.asdict(settings.variation)}; of: {clips}.\n\n"
        f"## Terms\n\n{terms_of(generator_sha256)} Some of the training data is for non-commercial use\n"
        "only. What it adds is plausible, not what was there: not for telling people apart.\n"
    )
