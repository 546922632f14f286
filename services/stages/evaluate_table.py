"""Table 1 from ``params.yaml``: load encoders, judges and clips, and measure them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from datamodules.clips import Prepared
from datamodules.people import Split
from datamodules.spread import spread
from datamodules.types import BadInputError
from modules.encoders.video_vit import KIND as VIDEO
from modules.encoders.video_vit import load_video_encoder
from modules.encoders.vit import load_frame_encoder
from modules.generators.protocol import Generator
from modules.model_folder import load_model
from modules.perception.flow import DenseFlow, FlowConfig
from services.evaluation.frames import HeldOutFrames, consecutive_frames
from services.evaluation.optimise import ChosenNets, optimised_codes
from services.evaluation.reconstruction import EvaluationConfig
from services.evaluation.table import VideoTable
from services.evaluation.video import (
    LEAST,
    CodeSource,
    VideoEncoding,
    VideoEvaluationConfig,
    VideoJudges,
    VideoMeter,
    mean_face,
    smoothed,
    streamed,
)
from services.pipeline.models import Judges
from services.precise_generator import exact_generator
from services.progress import Cancelled, Report, never, silent
from services.settings import ROOT, Params


@dataclass(frozen=True)
class TableParts:
    """What a table needs beside its rows."""

    generator: Generator
    clips: tuple[HeldOutFrames, ...]
    judges: VideoJudges
    config: EvaluationConfig
    device: str

    def meter(self, judge_every: int, report: Report = silent, cancelled: Cancelled = never) -> VideoMeter:
        """What measures rows."""
        return VideoMeter(
            self.generator, self.judges, judge_every, self.config.batch, self.device, report, cancelled
        )

    def table(
        self,
        clips: tuple[HeldOutFrames, ...],
        sources: Sequence[CodeSource],
        judge_every: int,
        report: Report = silent,
        cancelled: Cancelled = never,
    ) -> VideoTable:
        """Measure rows on clips."""
        rows = self.meter(judge_every, report, cancelled).measure(clips, sources)
        return VideoTable(rows, clips, judge_every, self.judges.features_name, self.generator.sha256)


def load_table_parts(params: Params, prepared: Prepared, split: Split = "test") -> TableParts:
    """Generator, judges and the consecutive frames of a split. Raises ``BadInputError``."""
    video = params.section("evaluation", EvaluationConfig).video
    return table_parts(params, consecutive_frames(prepared, video.frames_per_clip, LEAST, split))


def table_parts(params: Params, clips: tuple[HeldOutFrames, ...]) -> TableParts:
    """Generator and judges for clips of frames that follow each other. Raises ``BadInputError``."""
    from modules.losses.perceptual import load_lpips
    from modules.metrics.distribution import VggFeatures
    from modules.perception.detection import DetectionConfig
    from modules.perception.inception import load_fid_inception
    from modules.perception.second_landmarks import load_second_landmarks

    device, generator = params.runtime.torch_device(), exact_generator(params)
    config = params.section("evaluation", EvaluationConfig)
    judges = Judges(params.section("detection", DetectionConfig), config.lpips_net, device)
    inception = config.video.inception
    features: nn.Module = (
        load_fid_inception(ROOT / inception, device) if inception else VggFeatures(load_lpips("vgg", device))
    )
    flow = DenseFlow(params.section("flow", FlowConfig))
    asked = VideoJudges(
        judges.mesh, load_second_landmarks(), judges.second_identity, judges.perceptual, features,
        "inception" if inception else "vgg", flow,
    )  # fmt: skip
    return TableParts(generator, clips, asked, config, device)


def evaluate_table(
    params: Params,
    prepared: Prepared,
    split: Split = "test",
    frame_encoder: Path | None = None,
    optimise: bool = False,
    report: Report = silent,
    cancelled: Cancelled = never,
) -> tuple[list[VideoTable], list[str]]:
    """Table 1, and notes on what is not in it.

    ``frame_encoder`` takes the place of the first of ``evaluation.video.encoders``. ``optimise`` adds a second
    table, on fewer frames, with every frame optimised for itself: hours on a CPU, kept where it was stopped.
    """
    parts = load_table_parts(params, prepared, split)
    video = parts.config.video
    folders, missing = encoder_folders(video, frame_encoder)
    sources, notes = encoder_rows(parts, folders)
    notes += [f"No row {label}: {folder} is not there." for label, folder in missing.items()]
    tables = [parts.table(parts.clips, sources, video.judge_every, report, cancelled)]
    if optimise:
        chosen = [parts.clips[i] for i in spread(len(parts.clips), video.optimised_clips)]
        few = tuple(shortened(clip, max(LEAST, video.optimised_frames)) for clip in chosen)
        rows = [*sources, optimised(params, parts)]
        tables.append(parts.table(few, rows, 1, report, cancelled))
        notes.append("Distances of distributions of so few frames say little; the likeness of the frames does.")
    return tables, notes


def encoder_folders(
    video: VideoEvaluationConfig, frame_encoder: Path | None = None
) -> tuple[dict[str, Path], dict[str, str]]:
    """Model folders by the label of their row, and those that are not there as ``params.yaml`` names them."""
    named = {label: ROOT / folder for label, folder in video.encoders.items()}
    if frame_encoder is not None and named:
        named[next(iter(named))] = frame_encoder
    there = {label: folder for label, folder in named.items() if folder.is_dir()}
    return there, {label: video.encoders[label] for label in named if label not in there}


def encoder_rows(parts: TableParts, folders: Mapping[str, Path]) -> tuple[list[CodeSource], list[str]]:
    """Mean face, each encoder, and the first of them with its fine codes smoothed; notes on what does not fit.

    The first folder holds a frame encoder; it encodes the first frames of the video encoders too.
    """
    notes, encoders, first = [], [], None
    for label, folder in folders.items():
        try:
            encoder: nn.Module
            if load_model(folder).config["kind"] == VIDEO and first is not None:
                encoder = load_video_encoder(folder, first, parts.generator.sha256)
            else:
                encoder = load_frame_encoder(folder, parts.generator.sha256)
                first = first or encoder
        except BadInputError as error:
            if first is None:
                raise
            notes.append(f"No row {label}: {error}.")
        else:
            name = label.lower().replace(" ", "_")
            encoders.append(streamed(name, label, encoder.to(parts.device), parts.device))
    rows = [mean_face(parts.generator, parts.device), *encoders]
    if encoders and parts.config.video.smoothing_sigma:
        rows.insert(2, smoothed(encoders[0], parts.config.video.smoothing_sigma, parts.generator))
    return rows, notes


def optimised(params: Params, parts: TableParts) -> CodeSource:
    """Every frame optimised for itself from the mean face, the paper's Image2StyleGAN row; results are kept."""
    from modules.losses.perceptual import load_lpips
    from modules.perception.identity import load_identity

    config, kept = parts.config, params.runtime.state / "evaluation"
    nets = ChosenNets(
        load_lpips(config.optimum.lpips_net, parts.device), load_identity(parts.device, parts.judges.mesh)
    )
    start = parts.generator.w_mean.to(parts.device).expand(1, parts.generator.num_ws, -1)

    def encode(clip: HeldOutFrames) -> VideoEncoding:
        ws, seconds = optimised_codes(
            clip, range(len(clip)), start.expand(len(clip), -1, -1).contiguous(), "mean", parts.generator,
            nets, config.optimum, config.precision, kept, config.optimise_batch,
        )  # fmt: skip
        return VideoEncoding(ws, tuple(s for s in seconds if math.isfinite(s)))

    return CodeSource("optimised", f"W+ per frame, {config.optimum.steps} steps", encode)


def shortened(clip: HeldOutFrames, frames: int) -> HeldOutFrames:
    """The first frames of a clip."""
    if len(clip) < frames:
        raise BadInputError(f"{clip.clips[0]} has {len(clip)} frames, {frames} are asked for; ask for fewer")
    return replace(clip, pixels=clip.pixels[:frames], clips=clip.clips[:frames], people=clip.people[:frames])
