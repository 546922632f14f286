"""How near restored frames come to what they were: of persons not trained on, degraded here, so truth is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from datamodules.clips import read_prepared
from modules.encoders.restoring import RestoringEncoder, degrade, load_restoring_encoder
from modules.encoders.vit import FrameEncoder
from modules.generators.protocol import Generator
from modules.model_folder import load_model
from services.evaluation.frames import SIDE, HeldOutFrames, held_out_frames
from services.evaluation.measure import HIGHER_IS_BETTER, EvaluationJudges, FrameMeter, joined, means
from services.evaluation.reconstruction import EvaluationConfig, data_hash_of
from services.places import CLIPS
from services.registry.gate import Evaluation, utc_now
from services.settings import Params

Encode = Callable[[Tensor], Tensor]


def restored(degraded: Tensor, shown: Tensor, encoder: RestoringEncoder) -> Tensor:
    """What the input has stays, what it lacks comes from the rendering: ``x + G(w) - degrade(G(w))``.

    ``degraded`` and ``shown`` are ``(N, 3, S, S)`` in [-1, 1].
    """
    return (degraded + shown - degrade(shown, encoder.task)).clamp(-1, 1)


def measure_restoring_encoder(
    encoder: RestoringEncoder,
    first: FrameEncoder,
    generator: Generator,
    frames: HeldOutFrames,
    judges: EvaluationJudges,
    batch: int,
    device: str,
) -> dict[str, dict[str, float]]:
    """Means of every metric by row: ``input`` (nothing done), ``frame_encoder`` (FrEN untaught), ``restored``."""
    meter, parts = FrameMeter(frames, judges, device, batch), {}
    rows: dict[str, Encode | None] = {
        "input": None,
        "frame_encoder": lambda images: first(images)[0],
        "restored": lambda images: encoder(images)[0],
    }
    for name, encode in rows.items():
        found = []
        for begin in range(0, len(frames), batch):
            indices = range(begin, min(begin + batch, len(frames)))
            degraded = degrade(meter.targets(indices), encoder.task)
            shown = degraded
            if encode is not None:
                with torch.no_grad():
                    made = generator.synthesize(encode(degraded), resolution=SIDE).float().clamp(-1, 1)
                shown = restored(degraded, made, encoder)
            found.append(meter.measure(indices, shown))
        parts[name] = means(joined(found), frames.people)
    return parts


def evaluate_restoring_encoder(
    folder: Path, first: FrameEncoder, generator: Generator, params: Params
) -> tuple[Evaluation, list[str]]:
    """Measure the model in ``folder`` on test persons: what the gate reads, and a table in Markdown.

    ``lpips_gain`` and ``psnr_gain`` are over the input as it is; ``taught_gain`` is in LPIPS over FrEN's own
    answers for degraded frames.
    """
    from modules.perception.detection import DetectionConfig
    from services.pipeline.models import Judges

    config, device = params.section("evaluation", EvaluationConfig), params.runtime.torch_device()
    encoder = load_restoring_encoder(folder, first, generator.sha256).to(torch.device(device))
    first = first.to(torch.device(device))
    frames = held_out_frames(read_prepared(CLIPS), config.frames_per_clip)
    judges = Judges(params.section("detection", DetectionConfig), config.lpips_net, device)
    rows = measure_restoring_encoder(encoder, first, generator, frames, judges, config.batch, device)
    got, was, untaught = rows["restored"], rows["input"], rows["frame_encoder"]
    metrics = {
        **got,
        "psnr_gain": got["psnr"] - was["psnr"],
        "lpips_gain": was["lpips"] - got["lpips"],
        "taught_gain": untaught["lpips"] - got["lpips"],
    }
    model = load_model(folder)
    evaluation = Evaluation(
        model_sha256=model.weights_sha256,
        config_sha256=model.config_sha256,
        generator_sha256=generator.sha256,
        data_hash=data_hash_of(frames, config.lpips_net, encoder.task),
        metrics=metrics,
        higher_is_better={**HIGHER_IS_BETTER, "psnr_gain": True, "lpips_gain": True, "taught_gain": True},
        frames=len(frames),
        clips=len(set(frames.clips)),
        created=utc_now(),
    )
    return evaluation, as_markdown(rows)


LABELS = {"input": "input as it is", "frame_encoder": "FrEN, untaught", "restored": "taught"}
COLUMNS = {
    "psnr": "PSNR, dB", "psnr_face": "PSNR face, dB", "ssim": "SSIM", "lpips": "LPIPS", "lpips_face": "LPIPS face",
    "identity": "identity", "identity_distance": "distance by a second net",
    "landmark_error": "landmarks, % of eyes",
}  # fmt: skip


def as_markdown(rows: dict[str, dict[str, float]]) -> list[str]:
    """One line per row."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "--:|" * len(COLUMNS)]
    for name, row in rows.items():
        cells = [f"{row[c]:.2f}" if c.startswith(("psnr", "landmark")) else f"{row[c]:.3f}" for c in COLUMNS]
        lines.append(f"| {LABELS[name]} | " + " | ".join(cells) + " |")
    return lines
